"""The token manager: API tokens without a server, on the same database."""

import math
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from ironcage_core.domain.api_tokens import ApiToken, TokenUse
from ironcage_core.domain.audit import SYSTEM
from ironcage_core.domain.users import User
from ironcage_core.errors.access import InvalidTokenError
from ironcage_core.errors.identity import ApiTokenRevokedError
from ironcage_core.errors.tree import ValidationError
from ironcage_core.ports.lists import ApiTokenFilter, Paging
from ironcage_core.services.accounts import add_user
from ironcage_storage.sealed.api_tokens import api_token_hash, new_api_token
from ironcage_storage.sqlite.store import SqliteStore
from ironcage_storage.token_manager import InvalidToken, TokenManager
from tests.support.errors import everything_said_by

GARBAGE: list[Any] = [
    "", " ", "at_", "at_" + 43 * "!", "at_" + 42 * "a", "at_" + 44 * "a", "x" * 100_000, "\ud800",
    "at_" + 42 * "a" + "\n", None, 7, b"at_", [], {},
]  # fmt: skip


@pytest.fixture
def manager(database: Path) -> Any:  # noqa: ANN401 - a fixture that yields
    with TokenManager(database) as manager:
        yield manager


def record_of(database: Path, token: str) -> tuple[ApiToken, TokenUse, User]:
    """Return what another process sees of a token: its record, its use and its user."""
    with SqliteStore(database) as store:
        record = store.read(lambda uow: uow.api_tokens.find_by_hash(api_token_hash(token) or ""))
        assert record is not None
        use = store.read(lambda uow: uow.token_usage.of(record.lineage, uow.now))
        user = store.read(lambda uow: uow.users.find(record.user_id))
        assert user is not None
        return record, use, user


def test_ten_thousand_values_are_all_different() -> None:
    """And all of the form: at_ and 43 signs that need no escape anywhere."""
    values = {new_api_token() for _ in range(10_000)}

    assert len(values) == 10_000
    assert all(len(value) == 46 and api_token_hash(value) for value in values)


def test_a_token_works_as_it_is_promised(manager: TokenManager, database: Path) -> None:
    """Made, verified, used: the example of the first page."""
    token = manager.create_token("user-001", "my-api-key")

    is_good = manager.verify(token)
    manager.record_usage(token, 1000, 0.05)

    record, use, _ = record_of(database, token)
    assert is_good is True
    assert (record.name, record.scopes) == ("my-api-key", "*")
    assert use == TokenUse(1, 1, 1, 1000, 1000, 50_000, 50_000)
    assert record.last_used_at is not None


def test_verifying_is_no_use(manager: TokenManager, database: Path) -> None:
    """It moves no counter and no time."""
    token = manager.create_token("user-001", "k", daily_request_limit=1)

    answers = [manager.verify(token) for _ in range(3)]

    record, use, _ = record_of(database, token)
    assert answers == [True] * 3
    assert use.total_requests == 0
    assert record.last_used_at is None


@pytest.mark.parametrize("garbage", GARBAGE)
def test_garbage_is_not_good_and_that_is_all(manager: TokenManager, garbage: Any) -> None:  # noqa: ANN401 - anything
    """Nothing is raised by asking; whatever needs a token refuses it, and says nothing of it."""
    assert manager.verify(garbage) is False

    for deed in (
        manager.revoke,
        manager.deactivate,
        manager.check_quota,
        partial(manager.record_usage, tokens=1, cost_usd=1),
    ):
        with pytest.raises(InvalidToken) as refused:
            deed(garbage)
        assert isinstance(refused.value, InvalidTokenError)
        assert str(refused.value) == "The token is not valid"


def test_a_good_form_is_no_token_yet(manager: TokenManager) -> None:
    """A value that nobody made is unknown."""
    stranger = new_api_token()

    assert manager.verify(stranger) is False
    with pytest.raises(InvalidToken) as refused:
        manager.record_usage(stranger, 1, 1)
    assert stranger not in everything_said_by(refused.value)


def test_an_unknown_user_is_made_who_cannot_log_in(manager: TokenManager, database: Path) -> None:
    """Once; without password, with the least role that may have tokens, and an address where nobody reads mail."""
    first, second = (manager.create_token("user-001", name) for name in ("a", "b"))

    record, _, user = record_of(database, first)
    assert (user.username, user.role, user.password_hash) == ("user-001", "user", None)
    assert user.email.endswith("@token-manager.invalid")
    assert record_of(database, second)[0].user_id == record.user_id == user.id


def test_a_user_who_is_there_is_found_by_id_name_or_email(manager: TokenManager, database: Path) -> None:
    """In whatever case; one that is made of an email is found by it again."""
    with SqliteStore(database) as store:
        ann = store.write(partial(add_user, username="Ann", email="ann@test.io", role="viewer", actor=SYSTEM))
    tokens = [manager.create_token(text, "k") for text in (ann.id, "ann", "ANN@test.io")]
    strangers = [manager.create_token("bea@test.io", "k") for _ in range(2)]

    assert {record_of(database, token)[0].user_id for token in tokens} == {ann.id}
    (bea,) = {record_of(database, token)[2] for token in strangers}
    assert bea.email == "bea@test.io"


