"""The control plane as a runtime sees it: one HTTP call for each step of a lease, and what its answers mean.

Every failure is one of two: the control plane does not answer, and trying again is right; or it refuses, and the caller
must decide. The IC token and provider keys are in no message, repr or log.

Source: contract budget.md 5.1 to 5.4.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Final, NamedTuple, NoReturn, TypeVar

import httpx

from ironcage_core.domain.instants import MS_PER_S, Instant
from ironcage_core.domain.money import Micros
from ironcage_core.errors.runtime import ControlPlaneError, SessionClosedError, UnreachableError
from ironcage_core.runtime.lease_session import Spend
from ironcage_http import client_failures as failures
from ironcage_http import client_target as target
from ironcage_http import client_wire as wire
from ironcage_storage.sealed.ip_tokens import IpTokenError, open_ip_token
from ironcage_storage.system import SystemClock

T = TypeVar("T")

_SHORTEST_SECRET: Final = 16
_now: Final = SystemClock().now


@dataclass(frozen=True, slots=True)
class Lent:
    """A lease, the provider key that was lent with it, and for how long, by the server's clock."""

    lease_id: str
    agent_id: str
    budget: Micros
    threshold: Micros
    provider: str
    base_url: str | None
    api_key: str = field(repr=False)
    lasts_s: float

    def __reduce__(self) -> NoReturn:
        raise TypeError("a lease holds a provider key and is never pickled")


@dataclass(frozen=True, slots=True)
class Denied:
    """A refresh without money; the old lease stays as it is."""

    reason: str


class Fate(NamedTuple):
    """What became of one report: `accepted`, `duplicate`, `conflict` or `rejected`."""

    request_id: str
    status: str
    code: str | None
    message: str | None


@dataclass(frozen=True, slots=True)
class Reported:
    """What became of each report, and whether to start no new call."""

    fates: Sequence[Fate]
    stop: bool


