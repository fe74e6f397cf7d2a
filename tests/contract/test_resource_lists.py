"""Lists of agents and of provider keys: filters, orders and totals."""

from functools import partial

import pytest

from ironcage_core.ports.lists import AgentOrder, BalanceFilter, KeyFilter, KeyOrder, Paging
from ironcage_core.ports.storage import UnitOfWork
from ironcage_storage.sqlite.store import SqliteStore
from tests.support.rows import agent_row, balance_row, key_row, token_row, user_row
from tests.support.world import NOON

OWNERS = [user_row(f"lister {n}") for n in range(2)]
NAMES = ("beta", "Alpha", "50%_off", "500off", "gamma")
TAGS = ('["a", "b"]', '["b", "50%"]', "[]", '["B", "ab"]', '["a"]')
AGENTS = [
    agent_row(
        OWNERS[n % 2].id,
        name=name,
        runtime_status="running" if n == 2 else "idle",
        created_at=NOON + n // 2,
        updated_at=NOON - n,
        deleted_at=NOON if n == 4 else None,
        tags=TAGS[n],
    )
    for n, name in enumerate(NAMES)
]
BETA, ALPHA, PERCENT, PLAIN = (agent.id for agent in AGENTS[:4])
KEYS = [
    key_row("main", created_at=NOON, updated_at=NOON + 2),
    key_row("main-2", is_enabled=0, created_at=NOON, updated_at=NOON + 1),
    key_row("claude", provider="anthropic", created_at=NOON + 1, updated_at=NOON),
]
TOKENS = [token_row(BETA), token_row(ALPHA, status="revoked"), token_row(PERCENT)]


def fill(uow: UnitOfWork) -> None:
    for owner in OWNERS:
        uow.users.put(owner)
    for number, agent in enumerate(AGENTS):
        uow.agents.put(agent)
        uow.balances.put(balance_row(agent.id, allocated=1000 - number))
    for key in KEYS:
        uow.provider_keys.put(key)
    uow.provider_keys.assign(BETA, [KEYS[1].id, KEYS[0].id])
    uow.provider_keys.assign(ALPHA, [KEYS[0].id])
    for token in TOKENS:
        uow.ic_tokens.put(token)


AGENT_FILTERS = [
    (BalanceFilter(name="ALPH"), [ALPHA]),
    (BalanceFilter(name="%"), [PERCENT]),
    (BalanceFilter(name="0%_o"), [PERCENT]),
    (BalanceFilter(name="_"), [PERCENT]),
    (BalanceFilter(name="off"), [PLAIN, PERCENT]),
    (BalanceFilter(name="gamma"), []),
    (BalanceFilter(runtime_status="running"), [PERCENT]),
    (BalanceFilter(project_id="proj", owner_id=OWNERS[0].id), [PERCENT, BETA]),
    (BalanceFilter(project_id="other"), []),
    (BalanceFilter(provider_key_id=KEYS[0].id), [ALPHA, BETA]),
    (BalanceFilter(provider_key_id=KEYS[0].id, owner_id=OWNERS[1].id), [ALPHA]),
    (BalanceFilter(provider_key_id=KEYS[2].id), []),
    (BalanceFilter(tags=("b",)), [ALPHA, BETA]),
    (BalanceFilter(tags=("b", "a")), [BETA]),
    (BalanceFilter(tags=("b",), owner_id=OWNERS[1].id), [ALPHA]),
    (BalanceFilter(tags=("%",)), []),
    (BalanceFilter(tags=('a"',)), []),
]


@pytest.mark.parametrize(("which", "expected"), AGENT_FILTERS)
def test_agents_are_filtered(store: SqliteStore, which: BalanceFilter, expected: list[str]) -> None:
    """Signs of LIKE are letters like any other; case is none."""
    store.write(fill)

    page = store.read(partial(_agents, which, Paging()))

    assert page == (expected, len(expected))


def _agents(
    which: BalanceFilter, paging: Paging, uow: UnitOfWork, order: AgentOrder = "created_at", descending: bool = True
) -> tuple[list[str], int]:
    page = uow.balances.page(which, paging, order, descending=descending)
    return [agent.id for agent, _ in page.rows], page.total


