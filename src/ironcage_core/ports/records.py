"""The collections around the books: agents, limits, provider keys, IC tokens, feed.

`find_x` gives None where there is nothing.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

from ironcage_core.domain.agents import Agent
from ironcage_core.domain.events import FeedEvent, FeedType
from ironcage_core.domain.ic_tokens import IcTokenRecord
from ironcage_core.domain.providers import ProviderKey
from ironcage_core.domain.users import UsageLimit
from ironcage_core.ports.lists import KeyFilter, KeyOrder, Page, Paging


class Agents(Protocol):
    """All agents, deleted ones included."""

    def find(self, agent_id: str) -> Agent | None:
        """Return the agent with this id."""
        ...

    def put(self, agent: Agent) -> None:
        """Store the agent, new or changed."""
        ...

    def live_of(self, owner_id: str) -> Sequence[Agent]:
        """Return the agents of an owner that were not deleted, oldest first."""
        ...


class Limits(Protocol):
    """Usage limits of users."""

    def find_of_user(self, user_id: str) -> UsageLimit | None:
        """Return the user-level limit."""
        ...

    def put(self, limit: UsageLimit) -> None:
        """Store the limit, new or changed."""
        ...

    def delete_of_user(self, user_id: str) -> None:
        """Remove the user-level limit, if there is one."""
        ...


class ProviderKeys(Protocol):
    """Provider keys and their assignment to agents."""

    def find(self, key_id: str) -> ProviderKey | None:
        """Return the key with this id."""
        ...

    def put(self, key: ProviderKey) -> None:
        """Store the key, new or changed."""
        ...

    def assigned_to(self, agent_id: str) -> Sequence[ProviderKey]:
        """Return the agent's keys in their order, disabled ones included."""
        ...

    def assign(self, agent_id: str, key_ids: Sequence[str]) -> None:
        """Replace the agent's ordered list of keys."""
        ...

    def find_by_name(self, name: str) -> ProviderKey | None:
        """Return the key with this name, in whatever case."""
        ...

    def ids_of(self, agent_ids: Sequence[str]) -> Mapping[str, Sequence[str]]:
        """Return the ordered key ids of each of these agents that has any."""
        ...

    def agent_counts(self, key_ids: Sequence[str]) -> Mapping[str, int]:
        """Return how many agents each of these keys is assigned to, if any."""
        ...

    def page(
        self, which: KeyFilter, paging: Paging, order: KeyOrder = "created_at", *, descending: bool = True
    ) -> Page[ProviderKey]:
        """Return keys, newest first unless told otherwise; ties by id, descending."""
        ...

    def all(self) -> Sequence[ProviderKey]:
        """Return every key, by id."""
        ...


class IcTokens(Protocol):
    """IC token records."""

    def find(self, token_id: str) -> IcTokenRecord | None:
        """Return the record with this id."""
        ...

    def find_active_of(self, agent_id: str) -> IcTokenRecord | None:
        """Return the agent's active record; there is at most one."""
        ...

    def active_of(self, agent_ids: Sequence[str]) -> Mapping[str, IcTokenRecord]:
        """Return the active record of each of these agents that has one."""
        ...

    def put(self, record: IcTokenRecord) -> None:
        """Store the record, new or changed."""
        ...


class Feed(Protocol):
    """The durable feed of events."""

    def append(
        self,
        type: FeedType,  # noqa: A002 - the event's own word
        *,
        agent_id: str | None,
        name: str | None,
        data: Mapping[str, object],
        severity: str | None = None,
    ) -> None:
        """Publish an event with the commit."""
        ...

    def after(self, seq: int, limit: int) -> Sequence[FeedEvent]:
        """Return at most `limit` events with a larger `seq`, in order."""
        ...
