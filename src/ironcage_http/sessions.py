"""Sessions on the wire: what a login and a refresh answer, and the settings they work by."""

from typing import Any

import msgspec
from litestar.response.base import ASGIResponse

from ironcage_core.domain.access import Principal
from ironcage_core.domain.instants import MS_PER_S
from ironcage_core.domain.lockouts import LockoutPolicy
from ironcage_core.domain.sessions import SessionPolicy
from ironcage_core.services.logins import LoggedIn
from ironcage_http.calls import NO_STORE, Call, answer
from ironcage_http.settings import Settings
from ironcage_http.wire import moment


class CallerView(msgspec.Struct, frozen=True):
    """The user whom a session or a token speaks for."""

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
    user: CallerView


def session_ports(call: Call) -> dict[str, Any]:
    """Return what a use case needs that opens or renews a session."""
    return {
        "origin": call.origin,
        "policy": _session_policy(call.wiring.settings),
        "signer": call.wiring.access_signer,
        "new_secret": call.wiring.new_refresh_token,
    }


def _session_policy(settings: Settings) -> SessionPolicy:
    """Return how long sessions live, in milliseconds."""
    return SessionPolicy(
        access_ttl=settings.access_ttl_s * MS_PER_S,
        refresh_ttl=settings.refresh_ttl_s * MS_PER_S,
        max_age=settings.session_max_age_s * MS_PER_S,
        reuse_grace=settings.reuse_grace_s * MS_PER_S,
        max_sessions=settings.max_sessions,
    )


def lockout_policy(settings: Settings) -> LockoutPolicy:
    """Return when failed logins lock."""
    return LockoutPolicy(threshold=settings.lockout_threshold, duration=settings.lockout_s * MS_PER_S)


def session_answer(logged_in: LoggedIn) -> ASGIResponse:
    """Return the tokens of a session."""
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
        user=caller_view(principal),
    )
    return answer(view, headers=NO_STORE)


def caller_view(principal: Principal) -> CallerView:
    """Return the user on the wire."""
    return CallerView(principal.user_id, principal.email, principal.username, principal.name, principal.role)
