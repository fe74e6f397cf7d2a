"""The demo world: believable, made once and only where nothing was, and its books add up as any others do."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest

from ironcage_core.domain.audit import SYSTEM
from ironcage_core.domain.instants import MS_PER_DAY, MS_PER_MINUTE, Instant, day_start
from ironcage_core.domain.ledger import Balance
from ironcage_core.domain.money import MICROS_PER_USD
from ironcage_core.errors.identity import DuplicateUsernameError
from ironcage_core.errors.tree import RefusalError, UnavailableError
from ironcage_core.ports.lists import AuditFilter, EntryFilter, Paging, UsageFilter
from ironcage_core.ports.storage import UnitOfWork
from ironcage_core.services.accounts import add_user, first_admin
from ironcage_core.services.logins import find_account
from ironcage_core.services.verify import verify
from ironcage_http.app import wire
from ironcage_http.demo_plans import DAYS, PLANS, PROVIDER_KEYS, ROLES, beginning
from ironcage_http.demo_world import DemoLogin, SettableClock, make_demo_world
from ironcage_http.server import embedded_settings
from ironcage_http.settings import Settings, read_settings
from ironcage_http.wiring import Wiring
from ironcage_storage.sqlite.store import SqliteStore
from tests.support.servers import ServerProcess, run_ironcage
from tests.support.world import NOON, SetClock

PASSWORDS = ("the password of the demo's user", "the password of the demo's viewer")
LOGIN = re.compile(
    r"^demo login: username (\S+) \((\w+)\), password ([A-Za-z0-9_-]{24}) \(to be changed at once\)$", re.MULTILINE
)
DEMO = {"ENABLE_DEMO_SEED": "true"}
MONDAY_AT_MIDNIGHT = day_start(NOON) + 3 * MS_PER_DAY + MS_PER_MINUTE
SUNDAY_NIGHT = day_start(NOON) + 3 * MS_PER_DAY - MS_PER_MINUTE
FIRST_OF_THE_MONTH = day_start(NOON) + 10 * MS_PER_DAY + MS_PER_DAY // 3


class Stage(NamedTuple):
    """A control plane with an admin and nothing else, at one moment."""

    store: SqliteStore
    wiring: Wiring
    clock: SettableClock

    def play(self) -> list[DemoLogin]:
        return make_demo_world(self.wiring, self.clock, PASSWORDS)

    def balances(self) -> dict[str, Balance]:
        """What every agent has, by its name."""
        return self.store.read(
            lambda uow: {uow.agents.names([each.agent_id])[each.agent_id]: each for each in uow.balances.all()}
        )


@contextmanager
def staged(now: Instant = NOON, settings: Settings | None = None, *, has_admin: bool = True) -> Iterator[Stage]:
    clock = SettableClock(SetClock(now))
    with SqliteStore(":memory:", clock=clock) as store:
        if has_admin:
            store.write(
                lambda uow: first_admin(uow, email="a@test", username="admin", password_hash="none", force_change=False)
            )
        yield Stage(store, wire(store, settings or embedded_settings()), clock)


@pytest.fixture(scope="module")
def played() -> Iterator[tuple[Stage, list[DemoLogin]]]:
    """A demo world to look at, and who may log in."""
    with staged() as stage:
        yield stage, stage.play()


@pytest.mark.parametrize("now", [NOON, MONDAY_AT_MIDNIGHT, SUNDAY_NIGHT, FIRST_OF_THE_MONTH])
def test_whenever_it_is_made_its_books_add_up_and_nothing_of_it_is_to_come(now: Instant) -> None:
    """Every movement, call and remembered act lies between its beginning and now, in the order of time."""
    with staged(now) as stage:
        stage.play()
        verified = stage.store.read(verify)
        entries = stage.store.read(lambda uow: list(uow.ledger.by_agent()))
        newest = stage.store.read(lambda uow: uow.audit.page(AuditFilter(), Paging(1, 100)).rows)
        last_call = stage.store.read(lambda uow: uow.usage.sums(UsageFilter())[()].last_at)
        first_call = stage.store.read(lambda uow: uow.usage.first_at(UsageFilter()))

    assert verified.holds, verified.differences
    times = [at for _, at in sorted((entry.seq or 0, entry.posted_at) for entry in entries)]
    assert times == sorted(times)
    assert beginning(now) <= times[0] <= times[-1] <= now
    assert max(row.timestamp for row in newest) <= now
    assert first_call is not None
    assert beginning(now) < first_call < now - (DAYS - 5) * MS_PER_DAY
    assert now - 60 * MS_PER_MINUTE < last_call <= now


def test_every_state_of_a_budget_is_there(played: tuple[Stage, list[DemoLogin]]) -> None:
    """Fresh, half used, nearly exhausted, exhausted and stopped, as the plans say."""
    store, balances = played[0].store, played[0].balances()
    leases = store.read(lambda uow: {name: uow.leases.open_of(each.agent_id) for name, each in balances.items()})
    agents = store.read(lambda uow: [uow.agents.find(each.agent_id) for each in balances.values()])

    used = {name: each.spent * 100 // each.allocated for name, each in balances.items()}
    assert all(used[plan.name] - plan.used_percent in {0, 1} for plan in PLANS)
    assert sorted(plan.used_percent for plan in PLANS) == [0, 35, 50, 93, 100]
    assert [each.allocated for each in balances.values()] == [plan.budget_usd * MICROS_PER_USD for plan in PLANS]
    assert 0 < balances["ticket-triage"].overspent < MICROS_PER_USD // 5
    assert {name for name, open_ones in leases.items() if open_ones} == {"docs-writer"}
    assert {agent.name: (agent.runtime_status, agent.stop_hold) for agent in agents if agent} == {
        "release-notes": ("idle", 0),
        "docs-writer": ("running", 0),
        "code-reviewer": ("stopped", 0),
        "ticket-triage": ("stopped", 0),
        "web-researcher": ("stopped", 1),
    }


def test_there_is_something_to_see_on_every_page(played: tuple[Stage, list[DemoLogin]]) -> None:
    """Many days, several models, two providers, durations, and calls that failed for different reasons."""
    stage, _ = played
    read = stage.store.read
    total = read(lambda uow: uow.usage.sums(UsageFilter())[()])
    models = read(lambda uow: uow.usage.groups(UsageFilter(), ("model",)))
    providers = read(lambda uow: uow.usage.groups(UsageFilter(), ("provider",)))
    errors = read(lambda uow: uow.usage.errors(UsageFilter()))
    entries = read(lambda uow: list(uow.ledger.by_agent()))
    spent = sum(each.spent for each in stage.balances().values())

    assert len({entry.posted_at // MS_PER_DAY for entry in entries}) >= 15
    assert len(models) >= 5
    assert {provider for (provider,) in providers} == set(PROVIDER_KEYS)
    assert total.cost_micros == spent
    assert total.timed == total.calls
    assert 0.01 < total.failed / total.calls < 0.06
    assert len(errors) >= 3


def test_it_is_told_of_as_what_it_is(played: tuple[Stage, list[DemoLogin]]) -> None:
    """A project of its own, keys that say they are made up, and users who must change a password that only they got."""
    stage, logins = played
    read = stage.store.read
    users = [read(partial(find_account, identifier=login.username)) for login in logins]
    verify_password = stage.wiring.hasher.verify
    verified = [
        verify_password(user.password_hash or "", word) for user, word in zip(users, PASSWORDS, strict=True) if user
    ]
    project = read(lambda uow: uow.projects.find_by_name("Demo"))
    keys = read(lambda uow: list(uow.provider_keys.all()))

    assert [(user.role, user.force_password_change) for user in users if user] == [(role, 1) for role in ROLES]
    assert verified == [True, True]
    assert project is not None
    assert project.owner_id == (users[0] and users[0].id)
    assert {key.provider for key in keys} == set(PROVIDER_KEYS)
    assert all("made-up" in secret and "no-such-key" in secret for secret in PROVIDER_KEYS.values())
    assert all("no such key" in (key.description or "") for key in keys)
    assert not any(word in repr(logins) for word in PASSWORDS)


def test_a_second_time_nothing_is_added() -> None:
    """Nor is anybody told that he may log in, and the clock shows the time again."""
    with staged() as stage:
        stage.play()
        before = size(stage)
        again = stage.play()

        assert (again, size(stage)) == ([], before)
        assert stage.clock.now() == NOON


def size(stage: Stage) -> tuple[int, int, int]:
    """How many movements, remembered acts and calls there are."""

    def of(uow: UnitOfWork) -> tuple[int, int, int]:
        entries = uow.ledger.page(EntryFilter(), Paging(1, 1)).total
        return entries, uow.audit.page(AuditFilter(), Paging(1, 1)).total, uow.usage.sums(UsageFilter())[()].calls

    return stage.store.read(of)


@pytest.mark.parametrize("missing", ["master key", "free name", "admin"])
def test_where_something_is_missing_nothing_is_made(missing: str) -> None:
    """Neither half of it, nor a clock that stays behind."""
    settings = read_settings({"DATABASE_URL": "sqlite::memory:"}) if missing == "master key" else None
    with staged(settings=settings, has_admin=missing != "admin") as stage:
        if missing == "free name":
            stage.store.write(
                lambda uow: add_user(uow, username="Demo-Viewer", email="v@x", role="viewer", actor=SYSTEM)
            )
        expected: type[RefusalError] = DuplicateUsernameError if missing == "free name" else UnavailableError
        rows = stage.store.read(lambda uow: uow.audit.page(AuditFilter(), Paging(1, 1)).total)

        with pytest.raises(expected):
            stage.play()

        assert stage.store.read(lambda uow: uow.audit.page(AuditFilter(), Paging(1, 1)).total) == rows
        assert stage.balances() == {}
        assert stage.clock.now() == NOON


# --- by the server -----------------------------------------------------------


def test_a_server_makes_it_at_its_first_start_and_prints_its_logins_once(tmp_path: Path) -> None:
    """They work, owe a new password, and stand in no line of the log; the next start adds nothing."""
    server = ServerProcess(tmp_path, **DEMO)
    with server:
        found = LOGIN.findall(server.said)
        said = server.said
        logins = [
            server.ask("POST", "/auth/login", {"username": name, "password": password}) for name, _, password in found
        ]
        assert server.terminate() == 0
    with server:
        again = server.said
        server.terminate()
    verified = run_ironcage(tmp_path, "verify", "iron.db")

    assert [(name, role) for name, role, _ in found] == [("demo-user", "user"), ("demo-viewer", "viewer")]
    assert [(each.status, each.body["password_change_required"]) for each in logins] == [(200, True)] * 2
    assert [said.count(password) for *_, password in found] == [1, 1]
    assert not any(password in (tmp_path / "iron.db").read_bytes().decode("latin-1") for *_, password in found)
    assert "demo" not in again
    assert "password" not in again
    assert (verified.returncode, f"{len(PLANS)} agents" in verified.stdout) == (0, True)


def test_a_server_that_cannot_make_it_says_why_and_serves(tmp_path: Path) -> None:
    """Here no provider key can be sealed."""
    with ServerProcess(tmp_path, DATABASE_URL="sqlite:///iron.db", **DEMO) as server:
        health = server.ask("GET", "/health")

        assert health.status == 200
        assert "no demo world was made" in server.said
        assert "IRON_SECRETS_MASTER_KEY" in server.said
        assert LOGIN.findall(server.said) == []
