"""The audit log as an admin reads it and as time thins it out."""

from functools import partial

import pytest

from ironcage_core.domain.audit import RETENTION_DAYS, Chain
from ironcage_core.domain.instants import MS_PER_DAY
from ironcage_core.errors.identity import AuditRowNotFoundError
from ironcage_core.ports.lists import AuditFilter, Paging
from ironcage_core.services.audit_log import get_audit_row, list_audit_rows, prune_audit_log
from tests.support.rows import note, putting
from tests.support.world import NOON, USD, World


def days_pass(world: World, days: int) -> None:
    world.clock.instant += days * MS_PER_DAY


def prune(world: World, *, standard_days: int = 90, limit: int = 256) -> int:
    return world.store.write(partial(prune_audit_log, standard_days=standard_days, limit=limit))


def kept(world: World) -> dict[Chain, int]:
    """Return how many rows each chain has, as counted one by one and as maintained."""
    assert world.verify().differences == []
    return {chain: n for chain, n in world.store.read(lambda uow: uow.audit.counts()).items() if n}


def test_what_a_runtime_s_day_leaves_is_read_row_by_row(world: World) -> None:
    """The newest first, each found by its id."""
    agent = world.agent()
    agent.return_lease(agent.handshake(10 * USD).lease.id)

    page = world.store.read(partial(list_audit_rows, which=AuditFilter(), paging=Paging()))
    oldest = world.store.read(partial(list_audit_rows, which=AuditFilter(), paging=Paging(1, 1), descending=False))

    assert [row.operation for row in page.rows][:2] == ["LEASE_RETURNED", "CREDENTIAL_ACCESSED"]
    assert (oldest.rows[0], oldest.total) == (page.rows[-1], len(page.rows))
    for row in page.rows:
        assert world.store.read(partial(get_audit_row, row_id=row.id)) == row
    for unknown in ("aud_" + "0" * 32, agent.id, "", "x\0"):
        with pytest.raises(AuditRowNotFoundError):
            world.store.read(partial(get_audit_row, row_id=unknown))


def test_each_chain_is_kept_as_long_as_its_retention_says(world: World) -> None:
    """A row goes when it is older than that, not when it is exactly that old."""
    world.store.write(putting(note("A", "budget"), note("B", "safety"), note("C", "user")))
    whole = kept(world)
    assert set(whole) == {"standard", "year", "permanent"} == set(RETENTION_DAYS)

    days_pass(world, 90)
    assert prune(world) == 0
    world.clock.instant += 1
    assert prune(world) == whole.pop("standard")
    assert kept(world) == whole

    days_pass(world, 365 - 90)
    assert prune(world) == whole.pop("year")
    days_pass(world, 10_000)
    assert prune(world) == 0
    assert kept(world) == whole


def test_the_operator_says_how_long_the_standard_chain_is_kept(world: World) -> None:
    """The others are not his to shorten."""
    world.store.write(putting(note("A", "budget"), note("B", "safety")))
    before = kept(world)
    days_pass(world, 8)

    assert prune(world, standard_days=8) == 0
    assert prune(world, standard_days=7) == before.pop("standard")
    assert kept(world) == before


def test_pruning_goes_on_in_small_steps(world: World) -> None:
    """At most `limit` rows of all chains together, until fewer are left; the log goes on all the while."""
    before = kept(world)
    world.store.write(
        putting(*[note(f"O{n}", "budget") for n in range(5)], *[note(f"Y{n}", "safety") for n in range(4)])
    )
    old = sum(kept(world).values()) - before["permanent"]
    days_pass(world, 400)

    steps: list[int] = []
    while not steps or steps[-1] == 4:
        steps.append(prune(world, limit=4))
        world.store.write(putting(note(f"N{len(steps)}", "budget")))
        assert world.verify().holds

    assert (sum(steps), max(steps)) == (old, 4)
    assert kept(world) == {"permanent": before["permanent"], "standard": len(steps)}
    assert world.clock.now() > NOON
