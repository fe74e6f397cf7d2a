"""Users: what admins do with accounts. Source: contract identity.md 4.

Passwords are hashed off the event loop and outside any unit of work: read, hash, then write with the state checked
again.
"""

from collections.abc import Callable
from typing import Final, TypeVar, get_args

from litestar.response.base import ASGIResponse

from ironcage_core.domain.access import Principal
from ironcage_core.domain.instants import Instant
from ironcage_core.domain.permissions import ROLE_PERMISSIONS
from ironcage_core.domain.users import ShownStatus, User, password_problem
from ironcage_core.errors.access import AccountDisabledCredentialError
from ironcage_core.errors.tree import ForbiddenError, ValidationError
from ironcage_core.ports.lists import Page, UserFilter, UserOrder
from ironcage_core.ports.storage import UnitOfWork
from ironcage_core.services.accounts import add_user, user_problems
from ironcage_core.services.user_changes import (
    activate_user,
    change_role,
    check_not_deleted,
    check_not_last_admin,
    other_user,
    reset_password,
    revoke_sessions,
    suspend_user,
)
from ironcage_core.services.user_removal import RemovedUser, delete_user
from ironcage_core.services.users import ROLES, any_user, visible_user
from ironcage_http.calls import Call, answer, listed
from ironcage_http.hashing import hashed
from ironcage_http.queries import Query
from ironcage_http.routes.user_views import (
    AccountView,
    DeletedAccountView,
    NewUserBody,
    PermissionsView,
    ResetBody,
    RevokedSessionsView,
    RoleBody,
    Seen,
    SuspendBody,
    account_answer,
    moved_agent_view,
    shown,
)
from ironcage_http.routing import PAGED, Route

T = TypeVar("T")

STATUSES: Final[tuple[ShownStatus, ...]] = get_args(ShownStatus)
ORDERS: Final[tuple[UserOrder, ...]] = get_args(UserOrder)


async def create(call: Call) -> ASGIResponse:
    """Add a user, who can log in at once."""
    who = call.user()
    await call.glance(who)
    wish = call.read(NewUserBody, is_strict=True).value()
    role = "user" if wish.role is None else wish.role
    _check_new(call, wish, role)
    password_hash = await hashed(call.wiring.hasher, wish.password)

    def run(uow: UnitOfWork) -> Seen:
        actor = who(uow).actor
        user = add_user(
            uow,
            username=wish.username,
            email=wish.email,
            role=role,
            name=wish.name,
            password_hash=password_hash,
            force_password_change=bool(wish.force_password_change),
            actor=actor,
        )
        return user, uow.now

    user, now = await call.write(run)
    return account_answer((user, now), status=201, headers={"Location": f"/api/v1/users/{user.id}"})


def _check_new(call: Call, wish: NewUserBody, role: str) -> None:
    problems = user_problems(wish.username, wish.email, role, wish.name)
    username, email = wish.username.strip(), wish.email.strip()
    if problem := _password_problem(call, wish.password, username, email):
        problems["password"] = problem
    if problems:
        raise ValidationError(problems)


def _password_problem(call: Call, password: str, username: str, email: str) -> str | None:
    shortest = call.wiring.settings.password_min_length
    return password_problem(password, username=username, email=email, shortest=shortest)


async def list_all(call: Call) -> ASGIResponse:
    """List users."""
    who = call.user()
    query = Query(call.query)
    paging = query.paging()
    order, descending = query.sort(ORDERS, default="-created_at")
    role, is_active = query.choice("role", tuple(ROLES)), query.flag("is_active")
    status, search = query.choice("status", STATUSES), query.text("search", longest=255)
    include_deleted = bool(query.flag("include_deleted"))

    def run(uow: UnitOfWork) -> tuple[Page[User], Instant]:
        who(uow)
        query.check()
        which = UserFilter(role, is_active, status, search, include_deleted, uow.now)
        return uow.users.page(which, paging, order, descending=descending), uow.now

    page, now = await call.see(run)
    return listed(page, paging, [AccountView(*shown(user, now)) for user in page.rows])


async def get(call: Call) -> ASGIResponse:
    """Show one user."""
    who = call.user()
    return account_answer(await call.see(lambda uow: (visible_user(uow, call.path["user_id"], who(uow)), uow.now)))


async def get_permissions(call: Call) -> ASGIResponse:
    """Show what a user's role allows."""
    who = call.user()
    user = await call.see(lambda uow: visible_user(uow, call.path["user_id"], who(uow)))
    return answer(PermissionsView(user.id, user.role, list(ROLE_PERMISSIONS.get(user.role, ()))))


async def suspend(call: Call) -> ASGIResponse:
    """Shut a user out."""
    body = call.read(SuspendBody, may_be_empty=True)

    def run(uow: UnitOfWork, principal: Principal) -> Seen:
        body.check_syntax()
        user = other_user(uow, call.path["user_id"], principal)
        reason = body.value().reason
        return suspend_user(uow, user.id, reason=reason, principal=principal), uow.now

    return account_answer(await _as_admin(call, run))


async def activate(call: Call) -> ASGIResponse:
    """Let a user in again; whatever the body is, it says nothing."""
    who = call.user()
    return account_answer(
        await call.write(lambda uow: (activate_user(uow, call.path["user_id"], actor=who(uow).actor), uow.now))
    )