@pytest.mark.parametrize("user_id", ["", " ", "a\0b", "u" * 256, "a@b@c", "@", None, 7])
def test_a_text_that_names_nobody_is_refused(manager: TokenManager, user_id: Any) -> None:  # noqa: ANN401 - anything
    """Nobody is made of it."""
    with pytest.raises(ValidationError) as refused:
        manager.create_token(user_id, "k")

    assert list(refused.value.fields) == ["user_id"]


def test_a_refused_token_makes_no_user(manager: TokenManager, database: Path) -> None:
    """What goes wrong leaves nothing behind."""
    with pytest.raises(ValidationError):
        manager.create_token("user-001", "")

    with SqliteStore(database) as store:
        assert store.read(lambda uow: uow.users.is_empty())


def test_limits_are_kept_on_the_record(manager: TokenManager, database: Path) -> None:
    """Every one, exact to the micro-USD."""
    until = datetime(2100, 1, 1, tzinfo=UTC)

    token = manager.create_token(
        "u", "k", description="d", scopes=("agents:read",), expires_at=until, rate_limit_rps=5, daily_request_limit=6,
        daily_token_limit=7, daily_limit_usd="0.000001", cost_cap_usd=Decimal("1.5"),
    )  # fmt: skip

    record, *_ = record_of(database, token)
    assert (record.description, record.scopes, record.expires_at) == ("d", "agents:read", 4_102_444_800_000)
    assert (record.rate_limit_rps, record.daily_request_limit, record.daily_token_limit) == (5, 6, 7)
    assert (record.daily_limit_micros, record.cost_cap_micros) == (1, 1_500_000)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("expires_at", datetime(2000, 1, 1, tzinfo=UTC)),
        ("expires_at", datetime(2100, 1, 1)),  # noqa: DTZ001 - that is what is wrong with it
        ("daily_limit_usd", "a lot"),
        ("cost_cap_usd", 0),
        ("scopes", ("agents:fly",)),
        ("daily_token_limit", True),
    ],
)
def test_a_bad_limit_is_named(manager: TokenManager, field: str, value: object) -> None:
    """And nothing is made."""
    with pytest.raises(ValidationError) as refused:
        manager.create_token("u", "k", **{field: value})  # type: ignore[arg-type]  # as the test says

    assert list(refused.value.fields) == [field]


def test_a_token_ends_when_it_is_told(manager: TokenManager) -> None:
    """Switched off twice is off; revoked twice is an error; what is revoked is not switched off."""
    off, dead = manager.create_token("u", "a"), manager.create_token("u", "b")
    manager.deactivate(off)
    manager.deactivate(off)
    manager.revoke(dead)

    assert (manager.verify(off), manager.verify(dead)) == (False, False)
    with pytest.raises(ApiTokenRevokedError):
        manager.revoke(dead)
    with pytest.raises(ApiTokenRevokedError):
        manager.deactivate(dead)
    manager.revoke(off)


def test_an_expired_token_is_not_good(database: Path) -> None:
    """Its time is over without anybody's doing."""
    with TokenManager(database) as manager:
        token = manager.create_token("u", "k", expires_at=datetime.now(UTC) + timedelta(days=1))
        assert manager.verify(token)
    with SqliteStore(database) as store:
        store.write(lambda uow: uow.api_tokens.put(_found(uow, token)._replace(expires_at=uow.now)))

    with TokenManager(database) as manager:
        assert manager.verify(token) is False


def _found(uow: Any, token: str) -> Any:  # noqa: ANN401 - a unit of work and a record
    return uow.api_tokens.find_by_hash(api_token_hash(token))


def test_the_token_of_a_suspended_user_is_not_good(manager: TokenManager, database: Path) -> None:
    """Whoever suspends him, in whatever process."""
    token = manager.create_token("user-001", "k")
    user = record_of(database, token)[2]
    with SqliteStore(database) as store:
        store.write(lambda uow: uow.users.put(user._replace(status="suspended")))

    assert manager.verify(token) is False


QUOTAS: list[tuple[dict[str, Any], tuple[int, str], bool]] = [
    ({}, (10**12, "1000000000"), True),
    ({"daily_request_limit": 2}, (0, "0"), True),
    ({"daily_request_limit": 1}, (0, "0"), False),
    ({"daily_token_limit": 101}, (100, "0"), True),
    ({"daily_token_limit": 100}, (100, "0"), False),
    ({"daily_limit_usd": "0.05"}, (0, "0.049999"), True),
    ({"daily_limit_usd": "0.05"}, (0, "0.05"), False),
    ({"cost_cap_usd": "0.05"}, (0, "0.049999"), True),
    ({"cost_cap_usd": "0.05"}, (0, "7"), False),
]


