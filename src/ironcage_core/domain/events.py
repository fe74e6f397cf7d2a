"""The feed: what observers are told, written with the change itself and numbered in commit order."""

from collections.abc import Mapping
from typing import Literal, NamedTuple

from ironcage_core.domain.instants import Instant

FeedType = Literal["STATE_UPDATE", "AGENT_EVENT", "COST_ALERT"]


class FeedEvent(NamedTuple):
    """One event; a column each, in order. `name` is the state, the event or nothing, by `type`.

    `seq` is given by the store. Amounts in `data` are micro-USD under `*_micros` keys. No secret ever.
    """

    seq: int | None
    id: str
    at: Instant
    type: FeedType
    agent_id: str | None
    name: str | None
    severity: str | None
    data: Mapping[str, object]
