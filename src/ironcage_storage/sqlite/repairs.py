"""Repairs: the SQL that makes derived numbers anew, and changes only rows that are not as they should be.

A row of zeros is as good as none: whoever counts leaves it behind. Guards that keep spend from falling, and triggers
that move totals, are put aside meanwhile and come back in the same transaction.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final, NamedTuple

from ironcage_core.domain.instants import MS_PER_DAY
from ironcage_core.domain.ledger import EFFECTS
from ironcage_storage.sqlite.leases import SqliteLeases
from ironcage_storage.sqlite.rollup_checks import rollup_tables
from ironcage_storage.sqlite.session import Session
from ironcage_storage.sqlite.stamp import Stamp
from ironcage_storage.sqlite.totals import AgentTotals, KeptTotals

_GUARDED: Final = ("agent_budgets", "leases", "agent_totals")


def _moved(number: str) -> str:
    """Return the sum of what entries have added to a number."""
    factors = " ".join(f"WHEN '{kind}' THEN {getattr(effect, number)}" for kind, effect in EFFECTS.items())
    return f"coalesce(sum(g.amount * CASE g.kind {factors} END), 0) AS {number}"


def _numbers_of_lease() -> str:
    kinds = {effect.lease_column: kind for kind, effect in EFFECTS.items() if effect.lease_column}
    sums = (f"coalesce(sum(amount) FILTER (WHERE kind = '{kind}'), 0) AS {column}" for column, kind in kinds.items())
    return ", ".join(sums)


class _Rows(NamedTuple):
    """Rows that are always there: numbers of a table, and a SELECT of its id and of what they should be."""

    table: str
    key: str
    numbers: tuple[str, ...]
    source: str


# What no report has settled is pending on the open lease that stands in the place of the one it is stamped with.
_UNSETTLED: Final = """WITH RECURSIVE standing(stamped, id, agent_id) AS (
        SELECT id, id, agent_id FROM leases WHERE status IN ('active', 'expired')
        UNION ALL SELECT l.id, s.id, s.agent_id FROM standing s JOIN leases l ON l.successor_id = s.stamped),
    unsettled AS (SELECT s.id, s.agent_id, sum(u.cost_micros) AS cost FROM standing s JOIN (
        SELECT lease_id, cost_micros FROM usage_records WHERE report_cost_micros IS NULL
        UNION ALL SELECT lease_id, cost_micros FROM kept_calls WHERE report_cost_micros IS NULL)
        u ON u.lease_id = s.stamped GROUP BY s.id)"""

_BUDGETS: Final = _Rows(
    "agent_budgets",
    "agent_id",
    ("allocated", "spent", "overspent", "held", "pending"),
    f"""{_UNSETTLED}
        SELECT b.agent_id, {", ".join(map(_moved, ("allocated", "spent", "overspent", "held")))},
            coalesce(w.cost, 0) AS pending
        FROM agent_budgets b LEFT JOIN ledger g ON g.agent_id = b.agent_id
        LEFT JOIN (SELECT agent_id, sum(cost) AS cost FROM unsettled GROUP BY agent_id) w ON w.agent_id = b.agent_id
        GROUP BY b.agent_id""",
)
_LEASES: Final = _Rows(
    "leases",
    "id",
    ("granted", "spent", "overspent", "returned", "reclaimed", "unattributed", "reports", "due_at", "pending"),
    # What a return has reconciled is what no report explains. A due time that is too early only costs a look.
    f"""{_UNSETTLED},
        posted AS (SELECT lease_id, {_numbers_of_lease()} FROM ledger WHERE lease_id IS NOT NULL GROUP BY 1),
        reported AS (SELECT lease_id, sum(report_cost_micros) AS cost, count(*) AS n FROM (
            SELECT lease_id, report_cost_micros FROM usage_records
            UNION ALL SELECT lease_id, report_cost_micros FROM kept_calls)
            WHERE report_cost_micros IS NOT NULL AND lease_id IS NOT NULL GROUP BY lease_id)
        SELECT l.id, p.granted, p.spent, p.overspent, p.returned, p.reclaimed,
            max(p.spent + p.overspent - coalesce(r.cost, 0), 0) AS unattributed, coalesce(r.n, 0) AS reports,
            CASE l.status WHEN 'active' THEN min(l.due_at, l.expires_at) WHEN 'expired' THEN l.expired_at + l.grace
                END AS due_at,
            coalesce(w.cost, 0) AS pending
        FROM leases l JOIN posted p ON p.lease_id = l.id LEFT JOIN reported r ON r.lease_id = l.id
        LEFT JOIN unsettled w ON w.id = l.id""",
)


class _Sums(NamedTuple):
    """Rows that come and go: the key and the numbers of a table, and a SELECT of all that should be there.

    `highest` and `lowest` are more numbers, which may be higher or lower than they should be.
    """

    table: str
    key: tuple[str, ...]
    numbers: tuple[str, ...]
    source: str
    highest: tuple[str, ...] = ()
    lowest: tuple[str, ...] = ()


_OF_LEASE: Final = "FROM ledger g JOIN leases l ON l.id = g.lease_id"
_TOTALLED: Final = AgentTotals._fields
_DAY: Final = f"posted_at / {MS_PER_DAY} AS day"

_BOOKS: Final = (
    _Sums(
        "bank_months", ("user_id", "period"), ("spent",),
        f"SELECT g.bank_user_id AS user_id, g.period, {_moved('spent')} FROM ledger g GROUP BY 1, 2",
    ),
    _Sums(
        "bank_holds", ("user_id",), ("held",),
        f"SELECT g.bank_user_id AS user_id, {_moved('held')} FROM ledger g GROUP BY 1",
    ),
    _Sums(
        "bank_project_months", ("user_id", "project_id", "period"), ("spent",),
        f"SELECT g.bank_user_id AS user_id, l.project_id, g.period, {_moved('spent')} {_OF_LEASE} GROUP BY 1, 2, 3",
    ),
    _Sums(
        "bank_project_holds", ("user_id", "project_id"), ("held",),
        f"SELECT g.bank_user_id AS user_id, l.project_id, {_moved('held')} {_OF_LEASE} GROUP BY 1, 2",
    ),
    _Sums(
        "ledger_counts", ("agent_id", "kind", "day"), ("n",),
        f"SELECT agent_id, kind, {_DAY}, count(*) AS n FROM ledger GROUP BY 1, 2, 3",
    ),
    _Sums("ledger_totals", ("kind", "day"), ("n",), f"SELECT kind, {_DAY}, count(*) AS n FROM ledger GROUP BY 1, 2"),
    _Sums(
        "lease_counts", ("agent_id", "status"), ("n",),
        "SELECT agent_id, status, count(*) AS n FROM leases GROUP BY 1, 2",
    ),
    _Sums("lease_totals", ("status",), ("n",), "SELECT status, count(*) AS n FROM leases GROUP BY 1"),
    _Sums(
        "agent_totals", ("owner_id", "project_id"), _TOTALLED,
        f"SELECT owner_id, project_id, {', '.join(_TOTALLED)} FROM counted_agent_totals",
    ),
    _Sums(
        "project_totals", ("project_id",), KeptTotals._fields,
        f"""SELECT project_id, sum(agents > 0) AS owners, {", ".join(f"sum({name}) AS {name}" for name in _TOTALLED)}
            FROM counted_agent_totals GROUP BY project_id""",
    ),
    _Sums(
        "provider_key_counts", ("provider_key_id",), ("agents",),
        "SELECT provider_key_id, count(*) AS agents FROM agent_providers GROUP BY 1",
    ),
    _Sums("audit_counts", ("chain",), ("n",), "SELECT chain, count(*) AS n FROM audit_log GROUP BY 1"),
)  # fmt: skip


class SqliteRepairs:
    """Implements `Repairs`.

    Args:
        session: Where the tables are.
        stamp: Makes ids.
        leases: What it remembers of due times is forgotten after a repair.
    """

    def __init__(self, session: Session, stamp: Stamp, leases: SqliteLeases) -> None:
        self._session = session
        self._stamp = stamp
        self._leases = leases

    def rebuild_books(self) -> Mapping[str, int]:
        """Make balances, sums of leases, banks, counts and totals anew."""
        self._session.reread()
        with self._without_triggers():
            missing = self._add_missing_budgets()
            changed = {each.table: self._correct(each) for each in (_BUDGETS, _LEASES)}
            changed["agent_budgets"] += missing
            changed |= {each.table: self._rebuild(each) for each in _BOOKS}
        self._session.reread()
        self._leases.forget()
        return changed

    def rebuild_rollups(self) -> Mapping[str, int]:
        """Make the rollups anew, as far back as records and hours are kept."""
        self._session.reread()
        kept = dict(self._session.query("SELECT what, since FROM usage_horizons").fetchall())
        changed = {}
        for table, span in rollup_tables(kept.get("records", 0), kept.get("hours", 0)):
            family = table.family
            sums = _Sums(table.name, table.key, family.added, table.source, family.highest, family.lowest)
            changed[table.name] = self._rebuild(sums, span.first, span.since)
        return changed

    @contextmanager
    def _without_triggers(self) -> Iterator[None]:
        tables = ", ".join(f"'{table}'" for table in _GUARDED)
        sql = f"SELECT name, sql FROM sqlite_master WHERE type = 'trigger' AND tbl_name IN ({tables}) ORDER BY rowid"
        triggers = self._session.query(sql).fetchall()
        for name, _ in triggers:
            self._session.execute(f"DROP TRIGGER {name}")
        yield  # a failure takes the whole unit of work back, and with it this
        for _, create in triggers:
            self._session.execute(create)

    def _add_missing_budgets(self) -> int:
        """Give a budget to agents that have lost theirs; its id is a new one."""
        sql = """SELECT a.id, coalesce(max(g.posted_at), a.created_at)
            FROM agents a LEFT JOIN ledger g ON g.agent_id = a.id
            WHERE a.id NOT IN (SELECT agent_id FROM agent_budgets) GROUP BY a.id"""
        missing = self._session.query(sql).fetchall()
        insert = """INSERT INTO agent_budgets (agent_id, budget_id, allocated, spent, overspent, held, updated_at)
            VALUES (?, ?, 0, 0, 0, 0, ?)"""
        for agent_id, updated_at in missing:
            self._session.execute(insert, (agent_id, self._stamp.new_id("budget"), updated_at))
        return len(missing)

    def _correct(self, what: _Rows) -> int:
        stored, right = _listed(f"{what.table}.", what.numbers), _listed("c.", what.numbers)
        return self._session.execute(
            f"""UPDATE {what.table} SET ({", ".join(what.numbers)}) = ({right}) FROM ({what.source}) c
            WHERE c.{what.key} = {what.table}.{what.key} AND ({stored}) IS NOT ({right})"""
        )

    def _rebuild(self, what: _Sums, first: int = 0, since: int | None = None) -> int:
        """Make rows anew, all or those from the bucket `first` on, which the SELECT calls `since`."""
        bound = () if since is None else (since,)
        keys, zeros = ", ".join(what.key), ", ".join("0" for _ in what.numbers)
        written = (*what.key, *what.numbers, *what.highest, *what.lowest)
        # Counted once, for the rows to put and for those to remove: it may take minutes.
        right = f"SELECT * FROM ({what.source}) WHERE ({', '.join(what.numbers)}) IS NOT ({zeros})"
        self._session.execute(f"CREATE TEMP TABLE counted AS {right}", bound)
        same = " AND ".join(f"t.{column} = c.{column}" for column in what.key)
        differs = f"({_listed('t.', what.numbers)}) IS NOT ({_listed('c.', what.numbers)})"
        differs += "".join(f" OR t.{name} < c.{name}" for name in what.highest)
        differs += "".join(f" OR t.{name} > c.{name}" for name in what.lowest)
        replaced = ", ".join(f"{column} = excluded.{column}" for column in written[len(what.key) :])
        put = self._session.execute(
            f"""INSERT INTO {what.table} ({", ".join(written)})
            SELECT {_listed("c.", written)} FROM counted c LEFT JOIN {what.table} t ON {same} WHERE {differs}
            ON CONFLICT ({keys}) DO UPDATE SET {replaced}"""
        )
        scope = "TRUE" if since is None else "bucket >= ?"
        removed = self._session.execute(
            f"""DELETE FROM {what.table} WHERE {scope} AND ({", ".join(what.numbers)}) IS NOT ({zeros})
            AND ({keys}) NOT IN (SELECT {keys} FROM counted)""",
            () if since is None else (first,),
        )
        self._session.execute("DROP TABLE counted")
        return put + removed


def _listed(prefix: str, columns: Iterable[str]) -> str:
    return ", ".join(f"{prefix}{column}" for column in columns)
