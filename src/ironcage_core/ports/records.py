"""The collections around the books: users, agents, keys, tokens, audit log, feed.

`find_x` gives None where there is nothing.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

from ironcage_core.domain.agents import Agent
from ironcage_core.domain.audit import AuditNote, AuditRow
from ironcage_core.domain.events import FeedEvent, FeedType
from ironcage_core.domain.ic_tokens import IcTokenRecord
from ironcage_core.domain.providers import ProviderKey
from ironcage_core.domain.users import UsageLimit, User


class Agents(Protocol):
    """All agents, deleted ones included."""

    def find(self, agent_id: str) -> Agent | None:
        """Return the agent with this id."""
        ...

    def put(self, agent: Agent) -> None:
        """Store the agent, new or changed."""
        ...


class Limits(Protocol):
    """Usage limits of users."""

    def find_of_user(self, user_id: str) -> UsageLimit | None:
        """Return the user-level limit."""
        ...

    def put(self, limit: UsageLimit) -> None:
        """Store the limit, new or changed."""
        ...


class Users(Protocol):
    """All users, deleted ones included."""

    def find(self, user_id: str) -> User | None:
        """Return the user with this id."""
        ...

    def find_by_username(self, username: str) -> User | None:
        """Return the living user with this username, in whatever case."""
        ...

    def find_by_email(self, email: str) -> User | None:
        """Return the living user with this email, in whatever case."""
        ...

    def put(self, user: User) -> None:
        """Store the user, new or changed."""
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

    def put(self, record: IcTokenRecord) -> None:
        """Store the record, new or changed."""
        ...


class AuditLog(Protocol):
    """The hash-chained audit log."""

    def append(self, note: AuditNote) -> None:
        """Remember a note; the store links it into its chain."""
        ...

    def rows(self) -> Iterator[AuditRow]:
        """Yield every row in the order of writing."""
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
