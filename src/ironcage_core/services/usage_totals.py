"""Usage totals: calls, tokens and cost over a range of time, in all and by provider.

Source: contract resources.md 8.1, analytics.md 3.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from ironcage_core.domain.access import Principal
from ironcage_core.domain.instants import Instant
from ironcage_core.domain.periods import Asked, TimeRange, asked_range, check_kept
from ironcage_core.domain.usage import UsageSums
from ironcage_core.ports.lists import UsageFilter
from ironcage_core.ports.storage import UnitOfWork


@dataclass(frozen=True, slots=True)
class UsageTotals:
    """Sums over the calls that were asked about, and of which calls and what time they are.

    `start` is where the range starts: of one that has no start, the first call's time as far as records reach, else its
    day, and None if there is no call before the end.
    `providers` are by name, the costliest first.
    """

    sums: UsageSums
    providers: Sequence[tuple[str, UsageSums]]
    scope: Literal["all", "own"]
    time: TimeRange
    start: Instant | None
    calculated_at: Instant


def usage_totals(uow: UnitOfWork, which: UsageFilter | None, when: Asked, principal: Principal) -> UsageTotals:
    """Return the sums over calls.

    Args:
        uow: An open unit of work.
        which: Which calls, within what the principal may see, as `usage_filter` says.
        when: Of what time.
        principal: Who asks.

    Raises:
        ValidationError, InvalidPeriodError, RangeTooOldError: There is no such time, or its hours are not kept.
    """
    time = asked_range(when, uow.now)
    check_kept(time, uow.usage.horizon("hours"))
    by_provider: Mapping[tuple[str, ...], UsageSums] = {}
    if which is not None:
        by_provider = uow.usage.sums(replace(which, since=time.since, until=time.until), ("provider",))
    providers = [(key[0], sums) for key, sums in by_provider.items()]
    providers.sort(key=lambda each: (-each[1].cost_micros, each[0]))
    return UsageTotals(
        sums=_sum_of(by_provider.values()),
        providers=providers,
        scope="all" if principal.reach == "all" else "own",
        time=time,
        start=_start_of(uow, which, time),
        calculated_at=uow.now,
    )


def _start_of(uow: UnitOfWork, which: UsageFilter | None, time: TimeRange) -> Instant | None:
    if time.since is not None:
        return time.since
    first = None if which is None else uow.usage.first_at(which)
    if first is None or (time.until is not None and first >= time.until):
        return None
    return min(first, time.end)  # a runtime's clock may be a little ahead


def _sum_of(parts: Collection[UsageSums]) -> UsageSums:
    if not parts:
        return UsageSums()
    *added, last_at = zip(*parts, strict=True)
    return UsageSums._make([*map(sum, added), max(last_at)])
