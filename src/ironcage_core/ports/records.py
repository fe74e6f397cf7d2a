"""The collections around the books: agents, limits, provider keys, IC tokens, feed.

`find_x` gives None where there is nothing.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

from ironcage_core.domain.agents import Agent
from ironcage_core.domain.events import FeedEvent, FeedType
from ironcage_core.domain.feed_audience import Belonging
from ironcage_core.domain.ic_tokens import IcTokenRecord
from ironcage_core.domain.instants import Instant
from ironcage_core.domain.projects import Project, ProjectKey
from ironcage_core.domain.providers import ProviderKey
from ironcage_core.domain.users import UsageLimit
from ironcage_core.ports.lists import KeyFilter, KeyOrder, LimitFilter, Page, Paging, ProjectFilter, ProjectOrder
from ironcage_core.ports.totals import ProjectTotals


class Agents(Protocol):
    """All agents, deleted ones included."""

    def find(self, agent_id: str) -> Agent | None:
        """Return the agent with this id."""
        ...

    def put(self, agent: Agent) -> None:
        """Store the agent, new or changed."""
        ...

    def pii_detections(
        self, agent_id: str | None = None, owner_id: str | None = None, project_id: str | None = None
    ) -> int:
        """Return how often private data was found in the calls of these agents, deleted ones included; None is any."""
        ...

    def live_of(self, owner_id: str) -> Sequence[Agent]:
        """Return the agents of an owner that were not deleted, oldest first."""
        ...

    def names(self, agent_ids: Collection[str]) -> Mapping[str, str]:
        """Return the name of each of these agents, the last one of a deleted agent."""
        ...


class Limits(Protocol):
    """Usage limits of users."""

    def find(self, limit_id: str) -> UsageLimit | None:
        """Return the limit with this id."""
        ...

    def find_of(self, user_id: str, project_id: str | None = None) -> UsageLimit | None:
        """Return the user's limit in all, or in one project."""
        ...

    def page(self, which: LimitFilter, paging: Paging) -> Page[UsageLimit]:
        """Return limits, newest first; ties by id, descending."""
        ...

    def remove(self, limit_id: str) -> None:
        """Remove the limit."""
        ...

    def put(self, limit: UsageLimit) -> None:
        """Store the limit, new or changed."""
        ...

    def delete_of_user(self, user_id: str) -> None:
        """Remove the user's limits, in all and in projects."""
        ...

    def delete_of_project(self, project_id: str) -> None:
        """Remove all users' limits in this project."""
        ...


class Projects(Protocol):
    """Projects and their provider keys."""

    def find(self, project_id: str) -> Project | None:
        """Return the project with this id."""
        ...

    def find_by_name(self, name: str) -> Project | None:
        """Return the project with this name, in whatever case."""
        ...

    def put(self, project: Project) -> None:
        """Store the project, new or changed."""
        ...

    def remove(self, project_id: str) -> None:
        """Remove the project, which has no keys any more."""
        ...

    def page(
        self, which: ProjectFilter, paging: Paging, order: ProjectOrder = "created_at", *, descending: bool = True
    ) -> Page[Project]:
        """Return projects, newest first unless told otherwise; ties by id, descending."""
        ...

    def totals(self, project_id: str, owner_id: str | None = None) -> ProjectTotals:
        """Return counts and sums over the project's live agents, or over those of one owner."""
        ...

    def owned_by(self, user_id: str) -> Sequence[Project]:
        """Return the projects of an owner."""
        ...

    def keys_of(self, project_id: str) -> Sequence[ProjectKey]:
        """Return the project's provider keys, the latest assigned first."""
        ...

    def projects_of_key(self, key_id: str) -> Sequence[str]:
        """Return the ids of the projects that have this provider key."""
        ...

    def assign(self, key: ProjectKey) -> None:
        """Give a project a provider key, in the place of the one it has of that kind."""
        ...

    def unassign(self, project_id: str, provider: str) -> None:
        """Take the project's provider key of a kind away."""
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

    def counts(self) -> Mapping[str, tuple[int, int]]:
        """Return (maintained, counted) numbers of agents of each key; for verification."""
        ...

    def page(
        self, which: KeyFilter, paging: Paging, order: KeyOrder = "created_at", *, descending: bool = True
    ) -> Page[ProviderKey]:
        """Return keys, newest first unless told otherwise; ties by id, descending."""
        ...

    def all(self) -> Sequence[ProviderKey]:
        """Return every key, by id."""
        ...

    def agents_of(self, key_id: str) -> Sequence[str]:
        """Return the ids of the agents that this key is assigned to."""
        ...

    def remove(self, key_id: str) -> None:
        """Remove the key with its ciphertext; nothing is assigned it any more."""
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

    def tail(self, seq: int, limit: int) -> Sequence[tuple[FeedEvent, Belonging | None]]:
        """Return as `after`, each with where its agent belongs now; None if it has none."""
        ...

    def newest(self) -> tuple[int, str] | None:
        """Return number and id of the newest event; None if there is none."""
        ...

    def seq_of(self, event_id: str) -> int | None:
        """Return the number of an event; None if it is not there, or no longer."""
        ...

    def purge(self, before: Instant, keep: int, limit: int) -> int:
        """Remove what need not be kept, oldest first, and return how many events went; the newest always stays.

        Args:
            before: Events older than this go.
            keep: At most so many stay.
            limit: At most how many go at once.
        """
        ...
