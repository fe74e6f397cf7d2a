"""Access: who calls, proven and alive, and from where."""

from dataclasses import dataclass
from typing import Final

from ironcage_core.domain.audit import Actor
from ironcage_core.domain.users import Role, User


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a request came from, as the audit log remembers it."""

    ip_address: str | None = None
    user_agent: str | None = None
    request_id: str | None = None


NOWHERE: Final = Origin()


@dataclass(frozen=True, slots=True)
class Principal:
    """A user whose session was proven and is alive in this unit of work; role and flag are the store's.

    `name` falls back to the username.
    """

    user_id: str
    username: str
    email: str
    name: str
    role: Role
    session_id: str
    must_change_password: bool
    origin: Origin = NOWHERE

    @property
    def actor(self) -> Actor:
        """This user, as the audit log remembers it."""
        return user_actor(self.user_id, self.role, self.origin)


def principal_of(user: User, session_id: str, origin: Origin = NOWHERE) -> Principal:
    """Return the principal of a user's session."""
    return Principal(
        user_id=user.id,
        username=user.username,
        email=user.email,
        name=user.name or user.username,
        role=user.role,
        session_id=session_id,
        must_change_password=bool(user.force_password_change),
        origin=origin,
    )


def user_actor(user_id: str, role: Role, origin: Origin) -> Actor:
    """Return a user as the audit log remembers it."""
    return Actor(
        "user",
        user_id,
        role=role,
        ip_address=origin.ip_address,
        user_agent=origin.user_agent,
        request_id=origin.request_id,
    )
