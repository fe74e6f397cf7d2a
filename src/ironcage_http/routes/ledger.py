"""The ledger, to look at: every movement of money, newest first."""

from decimal import Decimal
from typing import Any, Final, get_args

import msgspec
from litestar.response.base import ASGIResponse

from ironcage_core.domain.ledger import Entry, EntryKind
from ironcage_core.ports.lists import EntryFilter, Page
from ironcage_core.ports.storage import UnitOfWork
from ironcage_core.services.agent_records import any_agent, check_sees, scope_of
from ironcage_core.services.allocations import list_entries
from ironcage_core.services.lease_records import get_lease
from ironcage_http.calls import Call, listed
from ironcage_http.queries import Query
from ironcage_http.routing import PAGED, Route
from ironcage_http.wire import amount, moment


class EntryView(msgspec.Struct, frozen=True):
    """One movement of money."""

    seq: int | None
    id: str
    posted_at: str | None
    agent_id: str
    lease_id: str | None
    bank_user_id: str
    period: str
    kind: str
    amount: Decimal
    cause: str
    ref: str | None
    actor: str
    allocated_after: Decimal
    spent_after: Decimal
    held_after: Decimal


async def get_ledger(call: Call) -> ASGIResponse:
    """Return ledger entries, newest first."""
    who = call.user()
    query = Query(call.query)
    agent_id, lease_id = query.text("agent_id"), query.text("lease_id")
    kind: Any = query.choice("kind", get_args(EntryKind))
    since, until = query.instant("from"), query.instant("to", is_end=True)
    query.choice("sort", ("-seq",))  # the one order there is
    paging = query.paging()

    def use_case(uow: UnitOfWork) -> Page[Entry]:
        principal = who(uow)
        query.check()
        if agent_id is not None:
            check_sees(any_agent(uow, agent_id), principal)
        if lease_id is not None:
            check_sees(any_agent(uow, get_lease(uow, lease_id).agent_id), principal)
        scope = scope_of(principal)
        which = EntryFilter(agent_id, scope.owner_id, lease_id, kind, since, until, scope.project_id)
        return list_entries(uow, which, paging)

    page = await call.see_all(who, use_case, agent_id=agent_id)
    return listed(page, paging, [entry_view(entry) for entry in page.rows])


def entry_view(entry: Entry) -> EntryView:
    """Return a ledger entry as callers see it."""
    return EntryView(
        seq=entry.seq,
        id=entry.id,
        posted_at=moment(entry.posted_at),
        agent_id=entry.agent_id,
        lease_id=entry.lease_id,
        bank_user_id=entry.bank_user_id,
        period=entry.period,
        kind=entry.kind,
        amount=amount(entry.amount),
        cause=entry.cause,
        ref=entry.ref,
        actor=entry.actor,
        allocated_after=amount(entry.allocated_after),
        spent_after=amount(entry.spent_after),
        held_after=amount(entry.held_after),
    )


ROUTES: Final = (
    Route(
        "GET", "/budget/ledger", get_ledger, "Ledger entries, newest first", action="budget.read_ledger",
        query=(*PAGED, "agent_id", "lease_id", "kind", "from", "to"),
        answer=EntryView, codes=("AGENT_NOT_FOUND", "LEASE_NOT_FOUND", "FORBIDDEN"),
    ),
)  # fmt: skip
