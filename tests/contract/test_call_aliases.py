"""Other names of calls: found within the batch that gave them, kept over a purge, told apart by kind and agent."""

import pytest

from ironcage_core.ports.storage import UnitOfWork
from ironcage_storage.sqlite.migrations.m10_ingestion import STATEMENTS
from ironcage_storage.sqlite.store import SqliteStore
from tests.support.rows import agent_row, put_agent, usage_row
from tests.support.stores import RefusedError, raw
from tests.support.world import NOON

AGENT = "agent_" + "a" * 32
OTHER = "agent_" + "b" * 32
UUID = "0190f3a1-c4d2-4b8e-9a5f-001122334455"
DIGITS = UUID.replace("-", "")


@pytest.fixture
def usage(store: SqliteStore) -> SqliteStore:
    """Return a store with the agents whose calls these are."""

    def run(uow: UnitOfWork) -> None:
        owner_id = put_agent(uow).owner_id
        for agent_id in (AGENT, OTHER):
            uow.agents.put(agent_row(owner_id, id=agent_id))

    store.write(run)
    return store


def found(uow: UnitOfWork) -> list[str | None]:
    """Return what each name stands for."""
    return [
        uow.usage.find_alias(AGENT, "event", "n"),
        uow.usage.find_alias(AGENT, "uuid", "n"),
        uow.usage.find_alias(AGENT, "request", "n"),
        uow.usage.find_alias(OTHER, "event", "n"),
    ]


def test_a_name_is_found_by_its_kind_and_agent_alone(usage: SqliteStore) -> None:
    """At once in the unit of work that gives it, and for ever."""

    def run(uow: UnitOfWork) -> list[str | None]:
        uow.usage.add_alias(AGENT, "event", "n", "k1")
        uow.usage.add_alias(AGENT, "request", "n", "k2")
        return found(uow)

    assert usage.write(run) == usage.read(found) == ["k1", None, "k2", None]


def test_a_name_stays_with_the_call_that_had_it_first(usage: SqliteStore) -> None:
    """In one batch and in another."""

    def run(uow: UnitOfWork) -> None:
        for key in ("k1", "k2"):
            uow.usage.add_alias(AGENT, "event", "n", key)

    usage.write(run)
    usage.write(lambda uow: uow.usage.add_alias(AGENT, "event", "n", "k3"))

    assert raw(usage, "SELECT kind, alias, call_key FROM call_aliases") == [("event", "n", "k1")]


def test_a_unit_that_fails_leaves_no_name(usage: SqliteStore) -> None:
    """It is free for the next one."""

    def run(uow: UnitOfWork) -> None:
        uow.usage.add_alias(AGENT, "event", "n", "k1")
        raise RefusedError

    with pytest.raises(RefusedError):
        usage.write(run)

    assert usage.read(found) == [None] * 4


def test_what_is_expected_is_read_together_with_its_names(usage: SqliteStore) -> None:
    """Whatever the names lead to costs no further statement, and what leads nowhere is known to."""

    def fill(uow: UnitOfWork) -> None:
        for number in range(300):
            uow.usage.put(usage_row(AGENT, f"r{number}", event_id=f"e{number}"))
            uow.usage.add_alias(AGENT, "event", f"e{number}", f"r{number}")
        uow.usage.put(usage_row(AGENT, UUID))
        uow.usage.put(usage_row(AGENT, "k"))
        uow.usage.add_alias(AGENT, "uuid", "f" * 32, "k")

    usage.write(fill)
    events = [f"e{number}" for number in range(300)]
    names = [*events, f"evt_{UUID}", "F" * 32, "unknown"]

    def look(uow: UnitOfWork) -> tuple[list[str | None], int]:
        statements: list[str] = []
        uow.usage.expect(AGENT, names, [*events, "unknown"])
        connection = uow._session.connection  # type: ignore[attr-defined]
        connection.set_trace_callback(statements.append)
        keys = [uow.usage.find_alias(AGENT, "event", name) for name in [*events, "unknown"]]
        keys += [uow.usage.find_alias(AGENT, "uuid", digits) for digits in (DIGITS, "f" * 32)]
        records = [uow.usage.find(AGENT, key) for key in keys if key is not None]
        assert uow.usage.find(AGENT, UUID) is not None
        assert None not in records
        connection.set_trace_callback(None)
        return keys[-4:], len(statements)

    assert usage.write(look) == (["r299", None, None, "k"], 0)


def test_a_purge_keeps_the_names(usage: SqliteStore) -> None:
    """They lead to what is kept of the call, until that is forgotten."""

    def run(uow: UnitOfWork) -> None:
        fields = {"report_cost_micros": None, "cost_source": "event", "owner_id": "o", "unsplit_tokens": 0}
        uow.usage.put(usage_row(AGENT, "k", event_id="n", request_id="k", input_tokens=3, output_tokens=4, **fields))
        uow.usage.add_alias(AGENT, "event", "n", "k")
        uow.usage.add_alias(AGENT, "event", "k", "another")
        uow.usage.advance_horizon("records", NOON + 1)
        uow.usage.purge_records(10)

    usage.write(run)
    kept = usage.read(lambda uow: uow.usage.find_kept(AGENT, "k"))
    assert kept is not None
    assert (kept.owner_id, kept.project_id, kept.input_tokens, kept.total_tokens) == ("o", "proj", 3, 7)
    assert usage.read(found)[0] == "k"

    assert usage.write(lambda uow: uow.usage.purge_keys(NOON, 10)) == []
    assert usage.write(lambda uow: uow.usage.purge_keys(NOON + 1, 10)) == [kept]
    assert usage.read(lambda uow: (found(uow)[0], uow.usage.find_kept(AGENT, "k"))) == (None, None)
    assert raw(usage, "SELECT alias, call_key FROM call_aliases") == [("k", "another")]


def test_what_was_reported_says_nothing_of_its_owner_when_it_is_purged(usage: SqliteStore) -> None:
    """Nothing needs it any more."""

    def run(uow: UnitOfWork) -> None:
        uow.usage.put(usage_row(AGENT, "k", duration_ms=3, provider_id="p"))
        uow.usage.advance_horizon("records", NOON + 1)
        uow.usage.purge_records(10)

    usage.write(run)
    kept = usage.read(lambda uow: uow.usage.find_kept(AGENT, "k"))

    assert kept is not None
    assert kept[10:] == ("k", "completed", NOON, 1, None, None, None, None, None, None)


@pytest.mark.parametrize(
    ("request_id", "names"),
    [
        ("call-1", []),
        (UUID, []),
        (DIGITS, [(DIGITS, DIGITS)]),
        (UUID.upper(), [(DIGITS, UUID.upper())]),
        (f"evt_{UUID}", [(DIGITS, f"evt_{UUID}")]),
        (f"req_{UUID}", [(DIGITS, f"req_{UUID}")]),
        (f"request_{DIGITS}", [(DIGITS, f"request_{DIGITS}")]),
        (f"run_{UUID}", []),
        (f"{DIGITS[:-1]}g", []),
    ],
)
def test_an_older_database_gets_the_names_of_its_reports(
    usage: SqliteStore, request_id: str, names: list[tuple[str, str]]
) -> None:
    """By UUID, where one is not written as usual; an event that comes later meets its report."""
    usage.write(lambda uow: uow.usage.put(usage_row(AGENT, request_id)))

    raw(usage, next(each for each in STATEMENTS if "INTO call_aliases" in each))

    assert raw(usage, "SELECT alias, call_key FROM call_aliases") == names
