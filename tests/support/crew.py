"""A crew: agents of ann's with money, leases and calls, in the store behind a desk."""

import time

from ironcage_core.domain.instants import MS_PER_S
from ironcage_storage.sqlite.store import SqliteStore
from tests.support.http_agents import Stage
from tests.support.world import USD, SetClock, TestAgent


def crew_of(store: SqliteStore) -> Stage:
    """Return what makes agents there and does what their runtimes do; its clock is a second ahead of the store's."""
    return Stage(store, SetClock(int(time.time() + 1) * MS_PER_S))


def busy_agent(crew: Stage, name: str = "worker", *, budget: int = 10, lent: int = 5) -> tuple[TestAgent, str]:
    """Make an agent that was lent so many USD and spent one and a half of them in a call; return its lease too."""
    agent = crew.agent(budget * USD, name=name)
    lease_id = agent.handshake(lent * USD).lease.id
    agent.report(lease_id, f"call of {name}", USD * 3 // 2, input_tokens=60, output_tokens=40)
    return agent, lease_id
