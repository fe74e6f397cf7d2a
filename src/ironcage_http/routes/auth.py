"""Sessions over the wire: login, refresh, logout, change of password. Source: contract identity.md 3.

Passwords are hashed in a few threads, never on the event loop and never inside a unit of work: read, hash, then write
with the state checked again. An unknown identifier costs the same hash as a known one.
"""

from functools import lru_cache, partial
from typing import Any, Final

import msgspec
from anyio import CapacityLimiter, to_thread
from litestar.response.base import ASGIResponse

from ironcage_core.domain.access import Principal
from ironcage_core.domain.instants import MS_PER_S
from ironcage_core.domain.sessions import SessionPolicy
from ironcage_core.domain.texts import text_problem
from ironcage_core.domain.users import User, password_problem
from ironcage_core.errors import (
    InvalidCredentialsError,
    InvalidTokenError,
    RefreshReusedError,
    ValidationError,
    WrongTokenTypeError,
)
from ironcage_core.ports.secrecy import PasswordHasher
from ironcage_core.ports.storage import UnitOfWork
from ironcage_core.services.logins import LoggedIn, find_account, note_failed_login, open_session
from ironcage_core.services.sessions import (
    Reused,
    change_password,
    end_session,
    end_session_by_refresh,
    refresh_session,
)
from ironcage_http.calls import Call, answer, nothing
from ironcage_http.errors import AmbiguousCredentialsError, MissingTokenError
from ironcage_http.routing import Route
from ironcage_http.settings import Settings
from ironcage_http.wire import moment

HASHING_THREADS: Final = 2
LONGEST_IDENTIFIER: Final = 255
LONGEST_PASSWORD: Final = 1000
LONGEST_REFRESH: Final = 500


class LoginBody(msgspec.Struct, frozen=True):
    """Who logs in: an email (or a username in its place), and the password."""

    password: str
    email: str | None = None
    username: str | None = None


class RefreshBody(msgspec.Struct, frozen=True):
    """The refresh token; it may come as a bearer token instead."""

    refresh_token: str | None = None


class LogoutBody(msgspec.Struct, frozen=True):
    """Which sessions to end."""

    refresh_token: str | None = None
    all_sessions: bool = False


class PasswordBody(msgspec.Struct, frozen=True):
    """The password that is, and the one that shall be."""

    current_password: str
    new_password: str


class UserView(msgspec.Struct, frozen=True):
    """The user who is logged in."""

    id: str
    email: str
    username: str
    name: str
    role: str


class SessionView(msgspec.Struct, frozen=True):
    """A session's tokens; `user_token` is the access token by another name."""

    user_token: str
    access_token: str
    token_type: str
    expires_in: int
    expires_at: str | None
    refresh_token: str
    refresh_expires_in: int
    refresh_expires_at: str | None
    password_change_required: bool
    user: UserView


async def login(call: Call) -> ASGIResponse:
    """Open a session."""
    body = call.read(LoginBody, is_strict=True).value()
    identifier = _identifier(body)
    user: User | None = await call.see(partial(find_account, identifier=identifier))
    hasher = call.wiring.hasher
    known_hash = user.password_hash if user is not None else None
    if not await _verified(hasher, known_hash or call.wiring.nobodys_hash, body.password) or known_hash is None:
        user_id = None if user is None else user.id
        await call.write(partial(note_failed_login, identifier=identifier, user_id=user_id, origin=call.origin))
        raise InvalidCredentialsError
    new_hash = await _hashed(hasher, body.password) if hasher.needs_rehash(known_hash) else None
    use_case = partial(
        open_session, user_id=user.id if user else "", checked_hash=known_hash, new_hash=new_hash, **_ports(call)
    )
    return _session(await call.write(use_case))


def _identifier(body: LoginBody) -> str:
    both = {"email": body.email, "username": body.username}
    given = {name: text for name, text in both.items() if text is not None}
    problems = {}
    if len(given) != 1:
        problems["email"] = "exactly one of email and username is needed"
    for name, text in given.items():
        if problem := text_problem(text.strip(), longest=LONGEST_IDENTIFIER):
            problems[name] = problem
    if not 1 <= len(body.password) <= LONGEST_PASSWORD or body.password.isspace() or "\0" in body.password:
        problems["password"] = f"must have 1 to {LONGEST_PASSWORD} characters, not only whitespace, no NUL"
    if problems:
        raise ValidationError(problems)
    return next(iter(given.values())).strip()


async def refresh(call: Call) -> ASGIResponse:
    """Exchange a refresh token for a new one."""
    body = call.read(RefreshBody, may_be_empty=True, is_strict=True).value()
    token = _refresh_token(call, body.refresh_token)
    outcome = await call.write(partial(refresh_session, refresh_token=token, **_ports(call)))
    if isinstance(outcome, Reused):
        raise RefreshReusedError
    return _session(outcome)


def _refresh_token(call: Call, in_body: str | None) -> str:
    presented = call.presented()
    carried = {token for token in (in_body, presented.refresh) if token is not None}
    if len(carried) > 1:
        raise AmbiguousCredentialsError("Two different refresh tokens were sent")
    if not carried:
        raise InvalidTokenError if presented.session or presented.ic else MissingTokenError("A token is needed")
    token = carried.pop()
    if not 1 <= len(token) <= LONGEST_REFRESH:
        raise ValidationError({"refresh_token": f"must have 1 to {LONGEST_REFRESH} characters"})
    return token


