"""The collections of identity: users, their sessions and API tokens, failed logins, and the audit log.

`find_x` gives None where there is nothing.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

from ironcage_core.domain.api_tokens import ApiToken, TokenUse
from ironcage_core.domain.audit import AuditNote, AuditRow, Chain
from ironcage_core.domain.instants import Instant
from ironcage_core.domain.money import Micros
from ironcage_core.domain.sessions import FoundRefresh, Session
from ironcage_core.domain.users import UnknownLogin, User
from ironcage_core.ports.lists import (
    ApiTokenFilter,
    ApiTokenOrder,
    AuditFilter,
    Page,
    Paging,
    TokenFilter,
    UserFilter,
    UserOrder,
)
from ironcage_core.ports.totals import TokenEntry


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

    def is_empty(self) -> bool:
        """Tell whether there was never any user."""
        ...

    def put(self, user: User) -> None:
        """Store the user, new or changed."""
        ...

    def page(
        self, which: UserFilter, paging: Paging, order: UserOrder = "created_at", *, descending: bool = True
    ) -> Page[User]:
        """Return users, newest first unless told otherwise; ties by id, descending."""
        ...

    def count_active_admins(self) -> int:
        """Return how many admins are neither suspended nor deleted."""
        ...


class UnknownLogins(Protocol):
    """Failed logins with identifiers that no user has: the newest few thousand."""

    def find(self, identifier_hash: str) -> UnknownLogin | None:
        """Return what is remembered of an identifier."""
        ...

    def put(self, login: UnknownLogin) -> None:
        """Remember it; the longest unused one is forgotten where there are too many."""
        ...


class Sessions(Protocol):
    """Sessions of users, ended ones included, and every refresh token they ever had, by its hash."""

    def find(self, session_id: str) -> Session | None:
        """Return the session with this id."""
        ...

    def find_by_refresh_hash(self, refresh_hash: str) -> FoundRefresh | None:
        """Return the session that has or had the refresh token with this hash, and the token's generation."""
        ...

    def of_user(self, user_id: str) -> Sequence[Session]:
        """Return the user's sessions that are not revoked, oldest first."""
        ...

    def remove_ended(self, before: Instant, limit: int) -> int:
        """Remove at most `limit` sessions whose time was over before an instant, with their refresh tokens."""
        ...

    def put(self, session: Session) -> None:
        """Store the session, new or changed; a refresh hash that it replaces counts as exchanged now."""
        ...


class ApiTokens(Protocol):
    """API tokens, ended ones included."""

    def find(self, token_id: str) -> ApiToken | None:
        """Return the token with this id."""
        ...

    def find_by_hash(self, value_hash: str) -> ApiToken | None:
        """Return the token whose value has this SHA-256."""
        ...

    def unended_of(self, user_id: str) -> Sequence[ApiToken]:
        """Return the user's tokens that are neither revoked nor rotated, oldest first; expired ones included."""
        ...

    def unended_of_agent(self, agent_id: str) -> Sequence[ApiToken]:
        """Return the tokens bound to the agent that are neither revoked nor rotated, oldest first."""
        ...

    def put(self, token: ApiToken) -> None:
        """Store the token, new or changed."""
        ...

    def page(
        self, which: ApiTokenFilter, paging: Paging, order: ApiTokenOrder = "created_at", *, descending: bool = True
    ) -> Page[ApiToken]:
        """Return tokens, newest first unless told otherwise; ties by id, descending."""
        ...

    def page_of_all_kinds(self, which: TokenFilter, paging: Paging) -> Page[TokenEntry]:
        """Return API tokens and IC tokens together, newest first; ties by id, descending."""
        ...


class TokenUsage(Protocol):
    """What API tokens have used, by lineage."""

    def add_requests(self, lineage: str, at: Instant, requests: int) -> None:
        """Count requests made at about this time."""
        ...

    def add_calls(self, lineage: str, at: Instant, *, tokens: int, cost: Micros) -> None:
        """Add LLM tokens and cost in micro-USD."""
        ...

    def of(self, lineage: str, now: Instant) -> TokenUse:
        """Return what is stored of a lineage's use."""
        ...

    def forget_minutes(self, before: Instant) -> None:
        """Drop the counts by minute from before an instant; those by day stay."""
        ...


class AuditLog(Protocol):
    """The hash-chained audit log."""

    def append(self, note: AuditNote) -> None:
        """Remember a note; the store links it into its chain."""
        ...

    def find(self, row_id: str) -> AuditRow | None:
        """Return the row with this id."""
        ...

    def page(self, which: AuditFilter, paging: Paging, *, descending: bool = True) -> Page[AuditRow]:
        """Return rows, newest first unless told otherwise, with their exact number."""
        ...

    def prune(self, chain: Chain, before: Instant, limit: int) -> int:
        """Remove at most `limit` of the chain's oldest rows from before an instant; return how many went."""
        ...

    def anchors(self) -> Mapping[Chain, str]:
        """Return the hash of the last pruned row of each chain that was ever pruned."""
        ...

    def counts(self) -> Mapping[Chain, int]:
        """Return the maintained number of rows of each chain."""
        ...

    def rows(self) -> Iterator[AuditRow]:
        """Yield every row in the order of writing."""
        ...
