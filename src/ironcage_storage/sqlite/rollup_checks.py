"""Checks of the rollups: each cell against the records it counts, and the wide tables against the fine ones.

What lies before a horizon is left out: part of it is gone, and nobody is shown it.
"""

from collections.abc import Iterator
from typing import Final, NamedTuple

from ironcage_core.domain.instants import MS_PER_DAY, MS_PER_HOUR, Instant
from ironcage_core.domain.usage import UsageSums
from ironcage_core.ports.totals import NumberDifference
from ironcage_storage.sqlite.rollups import FINE, WIDE
from ironcage_storage.sqlite.session import Pending, Session

_NUMBERS: Final = UsageSums._fields
_LAST: Final = _NUMBERS[-1]
_SIDES: Final = ("kept", "counted")


class _Check(NamedTuple):
    """What finds the cells of a table that are not as a SELECT says; binds the first bucket and the SELECT's start."""

    table: str
    key: tuple[str, ...]
    sql: str


def rollup_differences(
    session: Session, *reads: Pending, records_since: Instant, hours_since: Instant
) -> Iterator[NumberDifference]:
    """Yield every number of a cell that is not the sum it should be.

    Args:
        session: Where the tables are.
        reads: The tables, with what waits to be written to them.
        records_since: From when on the records are all there, the start of a day.
        hours_since: From when on the rollups by hour are, the start of a day.
    """
    counted_since = max(records_since, hours_since)
    yield from _found(session, _DAYS, (records_since // MS_PER_DAY, records_since), reads)
    yield from _found(session, _HOURS, (counted_since // MS_PER_HOUR, counted_since), reads)
    yield from _found(session, _WIDE_DAYS, (0, 0), reads)
    hour = hours_since // MS_PER_HOUR
    yield from _found(session, _WIDE_HOURS, (hour, hour), reads)


def _found(
    session: Session, check: _Check, since: tuple[int, int], reads: tuple[Pending, ...]
) -> Iterator[NumberDifference]:
    width, numbers = len(check.key), len(_NUMBERS)
    for row in session.query(check.sql, since, *reads):
        subject = f"{check.table} {'/'.join(map(str, row[:width]))}"
        kept, counted = row[width : width + numbers], row[width + numbers :]
        for name, stored, recounted in zip(_NUMBERS, kept, counted, strict=True):
            # The latest call may have been a later one before a record was corrected.
            if stored < recounted or (stored > recounted and name != _LAST):
                yield NumberDifference(subject, name, stored, recounted)


def _check(table: str, key: tuple[str, ...], counted: str) -> _Check:
    keys = ", ".join(key)
    nothing = ", ".join("0" for _ in _NUMBERS)
    # The names differ from those of the sums: HAVING takes a column for itself before it takes it for a sum.
    names = ", ".join(f"{name} AS one_kept_{name}" for name in _NUMBERS)
    none_yet = ", ".join(f"0 AS one_counted_{name}" for name in _NUMBERS)
    both = [f"{how}(one_{side}_{name}) AS {side}_{name}" for side in _SIDES for name, how in _HOW.items()]
    kept, recounted = (", ".join(f"{side}_{name}" for name in _NUMBERS[:-1]) for side in _SIDES)
    return _Check(
        table,
        key,
        f"""SELECT {keys}, {", ".join(both)} FROM (
            SELECT {keys}, {names}, {none_yet} FROM {table} WHERE bucket >= ?
            UNION ALL SELECT {keys}, {nothing}, {", ".join(_NUMBERS)} FROM ({counted}))
        GROUP BY {keys} HAVING ({kept}) <> ({recounted}) OR kept_{_LAST} < counted_{_LAST}""",
    )


_HOW: Final = {name: "max" if name == _LAST else "sum" for name in _NUMBERS}


def of_records(bucket_ms: int) -> str:
    """Return the SELECT of what the records from an instant on, which it binds, add up to in each cell."""
    return f"""SELECT occurred_at / {bucket_ms} AS bucket, agent_id, owner_id, project_id, provider,
            coalesce(provider_id, '') AS provider_id, model,
            sum(outcome = 'completed') AS completed, sum(outcome = 'failed') AS failed,
            sum(input_tokens) AS input_tokens, sum(output_tokens) AS output_tokens,
            sum(unsplit_tokens) AS unsplit_tokens, sum(cost_micros) AS cost_micros,
            count(duration_ms) AS timed, coalesce(sum(duration_ms), 0) AS duration_ms, max(occurred_at) AS last_at
        FROM usage_records WHERE occurred_at >= ? GROUP BY 1, 2, 3, 4, 5, 6, 7"""


def of_fine(table: str) -> str:
    """Return the SELECT of what the cells of a table add up to without agents; it binds the first bucket."""
    keys = ", ".join(WIDE)
    sums = ", ".join(f"{how}({name}) AS {name}" for name, how in _HOW.items())
    return f"SELECT {keys}, {sums} FROM {table} WHERE bucket >= ? GROUP BY {keys}"


_DAYS: Final = _check("usage_days", FINE, of_records(MS_PER_DAY))
_HOURS: Final = _check("usage_hours", FINE, of_records(MS_PER_HOUR))
_WIDE_DAYS: Final = _check("usage_wide_days", WIDE, of_fine("usage_days"))
_WIDE_HOURS: Final = _check("usage_wide_hours", WIDE, of_fine("usage_hours"))
