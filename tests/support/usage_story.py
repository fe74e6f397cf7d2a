"""A story of usage: records and their corrections, filters of them, and what a walk through all records finds."""

import random
from collections.abc import Sequence
from functools import lru_cache, partial
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from ironcage_core.domain.instants import MS_PER_DAY, MS_PER_HOUR
from ironcage_core.domain.usage import UsageRecord, UsageSums
from ironcage_core.ports.lists import Paging, TraceFilter, UsageDimension, UsageFilter
from ironcage_core.ports.storage import UnitOfWork
from ironcage_storage.sqlite.store import SqliteStore
from tests.support.rows import agent_row, usage_row, user_row
from tests.support.world import NOON

MIDNIGHT = NOON // MS_PER_DAY * MS_PER_DAY
DAYS = 4
OWNERS = [user_row(f"caller {n}") for n in range(2)]
AGENTS = [agent_row(OWNERS[n % 2].id) for n in range(4)]
OWNER_OF = {agent.id: agent.owner_id for agent in AGENTS}
PROJECTS, PROVIDERS, MODELS = ("p1", "p2"), ("openai", "anthropic"), ("m1", "m2")
KEYS = (None, "prov_a", "prov_b")
LEASES = (None, "lease_a", "lease_b")
EDGES = [MIDNIGHT + half * MS_PER_DAY // 2 + ms for half in range(2 * DAYS + 1) for ms in (-1, 0, 1)]
HOURS = [MIDNIGHT + hour * MS_PER_HOUR for hour in range(-25, 24 * DAYS + 26)]


def any_content(dice: random.Random) -> dict[str, Any]:
    """Return what a record may say, and a correction may say otherwise."""
    span = DAYS * MS_PER_DAY
    return {
        "occurred_at": dice.choice(EDGES) if dice.random() < 0.6 else MIDNIGHT + dice.randrange(span),
        "owner_id": dice.choice(OWNERS).id,
        "project_id": dice.choice(PROJECTS),
        "provider": dice.choice(PROVIDERS),
        "provider_id": dice.choice(KEYS),
        "model": dice.choice(MODELS),
        "lease_id": dice.choice(LEASES),
        "outcome": dice.choice(("completed", "completed", "failed")),
        "input_tokens": dice.randrange(9),
        "output_tokens": dice.randrange(9),
        "unsplit_tokens": dice.randrange(9),
        "cost_micros": int(10 ** (6 * dice.random())) - 1,
        "duration_ms": dice.choice((None, None, 0, 7, dice.randrange(90_000))),
        "error_code": dice.choice((None, "", "timeout", "rate_limit")),
    }


class Story:
    """Records and their corrections, as they are put one after the other, and what stands at the end."""

    def __init__(self, seed: int, *, corrects: bool = True) -> None:
        dice = random.Random(seed)  # noqa: S311 - a fixed set of rows, no secret
        self.puts: list[UsageRecord] = []
        latest: dict[tuple[str, str], UsageRecord] = {}
        for number in range(140):
            agent = dice.choice(AGENTS[:3])
            call = number % 70 if corrects else number
            record = usage_row(agent.id, f"call-{call}-{agent.id[-1]}", **any_content(dice))
            known = latest.get((record.agent_id, record.call_key))
            if known is not None:
                record = known._replace(**any_content(dice))
            latest[record.agent_id, record.call_key] = record
            self.puts.append(record)
            if corrects and dice.random() < 0.1:  # a correction at once, in the same unit of work as likely as not
                latest[record.agent_id, record.call_key] = record._replace(cost_micros=3, outcome="failed")
                self.puts.append(latest[record.agent_id, record.call_key])
        self.records = list(latest.values())

    def tell(self, store: SqliteStore) -> None:
        """Put everything, eleven records in a unit of work; does nothing the second time."""
        if store.read(lambda uow: uow.users.find(OWNERS[0].id)) is not None:
            return
        store.write(put_people)
        for start in range(0, len(self.puts), 11):
            store.write(partial(put_records, self.puts[start : start + 11]))


@lru_cache
def story(seed: int, *, corrects: bool = True) -> Story:
    """Return the same story each time, with the same ids."""
    return Story(seed, corrects=corrects)


def put_people(uow: UnitOfWork) -> None:
    """Store the owners and their agents."""
    for owner in OWNERS:
        uow.users.put(owner)
    for agent in AGENTS:
        uow.agents.put(agent)


def put_records(records: Sequence[UsageRecord], uow: UnitOfWork) -> None:
    """Store records, one after the other."""
    for record in records:
        uow.usage.put(record)


def is_among(record: UsageRecord, which: UsageFilter | TraceFilter) -> bool:
    """Tell, without any database, whether a filter means this record."""
    told = {
        **record._asdict(),
        "owner_id": OWNER_OF[record.agent_id],
        "provider_id": record.provider_id or "",
    }
    same = (name for name in which.__dataclass_fields__ if name not in {"since", "until"})
    return (
        all(getattr(which, name) in {None, told[name]} for name in same)
        and (which.since is None or record.occurred_at >= which.since)
        and (which.until is None or record.occurred_at < which.until)
    )


def recounted(records: Sequence[UsageRecord], by: Sequence[UsageDimension]) -> dict[tuple[str, ...], UsageSums]:
    """Return sums, made by walking through the records."""
    groups: dict[tuple[str, ...], list[UsageRecord]] = {}
    for record in records:
        groups.setdefault(tuple(getattr(record, name) or "" for name in by), []).append(record)
    return {key: sums_of(group) for key, group in groups.items()}


def sums_of(records: Sequence[UsageRecord]) -> UsageSums:
    """Return the sums over records, one at least."""
    timed = [record.duration_ms for record in records if record.duration_ms is not None]
    costs = [record.cost_micros for record in records if record.outcome == "completed"]
    return UsageSums(
        completed=len(costs),
        failed=len(records) - len(costs),
        input_tokens=sum(record.input_tokens for record in records),
        output_tokens=sum(record.output_tokens for record in records),
        unsplit_tokens=sum(record.unsplit_tokens for record in records),
        cost_micros=sum(record.cost_micros for record in records),
        timed=len(timed),
        duration_ms=sum(timed),
        failed_cost_micros=sum(record.cost_micros for record in records if record.outcome == "failed"),
        last_at=max(record.occurred_at for record in records),
        max_cost_micros=max(costs, default=0),
        min_cost_micros=min(costs, default=0),
    )


def is_as_wide(sums: UsageSums, counted: UsageSums) -> bool:
    """Tell whether sums are what was counted, but for what only widens."""
    exact = {"last_at": 0, "max_cost_micros": 0, "min_cost_micros": 0}
    return (
        sums._replace(**exact) == counted._replace(**exact)
        and sums.last_at >= counted.last_at
        and sums.max_cost_micros >= counted.max_cost_micros
        and sums.min_cost_micros <= counted.min_cost_micros
    )


agent_ids = st.none() | st.sampled_from([agent.id for agent in AGENTS])
owner_ids = st.none() | st.sampled_from([owner.id for owner in OWNERS])
projects = st.none() | st.sampled_from((*PROJECTS, "p3"))
providers = st.none() | st.sampled_from(PROVIDERS)
models = st.none() | st.sampled_from(MODELS)
hours = st.none() | st.sampled_from(HOURS)
instants = st.none() | st.sampled_from(EDGES) | st.integers(MIDNIGHT - MS_PER_DAY, MIDNIGHT + (DAYS + 1) * MS_PER_DAY)
usage_filters = st.builds(
    UsageFilter,
    agent_id=agent_ids,
    owner_id=owner_ids,
    project_id=projects,
    provider=providers,
    provider_id=st.none() | st.sampled_from(("prov_a", "prov_b", "")),
    model=models,
    since=hours,
    until=hours,
)
trace_filters = st.builds(
    TraceFilter,
    agent_id=agent_ids,
    owner_id=owner_ids,
    project_id=projects,
    provider=providers,
    model=models,
    outcome=st.none() | st.sampled_from(("completed", "failed")),
    call_key=st.none() | st.none() | st.none() | st.sampled_from([each.call_key for each in story(1).records[:5]]),
    lease_id=st.none() | st.none() | st.sampled_from(LEASES),
    since=instants,
    until=instants,
)
dimensions = st.lists(
    st.sampled_from(("agent_id", "project_id", "provider", "provider_id", "model")), unique=True, max_size=3
)
pagings = st.builds(Paging, st.integers(1, 4), st.integers(1, 40))
at_length = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