async def delete(call: Call) -> ASGIResponse:
    """Delete a user, whose agents become the caller's."""

    def run(uow: UnitOfWork, principal: Principal) -> tuple[RemovedUser, Instant]:
        return delete_user(uow, call.path["user_id"], principal=principal), uow.now

    removed, now = await _as_admin(call, run)
    view = DeletedAccountView(
        *shown(removed.user, now),
        agents_affected=[moved_agent_view(moved) for moved in removed.agents],
        agents_count=len(removed.agents),
        budget_requests_cancelled=removed.budget_requests_cancelled,
        api_tokens_revoked=removed.api_tokens_revoked,
    )
    return answer(view)


async def set_role(call: Call) -> ASGIResponse:
    """Give a user another role."""
    body = call.read(RoleBody, is_strict=True)

    def run(uow: UnitOfWork, principal: Principal) -> Seen:
        body.check_syntax()
        user = other_user(uow, call.path["user_id"], principal)
        return change_role(uow, user.id, body.value().role, principal=principal), uow.now

    return account_answer(await _as_admin(call, run))


async def reset(call: Call) -> ASGIResponse:
    """Give a user a new password without the old one."""
    who = call.user()
    body = call.read(ResetBody, is_strict=True)

    def check(uow: UnitOfWork) -> ResetBody:
        who(uow)
        body.check_syntax()
        user = any_user(uow, call.path["user_id"])
        wish = body.value()
        if problem := _password_problem(call, wish.new_password, user.username, user.email):
            raise ValidationError({"new_password": problem})
        check_not_deleted(user)
        return wish

    wish = await call.see(check)
    new_hash = await hashed(call.wiring.hasher, wish.new_password)

    def run(uow: UnitOfWork) -> Seen:
        principal = who(uow)
        user = any_user(uow, call.path["user_id"])
        spared = principal.session_id if user.id == principal.user_id else None
        force = wish.force_change is not False
        reset = reset_password(
            uow, user.id, new_hash=new_hash, force_change=force, spared=spared, actor=principal.actor
        )
        return reset, uow.now

    return account_answer(await call.write(run))


async def end_all_sessions(call: Call) -> ASGIResponse:
    """End all sessions of a user."""
    who = call.user()
    ended = await call.write(lambda uow: revoke_sessions(uow, call.path["user_id"], actor=who(uow).actor))
    return answer(RevokedSessionsView(ended))


async def _as_admin(call: Call, use_case: Callable[[UnitOfWork, Principal], T]) -> T:
    """Change another account.

    The caller may do so when the request comes. Who lost that right before its turn, and to the very user whom the
    request would take away, is told that this is the last admin.
    """
    who = call.user()
    await call.glance(who)

    def run(uow: UnitOfWork) -> T:
        try:
            principal = who(uow)
        except (AccountDisabledCredentialError, ForbiddenError):
            check_not_last_admin(uow, any_user(uow, call.path["user_id"]))
            raise
        return use_case(uow, principal)

    return await call.write(run)


_STATE_CODES: Final = ("USER_NOT_FOUND", "SELF_MODIFICATION_FORBIDDEN", "USER_DELETED", "LAST_ADMIN")

ROUTES: Final[tuple[Route, ...]] = (
    Route(
        "POST", "/users", create, "Add a user", body=NewUserBody, answer=AccountView, status=201, action="users.write",
        codes=("DUPLICATE_USERNAME", "DUPLICATE_EMAIL"),
        example={"username": "ann", "email": "ann@example.org", "password": "...", "role": "user"},
    ),
    Route("GET", "/users", list_all, "List users", answer=AccountView, action="users.list",
        query=(*PAGED, "role", "is_active", "status", "search", "include_deleted")),
    Route(
        "GET", "/users/{user_id}", get, "Show a user", answer=AccountView, action="users.get",
        codes=("USER_NOT_FOUND", "FORBIDDEN"),
    ),
    Route(
        "GET", "/users/{user_id}/permissions", get_permissions, "Show what a user's role allows",
        answer=PermissionsView, action="users.get", codes=("USER_NOT_FOUND", "FORBIDDEN"),
    ),
    Route(
        "PUT", "/users/{user_id}/suspend", suspend, "Shut a user out", body=SuspendBody, answer=AccountView,
        action="users.write", codes=(*_STATE_CODES, "USER_ALREADY_SUSPENDED"), example={"reason": "left the firm"},
    ),
    Route(
        "PUT", "/users/{user_id}/activate", activate, "Let a suspended or locked user in again", answer=AccountView,
        action="users.write", codes=("USER_NOT_FOUND", "USER_DELETED", "USER_ALREADY_ACTIVE"),
    ),
    Route(
        "DELETE", "/users/{user_id}", delete, "Delete a user, whose agents become the caller's",
        answer=DeletedAccountView, action="users.write", codes=_STATE_CODES,
    ),
    Route(
        "PUT", "/users/{user_id}/role", set_role, "Give a user another role", body=RoleBody, answer=AccountView,
        action="users.write", codes=_STATE_CODES, example={"role": "viewer"},
    ),
    Route(
        "POST", "/users/{user_id}/reset-password", reset, "Give a user a new password", body=ResetBody,
        answer=AccountView, action="users.write", codes=("USER_NOT_FOUND", "USER_DELETED"),
        example={"new_password": "...", "force_change": True},
    ),
    Route(
        "POST", "/users/{user_id}/revoke-sessions", end_all_sessions, "End all sessions of a user",
        answer=RevokedSessionsView, action="users.write", codes=("USER_NOT_FOUND", "USER_DELETED"),
    ),
)  # fmt: skip