AGENT_ORDERS: list[tuple[AgentOrder, bool, list[str]]] = [
    ("created_at", True, [PLAIN, PERCENT, ALPHA, BETA]),
    ("created_at", False, [ALPHA, BETA, PLAIN, PERCENT]),
    ("updated_at", True, [BETA, ALPHA, PERCENT, PLAIN]),
    ("updated_at", False, [PLAIN, PERCENT, ALPHA, BETA]),
    ("budget", True, [BETA, ALPHA, PERCENT, PLAIN]),
    ("budget", False, [PLAIN, PERCENT, ALPHA, BETA]),
    ("name", False, [PERCENT, PLAIN, ALPHA, BETA]),
    ("name", True, [BETA, ALPHA, PLAIN, PERCENT]),
]


@pytest.mark.parametrize(("order", "descending", "expected"), AGENT_ORDERS)
def test_agents_are_sorted_with_ties_by_id(
    store: SqliteStore, order: AgentOrder, descending: bool, expected: list[str]
) -> None:
    """Page by page the same as at once; past the end there is nothing, with the true total."""
    store.write(fill)
    use = partial(_agents, BalanceFilter())

    pages = [store.read(partial(use, Paging(number, 3), order=order, descending=descending)) for number in (1, 2, 3)]

    assert pages == [(expected[:3], 4), (expected[3:], 4), ([], 4)]


def test_what_belongs_to_agents_is_found_for_many_at_once(store: SqliteStore) -> None:
    """Keys in their order, active tokens alone, and nothing for who has nothing."""

    def found(uow: UnitOfWork) -> tuple[object, object, object]:
        ids = [agent.id for agent in AGENTS]
        counts = uow.provider_keys.agent_counts([key.id for key in KEYS])
        return uow.provider_keys.ids_of(ids), uow.ic_tokens.active_of(ids), counts

    store.write(fill)

    keys, tokens, counts = store.read(found)

    assert keys == {BETA: [KEYS[1].id, KEYS[0].id], ALPHA: [KEYS[0].id]}
    assert tokens == {BETA: TOKENS[0], PERCENT: TOKENS[2]}
    assert counts == {KEYS[0].id: 2, KEYS[1].id: 1}


KEY_LISTS: list[tuple[KeyFilter, KeyOrder, bool, list[int]]] = [
    (KeyFilter(), "created_at", True, [2, 1, 0]),
    (KeyFilter(), "created_at", False, [1, 0, 2]),
    (KeyFilter(), "updated_at", True, [0, 1, 2]),
    (KeyFilter(), "name", False, [2, 0, 1]),
    (KeyFilter(name="MAIN"), "name", True, [1, 0]),
    (KeyFilter(name="%"), "name", True, []),
    (KeyFilter(provider="anthropic"), "name", True, [2]),
    (KeyFilter(is_enabled=True), "name", True, [0, 2]),
    (KeyFilter(is_enabled=False), "name", True, [1]),
    (KeyFilter("main", "openai", is_enabled=False), "name", True, [1]),
]


@pytest.mark.parametrize(("which", "order", "descending", "expected"), KEY_LISTS)
def test_keys_are_filtered_and_sorted(
    store: SqliteStore, which: KeyFilter, order: KeyOrder, descending: bool, expected: list[int]
) -> None:
    """The total counts what the filter means, whatever the page."""
    store.write(fill)
    ids = [KEYS[number].id for number in expected]

    page = store.read(lambda uow: uow.provider_keys.page(which, Paging(1, 2), order, descending=descending))

    assert ([key.id for key in page.rows], page.total) == (ids[:2], len(ids))


def test_a_key_is_found_by_its_name_in_whatever_case(store: SqliteStore) -> None:
    """And nothing else is."""
    store.write(fill)

    assert store.read(lambda uow: uow.provider_keys.find_by_name("MAIN-2")) == KEYS[1]
    assert store.read(lambda uow: uow.provider_keys.find_by_name("mai")) is None
