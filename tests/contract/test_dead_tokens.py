"""What a storage remembers of token values that died, and of what they settle."""

import sqlite3

import pytest

from ironcage_core.domain.settlements import Settlement
from ironcage_core.errors.faults import InvariantViolationError
from ironcage_core.ports.storage import UnitOfWork
from ironcage_storage.sqlite.store import SqliteStore
from tests.support.rows import entry_row, put_agent, token_row
from tests.support.stores import in_one_commit, raising, raw
from tests.support.world import NOON


@pytest.fixture
def token_id(store: SqliteStore) -> str:
    """Return the id of a stored token."""

    def begin(uow: UnitOfWork) -> str:
        token = token_row(put_agent(uow).id)
        uow.ic_tokens.put(token)
        return token.id

    return store.write(begin)


def died_at(store: SqliteStore, token_id: str, gen: int = 1) -> int | None:
    return store.read(lambda uow: uow.dead_tokens.died_at(token_id, gen))


def test_each_generation_has_a_death_of_its_own(store: SqliteStore, token_id: str) -> None:
    """One that nobody noted has none."""
    store.write(lambda uow: uow.dead_tokens.note_death(token_id, 1, NOON))
    store.write(lambda uow: uow.dead_tokens.note_death(token_id, 2, NOON + 5))

    assert [died_at(store, token_id, gen) for gen in (1, 2, 3)] == [NOON, NOON + 5, None]


def test_a_death_comes_sooner_and_never_later(store: SqliteStore, token_id: str) -> None:
    """An overlap may be cut short, not prolonged; in the same unit of work, too."""
    store.write(lambda uow: uow.dead_tokens.note_death(token_id, 1, NOON + 60))

    def sooner_and_later(uow: UnitOfWork) -> int | None:
        uow.dead_tokens.note_death(token_id, 1, NOON + 10)
        uow.dead_tokens.note_death(token_id, 1, NOON + 20)
        return uow.dead_tokens.died_at(token_id, 1)

    assert store.write(sooner_and_later) == NOON + 10
    assert died_at(store, token_id) == NOON + 10


def test_the_database_itself_lets_no_dead_value_live_longer(store: SqliteStore, token_id: str) -> None:
    """Nor may a death be of a token that does not exist."""
    store.write(lambda uow: uow.dead_tokens.note_death(token_id, 1, NOON))

    with pytest.raises(sqlite3.IntegrityError, match="stays dead"):
        raw(store, "UPDATE ic_token_deaths SET died_at = died_at + 1")
    with pytest.raises(InvariantViolationError):
        store.write(lambda uow: uow.dead_tokens.note_death("ict_nobody", 1, NOON))


def test_a_settlement_grows_and_is_seen_at_once(store: SqliteStore) -> None:
    """By the units of work of the same batch; what a refused one did is gone."""
    first, second = Settlement("lease", 10, 4), Settlement("lease", 10, 10)

    in_one_commit(
        store,
        lambda uow: uow.dead_tokens.put_settlement(first),
        raising(lambda uow: uow.dead_tokens.put_settlement(first._replace(settled=9))),
    )
    seen = in_one_commit(store, lambda uow: (uow.dead_tokens.settlement("lease"), uow.dead_tokens.settlement("other")))
    store.write(lambda uow: uow.dead_tokens.put_settlement(second))

    assert [outcome.answer for outcome in seen] == [(first, None)]
    assert store.read(lambda uow: uow.dead_tokens.settlement("lease")) == second


def test_the_database_itself_settles_no_more_than_is_allowed(store: SqliteStore) -> None:
    """Should the code above it ever be wrong."""
    with pytest.raises(InvariantViolationError):
        store.write(lambda uow: uow.dead_tokens.put_settlement(Settlement("lease", 10, 11)))


def test_a_lease_is_summed_by_kind_up_to_an_instant(store: SqliteStore) -> None:
    """The instant itself counts, entries that are not written yet count, those of other leases do not."""
    rows = [("lease", "grant", 9, 0), ("lease", "spend", 2, 1), ("lease", "spend", 3, 1), ("lease", "return", 4, 2)]

    def post(uow: UnitOfWork) -> object:
        agent = put_agent(uow)
        for lease_id, kind, amount, after in (*rows, ("other", "spend", 50, 0)):
            uow.ledger.append(entry_row(agent.id, lease_id=lease_id, kind=kind, amount=amount, posted_at=NOON + after))
        return [uow.ledger.sums_of_lease("lease", NOON + after) for after in (-1, 0, 1, 2)]

    assert store.write(post) == [
        {}, {"grant": 9}, {"grant": 9, "spend": 5}, {"grant": 9, "spend": 5, "return": 4},
    ]  # fmt: skip
