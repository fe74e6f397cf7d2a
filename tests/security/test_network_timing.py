"""What an answer tells by its time: the same work is done whoever is meant, and secrets are found by their hash alone.

By counting the work, not by the clock.
"""

import hmac
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from ironcage_http.settings import read_settings
from ironcage_storage.sealed.passwords import Argon2PasswordHasher
from ironcage_storage.sqlite.store import SqliteStore
from ironcage_storage.system import SystemClock
from tests.support.web import PASSWORD, Caller, alter, people, serving

pytestmark = pytest.mark.anyio

WRONG = "no password of anybody"
STRANGER = ("203.0.113.9", 4711)
METRICS_TOKEN = "a-token-for-the-metrics-0123456789"


@dataclass
class Work:
    """What was done for an answer."""

    verified: list[tuple[str, str]] = field(default_factory=list)
    hashed: int = 0
    compared: list[tuple[bytes, bytes]] = field(default_factory=list)


@pytest.fixture
def store() -> Iterator[SqliteStore]:
    with SqliteStore(":memory:", clock=SystemClock()) as opened:
        yield opened


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> Work:
    """Every password that is hashed or verified, and every pair of secrets that is compared."""
    seen = Work()
    verify, hash_one, compare = Argon2PasswordHasher.verify, Argon2PasswordHasher.hash, hmac.compare_digest

    def verify_seen(self: Argon2PasswordHasher, encoded: str, password: str) -> bool:
        seen.verified.append((encoded, password))
        return verify(self, encoded, password)

    def hash_seen(self: Argon2PasswordHasher, password: str) -> str:
        seen.hashed += 1
        return hash_one(self, password)

    def compare_seen(left: Any, right: Any) -> bool:  # noqa: ANN401 - texts or bytes
        seen.compared.append((_bytes(left), _bytes(right)))
        return compare(left, right)

    monkeypatch.setattr(Argon2PasswordHasher, "verify", verify_seen)
    monkeypatch.setattr(Argon2PasswordHasher, "hash", hash_seen)
    monkeypatch.setattr(hmac, "compare_digest", compare_seen)
    return seen


def _bytes(value: str | bytes) -> bytes:
    return value.encode() if isinstance(value, str) else value


async def attempt(caller: Caller, name: str, password: str = WRONG) -> tuple[int, str]:
    answer = await caller.post("/auth/login", {"email" if "@" in name else "username": name, "password": password})
    return answer.status, answer.body.get("code", "")


async def test_a_login_costs_one_hash_whoever_is_meant(store: SqliteStore, work: Work) -> None:
    """A user, nobody, one who is suspended, deleted, or has no password; all are told the same."""
    people(store)
    alter(store, "vera", status="suspended")
    alter(store, "ann", password_hash=None)
    names = ["admin", "admin@test.io", "nobody", "nobody@test.io", "vera", "ann", "x" * 255, "ж", "a\u202eb"]
    async with serving(store) as caller:
        work.verified.clear()
        work.hashed = 0
        answers, costs = [], []
        for name in names:
            answers.append(await attempt(caller, name))
            costs.append((len(work.verified), work.hashed))
            work.verified.clear()

    told = {answer for answer in answers if answer[0] != 400}
    assert told == {(401, "AUTH_INVALID_CREDENTIALS")}
    assert {cost for answer, cost in zip(answers, costs, strict=True) if answer[0] != 400} == {(1, 0)}
    assert answers[:6] == [(401, "AUTH_INVALID_CREDENTIALS")] * 6


async def test_the_hash_of_nobody_costs_what_a_new_one_costs(store: SqliteStore, work: Work) -> None:
    """It has today's parameters, and no password fits it that anybody could send."""
    async with serving(store) as caller:
        await attempt(caller, "nobody", PASSWORD)

    ((encoded, _),) = work.verified
    fresh = Argon2PasswordHasher().hash("a fresh one")
    assert encoded.split("$")[:4] == fresh.split("$")[:4]
    assert not Argon2PasswordHasher().needs_rehash(encoded)


async def test_behind_a_lock_the_right_password_costs_what_a_wrong_one_does(store: SqliteStore, work: Work) -> None:
    """Nothing, and for a name that nobody has as well: what is locked tells not whether it exists."""
    async with serving(store) as caller:
        for name in ("admin", "nobody"):
            for _ in range(10):
                await attempt(caller, name)
        work.verified.clear()
        pairs = (("admin", PASSWORD), ("admin", "wrong"), ("nobody", "wrong"))
        locked = [await attempt(caller, *pair) for pair in pairs]

    assert len(set(locked)) == 1
    assert work.verified == []


async def test_the_token_of_the_metrics_is_compared_in_equal_time(store: SqliteStore, work: Work) -> None:
    """Whole, however much of it is right."""
    settings = read_settings(
        {
            "DATABASE_URL": "sqlite::memory:",
            "JWT_SECRET": "the signing secret of these tests, long enough",
            "IRON_METRICS_TOKEN": METRICS_TOKEN,
        }
    )
    guesses = [METRICS_TOKEN[:-1] + "x", "x" * len(METRICS_TOKEN), METRICS_TOKEN]
    async with serving(store, settings, client_address=STRANGER) as caller:
        statuses = [(await caller.bearing(guess).get("/metrics")).status for guess in guesses]

    assert statuses == [401, 401, 200]
    assert [pair for pair in work.compared if METRICS_TOKEN.encode() in pair] == [
        (guess.encode(), METRICS_TOKEN.encode()) for guess in guesses
    ]


async def test_tokens_are_looked_for_by_their_hash_alone(store: SqliteStore, work: Work) -> None:
    """No statement, and no comparison that stops early, ever sees one; nor the hash of a password."""
    seen: list[str] = []
    async with serving(store) as caller:
        admin = await caller.login()
        made = await admin.post("/api-tokens", {"name": "bot"})
        value = made.body["token"]
        login = await caller.post("/auth/login", {"username": "ann", "password": PASSWORD})
        refresh = login.body["refresh_token"]
        store._connection.set_trace_callback(seen.append)  # with the values
        statuses = [
            (await Caller(caller.client, store, {"X-API-Token": value}).get("/agents")).status,
            (await Caller(caller.client, store, {"X-API-Token": value[:-1] + "_"}).get("/agents")).status,
            (await caller.post("/auth/refresh", {"refresh_token": refresh})).status,
            (await caller.post("/auth/refresh", {"refresh_token": refresh[:-1] + "_"})).status,
            (await caller.bearing(login.body["access_token"][:-3] + "abc").get("/agents")).status,
        ]

    assert statuses == [200, 401, 200, 401, 401]
    assert len(seen) > 5
    assert not [pair for pair in work.compared if {value.encode(), refresh.encode()} & set(pair)]
    assert not [each for each in seen if value[3:-1] in each or refresh[3:-1] in each or "argon2" in each.lower()]
