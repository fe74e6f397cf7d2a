"""Calls that an event tells of, and no report yet."""

from ironcage_core.domain.call_events import COMPLETED, CallEvent
from ironcage_core.domain.instants import Instant
from ironcage_core.services.ingestion import ingest
from tests.support.world import TestAgent


def tell_of_call(
    agent: TestAgent, lease_id: str | None, request_id: str, cost: int, *, occurred_at: Instant | None = None
) -> None:
    """Take in the event of a call; a report of the same `request_id` settles it."""
    at = agent.world.clock.instant if occurred_at is None else occurred_at
    event = CallEvent(
        f"event of {request_id}", COMPLETED, "gpt-test", "openai", at, 60, 40, cost,
        request_id=request_id, lease_id=lease_id,
    )  # fmt: skip
    (told,) = agent.call(ingest, [event], admit=lambda _: None, key_days=None)
    assert told.status == "accepted"
