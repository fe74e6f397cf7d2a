"""Costs: those of single calls, read from the records as long as there are few of them, and all are kept."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from ironcage_core.domain.instants import Instant
from ironcage_core.domain.money import Micros
from ironcage_core.domain.usage import UsageRecord, UsageSums
from ironcage_core.ports.lists import UsageFilter
from ironcage_storage.sqlite.rollup_reads import RollupReads, record_terms
from ironcage_storage.sqlite.rows import Table, conjunction
from ironcage_storage.sqlite.session import Pending

_READ_FOR_ONE: Final = 10
"""How many records may be looked at for each that is wanted."""


def costs_of(
    which: UsageFilter,
    limit: int,
    horizon: Instant,
    *,
    rollups: RollupReads,
    records: Table[UsageRecord],
    agents: Pending,
) -> Sequence[Micros] | None:
    """Return the cost of each completed call, rising.

    None if there are more than `limit` of them, if too many other records lie among them, or if some are older than
    `horizon`.
    """
    gone = replace(which, until=horizon if which.until is None else min(which.until, horizon))
    kept = replace(which, since=max(which.since or 0, horizon))
    if horizon and _sums(rollups, gone).completed:
        return None
    if _sums(rollups, kept).completed > limit:
        return None
    searched = UsageFilter(which.agent_id, which.owner_id, since=kept.since, until=kept.until)  # an index knows no more
    if _sums(rollups, searched).calls > _READ_FOR_ONE * limit:
        return None
    return _read(kept, records, agents)


def _sums(rollups: RollupReads, which: UsageFilter) -> UsageSums:
    return rollups.sums(which).get((), UsageSums())


def _read(which: UsageFilter, records: Table[UsageRecord], agents: Pending) -> list[Micros]:
    of_time = {"occurred_at >= ?": which.since, "occurred_at < ?": which.until}
    terms, parameters = conjunction(record_terms(which) | of_time)
    index = "usage_time" if which.agent_id is None and which.owner_id is None else "usage_agent_time"
    sql = f"""SELECT cost_micros FROM usage_records INDEXED BY {index}
        WHERE {terms} AND outcome = 'completed' ORDER BY cost_micros"""
    return [row[0] for row in records.session.query(sql, parameters, records, agents)]
