"""API tokens in every store: found, listed with tokens of the other kind, and counted."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from ironcage_core.domain.api_tokens import ApiToken, TokenUse
from ironcage_core.domain.instants import MS_PER_DAY
from ironcage_core.errors.faults import InvariantViolationError
from ironcage_core.ports.lists import ApiTokenFilter, ApiTokenOrder, Paging, TokenFilter
from ironcage_core.ports.storage import UnitOfWork
from ironcage_storage.sqlite.store import SqliteStore
from tests.support.rows import agent_row, api_row, fresh_id, token_row, user_row
from tests.support.stores import RefusedError, in_one_commit, raising
from tests.support.world import NOON, SetClock

MINUTE = 60_000
ANN, BEA = user_row("api ann"), user_row("api bea")
ANNS_AGENT = agent_row(ANN.id, name="Runner", project_id="proj a", created_at=NOON)
BEAS_AGENT = agent_row(BEA.id, name="walker", project_id="proj b")
GONE_AGENT = agent_row(ANN.id, name="gone", deleted_at=NOON)


API = {
    "plain": api_row(ANN.id, created_at=NOON - 1, name="beta"),
    "off": api_row(ANN.id, is_active=0, name="Alpha", last_used_at=NOON),
    "over": api_row(ANN.id, expires_at=NOON, name="50%_off", last_used_at=NOON - 5),
    "rotated": api_row(ANN.id, is_active=0, rotated_at=NOON, replaced_by="tok_new", name="500off", expires_at=NOON - 1),
    "revoked": api_row(ANN.id, revoked_at=NOON, revoked_by="x", name="gamma", expires_at=NOON - 1),
    "later": api_row(ANN.id, expires_at=NOON + 1, project_id="proj a", name="delta", created_at=NOON + 1),
    "beas": api_row(BEA.id, agent_id=BEAS_AGENT.id, project_id="proj b", name="bea's"),
}
IC = {
    "live": token_row(ANNS_AGENT.id, last_used_at=NOON, created_by=BEA.id),
    "expired": token_row(BEAS_AGENT.id, expires_at=NOON, created_at=NOON + 2),
    "dead": token_row(ANNS_AGENT.id, status="revoked", expires_at=NOON),
    "gone": token_row(GONE_AGENT.id, status="revoked"),
}
NAMES = {row.id: name for name, row in API.items()} | {row.id: f"ic {name}" for name, row in IC.items()}


def fill(uow: UnitOfWork) -> None:
    for user in (ANN, BEA):
        uow.users.put(user)
    for agent in (ANNS_AGENT, BEAS_AGENT, GONE_AGENT):
        uow.agents.put(agent)
    for token in API.values():
        uow.api_tokens.put(token)
    for record in IC.values():
        uow.ic_tokens.put(record)


def listed(
    uow: UnitOfWork,
    which: ApiTokenFilter,
    paging: Paging = Paging(),  # noqa: B008 - frozen
    order: ApiTokenOrder = "created_at",
    descending: bool = True,
) -> tuple[list[str], int]:
    page = uow.api_tokens.page(which, paging, order, descending=descending)
    return [NAMES[token.id] for token in page.rows], page.total


NEWEST_FIRST = ["later", "beas", "revoked", "rotated", "over", "off", "plain"]
FILTERS: list[tuple[dict[str, Any], list[str]]] = [
    ({}, NEWEST_FIRST),
    ({"user_id": BEA.id}, ["beas"]),
    ({"agent_id": BEAS_AGENT.id}, ["beas"]),
    ({"project_id": "proj a"}, ["later"]),
    ({"name": "ALPH"}, ["off"]),
    ({"name": "0%_o"}, ["over"]),
    ({"name": "off"}, ["rotated", "over"]),
    ({"status": "active"}, ["later", "beas", "plain"]),
    ({"status": "inactive"}, ["off"]),
    ({"status": "expired"}, ["over"]),
    ({"status": "rotated"}, ["rotated"]),
    ({"status": "revoked"}, ["revoked"]),
    ({"status": "expired", "now": NOON + 1}, ["later", "over"]),
    ({"status": "active", "user_id": ANN.id, "name": "e"}, ["later", "plain"]),
]


@pytest.mark.parametrize(("fields", "expected"), FILTERS)
def test_api_tokens_are_filtered(store: SqliteStore, fields: dict[str, Any], expected: list[str]) -> None:
    """The status is that of an instant; signs of LIKE are letters like any other."""
    store.write(fill)

    found = store.read(partial(listed, which=ApiTokenFilter(**{"now": NOON, **fields})))

    assert found == (expected, len(expected))


@pytest.mark.parametrize("status", ["active", "inactive", "expired", "rotated", "revoked"])
def test_the_store_and_the_domain_agree_on_a_status(store: SqliteStore, status: Any) -> None:  # noqa: ANN401 - a status
    """Of every token at several instants."""
    store.write(fill)

    for now in (NOON - 1, NOON, NOON + 1):
        rows, _ = store.read(partial(listed, which=ApiTokenFilter(status=status, now=now)))

        assert set(rows) == {name for name, token in API.items() if token.status_at(now) == status}


KEYS: dict[ApiTokenOrder, Callable[[ApiToken], Any]] = {
    "created_at": lambda token: token.created_at,
    "name": lambda token: token.name.lower(),
    "last_used_at": lambda token: token.last_used_at or 0,
    "expires_at": lambda token: token.expires_at or 2**62,
}


@pytest.mark.parametrize("descending", [True, False])
@pytest.mark.parametrize("order", KEYS)
def test_api_tokens_are_sorted_with_ties_by_id(store: SqliteStore, order: ApiTokenOrder, descending: bool) -> None:
    """What was never used counts as used first, and what never ends ends last; page by page the same as at once."""
    store.write(fill)
    use = partial(listed, which=ApiTokenFilter(now=NOON), order=order, descending=descending)

    whole, total = store.read(use)
    pages = [store.read(partial(use, paging=Paging(number, 3)))[0] for number in (1, 2, 3, 4)]

    newest_id_first = sorted(API, key=lambda name: API[name].id, reverse=True)
    assert whole == sorted(newest_id_first, key=lambda name: KEYS[order](API[name]), reverse=descending)
    assert pages == [whole[:3], whole[3:6], whole[6:], []]
    assert total == len(API)


def test_a_token_is_found_before_and_after_it_is_written(store: SqliteStore) -> None:
    """By id and by hash, in the unit of work that makes it, in the same commit and later."""
    token = API["plain"]
    seen = []

    def look(uow: UnitOfWork) -> None:
        changed = token._replace(name="other")
        seen.append((uow.api_tokens.find(token.id), uow.api_tokens.find_by_hash(token.hash)))
        assert uow.api_tokens.find_by_hash("no such hash") is None
        uow.api_tokens.put(changed)
        assert uow.api_tokens.find_by_hash(token.hash) == uow.api_tokens.find(token.id) == changed
        uow.api_tokens.put(token)

    outcomes = in_one_commit(store, fill, look, look)
    store.write(look)

    assert [outcome.error for outcome in outcomes] == [None] * 3
    assert seen == [(token, token)] * 3


def test_unended_tokens_are_those_that_could_be_revoked(store: SqliteStore) -> None:
    """Switched off and expired ones too, oldest first."""
    store.write(fill)

    found = store.read(lambda uow: [NAMES[token.id] for token in uow.api_tokens.unended_of(ANN.id)])

    assert found == ["plain", "off", "over", "later"]


BREACHES = {
    "a hash is unique": api_row(ANN.id, hash=API["plain"].hash),
    "a revocation is for good": API["revoked"]._replace(revoked_at=None, revoked_by=None),
    "a rotation is for good": API["rotated"]._replace(rotated_at=None, replaced_by=None),
    "one successor each": api_row(ANN.id, rotated_at=NOON, replaced_by="tok_new"),
    "rotated or revoked": api_row(ANN.id, rotated_at=NOON, replaced_by="y", revoked_at=NOON, revoked_by="x"),
    "a limit is above 0": api_row(ANN.id, daily_request_limit=0),
    "a user there is": api_row(fresh_id("user")),
}


@pytest.mark.parametrize("rule", BREACHES)
def test_the_store_itself_guards_tokens(store: SqliteStore, rule: str) -> None:
    """Whatever a use case does."""
    store.write(fill)

    with pytest.raises(InvariantViolationError):
        store.write(lambda uow: uow.api_tokens.put(BREACHES[rule]))


# --- both kinds --------------------------------------------------------------


ALL = {*API, "ic live", "ic expired", "ic dead"}
ENTRY_FILTERS: list[tuple[dict[str, Any], set[str]]] = [
    ({}, ALL),
    ({"kind": "ic"}, {"ic live", "ic expired", "ic dead"}),
    ({"kind": "api"}, set(API)),
    ({"owner_id": BEA.id}, {"beas", "ic expired"}),
    ({"agent_id": BEAS_AGENT.id}, {"beas", "ic expired"}),
    ({"project_id": "proj a"}, {"later", "ic live", "ic dead"}),
    ({"search": "RUNN"}, {"ic live", "ic dead"}),
    ({"search": "0%_o"}, {"over"}),
    ({"status": "active"}, {"plain", "later", "beas", "ic live"}),
    ({"status": "expired"}, {"over", "ic expired"}),
    ({"status": "revoked"}, {"revoked", "ic dead"}),
    ({"status": "revoked", "kind": "ic", "owner_id": ANN.id}, {"ic dead"}),
]


@pytest.mark.parametrize(("fields", "expected"), ENTRY_FILTERS)
def test_tokens_of_both_kinds_are_filtered(store: SqliteStore, fields: dict[str, Any], expected: set[str]) -> None:
    """The IC token of a deleted agent went with it."""
    store.write(fill)

    page = store.read(lambda uow: uow.api_tokens.page_of_all_kinds(TokenFilter(**{"now": NOON, **fields}), Paging()))

    assert {NAMES[entry.id] for entry in page.rows} == expected
    assert page.total == len(expected)


def test_tokens_of_both_kinds_are_one_list(store: SqliteStore) -> None:
    """Newest first with ties by id, page by page as at once, unwritten rows included."""

    def pages(uow: UnitOfWork) -> list[list[str]]:
        fill(uow)
        which = TokenFilter(now=NOON)
        found = [uow.api_tokens.page_of_all_kinds(which, Paging(number, 4)) for number in (1, 2, 3, 4)]
        return [[entry.id for entry in page.rows] for page in found]

    made_at = {row.id: row.created_at for row in API.values()} | {row.id: row.created_at for row in IC.values()}
    del made_at[IC["gone"].id]
    expected = sorted(made_at, key=lambda each: (made_at[each], each), reverse=True)

    assert store.write(pages) == [expected[:4], expected[4:8], expected[8:], []]


def test_an_entry_tells_of_an_ic_token_what_its_agent_is(store: SqliteStore) -> None:
    """Name, owner and project are the agent's, who made it is its own."""
    store.write(fill)

    page = store.read(lambda uow: uow.api_tokens.page_of_all_kinds(TokenFilter(now=NOON), Paging()))

    entries = {entry.id: entry for entry in page.rows}
    live, later = IC["live"], API["later"]
    assert entries[live.id] == (
        live.id, "ic", "Runner", ANN.id, ANNS_AGENT.id, "proj a", "active", NOON, BEA.id, NOON, None,
    )  # fmt: skip
    assert entries[later.id] == (
        later.id, "api", "delta", ANN.id, None, "proj a", "active", NOON + 1, ANN.id, None, NOON + 1,
    )  # fmt: skip


