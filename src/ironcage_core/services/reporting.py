"""Reporting: booking what a call has cost.

A report is a fact. Whatever the state of its lease, the money is gone at the provider, so it is booked: against the
hold as far as that reaches, the rest as overspend. `(agent_id, request_id)` makes it count once, for ever.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

from ironcage_core.domain.agents import Agent
from ironcage_core.domain.audit import AuditNote
from ironcage_core.domain.ic_tokens import AgentIdentity
from ironcage_core.domain.leases import (
    DEFAULT_POLICY,
    REFRESH_THRESHOLD,
    Lease,
    LeasePolicy,
    split_spend,
)
from ironcage_core.domain.ledger import Balance
from ironcage_core.domain.money import Micros
from ironcage_core.domain.prices import PriceTable
from ironcage_core.domain.texts import text_problem
from ironcage_core.domain.usage import (
    PricedReport,
    UsageRecord,
    UsageReport,
    is_same_call,
    price_report,
    report_problems,
)
from ironcage_core.errors.money import RequestIdConflictError
from ironcage_core.errors.tree import ConflictError, RefusalError, ValidationError
from ironcage_core.ports.storage import UnitOfWork
from ironcage_core.services.alerts import tell_levels
from ironcage_core.services.call_records import (
    Call,
    UnreadItem,
    free_key,
    has_cost_mismatch,
    note_report,
    record_of_report,
    requested_call,
    restored,
    tell_call,
    with_report,
)
from ironcage_core.services.expiry import announce_end, catch_up
from ironcage_core.services.granting import agent_of, check_may_call
from ironcage_core.services.lease_records import effective, own_lease
from ironcage_core.services.pending import settle_pending
from ironcage_core.services.posting import balance_of, post_report
from ironcage_core.services.reservation_ends import commit_reservation
from ironcage_core.services.settlement import check_may_report_on, check_may_settle_some, note_refused, settle


class Booked(NamedTuple):
    """What the books hold of one report; money in micro-USD.

    `lease` is the one that was charged, `current` the one that stands in its place now, if it was refreshed since.
    `has_cost_mismatch` is whether an event had told of the call with another cost.
    """

    request_id: str
    duplicate: bool
    cost: Micros
    overspent: Micros
    lease: Lease
    current: Lease
    has_cost_mismatch: bool = False


@dataclass(frozen=True, slots=True)
class Reported:
    """A booked report and where it leaves the agent.

    `stop` means: start no new call.
    """

    booked: Booked
    balance: Balance
    stop: bool

    @property
    def refresh_recommended(self) -> bool:
        """Whether the lease runs low."""
        return self.booked.current.held < REFRESH_THRESHOLD


UnreadReport: TypeAlias = UnreadItem


class ItemResult(NamedTuple):
    """The fate of one item of a batch."""

    position: int
    request_id: object
    status: Literal["accepted", "duplicate", "conflict", "rejected"]
    booked: Booked | None = None
    refusal: RefusalError | None = None


@dataclass(frozen=True, slots=True)
class BatchReported:
    """The fate of each item, the leases that were charged as they are now, and the agent's balance."""

    results: Sequence[ItemResult]
    leases: Sequence[Lease]
    balance: Balance
    hindered: bool

    @property
    def rejected(self) -> int:
        """How many items were not booked; conflicts count."""
        return sum(result.booked is None for result in self.results)


def must_stop(lease: Lease, *, hindered: bool) -> bool:
    """Tell a runtime of this lease whether to start no new call; `hindered` is whether the agent is held back."""
    return lease.status != "active" or lease.held == 0 or hindered


def report(
    uow: UnitOfWork,
    identity: AgentIdentity,
    reported: UsageReport,
    *,
    prices: PriceTable,
    policy: LeasePolicy = DEFAULT_POLICY,
) -> Reported:
    """Book one call.

    Raises:
        InsufficientScopeError: The token lacks `llm:call`.
        ValidationError: A field breaks its rule; nothing is booked.
        LeaseNotFoundError, ForbiddenError: Not a lease of this agent.
        InvalidTokenError: The token's value is dead and the lease not its own; `OverSettledError` if it is used up.
        RequestIdConflictError: The request id is known with other content.

    Source: protocol 005; contract budget.md 1.3 and 5.2.
    """
    check_may_call(identity, settles=True)
    catch_up(uow, identity.agent_id)
    agent = agent_of(uow, identity)
    booked = _book(uow, identity, agent, reported, prices, policy)
    if not booked.duplicate:
        tell_levels(uow, agent.id, levels=policy.alert_levels, bank_user_ids=(booked.lease.bank_user_id,))
    return Reported(
        booked, balance_of(uow, identity.agent_id), must_stop(booked.current, hindered=agent.hindrance is not None)
    )


