"""The simulation: random days of several agents, on the real store, against an independent model of the books.

After every step the stored numbers are those of the model, the books verify and the invariants I1 to I9 of contract
budget.md 1.4 hold.
"""

import shutil
import tempfile
from collections import Counter
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TypeVar

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from ironcage_core.domain.audit import SYSTEM
from ironcage_core.errors.faults import StorageError
from ironcage_core.services.accounts import add_user
from ironcage_core.services.ic_tokens import authenticate
from ironcage_storage.sqlite.store import SqliteStore
from tests.simulation.model import Books, month
from tests.simulation.operations import (
    POLICY,
    TERMS,
    Answer,
    Call,
    Cast,
    ChangeOwner,
    GivenUpError,
    GiveUp,
    Handshake,
    Item,
    Operation,
    Pick,
    Refresh,
    Report,
    ReportBatch,
    Return,
    Revoke,
    SetAllocation,
    SetCap,
    Sweep,
    answered,
    done,
    performing,
)
from tests.simulation.sabotage import Kind, PowerCutError, abandon, repair, sabotage
from tests.simulation.witness import Stored, Witness, event_names, read_all, row_counts
from tests.support.world import NOON, SetClock, World

T = TypeVar("T")

AGENTS = st.integers(0, 2)
OWNERS = st.integers(0, 1)
COUNTS_BACK = st.one_of(st.just(0), st.integers(0, 11))
PICKS = st.builds(Pick, COUNTS_BACK, st.sampled_from(["own"] * 10 + ["foreign", "nobody"]))
REQUESTED = st.one_of(
    st.none(),
    st.integers(1, 25_000),
    st.sampled_from([1, 9_999, 10_000, TERMS.max_grant, TERMS.max_grant + 1, 0, -1]),
)
RUNTIMES = st.sampled_from([None, "runtime-a", "runtime-b"])
COSTS = st.one_of(
    st.integers(0, 12_000),
    st.sampled_from([0, 1, 10_000, TERMS.max_report, TERMS.max_report + 1, -1]),
    st.sampled_from(["all", "more than all"]),
)
ALLOCATIONS = st.one_of(st.integers(10_000, 90_000), st.sampled_from([9_999, 10_000, 30_000]))
CAPS = st.one_of(st.none(), st.integers(1, 60_000))

HANDSHAKES = st.builds(Handshake, AGENTS, REQUESTED, RUNTIMES, st.one_of(st.none(), st.sampled_from([1, 300, 86_400])))
NEW_ITEMS = st.builds(Item, PICKS, COSTS)
KNOWN_ITEMS = st.builds(
    Item, PICKS, COSTS, COUNTS_BACK, st.sampled_from([None, None, None, "cost", "tokens", "model", "provider"])
)
ITEMS = st.one_of(NEW_ITEMS, NEW_ITEMS, KNOWN_ITEMS)
REPORTS = st.builds(Report, AGENTS, ITEMS)
REPORT_BATCHES = st.builds(ReportBatch, AGENTS, st.lists(ITEMS, min_size=2, max_size=5).map(tuple))
REFRESHES = st.builds(Refresh, AGENTS, PICKS, REQUESTED)
EXTRAS = st.sampled_from([None, None, 0, -1, 1, 700, 15_000, TERMS.max_report, TERMS.max_report + 1])
RETURNS = st.builds(Return, AGENTS, PICKS, EXTRAS)
REVOKES = st.builds(Revoke, st.lists(st.integers(0, 9), min_size=1, max_size=3).map(tuple))
ADMIN_CALLS = st.one_of(
    st.builds(SetAllocation, AGENTS, ALLOCATIONS, st.booleans()),
    st.builds(SetAllocation, AGENTS, st.integers(0, 1), st.just(value=True), st.just(value=True)),
    st.builds(SetCap, OWNERS, CAPS),
    st.builds(ChangeOwner, AGENTS, OWNERS),
)
OPERATIONS: st.SearchStrategy[Operation] = st.one_of(
    HANDSHAKES, REPORTS, REPORT_BATCHES, REFRESHES, RETURNS, REVOKES, ADMIN_CALLS, st.just(Sweep())
)
BATCHES = st.lists(st.one_of(OPERATIONS, OPERATIONS, st.builds(GiveUp, OPERATIONS)), min_size=2, max_size=6)


