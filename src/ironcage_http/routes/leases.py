"""Leases, to look at and to revoke. Never an IP token: that is shown once, to the runtime it was sealed for."""

from collections.abc import Mapping
from decimal import Decimal
from typing import Final, get_args

import msgspec
from litestar.response.base import ASGIResponse

from ironcage_core.domain.leases import Lease, LeaseStatus
from ironcage_core.domain.money import Micros
from ironcage_core.domain.texts import reason_problem
from ironcage_core.errors.tree import ValidationError
from ironcage_core.ports.lists import LeaseFilter, Page
from ironcage_core.ports.storage import UnitOfWork
from ironcage_core.services.agent_records import any_agent, check_sees, scope_of
from ironcage_core.services.lease_records import get_lease, list_leases
from ironcage_core.services.leasing import revoke_leases
from ironcage_http.calls import Call, answer, listed
from ironcage_http.queries import Query
from ironcage_http.routing import PAGED, Route
from ironcage_http.wire import amount, moment


class LeaseView(msgspec.Struct, frozen=True):
    """One lease; never its IP token."""

    id: str
    agent_id: str
    status: str
    status_reason: str | None
    budget_granted: Decimal
    budget_spent: Decimal
    overspent: Decimal
    returned: Decimal
    reclaimed: Decimal
    held: Decimal
    reserved: Decimal
    runtime_id: str | None
    provider: str
    provider_key_id: str
    ic_token_id: str
    successor_lease_id: str | None
    created_at: str | None
    expires_at: str | None
    closed_at: str | None
    last_activity_at: str | None


class LeaseRevocationBody(msgspec.Struct, frozen=True):
    """Why a lease is revoked."""

    reason: str | None = None


async def get_leases(call: Call) -> ASGIResponse:
    """Return leases, newest first."""
    who = call.caller()
    query = Query(call.query)
    agent_id = query.text("agent_id")
    status = query.choice("status", get_args(LeaseStatus))
    query.choice("sort", ("-created_at",))  # the one order there is
    paging = query.paging()

    def use_case(uow: UnitOfWork) -> tuple[Page[Lease], Mapping[str, Micros]]:
        caller = who(uow)
        query.check()
        scope = scope_of(caller)
        wanted = agent_id or scope.agent_id
        if wanted is not None:
            check_sees(any_agent(uow, wanted), caller)
        page = list_leases(uow, LeaseFilter(wanted, scope.owner_id, status, scope.project_id), paging)
        return page, uow.reservations.sums([lease.id for lease in page.rows], uow.now)

    page, reserved = await call.see_all(who, use_case, agent_id=agent_id)
    return listed(page, paging, [_view(lease, reserved) for lease in page.rows])


async def get_one_lease(call: Call) -> ASGIResponse:
    """Return a lease as it is at this instant."""
    who = call.caller()

    def use_case(uow: UnitOfWork) -> LeaseView:
        caller = who(uow)
        lease = get_lease(uow, call.path["lease_id"])
        check_sees(any_agent(uow, lease.agent_id), caller)
        return _view(lease, uow.reservations.sums([lease.id], uow.now))

    return answer(await call.see(use_case))


async def revoke_lease(call: Call) -> ASGIResponse:
    """Take back what a lease holds; one that has ended stays as it is."""
    who = call.user()
    body = call.read(LeaseRevocationBody, may_be_empty=True)

    def use_case(uow: UnitOfWork) -> LeaseView:
        principal = who(uow)
        body.check_syntax()
        lease = get_lease(uow, call.path["lease_id"])
        check_sees(any_agent(uow, lease.agent_id), principal)
        reason = body.value().reason
        if problem := reason_problem(reason):
            raise ValidationError({"reason": problem})
        revoke_leases(uow, [lease.id], reason="manual", actor=principal.actor)
        return _view(get_lease(uow, lease.id), {})

    return answer(await call.write(use_case))


def _view(lease: Lease, reserved: Mapping[str, Micros]) -> LeaseView:
    return LeaseView(
        id=lease.id,
        agent_id=lease.agent_id,
        status=lease.status,
        status_reason=lease.status_reason,
        budget_granted=amount(lease.granted),
        budget_spent=amount(lease.spent),
        overspent=amount(lease.overspent),
        returned=amount(lease.returned),
        reclaimed=amount(lease.reclaimed),
        held=amount(lease.held),
        reserved=amount(reserved.get(lease.id, 0)),
        runtime_id=lease.runtime_id,
        provider=lease.provider,
        provider_key_id=lease.provider_key_id,
        ic_token_id=lease.ic_token_id,
        successor_lease_id=lease.successor_id,
        created_at=moment(lease.created_at),
        expires_at=moment(lease.expires_at),
        closed_at=moment(lease.closed_at),
        last_activity_at=moment(lease.last_activity_at),
    )


ROUTES: Final = (
    Route(
        "GET", "/budget/leases", get_leases, "Leases, newest first", answer=LeaseView, action="budget.read",
        query=(*PAGED, "agent_id", "status"),
        codes=("AGENT_NOT_FOUND", "FORBIDDEN"),
    ),
    Route(
        "GET", "/budget/leases/{lease_id}", get_one_lease, "A lease as it is at this instant", answer=LeaseView,
        action="budget.read", codes=("LEASE_NOT_FOUND", "FORBIDDEN"),
    ),
    Route(
        "POST", "/budget/leases/{lease_id}/revoke", revoke_lease, "Take back what a lease holds",
        action="budget.revoke_lease", body=LeaseRevocationBody,
        answer=LeaseView, codes=("LEASE_NOT_FOUND", "FORBIDDEN"), example={"reason": "runtime is gone"},
    ),
)  # fmt: skip
