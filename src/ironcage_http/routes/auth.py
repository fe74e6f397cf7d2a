"""Sessions over the wire: login, refresh, logout, change of password. Source: contract identity.md 3.

Passwords are hashed in a few threads, never on the event loop and never inside a unit of work: read, hash, then write
with the state checked again. An unknown identifier costs the same hash as a known one, and is locked as one.
"""

from functools import partial
from typing import Final

import msgspec
from litestar.response.base import ASGIResponse

from ironcage_core.domain.access import Principal
from ironcage_core.domain.lockouts import identifier_hash
from ironcage_core.domain.rate_limits import Rate
from ironcage_core.domain.texts import text_problem
from ironcage_core.domain.users import UnknownLogin, User, password_problem
from ironcage_core.errors.access import (
    AccountLockedError,
    InvalidTokenError,
    RateLimitExceededError,
    RefreshReusedError,
    WrongTokenTypeError,
)
from ironcage_core.errors.tree import ValidationError
from ironcage_core.ports.storage import UnitOfWork
from ironcage_core.services.lockouts import note_login
from ironcage_core.services.logins import Attempt, RefusedLogin, find_login, log_in, named_by
from ironcage_core.services.sessions import (
    Reused,
    change_password,
    end_session,
    end_session_by_refresh,
    refresh_session,
    refuse_password_change,
)
from ironcage_http.calls import Call, nothing
from ironcage_http.client_address import counted_as
from ironcage_http.errors import AmbiguousCredentialsError, MissingTokenError
from ironcage_http.hashing import hashed, verified
from ironcage_http.routing import Route
from ironcage_http.sessions import SessionView, lockout_policy, session_answer, session_ports

LONGEST_IDENTIFIER: Final = 255
LONGEST_PASSWORD: Final = 1000
LONGEST_REFRESH: Final = 500
_ONE_A_MINUTE: Final = Rate(1, 60)


class LoginBody(msgspec.Struct, frozen=True):
    """Who logs in: an email (or a username in its place), and the password."""

    password: str
    email: str | None = None
    username: str | None = None


class SessionRefreshBody(msgspec.Struct, frozen=True):
    """The refresh token; it may come as a bearer token instead."""

    refresh_token: str | None = None


class LogoutBody(msgspec.Struct, frozen=True):
    """Which sessions to end."""

    refresh_token: str | None = None
    all_sessions: bool | None = None


class PasswordBody(msgspec.Struct, frozen=True):
    """The password that is, and the one that shall be."""

    current_password: str
    new_password: str


async def login(call: Call) -> ASGIResponse:
    """Open a session."""
    _check_failures(call)
    body = call.read(LoginBody, is_strict=True).value()
    identifier = _identifier(body)
    named = await _find_login(call, identifier)
    hasher, throttle = call.wiring.hasher, call.wiring.throttle
    known_hash = named.password_hash if isinstance(named, User) else None
    if not await verified(hasher, known_hash or call.wiring.nobodys_hash, body.password):
        known_hash = None
    # Nothing waits between verifying and this, so of many attempts at once only the first few learn what came of it.
    if known_hash is not None:
        _check_failures(call)
    elif not throttle.note_failed_login(_address(call)):
        raise _too_many_failures(call)
    new_hash = await hashed(hasher, body.password) if known_hash and hasher.needs_rehash(known_hash) else None
    attempt = Attempt(identifier, known_hash, new_hash)
    lockouts = lockout_policy(call.wiring.settings)
    outcome = await call.write(partial(log_in, attempt=attempt, lockouts=lockouts, **session_ports(call)))
    if isinstance(outcome, RefusedLogin):
        raise outcome.refusal
    return session_answer(outcome)


def _check_failures(call: Call) -> None:
    """Refuse every login of an address that has failed too often, the right password's too."""
    if call.wiring.throttle.login_wait_s(_address(call)):
        raise _too_many_failures(call)


def _too_many_failures(call: Call) -> RateLimitExceededError:
    return call.wiring.throttle.login_refusal(_address(call), call.wiring.clock.now())


def _address(call: Call) -> str:
    return counted_as(call.client_ip)


async def _find_login(call: Call, identifier: str) -> User | UnknownLogin:
    try:
        return await call.see(partial(find_login, identifier=identifier))
    except AccountLockedError:
        await _remember_locked(call, identifier)
        raise


