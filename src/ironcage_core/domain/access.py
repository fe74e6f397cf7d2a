"""Access: who calls, proven and alive, from where, and how far that reaches."""

from dataclasses import dataclass, replace
from typing import Final

from ironcage_core.domain.api_tokens import EVERY_SCOPE, ApiToken
from ironcage_core.domain.audit import Actor
from ironcage_core.domain.permissions import ROLE_PERMISSIONS, RULES, Permission, Reach
from ironcage_core.domain.users import Role, User
from ironcage_core.errors.access import (
    AgentTokenForbiddenError,
    InsufficientScopeError,
    PasswordChangeRequiredError,
    SessionRequiredError,
)
from ironcage_core.errors.tree import ForbiddenError


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a request came from, as the audit log remembers it."""

    ip_address: str | None = None
    user_agent: str | None = None
    request_id: str | None = None


NOWHERE: Final = Origin()


@dataclass(frozen=True, slots=True)
class Principal:
    """A user whose session or API token was proven and is alive in this unit of work; role and flag are the store's.

    `name` falls back to the username. Either `session_id` or `token` is set. `reach` says whose things the action at
    hand reaches; an admin's default is everybody's.
    """

    user_id: str
    username: str
    email: str
    name: str
    role: Role
    session_id: str | None
    must_change_password: bool
    reach: Reach
    token: ApiToken | None = None
    origin: Origin = NOWHERE

    @property
    def actor(self) -> Actor:
        """This user, as the audit log remembers it."""
        return user_actor(self.user_id, self.role, self.origin, token_id=None if self.token is None else self.token.id)

    @property
    def permissions(self) -> tuple[Permission, ...]:
        """What the role allows and the token, if it is one, does not narrow away."""
        of_role = ROLE_PERMISSIONS.get(self.role, ())
        return tuple(permission for permission in of_role if self.has_scope(permission))

    @property
    def bound_agent(self) -> str | None:
        """The one agent that the token speaks for, if it is bound to one."""
        return None if self.token is None else self.token.agent_id

    @property
    def bound_project(self) -> str | None:
        """The project whose things the token reaches, if it is bound to one."""
        return None if self.token is None else self.token.project_id

    def has_scope(self, permission: Permission) -> bool:
        """Tell whether the credential carries a permission, whatever the role says."""
        if self.token is None:
            return True
        scopes = self.token.scopes.split()
        return EVERY_SCOPE in scopes or permission in scopes


def principal_of(
    user: User, session_id: str | None = None, origin: Origin = NOWHERE, *, token: ApiToken | None = None
) -> Principal:
    """Return the principal of a user's session or API token."""
    return Principal(
        user_id=user.id,
        username=user.username,
        email=user.email,
        name=user.shown_name,
        role=user.role,
        session_id=session_id,
        # A program cannot change a password; the flag is for people.
        must_change_password=token is None and bool(user.force_password_change),
        reach="all" if user.role == "admin" else "own",
        token=token,
        origin=origin,
    )


def user_actor(user_id: str, role: Role, origin: Origin, *, token_id: str | None = None) -> Actor:
    """Return a user as the audit log remembers it."""
    return Actor(
        "user" if token_id is None else "api_token",
        user_id,
        role=role,
        token_id=token_id,
        ip_address=origin.ip_address,
        user_agent=origin.user_agent,
        request_id=origin.request_id,
    )


def check_password(principal: Principal, action: str) -> None:
    """Refuse a session whose password must be changed first.

    Raises:
        PasswordChangeRequiredError: The action is not one of those that are open to it.
    """
    if principal.must_change_password and not RULES[action].may_owe_password:
        raise PasswordChangeRequiredError("The password must be changed first")


def judged(principal: Principal, action: str) -> Principal:
    """Return the principal with the reach that an action gives it.

    Raises:
        AgentTokenForbiddenError: An API token that is bound to an agent, and the action is not for those.
        ForbiddenError: The role is too low, or the token is bound to a project and the action is of none.
        SessionRequiredError: The action is for people, and this is an API token.
        InsufficientScopeError: The role would do, the token's scopes do not.

    Source: contract identity.md 5.
    """
    rule = RULES[action]
    if principal.bound_agent is not None and not rule.takes_agent_tokens:
        raise AgentTokenForbiddenError
    reach = rule.reach(principal.role)
    if reach == "none":
        raise ForbiddenError("Your role does not allow this")
    if principal.token is not None and not rule.takes_tokens:
        raise SessionRequiredError("This needs a session; an API token will not do")
    if principal.bound_project is not None and not rule.takes_project_tokens:
        raise ForbiddenError("The token is bound to a project, and this is of none")
    if rule.permission is not None and not principal.has_scope(rule.permission):
        raise InsufficientScopeError("The token lacks a scope", required=rule.permission)
    return principal if reach == principal.reach else replace(principal, reach=reach)


@dataclass(frozen=True, slots=True)
class Target:
    """Whose a thing is, and of which agent and project; None where it is of none."""

    owner_id: str | None = None
    agent_id: str | None = None
    project_id: str | None = None


def reaches(principal: Principal, target: Target) -> bool:
    """Tell whether a thing is within the principal's reach and within the bindings of its token."""
    if principal.bound_agent not in {None, target.agent_id}:
        return False
    if principal.bound_project is not None and target.project_id not in {None, principal.bound_project}:
        return False
    return principal.reach == "all" or target.owner_id == principal.user_id