async def logout(call: Call) -> ASGIResponse:
    """End the session, or all of the user's."""
    body = call.read(LogoutBody, may_be_empty=True)
    presented = call.presented()
    if presented.api is not None and presented.session is None:
        raise WrongTokenTypeError
    if presented.session is None and (wish := body.value()).refresh_token is not None:
        refresh_hash = call.wiring.access_signer.digest(_refresh_token(call, wish.refresh_token))
        ended = await call.write(
            partial(
                end_session_by_refresh,
                refresh_hash=refresh_hash,
                all_sessions=wish.all_sessions,
                origin=call.origin,
            )
        )
        if isinstance(ended, Reused):
            raise RefreshReusedError
        return nothing()
    who = call.user(may_owe_password=True)

    def use_case(uow: UnitOfWork) -> None:
        principal = who(uow)
        end_session(uow, principal, all_sessions=body.value().all_sessions)

    await call.write(use_case)
    return nothing()


async def change(call: Call) -> ASGIResponse:
    """Change the caller's own password."""
    who = call.user(may_owe_password=True)
    user = await call.see(lambda uow: _user_of(uow, who(uow)))
    body = call.read(PasswordBody, is_strict=True).value()
    hasher = call.wiring.hasher
    checked = user.password_hash or call.wiring.nobodys_hash
    if not await _verified(hasher, checked, body.current_password):
        use_case = partial(note_failed_login, identifier=user.username, user_id=user.id, origin=call.origin)
        await call.write(use_case)
        raise InvalidCredentialsError
    shortest = call.wiring.settings.password_min_length
    problem = password_problem(body.new_password, username=user.username, email=user.email, shortest=shortest)
    if problem is None and body.new_password == body.current_password:
        problem = "must differ from the current password"
    if problem:
        raise ValidationError({"new_password": problem})
    new_hash = await _hashed(hasher, body.new_password)
    await call.write(lambda uow: change_password(uow, who(uow), checked_hash=checked, new_hash=new_hash))
    return nothing()


def _user_of(uow: UnitOfWork, principal: Principal) -> User:
    user = uow.users.find(principal.user_id)
    if user is None:
        raise InvalidTokenError
    return user


@lru_cache
def _limiter() -> CapacityLimiter:
    return CapacityLimiter(HASHING_THREADS)


async def _verified(hasher: PasswordHasher, encoded: str, password: str) -> bool:
    return await to_thread.run_sync(hasher.verify, encoded, password, limiter=_limiter())


async def _hashed(hasher: PasswordHasher, password: str) -> str:
    return await to_thread.run_sync(hasher.hash, password, limiter=_limiter())


def _ports(call: Call) -> dict[str, Any]:
    return {
        "origin": call.origin,
        "policy": session_policy(call.wiring.settings),
        "signer": call.wiring.access_signer,
        "new_secret": call.wiring.new_refresh_token,
    }


def session_policy(settings: Settings) -> SessionPolicy:
    """Return how long sessions live, in milliseconds."""
    return SessionPolicy(
        access_ttl=settings.access_ttl_s * MS_PER_S,
        refresh_ttl=settings.refresh_ttl_s * MS_PER_S,
        max_age=settings.session_max_age_s * MS_PER_S,
        reuse_grace=settings.reuse_grace_s * MS_PER_S,
    )


def _session(logged_in: LoggedIn) -> ASGIResponse:
    principal = logged_in.principal
    view = SessionView(
        user_token=logged_in.access_token,
        access_token=logged_in.access_token,
        token_type="Bearer",  # noqa: S106 - the scheme's name
        expires_in=logged_in.access_expires_in_s,
        expires_at=moment(logged_in.access_expires_at),
        refresh_token=logged_in.refresh_token,
        refresh_expires_in=logged_in.refresh_expires_in_s,
        refresh_expires_at=moment(logged_in.refresh_expires_at),
        password_change_required=principal.must_change_password,
        user=UserView(principal.user_id, principal.email, principal.username, principal.name, principal.role),
    )
    return answer(view)


ROUTES: Final = (
    Route(
        "POST", "/auth/login", login, "Open a session with a password", body=LoginBody, answer=SessionView,
        access="public", codes=("AUTH_INVALID_CREDENTIALS", "403 AUTH_ACCOUNT_DISABLED"),
        example={"username": "admin", "password": "..."},
    ),
    Route(
        "POST", "/auth/refresh", refresh, "Exchange a refresh token for a new one", body=RefreshBody,
        answer=SessionView, access="public", example={"refresh_token": "rt_..."},
        codes=(
            "AUTH_MISSING_TOKEN", "AUTH_INVALID_TOKEN", "AUTH_TOKEN_EXPIRED", "AUTH_TOKEN_REVOKED",
            "AUTH_ACCOUNT_DISABLED", "AUTH_REFRESH_REUSED", "AMBIGUOUS_CREDENTIALS",
        ),
    ),
    Route(
        "POST", "/auth/logout", logout, "End the session, or all of them", body=LogoutBody, status=204,
        example={"all_sessions": False}, codes=("AUTH_REFRESH_REUSED",),
    ),
    Route(
        "POST", "/auth/change-password", change, "Change the caller's own password", body=PasswordBody, status=204,
        codes=("AUTH_INVALID_CREDENTIALS",), example={"current_password": "...", "new_password": "..."},
    ),
)  # fmt: skip
