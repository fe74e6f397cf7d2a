"""Totals that are kept: they are what a count of the rows says, whatever happens, for every way of asking."""

import sqlite3
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any, Final

import pytest

from ironcage_core.domain.agents import Agent
from ironcage_core.domain.ids import MASTER_PROJECT
from ironcage_core.domain.ledger import Balance
from ironcage_core.domain.projects import Project
from ironcage_core.ports.lists import BalanceFilter, EntryFilter, LeaseFilter, Paging, ProjectFilter, TokenFilter
from ironcage_core.ports.storage import UnitOfWork
from ironcage_core.ports.totals import BudgetTotals, ProjectTotals
from ironcage_core.services.verify import verify
from ironcage_storage.sqlite import schema
from ironcage_storage.sqlite.connection import connect
from ironcage_storage.sqlite.store import SqliteStore
from tests.support.rows import (
    agent_row,
    api_row,
    balance_row,
    entry_row,
    fresh_id,
    key_row,
    lease_row,
    token_row,
    user_row,
)
from tests.support.stores import RefusedError, in_one_commit, raising, raw
from tests.support.world import NOON

OWNERS: Final = [user_row(f"counted {n}") for n in range(3)]
PROJECTS: Final = [fresh_id("proj") for _ in range(3)]
KEYS: Final = [key_row() for _ in range(3)]
DAY: Final = 86_400_000
STEPS: Final = 60


