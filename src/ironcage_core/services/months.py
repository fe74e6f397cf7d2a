"""Months: what a monthly cap of a user leaves, in all or in one project, and the refusal once it is reached.

What open leases hold counts in every month. Source: contract budget.md 8, resources.md 7.1.
"""

from dataclasses import dataclass

from ironcage_core.domain.instants import Instant, next_period_start, period_of
from ironcage_core.domain.money import Micros
from ironcage_core.errors.money import BudgetExceededError
from ironcage_core.ports.storage import UnitOfWork


@dataclass(frozen=True, slots=True)
class Month:
    """A capped month of a user, in micro-USD; of one project, where one is named."""

    user_id: str
    project_id: str | None
    period: str
    cap: Micros
    spent: Micros
    held: Micros
    resets_at: Instant

    @property
    def available(self) -> Micros:
        """What new grants may still take (E8); negative after the cap was lowered."""
        return self.cap - self.spent - self.held


def capped_month(uow: UnitOfWork, user_id: str, project_id: str | None = None) -> Month | None:
    """Return the month that a user's cap is about, or None where there is no cap; then nothing is read of the bank."""
    limit = uow.limits.find_of(user_id, project_id)
    if limit is None or limit.max_cost_per_month is None:
        return None
    period = period_of(uow.now)
    return Month(
        user_id=user_id,
        project_id=project_id,
        period=period,
        cap=limit.max_cost_per_month,
        spent=uow.banks.spent(user_id, period, project_id),
        held=uow.banks.held(user_id, project_id),
        resets_at=next_period_start(uow.now),
    )


def refuse_for_month(uow: UnitOfWork, month: Month) -> BudgetExceededError:
    """Return the refusal of a user whose monthly cap is reached."""
    where = "" if month.project_id is None else " in the project"
    return BudgetExceededError(
        f"The owner's monthly cap{where} is reached",
        scope="user_month" if month.project_id is None else "project_month",
        spent=month.spent,
        limit=month.cap,
        held=month.held,
        remaining=month.available,
        frees_at=_frees_at(uow, month),
    )


def _frees_at(uow: UnitOfWork, month: Month) -> Instant | None:
    """Return when a reached cap leaves money again: with a hold that ends, or with the next month."""
    frees = [month.resets_at] if month.held < month.cap else []
    if month.spent < month.cap:
        leases = uow.leases.open_of_bank(month.user_id)
        own = [lease for lease in leases if month.project_id in {None, lease.project_id}]
        frees += [lease.frees_at for lease in own if lease.held and lease.frees_at]
    return min(frees, default=None)