@pytest.mark.parametrize(("limits", "call", "has_room"), QUOTAS)
def test_a_quota_leaves_room_until_it_is_used_up(
    manager: TokenManager, limits: dict[str, Any], call: tuple[int, str], has_room: bool
) -> None:
    """Asking uses nothing; a token without room is not good; a call over the quota is recorded in full."""
    token = manager.create_token("u", "k", **limits)
    assert manager.check_quota(token)
    manager.record_usage(token, *call)

    answers = [manager.check_quota(token), manager.check_quota(token), manager.verify(token)]
    manager.record_usage(token, *call)

    assert answers == [has_room] * 3


COSTS: list[tuple[Any, int]] = [
    (0, 0),
    (1, 1_000_000),
    (0.1, 100_000),
    (0.05, 50_000),
    ("0.000001", 1),
    (Decimal("1e-6"), 1),
    (Decimal("0.0000001"), 1),
    ("1e-400", 1),
    (0.0000011, 2),
    ("0.00000100000000000000000000000000000000001", 2),
    (1_000_000_000, 10**15),
    (-0.0, 0),
]


@pytest.mark.parametrize(("cost", "micros"), COSTS)
def test_cost_is_exact_and_never_rounded_down(manager: TokenManager, database: Path, cost: object, micros: int) -> None:
    """What is finer than a micro-USD counts as a whole one: nothing is lost, however often."""
    token = manager.create_token("u", "k")

    for _ in range(3):
        manager.record_usage(token, 0, cost)  # type: ignore[arg-type]  # as the test says

    assert record_of(database, token)[1].total_cost == 3 * micros


@pytest.mark.parametrize(
    ("tokens", "cost"),
    [
        (-1, 0), (True, 0), (1.0, 0), ("1", 0), (None, 0), (10**12 + 1, 0), (math.nan, 0),
        (0, -1), (0, -1e-9), (0, math.nan), (0, math.inf), (0, -math.inf), (0, True), (0, None), (0, "a lot"),
        (0, "NaN"), (0, "sNaN"), (0, Decimal("Infinity")), (0, 1_000_000_001), (0, "1e999999999"), (0, 1j),
    ],
)  # fmt: skip
def test_what_no_call_can_have_used_is_refused(
    manager: TokenManager,
    database: Path,
    tokens: Any,  # noqa: ANN401 - anything
    cost: Any,  # noqa: ANN401 - likewise
) -> None:
    """And nothing of it is counted."""
    token = manager.create_token("u", "k")

    with pytest.raises(ValueError, match=r"must be"):
        manager.record_usage(token, tokens, cost)

    assert record_of(database, token)[1] == TokenUse(0, 0, 0, 0, 0, 0, 0)


def test_use_of_an_ended_token_is_recorded(manager: TokenManager, database: Path) -> None:
    """The call was made."""
    token = manager.create_token("u", "k")
    manager.revoke(token)

    manager.record_usage(token, 5, 1)

    assert record_of(database, token)[1].total_tokens == 5


def test_threads_lose_no_use_and_make_no_token_twice(manager: TokenManager, database: Path) -> None:
    """Eight of them at once."""
    token = manager.create_token("u", "k")
    with ThreadPoolExecutor(8) as threads:
        made = list(threads.map(lambda number: manager.create_token("new user", f"k{number}"), range(40)))
        list(threads.map(lambda _: manager.record_usage(token, 3, "0.000001"), range(80)))

    with SqliteStore(database) as store:
        page = store.read(lambda uow: uow.api_tokens.page(ApiTokenFilter(now=uow.now), Paging(1, 100)))
    assert len(set(made)) == 40
    assert page.total == 41
    assert len({record.user_id for record in page.rows}) == 2
    assert record_of(database, token)[1][3:] == (240, 240, 80, 80)


def test_a_database_may_be_named_in_several_ways(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A path, an address, or memory; all ways to a file lead to the same one."""
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "a b.db"
    with TokenManager(file) as manager:
        token = manager.create_token("u", "k")

    for name in (str(file), "a b.db", f"sqlite:///{file}", "sqlite:///a%20b.db", "sqlite:///./a b.db?mode=rwc"):
        with TokenManager(name) as manager:
            assert manager.verify(token), name
    for name in (":memory:", "sqlite::memory:", "sqlite:///:memory:"):
        with TokenManager(name) as manager:
            assert manager.verify(token) is False
            assert manager.verify(manager.create_token("u", "k"))
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".db"] == ["a b.db"]


@pytest.mark.parametrize("name", ["", "postgres://host/db", "sqlite:", "sqlite:///", "sqlite:file.db", "redis://x"])
def test_another_kind_of_database_is_refused(name: str) -> None:
    """Before anything is made."""
    with pytest.raises(ValueError, match="database"):
        TokenManager(name)


def test_no_value_is_in_the_file(manager: TokenManager, database: Path) -> None:
    """Not in the database, nor in its log."""
    token = manager.create_token("u", "k")
    manager.record_usage(token, 1, 1)
    manager.close()

    kept = b"".join(path.read_bytes() for path in database.parent.iterdir())
    assert (api_token_hash(token) or "").encode() in kept
    assert token.encode() not in kept
    assert token[3:20].encode() not in kept
