"""Verify: recompute every number from what it is the sum of, and name each difference.

The ledger is read once, agent by agent; nothing that is stored as a total is trusted.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Final, NamedTuple, TypeVar

from ironcage_core.domain.audit import RETENTION_DAYS, Chain, row_hash
from ironcage_core.domain.instants import day_start, next_day_start, period_of
from ironcage_core.domain.leases import Lease
from ironcage_core.domain.ledger import EFFECTS, Balance, Entry
from ironcage_core.domain.money import Micros
from ironcage_core.ports.storage import UnitOfWork

Key = TypeVar("Key", bound=tuple[str, ...])


@dataclass(frozen=True, slots=True)
class Difference:
    """One stored number that is not what its sources say."""

    subject: str
    number: str
    stored: object
    recomputed: object


@dataclass(frozen=True, slots=True)
class Verification:
    """What was checked, and every difference found."""

    agents: int
    leases: int
    entries: int
    audit_rows: int
    differences: list[Difference]

    @property
    def holds(self) -> bool:
        """Whether the books add up."""
        return not self.differences


_NUMBERS: Final = ("allocated", "spent", "overspent", "held")


class _Sums:
    """Sums of entries by the column they move: of an agent, of its leases and of the banks."""

    def __init__(self) -> None:
        self.entries = 0
        self.bank_spent: Counter[tuple[str, str]] = Counter()
        self.bank_held: Counter[str] = Counter()
        self.project_spent: Counter[tuple[str, str, str]] = Counter()
        self.project_held: Counter[tuple[str, str]] = Counter()

    def add(self, entry: Entry, lease: Lease | None) -> None:
        """Count an entry against the bank it moves, in all and in the project of its lease."""
        effect = EFFECTS[entry.kind]
        spent, held = effect.spent * entry.amount, effect.held * entry.amount
        self.entries += 1
        self.bank_held[entry.bank_user_id] += held
        self.bank_spent[entry.bank_user_id, entry.period] += spent
        if lease is not None:
            self.project_held[entry.bank_user_id, lease.project_id] += held
            self.project_spent[entry.bank_user_id, lease.project_id, entry.period] += spent


def verify(uow: UnitOfWork, agent_id: str | None = None) -> Verification:
    """Recompute balances, leases, banks, counts, rollups of usage, the audit chains and today's tokens of limits.

    Args:
        uow: An open unit of work; a read snapshot is enough.
        agent_id: Check only this agent's balance and leases; None checks everything.

    Source: contract budget.md 1.2 (E1 to E8), 1.4 (I1, I2, I6) and 15; analytics.md 5; identity.md 11.
    """
    sums = _Sums()
    differences: list[Difference] = []
    unseen = {balance.agent_id for balance in uow.balances.all() if agent_id in {None, balance.agent_id}}
    agents, leases = len(unseen), 0
    for posted_to, entries in groupby(uow.ledger.by_agent(agent_id), key=lambda entry: entry.agent_id):
        unseen.discard(posted_to)
        of_agent, found = _check_agent(uow, posted_to, entries, sums)
        leases += of_agent
        differences += found
    for silent in sorted(unseen):
        of_agent, found = _check_agent(uow, silent, (), sums)
        leases += of_agent
        differences += found
    audit_rows = 0
    if agent_id is None:
        differences += _check_banks(uow, sums)
        differences += _check_counts(uow)
        differences += [Difference(*each) for each in uow.usage.rollup_differences()]
        differences += _check_limit_windows(uow)
        audit_rows, broken = _check_audit(uow)
        differences += broken
    return Verification(agents, leases, sums.entries, audit_rows, differences)


def _check_agent(uow: UnitOfWork, agent_id: str, entries: Iterable[Entry], sums: _Sums) -> tuple[int, list[Difference]]:
    of_agent: Counter[str] = Counter()
    of_lease: dict[str, Counter[str]] = {}
    known = {lease.id: lease for lease in uow.leases.of_agent(agent_id)}
    differences: list[Difference] = []
    for entry in entries:
        effect = EFFECTS[entry.kind]
        for number in _NUMBERS:
            of_agent[number] += getattr(effect, number) * entry.amount
        sums.add(entry, known.get(entry.lease_id or ""))
        if entry.lease_id and effect.lease_column:
            of_lease.setdefault(entry.lease_id, Counter())[effect.lease_column] += entry.amount
        differences += _check_entry(entry, of_agent)
    differences += _check_balance(uow.balances.find(agent_id), agent_id, of_agent)
    differences += _check_pending(uow, agent_id, known)
    reported = {row.lease_id: row.cost for row in uow.usage.reported_by_lease(agent_id)}
    held = sum(lease.held for lease in known.values())
    for lease in known.values():
        differences += _check_lease(lease, of_lease.pop(lease.id, Counter()), reported.pop(lease.id, 0))
    if held != of_agent["held"]:
        differences.append(Difference(agent_id, "held by its leases", held, of_agent["held"]))
    differences += [Difference(agent_id, "lease", "missing", lease_id) for lease_id in {*of_lease, *reported}]
    return len(known), differences


def _check_balance(balance: Balance | None, agent_id: str, posted: Counter[str]) -> Iterator[Difference]:
    if balance is None:
        yield Difference(agent_id, "balance", "missing", dict(posted))
        return
    for number in _NUMBERS:
        if getattr(balance, number) != posted[number]:
            yield Difference(agent_id, number, getattr(balance, number), posted[number])


def _check_pending(uow: UnitOfWork, agent_id: str, known: Mapping[str, Lease]) -> Iterator[Difference]:
    unsettled: Counter[str] = Counter()
    for row in uow.usage.unreported_by_lease(agent_id):
        lease = known.get(row.lease_id)
        while lease is not None and lease.successor_id is not None:
            lease = known.get(lease.successor_id)
        if lease is not None and lease.is_open:
            unsettled[lease.id] += row.cost
    for each in known.values():
        if each.pending != unsettled[each.id]:
            yield Difference(each.id, "pending", each.pending, unsettled[each.id])
    balance = uow.balances.find(agent_id)
    if balance is not None and balance.pending != unsettled.total():
        yield Difference(agent_id, "pending", balance.pending, unsettled.total())


def _check_entry(entry: Entry, running: Counter[str]) -> Iterator[Difference]:
    after = (entry.allocated_after, entry.spent_after, entry.held_after)
    recomputed = (running["allocated"], running["spent"], running["held"])
    if after != recomputed:
        yield Difference(entry.id, "balances after the entry", after, recomputed)
    if entry.period != period_of(entry.posted_at):
        yield Difference(entry.id, "period", entry.period, period_of(entry.posted_at))


def _check_lease(lease: Lease, posted: Counter[str], reported: Micros) -> Iterator[Difference]:
    for number in ("granted", "spent", "overspent", "returned", "reclaimed"):
        if getattr(lease, number) != posted[number]:
            yield Difference(lease.id, number, getattr(lease, number), posted[number])
    if lease.total_spent != reported + lease.unattributed:
        yield Difference(lease.id, "total spent", lease.total_spent, reported + lease.unattributed)
    if lease.held < 0 or (lease.held and not lease.is_open):
        yield Difference(lease.id, "held", lease.held, 0)
    if lease.is_open != (lease.due_at is not None):
        yield Difference(lease.id, "due_at", lease.due_at, lease.status)
    if lease.due_at is not None and lease.changes_at is not None and lease.due_at > lease.changes_at:
        yield Difference(lease.id, "due_at", lease.due_at, lease.changes_at)  # time would pass it by


def _check_banks(uow: UnitOfWork, sums: _Sums) -> Iterator[Difference]:
    held = {(user_id,): amount for user_id, amount in uow.banks.all_held().items()}
    posted = Counter({(user_id,): amount for user_id, amount in sums.bank_held.items()})
    yield from _unequal("bank spent", uow.banks.all_spent(), sums.bank_spent)
    yield from _unequal("bank held", held, posted)
    yield from _unequal("bank spent in the project", uow.banks.all_spent_in_projects(), sums.project_spent)
    yield from _unequal("bank held in the project", uow.banks.all_held_in_projects(), sums.project_held)


def _unequal(number: str, stored: Mapping[Key, Micros], posted: Counter[Key]) -> Iterator[Difference]:
    for key in {*stored, *posted}:
        if stored.get(key, 0) != posted[key]:
            yield Difference("/".join(key), number, stored.get(key, 0), posted[key])


class Miscounted(NamedTuple):
    """Tokens of today that count against a limit, beside the least and the most they can be."""

    user_id: str
    project_id: str | None
    counted: int
    lowest: int
    highest: int


def _check_limit_windows(uow: UnitOfWork) -> Iterator[Difference]:
    for each in miscounted_tokens(uow):
        subject = "/".join((each.user_id, each.project_id or "all projects"))
        yield Difference(subject, "tokens of today", each.counted, each.lowest)


def miscounted_tokens(uow: UnitOfWork) -> Iterator[Miscounted]:
    """Yield what counts against limits today and is not what the records of usage say."""
    today = day_start(uow.now)
    lowest: Counter[tuple[str, str | None]] = Counter()
    purged: Counter[str] = Counter()  # of which project such a call was, nobody knows: its agent may have moved
    for (owner_id, project_id), tokens in uow.usage.received(today, next_day_start(today)).items():
        purged[owner_id] += tokens.purged
        for project in (None, project_id):
            lowest[owner_id, project] += tokens.recorded
    counted = uow.limit_windows.all_tokens(today)
    for key in {*counted, *lowest}:
        found = Miscounted(*key, counted.get(key, 0), lowest[key], lowest[key] + purged[key[0]])
        if not found.lowest <= found.counted <= found.highest:
            yield found


def _check_counts(uow: UnitOfWork) -> Iterator[Difference]:
    for what, counts in (("entries", uow.ledger.counts()), ("leases", uow.leases.counts())):
        for (agent_id, of), (maintained, counted) in counts.items():
            if maintained != counted:
                yield Difference(agent_id, f"number of {of} {what}", maintained, counted)
    for (owner_id, project_id), (kept, recounted) in uow.balances.counts().items():
        if kept != recounted:
            yield Difference(f"{owner_id}/{project_id}", "totals of agents", kept, recounted)
    for key_id, (of_key, assigned) in uow.provider_keys.counts().items():
        if of_key != assigned:
            yield Difference(key_id, "number of agents", of_key, assigned)


def _check_audit(uow: UnitOfWork) -> tuple[int, list[Difference]]:
    heads = dict(uow.audit.anchors())  # what a chain's first kept row follows; nothing where none was ever pruned
    differences = [
        Difference(chain, "audit anchor", anchor, "none: its rows stay for ever")
        for chain, anchor in heads.items()
        if RETENTION_DAYS.get(chain) is None
    ]
    counted: Counter[Chain] = Counter()
    for row in uow.audit.rows():
        counted[row.chain] += 1
        if row.prev_hash != heads.get(row.chain, "") or row_hash(row, row.prev_hash) != row.hash:
            differences.append(Difference(row.id, "audit chain", row.hash, "does not follow"))
        heads[row.chain] = row.hash
    maintained = uow.audit.counts()
    differences += [
        Difference(chain, "number of audit rows", maintained.get(chain, 0), counted[chain])
        for chain in RETENTION_DAYS
        if maintained.get(chain, 0) != counted[chain]
    ]
    return counted.total(), differences