def report_batch(
    uow: UnitOfWork,
    identity: AgentIdentity,
    reports: Sequence[UsageReport | UnreadReport],
    *,
    prices: PriceTable,
    policy: LeasePolicy = DEFAULT_POLICY,
) -> BatchReported:
    """Book many calls in order, in one unit of work; a bad item does not keep the others out.

    Raises:
        InsufficientScopeError: The token lacks `llm:call`.
        InvalidTokenError: The token's value is dead, and no item is about a lease of its own.
        ValidationError: No item, or more than the policy allows; nothing is booked.

    Source: contract budget.md 5.2, batch.
    """
    check_may_call(identity, settles=True)
    check_may_settle_some(uow, identity, (each.lease_id for each in reports if isinstance(each, UsageReport)))
    if not 1 <= len(reports) <= policy.max_batch:
        raise ValidationError({"reports": f"must have 1 to {policy.max_batch} items"})
    catch_up(uow, identity.agent_id)
    names = (item.request_id for item in reports if isinstance(item, UsageReport))
    expected = [name for name in names if text_problem(name, longest=100) is None]
    uow.usage.expect(identity.agent_id, expected)
    uow.reservations.expect(identity.agent_id, expected)
    agent = agent_of(uow, identity)
    results = [_book_item(uow, identity, agent, index, item, prices, policy) for index, item in enumerate(reports)]
    note_refused(uow, identity, [result.refusal for result in results])
    charged = {result.booked.current.id: result.booked.current for result in results if result.booked}
    payers = {each.booked.lease.bank_user_id for each in results if each.booked and each.status == "accepted"}
    if payers:  # once for all items: only the highest level that they reached together is told
        tell_levels(uow, agent.id, levels=policy.alert_levels, bank_user_ids=sorted(payers))
    return BatchReported(
        results=results,
        leases=[uow.leases.find(lease_id) or lease for lease_id, lease in charged.items()],
        balance=balance_of(uow, agent.id),
        hindered=agent.hindrance is not None,
    )


def _book_item(
    uow: UnitOfWork,
    identity: AgentIdentity,
    agent: Agent,
    index: int,
    item: UsageReport | UnreadReport,
    prices: PriceTable,
    policy: LeasePolicy,
) -> ItemResult:
    if isinstance(item, UnreadItem):
        return ItemResult(index, item.key, "rejected", refusal=item.refusal)
    # _book refuses before it writes, so a refused item leaves nothing behind in the unit of work it shares.
    try:
        booked = _book(uow, identity, agent, item, prices, policy)
    except RefusalError as refusal:
        status: Literal["conflict", "rejected"] = "conflict" if isinstance(refusal, ConflictError) else "rejected"
        return ItemResult(index, item.request_id, status, refusal=refusal)
    return ItemResult(index, item.request_id, "duplicate" if booked.duplicate else "accepted", booked)


def _book(
    uow: UnitOfWork,
    identity: AgentIdentity,
    agent: Agent,
    reported: UsageReport,
    prices: PriceTable,
    policy: LeasePolicy,
) -> Booked:
    check_may_report_on(uow, identity, reported.lease_id)
    problems = report_problems(reported, now=uow.now, policy=policy)
    if problems:
        raise ValidationError(problems)
    named = own_lease(uow, identity.agent_id, reported.lease_id)
    request_id = reported.request_id
    known = requested_call(uow, identity.agent_id, request_id, is_reported=True)
    if known is not None and known.report_cost_micros is not None:
        return _replay(uow, known, reported)  # before pricing: a retry must not depend on today's prices
    priced = price_report(reported, prices)
    if priced is None:
        raise ValidationError(
            {"cost_usd": "is needed: input and output tokens of a model with a known price are not there"}
        )
    if priced.cost > policy.max_report:
        raise ValidationError({"cost_usd": "is above the most a report may cost"})
    settle(uow, identity, named, priced.cost)
    told = None if known is None else restored(uow, known)
    if told is not None:
        settle_pending(uow, agent.id, told.lease_id, told.cost_micros)
        named = own_lease(uow, agent.id, named.id)  # as it is behind that
    return _charge(uow, identity, agent, effective(uow, named), priced, told)


def _replay(uow: UnitOfWork, known: Call, reported: UsageReport) -> Booked:
    lease = uow.leases.find(known.lease_id) if known.lease_id else None
    if lease is None or not is_same_call(known, reported):
        raise RequestIdConflictError(
            "This request id was reported before with other content", recorded_cost=known.cost_micros
        )
    return Booked(reported.request_id, True, known.cost_micros, known.overspent_micros, lease, effective(uow, lease))


def _charge(
    uow: UnitOfWork,
    identity: AgentIdentity,
    agent: Agent,
    lease: Lease,
    priced: PricedReport,
    told: UsageRecord | None,
) -> Booked:
    request_id = priced.report.request_id
    split = split_spend(lease, priced.cost)
    after = post_report(uow, lease, split, actor=identity.agent_id, ref=request_id)
    if after.status != lease.status:
        announce_end(uow, after, "lease_expired")
    if told is None:
        trace_id = uow.new_id("trace")
        key = free_key(uow, agent.id, request_id, trace_id)
        record = record_of_report(uow, agent, after, priced, split.uncovered, trace_id=trace_id, key=key)
        tell_call(uow, record)
    else:
        record = with_report(told, after, priced, split.uncovered, now=uow.now)
    note_report(uow, record, request_id)
    uow.usage.put(record)
    commit_reservation(uow, identity.agent_id, request_id)
    uow.limit_windows.add(record.owner_id, record.project_id, uow.now, tokens=priced.tokens, requests=1)
    _note_oddities(uow, identity, record, priced)
    mismatch = has_cost_mismatch(record.event_cost_micros, record.report_cost_micros)
    return Booked(request_id, False, priced.cost, split.uncovered, after, after, mismatch)


def _note_oddities(uow: UnitOfWork, identity: AgentIdentity, record: UsageRecord, priced: PricedReport) -> None:
    if record.overspent_micros:
        _note(uow, identity, record, "BUDGET_OVERSPENT", {"overspent_micros": record.overspent_micros})
    if priced.is_implausible:
        numbers = {"cost_micros": record.cost_micros, "expected_cost_micros": priced.expected_cost}
        _note(uow, identity, record, "COST_MISMATCH", numbers)


def _note(
    uow: UnitOfWork, identity: AgentIdentity, record: UsageRecord, operation: str, numbers: dict[str, int | None]
) -> None:
    actor = identity.actor
    metadata = {"request_id": record.request_id, **numbers}
    uow.audit.append(AuditNote(operation, "budget", "lease", record.lease_id, actor, metadata=metadata))
