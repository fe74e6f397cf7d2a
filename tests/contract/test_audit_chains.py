"""The audit log is one chain per retention class, and a change of any row shows."""

import json
import sqlite3
from functools import partial
from typing import Final

import pytest

from ironcage_core.domain.audit import SYSTEM, Actor, AuditNote, AuditRow, Chain, row_hash
from ironcage_core.ports.lists import AuditFilter, Paging
from ironcage_core.ports.storage import UnitOfWork
from ironcage_core.services.verify import verify
from ironcage_storage.sqlite.store import SqliteStore
from tests.support.rows import note, putting
from tests.support.stores import RefusedError, in_one_commit, raw
from tests.support.world import NOON, SetClock

ALL: Final = AuditFilter()


@pytest.fixture
def chains(store: SqliteStore) -> SqliteStore:
    """Return a store with three chains of several commits, two of them of several units."""

    def raise_away(uow: UnitOfWork) -> None:
        uow.audit.append(note("LOST", "user"))
        list(uow.audit.rows())
        raise RefusedError

    def look_between(uow: UnitOfWork) -> None:
        uow.audit.append(note("D", "user"))
        list(uow.audit.rows())
        uow.audit.append(note("E", "user"))

    store.write(putting(note("A", "user"), note("B", "budget")))
    in_one_commit(store, putting(note("C", "credential")), raise_away, look_between, putting(note("F", "token")))
    store.write(putting(note("G", "safety")))
    return store


def test_every_row_follows_the_row_before_it_of_its_class(chains: SqliteStore) -> None:
    """The first row of a class follows nothing; classes do not mix; a unit that raised leaves no gap."""
    rows = chains.read(lambda uow: list(uow.audit.rows()))
    heads: dict[str, str] = {}

    for row in rows:
        assert row.prev_hash == heads.get(row.chain, "")
        assert row.hash == row_hash(row, row.prev_hash)
        heads[row.chain] = row.hash
    assert {row.operation: row.chain for row in rows} == {
        "A": "permanent",
        "B": "standard",
        "C": "year",
        "D": "permanent",
        "E": "permanent",
        "F": "standard",
        "G": "year",
    }
    assert chains.read(verify).holds


CHAIN, COUNT, ANCHOR = "audit chain", "number of audit rows", "audit anchor"
COUNTED_DOWN = "UPDATE audit_counts SET n = n - 1 WHERE chain = 'permanent'"


@pytest.mark.parametrize(
    ("tampering", "found"),
    [
        (["UPDATE audit_log SET outcome = 'denied' WHERE operation = 'D'"], [CHAIN]),
        (["UPDATE audit_log SET actor_id = 'somebody' WHERE operation = 'G'"], [CHAIN]),
        (["UPDATE audit_log SET timestamp = timestamp + 1 WHERE operation = 'A'"], [CHAIN]),
        (["UPDATE audit_log SET metadata = '{\"x\":1}' WHERE operation = 'B'"], [CHAIN]),
        (["UPDATE audit_log SET hash = lower(hex(randomblob(32))) WHERE operation = 'F'"], [CHAIN]),
        (["UPDATE audit_log SET seq = seq + 1000 WHERE operation = 'D'"], [CHAIN, CHAIN]),  # D and E change places
        (
            ["UPDATE audit_log SET operation = char(137 - unicode(operation)) WHERE operation IN ('D', 'E')"],
            [CHAIN] * 2,
        ),
        (["DELETE FROM audit_log WHERE operation = 'D'"], [CHAIN, COUNT]),
        (["DELETE FROM audit_log WHERE operation = 'D'", COUNTED_DOWN], [CHAIN]),
        (["DELETE FROM audit_log WHERE operation = 'A'", COUNTED_DOWN], [CHAIN]),  # the head, and nothing was pruned
        (["DELETE FROM audit_log WHERE operation = 'E'"], [COUNT]),  # the tail
        (["DELETE FROM audit_log WHERE chain = 'standard'"], [COUNT]),
        (["DELETE FROM audit_counts"], [COUNT] * 3),
        (["INSERT INTO audit_anchors VALUES ('year', 1, 'abc')"], [CHAIN]),
        (
            [
                "PRAGMA ignore_check_constraints = ON",
                "INSERT INTO audit_anchors SELECT chain, seq, hash FROM audit_log WHERE operation = 'A'",
                "DELETE FROM audit_log WHERE operation = 'A'",
                COUNTED_DOWN,
            ],
            [ANCHOR],  # as if the chain that is never pruned had been
        ),
    ],
)
def test_what_is_done_behind_the_store_is_found(chains: SqliteStore, tampering: list[str], found: list[str]) -> None:
    """Whoever has the file can drop the triggers, but not hide what he changed, took out, moved or cut off."""
    raw(chains, "DROP TRIGGER audit_no_update")
    raw(chains, "DROP TRIGGER audit_no_delete")
    for statement in tampering:
        raw(chains, statement)

    assert [difference.number for difference in chains.read(verify).differences] == found


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit_log SET reason = 'x'",
        "DELETE FROM audit_log",
        "DELETE FROM audit_log WHERE operation = 'F'",
        "INSERT INTO audit_anchors VALUES ('permanent', 100, 'abc')",
        "UPDATE audit_anchors SET seq = seq - 1",
    ],
)
def test_the_database_itself_refuses_to_forget(chains: SqliteStore, statement: str) -> None:
    """But for what was anchored before."""
    assert pruned(chains, "standard", NOON + 1, limit=1) == 1

    with pytest.raises(sqlite3.IntegrityError):
        raw(chains, statement)


