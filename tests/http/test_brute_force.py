"""Guessing passwords over the wire: two layers, by account and by address, and neither tells who exists."""

import asyncio
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial

import pytest

from ironcage_core.domain.limit_classes import LIMITS
from ironcage_core.domain.users import User
from ironcage_core.ports.storage import UnitOfWork
from ironcage_core.services.accounts import add_user
from ironcage_http.settings import Settings, read_settings
from ironcage_storage.sealed.passwords import Argon2PasswordHasher
from ironcage_storage.sqlite.store import SqliteStore
from tests.support.stores import raw
from tests.support.web import PASSWORD, Answer, Caller, people, serving
from tests.support.world import ADMIN, SetClock

pytestmark = pytest.mark.anyio

HALF_AN_HOUR_S = 1800
PLAIN = {"DATABASE_URL": "sqlite::memory:", "JWT_SECRET": "the signing secret of these tests, long enough"}
LIMITED = {**PLAIN, "IRON_RATE_LIMIT_ENABLED": "true", "IRON_TRUSTED_PROXIES": "127.0.0.1"}
BY_ACCOUNT, BY_ADDRESS = read_settings(PLAIN), read_settings(LIMITED)
AT_THE_THIRD = read_settings({**PLAIN, "IRON_LOCKOUT_THRESHOLD": "3"})
NAMES = ["ann", "ann@test.io", "nobody", "no@body.test", "gone", "gone@test.io", "bot"]


@pytest.fixture
def clock() -> SetClock:
    """The store's clock; the app's own is real."""
    return SetClock(int(time.time()) * 1000)


@pytest.fixture
def store(clock: SetClock) -> Iterator[SqliteStore]:
    """Beside the usual users, Bot has no password and Gone was deleted."""
    with SqliteStore(":memory:", clock=clock) as opened:
        people(opened)
        for name in ("bot", "gone"):
            add = partial(add_user, username=name, email=f"{name}@test.io", role="user", actor=ADMIN)
            opened.write(partial(add, password_hash="gone" if name == "gone" else None))
        alter(opened, "gone", status="deleted", deleted_at=clock.now())
        yield opened


def user(uow: UnitOfWork, username: str = "ann") -> User:
    found = uow.users.find_by_username(username)
    assert found is not None
    return found


def alter(store: SqliteStore, username: str, **columns: object) -> None:
    """Change a user's row as an admin's call would."""
    store.write(lambda uow: uow.users.put(user(uow, username)._replace(**columns)))  # type: ignore[arg-type]  # as said


async def attempt(caller: Caller, name: str = "ann", password: str = "wrong", address: str = "192.0.2.1") -> Answer:  # noqa: S107 - a wrong one
    body = {"email": name, "password": password}
    return await caller.post("/auth/login", body, headers={"X-Forwarded-For": address})


async def attempts(caller: Caller, times: int, name: str = "ann", **options: str) -> set[str | int]:
    """Return the codes of so many wrong logins."""
    answers = [await attempt(caller, name, **options) for _ in range(times)]
    return {answer.code for answer in answers}


def operations(store: SqliteStore) -> Counter[tuple[str, str, str | None]]:
    return Counter(raw(store, "SELECT operation, outcome, reason FROM audit_log WHERE category = 'auth'"))


# --- by account --------------------------------------------------------------


async def test_a_lock_looks_the_same_whoever_is_meant(store: SqliteStore) -> None:
    """A user, nobody, a deleted one, one without a password: some times 401, then 403, with equal bodies."""
    histories = []
    async with serving(store, AT_THE_THIRD) as caller:
        for name in ("ann", "nobody", "gone@test.io", "bot"):
            answers = [await attempt(caller, name) for _ in range(4)] + [await attempt(caller, name, PASSWORD)]
            histories.append([(each.status, each.raw, each.headers.get("retry-after")) for each in answers])

    assert [status for status, _, _ in histories[0]] == [401] * 3 + [403] * 2
    assert all(history == histories[0] for history in histories)


async def test_a_lock_says_how_long_it_lasts(store: SqliteStore, clock: SetClock) -> None:
    """In seconds and as an instant; at its end the right password is welcome."""
    async with serving(store, BY_ACCOUNT) as caller:
        await attempts(caller, 10)
        clock.pass_s(0.5)
        locked = await attempt(caller, password=PASSWORD)
        clock.pass_s(HALF_AN_HOUR_S - 0.501)
        last = await attempt(caller, password=PASSWORD)
        clock.pass_s(0.001)
        open_again = await attempt(caller, password=PASSWORD)

    assert (locked.status, locked.code) == (403, "AUTH_ACCOUNT_LOCKED")
    assert set(locked.body["details"]) == {"retry_after", "locked_until"}
    assert locked.body["details"]["retry_after"] == HALF_AN_HOUR_S
    assert locked.body["details"]["locked_until"].endswith("Z")
    assert (locked.headers["retry-after"], last.headers["retry-after"]) == (str(HALF_AN_HOUR_S), "1")
    assert "www-authenticate" not in locked.headers
    assert open_again.status == 200


