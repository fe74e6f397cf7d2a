"""Late reports: a report whose refusal must be remembered, because a dead IC token value has sent it."""

from dataclasses import dataclass

from ironcage_core.domain.ic_tokens import AgentIdentity
from ironcage_core.domain.leases import DEFAULT_POLICY, LeasePolicy
from ironcage_core.domain.prices import PriceTable
from ironcage_core.domain.usage import UsageReport
from ironcage_core.errors.access import OverSettledError
from ironcage_core.ports.storage import UnitOfWork
from ironcage_core.services.reporting import Reported, report
from ironcage_core.services.settlement import note_refused


@dataclass(frozen=True, slots=True)
class SettlementRefused:
    """A report that would settle more than its lease held; nothing of it is booked, and the audit log knows."""

    refusal: OverSettledError


def report_or_refuse(
    uow: UnitOfWork,
    identity: AgentIdentity,
    reported: UsageReport,
    *,
    prices: PriceTable,
    policy: LeasePolicy = DEFAULT_POLICY,
) -> Reported | SettlementRefused:
    """Book one call, also for a value that died; what it may not settle is answered, so that its trace commits.

    Raises:
        RefusalError: As `report`, but for `OverSettledError`.

    Source: contract budget.md 4.1.
    """
    try:
        return report(uow, identity, reported, prices=prices, policy=policy)
    except OverSettledError as refusal:  # raised before anything of the report was written
        note_refused(uow, identity, [refusal])
        return SettlementRefused(refusal)