class BooksMachine(RuleBasedStateMachine):
    """Two owners, three agents, one store; what is done to the store is told to the model."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = SetClock()
        self.folder = Path(tempfile.mkdtemp(prefix="ironcage-simulation-"))
        self.store = self.open()
        world = World(self.store, self.clock, POLICY)
        bob = self.store.write(partial(add_user, username="bob", email="bob@test", role="user", actor=SYSTEM))
        self.world = world
        self.cast = Cast(world.sealing, [world.owner_id, bob.id], [])
        self.books = Books(TERMS, NOON)
        self.witness = Witness()

    def open(self) -> SqliteStore:
        """Open the database."""
        return SqliteStore(":memory:", clock=self.clock)

    def teardown(self) -> None:
        """Let go of the database."""
        self.store.close()
        shutil.rmtree(self.folder)

    @initialize(budgets=st.tuples(ALLOCATIONS, ALLOCATIONS, ALLOCATIONS), cap=CAPS)
    def the_day_begins(self, budgets: tuple[int, int, int], cap: int | None) -> None:
        for budget, owner in zip(budgets, (0, 0, 1), strict=True):
            owner_id, amount = self.cast.owners[owner], max(10_000, budget)
            agent = self.world.agent(amount, owner_id)
            presented = self.world.signer.prove(agent.token, now=self.clock.now())
            self.cast.identities.append(self.store.read(partial(authenticate, presented=presented)))
            self.books.open_agent(agent.id, owner_id, amount)
        self.do(SetCap(0, cap))

    # --- one thing at a time -------------------------------------------------

    def do(self, operation: Operation) -> None:
        self.call(operation.resolve(self.cast, self.books))

    def call(self, call: Call) -> None:
        """Do one thing in a unit of work of its own."""
        before = row_counts(self.store)
        call.predict(self.books)
        answer = done(lambda: self.store.write(call.perform))

        agree(answer, call)
        if answer[0] in {"refused", "given up"}:
            assert row_counts(self.store) == before, "I8"
        if answer[0] == "granted" and not answer[4]:
            self.check_cap(str(answer[1]))

    def check_cap(self, lease_id: str) -> None:
        """A grant just made is covered by the cap of who pays for it (I3)."""
        stored = self.store.read(read_all)
        bank = stored.leases[lease_id].bank_user_id
        cap = self.books.caps.get(bank)
        spent = stored.bank_spent.get((bank, month(self.clock.now())), 0)
        assert cap is None or spent + stored.bank_held.get(bank, 0) <= cap, "I3"

    @rule(operation=HANDSHAKES)
    def handshake(self, operation: Handshake) -> None:
        self.do(operation)

    @rule(operation=REPORTS)
    def report(self, operation: Report) -> None:
        self.do(operation)

    @rule(operation=REPORT_BATCHES)
    def report_batch(self, operation: ReportBatch) -> None:
        self.do(operation)

    @rule(operation=REFRESHES)
    def refresh(self, operation: Refresh) -> None:
        self.do(operation)

    @rule(operation=RETURNS)
    def return_lease(self, operation: Return) -> None:
        self.do(operation)

    @rule(operation=REVOKES)
    def revoke(self, operation: Revoke) -> None:
        self.do(operation)

    @rule(operation=ADMIN_CALLS)
    def administrate(self, operation: Operation) -> None:
        self.do(operation)

    @rule()
    def sweep(self) -> None:
        self.do(Sweep())

    @rule(agent=AGENTS, unreported=st.integers(1, 5_000), cost=st.integers(1, 6_000))
    def a_queue_is_flushed_after_the_return(self, agent: int, unreported: int, cost: int) -> None:
        """The return books more than was reported; the reports that come behind it are not counted twice."""
        if not self.books.open_of(self.cast.identities[agent].agent_id):
            self.do(Handshake(agent, 3_000, None))
        self.do(Return(agent, Pick(0), unreported))
        self.do(Report(agent, Item(Pick(0), cost)))

    # --- many things in one commit ---------------------------------------------

    @rule(operations=BATCHES)
    def share_a_commit(self, operations: list[Operation]) -> None:
        """Units of work of several callers, some of which fail alone."""
        calls = self.predicted(operations)
        outcomes = self.store._writer.run(performing(calls))
        for call, outcome in zip(calls, outcomes, strict=True):
            agree(as_answer(outcome.answer, outcome.error), call)

    @rule(operations=st.lists(OPERATIONS, min_size=1, max_size=4), gives_up=st.booleans())
    def share_a_unit_of_work(self, operations: list[Operation], *, gives_up: bool) -> None:
        """Use cases of an embedding program: all of them or none."""
        before, rows = self.books.copy(), row_counts(self.store)
        calls = self.predicted(operations)
        must_fail = gives_up or any(call.expected and call.expected[0] == "refused" for call in calls)
        answer = done(partial(self.in_one_transaction, calls, gives_up=gives_up))

        assert (answer[0] in {"refused", "given up"}) == must_fail
        if must_fail:
            self.books.restore(before)
            assert row_counts(self.store) == rows, "I8"

    def in_one_transaction(self, calls: list[Call], *, gives_up: bool) -> Answer:
        with self.store.transaction() as uow:
            for call in calls:
                agree(call.perform(uow), call)
            if gives_up:
                raise GivenUpError
        return ("all done",)

    def predicted(self, operations: list[Operation]) -> list[Call]:
        """Resolve and predict operations one after the other."""
        calls = []
        for operation in operations:
            call = operation.resolve(self.cast, self.books)
            call.predict(self.books)
            calls.append(call)
        return calls

    # --- things go wrong -------------------------------------------------------

    @rule(
        operations=BATCHES,
        kind=st.sampled_from(["rows", "rows", "commit", "any"]),
        at=st.one_of(st.integers(0, 3), st.integers(0, 40)),
    )
    def the_disk_fails_once(self, operations: list[Operation], kind: Kind, at: int) -> None:
        """A statement fails: who gets an error has had no effect, who gets an answer has had all of it."""
        calls = [operation.resolve(self.cast, self.books) for operation in operations]
        sabotaged = sabotage(self.store, kind, at, is_final=False)
        outcomes = self.store._writer.run(performing(calls))
        repair(self.store, sabotaged)
        for call, outcome in zip(calls, outcomes, strict=True):
            if isinstance(outcome.error, StorageError):
                continue
            call.predict(self.books)
            answer = as_answer(outcome.answer, outcome.error)
            call.learn(answer)
            agree(answer, call)

    # --- time passes -------------------------------------------------------------

    def set_time(self, instant: int) -> None:
        self.clock.instant = self.books.now = max(NOON // 2, instant)

    @rule(milliseconds=st.one_of(st.integers(1, 5_000), st.sampled_from([60_000, 300_000, 600_000, 700_000])))
    def time_passes(self, milliseconds: int) -> None:
        self.set_time(self.clock.now() + milliseconds)

    @precondition(lambda self: any(lease.is_open for lease in self.books.leases))
    @rule(which=COUNTS_BACK, beside=st.sampled_from([0, 0, -1, 1]))
    def a_lease_comes_to_its_limit(self, which: int, beside: int) -> None:
        """Sweep at the very millisecond at which time changes a lease, or one beside it."""
        limits = [due for number in range(len(self.books.leases)) if (due := self.books.due_at(number)) is not None]
        self.set_time(limits[-1 - which % len(limits)] + beside)
        self.do(Sweep())

    @rule(beside=st.sampled_from([-1, 0, 1]))
    def a_month_ends(self, beside: int) -> None:
        now = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=self.clock.now())
        year, month_index = divmod(now.year * 12 + now.month, 12)
        self.set_time(int(datetime(year, month_index + 1, 1, tzinfo=UTC).timestamp()) * 1000 + beside)

    @rule(seconds=st.sampled_from([1, 90, 3_600]))
    def the_clock_is_set_back(self, seconds: int) -> None:
        self.set_time(self.clock.now() - seconds * 1000)

    # --- after every step ----------------------------------------------------------

    @invariant()
    def the_books_are_those_of_the_model(self) -> None:
        if not self.cast.identities:
            return
        stored = self.store.read(read_all)
        for agent, numbers in self.books.agents.items():
            if numbers.allocated < self.books.spent(agent) + self.books.held(agent) - self.books.overspent(agent):
                self.witness.may_be_short.add(agent)
        self.witness.check(stored)
        compare(stored, self.books, self.cast)
        assert event_names(self.store) == self.books.events
        assert row_counts(self.store)["usage"] == len(self.books.records)


class FileMachine(BooksMachine):
    """The same on a file, which can be closed, opened again, and left by a dying process."""

    def open(self) -> SqliteStore:
        """Open the database."""
        return SqliteStore(self.folder / "books.db", clock=self.clock)

    @rule()
    def the_store_is_opened_again(self) -> None:
        self.store.close()
        self.store = self.open()

    @rule(
        operations=st.lists(OPERATIONS, min_size=1, max_size=3),
        kind=st.sampled_from(["any", "any", "rows", "commit"]),
        at=st.one_of(st.integers(0, 3), st.integers(0, 40)),
        after=st.booleans(),
    )
    def the_power_is_cut(self, operations: list[Operation], kind: Kind, at: int, *, after: bool) -> None:
        """The process dies at a statement: all of the commit is on disk or nothing, and trying again is safe."""
        before = self.books.copy()
        calls = self.predicted(operations)
        sabotaged = sabotage(self.store, kind, at, is_final=True, after=after)
        try:
            outcomes = self.store._writer.run(performing(calls))
        except PowerCutError:
            abandon(self.store)
            self.store = self.open()
        else:
            repair(self.store, sabotaged)
            for call, outcome in zip(calls, outcomes, strict=True):
                agree(as_answer(outcome.answer, outcome.error), call)
        if not sabotaged.has_committed:
            self.books.restore(before)
        self.the_books_are_those_of_the_model()
        for call in calls if sabotaged.has_failed else ():
            self.call(call)


def as_answer(answer: object, error: BaseException | None) -> Answer:
    """Return what became of one unit of work of a batch."""
    if error is not None:
        return answered(error)
    assert isinstance(answer, tuple)
    return answer


def agree(answer: Answer, call: Call) -> None:
    """Check the store's answer against the model's."""
    expected = call.settled()
    assert answer == expected, f"{call.name}: answered {answer}, the model says {expected}"


def compare(stored: Stored, books: Books, cast: Cast) -> None:
    """Check that the store holds the numbers of the model, no more and no less."""
    ids = {cast.id_of(number): number for number in range(len(books.leases))}
    assert stored.balances.keys() == books.agents.keys()
    assert stored.leases.keys() == ids.keys()
    for agent_id, balance in stored.balances.items():
        modelled = (books.agents[agent_id].allocated, books.spent(agent_id), books.overspent(agent_id))
        assert (balance.allocated, balance.spent, balance.overspent) == modelled, f"{balance} is not {modelled}"
        assert (balance.held, balance.remaining) == (books.held(agent_id), books.remaining(agent_id))
    for lease_id, number in ids.items():
        compare_lease(stored, lease_id, books, number, cast)
    users = {lease.bank for lease in books.leases}
    assert stored.bank_held == {user: books.bank_held(user) for user in users if books.bank_held(user)}
    assert stored.bank_spent == {key: amount for key, amount in books.bank_spent.items() if amount}
    assert Counter(entry.kind for entry in stored.entries) == books.entries


SHARED_FIELDS = (
    "granted", "rolled_over", "spent", "overspent", "returned", "reclaimed", "unattributed", "reports", "status",
)  # fmt: skip


def compare_lease(stored: Stored, lease_id: str, books: Books, number: int, cast: Cast) -> None:
    """Check every field of a lease that the contract speaks of."""
    lease, modelled = stored.leases[lease_id], books.leases[number]
    assert (lease.agent_id, lease.bank_user_id, lease.runtime_id) == (modelled.agent, modelled.bank, modelled.runtime)
    assert {name: getattr(lease, name) for name in SHARED_FIELDS} == {
        name: getattr(modelled, name) for name in SHARED_FIELDS
    }
    assert (lease.status_reason, lease.expired_at) == (modelled.reason, modelled.expired_at)
    assert (lease.closed_at, lease.changes_at) == (modelled.closed_at, books.due_at(number))
    assert lease.successor_id == (None if modelled.successor is None else cast.id_of(modelled.successor))


class TestBooksInMemory(BooksMachine.TestCase):  # type: ignore[valid-type,misc]  # made at run time
    """Random days on `:memory:`."""

    settings = settings.get_profile("simulation")


class TestBooksInAFile(FileMachine.TestCase):  # type: ignore[valid-type,misc]  # made at run time
    """Random days on a file that is closed, opened and left in the middle of everything."""

    settings = settings.get_profile("simulation")
