"""Usage totals: calls, tokens and cost over a range of time, in all and by provider.

Source: contract resources.md 8.1, analytics.md 3.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ironcage_core.domain.access import Principal
from ironcage_core.domain.periods import Asked
from ironcage_core.domain.usage import UsageSums, combined
from ironcage_core.ports.lists import UsageFilter
from ironcage_core.ports.storage import UnitOfWork
from ironcage_core.services.usage_selection import Selection, selected, sums_by


@dataclass(frozen=True, slots=True)
class UsageTotals:
    """Sums over the calls that were asked about; `providers` are by name, the costliest first."""

    sums: UsageSums
    providers: Sequence[tuple[str, UsageSums]]
    scope: Literal["all", "own"]
    chosen: Selection


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
    chosen = selected(uow, which, when)
    by_provider = sums_by(uow, chosen, "provider")
    providers = [(key[0], sums) for key, sums in by_provider.items()]
    providers.sort(key=lambda each: (-each[1].cost_micros, each[0]))
    return UsageTotals(
        sums=combined(by_provider.values()),
        providers=providers,
        scope="all" if principal.reach == "all" else "own",
        chosen=chosen,
    )
