"""Event lists: the records of selected calls one by one, the latest first, by pages or from one of them on.

Source: contract analytics.md 4.4.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from ironcage_core.domain.access import Principal
from ironcage_core.domain.usage import UsageRecord
from ironcage_core.ports.lists import Page, Paging, TraceFilter
from ironcage_core.ports.storage import UnitOfWork
from ironcage_core.services.traces import get_trace
from ironcage_core.services.usage_selection import Selection


@dataclass(frozen=True, slots=True)
class EventPage:
    """Some records, the names of their agents, and behind which record the list goes on, if it does."""

    page: Page[UsageRecord]
    agent_names: Mapping[str, str]
    next_after: str | None


def list_events(
    uow: UnitOfWork,
    chosen: Selection,
    outcome: Literal["completed", "failed"] | None,
    paging: Paging,
    after: str | None,
    principal: Principal,
) -> EventPage:
    """Return records of the selected calls.

    Args:
        uow: An open unit of work.
        chosen: Which calls.
        outcome: Those that ended so; None for all.
        paging: Which page of them.
        after: The record behind which the list goes on, instead of a page.
        principal: Who asks.

    Raises:
        TraceNotFoundError, AgentTokenForbiddenError, ForbiddenError: As `get_trace` says of `after`.
    """
    last = None if after is None else get_trace(uow, after, principal)
    which = _trace_filter(chosen, outcome)
    if which is None:
        return EventPage(Page([], 0), {}, None)
    page = uow.usage.page(which, paging)
    rows, has_more = page.rows, paging.offset + len(page.rows) < page.total
    if last is not None:
        found = uow.usage.before(which, last, paging.per_page + 1)
        rows, has_more = found[: paging.per_page], len(found) > paging.per_page
    names = uow.agents.names({record.agent_id for record in rows})
    return EventPage(Page(rows, page.total), names, _last_id(rows) if has_more else None)


def _last_id(rows: Sequence[UsageRecord]) -> str | None:
    return rows[-1].id if rows else None


def _trace_filter(chosen: Selection, outcome: Literal["completed", "failed"] | None) -> TraceFilter | None:
    which = chosen.which
    if which is None:
        return None
    return TraceFilter(
        agent_id=which.agent_id,
        owner_id=which.owner_id,
        project_id=which.project_id,
        provider=which.provider,
        provider_id=which.provider_id,
        model=which.model,
        outcome=outcome,
        since=which.since,
        until=which.until,
    )