class ControlPlane:
    """Calls the control plane for one agent, over connections that are kept open; safe in many threads.

    Each method raises `UnreachableError` if there is no answer of a control plane or it asks to come back later, with
    `retry_after_s` in its details; `ControlPlaneError` if it refuses; `SessionClosedError` behind `close`.

    Args:
        url: Where it is, with or without `/api/v1`.
        ic_token: The agent's credential; it is sent in a header only.
        timeout_s: How long to wait for a connection, and for each part of an answer.
        transport: Sends the requests; None for the network.
        allows_http: Whether the token may go unencrypted to another machine.

    Raises:
        ValueError: The url or the token cannot be used; the message says what to do.
    """

    def __init__(
        self,
        url: str,
        ic_token: str,
        *,
        timeout_s: float = 10.0,
        transport: httpx.BaseTransport | None = None,
        allows_http: bool = False,
    ) -> None:
        base = target.api_url(url, allows_http=allows_http)
        self.url = str(base)
        self._token: str | None = target.token_value(ic_token)
        self.agent_id = target.agent_of(self._token)
        self.clock_offset_ms = 0
        way = target.way_to(base)
        self._client = httpx.Client(timeout=timeout_s, transport=transport, follow_redirects=False, **way)

    def __repr__(self) -> str:
        return f"ControlPlane({self.url!r})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a control plane holds an IC token and is never pickled")

    def handshake(
        self, asked: Micros, *, key: str, runtime_id: str | None, provider: str | None, provider_key_id: str | None
    ) -> Lent:
        """Borrow a tranche of the agent's budget and a provider key.

        Args:
            asked: How much, in micro-USD.
            key: Makes retries of this handshake one handshake.
            runtime_id: The runtime, so that an earlier lease of it is superseded.
            provider: Which provider; None for the agent's first key.
            provider_key_id: Which of its keys.

        Raises:
            ControlPlaneError: Also if the key cannot be opened; `details.lease_id` is the lease that came with it.
        """
        body = wire.handshake_body(asked, runtime_id=runtime_id, provider=provider, provider_key_id=provider_key_id)
        response = self._post("/budget/handshake", body, target.retry_header(key))
        given, budget, threshold, ends_at = self._read(response, wire.lending)
        return Lent(
            lease_id=given.lease_id,
            agent_id=given.agent_id,
            budget=budget,
            threshold=threshold,
            provider=given.provider,
            base_url=given.base_url,
            api_key=self._open(given.ip_token, given.lease_id, given.agent_id, given.provider),
            lasts_s=self._lasts(ends_at, response),
        )

    def refresh(self, lease: Lent, asked: Micros, *, key: str) -> Lent | Denied:
        """Put a new lease in the place of one that runs low.

        Args:
            lease: The lease to replace.
            asked: How much new money, in micro-USD.
            key: Makes retries of this refresh one refresh.

        Raises:
            ControlPlaneError: Also if the key cannot be opened; `details.lease_id` is the lease that came with it.
        """
        response = self._post("/budget/refresh", wire.refresh_body(lease.lease_id, asked), target.retry_header(key))
        answer = self._read(response, wire.renewal)
        if isinstance(answer, wire.Denial):
            return Denied(answer.reason)
        given, budget, ends_at = answer
        return Lent(
            lease_id=given.lease_id,
            agent_id=lease.agent_id,
            budget=budget,
            threshold=lease.threshold,
            provider=lease.provider,
            base_url=lease.base_url,
            api_key=self._open(given.ip_token, given.lease_id, lease.agent_id, lease.provider),
            lasts_s=self._lasts(ends_at, response),
        )

    def report(self, spends: Sequence[Spend], *, current: str | None) -> Reported:
        """Tell what calls have cost. Telling it again is safe, and right if this raises: nothing is lost by it.

        Args:
            spends: What was spent; each has one fate, in this order.
            current: The lease that calls are charged to now; whether to stop is asked of it alone.
        """
        if not spends:
            return Reported((), stop=False)
        told = self._told(spends)
        items, leases = list(told.results), [*told.leases]
        misdated = [index for index, item in enumerate(items) if item.is_misdated]
        if misdated:
            again = self._told([spends[index] for index in misdated], is_timed=False)
            leases += again.leases
            for index, item in zip(misdated, again.results, strict=True):
                items[index] = item
        fates = [
            Fate(spend.request_id, item.status, item.code, item.error)
            for spend, item in zip(spends, items, strict=True)
        ]
        return Reported(fates, stop=any(lease.stop for lease in leases if lease.lease_id == current))

    def learn_time(self) -> None:
        """Learn how far the clocks are apart, before anything is dated by ours; without an answer, nothing."""
        sent = _now()
        with suppress(httpx.HTTPError):
            self._note_time(self._client.get(f"{self.url}/health"), sent)

    def give_back(self, lease_id: str) -> Micros:
        """Close a lease and return what went back, in micro-USD. Again is safe, whatever has become of the lease."""
        return self._read(self._post("/budget/return", wire.return_body(lease_id)), wire.closing)

    def close(self) -> None:
        """End the connections and forget the token; twice is fine."""
        self._token = None
        self._client.close()

    def _told(self, spends: Sequence[Spend], *, is_timed: bool = True) -> wire.Booked:
        """Report a batch; if it is refused as a whole, its halves, so that one bad item does not keep others out."""
        body = wire.report_body(spends, offset_ms=self.clock_offset_ms, now=_now(), is_timed=is_timed)
        try:
            return self._read(self._post("/budget/report", body), partial(wire.booked, spends=spends))
        except ControlPlaneError as error:
            code = str(error.details["reason"])
            if error.details["status"] not in {400, 413} or code == "AMBIGUOUS_CREDENTIALS":
                raise
            if len(spends) == 1:
                return wire.Booked([wire.Item(0, spends[0].request_id, "rejected", code, error.message)], [])
        half = len(spends) // 2
        first, second = (self._told(part, is_timed=is_timed) for part in (spends[:half], spends[half:]))
        return wire.Booked([*first.results, *second.results], [*first.leases, *second.leases])

    def _post(self, path: str, body: bytes, headers: Mapping[str, str] | None = None) -> httpx.Response:
        """Return the answer that is no refusal."""
        sent = _now()
        answer = self._send(path, body, {**wire.JSON, **(headers or {}), "Authorization": f"Bearer {self._bearer()}"})
        if isinstance(answer, UnreachableError):  # raised here: what is chained to an error may show what was sent
            raise answer
        self._note_time(answer, sent)
        if not answer.is_success:
            raise failures.refused(self.url, answer, self._content(answer), self._server_now(answer))
        return answer

    def _note_time(self, answer: httpx.Response, sent: Instant) -> None:
        date = failures.date_of(answer)
        if date is not None and failures.is_json(answer):
            self.clock_offset_ms = failures.offset_of(date, sent, _now())

    def _send(self, path: str, body: bytes, headers: Mapping[str, str]) -> httpx.Response | UnreachableError:
        try:
            return self._client.post(self.url + path, content=body, headers=headers)
        except httpx.HTTPError as error:
            return failures.unanswered(self.url, error)

    def _read(self, response: httpx.Response, reader: Callable[[bytes], T]) -> T:
        try:
            return reader(self._content(response))
        except wire.UNREADABLE:
            failure = failures.unreadable(self.url, response)
        raise failure

    def _content(self, response: httpx.Response) -> bytes:
        """Return the body, without the token if somebody echoes it: parts of a refusal are shown and logged."""
        secret = (self._token or "").removeprefix("ic_").encode("ascii")
        return response.content.replace(secret, b"***") if len(secret) >= _SHORTEST_SECRET else response.content

    def _bearer(self) -> str:
        token = self._token
        if token is None:
            raise SessionClosedError("The session is closed; open another")
        return token

    def _open(self, ip_token: str, lease_id: str, agent_id: str, provider: str) -> str:
        token = self._bearer()
        try:
            return open_ip_token(ip_token, ic_token=token, agent_id=agent_id, lease_id=lease_id, provider=provider)
        except IpTokenError as error:
            code = error.code
        raise ControlPlaneError(
            f"The provider key of lease {lease_id} cannot be opened; is something changing answers of {self.url}?",
            status=200,
            reason=code,
            lease_id=lease_id,
        )

    def _lasts(self, ends_at: Instant | None, response: httpx.Response) -> float:
        if ends_at is None:
            return math.inf
        # A Date header is cut to its second: the server's clock may be almost another one ahead.
        return max(0, ends_at - self._server_now(response) - MS_PER_S) / MS_PER_S

    def _server_now(self, response: httpx.Response) -> Instant:
        date = failures.date_of(response)
        return _now() + self.clock_offset_ms if date is None else date