class Life:
    """Agents that are made, moved, deleted and paid for at random, and a plain memory of them."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)  # noqa: S311 - a test's dice
        self.agents: dict[str, Agent] = {}
        self.balances: dict[str, Balance] = {}
        self.tokens: Counter[str] = Counter()
        self.keys: dict[str, Sequence[str]] = {}

    def begin(self, uow: UnitOfWork) -> None:
        for owner in OWNERS:
            uow.users.put(owner)
            uow.api_tokens.put(api_row(owner.id, project_id=PROJECTS[0]))
        for key in KEYS:
            uow.provider_keys.put(key)
        for project_id in PROJECTS:
            uow.projects.put(Project(project_id, project_id, None, None, NOON, NOON))

    def step(self, uow: UnitOfWork) -> None:
        steps: list[Callable[[UnitOfWork, str], None]] = [
            self.move,
            self.delete,
            self.pay,
            self.give_token,
            self.assign,
        ]
        if not self.agents or self.random.random() < 0.3:
            self.create(uow)
        self.random.choice(steps)(uow, self.random.choice(list(self.agents)))

    def create(self, uow: UnitOfWork) -> None:
        agent = agent_row(self.random.choice(OWNERS).id, project_id=self.random.choice(PROJECTS))
        self.agents[agent.id] = agent
        uow.agents.put(agent)
        self.put_balance(uow, balance_row(agent.id, allocated=self.random.randrange(1000), held=5))

    def put_balance(self, uow: UnitOfWork, balance: Balance, **fields: object) -> None:
        balance = balance._replace(**fields)  # type: ignore[arg-type]  # as the step says
        self.balances[balance.agent_id] = balance
        uow.balances.put(balance)

    def put_agent(self, uow: UnitOfWork, agent_id: str, **fields: object) -> None:
        self.agents[agent_id] = self.agents[agent_id]._replace(**fields)  # type: ignore[arg-type]  # as the step says
        uow.agents.put(self.agents[agent_id])

    def move(self, uow: UnitOfWork, agent_id: str) -> None:
        changes = [
            {"owner_id": self.random.choice(OWNERS).id},
            {"project_id": self.random.choice(PROJECTS)},
            {"owner_id": self.random.choice(OWNERS).id, "project_id": self.random.choice(PROJECTS)},
            {"name": "renamed"},
        ]
        self.put_agent(uow, agent_id, **self.random.choice(changes))

    def delete(self, uow: UnitOfWork, agent_id: str) -> None:
        deleted = None if self.random.random() < 0.5 else NOON
        self.put_agent(uow, agent_id, deleted_at=deleted)
        if self.random.random() < 0.5:
            self.pay(uow, agent_id)

    def pay(self, uow: UnitOfWork, agent_id: str) -> None:
        balance = self.balances[agent_id]
        number = self.random.choice(["allocated", "held", "spent"])
        value = balance.spent + self.random.randrange(9) if number == "spent" else self.random.randrange(1000)
        self.put_balance(uow, balance, **{number: value})
        if self.random.random() < 0.3:
            self.move(uow, agent_id)

    def give_token(self, uow: UnitOfWork, agent_id: str) -> None:
        uow.ic_tokens.put(token_row(agent_id, status="revoked"))
        self.tokens[agent_id] += 1

    def assign(self, uow: UnitOfWork, agent_id: str) -> None:
        ids = [key.id for key in KEYS]
        self.keys[agent_id] = self.random.sample(ids, self.random.randrange(len(ids) + 1))
        uow.provider_keys.assign(agent_id, self.keys[agent_id])

    def live(self, owner_id: str | None, project_id: str | None) -> list[str]:
        return [
            agent.id
            for agent in self.agents.values()
            if agent.deleted_at is None
            and owner_id in {None, agent.owner_id}
            and project_id in {None, agent.project_id}
        ]


def check(uow: UnitOfWork, life: Life) -> None:
    """Compare what is kept with a recount, and what lists say with what is remembered."""
    for kept, counted in (*uow.balances.counts().values(), *uow.provider_keys.counts().values()):
        assert kept == counted
    assigned = Counter(key_id for ids in life.keys.values() for key_id in ids)
    assert uow.provider_keys.agent_counts([key.id for key in KEYS]) == assigned
    for owner_id in (None, *(owner.id for owner in OWNERS)):
        for project_id in (None, *PROJECTS):
            check_scope(uow, life, owner_id, project_id)
    for owner in OWNERS:
        visible = uow.projects.page(ProjectFilter(visible_to=owner.id), Paging()).rows
        own = {life.agents[agent_id].project_id for agent_id in life.live(owner.id, None)}
        assert {project.id for project in visible} == {MASTER_PROJECT, PROJECTS[0], *own}


def check_scope(uow: UnitOfWork, life: Life, owner_id: str | None, project_id: str | None) -> None:
    live = life.live(owner_id, project_id)
    balances = [life.balances[agent_id] for agent_id in live]
    allocated, spent, held = (sum(getattr(each, name) for each in balances) for name in ("allocated", "spent", "held"))
    which = BalanceFilter(owner_id=owner_id, project_id=project_id)
    assert uow.balances.totals(which) == BudgetTotals(allocated, spent, held, len(live))
    assert uow.balances.page(which, Paging(1, 1)).total == len(live)
    if project_id is not None:
        owners = {life.agents[agent_id].owner_id for agent_id in live}
        totals = ProjectTotals(len(live), len(owners), allocated, spent)
        assert uow.projects.totals(project_id, owner_id) == totals
    of_agents = sum(life.tokens[agent_id] for agent_id in live)
    of_users = 0 if project_id in PROJECTS[1:] else len(OWNERS) if owner_id is None else 1
    for kind, tokens in (("ic", of_agents), ("api", of_users), (None, of_agents + of_users)):
        chosen = TokenFilter(kind=kind, owner_id=owner_id, project_id=project_id)  # type: ignore[arg-type]  # literals
        page = uow.api_tokens.page_of_all_kinds(chosen, Paging(1, 1000))
        assert page.total == len(page.rows) == tokens


@pytest.mark.parametrize("seed", range(5))
def test_totals_of_agents_are_what_a_count_says_after_every_step(store: SqliteStore, seed: int) -> None:
    """Whether a unit does one thing or many, and whoever asks, also within the unit itself."""
    life = Life(seed)
    store.write(life.begin)

    def steps(uow: UnitOfWork) -> None:
        for _ in range(life.random.choice([1, 1, 4])):
            life.step(uow)
        if life.random.random() < 0.2:
            check(uow, life)

    for _ in range(STEPS):
        store.write(steps)
        store.read(lambda uow: check(uow, life))


def test_a_unit_that_fails_leaves_totals_as_they_were(store: SqliteStore) -> None:
    """What it moved is moved back, also what it had looked at."""
    life, lost = Life(1), Life(2)
    store.write(life.begin)
    store.write(life.create)

    def work(uow: UnitOfWork) -> None:
        for _ in range(9):
            lost.step(uow)
        uow.balances.totals(BalanceFilter())

    with pytest.raises(RefusedError):
        store.write(raising(work))

    store.read(lambda uow: check(uow, life))


@pytest.mark.parametrize("seed", range(3))
def test_units_that_share_a_commit_move_totals_as_if_each_had_its_own(store: SqliteStore, seed: int) -> None:
    """Whether they look at the totals in between, and whatever those did that failed."""
    life = Life(seed)
    store.write(life.begin)
    store.write(life.create)

    def step_and_look(uow: UnitOfWork) -> None:
        life.step(uow)
        check(uow, life)

    def fail(uow: UnitOfWork) -> None:
        uow.balances.totals(BalanceFilter())
        agent_id = life.random.choice(list(life.agents))
        uow.balances.put(life.balances[agent_id]._replace(held=77))
        uow.agents.put(life.agents[agent_id]._replace(owner_id=OWNERS[0].id, deleted_at=None))
        uow.balances.totals(BalanceFilter())
        raise RefusedError

    for _ in range(STEPS // 4):
        units = life.random.choices([life.step, step_and_look, fail], [3, 1, 1], k=8)
        outcomes = in_one_commit(store, *units)
        assert [type(outcome.error) for outcome in outcomes if outcome.error] == [RefusedError] * units.count(fail)
        store.read(lambda uow: check(uow, life))


def fill_books(uow: UnitOfWork) -> list[Agent]:
    """Store agents of three owners in three projects, each with a lease and entries on three days."""
    agents = []
    for number in range(6):
        agent = agent_row(
            OWNERS[number % 3].id, project_id=PROJECTS[number // 2], deleted_at=NOON if number > 4 else None
        )
        agents.append(agent)
        uow.agents.put(agent)
        uow.balances.put(balance_row(agent.id))
        status = ("active", "closed")[number % 2]
        due = {"due_at": None, "returned": 100} if status == "closed" else {}
        uow.leases.put(lease_row(agent.id, status=status, **due))
        for day in range(number + 1):
            uow.ledger.append(entry_row(agent.id, posted_at=NOON + day % 3 * DAY))
    return agents


def test_totals_of_leases_and_entries_are_right_for_every_scope(store: SqliteStore) -> None:
    """Of all, of an owner, of a project, and with the other filters each list has."""

    def begin(uow: UnitOfWork) -> list[Agent]:
        Life(0).begin(uow)
        return fill_books(uow)

    agents = store.write(begin)

    def asked(uow: UnitOfWork) -> None:
        for owner_id in (None, *(owner.id for owner in OWNERS)):
            for project_id in (None, *PROJECTS):
                chosen = [
                    (number, agent)
                    for number, agent in enumerate(agents)
                    if owner_id in {None, agent.owner_id} and project_id in {None, agent.project_id}
                ]
                for status, parity in (("active", {0}), ("closed", {1}), (None, {0, 1})):
                    leases = uow.leases.page(LeaseFilter(None, owner_id, status, project_id), Paging())
                    assert leases.total == len(leases.rows) == sum(number % 2 in parity for number, _ in chosen)
                for since, until in (
                    (None, None),
                    (NOON + DAY, None),
                    (NOON - NOON % DAY, NOON + 1),
                    (None, NOON + DAY),
                ):
                    which = EntryFilter(owner_id=owner_id, project_id=project_id, since=since, until=until)
                    entries = uow.ledger.page(which, Paging())
                    days = [NOON + day % 3 * DAY for number, _ in chosen for day in range(number + 1)]
                    inside = [at for at in days if (since or 0) <= at < (until or NOON * 2)]
                    assert entries.total == len(entries.rows) == len(inside)

    store.read(asked)
    counts = store.read(lambda uow: {**uow.ledger.counts(), **uow.leases.counts()})
    assert counts["*", "adjust"] == (21, 21)
    assert (counts["*", "active"], counts["*", "closed"]) == ((3, 3), (3, 3))


WRONG: Final = [
    "UPDATE agent_totals SET spent = spent + 1",
    "UPDATE project_totals SET owners = owners + 1",
    "DELETE FROM project_totals",
    "UPDATE provider_key_counts SET agents = agents + 1",
    "UPDATE ledger_totals SET n = n + 1",
    "UPDATE lease_totals SET n = n + 1",
]


@pytest.mark.parametrize("sql", WRONG)
def test_verify_names_a_total_that_is_wrong(store: SqliteStore, sql: str) -> None:
    """One wrong number more is one difference more at least."""

    def begin(uow: UnitOfWork) -> None:
        life = Life(0)
        life.begin(uow)
        agents = fill_books(uow)
        uow.provider_keys.assign(agents[0].id, [KEYS[0].id])

    store.write(begin)
    before = store.read(verify).differences

    raw(store, sql)

    after = store.read(verify).differences
    assert before == [difference for difference in after if difference in before]
    assert len(after) > len(before)


def test_a_database_from_before_the_totals_gets_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Filled with the schema before it, counted by the migration, and kept from then on."""
    new, old = tmp_path / "new.db", tmp_path / "old.db"
    life = Life(3)
    with SqliteStore(new) as store:
        store.write(life.begin)
        for _ in range(STEPS):
            store.write(life.step)
        store.write(fill_books)
        expected = store.read(everything)
    known = [step for step in schema.migrations._migrations if step.name != "list_counts"]
    monkeypatch.setattr(schema.migrations, "_migrations", known)
    connection = connect(str(old))
    schema.migrate(connection)
    _copy(connection, new)
    connection.close()
    monkeypatch.undo()

    with SqliteStore(old) as store:
        assert store.read(everything) == expected
        store.write(life.step)
        for kept, counted in store.read(everything).values():
            assert kept == counted


def everything(uow: UnitOfWork) -> dict[Any, tuple[object, object]]:
    """Return all that is kept beside what is counted; what became nothing is nothing."""
    sources: list[Any] = [uow.balances, uow.provider_keys, uow.ledger, uow.leases]
    found = {(number, key): pair for number, each in enumerate(sources) for key, pair in each.counts().items()}
    return {key: pair for key, pair in found.items() if any(pair[1] if isinstance(pair[1], tuple) else pair[1:])}


def _copy(connection: sqlite3.Connection, source: Path) -> None:
    """Copy every row of the tables that are there from another database, parents first."""
    connection.execute("PRAGMA foreign_keys = OFF")
    connection.execute("ATTACH ? AS other", (str(source),))
    tables = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE '%sqlite_%'"
    for (name,) in connection.execute(tables).fetchall():
        connection.execute(f"DELETE FROM main.{name}")
        connection.execute(f"INSERT INTO main.{name} SELECT * FROM other.{name}")
