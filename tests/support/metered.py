"""Calls of several owners' agents over some weeks, and what a walk through them finds of a question."""

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from ironcage_core.domain.agents import Agent
from ironcage_core.domain.instants import MS_PER_DAY, MS_PER_HOUR, Instant, parse_instant
from ironcage_core.domain.usage import UsageRecord
from ironcage_core.ports.storage import UnitOfWork
from tests.support.http_agents import Stage, stage
from tests.support.rows import fresh_id, usage_row
from tests.support.world import TestAgent

AGENTS = {"ann 1": "ann", "ann 2": "ann", "ann gone": "ann", "vera 1": "vera", "otto 1": "otto"}
"""Whose each agent is; the gone one is deleted."""

QUESTIONS: Sequence[tuple[str, Mapping[str, str]]] = (
    ("admin", {}),
    ("ann", {}),
    ("vera", {}),
    ("admin", {"user_id": "ann"}),
    ("admin", {"agent_id": "ann gone"}),
    ("ann", {"agent_id": "ann 1"}),
    ("admin", {"provider_id": "prov_a"}),
    ("ann", {"provider_id": "prov_a"}),
    ("ann", {"provider": "anthropic"}),
    ("admin", {"model": "m1"}),
    ("admin", {"project_id": "p1"}),
    ("ann", {"agent_id": "ann 2", "provider": "openai", "model": "m2", "project_id": "p1"}),
    ("admin", {"model": "never called"}),
)
"""Who asks, and with which filters; agents and users by their names here."""


@dataclass
class Metered:
    """A stage, its agents by name, and every record that was put."""

    stage: Stage
    agents: Mapping[str, TestAgent]
    records: list[UsageRecord] = field(default_factory=list)

    @property
    def now(self) -> Instant:
        """What time it is."""
        return self.stage.clock.now()

    def put(self, name: str, **fields: Any) -> UsageRecord:  # noqa: ANN401 - fields of a record
        """Put a record of a call of an agent."""
        content = {"occurred_at": self.now - 1, "owner_id": self.stage.user_id(AGENTS[name]), **fields}
        record = usage_row(self.agents[name].id, fresh_id("call"), **content)
        self.stage.store.write(lambda uow: uow.usage.put(record))
        self.records.append(record)
        return record

    def parameters(self, filters: Mapping[str, str]) -> dict[str, str]:
        """Return filters as they are sent."""
        sent = dict(filters)
        if "agent_id" in sent:
            sent["agent_id"] = self.agents[sent["agent_id"]].id
        if "user_id" in sent:
            sent["user_id"] = self.stage.user_id(sent["user_id"])
        return sent

    def ask(self, path: str, user: str, filters: Mapping[str, str], **parameters: object) -> Any:  # noqa: ANN401 - a body
        """Return the body of an answer that is none of the refusals."""
        answer = self.stage.get(path, user=user, params={**self.parameters(filters), **parameters})
        assert answer.status == 200, answer.raw
        return answer.body

    def found(self, user: str, filters: Mapping[str, str], time: Mapping[str, Any]) -> list[UsageRecord]:
        """Return the records that are meant, looked at one by one; `time` is the range that an answer tells."""
        sent = self.parameters(filters)
        sent.pop("user_id", None)
        owner = filters.get("user_id", None if user == "admin" else user)
        names = {agent.id: name for name, agent in self.agents.items()}
        start, end = (None if text is None else parse_instant(text, field="range") for text in time.values())
        return [
            record
            for record in self.records
            if all(getattr(record, name) == value for name, value in sent.items())
            and owner in {None, AGENTS[names[record.agent_id]]}
            and (start is None or record.occurred_at >= start)
            and (end is None or record.occurred_at < end)
        ]


@contextmanager
def metered(*, calls: int) -> Iterator[Metered]:
    """Yield a stage on which so many calls were made within the last seven weeks."""
    with stage() as world:
        world.add_user("otto")
        agents = {name: world.agent(owner_id=world.user_id(owner)) for name, owner in AGENTS.items()}
        made = Metered(world, agents)
        dice = random.Random(calls)  # noqa: S311 - a fixed set of rows, no secret
        rows = [_any_call(made, dice) for _ in range(calls)]

        def put(uow: UnitOfWork) -> None:
            for row in rows:
                uow.usage.put(row)

        world.store.write(put)
        made.records += rows
        assert world.send("DELETE", f"/agents/{agents['ann gone'].id}", user="admin").status == 204
        yield made


def known_agent(world: Stage, agent_id: str) -> Agent:
    """Return an agent's row, a deleted one's too."""
    found = world.store.read(lambda uow: uow.agents.find(agent_id))
    assert found is not None
    return found


def alter_agent(world: Stage, agent_id: str, **fields: Any) -> None:  # noqa: ANN401 - fields of a row
    """Change an agent's row."""
    row = known_agent(world, agent_id)._replace(**fields)
    world.store.write(lambda uow: uow.agents.put(row))


def _any_call(world: Metered, dice: random.Random) -> UsageRecord:
    name = dice.choice(list(AGENTS))
    span = dice.choice((MS_PER_HOUR, MS_PER_DAY, 8 * MS_PER_DAY, 49 * MS_PER_DAY))
    is_completed = dice.random() < 0.7
    told = {"event_id": None, "cost_source": "report"}
    if dice.random() < 0.5:
        told = {"event_id": fresh_id("evt"), "cost_source": "event"}
    return usage_row(
        world.agents[name].id,
        fresh_id("call"),
        **told,
        owner_id=world.stage.user_id(AGENTS[name]),
        occurred_at=world.now - 1 - dice.randrange(span),
        project_id=dice.choice(("p1", "p2", "proj_master_001")),
        provider=dice.choice(("openai", "anthropic")),
        provider_id=dice.choice((None, "prov_a", "prov_b")),
        model=dice.choice(("m1", "m2", "m3")),
        outcome="completed" if is_completed else "failed",
        error_code=None if is_completed else dice.choice(("rate_limited", "timeout", None)),
        error_message=None if is_completed else "words",
        input_tokens=dice.randrange(1000),
        output_tokens=dice.randrange(1000),
        unsplit_tokens=dice.randrange(10),
        cost_micros=dice.choice((0, 1, 999_999, dice.randrange(5_000_000))),
        duration_ms=dice.choice((None, 0, 120, dice.randrange(90_000))),
    )
