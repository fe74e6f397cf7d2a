"""The filters that every question about usage takes, as the routes name them."""

from typing import Final

QUESTIONS: Final = (
    "agent_id", "project_id", "user_id", "provider", "provider_id", "model", "period", "start_date", "end_date",
)  # fmt: skip
"""Which calls are meant, and of what time; a period such as `last-7-days` or `this-month`, or dates."""
