"""Days: a range of time as the whole UTC days in it, which counts are kept of, and what is left at its ends."""

from collections.abc import Sequence
from typing import NamedTuple

from ironcage_core.domain.instants import MS_PER_DAY, Instant
from ironcage_storage.sqlite.rows import conjunction


class Days(NamedTuple):
    """Whole UTC days, counted from the epoch: `first` and all before `beyond`; None is not bounded."""

    first: int | None
    beyond: int | None

    def chosen(self, column: str = "bucket") -> tuple[str, tuple[object, ...]]:
        """Return what chooses their rows by a column of days: a WHERE and what it binds."""
        return conjunction({f"{column} >= ?": self.first, f"{column} < ?": self.beyond})


class Cut(NamedTuple):
    """A range of time, cut at midnight: the whole days in it, if any, and what is left at its ends."""

    days: Days | None
    ends: Sequence[tuple[Instant, Instant]]


def cut_at_midnight(since: Instant | None, until: Instant | None) -> Cut:
    """Return the whole days of a range and what is left at its ends, in their order."""
    if since is not None and until is not None and since >= until:
        return Cut(None, ())
    first = None if since is None else -(-since // MS_PER_DAY)
    beyond = None if until is None else until // MS_PER_DAY
    if since is not None and until is not None and first is not None and beyond is not None and first > beyond:
        return Cut(None, ((since, until),))  # within one day
    ends = []
    if since is not None and first is not None and since < first * MS_PER_DAY:
        ends.append((since, first * MS_PER_DAY))
    if until is not None and beyond is not None and beyond * MS_PER_DAY < until:
        ends.append((beyond * MS_PER_DAY, until))
    has_days = first is None or beyond is None or first < beyond
    return Cut(Days(first, beyond) if has_days else None, ends)
