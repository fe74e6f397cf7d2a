"""Feed requests: what a client may say on the socket, as the description of the interface shows it.

`type` is read in any case, and in the first message it may be missing. Source: contract analytics.md 6.1 and 6.3.
"""

from typing import Annotated, Literal

import msgspec

from ironcage_core.domain.alerts import Severity
from ironcage_core.domain.feed_filters import MAX_NAMES
from ironcage_http.feed_catalogue import Unset

_Names = msgspec.Meta(max_length=MAX_NAMES)
_EventId = Annotated[str, msgspec.Meta(pattern="^evt_[0-9a-f]{32}$")]


class Filters(msgspec.Struct, frozen=True):
    """What to be told of what one may see. What is left out is not narrowed.

    `events` without `types` asks for those events alone; `min_severity` is about alerts alone.
    """

    types: Annotated[list[Literal["STATE_UPDATE", "AGENT_EVENT", "COST_ALERT", "HEARTBEAT"]], _Names] | Unset = (
        msgspec.UNSET
    )
    events: Annotated[list[str], _Names] | Unset = msgspec.UNSET
    agent_ids: Annotated[list[str], _Names] | Unset = msgspec.UNSET
    min_severity: Severity | Unset = msgspec.UNSET


class Auth(msgspec.Struct, frozen=True, tag_field="type", tag="AUTH"):
    """Say who listens, by one of the three; later, extend the connection with a fresh token of the same principal."""

    token: str | Unset = msgspec.UNSET
    access_token: str | Unset = msgspec.UNSET
    ic_token: str | Unset = msgspec.UNSET
    last_event_id: _EventId | Unset = msgspec.UNSET
    filters: Filters | Unset = msgspec.UNSET


class Subscribe(msgspec.Struct, frozen=True, tag_field="type", tag="SUBSCRIBE"):
    """Replace the filter; without one everything visible is told."""

    filters: Filters | Unset = msgspec.UNSET


class Unsubscribe(msgspec.Struct, frozen=True, tag_field="type", tag="UNSUBSCRIBE"):
    """Be told nothing but heartbeats."""


class Ping(msgspec.Struct, frozen=True, tag_field="type", tag="PING"):
    """Ask for a PONG, which brings the id back."""

    id: str | int | Unset = msgspec.UNSET


class Resume(msgspec.Struct, frozen=True, tag_field="type", tag="RESUME"):
    """Be told all events after one that is known."""

    last_event_id: _EventId


REQUESTS = (Auth, Subscribe, Unsubscribe, Ping, Resume)
