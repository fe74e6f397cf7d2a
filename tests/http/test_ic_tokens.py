"""An agent's IC token over the wire: taken away, replaced, and for a while both values."""

import pytest

from tests.support.http_agents import Stage
from tests.support.world import TestAgent

pytestmark = pytest.mark.usefixtures("silence")


def can_call(world: Stage, token: str) -> bool:
    return world.get("/budget", token=token).status == 200


def fresh(world: Stage, agent: TestAgent, **body: object) -> str:
    answer = world.post(f"/agents/{agent.id}/ic-token/regenerate", body, user="ann")
    assert answer.status == 200, answer.raw
    return str(answer.body["token"])


def test_a_revoked_token_is_dead_with_all_it_has_lent(world: Stage, agent: TestAgent) -> None:
    """The value fails on the next request and the lease's money is back."""
    world.post("/budget/handshake", {"requested_budget": 10}, token=agent.token)

    gone = world.send("DELETE", f"/agents/{agent.id}/ic-token", user="ann")

    assert (gone.status, gone.raw) == (204, b"")
    assert not can_call(world, agent.token)
    assert agent.balance().held == 0
    assert world.get(f"/agents/{agent.id}/ic-token", user="ann").body["has_ic_token"] is False


def test_revoking_twice_is_the_same_as_once(world: Stage, agent: TestAgent) -> None:
    """A retry is safe, and the audit log has one row."""
    path = f"/agents/{agent.id}/ic-token"
    answers = [world.send("DELETE", path, user="ann").status for _ in range(2)]

    rows = world.store.read(lambda uow: [row for row in uow.audit.rows() if agent.id in row.metadata])

    assert answers == [204, 204]
    assert [row.operation for row in rows].count("IC_TOKEN_REVOKED") == 1


def test_a_token_issued_after_a_revocation_is_another_one(world: Stage, agent: TestAgent) -> None:
    """The record's end is final."""
    before = world.get(f"/agents/{agent.id}/ic-token", user="ann").body["id"]
    world.send("DELETE", f"/agents/{agent.id}/ic-token", user="ann")

    issued = world.post(f"/agents/{agent.id}/ic-token", user="ann")

    assert issued.status == 201
    assert issued.body["id"] != before
    assert can_call(world, issued.body["token"])
    assert not can_call(world, agent.token)


def test_both_values_live_until_the_overlap_ends(world: Stage, agent: TestAgent) -> None:
    """A runtime has time to take over the new one."""
    new = fresh(world, agent, overlap_seconds=60)
    during = can_call(world, agent.token), can_call(world, new)
    world.clock.instant += 60_000

    after = can_call(world, agent.token), can_call(world, new)

    assert (during, after) == ((True, True), (False, True))


@pytest.mark.parametrize("how", ["regenerate", "revoke"])
def test_one_old_value_lives_at_most(world: Stage, agent: TestAgent, how: str) -> None:
    """A further change kills the overlapping value at once."""
    fresh(world, agent, overlap_seconds=3600)
    if how == "regenerate":
        fresh(world, agent, overlap_seconds=3600)
    else:
        world.send("DELETE", f"/agents/{agent.id}/ic-token", user="ann")

    assert not can_call(world, agent.token)


def test_a_token_whose_time_is_over_is_not_made_anew_without_a_time(world: Stage, agent: TestAgent) -> None:
    """It would be dead at birth."""
    record = world.store.read(lambda uow: uow.ic_tokens.find_active_of(agent.id))
    assert record is not None
    world.store.write(lambda uow: uow.ic_tokens.put(record._replace(expires_at=world.clock.now() - 1000)))

    refused = world.post(f"/agents/{agent.id}/ic-token/regenerate", user="ann")

    assert (refused.status, list(refused.fields)) == (400, ["expires_at"])
    assert can_call(world, fresh(world, agent, expires_at="2099-01-01T00:00:00Z"))
