"""Traces: pages of usage records by the time of their call."""

from ironcage_core.domain.instants import Instant
from ironcage_core.domain.usage import UsageRecord
from ironcage_core.ports.lists import Page, Paging, TraceFilter
from ironcage_storage.sqlite.rollups import OF_OWNER
from ironcage_storage.sqlite.rows import Table, conjunction
from ironcage_storage.sqlite.session import Pending


def page_of_traces(
    records: Table[UsageRecord],
    which: TraceFilter,
    paging: Paging,
    *reads: Pending,
    since: Instant,
    descending: bool,
) -> Page[UsageRecord]:
    """Return records by the time of their call, those from before `since` left out."""
    terms, parameters = conjunction(
        {
            "agent_id = ?": which.agent_id,
            OF_OWNER: which.owner_id,
            "project_id = ?": which.project_id,
            "provider = ?": which.provider,
            "model = ?": which.model,
            "outcome = ?": which.outcome,
            "call_key = ?": which.call_key,
            "lease_id = ?": which.lease_id,
            "occurred_at >= ?": max(since, which.since or 0),
            "occurred_at < ?": which.until,
        }
    )
    way = "DESC" if descending else "ASC"
    where = f"usage_records WHERE {terms} ORDER BY occurred_at {way}, id DESC LIMIT ? OFFSET ?"
    rows = records.rows(where, (*parameters, paging.per_page, paging.offset), *reads)
    sql = f"SELECT count(*) FROM usage_records WHERE {terms}"
    (total,) = records.session.query(sql, parameters, records, *reads).fetchone()
    return Page(rows, total)
