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
from typing import Literal, TypeVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from ironcage_core.domain.access import principal_of
from ironcage_core.domain.audit import SYSTEM
from ironcage_core.domain.ids import MASTER_PROJECT, ORPHANED_PROJECT
from ironcage_core.domain.usage import UsageRecord
from ironcage_core.errors.faults import StorageError
from ironcage_core.ports.lists import EntryFilter, LeaseFilter, Paging, RequestFilter
from ironcage_core.ports.storage import UnitOfWork
from ironcage_core.services.accounts import add_user
from ironcage_core.services.agents import create_agent
from ironcage_core.services.provider_keys import add_provider_key
from ironcage_core.services.repair import repair as repair_books
from ironcage_storage.sqlite.store import SqliteStore
from tests.simulation.calls import SPELLINGS, Row, sums_of
from tests.simulation.control import (
    Again,
    AssignKeys,
    CancelReservation,
    ChangeToken,
    Decide,
    Reserve,
    SetLimits,
    Steer,
    Submit,
    Suspend,
    SwitchKey,
)
from tests.simulation.model import DAY, MINUTE, Books, Limits, month
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
    Sweep,
    answered,
    done,
    performing,
    respelled,
)
from tests.simulation.sabotage import Kind, PowerCutError, abandon, repair, sabotage
from tests.simulation.telling import Happening, Tell
from tests.simulation.witness import Stored, Witness, alerts, event_names, read_all, row_counts
from tests.support.world import ADMIN, API_KEY, NOON, SetClock, World

pytestmark = [
    pytest.mark.timeout(300),  # many days, on a disk that others may use
    # Our strategies are large; nobody asked for their repr.
    pytest.mark.filterwarnings("ignore:Generating overly large repr:hypothesis.errors.HypothesisWarning"),
]

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
TOKENS = st.sampled_from([0] * 8 + [1, 1, 2])
KEYS = st.sampled_from([None] * 4 + [0, 1, 2])