def pruned(store: SqliteStore, chain: Chain, before: int, *, limit: int = 100) -> int:
    return store.write(lambda uow: uow.audit.prune(chain, before, limit))


def operations(store: SqliteStore, which: AuditFilter = ALL, *, descending: bool = False) -> list[str]:
    """Return what the log lists, and check its total and its pages."""
    page = store.read(lambda uow: uow.audit.page(which, Paging(), descending=descending))
    single = [
        row
        for number in range(1, page.total + 1)
        for row in store.read(
            partial(
                lambda uow, paging: uow.audit.page(which, paging, descending=descending).rows, paging=Paging(number, 1)
            )
        )
    ]
    assert (page.total, single) == (len(page.rows), list(page.rows))
    return [row.operation for row in page.rows]


def test_only_the_oldest_rows_of_one_chain_go(store: SqliteStore, clock: SetClock) -> None:
    """At most so many, none that is young, and none behind a young one, however old it claims to be."""
    for moved, operation in ((0, "A"), (1, "B"), (1, "C"), (-2, "D")):
        clock.instant += moved
        store.write(putting(note(operation), note(operation + "2", "credential")))

    assert pruned(store, "standard", NOON) == 0
    assert pruned(store, "standard", NOON + 2, limit=1) == 1
    assert store.read(verify).holds
    assert pruned(store, "standard", NOON + 2) == 1
    assert pruned(store, "standard", NOON + 2) == 0  # D has A's time, but stands behind C
    assert [row.operation for row in store.read(lambda uow: list(uow.audit.rows())) if row.chain == "standard"] == [
        "C",
        "D",
    ]
    assert store.read(lambda uow: uow.audit.counts()) == {"standard": 2, "year": 4}
    assert store.read(verify).differences == []


def test_a_chain_goes_on_where_it_was_pruned_away(chains: SqliteStore) -> None:
    """Its next row follows the last one that went."""
    last = [row.hash for row in chains.read(lambda uow: list(uow.audit.rows())) if row.chain == "standard"][-1]
    assert pruned(chains, "standard", NOON + 1) == 2
    chains.write(putting(note("H")))
    chains.write(putting(note("I"), note("J", "user")))

    rows = [row for row in chains.read(lambda uow: list(uow.audit.rows())) if row.chain == "standard"]

    assert [row.operation for row in rows] == ["H", "I"]
    assert rows[0].prev_hash == last
    assert chains.read(lambda uow: uow.audit.anchors()) == {"standard": last}
    assert chains.read(verify).differences == []


@pytest.mark.parametrize(
    ("tampering", "found"),
    [
        ("DELETE FROM audit_anchors", [CHAIN]),
        ("UPDATE audit_anchors SET hash = 'abc', seq = seq + 1", [CHAIN]),
        ("DELETE FROM audit_log WHERE operation = 'H'", [CHAIN, COUNT]),
    ],
)
def test_a_pruned_chain_is_held_by_its_anchor(chains: SqliteStore, tampering: str, found: list[str]) -> None:
    """What was cut off its head besides is found."""
    pruned(chains, "standard", NOON + 1)
    chains.write(putting(note("H"), note("I")))
    raw(chains, "DROP TRIGGER audit_no_delete")
    raw(chains, tampering)

    assert [difference.number for difference in chains.read(verify).differences] == found


def test_the_permanent_chain_is_never_pruned(chains: SqliteStore) -> None:
    """It is a mistake to ask for it."""
    with pytest.raises(ValueError, match="for ever"):
        pruned(chains, "permanent", NOON + 1)


def test_a_pruning_that_raises_takes_nothing_away(chains: SqliteStore) -> None:
    """Rows, anchor and count come back together, and what its batch wrote stays."""
    seen = []

    def prune_and_raise(uow: UnitOfWork) -> None:
        uow.audit.append(note("LOST"))
        seen.append(uow.audit.prune("standard", NOON + 1, 100))
        seen.append(uow.audit.counts()["standard"])
        uow.audit.append(note("LOST TOO"))
        raise RefusedError

    in_one_commit(chains, putting(note("H")), prune_and_raise, putting(note("I")))

    assert seen == [4, 0]
    assert operations(chains, AuditFilter(category="budget")) == ["B", "H", "I"]
    assert chains.read(lambda uow: uow.audit.anchors()) == {}
    assert chains.read(verify).differences == []


