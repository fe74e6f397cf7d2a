"""Checks of the rollups: each row against the records it counts, and the wide tables against the fine ones.

What lies before a horizon is left out: part of it is gone, and nobody is shown it.
"""

from collections.abc import Iterator
from typing import Final, NamedTuple

from ironcage_core.domain.instants import MS_PER_DAY, MS_PER_HOUR, Instant
from ironcage_core.ports.totals import NumberDifference
from ironcage_storage.sqlite.rollup_tables import ALL_KINDS, FAMILIES, Family, Kind
from ironcage_storage.sqlite.session import Pending, Session

_SIDES: Final = ("kept", "counted")


class RollupTable(NamedTuple):
    """One table of a family, and the SELECT of what should be in it; that binds where to start, in its own unit."""

    family: Family
    name: str
    key: tuple[str, ...]
    source: str


class Span(NamedTuple):
    """From when on a table can be counted again: its first bucket, and what its source binds."""

    first: int
    since: int


def _is_of_records(family: Family, kind: Kind) -> bool:
    """Tell whether a table is counted again from the records: the fine ones, and those that lack these."""
    return kind.scope == "fine" or Kind(kind.level, "fine") not in family.kinds


def _table(family: Family, kind: Kind) -> RollupTable:
    source = family.of_records(kind) if _is_of_records(family, kind) else family.of_fine(kind)
    return RollupTable(family, family.name(kind), family.key(kind.scope), source)


_TABLES: Final = tuple(
    (kind, _is_of_records(family, kind), _table(family, kind))
    for kind in ALL_KINDS
    for family in FAMILIES
    if kind in family.kinds
)


def rollup_tables(records_since: Instant, hours_since: Instant) -> Iterator[tuple[RollupTable, Span]]:
    """Yield every table with what can be counted of it again; the fine ones first, as the others are sums of them.

    Args:
        records_since: From when on the records are all there, the start of a day.
        hours_since: From when on the rollups by hour are, the start of a day.
    """
    both, hour = max(records_since, hours_since), hours_since // MS_PER_HOUR
    spans = {
        ("days", True): Span(records_since // MS_PER_DAY, records_since),
        ("hours", True): Span(both // MS_PER_HOUR, both),
        ("days", False): Span(0, 0),
        ("hours", False): Span(hour, hour),
    }
    for kind, is_of_records, table in _TABLES:
        yield table, spans[kind.level, is_of_records]


def rollup_differences(
    session: Session, *reads: Pending, records_since: Instant, hours_since: Instant
) -> Iterator[NumberDifference]:
    """Yield every number of a row that is not what it should be; what only widens may be wider.

    Args:
        session: Where the tables are.
        reads: The tables, with what waits to be written to them.
        records_since: From when on the records are all there, the start of a day.
        hours_since: From when on the rollups by hour are, the start of a day.
    """
    for table, span in rollup_tables(records_since, hours_since):
        yield from _found(session, table, span, reads)


def _found(session: Session, table: RollupTable, span: Span, reads: tuple[Pending, ...]) -> Iterator[NumberDifference]:
    width, numbers = len(table.key), table.family.numbers
    for row in session.query(_differing(table), span, *reads):
        subject = f"{table.name} {'/'.join(map(str, row[:width]))}"
        kept, counted = row[width : width + len(numbers)], row[width + len(numbers) :]
        for name, stored, recounted in zip(numbers, kept, counted, strict=True):
            if _is_wrong(table.family, name, stored, recounted):
                yield NumberDifference(subject, name, stored, recounted)


def _is_wrong(family: Family, name: str, stored: int, recounted: int) -> bool:
    # A corrected record may have been later, or cost more or less, before it was corrected.
    if name in family.highest:
        return stored < recounted
    if name in family.lowest:
        return stored > recounted
    return stored != recounted


def _differing(table: RollupTable) -> str:
    """Return the SELECT of the rows that are not as they should be; binds the first bucket and the source's start."""
    family, keys = table.family, ", ".join(table.key)
    # The names differ from those of the sums: HAVING takes a column for itself before it takes it for a sum.
    names = ", ".join(f"{name} AS one_kept_{name}" for name in family.numbers)
    none_yet = ", ".join(f"{family.nothing(name)} AS one_counted_{name}" for name in family.numbers)
    nothing = ", ".join(str(family.nothing(name)) for name in family.numbers)
    both = [f"{family.how(name)}(one_{side}_{name}) AS {side}_{name}" for side in _SIDES for name in family.numbers]
    kept, counted = (", ".join(f"{side}_{name}" for name in family.added) for side in _SIDES)
    narrow = [f"kept_{name} < counted_{name}" for name in family.highest]
    narrow += [f"kept_{name} > counted_{name}" for name in family.lowest]
    return f"""SELECT {keys}, {", ".join(both)} FROM (
            SELECT {keys}, {names}, {none_yet} FROM {table.name} WHERE bucket >= ?
            UNION ALL SELECT {keys}, {nothing}, {", ".join(family.numbers)} FROM ({table.source}))
        GROUP BY {keys} HAVING {" OR ".join((f"({kept}) <> ({counted})", *narrow))}"""
