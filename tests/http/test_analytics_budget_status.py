"""Budgets at a glance, over HTTP: filtered, then sorted, then paged, and summed up over all that is meant."""

from collections.abc import Iterator, Mapping
from decimal import ROUND_HALF_UP, Decimal
from fractions import Fraction
from functools import partial
from typing import Any

import pytest

from ironcage_core.domain.ledger import Balance
from ironcage_core.ports.storage import UnitOfWork
from tests.support.http_agents import stage
from tests.support.metered import Metered, alter_agent, known_agent
from tests.support.world import USD

PATH = "/analytics/budget/status"
UNKNOWN = "0" * 32

BOOKS = (
    # owner, allocated, spent, held, pending
    ("ann", 10 * USD, 0, 0, 0),
    ("ann", 10 * USD, 5 * USD - 1, USD, 7),
    ("ann", 10 * USD, 5 * USD, 0, 0),
    ("vera", 10 * USD, 5 * USD, 0, 0),
    ("ann", 10 * USD, 8 * USD, 0, 0),
    ("vera", 10 * USD, 8 * USD - 1, 0, 0),
    ("ann", 20 * USD, 19 * USD, USD, 0),
    ("ann", 3_000_000_000_000 * USD, 2_850_000_000_000 * USD - 1, 0, 0),
    ("ann", 10 * USD, 10 * USD, 0, 0),
    ("vera", 10 * USD, 25 * USD, 0, 0),
    ("ann", 3, 2, 0, 0),
    ("ann", 10 * USD, 10 * USD - 1, 1, 0),
)


@pytest.fixture(scope="module")
def budgets() -> Iterator[Metered]:
    """Agents with these books, the first of ann's and of vera's inactive, and one that is deleted."""
    with stage() as world:
        made = Metered(world, {})
        agents = []
        for owner, allocated, spent, held, pending in BOOKS:
            agent = world.agent(owner_id=world.user_id(owner))
            balance = agent.balance()._replace(allocated=allocated, spent=spent, held=held, pending=pending)
            world.store.write(partial(_put, balance))
            agents.append(agent)
        for place in (4, 3):
            alter_agent(world, agents[place].id, status="inactive", project_id="proj_orphaned")
        gone = world.agent()
        assert world.send("DELETE", f"/agents/{gone.id}", user="admin").status == 204
        made.agents = {"gone": gone, **{str(place): agent for place, agent in enumerate(agents)}}
        yield made


def _put(balance: Balance, uow: UnitOfWork) -> None:
    uow.balances.put(balance)


