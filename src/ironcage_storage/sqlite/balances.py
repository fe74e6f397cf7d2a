"""The budget of each agent."""

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Final

from ironcage_core.domain.agents import Agent
from ironcage_core.domain.ledger import Balance
from ironcage_core.domain.money import Micros
from ironcage_core.ports.lists import AgentOrder, BalanceFilter, Page, Paging
from ironcage_core.ports.totals import AgentBudget, BudgetTotals
from ironcage_storage.sqlite.records import AMONG
from ironcage_storage.sqlite.rows import Table, conjunction
from ironcage_storage.sqlite.session import Session
from ironcage_storage.sqlite.totals import agent_totals, recounted

_STATUS = (
    "CASE WHEN a.status = 'inactive' THEN 'inactive' WHEN b.spent >= b.allocated THEN 'exhausted' ELSE 'active' END"
)
_HAS_KEY: Final = "a.id IN (SELECT agent_id FROM agent_providers WHERE provider_key_id = ?)"
_HAS_TAGS: Final = "NOT EXISTS (SELECT value FROM json_each(?) EXCEPT SELECT value FROM json_each(a.tags))"
_ORDERS: Final[Mapping[AgentOrder, str]] = {
    "name": "a.name COLLATE NOCASE",
    "budget": "b.allocated",
    "created_at": "a.created_at",
    "updated_at": "a.updated_at",
}
_MOVE_TOTALS: Final = "UPDATE agent_totals SET spent = spent + ?, held = held + ? WHERE owner_id = ? AND project_id = ?"


class _Budgets(Table[Balance]):
    """Budgets whose spending and holds move the totals of agents once a batch; triggers do the rest, row by row."""

    def __init__(self, session: Session, agents: Table[Agent]) -> None:
        super().__init__(session, "agent_budgets", Balance, ("agent_id",), constant=("budget_id",))
        self._agents = agents

    def put(self, row: Balance) -> None:
        """Store a row, new or changed; what is written of it is looked up, for only the difference moves totals."""
        self.get(row.agent_id)
        super().put(row)

    def flush(self) -> None:
        """Write the batch's rows, behind those of their agents, and what they move."""
        moved: dict[tuple[str, str], list[int]] = {}
        for agent_id, row in self._batch.items():
            before, agent = self._loaded.get(agent_id), self._agents.written(agent_id)
            if before is None or agent is None or agent.deleted_at is not None:
                continue  # a trigger counts what is new; what is deleted counts nowhere
            sums = moved.setdefault((agent.owner_id, agent.project_id), [0, 0])
            sums[0] += row.spent - before.spent
            sums[1] += row.held - before.held
        super().flush()
        changed = [(*sums, *key) for key, sums in moved.items() if any(sums)]
        self.session.connection.executemany(_MOVE_TOTALS, changed)


class SqliteBalances:
    """Implements `Balances`."""

    def __init__(self, session: Session, agents: Table[Agent]) -> None:
        self.table = _Budgets(session, agents)
        self._agents = agents
        self._session = session

    def find(self, agent_id: str) -> Balance | None:
        """Return the agent's balance."""
        return self.table.get(agent_id)

    def put(self, balance: Balance) -> None:
        """Store the balance, new or changed."""
        self.table.put(balance)

    def page(
        self, which: BalanceFilter, paging: Paging, order: AgentOrder = "created_at", *, descending: bool = True
    ) -> Page[tuple[Agent, Balance]]:
        """Return budgets of live agents, newest agent first unless told otherwise."""
        source, parameters = _selection(which)
        by = f"{_ORDERS[order]} {'DESC' if descending else 'ASC'}, a.id DESC"
        names = ", ".join([f"a.{column}" for column in Agent._fields] + [f"b.{column}" for column in Balance._fields])
        sql = f"SELECT {names} {source} ORDER BY {by} LIMIT ? OFFSET ?"
        cursor = self._session.query(sql, (*parameters, paging.per_page, paging.offset), self.table, self._agents)
        width = len(Agent._fields)
        rows = [(Agent._make(row[:width]), Balance._make(row[width:])) for row in cursor]
        return Page(rows, self.totals(which).agents)

    def allocated(self, agent_ids: Collection[str]) -> Mapping[str, Micros]:
        """Return how much was allocated to each of these agents."""
        sql = f"SELECT agent_id, allocated FROM agent_budgets WHERE agent_id IN {AMONG}"
        return dict(self._session.query(sql, (json.dumps(list(agent_ids)),), self.table))

    def totals(self, which: BalanceFilter) -> BudgetTotals:
        """Return the sums over the whole selection."""
        if which == BalanceFilter(owner_id=which.owner_id, project_id=which.project_id):
            kept = agent_totals(
                self._session, self.table, self._agents, owner_id=which.owner_id, project_id=which.project_id
            )
            return BudgetTotals(kept.allocated, kept.spent, kept.held, kept.agents)
        source, parameters = _selection(which)
        sums = "coalesce(sum(b.allocated), 0), coalesce(sum(b.spent), 0), coalesce(sum(b.held), 0), count(*)"
        row = self._session.query(f"SELECT {sums} {source}", parameters, self.table, self._agents).fetchone()
        return BudgetTotals._make(row)

    def of_agents(
        self, agent_id: str | None = None, owner_id: str | None = None, project_id: str | None = None
    ) -> Sequence[AgentBudget]:
        """Return the budgets of live agents."""
        terms, parameters = conjunction(
            {"a.id = ?": agent_id, "a.owner_id = ?": owner_id, "a.project_id = ?": project_id}
        )
        sql = f"""SELECT a.id, a.name, a.status = 'inactive', b.allocated, b.spent, b.held, b.pending
            FROM agents a JOIN agent_budgets b ON b.agent_id = a.id WHERE a.deleted_at IS NULL AND {terms}"""
        return [AgentBudget._make(row) for row in self._session.query(sql, parameters, self.table, self._agents)]

    def counts(self) -> Mapping[tuple[str, str], tuple[object, object]]:
        """Return (maintained, counted) totals for each (owner_id, project_id); '*' stands for all owners."""
        return recounted(self._session, self.table, self._agents)

    def all(self) -> Iterator[Balance]:
        """Yield every balance, by agent id."""
        yield from self.table.rows("agent_budgets ORDER BY agent_id")


def _selection(which: BalanceFilter) -> tuple[str, tuple[object, ...]]:
    terms, parameters = conjunction(
        {
            "a.owner_id = ?": which.owner_id,
            f"{_STATUS} = ?": which.status,
            "instr(fold(a.name), fold(?)) > 0": which.name,
            "a.runtime_status = ?": which.runtime_status,
            "a.project_id = ?": which.project_id,
            _HAS_KEY: which.provider_key_id,
            _HAS_TAGS: json.dumps(which.tags) if which.tags else None,
        }
    )
    return f"FROM agents a JOIN agent_budgets b ON b.agent_id = a.id WHERE a.deleted_at IS NULL AND {terms}", parameters
