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
from ironcage_core.ports.storage import UnitOfWork
from ironcage_core.services.usage_scope import UsageQuestion, usage_filter


@dataclass(frozen=True, slots=True)
class UsageTotals:
    """Sums over the calls that were asked about, and of which calls and what time they are.

    `start` is where the range starts: of one that has no start, the day of the first call, None if there is none.
    `providers` are by name, the costliest first.
    """

    sums: UsageSums
    providers: Sequence[tuple[str, UsageSums]]
    scope: Literal["all", "own"]
    time: TimeRange
    start: Instant | None
    calculated_at: Instant


def usage_totals(uow: UnitOfWork, asked: UsageQuestion, when: Asked, principal: Principal) -> UsageTotals:
    """Return the sums over the calls that were asked about, as far as the principal may see them.

    Args:
        uow: An open unit of work.
        asked: Which calls.
        when: Of what time.
        principal: Who asks.

    Raises:
        ValidationError, InvalidPeriodError, RangeTooOldError: There is no such time, or its hours are not kept.
        AgentNotFoundError, ProviderNotFoundError: A filter names nothing.
        ForbiddenError: The agent is another user's, or only an admin may ask by user.
    """
    time = asked_range(when, uow.now)
    check_kept(time, uow.usage.horizon("hours"))
    which = usage_filter(uow, asked, principal)
    start = time.since
    by_provider: Mapping[tuple[str, ...], UsageSums] = {}
    if which is not None:
        by_provider = uow.usage.sums(replace(which, since=time.since, until=time.until), ("provider",))
        start = uow.usage.first_day(which) if start is None else start
    providers = [(key[0], sums) for key, sums in by_provider.items()]
    providers.sort(key=lambda each: (-each[1].cost_micros, each[0]))
    return UsageTotals(
        sums=_sum_of(by_provider.values()),
        providers=providers,
        scope="all" if principal.reach == "all" else "own",
        time=time,
        start=start,
        calculated_at=uow.now,
    )


def _sum_of(parts: Collection[UsageSums]) -> UsageSums:
    if not parts:
        return UsageSums()
    *added, last_at = zip(*parts, strict=True)
    return UsageSums._make([*map(sum, added), max(last_at)])
