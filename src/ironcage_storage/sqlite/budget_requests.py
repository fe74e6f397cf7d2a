"""Requests for larger allocations."""

from collections.abc import Mapping, Sequence
from typing import Final

from ironcage_core.domain.budget_requests import BudgetRequest
from ironcage_core.ports.lists import Page, Paging, RequestFilter, RequestOrder
from ironcage_storage.sqlite.rows import Table, conjunction
from ironcage_storage.sqlite.session import Pending, Session

_ORDERS: Final[Mapping[RequestOrder, str]] = {"created_at": "created_at", "requested_budget": "requested_budget"}


class SqliteBudgetRequests:
    """Implements `BudgetRequests`.

    Args:
        session: Where it belongs.
        agents: Whose owners may see the requests for their agents.
    """

    def __init__(self, session: Session, agents: Pending) -> None:
        self._table: Table[BudgetRequest] = Table(session, "budget_requests", BudgetRequest)
        self._session = session
        self._agents = agents

    def find(self, request_id: str) -> BudgetRequest | None:
        """Return the request with this id."""
        return self._table.get(request_id)

    def put(self, request: BudgetRequest) -> None:
        """Store the request, new or changed."""
        self._table.put(request)

    def pending_of_agent(self, agent_id: str) -> Sequence[BudgetRequest]:
        """Return the agent's pending requests, oldest first."""
        where = "budget_requests WHERE agent_id = ? AND status = 'pending' ORDER BY created_at, id"
        return self._table.rows(where, (agent_id,))

    def pending_by(self, requester_id: str) -> Sequence[BudgetRequest]:
        """Return the pending requests that a user made, oldest first."""
        where = "budget_requests WHERE requester_id = ? AND status = 'pending' ORDER BY created_at, id"
        return self._table.rows(where, (requester_id,))

    def page(
        self, which: RequestFilter, paging: Paging, order: RequestOrder = "created_at", *, descending: bool = True
    ) -> Page[BudgetRequest]:
        """Return requests, newest first unless told otherwise."""
        terms, parameters = conjunction(
            {
                "status = ?": which.status,
                "agent_id = ?": which.agent_id,
                "requester_id = ?": which.requester_id,
                "agent_id IN (SELECT id FROM agents WHERE project_id = ?)": which.project_id,
            }
        )
        if which.visible_to is not None:
            own = "agent_id IN (SELECT id FROM agents WHERE owner_id = ? AND deleted_at IS NULL)"
            terms = f"{terms} AND (requester_id = ? OR {own})"
            parameters = (*parameters, which.visible_to, which.visible_to)
        by = f"{_ORDERS[order]} {'DESC' if descending else 'ASC'}, id DESC"
        where = f"budget_requests WHERE {terms} ORDER BY {by} LIMIT ? OFFSET ?"
        rows = self._table.rows(where, (*parameters, paging.per_page, paging.offset), self._agents)
        sql = f"SELECT count(*) FROM budget_requests WHERE {terms}"
        (total,) = self._session.query(sql, parameters, self._table, self._agents).fetchone()
        return Page(rows, total)