def recounted(budgets: Metered, user: str, query: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return all rows of a question, made of the books above with fractions."""
    rows = []
    for place, (owner, allocated, spent, held, pending) in enumerate(BOOKS):
        percent = Fraction(100 * spent, allocated)
        shown = (Decimal(100 * spent) / allocated).quantize(Decimal("0.01"), ROUND_HALF_UP)
        levels = {"exhausted": 100, "critical": 95, "high": 80, "medium": 50, "low": 0}
        agent = budgets.agents[str(place)]
        is_inactive = place in {3, 4}
        row = {
            "agent_id": agent.id,
            "agent_name": known_agent(budgets.stage, agent.id).name,
            "budget": Decimal(allocated) / USD,
            "spent": Decimal(spent) / USD,
            "held": Decimal(held) / USD,
            "remaining": Decimal(allocated - spent - held) / USD,
            "pending_spend": Decimal(pending) / USD,
            "percent_used": shown,
            "status": "inactive" if is_inactive else "exhausted" if spent >= allocated else "active",
            "risk_level": next(name for name, least in levels.items() if percent >= least),
            "budget_micros": allocated,
            "spent_micros": spent,
            "remaining_micros": allocated - spent - held,
        }
        is_meant = (
            (user in {"admin", owner})
            and ("user_id" not in query or query["user_id"] == budgets.stage.user_id(owner))
            and query.get("agent_id", agent.id) == agent.id
            and ("project_id" not in query or (query["project_id"] == "proj_orphaned") == is_inactive)
            and ("threshold" not in query or percent > int(query["threshold"]))
            and all(query.get(name, row[name]) == row[name] for name in ("status", "risk_level"))
        )
        if is_meant:
            rows.append(row)
    return sorted(rows, key=lambda row: (-row["percent_used"], row["agent_id"]))


QUERIES: list[tuple[str, dict[str, str]]] = [
    ("admin", {}),
    ("ann", {}),
    ("vera", {}),
    ("admin", {"user_id": "{vera}"}),
    ("admin", {"agent_id": "{2}"}),
    ("ann", {"agent_id": "{2}"}),
    ("ann", {"agent_id": "{gone}"}),
    ("admin", {"project_id": "proj_orphaned"}),
    ("admin", {"project_id": "proj_master_001", "user_id": "{vera}"}),
    *(("admin", {"threshold": str(threshold)}) for threshold in (0, 49, 50, 66, 79, 80, 95, 99, 100)),
    *(("ann", {"status": status}) for status in ("active", "exhausted", "inactive")),
    *(("admin", {"risk_level": level}) for level in ("low", "medium", "high", "critical", "exhausted")),
    ("ann", {"status": "active", "risk_level": "medium", "threshold": "50"}),
]


@pytest.mark.parametrize(("user", "query"), QUERIES, ids=str)
def test_budgets_are_filtered_then_sorted_then_paged(budgets: Metered, user: str, query: dict[str, str]) -> None:
    """Exactly, at the edge of every level; the summary is of all that is meant, on whatever page."""
    places = {place: agent.id for place, agent in budgets.agents.items()}
    sent = {name: value.strip("{}") for name, value in query.items()}
    sent = {name: places.get(value, value) if name == "agent_id" else value for name, value in sent.items()}
    if "user_id" in sent:
        sent["user_id"] = budgets.stage.user_id(sent["user_id"])
    expected = recounted(budgets, user, sent)

    whole = budgets.stage.get(PATH, user=user, params=sent).body
    pages = [
        budgets.stage.get(PATH, user=user, params={**sent, "per_page": 4, "page": page}).body for page in range(1, 5)
    ]

    assert whole["data"] == expected
    assert [row for page in pages for row in page["data"]] == expected
    for body in (whole, *pages):
        assert body["pagination"]["total"] == len(expected)
        assert body["summary"] == {
            "total_agents": len(expected),
            **{each: sum(row["status"] == each for row in expected) for each in ("active", "inactive", "exhausted")},
            **{
                level: sum(row["risk_level"] == level for row in expected)
                for level in ("critical", "high", "medium", "low")
            },
        }
        told = {name: int(value) if name == "threshold" else value for name, value in sent.items()}
        assert body["filters"] == {"agent_id": None, "provider_id": None, **told}
        assert not body.keys() & {"period", "range"}


def test_the_order_may_be_turned_around(budgets: Metered) -> None:
    """Ties by id all the same."""
    body = budgets.stage.get(f"{PATH}?sort=percent_used", user="admin").body

    rows = [(row["percent_used"], row["agent_id"]) for row in body["data"]]
    assert rows == sorted(rows)


def test_an_empty_system_has_no_budgets() -> None:
    """Nor has a filter that nothing fits; no period is asked for, and none is looked at."""
    with stage() as world:
        for query in ("", "?threshold=100", "?period=nonsense&provider_id=x"):
            body = world.get(f"{PATH}{query}", user="ann").body
            assert (body["data"], body["pagination"]["total_pages"]) == ([], 0)
            assert set(body["summary"].values()) == {0}


def test_money_of_a_lease_that_is_over_is_not_held() -> None:
    """What time has done is done before the list is read."""
    for query in ("", "?agent_id={}"):
        with stage() as world:
            agent = world.agent(10 * USD)
            agent.handshake(USD)
            before = world.get(PATH, user="ann").body["data"][0]
            world.clock.pass_s(10 * 86_400)

            after = world.get(PATH + query.format(agent.id), user="ann").body["data"][0]

        assert (before["held"], before["remaining"]) == (1, 9)
        assert (after["held"], after["remaining"]) == (0, 10)


WRONG = [
    ("threshold=-1", 400, "VALIDATION_ERROR"),
    ("threshold=101", 400, "VALIDATION_ERROR"),
    ("threshold=5.5", 400, "VALIDATION_ERROR"),
    ("threshold=", 400, "VALIDATION_ERROR"),
    ("threshold=0&threshold=0", 400, "VALIDATION_ERROR"),
    ("status=running", 400, "VALIDATION_ERROR"),
    ("risk_level=huge", 400, "VALIDATION_ERROR"),
    ("page=0", 400, "VALIDATION_ERROR"),
    ("per_page=101", 400, "VALIDATION_ERROR"),
    ("sort=spent", 400, "VALIDATION_ERROR"),
    ("agent_id=abc", 400, "VALIDATION_ERROR"),
    (f"threshold=x&agent_id=agent_{UNKNOWN}", 404, "AGENT_NOT_FOUND"),
    ("threshold=x&agent_id={vera}", 403, "FORBIDDEN"),
    ("user_id={ann}", 403, "FORBIDDEN"),
]


@pytest.mark.parametrize(("query", "status", "code"), WRONG)
def test_a_bad_question_is_refused(budgets: Metered, query: str, status: int, code: str) -> None:
    """What is not there or somebody else's first."""
    query = query.format(vera=budgets.agents["3"].id, ann=budgets.stage.owner_id)

    answer = budgets.stage.get(f"{PATH}?{query}", user="ann")

    assert (answer.status, answer.code) == (status, code), answer.raw
