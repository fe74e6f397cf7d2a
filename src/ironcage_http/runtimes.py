"""Runtimes: how a call of an agent's runtime is judged before its use case runs.

The IC token may stand in the body, so the body is read before it is known who calls; what is wrong with its other
fields is told only to a caller who has proved who he is. Source: contract budget.md 4.1.
"""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final, TypeVar

from ironcage_core.domain.ic_tokens import AgentIdentity
from ironcage_core.domain.instants import MS_PER_S, Instant, parse_instant
from ironcage_core.errors.access import InvalidTokenError
from ironcage_core.errors.tree import ValidationError
from ironcage_core.ports.storage import UnitOfWork
from ironcage_core.services.granting import check_may_call
from ironcage_http.calls import Call
from ironcage_http.wire import Read, S, text_of

T = TypeVar("T")

MAX_TOKEN_CHARS: Final = 2000
_FURTHEST: Final = int(datetime(9999, 1, 1, tzinfo=UTC).timestamp())


async def as_agent(
    call: Call, body: Read[S], use_case: Callable[[UnitOfWork, AgentIdentity, S], T], *, settles: bool = False
) -> T:
    """Run a use case for the agent whose IC token the call carries, in a header or in the body.

    Args:
        call: The request.
        body: Its body.
        use_case: What is asked for.
        settles: Whether a value that died lately may come through, to settle its leases; the use case limits it.

    Raises:
        RefusalError: In this order: no JSON, a misshapen or second token, no living token, no `llm:call`, bad fields.
    """
    who = proven(call, body, settles=settles)

    def judged(uow: UnitOfWork) -> T:
        identity = who(uow)
        check_may_call(identity, settles=settles)
        if identity.died_at is not None and body.found is None:  # it names no lease that could be its own
            raise InvalidTokenError
        return use_case(uow, identity, body.value())

    return await call.write(judged)


def proven(call: Call, body: Read[Any], *, settles: bool = False) -> Callable[[UnitOfWork], AgentIdentity]:
    """Return what tells, in a unit of work, which agent calls.

    Raises:
        RefusalError: No JSON, a misshapen or second token, or none that is genuine.
    """
    body.check_syntax()
    return call.agent(_token_in(body), settles=settles)


def _token_in(body: Read[Any]) -> str | None:
    """Return the body's `ic_token`, even if other fields are wrong."""
    token: object = getattr(body.found, "ic_token", None)
    if body.found is None and "ic_token" in body.fields:
        token = text_of(body.fields["ic_token"])
    if token is None:
        return None
    if not isinstance(token, str) or not token.strip() or len(token.removeprefix("ic_")) > MAX_TOKEN_CHARS:
        raise ValidationError({"ic_token": f"must be a string of 1 to {MAX_TOKEN_CHARS} characters"})
    return token


def instant_of(value: float | str | None, *, field: str) -> Instant | None:
    """Return a time given as Unix seconds or RFC 3339.

    Raises:
        ValidationError: It is neither.
    """
    if value is None:
        return None
    if isinstance(value, str):
        return parse_instant(value, field=field)
    if not 0 <= value <= _FURTHEST:
        raise ValidationError({field: "must be Unix seconds or an RFC 3339 time"})
    return round(value * MS_PER_S)