# --- use ---------------------------------------------------------------------


def test_use_adds_up_by_lineage_day_and_minute(store: SqliteStore) -> None:
    """What is of another lineage, day or hour is told apart."""

    def count(uow: UnitOfWork) -> None:
        uow.token_usage.add_requests("a", NOON, 3)
        uow.token_usage.add_requests("a", NOON - 59 * MINUTE, 4)
        uow.token_usage.add_requests("a", NOON - 60 * MINUTE, 5)
        uow.token_usage.add_requests("a", NOON - MS_PER_DAY, 6)
        uow.token_usage.add_calls("a", NOON, tokens=10, cost=100)
        uow.token_usage.add_calls("a", NOON - MS_PER_DAY, tokens=20, cost=200)
        uow.token_usage.add_requests("b", NOON, 50)

    store.write(count)
    store.write(count)

    assert store.read(lambda uow: uow.token_usage.of("a", NOON)) == TokenUse(36, 24, 14, 60, 20, 600, 200)
    assert store.read(lambda uow: uow.token_usage.of("c", NOON)) == TokenUse(0, 0, 0, 0, 0, 0, 0)


def test_forgotten_minutes_leave_the_days(store: SqliteStore) -> None:
    """Only what is older than the instant's minute goes."""

    def count(uow: UnitOfWork) -> None:
        uow.token_usage.add_requests("a", NOON, 1)
        uow.token_usage.add_requests("a", NOON - MINUTE, 1)
        uow.token_usage.forget_minutes(NOON)

    store.write(count)

    use = store.read(lambda uow: uow.token_usage.of("a", NOON))
    assert (use.requests_today, use.requests_last_hour) == (2, 1)


def test_use_that_is_undone_was_never_counted(store: SqliteStore, clock: SetClock) -> None:
    """Beside a use case of the same commit that stays."""
    now = clock.now()
    add = [partial(_add, requests=requests) for requests in (1, 10, 100)]

    outcomes = in_one_commit(store, add[0], raising(add[1]), add[2])

    assert [type(outcome.error) for outcome in outcomes] == [type(None), RefusedError, type(None)]
    assert store.read(lambda uow: uow.token_usage.of("a", now)).total_requests == 101


def _add(uow: UnitOfWork, requests: int) -> None:
    uow.token_usage.add_requests("a", uow.now, requests)
    assert uow.token_usage.of("a", uow.now).requests_last_hour >= requests
