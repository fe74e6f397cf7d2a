"""Traces: the records of calls, one by one, to whom their agents belong now.

Source: contract resources.md 8.2.
"""

from dataclasses import replace

from ironcage_core.domain.access import Principal, Target, reaches
from ironcage_core.domain.ids import is_id
from ironcage_core.domain.usage import UsageRecord
from ironcage_core.errors.access import AgentTokenForbiddenError
from ironcage_core.errors.money import LeaseNotFoundError
from ironcage_core.errors.tree import ForbiddenError
from ironcage_core.errors.usage import TraceNotFoundError
from ironcage_core.ports.lists import Page, Paging, TraceFilter
from ironcage_core.ports.storage import UnitOfWork
from ironcage_core.services.agent_records import any_agent, scope_of
from ironcage_core.services.usage_scope import agent_of_history, is_in_project


def trace_filter(uow: UnitOfWork, asked: TraceFilter, principal: Principal) -> TraceFilter | None:
    """Return which records a filter means within what the principal may see; None for none at all.

    Raises:
        AgentNotFoundError, LeaseNotFoundError: A filter names nothing.
        AgentTokenForbiddenError: The principal is bound to another agent.
        ForbiddenError: The agent, or that of the lease, is another user's.
    """
    scope = scope_of(principal)
    named = {each for each in (asked.agent_id, _agent_of_lease(uow, asked)) if each is not None}
    for agent_id in named:
        agent_of_history(uow, agent_id, principal)
    if len(named) > 1 or not is_in_project(asked.project_id, scope.project_id):
        return None
    return replace(
        asked,
        agent_id=next(iter(named), scope.agent_id),
        owner_id=scope.owner_id,
        project_id=asked.project_id or scope.project_id,
    )


def list_traces(
    uow: UnitOfWork, which: TraceFilter | None, paging: Paging, *, descending: bool = True
) -> Page[UsageRecord]:
    """Return records as `trace_filter` says, the latest call first unless told otherwise."""
    return Page([], 0) if which is None else uow.usage.page(which, paging, descending=descending)


def get_trace(uow: UnitOfWork, trace_id: str, principal: Principal) -> UsageRecord:
    """Return the record of one call.

    Raises:
        TraceNotFoundError: No such record, or it is older than what is kept.
        AgentTokenForbiddenError: It is of another agent than the one the principal is bound to.
        ForbiddenError: Its agent is another user's, or it was made in another project than the token's.
    """
    record = uow.usage.find_trace(trace_id) if is_id(trace_id, "trace") else None
    if record is None:
        raise TraceNotFoundError("No such trace")
    if principal.bound_agent not in {None, record.agent_id}:
        raise AgentTokenForbiddenError
    owner_id = any_agent(uow, record.agent_id).owner_id
    if not reaches(principal, Target(owner_id, record.agent_id, record.project_id)):
        raise ForbiddenError("The trace belongs to somebody else")
    return record


def _agent_of_lease(uow: UnitOfWork, asked: TraceFilter) -> str | None:
    if asked.lease_id is None:
        return None
    lease = uow.leases.find(asked.lease_id)
    if lease is None:
        raise LeaseNotFoundError("No such lease")
    return lease.agent_id
