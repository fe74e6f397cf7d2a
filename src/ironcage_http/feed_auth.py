"""Who listens to the live feed: where a handshake carries credentials, and whether they still hold later.

A socket outlives the request that opened it. What opened it is proven again and again, without being counted; a
session that was merely refreshed goes on until its access token ends, so that the fresh one can be sent in time.

Source: contract analytics.md 6.1, 6.2.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final
from urllib.parse import parse_qs

from ironcage_core.domain.access import Principal, check_password, judged
from ironcage_core.domain.feed_audience import Audience, audience_of
from ironcage_core.domain.ic_tokens import AgentIdentity
from ironcage_core.domain.instants import Instant
from ironcage_core.domain.sessions import AccessClaims
from ironcage_core.errors.access import InvalidTokenError, WrongTokenTypeError
from ironcage_core.errors.tree import ValidationError
from ironcage_core.ports.storage import UnitOfWork
from ironcage_core.services.sessions import authenticate_access
from ironcage_http.credentials import Presented, presented
from ironcage_http.errors import AmbiguousCredentialsError, MissingTokenError
from ironcage_http.feed_messages import Who
from ironcage_http.gate import Gate

ACTION: Final = "feed.subscribe"
SUBPROTOCOL: Final = "ironcage.v1"

_NO_TOKEN: Final = re.compile(r"[\s,]")
_BEARER: Final = "bearer."
_AUTHORIZATION: Final = "authorization"
_CARRIERS: Final = (_AUTHORIZATION, "x-api-token", "x-ic-token")

Prove = Callable[[UnitOfWork], Principal | AgentIdentity]


@dataclass(frozen=True, slots=True)
class Subscriber:
    """Who listens, as the credential was when it was accepted, and until when it lasts."""

    who: Who
    audience: Audience
    expires_at: Instant | None
    prove: Prove = field(repr=False)

    def check(self, uow: UnitOfWork) -> None:
        """Refuse to go on if the credential has ended, or says something else by now.

        Raises:
            RefusalError: It does not hold any more.
        """
        if _told_of(self.prove(uow)) != (self.who, self.audience):
            raise InvalidTokenError


def _told_of(found: Principal | AgentIdentity) -> tuple[Who, Audience]:
    if isinstance(found, AgentIdentity):
        return Who("agent", found.agent_id), Audience("agent", agent_id=found.agent_id)
    token = found.token
    who = Who("user", found.user_id, found.role) if token is None else Who("api_token", token.id, found.role)
    return who, audience_of(found)


def subscribing(gate: Gate, credentials: Presented) -> Callable[[UnitOfWork], Subscriber]:
    """Return what tells, in a unit of work, who listens, if he may; the request is counted as any other.

    Raises:
        CredentialError: The credential is not genuine, or over.
    """
    enter = gate.caller(credentials)
    signer, now = gate.wiring.access_signer, gate.wiring.clock.now()
    prove: Prove = enter
    until: Instant | None = None
    if credentials.session is not None:
        claims = signer.prove(credentials.session, now=now)
        prove, until = _still(gate, claims), claims.expires_at
    elif credentials.ic is not None and not credentials.has_user:
        until = gate.wiring.ic_signer.prove(credentials.ic, now=now).claims.expires_at

    def run(uow: UnitOfWork) -> Subscriber:
        found = enter(uow)
        token = None if isinstance(found, AgentIdentity) else found.token
        who, audience = _told_of(found)
        return Subscriber(who, audience, until if token is None else token.expires_at, prove)

    return run


def _still(gate: Gate, claims: AccessClaims) -> Prove:
    def prove(uow: UnitOfWork) -> Principal:
        session = uow.sessions.find(claims.session_id)
        current = claims if session is None else replace(claims, gen=max(claims.gen, session.gen))
        principal = authenticate_access(uow, current, origin=gate.origin)
        check_password(principal, ACTION)
        return judged(principal, ACTION)

    return prove


def presented_at_upgrade(
    headers: Mapping[str, str], subprotocols: Sequence[str], query: Mapping[str, list[str]]
) -> Presented | None:
    """Return the credential that a handshake carries, the first by its carrier; None if it carries none.

    Raises:
        AmbiguousCredentialsError: Two different ones of one kind.
        CredentialError: A carrier is there and empty, or the token of the query is of a kind that may not stand there.
        ValidationError: The query's is there twice.
    """
    bearers = [each.removeprefix(_BEARER) for each in subprotocols if each.startswith(_BEARER)]
    queried = single(query, "token")
    if queried is not None:
        if presented({"authorization": f"Bearer {queried}"}).session is None:
            raise WrongTokenTypeError
        bearers.append(queried)
    is_carried = {_AUTHORIZATION: _is_bearer(headers)}
    carried = [(name, headers[name]) for name in _CARRIERS if is_carried.get(name, name in headers)]
    if bearers:  # behind the headers
        carried.append((_AUTHORIZATION, ", ".join(f"Bearer {each}" for each in bearers)))
    if not carried:
        return None
    together: dict[str, str] = {}
    for name, value in carried:
        together[name] = f"{together[name]}, {value}" if name in together else value
    presented(together)  # nobody could say which of two different ones was meant
    found = presented(dict(carried[:1]))
    if not found.has_user and found.ic is None:
        raise MissingTokenError("A token is needed")
    return found


def _is_bearer(headers: Mapping[str, str]) -> bool:
    return headers.get("authorization", "").lower().startswith("bearer")


def presented_in_message(token: str | None, ic_token: str | None) -> Presented:
    """Return the credential of a first message.

    Raises:
        AmbiguousCredentialsError: There are two different ones.
        CredentialError: There is none, or it cannot be one.
    """
    given = [each.strip() for each in (token, ic_token) if each is not None]
    if not all(given) or not given:
        raise MissingTokenError("A token is needed")
    if any(_NO_TOKEN.search(each) for each in given):
        raise InvalidTokenError
    if token is None:
        return presented({}, ic_token)
    found = presented({"authorization": f"Bearer {given[0]}"}, ic_token)
    if found.has_user and found.ic is not None:
        raise AmbiguousCredentialsError("Two different credentials were sent")
    return found


def single(query: Mapping[str, list[str]], name: str) -> str | None:
    """Return a parameter of the query; None if it is not there.

    Raises:
        ValidationError: It is empty, or there twice.
    """
    values = query.get(name)
    if values is None:
        return None
    if len(values) != 1 or not values[0]:
        raise ValidationError({name: "must be given once, and not be empty"})
    return values[0]


def query_of(raw: bytes) -> dict[str, list[str]]:
    """Return the parameters of a query, the empty ones included."""
    return parse_qs(raw.decode("latin-1"), keep_blank_values=True)
