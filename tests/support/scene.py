"""A scene for questions about usage: agents of two users, and calls of all kinds over some days."""

import random
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from ironcage_core.domain.instants import MS_PER_DAY, MS_PER_HOUR
from ironcage_core.domain.usage import UsageRecord
from ironcage_core.ports.storage import UnitOfWork
from tests.support.http_agents import Stage
from tests.support.recount import Answer, Records, answers
from tests.support.rows import fresh_id, usage_row
from tests.support.world import USD

PROJECTS, PROVIDERS, KEYS = ("p1", "p2"), ("openai", "anthropic"), (None, "prov_a", "prov_b")
MODELS = ("a", "ab", "abc")  # "a" of "bc" is not "ab" of "c"
DAYS = 5

QUESTIONS: Mapping[str, dict[str, Any]] = {
    "everything": {},
    "an agent": {"agent_id": 0},
    "an agent without calls": {"agent_id": 5},
    "a provider": {"provider": "openai"},
    "a key": {"provider_id": "prov_a"},
    "a model": {"model": "ab"},
    "a project": {"project_id": "p1"},
    "a user": {"user_id": "vera"},
    "an agent of another user": {"agent_id": 0, "user_id": "vera"},
    "several": {"agent_id": 1, "provider": "openai", "project_id": "p2"},
    "all at once": {
        "agent_id": 0, "provider": "openai", "provider_id": "prov_a", "model": "a", "project_id": "p1",
        "user_id": "ann",
    },
    "nothing": {"model": "abcd"},
    "a period": {"period": "yesterday"},
    "days": {"start_date": 3, "end_date": 1},
    "a period of a provider": {"period": "last-24-hours", "provider": "anthropic"},
}  # fmt: skip
"""Filters: agents by their number, dates by how many days ago."""


@dataclass
class Scene:
    """A stage, its agents in their order and everything that was called."""

    world: Stage
    agents: list[str]
    owners: dict[str, str]
    records: list[UsageRecord]

    def names_and_budgets(self) -> dict[str, tuple[str, int]]:
        """Return the name and the budget of each agent."""

        def use_case(uow: UnitOfWork) -> dict[str, tuple[str, int]]:
            found = {}
            for agent_id in self.agents:
                agent, balance = uow.agents.find(agent_id), uow.balances.find(agent_id)
                assert agent is not None
                assert balance is not None
                found[agent_id] = (agent.name, balance.allocated)
            return found

        return self.world.store.read(use_case)

    def query(self, question: dict[str, Any]) -> dict[str, str]:
        """Return a question as the parameters that are sent."""
        sent = {}
        for name, value in question.items():
            if name == "agent_id":
                sent[name] = self.agents[value]
            elif name == "user_id":
                sent[name] = self.world.user_id(value)
            elif name in {"start_date", "end_date"}:
                sent[name] = str(self._midnight(value) // 1000)
            else:
                sent[name] = value
        return sent

    def meant(self, question: dict[str, Any], user: str) -> Records:
        """Return the records that a question of a user means."""
        asked = self.query(question)
        owner = None if user == "admin" else self.world.user_id(user)
        since, until = self._bounds(question)
        return [
            record
            for record in self.records
            if owner in {None, self.owners[record.agent_id]}
            and asked.get("user_id") in {None, self.owners[record.agent_id]}
            and all(
                asked.get(name) in {None, getattr(record, name)}
                for name in ("agent_id", "provider", "provider_id", "model", "project_id")
            )
            and since <= record.occurred_at < until
        ]

    def expected(self, question: dict[str, Any], user: str) -> dict[str, Answer]:
        """Return what each path answers, but for the echo."""
        return answers(self.meant(question, user), self.names_and_budgets())

    def _midnight(self, days_ago: int) -> int:
        return (self.world.clock.now() // MS_PER_DAY - days_ago) * MS_PER_DAY

    def _bounds(self, question: dict[str, Any]) -> tuple[int, int]:
        match question.get("period"):
            case "yesterday":
                return self._midnight(1), self._midnight(0)
            case "last-24-hours":
                return (self.world.clock.now() // MS_PER_HOUR - 23) * MS_PER_HOUR, 2**62
        if "start_date" in question:
            return self._midnight(question["start_date"]), self._midnight(question["end_date"])
        return 0, 2**62


def made(world: Stage, seed: int = 1) -> Scene:
    """Make the scene; ann owns the first three agents, vera two, and nothing was called by the last one, ann's."""
    dice = random.Random(seed)  # noqa: S311 - a fixed set of rows, no secret
    budgets = (3 * USD, 100 * USD, 7 * USD + 1, 50 * USD, USD // 100, USD)
    owners = [world.user_id("vera" if number in {3, 4} else "ann") for number in range(6)]
    agents = [
        world.agent(budget, owner, name=f"agent {5 - number}").id
        for number, (budget, owner) in enumerate(zip(budgets, owners, strict=True))
    ]
    records = [_any_record(world, dice, dice.choice(agents[:5])) for _ in range(220)]
    # All calls of one provider and of one agent failed.
    nothing: dict[str, Any] = {
        "outcome": "failed",
        "cost_micros": 0,
        "input_tokens": 0,
        "output_tokens": 0,
        "unsplit_tokens": 0,
    }
    records += [_any_record(world, dice, agents[0])._replace(**{**nothing, "provider": "mistral"}) for _ in range(3)]
    records = [record._replace(**nothing) if record.agent_id == agents[4] else record for record in records]
    for start in range(0, len(records), 20):
        world.store.write(partial(_put, records[start : start + 20]))
    return Scene(world, agents, dict(zip(agents, owners, strict=True)), records)


def _put(records: Records, uow: UnitOfWork) -> None:
    for record in records:
        uow.usage.put(record)


def _any_record(world: Stage, dice: random.Random, agent_id: str) -> UsageRecord:
    is_good = dice.random() < 0.8
    return usage_row(
        agent_id,
        fresh_id("call"),
        occurred_at=world.clock.now() - dice.randrange(DAYS * MS_PER_DAY),
        project_id=dice.choice(PROJECTS),
        provider=dice.choice(PROVIDERS),
        provider_id=dice.choice(KEYS),
        model=dice.choice(MODELS),
        outcome="completed" if is_good else "failed",
        input_tokens=dice.randrange(1000) * is_good,
        output_tokens=dice.randrange(1000) * is_good,
        unsplit_tokens=dice.randrange(10) * is_good,
        cost_micros=dice.choice((0, 1, dice.randrange(100), dice.randrange(3 * USD))) if dice.random() < 0.9 else 7,
    )
