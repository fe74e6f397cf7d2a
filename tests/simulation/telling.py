"""Events in the simulation: what a runtime tells of its calls, under new names and under those it used before."""

from collections.abc import Sequence
from dataclasses import dataclass

from ironcage_core.domain.call_events import CallEvent
from ironcage_core.ports.storage import UnitOfWork
from ironcage_core.services.ingestion import ingest
from tests.simulation.calls import Told
from tests.simulation.model import DAY, Books
from tests.simulation.operations import POLICY, Answer, Call, Cast, Pick, respelled


@dataclass(frozen=True)
class Happening:
    """What is told: a call of a new name or of a known one, by the event's own name or by that of the request."""

    is_completed: bool = True
    cost: int = 50
    known: int | None = None
    is_named: bool = False
    spelling: int | None = None
    lease: Pick | None = None
    late: int = 0
    provider: str = "openai"
    provider_id: str | None = None
    duration: int | None = None
    name: str | None = None

    def resolve(self, cast: Cast, books: Books, agent: str, before: Sequence[Told]) -> Told:
        name = self.name or self._known(books, agent, before) or cast.new_request(self.spelling)
        is_bad = self.is_completed and self.cost < 0
        return Told(
            name=f"evt-{cast.next_event()}" if self.is_named else name,
            request=name if self.is_named else None,
            is_completed=self.is_completed,
            at=books.now - self.late,
            cost=self.cost,
            model="gpt-test" if self.known else "gpt-told",
            provider=self.provider,
            provider_id=self.provider_id,
            lease=None if self.lease is None else self.lease.number(books, agent),
            duration=self.duration,
            error="timeout" if self.duration and not self.is_completed else None,
            is_bad=is_bad,
        )

    def _known(self, books: Books, agent: str, before: Sequence[Told]) -> str | None:
        names = [name for call in books.calls if call.agent == agent for name in call.names]
        names += [told.request or told.name for told in before]
        if self.known is None or not names:
            return None
        return respelled(names[-1 - self.known % len(names)], self.spelling)


def as_event(told: Told, cast: Cast) -> CallEvent:
    """Return what is told as the store takes it; a failed call is told with numbers, which must not count."""
    return CallEvent(
        told.name,
        "llm_request_completed" if told.is_completed else "llm_request_failed",
        told.model,
        told.provider,
        told.at,
        told.input,
        told.output,
        max(told.cost, 0) if not told.is_completed else told.cost,
        provider_id=told.provider_id,
        error_code=told.error,
        request_id=told.request,
        lease_id=None if told.lease is None else cast.id_of(told.lease),
        duration_ms=told.duration,
    )


@dataclass(frozen=True)
class Tell:
    """A runtime tells of calls; `kept_days` is how long the names of calls are remembered."""

    agent: int
    happenings: tuple[Happening, ...]
    token: int = 0
    kept_days: int | None = None

    def resolve(self, cast: Cast, books: Books) -> Call:
        agent, value = cast.agents[self.agent], cast.value(books, self.agent, self.token)
        events: list[Told] = []
        for happening in self.happenings:
            events.append(happening.resolve(cast, books, agent, events))
        kept_for = None if self.kept_days is None else self.kept_days * DAY

        def ask_model(books: Books) -> Answer:
            return ("told", *(tuple(fate) for fate in books.tell(value, events, kept_for)))

        def ask_store(uow: UnitOfWork) -> Answer:
            items = [as_event(told, cast) for told in events]
            identity = cast.identity(uow, value)
            results = ingest(uow, identity, items, admit=lambda _: None, policy=POLICY, key_days=self.kept_days)
            assert [(each.position, each.event_id) for each in results] == [
                (place, told.name) for place, told in enumerate(events)
            ]
            return (
                "told",
                *((each.status, each.refusal and each.refusal.code, each.has_cost_mismatch) for each in results),
            )

        return Call(f"{self!r} as {events} by value {value}", cast, ask_model, ask_store)