def test_pruning_sees_the_rows_of_its_own_batch(chains: SqliteStore) -> None:
    """Written or not, they are the chain; what comes after is linked behind them."""

    def prune_between(uow: UnitOfWork) -> int:
        uow.audit.append(note("H"))
        gone = uow.audit.prune("standard", NOON + 1, 100)
        uow.audit.append(note("I"))
        return gone

    _, outcome, _ = in_one_commit(chains, putting(note("G2")), prune_between, putting(note("J")))

    assert outcome.answer == 4
    assert operations(chains, AuditFilter(category="budget")) == ["I", "J"]
    assert chains.read(lambda uow: uow.audit.counts())["standard"] == 2
    assert chains.read(verify).differences == []


def test_a_list_is_in_the_order_of_time(store: SqliteStore, clock: SetClock) -> None:
    """Whatever the clock did; rows of one instant are in the order of writing."""
    for moved, names in ((5, "AB"), (-3, "CD"), (9, "E")):
        clock.instant += moved
        store.write(putting(*map(note, names)))

    assert operations(store) == ["C", "D", "A", "B", "E"]
    assert operations(store, descending=True) == ["E", "B", "A", "D", "C"]


ANN, BOB = Actor("user", "user_a", role="admin"), Actor("api_token", "user_b", token_id="tok_b")


@pytest.mark.parametrize(
    ("which", "listed"),
    [
        (ALL, "ABCDE"),
        (AuditFilter(user_id="user_a"), "A"),  # not the agent that happens to be called like her
        (AuditFilter(user_id="user_b"), "B"),
        (AuditFilter(user_id="system"), ""),
        (AuditFilter(operation="D"), "D"),
        (AuditFilter(resource_type="agent"), "C"),
        (AuditFilter(resource_id="r1"), "AC"),
        (AuditFilter(category="auth"), "BD"),
        (AuditFilter(outcome="failed"), "D"),
        (AuditFilter(since=NOON + 1), "BCDE"),
        (AuditFilter(until=NOON + 3), "ABC"),
        (AuditFilter(resource_id="r1", since=NOON + 1, until=NOON + 3), "C"),
        (AuditFilter(category="auth", outcome="success"), "B"),
        (AuditFilter(category="safety"), ""),
    ],
)
def test_a_list_holds_what_is_asked_for(store: SqliteStore, clock: SetClock, which: AuditFilter, listed: str) -> None:
    """Each filter alone and with others, with the exact total."""
    for each in (
        AuditNote("A", "user", "user", "r1", ANN),
        AuditNote("B", "auth", "user", None, BOB),
        AuditNote("C", "budget", "agent", "r1", Actor("agent", "user_a")),
        AuditNote("D", "auth", "user", "r2", SYSTEM, outcome="failed"),
        AuditNote("E", "budget", "lease", "r3", SYSTEM),
    ):
        store.write(putting(each))
        clock.instant += 1

    assert operations(store, which) == list(listed)
    assert operations(store, which, descending=True) == list(reversed(listed))


def test_a_unit_of_work_lists_and_finds_its_own_rows(chains: SqliteStore) -> None:
    """Linked already, and counted."""

    def look(uow: UnitOfWork) -> tuple[int, list[AuditRow], list[AuditRow | None]]:
        uow.audit.append(note("H"))
        page = uow.audit.page(ALL, Paging(1, 2))
        return page.total, list(page.rows), [uow.audit.find(row.id) for row in page.rows]

    total, rows, found = chains.write(look)

    assert (total, [row.operation for row in rows]) == (8, ["H", "G"])
    assert found == rows
    assert all(row.hash for row in rows)
    assert chains.read(lambda uow: uow.audit.find("aud_nothing")) is None


@pytest.mark.parametrize("name", ["password", "API_KEY", "Authorization", "X-Api-Token", "token"])
def test_a_secret_is_not_stored_even_by_mistake(store: SqliteStore, name: str) -> None:
    """A field that is named like one holds nothing, however deep it is; ids of tokens stay."""
    secret = {name: "sk-open", "n": 1, "token_id": "tok_1"}
    store.write(
        putting(
            AuditNote(
                "A",
                "config",
                "test",
                None,
                SYSTEM,
                changes={"before": secret, "after": [secret]},
                metadata={"deep": [{"deeper": (secret,)}], name: {"x": "sk-open"}},
            )
        )
    )
    (row,) = store.read(lambda uow: uow.audit.page(ALL, Paging())).rows
    kept = {name: "[REDACTED]", "n": 1, "token_id": "tok_1"}

    assert json.loads(row.changes or "") == {"before": kept, "after": [kept]}
    assert json.loads(row.metadata) == {"deep": [{"deeper": [kept]}], name: "[REDACTED]"}
    assert not raw(store, "SELECT 1 FROM audit_log WHERE instr(changes || metadata, 'sk-open')")


def test_a_long_user_agent_is_cut(store: SqliteStore) -> None:
    """At 500 characters; none stays none."""
    for agent in ("\u00e9" * 501, "", None):
        store.write(putting(AuditNote("A", "auth", "user", None, Actor("user", "user_a", user_agent=agent))))

    rows = store.read(lambda uow: list(uow.audit.rows()))

    assert [row.user_agent for row in rows] == ["\u00e9" * 500, None, None]
