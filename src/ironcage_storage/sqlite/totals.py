"""Totals over live agents, which triggers and the budgets keep: by owner and project, and by project alone."""

from collections.abc import Mapping
from typing import NamedTuple

from ironcage_core.domain.money import Micros
from ironcage_storage.sqlite.rows import conjunction
from ironcage_storage.sqlite.session import Pending, Session


class AgentTotals(NamedTuple):
    """Counts and sums over live agents, in micro-USD."""

    agents: int
    allocated: Micros
    spent: Micros
    held: Micros
    ic_tokens: int


class KeptTotals(NamedTuple):
    """All that is kept of one project, or of one owner in it, where `owners` tells whether he has an agent there."""

    owners: int
    agents: int
    allocated: Micros
    spent: Micros
    held: Micros
    ic_tokens: int


def agent_totals(
    session: Session, *reads: Pending, owner_id: str | None = None, project_id: str | None = None
) -> AgentTotals:
    """Return the totals over live agents, all or those of an owner, of a project, or of both.

    Args:
        session: Where they are read.
        reads: What moves those that are asked for: agents, and budgets or IC tokens.
        owner_id: Whose agents.
        project_id: Of which project.
    """
    table = "project_totals" if owner_id is None else "agent_totals"
    terms, parameters = conjunction({"owner_id = ?": owner_id, "project_id = ?": project_id})
    sums = ", ".join(f"coalesce(sum({number}), 0)" for number in AgentTotals._fields)
    sql = f"SELECT {sums} FROM {table} WHERE {terms}"
    return AgentTotals._make(session.query(sql, parameters, *reads).fetchone())


def owners_in(session: Session, *reads: Pending, project_id: str) -> int:
    """Return how many owners have live agents in a project."""
    sql = "SELECT owners FROM project_totals WHERE project_id = ?"
    found = session.query(sql, (project_id,), *reads).fetchone()
    return int(found[0]) if found else 0


def recounted(session: Session, *reads: Pending) -> Mapping[tuple[str, str], tuple[KeptTotals, KeptTotals]]:
    """Return (maintained, counted) for each owner and project, and for each project with '*' as the owner."""
    names = ", ".join(AgentTotals._fields)
    sums = ", ".join(f"sum({name})" for name in AgentTotals._fields)
    kept = f"""SELECT owner_id, project_id, agents > 0, {names} FROM agent_totals
        UNION ALL SELECT '*', project_id, owners, {names} FROM project_totals"""
    counted = f"""SELECT owner_id, project_id, agents > 0, {names} FROM counted_agent_totals
        UNION ALL SELECT '*', project_id, sum(agents > 0), {sums} FROM counted_agent_totals GROUP BY project_id"""
    found = [{row[:2]: KeptTotals._make(row[2:]) for row in session.query(sql, (), *reads)} for sql in (kept, counted)]
    nothing = KeptTotals(0, 0, 0, 0, 0, 0)
    return {key: (found[0].get(key, nothing), found[1].get(key, nothing)) for key in {*found[0], *found[1]}}
