"""Calls with events: how many of them become units of work, what they count against, and what their sender is told.

A unit of work takes in few enough events that other calls pass between. What one has taken in stays, whatever becomes
of those after it. Source: contract analytics.md 2.1.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final, Generic, Protocol, TypeVar

import msgspec
from litestar.response.base import ASGIResponse

from ironcage_core.domain.ic_tokens import AgentIdentity
from ironcage_core.domain.leases import LeasePolicy
from ironcage_core.errors.access import RateLimitExceededError
from ironcage_core.errors.tree import RefusalError
from ironcage_core.ports.storage import UnitOfWork
from ironcage_core.services.ingestion import Admit, Ingested, check_may_tell
from ironcage_http.calls import Call, answer
from ironcage_http.errors import details_of
from ironcage_http.event_items import check_object
from ironcage_http.gate import Gate
from ironcage_http.runtimes import proven
from ironcage_http.wire import Read

AT_ONCE: Final = 200
"""Events of one unit of work."""

Item = TypeVar("Item")
Item_contra = TypeVar("Item_contra", contravariant=True)


class Take(Protocol[Item_contra]):
    """What takes in events in order, each alone, as `ingest` does."""

    def __call__(
        self,
        uow: UnitOfWork,
        identity: AgentIdentity,
        items: Sequence[Item_contra],
        *,
        admit: Admit,
        policy: LeasePolicy,
        key_days: int | None,
        first: int = 0,
    ) -> list[Ingested]:
        """Return the fate of each."""
        ...


class EventResultView(msgspec.Struct, frozen=True, omit_defaults=True):
    """The fate of one event of a batch; `event_id` is null where it was no text."""

    index: int
    event_id: str | None
    status: str
    code: str | None = None
    error: str | None = None
    fields: Any = None
    allowed: Any = None


class EventBatchView(msgspec.Struct, frozen=True):
    """The fate of a batch."""

    accepted: int
    duplicates: int
    rejected: int
    results: list[EventResultView]


class _AllRejectedError(RefusalError):
    """A batch of which nothing could be taken in; `details.results` says why (400)."""

    code = "VALIDATION_ERROR"


class _Meter:
    """Counts the events of one request, each once, even where a unit of work runs twice.

    Where one is too many of its kind, all of that kind behind it are.
    """

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._counted: set[tuple[int, int, bool]] = set()
        self._closed: dict[bool, RefusalError] = {}

    def begin(self, identity: AgentIdentity, first: int) -> Admit:
        """Return what counts the events of a unit of work, whose first one stands at a place."""
        turn = 0

        def admit(is_duplicate: bool) -> RefusalError | None:
            nonlocal turn
            turn += 1
            event = (first, turn, is_duplicate)
            if event in self._counted:
                return None
            if is_duplicate not in self._closed:
                refusal = self._gate.count_event(identity.agent_id, is_duplicate=is_duplicate)
                if refusal is None:
                    self._counted.add(event)
                    return None
                self._closed[is_duplicate] = refusal
            return self._closed[is_duplicate]

        return admit


class EventCall(Generic[Item]):
    """One request with events.

    Args:
        call: The request.
        take: What takes its events in.
        id_of: The id of an event, if it can be told.
    """

    def __init__(self, call: Call, take: Take[Item], id_of: Callable[[Item], object]) -> None:
        self._call = call
        self._take = take
        self._id_of = id_of
        self._meter = _Meter(call.gate)

    async def run(self, body: Read[Any], items_of: Callable[[], Sequence[Item]]) -> list[Ingested]:
        """Take in the events of a body and return the fate of each, once all is durable.

        Args:
            body: It may hold the token.
            items_of: Reads the events, of which there is at least one.

        Raises:
            RefusalError: In this order: no JSON object, a misshapen or second token, no living token, no
                `analytics:write`, bad fields around the events; or nothing could be written.
        """
        check_object(body)
        who = proven(self._call, body)
        items: Sequence[Item] = ()
        bad: RefusalError | None = None
        try:
            items = items_of()
        except RefusalError as refusal:
            bad = refusal

        def run(first: int, uow: UnitOfWork) -> list[Ingested]:
            identity = who(uow)
            check_may_tell(identity)
            if bad is not None:
                raise bad
            return self._run_part(uow, identity, items[first : first + AT_ONCE], first)

        return await self._run_parts(run, items)

    def _run_part(self, uow: UnitOfWork, identity: AgentIdentity, items: Sequence[Item], first: int) -> list[Ingested]:
        settings = self._call.wiring.settings
        admit = self._meter.begin(identity, first)
        days = settings.call_key_retention_days
        return self._take(uow, identity, items, admit=admit, policy=settings.leases, key_days=days, first=first)

    async def _run_parts(
        self, run: Callable[[int, UnitOfWork], list[Ingested]], items: Sequence[Item]
    ) -> list[Ingested]:
        results: list[Ingested] = []
        while not results or len(results) < len(items):
            try:
                part = await self._call.write(partial(run, len(results)))
            except RefusalError as refusal:
                if not results:
                    raise
                rest = enumerate(items[len(results) :], len(results))
                part = [Ingested(place, self._id_of(item), "rejected", refusal) for place, item in rest]
            results += part
        statuses = [each.status for each in results]
        mismatches = sum(each.has_cost_mismatch for each in results)
        self._call.wiring.metrics.count_events(self._call.gate.route.path, statuses, mismatches)
        return results


def batch_answer(results: Sequence[Ingested]) -> ASGIResponse:
    """Return the answer to a batch.

    Raises:
        RefusalError: Nothing was taken in, and nothing was known.
    """
    views = [_view(each) for each in results]
    statuses = [each.status for each in results]
    accepted, duplicates = statuses.count("accepted"), statuses.count("duplicate")
    limited = next((each.refusal for each in results if isinstance(each.refusal, RateLimitExceededError)), None)
    if not accepted and not duplicates:
        if limited is not None:
            raise RateLimitExceededError(limited.message, **{**limited.details, "results": views})
        raise _AllRejectedError("No event could be taken in", results=views)
    view = EventBatchView(accepted, duplicates, len(results) - accepted - duplicates, views)
    headers = {} if limited is None else {"Retry-After": str(limited.details["retry_after_s"])}
    return answer(view, status=202 if accepted else 200, headers=headers)


def _view(result: Ingested) -> EventResultView:
    told = result.event_id if isinstance(result.event_id, str) else None
    refusal = result.refusal
    if refusal is None:
        return EventResultView(result.position, told, result.status)
    details = details_of(refusal)
    return EventResultView(
        result.position,
        told,
        result.status,
        code=refusal.code,
        error=refusal.message,
        fields=details.get("fields"),
        allowed=details.get("allowed"),
    )
