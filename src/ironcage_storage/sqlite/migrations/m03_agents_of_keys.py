"""Lets the agents of a provider key be counted without a look at all assignments."""

from typing import Final

STATEMENTS: Final = ("CREATE INDEX agent_providers_key ON agent_providers (provider_key_id, agent_id)",)