async def _remember_locked(call: Call, identifier: str) -> None:
    """Note that a locked account is still tried, once a minute: whoever tries must not fill the log."""
    if not call.wiring.denials.take(("locked", identifier_hash(identifier)), _ONE_A_MINUTE).is_allowed:
        return

    def note(uow: UnitOfWork) -> None:
        named = named_by(uow, identifier)
        note_login(uow, "AUTH_LOGIN_FAILED", named, outcome="denied", reason="locked", origin=call.origin)

    await call.write(note)


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
    body = call.read(SessionRefreshBody, may_be_empty=True, is_strict=True).value()
    token = _refresh_token(call, body.refresh_token)
    outcome = await call.write(partial(refresh_session, refresh_token=token, **session_ports(call)))
    if isinstance(outcome, Reused):
        raise RefreshReusedError
    return session_answer(outcome)


def _refresh_token(call: Call, in_body: str | None) -> str:
    presented = call.presented()
    carried = {token for token in (in_body, presented.refresh) if token is not None}
    if len(carried) > 1:
        raise AmbiguousCredentialsError("Two different refresh tokens were sent")
    if not carried:
        is_another = presented.session or presented.ic or presented.api
        raise InvalidTokenError if is_another else MissingTokenError("A token is needed")
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
    wish = body.found
    if presented.session is None and wish is not None and wish.refresh_token is not None:
        call.gate.limit_address("refresh")
        refresh_hash = call.wiring.access_signer.digest(_refresh_token(call, wish.refresh_token))
        ended = await call.write(
            partial(
                end_session_by_refresh,
                refresh_hash=refresh_hash,
                all_sessions=bool(wish.all_sessions),
                origin=call.origin,
            )
        )
        if isinstance(ended, Reused):
            raise RefreshReusedError
        return nothing()
    who = call.user()

    def use_case(uow: UnitOfWork) -> None:
        principal = who(uow)
        end_session(uow, principal, all_sessions=bool(body.value().all_sessions))

    await call.write(use_case)
    return nothing()


async def change(call: Call) -> ASGIResponse:
    """Change the caller's own password."""
    who = call.user()
    user = await call.see(lambda uow: _user_of(uow, who(uow)))
    body = call.read(PasswordBody, is_strict=True).value()
    hasher = call.wiring.hasher
    checked = user.password_hash or call.wiring.nobodys_hash
    if not await verified(hasher, checked, body.current_password):
        lockouts = lockout_policy(call.wiring.settings)
        refused = await call.write(lambda uow: refuse_password_change(uow, who(uow), lockouts=lockouts))
        raise refused.refusal
    shortest = call.wiring.settings.password_min_length
    problem = password_problem(body.new_password, username=user.username, email=user.email, shortest=shortest)
    if problem is None and body.new_password == body.current_password:
        problem = "must differ from the current password"
    if problem:
        raise ValidationError({"new_password": problem})
    new_hash = await hashed(hasher, body.new_password)
    await call.write(lambda uow: change_password(uow, who(uow), checked_hash=checked, new_hash=new_hash))
    return nothing()


def _user_of(uow: UnitOfWork, principal: Principal) -> User:
    user = uow.users.find(principal.user_id)
    if user is None:
        raise InvalidTokenError
    return user


ROUTES: Final = (
    Route(
        "POST", "/auth/login", login, "Open a session with a password", action="auth.login", limit="login",
        body=LoginBody, answer=SessionView, example={"username": "admin", "password": "..."},
        codes=("AUTH_INVALID_CREDENTIALS", "403 AUTH_ACCOUNT_DISABLED", "AUTH_ACCOUNT_LOCKED"),
    ),
    Route(
        "POST", "/auth/refresh", refresh, "Exchange a refresh token for a new one", action="auth.refresh",
        limit="refresh", body=SessionRefreshBody, answer=SessionView, example={"refresh_token": "rt_..."},
        codes=(
            "AUTH_MISSING_TOKEN", "AUTH_INVALID_TOKEN", "AUTH_TOKEN_EXPIRED", "AUTH_TOKEN_REVOKED",
            "AUTH_ACCOUNT_DISABLED", "AUTH_REFRESH_REUSED", "AMBIGUOUS_CREDENTIALS",
        ),
    ),
    Route(
        "POST", "/auth/logout", logout, "End the session, or all of them", action="auth.logout", body=LogoutBody,
        status=204, example={"all_sessions": False}, codes=("AUTH_REFRESH_REUSED",),
    ),
    Route(
        "POST", "/auth/change-password", change, "Change the caller's own password", action="auth.change_password",
        limit="change_password", body=PasswordBody, status=204, codes=("AUTH_INVALID_CREDENTIALS",),
        example={"current_password": "...", "new_password": "..."},
    ),
)  # fmt: skip