HANDSHAKES = st.builds(
    Handshake, AGENTS, REQUESTED, RUNTIMES, st.one_of(st.none(), st.sampled_from([1, 300, 86_400])), TOKENS, KEYS
)
SPELT = st.sampled_from([None, None, *range(SPELLINGS)])
SPLITS = st.sampled_from([None, None, 0, 40])
NEW_ITEMS = st.builds(Item, PICKS, COSTS, spelling=SPELT, split=SPLITS)
TOLD_ITEMS = st.builds(Item, PICKS, COSTS, told=COUNTS_BACK, spelling=SPELT, split=SPLITS)
KNOWN_ITEMS = st.builds(
    Item, PICKS, COSTS, COUNTS_BACK, st.sampled_from([None, None, None, "cost", "tokens", "model", "provider"])
)
RESERVED_ITEMS = st.builds(Item, PICKS, COSTS, reserved=COUNTS_BACK)
ITEMS = st.one_of(NEW_ITEMS, NEW_ITEMS, KNOWN_ITEMS, RESERVED_ITEMS, TOLD_ITEMS)
HAPPENINGS = st.builds(
    Happening,
    is_completed=st.sampled_from([True, True, False]),
    cost=st.one_of(st.integers(0, 12_000), st.sampled_from([0, 50, 30_000, 60_000, -1])),
    known=st.one_of(st.none(), COUNTS_BACK),
    is_named=st.booleans(),
    spelling=SPELT,
    lease=st.one_of(st.none(), PICKS),
    late=st.sampled_from([0, 0, 0, 5_000, -300_000, -300_001, DAY, DAY + 1]),
    provider=st.sampled_from(["openai", "openai", "anthropic"]),
    provider_id=st.sampled_from([None, None, "told"]),
    duration=st.sampled_from([None, 7]),
)
TELLINGS = st.deferred(  # its long name would make those of all that hold it too long
    lambda: st.builds(
        Tell, AGENTS, st.lists(HAPPENINGS, min_size=1, max_size=4).map(tuple), TOKENS, st.sampled_from([None, None, 1])
    )
)
REPORTS = st.builds(Report, AGENTS, ITEMS, TOKENS)
REPORT_BATCHES = st.builds(ReportBatch, AGENTS, st.lists(ITEMS, min_size=2, max_size=5).map(tuple), TOKENS)
REFRESHES = st.builds(Refresh, AGENTS, PICKS, REQUESTED, TOKENS, KEYS)
EXTRAS = st.sampled_from([None, None, 0, -1, 1, 700, 15_000, TERMS.max_report, TERMS.max_report + 1])
RETURNS = st.builds(Return, AGENTS, PICKS, EXTRAS, TOKENS, KEYS)
REVOKES = st.builds(Revoke, st.lists(st.integers(0, 9), min_size=1, max_size=3).map(tuple))
RESERVATIONS = st.one_of(
    st.builds(
        Reserve,
        AGENTS,
        st.one_of(st.none(), PICKS),
        st.one_of(st.integers(0, 6_000), st.sampled_from(["all", "more than all", -1])),
        st.one_of(st.none(), st.none(), COUNTS_BACK),
        st.sampled_from([1, 300, 3_600]),
        TOKENS,
        KEYS,
    ),
    st.builds(CancelReservation, AGENTS, COUNTS_BACK, TOKENS),
)
AMOUNTS = st.one_of(ALLOCATIONS, ALLOCATIONS, st.sampled_from([TERMS.highest_request, TERMS.highest_request + 1]))
BUDGET_REQUESTS = st.one_of(
    st.builds(Submit, AGENTS, st.integers(0, 2), AMOUNTS, KEYS),
    st.builds(
        Decide,
        st.sampled_from(["approve", "approve", "reject", "cancel"]),
        st.integers(0, 9),
        st.one_of(st.none(), AMOUNTS),
        st.integers(0, 2),
        KEYS,
    ),
)
STEERINGS = st.one_of(
    st.builds(Steer, AGENTS, st.sampled_from(["stop", "start", "start", "inactive", "active", "active"])),
    st.builds(SwitchKey, st.integers(0, 1), st.booleans()),
    st.builds(AssignKeys, AGENTS, st.sampled_from([(0,), (1,), (0, 1), (0, 1), (1, 0), ()])),
    st.builds(Suspend, OWNERS, st.sampled_from([True, False, False])),
)
TOKEN_CHANGES = st.one_of(
    st.builds(ChangeToken, AGENTS, st.just("regenerate"), st.sampled_from([0, 0, 60, 600]), st.booleans()),
    st.builds(ChangeToken, AGENTS, st.sampled_from(["regenerate", "revoke", "issue", "issue"])),
    st.builds(Steer, st.just(2), st.sampled_from(["delete", "start", "active"])),
)
LIMITS = st.builds(
    SetLimits,
    OWNERS,
    st.builds(
        Limits,
        CAPS,
        st.sampled_from([None, None, None, 1, 300, 1_000]),
        st.sampled_from([None, None, None, 1, 5, 20]),
    ),
    st.sampled_from([None, None, 0, 1]),
)
AGAIN = st.builds(Again, st.integers(0, 5), st.sampled_from([False, False, False, True]))
ADMIN_CALLS = st.one_of(
    st.builds(SetAllocation, AGENTS, ALLOCATIONS, st.booleans(), key=KEYS),
    st.builds(SetAllocation, AGENTS, st.integers(0, 1), st.just(value=True), st.just(value=True)),
    LIMITS,
    st.builds(ChangeOwner, AGENTS, OWNERS),
)
OPERATIONS: st.SearchStrategy[Operation] = st.one_of(
    HANDSHAKES, REPORTS, REPORT_BATCHES, REFRESHES, RETURNS, REVOKES, ADMIN_CALLS, st.just(Sweep()),
    RESERVATIONS, BUDGET_REQUESTS, STEERINGS, TOKEN_CHANGES, AGAIN, TELLINGS, TELLINGS,
)  # fmt: skip
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
        ann = self.store.read(lambda uow: uow.users.find(world.owner_id))
        assert ann is not None
        root = self.store.write(partial(add_user, username="root", email="root@test", role="admin", actor=SYSTEM))
        key = self.store.write(
            partial(add_provider_key, provider="openai", api_key=API_KEY, actor=ADMIN, vault=world.vault)
        )
        principals = [principal_of(user, "session") for user in (ann, bob, root)]
        keys, projects = [world.key_id, key.id], [MASTER_PROJECT, ORPHANED_PROJECT]
        self.cast = Cast(world.sealing, world.signer, [ann.id, bob.id], principals, keys, projects)
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
        for budget, owner, project in zip(budgets, (0, 0, 1), (0, 1, 0), strict=True):
            owner_id, amount, project_id = self.cast.owners[owner], max(10_000, budget), self.cast.projects[project]
            made = self.store.write(
                partial(
                    create_agent, name="worker", budget=amount, owner_id=owner_id, provider_key_ids=self.cast.keys,
                    project_id=project_id, actor=ADMIN, signer=self.world.signer,
                )
            )  # fmt: skip
            self.cast.ids["value", len(self.cast.agents)] = made.ic_token.value
            self.cast.agents.append(made.agent.id)
            self.books.open_agent(made.agent.id, owner_id, amount, project_id, (0, 1))
        self.do(SetLimits(0, Limits(cap)))

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
        cap = self.books.cap(bank)
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

    @rule(operation=TELLINGS)
    def tell(self, operation: Tell) -> None:
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

    @rule(operation=RESERVATIONS)
    def reserve(self, operation: Operation) -> None:
        self.do(operation)

    @rule(operation=BUDGET_REQUESTS)
    def request_budget(self, operation: Operation) -> None:
        self.do(operation)

    @rule(operation=STEERINGS)
    def steer(self, operation: Operation) -> None:
        self.do(operation)

    @rule(operation=TOKEN_CHANGES)
    def change_token(self, operation: Operation) -> None:
        self.do(operation)

    @rule(operation=AGAIN)
    def the_message_comes_again(self, operation: Again) -> None:
        self.do(operation)

    @rule()
    def sweep(self) -> None:
        self.do(Sweep())

    @rule(agent=AGENTS, unreported=st.integers(1, 5_000), cost=st.integers(1, 6_000))
    def a_queue_is_flushed_after_the_return(self, agent: int, unreported: int, cost: int) -> None:
        """The return books more than was reported; the reports that come behind it are not counted twice."""
        if not self.books.open_of(self.cast.agents[agent]):
            self.do(Handshake(agent, 3_000, None))
        self.do(Return(agent, Pick(0), unreported))
        self.do(Report(agent, Item(Pick(0), cost)))

    @rule(agent=AGENTS, costs=st.lists(st.integers(0, 6_000), min_size=1, max_size=3), revokes=st.booleans())
    def a_dead_value_settles(self, agent: int, costs: list[int], *, revokes: bool) -> None:
        """A token is replaced while its lease is open; what was under way is reported under the old value."""
        self.make_ready(agent)
        self.do(Handshake(agent, 5_000, None))
        self.do(ChangeToken(agent, "regenerate", 0, revokes))
        for cost in costs:
            self.do(Report(agent, Item(Pick(0), cost), token=1))
        self.do(Return(agent, Pick(0), None, token=1))

    @rule(agent=AGENTS, cost=st.integers(1, 5_000), beside=st.sampled_from([0, 1]))
    def a_month_ends_while_money_is_lent(self, agent: int, cost: int, beside: int) -> None:
        """What is lent carries over, what is spent is of the month in which it was reported."""
        self.a_month_ends(-1)
        self.make_ready(agent)
        self.do(Handshake(agent, 8_000, None))
        self.do(Report(agent, Item(Pick(0), cost)))
        self.set_time(self.clock.now() + 1 + beside)
        self.do(Report(agent, Item(Pick(0), cost)))
        self.do(Refresh(agent, Pick(0), 3_000))

    def make_ready(self, agent: int) -> None:
        """Take away all that keeps an agent from money; one that is deleted stays so."""
        name = self.cast.agents[agent]
        known = self.books.agents[name]
        owner = self.cast.owners.index(known.owner)
        if known.is_hindered or len(self.books.open_of(name)) >= TERMS.max_open:
            for what in ("stop", "start", "active"):
                self.do(Steer(agent, what))
        for key in sorted(self.books.disabled_keys):
            self.do(SwitchKey(key, is_enabled=True))
        if known.keys != (0, 1):
            self.do(AssignKeys(agent, (0, 1)))
        if known.owner in self.books.suspended:
            self.do(Suspend(owner, is_suspended=False))
        for project in (None, 0, 1):
            self.do(SetLimits(owner, Limits(), project))
        if known.current is None:
            self.do(ChangeToken(agent, "issue"))
        if self.books.remaining(name) < 20_000:
            self.do(SetAllocation(agent, known.allocated + 20_000 - self.books.remaining(name), force=False))

    @rule(
        agent=AGENTS,
        amount=st.integers(0, 3_000),
        rest=st.sampled_from(["all", "more than all"]),
        then=st.sampled_from(["report", "refresh", "return", "revoke", "stop", "cancel", "time"]),
    )
    def a_call_is_reserved(self, agent: int, amount: int, rest: Literal["all", "more than all"], then: str) -> None:
        """What is set aside is free again after the report, or when the lease ends, or goes with a refresh."""
        self.make_ready(agent)
        self.do(Handshake(agent, 6_000, None))
        self.do(Reserve(agent, Pick(0), amount))
        self.do(Reserve(agent, Pick(0), rest))
        endings: dict[str, Operation] = {
            "report": Report(agent, Item(Pick(0), amount, reserved=0)),
            "refresh": Refresh(agent, Pick(0), 1_000),
            "return": Return(agent, Pick(0), None),
            "revoke": Revoke((0,)),
            "stop": Steer(agent, "stop"),
            "cancel": CancelReservation(agent, 0),
        }
        if then in endings:
            self.do(endings[then])
        else:
            self.set_time(self.clock.now() + 300_000)
        self.do(Reserve(agent, Pick(0), rest))

    @rule(
        agent=AGENTS,
        spellings=st.tuples(SPELT, SPELT, SPELT),
        cost=st.sampled_from([1, 700, 6_000, 30_000]),
        steps=st.permutations(
            ["completed", "failed", "report", "again", "refresh", "return", "revoke", "stop", "sweep", "time", "raise"]
        ),
        count=st.integers(3, 8),
    )
    def a_call_is_told_and_reported(
        self, agent: int, spellings: tuple[int | None, ...], cost: int, steps: list[str], count: int
    ) -> None:
        """One call in all its names, while what happens to leases happens to its own."""
        self.make_ready(agent)
        self.do(Handshake(agent, 6_000, None))
        name = self.cast.new_request(spellings[0])
        told, failed = (
            Happening(is_completed=is_completed, cost=cost, name=respelled(name, spelling), is_named=spelling == 1)
            for is_completed, spelling in ((True, spellings[1]), (False, spellings[2]))
        )
        allocated = self.books.agents[self.cast.agents[agent]].allocated
        operations: dict[str, Operation] = {
            "completed": Tell(agent, (told,)),
            "failed": Tell(agent, (failed,)),
            "report": Report(agent, Item(Pick(0), cost + len(steps[0]) - 6, told=0)),
            "again": Tell(agent, (failed, told)),
            "refresh": Refresh(agent, Pick(0), 1_000),
            "return": Return(agent, Pick(0), cost),
            "revoke": Revoke((0,)),
            "stop": Steer(agent, "stop"),
            "sweep": Sweep(),
            "raise": SetAllocation(agent, allocated + 30_000, force=False),
        }
        for step in steps[:count]:
            if step in operations:
                self.do(operations[step])
            else:
                self.set_time(self.clock.now() + TERMS.ttl)

    @rule(agent=AGENTS, raised=st.integers(1, 9_000), key=KEYS, what=st.sampled_from(["approve", "reject", "cancel"]))
    def a_request_is_decided_late(
        self, agent: int, raised: int, key: int | None, what: Literal["approve", "reject", "cancel"]
    ) -> None:
        """An approval sets the budget, whatever it was when the request was made; a second decision comes too late."""
        allocated = self.books.agents[self.cast.agents[agent]].allocated
        self.do(Submit(agent, 2, allocated + 6_000, key))
        self.do(SetAllocation(agent, allocated + raised, force=False))
        self.do(Decide(what, 0, key=key))
        self.do(Decide("approve", 0, key=key))

    @rule(
        agent=AGENTS,
        which=st.sampled_from(["month", "tokens", "requests"]),
        is_of_project=st.booleans(),
        beside=st.sampled_from([0, 0, 1]),
    )
    def a_cap_is_reached(self, agent: int, which: str, beside: int, *, is_of_project: bool) -> None:
        """A cap that is used up refuses new money, one that is not lets it pass."""
        self.make_ready(agent)
        self.do(Handshake(agent, 5_000, None))
        self.do(Report(agent, Item(Pick(0), 700)))
        known, now = self.books.agents[self.cast.agents[agent]], self.clock.now()
        project = known.project if is_of_project else None
        spent, held = self.books.spent_of_month(known.owner, project), self.books.lent_of(known.owner, project)
        used = {
            "month": spent + held,
            "tokens": self.books.tokens_used[known.owner, project, now // DAY],
            "requests": self.books.requests_made[known.owner, project, now // MINUTE],
        }[which]
        limits = Limits(**{which: max(1, used + beside)})
        place = self.cast.projects.index(project) if project else None
        self.do(SetLimits(self.cast.owners.index(known.owner), limits, place))
        self.do(Handshake(agent, 3, None))
        self.do(Refresh(agent, Pick(0), 3))

    # --- what is derived -------------------------------------------------------

    @rule()
    def a_repair_finds_nothing(self) -> None:
        """On sound books it changes no row and remembers nothing."""
        before = row_counts(self.store)
        repaired = self.store.write(repair_books)

        assert (repaired.rows and {}, repaired.differences) == ({}, [])
        assert row_counts(self.store) == before

    @rule(agent=AGENTS)
    def lists_are_counted(self, agent: int) -> None:
        """The totals of lists are the numbers of the model."""
        self.store.read(partial(count_lists, books=self.books, agent=self.cast.agents[agent]))

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
        if not self.cast.agents:
            return
        stored = self.store.read(read_all)
        for agent, numbers in self.books.agents.items():
            if numbers.allocated < self.books.spent(agent) + self.books.held(agent) - self.books.overspent(agent):
                self.witness.may_be_short.add(agent)
        self.witness.check(stored)
        compare(stored, self.books, self.cast)
        assert event_names(self.store) == self.books.events
        assert alerts(self.store) == [tuple(alert) for alert in self.books.alerts]
        assert row_counts(self.store)["usage"] == len(self.books.calls)


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
    compare_control(stored, books, cast)
    compare_calls(stored, books, cast)


def compare_calls(stored: Stored, books: Books, cast: Cast) -> None:
    """Check each record of a call, their sums, and what is pending."""
    rows = [with_ids(call.row(), cast) for call in books.calls]
    assert Counter(row_of(record) for record in stored.usage) == Counter(rows)
    assert {key: tuple(sums[:9]) for key, sums in stored.sums.items()} == sums_of(rows)
    pendings = books.pendings()
    for number in range(len(books.leases)):
        assert stored.leases[cast.id_of(number)].pending == pendings[number]
    for agent_id, balance in stored.balances.items():
        assert balance.pending == books.pending(agent_id)


def with_ids(row: Row, cast: Cast) -> Row:
    """Return a row with ids in the place of numbers."""
    lease = cast.id_of(row.lease) if isinstance(row.lease, int) else row.lease
    key = cast.keys[row.provider_id] if isinstance(row.provider_id, int) else row.provider_id
    return row._replace(lease=lease, provider_id=key)


def row_of(record: UsageRecord) -> Row:
    """Return a record as the model has it."""
    return Row(
        record.agent_id, record.owner_id, record.project_id,
        "trace" if record.call_key == record.id else record.call_key,
        record.event_id, record.request_id, record.lease_id, record.occurred_at, record.received_at, record.outcome,
        record.model, record.provider, record.provider_id, record.input_tokens, record.output_tokens,
        record.unsplit_tokens, record.cost_micros, record.cost_source, record.event_cost_micros,
        record.report_cost_micros, record.overspent_micros, record.duration_ms, record.error_code,
        record.report_tokens,
    )  # fmt: skip


def compare_control(stored: Stored, books: Books, cast: Cast) -> None:
    """Check what steers the money: states, levels that were told, reservations, requests and settlements."""
    for agent_id, modelled in books.agents.items():
        agent = stored.agents[agent_id]
        states = (modelled.runtime, modelled.is_held, modelled.is_inactive, modelled.is_deleted)
        is_deleted = agent.deleted_at is not None
        assert (agent.runtime_status, agent.stop_hold, agent.status == "inactive", is_deleted) == states
        # What a level was lowered to may lie between two: then it counts as the lower one.
        level = stored.balances[agent_id].alert_level
        assert max((each for each in TERMS.levels if each <= level), default=0) == modelled.level
    for (user, period), level in books.month_levels.items():
        assert stored.month_levels.get((user, period), 0) == level
    reserved = {cast.id_of(number): books.reserved(number) for number in range(len(books.leases))}
    assert stored.reserved == {lease_id: amount for lease_id, amount in reserved.items() if amount}
    requests = [
        (cast.id_of(number, "request"), each.agent, each.requester, each.status, each.current, each.approved)
        for number, each in enumerate(books.requests)
    ]
    assert sorted(stored.requests) == sorted(requests)
    settlements = {cast.id_of(number): numbers for number, numbers in books.settlements.items()}
    assert stored.settlements == settlements


def count_lists(uow: UnitOfWork, *, books: Books, agent: str) -> None:
    """Check the totals of pages about one agent."""
    paging = Paging(1, 1)
    mine = [lease for lease in books.leases if lease.agent == agent]
    assert uow.leases.page(LeaseFilter(agent_id=agent), paging).total == len(mine)
    for status, count in Counter(lease.status for lease in mine).items():
        assert uow.leases.page(LeaseFilter(agent_id=agent, status=status), paging).total == count
    requests = [request for request in books.requests if request.agent == agent]
    page = uow.budget_requests.page(RequestFilter(agent_id=agent), paging, "created_at", descending=True)
    assert page.total == len(requests)
    total = sum(uow.ledger.page(EntryFilter(agent_id=each), paging).total for each in books.agents)
    assert total == sum(books.entries.values())


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