async def test_behind_a_lock_no_password_is_hashed(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before it one is for everybody, and by the same parameters where there is none to compare with."""
    verify = Argon2PasswordHasher.verify
    seen: list[str] = []

    def counted(self: Argon2PasswordHasher, encoded: str, password: str) -> bool:
        seen.append(encoded)
        return verify(self, encoded, password)

    monkeypatch.setattr(Argon2PasswordHasher, "verify", counted)
    async with serving(store, BY_ACCOUNT) as caller:
        for name in NAMES:
            await attempt(caller, name)
        before = len(seen)
        await attempts(caller, 9, "nobody")
        await attempts(caller, 8)
        at_the_lock = len(seen)
        await attempts(caller, 3, "nobody")
        await attempts(caller, 3)

    assert (before, at_the_lock, len(seen)) == (len(NAMES), len(NAMES) + 17, len(NAMES) + 17)
    assert len(set(seen[2 : len(NAMES)])) == 1
    assert "m=19456,t=2,p=1" in seen[2]


async def test_a_lock_outlives_a_restart(store: SqliteStore) -> None:
    """It is in the store, for accounts and for names that nobody has."""
    async with serving(store, AT_THE_THIRD) as caller:
        for name in ("ann", "nobody"):
            await attempts(caller, 3, name)
    async with serving(store, AT_THE_THIRD) as caller:
        codes = [await attempts(caller, 1, name) for name in ("ann@test.io", "NOBODY")]

    assert codes == [{"AUTH_ACCOUNT_LOCKED"}] * 2


async def test_what_breaks_a_rule_is_no_attempt(store: SqliteStore) -> None:
    """Nor is a login that succeeds, which takes back what failed before it."""
    async with serving(store, BY_ADDRESS) as caller:
        for _ in range(12):
            assert (await caller.post("/auth/login", {"username": "ann", "password": ""})).status == 400
        codes = await attempts(caller, 4)
        good = await attempt(caller, password=PASSWORD)

    assert (codes, good.status) == ({"AUTH_INVALID_CREDENTIALS"}, 200)
    assert store.read(user).failed_logins == 0


async def test_a_lock_leaves_sessions_alone(store: SqliteStore) -> None:
    """They go on, are refreshed, and may change the password, which ends the lock."""
    async with serving(store, BY_ACCOUNT) as caller:
        session = (await attempt(caller, password=PASSWORD)).body
        await attempts(caller, 10)
        bearer = caller.bearing(session["access_token"])
        used = await bearer.get("/auth/verify")
        body = {"current_password": PASSWORD, "new_password": "another horse, another battery"}
        changed = await bearer.post("/auth/change-password", body)
        refreshed = await caller.post("/auth/refresh", {"refresh_token": session["refresh_token"]})
        back = await attempt(caller, password=body["new_password"])

    assert (used.status, changed.status, refreshed.status, back.status) == (200, 204, 200, 200)


async def test_a_wrong_current_password_counts_as_a_wrong_login(store: SqliteStore) -> None:
    """Whoever has a stolen session guesses no more freely than at the door."""
    async with serving(store, AT_THE_THIRD) as caller:
        bearer = await caller.login("ann")
        body = {"current_password": "wrong", "new_password": "another horse, another battery"}
        answers = [await bearer.post("/auth/change-password", body) for _ in range(3)]
        locked = await attempt(caller, password=PASSWORD)

    assert {(answer.status, answer.code) for answer in answers} == {(401, "AUTH_INVALID_CREDENTIALS")}
    assert (locked.status, locked.code) == (403, "AUTH_ACCOUNT_LOCKED")
    assert operations(store)["AUTH_ACCOUNT_LOCKED", "denied", None] == 1


async def test_a_suspended_account_counts_wrong_passwords_only(store: SqliteStore) -> None:
    """The right one is told of the suspension until the account is locked."""
    async with serving(store, BY_ACCOUNT) as caller:
        alter(store, "ann", status="suspended")
        told = [(await attempt(caller, password=PASSWORD)).code for _ in range(11)]
        wrong = await attempts(caller, 10)
        locked = await attempt(caller, password=PASSWORD)

    assert set(told) == {"AUTH_ACCOUNT_DISABLED"}
    assert (wrong, locked.code) == ({"AUTH_INVALID_CREDENTIALS"}, "AUTH_ACCOUNT_LOCKED")


@pytest.mark.parametrize(("name", "times"), [("ann", 64), ("nobody", 12)])
async def test_of_many_wrong_logins_at_once_ten_are_answered(store: SqliteStore, name: str, times: int) -> None:
    """The count is exact; the rest find the lock, though their passwords were verified by then."""
    async with serving(store, BY_ACCOUNT) as caller:
        answers = await asyncio.gather(*(attempt(caller, name) for _ in range(times)))

    assert Counter(answer.status for answer in answers) == {401: 10, 403: times - 10}
    assert operations(store)["AUTH_LOGIN_FAILED", "failed", None] == 10
    assert operations(store)["AUTH_ACCOUNT_LOCKED", "denied", None] == 1
    count = raw(store, "SELECT failed_logins FROM users WHERE username = ? UNION ALL "
                       "SELECT failed_logins FROM unknown_logins", (name,))  # fmt: skip
    assert count == [(10,)]


async def test_the_right_password_that_was_verified_before_the_lock_finds_it(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the lock would tell the right guess from the wrong ones that were on their way with it."""
    verify = Argon2PasswordHasher.verify

    def overtaken(self: Argon2PasswordHasher, encoded: str, password: str) -> bool:
        is_right = verify(self, encoded, password)
        if is_right:
            alter(store, "ann", failed_logins=10, locked_until=store.read(lambda uow: uow.now) + 60_000)
        return is_right

    async with serving(store, BY_ACCOUNT) as caller:
        monkeypatch.setattr(Argon2PasswordHasher, "verify", overtaken)
        answer = await attempt(caller, password=PASSWORD)

    assert (answer.status, answer.code) == (403, "AUTH_ACCOUNT_LOCKED")
    assert raw(store, "SELECT count(*) FROM sessions") == [(0,)]


async def test_who_goes_on_at_a_lock_is_noted_but_fills_no_log(store: SqliteStore) -> None:
    """One row a minute beside the ten failures and the lock, and no row shows what was typed."""
    async with serving(store, BY_ACCOUNT) as caller:
        for name in ("ann", "correct-horse"):
            await attempts(caller, 20, name)

    assert operations(store) == {
        ("AUTH_LOGIN_FAILED", "failed", None): 20,
        ("AUTH_ACCOUNT_LOCKED", "denied", None): 2,
        ("AUTH_LOGIN_FAILED", "denied", "locked"): 2,
    }
    assert "correct-horse" not in repr(raw(store, "SELECT * FROM audit_log"))
    assert "correct-horse" not in repr(raw(store, "SELECT * FROM unknown_logins"))


async def test_the_operator_says_when_an_account_is_locked(store: SqliteStore) -> None:
    """IRON_LOCKOUT_THRESHOLD and IRON_LOCKOUT_SECONDS."""
    settings = read_settings({**PLAIN, "IRON_LOCKOUT_THRESHOLD": "2", "IRON_LOCKOUT_SECONDS": "7"})
    async with serving(store, settings) as caller:
        codes = [(await attempt(caller)).code for _ in range(2)]
        locked = await attempt(caller)

    assert codes == ["AUTH_INVALID_CREDENTIALS"] * 2
    assert (locked.status, locked.headers["retry-after"]) == (403, "7")


async def test_above_the_cap_of_sessions_the_oldest_ends(store: SqliteStore) -> None:
    """IRON_MAX_SESSIONS_PER_USER; other users have their own."""
    settings: Settings = read_settings({**PLAIN, "IRON_MAX_SESSIONS_PER_USER": "2"})
    async with serving(store, settings) as caller:
        other = await caller.login("vera")
        sessions = [await caller.login("ann") for _ in range(3)]
        statuses = [(await each.get("/auth/verify")).status for each in (other, *sessions)]

    assert statuses == [200, 401, 200, 200]


# --- by address --------------------------------------------------------------


async def test_the_sixth_login_after_five_failures_of_an_address_waits(store: SqliteStore) -> None:
    """Whatever name and password it has; other addresses are free, and nothing of it is recorded."""
    async with serving(store, BY_ADDRESS) as caller:
        failed = [(await attempt(caller, name)).code for name in NAMES[:5]]
        full = [await attempt(caller, password=PASSWORD), await attempt(caller, "nobody"), await attempt(caller)]
        free = await attempt(caller, password=PASSWORD, address="192.0.2.2")

    assert failed == ["AUTH_INVALID_CREDENTIALS"] * 5
    assert {(answer.status, answer.code) for answer in full} == {(429, "RATE_LIMIT_EXCEEDED")}
    details = full[0].body["details"]
    assert (details["limit"], details["window_seconds"]) == (5, 300)
    assert 1 <= details["retry_after"] <= 300
    assert full[0].headers["retry-after"] == str(details["retry_after"])
    assert free.status == 200
    assert operations(store)["AUTH_LOGIN_FAILED", "failed", None] == 5


async def test_a_full_window_is_told_before_the_body_is_read(store: SqliteStore) -> None:
    """The limit of an address comes before everything else."""
    async with serving(store, BY_ADDRESS) as caller:
        await attempts(caller, 5)
        answer = await caller.post("/auth/login", b"{", headers={"X-Forwarded-For": "192.0.2.1"})

    assert answer.status == 429


async def test_only_a_wrong_password_counts_against_an_address(store: SqliteStore) -> None:
    """No success, no locked answer, no right password of a suspended account."""
    settings = read_settings({**LIMITED, "IRON_LOCKOUT_THRESHOLD": "2"})
    async with serving(store, settings) as caller:
        alter(store, "vera", status="suspended")
        for _ in range(6):
            assert (await attempt(caller, "vera", PASSWORD)).code == "AUTH_ACCOUNT_DISABLED"
            assert (await attempt(caller, "admin", PASSWORD)).status == 200
        codes = [(await attempt(caller)).code for _ in range(8)]
        more = [(await attempt(caller, name)).code for name in ("vera", "one", "two", "three")]

    assert codes == ["AUTH_INVALID_CREDENTIALS"] * 2 + ["AUTH_ACCOUNT_LOCKED"] * 6
    assert more == ["AUTH_INVALID_CREDENTIALS"] * 3 + ["RATE_LIMIT_EXCEEDED"]


async def test_of_many_wrong_logins_of_an_address_at_once_five_are_answered(store: SqliteStore) -> None:
    """Those whose password was verified when the window was full already learn nothing and count for nothing."""
    async with serving(store, BY_ADDRESS) as caller:
        answers = await asyncio.gather(*(attempt(caller, f"name-{number}") for number in range(10)))

    assert Counter(answer.status for answer in answers) == {401: 5, 429: 5}
    assert {answer.body["details"]["limit"] for answer in answers if answer.status == 429} == {5}
    assert raw(store, "SELECT sum(failed_logins) FROM unknown_logins") == [(5,)]


async def test_the_right_password_that_was_verified_in_a_full_window_opens_nothing(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The window has filled while it was verified."""
    verify = Argon2PasswordHasher.verify
    is_out, may_go_on = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def slow(self: Argon2PasswordHasher, encoded: str, password: str) -> bool:
        is_right = verify(self, encoded, password)
        if is_right:
            loop.call_soon_threadsafe(is_out.set)
            asyncio.run_coroutine_threadsafe(may_go_on.wait(), loop).result(10)
        return is_right

    async with serving(store, BY_ADDRESS) as caller:
        monkeypatch.setattr(Argon2PasswordHasher, "verify", slow)
        right = asyncio.create_task(attempt(caller, password=PASSWORD))
        await is_out.wait()
        wrong = await attempts(caller, 5, "nobody")
        may_go_on.set()
        answer = await right

    assert wrong == {"AUTH_INVALID_CREDENTIALS"}
    assert (answer.status, answer.code) == (429, "RATE_LIMIT_EXCEEDED")
    assert raw(store, "SELECT count(*) FROM sessions") == [(0,)]


async def test_an_address_has_so_many_logins_in_all(store: SqliteStore) -> None:
    """Good, bad or malformed: the guard of the cost of hashing; other addresses have their own."""
    settings = read_settings({**LIMITED, "IRON_RATE_LIMITS": '{"login": "4/3600"}'})
    async with serving(store, settings) as caller:
        malformed = [await caller.post("/auth/login", b"{", headers={"X-Forwarded-For": "192.0.2.1"}) for _ in "12"]
        answers = [*malformed, *[await attempt(caller, password=PASSWORD) for _ in "123"]]
        other = await attempt(caller, password=PASSWORD, address="192.0.2.2")

    assert [answer.status for answer in answers] == [400, 400, 200, 200, 429]
    assert answers[-1].body["details"]["limit"] == 4
    assert [answers[2].headers[f"x-ratelimit-{name}"] for name in ("limit", "remaining")] == ["4", "1"]
    assert (LIMITS["login"].rate, other.status) == ((60, 60), 200)


async def test_where_limits_are_off_an_address_may_fail_and_an_account_may_not(store: SqliteStore) -> None:
    """IRON_RATE_LIMIT_ENABLED governs the layer of addresses only."""
    async with serving(store, BY_ACCOUNT) as caller:
        codes = [(await attempt(caller)).code for _ in range(11)]

    assert codes == ["AUTH_INVALID_CREDENTIALS"] * 10 + ["AUTH_ACCOUNT_LOCKED"]
