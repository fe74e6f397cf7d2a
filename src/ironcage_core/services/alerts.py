"""Alerts: publish, once each, that a budget or a month is used up to a level.

The levels that were told stay with the budget and with the month, so that a retry tells nothing twice and a larger
allocation lets them be told again. Source: contract budget.md 9, analytics.md 6.4.
"""

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from ironcage_core.domain.alerts import Scope, crossed, level_of, severity_of
from ironcage_core.domain.instants import period_of
from ironcage_core.domain.money import Micros
from ironcage_core.ports.storage import UnitOfWork
from ironcage_core.services.posting import balance_of


class Used(NamedTuple):
    """How much of a limit is used, in micro-USD; `pending` is not in the books yet."""

    spent: Micros
    limit: Micros
    pending: Micros = 0

    @property
    def total(self) -> Micros:
        """What is held against the levels."""
        return self.spent + self.pending


def tell_levels(uow: UnitOfWork, agent_id: str, *, levels: Sequence[int], bank_user_ids: Iterable[str] = ()) -> None:
    """Publish the levels that money moved in this unit of work has reached; to be called once, after the last movement.

    What is pending counts as spent against the agent's budget, so that its settling crosses nothing again. Of a month
    only what was booked counts.

    Args:
        uow: The open unit of work.
        agent_id: Whose money moved.
        levels: Percent, rising.
        bank_user_ids: Whose months paid.
    """
    balance = balance_of(uow, agent_id)
    used = Used(balance.spent, balance.allocated, balance.pending)
    level = level_of(used.total, used.limit, levels)
    if level != balance.alert_level:
        _tell(uow, agent_id, "agent", balance.alert_level, level, levels, used)
        uow.balances.put(balance._replace(alert_level=level))
    for user_id in bank_user_ids:
        cap = _cap_of(uow, user_id)
        if cap is not None:
            _tell_month(uow, agent_id, user_id, levels, cap)


def rearm_month(uow: UnitOfWork, user_id: str, *, levels: Sequence[int]) -> None:
    """Let levels be told again that a user's month is below since the cap was changed; nothing is published.

    What a lower cap has made of the level is told by the next movement of money.
    """
    period, cap = period_of(uow.now), _cap_of(uow, user_id)
    level = 0 if cap is None else level_of(uow.banks.spent(user_id, period), cap, levels)
    if level < uow.bank_alerts.level(user_id, period):
        uow.bank_alerts.set_level(user_id, period, level)


def _cap_of(uow: UnitOfWork, user_id: str) -> Micros | None:
    limit = uow.limits.find_of(user_id)
    return None if limit is None else limit.max_cost_per_month


def _tell_month(uow: UnitOfWork, agent_id: str, user_id: str, levels: Sequence[int], cap: Micros) -> None:
    period = period_of(uow.now)
    spent = uow.banks.spent(user_id, period)
    before, level = uow.bank_alerts.level(user_id, period), level_of(spent, cap, levels)
    if level != before:
        _tell(uow, agent_id, "user_month", before, level, levels, Used(spent, cap), {"user_id": user_id})
        uow.bank_alerts.set_level(user_id, period, level)


def _tell(
    uow: UnitOfWork,
    agent_id: str,
    scope: Scope,
    before: int,
    level: int,
    levels: Sequence[int],
    used: Used,
    whose: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Publish one alert for the highest level, if it rose; it falls in silence.

    `whose` names the user whose month it is, so that it is told to nobody else when the agent has another owner.
    """
    if level <= before:
        return
    uow.feed.append(
        "COST_ALERT",
        agent_id=agent_id,
        name=None,
        severity=severity_of(level),
        data={
            "scope": scope,
            "threshold": level,
            "crossed": crossed(before, level, levels),
            "percentage": used.total * 100 // used.limit if used.limit else 100,
            "budget_spent_micros": used.spent,
            "budget_limit_micros": used.limit,
            "budget_remaining_micros": used.limit - used.spent,
            "pending_spend_micros": used.pending,
            **whose,
        },
    )
