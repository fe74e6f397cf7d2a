"""Users: who owns agents, who may log in, and whose monthly cap brakes their agents' grants.

A password is what was typed, character for character: it is never trimmed or normalised.
"""

from typing import Final, Literal, NamedTuple

from ironcage_core.domain.instants import Instant
from ironcage_core.domain.money import Micros

Role = Literal["admin", "user", "viewer"]
UserStatus = Literal["active", "suspended", "deleted"]
ShownStatus = Literal["active", "locked", "suspended", "deleted"]

SHORTEST_PASSWORD: Final = 8
LONGEST_PASSWORD: Final = 1000
"""Both in characters. Source: contract identity.md 3, "Password policy"."""


class User(NamedTuple):
    """One user; a column each, in order."""

    id: str
    username: str
    email: str
    role: Role
    status: UserStatus
    created_at: Instant
    updated_at: Instant
    name: str | None = None
    password_hash: str | None = None
    force_password_change: int = 0
    last_login_at: Instant | None = None
    suspended_at: Instant | None = None
    suspended_by: str | None = None
    deleted_at: Instant | None = None
    deleted_by: str | None = None
    failed_logins: int = 0
    locked_until: Instant | None = None

    @property
    def shown_name(self) -> str:
        """What other people are told: the name, or the username of one who has none."""
        return self.name or self.username

    def status_at(self, now: Instant) -> ShownStatus:
        """Return the status as people see it: an active user may be locked out of password logins for a while."""
        is_locked = self.status == "active" and self.locked_until is not None and now < self.locked_until
        return "locked" if is_locked else self.status

    def __repr__(self) -> str:
        shown = (f"{key}={value!r}" for key, value in self._asdict().items() if key != "password_hash")
        return f"User({', '.join(shown)})"


class UsageLimit(NamedTuple):
    """What a user's agents may use, in all or in one project; a column each, in order.

    The cost is micro-USD a UTC month.
    """

    id: str
    user_id: str
    max_cost_per_month: Micros | None
    created_at: Instant
    updated_at: Instant
    project_id: str | None = None
    max_tokens_per_day: int | None = None
    max_requests_per_minute: int | None = None


class UnknownLogin(NamedTuple):
    """Failed logins with an identifier that no user has, so that a lock tells nothing; a column each, in order."""

    identifier_hash: str
    failed_logins: int
    locked_until: Instant | None
    last_at: Instant


def password_problem(password: object, *, username: str, email: str, shortest: int = SHORTEST_PASSWORD) -> str | None:
    """Return what is wrong with a new password, or None.

    Args:
        password: Anything; taken as it is.
        username: The user's; not to be the password, in whatever case.
        email: Likewise.
        shortest: Characters; never below 8 by contract.

    Source: contract identity.md 1.5 and 3, "Password policy".
    """
    if not isinstance(password, str):
        return "must be a string"
    if not shortest <= len(password) <= LONGEST_PASSWORD:
        return f"must have {shortest} to {LONGEST_PASSWORD} characters"
    if password.isspace():
        return "may not be all whitespace"
    if "\0" in password:
        return "may not contain NUL"
    if password.casefold() in {username.casefold(), email.casefold()}:
        return "may not be the username or the email"
    return None
