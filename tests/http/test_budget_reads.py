"""Budgets, leases and the ledger over the wire: who sees what, how it is filtered and paged, and the manual revoke."""

from decimal import Decimal

import pytest

from ironcage_core.domain.instants import format_instant, parse_instant
from tests.support.http_agents import Stage, books, usd
from tests.support.web import Answer
from tests.support.world import USD, TestAgent

pytestmark = pytest.mark.usefixtures("silence")

UNKNOWN_LEASE = "lease_" + "0" * 32
UNKNOWN_AGENT = "agent_" + "0" * 32
LISTS = ("/budget", "/budget/leases", "/budget/ledger")


@pytest.fixture
def veras(world: Stage) -> TestAgent:
    """An agent of the viewer vera's."""
    return world.agent(owner_id=world.user_id("vera"))


def refusal(answer: Answer) -> tuple[int, str]:
    return answer.status, answer.code


# --- one budget -------------------------------------------------------------


@pytest.mark.parametrize("base", ["/api/v1", "/api"])
def test_an_agent_sees_its_own_budget(world: Stage, agent: TestAgent, base: str) -> None:
    """One object, amounts to the last micro-USD."""
    lease = agent.handshake(20 * USD).lease.id
    agent.report(lease, "r1", 12_345_678)

    answer = world.get(f"{base}/budget", token=agent.token)

    body = answer.body
    assert answer.status == 200, answer.raw
    assert b'"total_spent":12.345678,"overspent":0,"budget_held":7.654322,"budget_remaining":80,' in answer.raw
    assert (body["agent_id"], body["owner_id"]) == (agent.id, world.owner_id)
    assert (body["total_allocated"], body["percent_used"], body["risk_level"]) == (100, usd("12.35"), "low")
    assert (body["status"], body["open_leases"]) == ("active", 1)
    assert body["updated_at"].endswith("Z")
    assert body["budget_id"] == agent.balance().budget_id


@pytest.mark.parametrize(
    ("spent", "level"),
    [("49.99", "low"), ("50", "medium"), ("79.99", "medium"), ("80", "high"), ("95", "critical"), ("100", "exhausted")],
)
def test_the_risk_follows_from_what_is_spent(world: Stage, agent: TestAgent, spent: str, level: str) -> None:
    """Each bound belongs to the level above it."""
    lease = agent.handshake(100 * USD).lease.id
    agent.report(lease, "r1", int(usd(spent) * USD))

    assert world.get("/budget", token=agent.token).body["risk_level"] == level


@pytest.mark.parametrize("user", ["admin", "ann"])
def test_admin_and_owner_see_a_budget_by_its_agent(world: Stage, agent: TestAgent, user: str) -> None:
    """With an agent id the answer is one object."""
    answer = world.get(f"/budget?agent_id={agent.id}", user=user)

    assert (answer.status, answer.body["agent_id"]) == (200, agent.id)


def test_a_viewer_sees_what_is_hers(world: Stage, veras: TestAgent) -> None:
    """Looking is what a viewer may do."""
    assert world.get(f"/budget?agent_id={veras.id}", user="vera").body["agent_id"] == veras.id


@pytest.mark.parametrize("path", ["/budget", "/budget/leases"])
@pytest.mark.parametrize("who", ["ann", "vera", "agent"])
def test_the_agent_of_somebody_else_is_forbidden(
    world: Stage, agent: TestAgent, veras: TestAgent, path: str, who: str
) -> None:
    """403, for people and for other agents."""
    wanted = agent.id if who == "vera" else veras.id
    caller = {"token": agent.token} if who == "agent" else {"user": who}

    answer = world.get(f"{path}?agent_id={wanted}", **caller)

    assert refusal(answer) == (403, "FORBIDDEN")


@pytest.mark.parametrize("path", LISTS)
@pytest.mark.parametrize("agent_id", [UNKNOWN_AGENT, "agent_1", "x"])
def test_an_agent_nobody_has_is_not_found(world: Stage, path: str, agent_id: str) -> None:
    """Malformed is as unknown as any other."""
    assert refusal(world.get(f"{path}?agent_id={agent_id}", user="admin")) == (404, "AGENT_NOT_FOUND")


@pytest.mark.parametrize("path", [*LISTS, f"/budget/leases/{UNKNOWN_LEASE}"])
@pytest.mark.parametrize("base", ["/api/v1", "/api"])
def test_nobody_sees_nothing(world: Stage, path: str, base: str) -> None:
    """401 comes before bad parameters."""
    answer = world.get(f"{base}{path}?page=0")

    assert refusal(answer) == (401, "AUTH_MISSING_TOKEN")
    assert answer.headers["www-authenticate"] == "Bearer"


def test_a_false_ic_token_sees_nothing(world: Stage) -> None:
    """The same code as on the calls."""
    assert refusal(world.get("/budget", token="nonsense")) == (401, "AUTH_INVALID_TOKEN")


def test_a_budget_says_what_holds_its_money_and_when_it_comes_back(world: Stage, agent: TestAgent) -> None:
    """Lease by lease, after its grace; one that holds nothing is no hold, and a list tells none."""
    empty = agent.handshake(5 * USD).lease.id
    agent.report(empty, "r1", 5 * USD)
    lease = agent.handshake(20 * USD).lease
    agent.report(lease.id, "r2", 1)

    body = world.get("/budget", token=agent.token).body
    listed = world.get("/budget?per_page=1", user="admin").body["data"][0]

    frees_at = agent.lease(lease.id).expires_at + lease.grace
    assert body["holds"] == [{"lease_id": lease.id, "held": usd("19.999999"), "frees_at": format_instant(frees_at)}]
    assert (body["open_leases"], body["budget_held"]) == (2, usd("19.999999"))
    assert (listed["agent_id"], listed["open_leases"], "holds" in listed) == (agent.id, 2, False)


def test_nothing_lent_is_no_hold(world: Stage, agent: TestAgent) -> None:
    """An empty list, not a missing one."""
    assert world.get("/budget", token=agent.token).body["holds"] == []


def test_what_is_told_to_be_held_comes_back_at_the_time_that_was_told(world: Stage, agent: TestAgent) -> None:
    """Not a millisecond sooner, by the refusal's word as by the budget's; even after the lease expired."""
    lease = agent.handshake(100 * USD).lease
    world.clock.instant = lease.expires_at + 1
    expired = world.get("/budget", token=agent.token).body["holds"][0]["frees_at"]
    refused = world.post("/budget/handshake", {}, token=agent.token)
    frees_at = parse_instant(expired, field="frees_at")

    world.clock.instant = frees_at - 1
    assert world.get("/budget", token=agent.token).body["budget_held"] == 100
    world.clock.instant = frees_at
    assert world.get("/budget", token=agent.token).body["budget_held"] == 0
    assert (refused.code, refused.body["details"]["frees_at"]) == ("BUDGET_EXCEEDED", expired)
    assert frees_at == lease.expires_at + lease.grace


@pytest.mark.parametrize(("spent", "level"), [("49", 0), ("50", 50), ("85", 80), ("100", 100)])
def test_a_budget_says_which_level_was_told(world: Stage, agent: TestAgent, spent: str, level: int) -> None:
    """In percent, in a list as well."""
    agent.report(agent.handshake(100 * USD).lease.id, "r1", int(usd(spent) * USD))

    assert world.get("/budget", token=agent.token).body["alert_level"] == level
    assert world.get("/budget?per_page=1", user="admin").body["data"][0]["alert_level"] == level


# --- one budget as of a time ------------------------------------------------


def as_of(world: Stage, agent: TestAgent, at: object, user: str = "ann") -> Answer:
    return world.get(f"/budget?agent_id={agent.id}&at={at}", user=user)


def test_a_budget_is_told_as_it_was(world: Stage, agent: TestAgent) -> None:
    """At each entry of the ledger, with what had been overspent by then; the latest is what it is now."""
    lease = agent.handshake(20 * USD).lease.id
    steps = []
    for name, cost in enumerate((5 * USD, 18 * USD, USD)):
        world.clock.pass_s(1)
        agent.report(lease, str(name), cost)
        steps.append((world.clock.now(), agent.balance()))
        world.agent()  # somebody else's money moves in between
    world.clock.pass_s(5)

    for at, balance in steps:
        answer = as_of(world, agent, format_instant(at))
        assert answer.status == 200, answer.raw
        assert answer.body == {
            "budget_id": balance.budget_id,
            "agent_id": agent.id,
            "at": format_instant(at),
            "total_allocated": 100,
            "total_spent": balance.spent / Decimal(USD),
            "overspent": balance.overspent / Decimal(USD),
            "budget_held": balance.held / Decimal(USD),
            "budget_remaining": balance.remaining / Decimal(USD),
            "percent_used": balance.percent_used,
        }
    assert [balance.overspent for _, balance in steps] == [0, 3 * USD, 4 * USD]
    latest = steps[-1][0]
    now, then, before = (as_of(world, agent, format_instant(at)) for at in (world.clock.now(), latest, latest - 1))
    assert now.body == {**then.body, "at": format_instant(world.clock.now())}
    assert before.body["total_spent"] == 23


def test_a_budget_as_of_a_second_since_the_epoch(world: Stage, agent: TestAgent) -> None:
    """Both ways to write a time mean the same; a runtime asks for its own."""
    agent.report(agent.handshake(20 * USD).lease.id, "r1", 5 * USD)
    world.clock.pass_s(3600)
    at = world.clock.now() // 1000

    by_seconds = world.get(f"/budget?at={at}", token=agent.token)

    assert by_seconds.body == as_of(world, agent, format_instant(at * 1000)).body
    assert by_seconds.body["total_spent"] == 5


def test_what_nobody_had_looked_at_was_still_held(world: Stage, agent: TestAgent) -> None:
    """As of a time is what was posted by then; the hold comes back when somebody asks."""
    lease = agent.handshake(20 * USD).lease
    world.clock.instant = lease.expires_at + lease.grace + 1000

    before = as_of(world, agent, format_instant(world.clock.now() - 1)).body["budget_held"]
    now = as_of(world, agent, format_instant(world.clock.now())).body["budget_held"]

    assert (before, now) == (20, 0)


def test_a_time_without_a_budget_is_refused(world: Stage, agent: TestAgent) -> None:
    """Before there was one, and one that is still to come; the very first instant is fine."""
    made = agent.entries()[0].posted_at
    world.clock.instant = made + 10

    assert as_of(world, agent, format_instant(made)).body["total_allocated"] == 100
    for at, problem in ((made - 1, "is before the agent was made"), (made + 11, "may not be in the future")):
        answer = as_of(world, agent, format_instant(at))
        assert (refusal(answer), answer.fields) == ((400, "VALIDATION_ERROR"), {"at": problem})


def test_a_list_is_not_told_as_of_a_time(world: Stage) -> None:
    """Which agent's must be said."""
    answer = world.get("/budget?at=1700000000", user="admin")

    assert (refusal(answer), set(answer.fields)) == ((400, "VALIDATION_ERROR"), {"at"})


def test_a_budget_as_of_a_time_is_guarded_as_any_other(world: Stage, agent: TestAgent, veras: TestAgent) -> None:
    """Foreign and unknown come before a bad time."""
    assert refusal(as_of(world, veras, 1)) == (403, "FORBIDDEN")
    assert refusal(world.get(f"/budget?agent_id={UNKNOWN_AGENT}&at=1", user="admin")) == (404, "AGENT_NOT_FOUND")
    assert refusal(world.get(f"/budget?agent_id={veras.id}&at=1", token=agent.token)) == (403, "FORBIDDEN")


# --- many budgets -----------------------------------------------------------


def test_a_list_of_budgets_sums_up_the_whole_selection(world: Stage, veras: TestAgent) -> None:
    """The summary does not depend on the page."""
    second = world.agent(7 * USD, owner_id=world.user_id("vera"))
    lease = second.handshake(5 * USD).lease.id
    second.report(lease, "r1", 1_500_001)

    all_of_it = world.get("/budget?per_page=100", user="vera")
    page = world.get("/budget?per_page=1&page=2", user="vera")

    data, summary = all_of_it.body["data"], all_of_it.body["summary"]
    assert {veras.id, second.id} <= {each["agent_id"] for each in data}
    assert {each["owner_id"] for each in data} == {world.user_id("vera")}
    assert summary == page.body["summary"]
    assert summary == {
        "total_allocated": sum(each["total_allocated"] for each in data),
        "total_spent": sum(each["total_spent"] for each in data),
        "total_held": sum(each["budget_held"] for each in data),
        "total_remaining": sum(each["budget_remaining"] for each in data),
        "agents": len(data),
    }
    assert b'"total_spent":1.500001' in page.raw
    assert len(page.body["data"]) == 1
    assert page.body["pagination"]["total"] == len(data)


def test_an_admin_lists_everybodys_budgets(world: Stage, agent: TestAgent, veras: TestAgent) -> None:
    """Newest first."""
    newest = [each["agent_id"] for each in world.get("/budget?per_page=2", user="admin").body["data"]]

    assert newest == [veras.id, agent.id]


# --- leases -----------------------------------------------------------------


@pytest.mark.parametrize("base", ["/api/v1", "/api"])
@pytest.mark.parametrize("who", ["agent", "ann", "admin"])
def test_a_lease_is_seen_by_its_agent_owner_and_admin(world: Stage, agent: TestAgent, base: str, who: str) -> None:
    """All of its fields, and never an IP token."""
    lease = agent.handshake(5 * USD, runtime_id="pod-1").lease
    agent.report(lease.id, "r1", 1_000_001)
    caller = {"token": agent.token} if who == "agent" else {"user": who}

    answer = world.get(f"{base}/budget/leases/{lease.id}", **caller)
    listed = world.get(f"{base}/budget/leases?agent_id={agent.id}", **caller)

    body = answer.body
    assert answer.status == 200, answer.raw
    assert set(body) == {
        "id", "agent_id", "status", "status_reason", "budget_granted", "budget_spent", "overspent", "returned",
        "reclaimed", "held", "reserved", "runtime_id", "provider", "provider_key_id", "ic_token_id",
        "successor_lease_id", "created_at", "expires_at", "closed_at", "last_activity_at",
    }  # fmt: skip
    assert b'"budget_granted":5,"budget_spent":1.000001,' in answer.raw
    assert b'"held":3.999999,' in answer.raw
    assert (body["runtime_id"], body["provider"], body["status"]) == ("pod-1", "openai", "active")
    assert listed.body["data"] == [body]
    assert listed.body["pagination"] == {"page": 1, "per_page": 50, "total": 1, "total_pages": 1}
    for each in (answer, listed):
        assert b"ip_token" not in each.raw
        assert b"AES256:" not in each.raw


def test_leases_are_filtered_by_their_status(world: Stage, agent: TestAgent) -> None:
    """Newest first, and only those asked for."""
    first, second, third = (agent.handshake(1 * USD).lease.id for _ in range(3))
    agent.return_lease(second)

    active = world.get("/budget/leases?status=active", token=agent.token)
    closed = world.get("/budget/leases?status=closed", token=agent.token)
    expired = world.get("/budget/leases?status=expired", token=agent.token)

    assert [each["id"] for each in active.body["data"]] == [third, first]
    assert [each["id"] for each in closed.body["data"]] == [second]
    assert expired.body["pagination"] == {"page": 1, "per_page": 50, "total": 0, "total_pages": 0}


def test_a_lease_reads_as_what_the_clock_has_made_of_it(world: Stage, agent: TestAgent) -> None:
    """No sweep is needed for it to be over."""
    lease = agent.handshake(1 * USD, ttl_s=1).lease
    world.clock.pass_s(2)

    expired = world.get(f"/budget/leases/{lease.id}", token=agent.token).body
    world.clock.pass_s(lease.grace / 1000)
    closed = world.get(f"/budget/leases/{lease.id}", token=agent.token).body

    assert (expired["status"], expired["held"]) == ("expired", 1)
    assert (closed["status"], closed["status_reason"], closed["held"]) == ("closed", "expired", 0)


@pytest.mark.parametrize("lease_id", [UNKNOWN_LEASE, "lease_1", "x", "%00", "lease_%ff"])
def test_a_lease_nobody_has_is_not_found(world: Stage, lease_id: str) -> None:
    """To look at and to revoke."""
    assert refusal(world.get(f"/budget/leases/{lease_id}", user="ann")) == (404, "LEASE_NOT_FOUND")
    assert refusal(world.post(f"/budget/leases/{lease_id}/revoke", user="ann")) == (404, "LEASE_NOT_FOUND")


def test_the_lease_of_somebody_else_is_forbidden(world: Stage, agent: TestAgent, veras: TestAgent) -> None:
    """Neither looked at nor revoked."""
    lease = veras.handshake().lease.id
    before = books(veras)

    answers = [
        world.get(f"/budget/leases/{lease}", user="ann"),
        world.get(f"/budget/leases/{lease}", token=agent.token),
        world.post(f"/budget/leases/{lease}/revoke", user="ann"),
    ]

    assert [refusal(each) for each in answers] == [(403, "FORBIDDEN")] * 3
    assert books(veras) == before


# --- revoke -----------------------------------------------------------------


@pytest.mark.parametrize("base", ["/api/v1", "/api"])
@pytest.mark.parametrize("user", ["ann", "admin"])
@pytest.mark.parametrize("body", [None, {}, {"reason": None}, {"reason": "x" * 500, "surprise": 1}])
def test_owner_and_admin_revoke_a_lease_once(
    world: Stage, agent: TestAgent, base: str, user: str, body: object
) -> None:
    """What it held is back; the second time it stays as it is."""
    lease = agent.handshake().lease.id

    first = world.post(f"{base}/budget/leases/{lease}/revoke", body, user=user)
    before = books(agent)
    again = world.post(f"{base}/budget/leases/{lease}/revoke", body, user=user)

    assert first.status == again.status == 200
    assert (first.body["status"], first.body["status_reason"]) == ("revoked", "manual")
    assert (first.body["held"], first.body["reclaimed"]) == (0, 10)
    assert again.body == first.body
    assert books(agent) == before
    assert agent.balance().remaining == 100 * USD


def test_a_closed_lease_stays_closed(world: Stage, agent: TestAgent) -> None:
    """Terminal is terminal."""
    lease = agent.handshake().lease.id
    agent.return_lease(lease)

    answer = world.post(f"/budget/leases/{lease}/revoke", user="ann")

    assert (answer.status, answer.body["status"], answer.body["status_reason"]) == (200, "closed", "returned")


def test_neither_viewer_nor_agent_revokes(world: Stage, veras: TestAgent) -> None:
    """Not even what is their own."""
    lease = veras.handshake().lease.id
    before = books(veras)

    viewer = world.post(f"/budget/leases/{lease}/revoke", user="vera")
    itself = world.post(f"/budget/leases/{lease}/revoke", token=veras.token)

    assert refusal(viewer) == (403, "FORBIDDEN")
    assert refusal(itself) == (403, "AGENT_TOKEN_FORBIDDEN")
    assert books(veras) == before


@pytest.mark.parametrize("reason", ["", " ", "x" * 501, "a\0b", 5, []])
def test_a_reason_is_a_text_of_at_most_500_characters(world: Stage, agent: TestAgent, reason: object) -> None:
    """A bad one revokes nothing."""
    lease = agent.handshake().lease.id
    before = books(agent)

    answer = world.post(f"/budget/leases/{lease}/revoke", {"reason": reason}, user="ann")

    assert refusal(answer) == (400, "VALIDATION_ERROR")
    assert set(answer.fields) == {"reason"}
    assert books(agent) == before


# --- ledger -----------------------------------------------------------------


@pytest.mark.parametrize("base", ["/api/v1", "/api"])
def test_the_ledger_is_newest_first_and_complete(world: Stage, agent: TestAgent, base: str) -> None:
    """Every movement with the balances after it."""
    lease = agent.handshake(5 * USD).lease.id
    agent.report(lease, "r1", 1_000_001)
    agent.return_lease(lease)

    answer = world.get(f"{base}/budget/ledger?agent_id={agent.id}", user="ann")

    rows = answer.body["data"]
    assert [(each["kind"], each["amount"]) for each in rows] == [
        ("return", usd("3.999999")), ("spend", usd("1.000001")), ("grant", 5), ("adjust", 100),
    ]  # fmt: skip
    assert set(rows[0]) == {
        "seq", "id", "posted_at", "agent_id", "lease_id", "bank_user_id", "period", "kind", "amount", "cause", "ref",
        "actor", "allocated_after", "spent_after", "held_after",
    }  # fmt: skip
    assert [each["seq"] for each in rows] == sorted((each["seq"] for each in rows), reverse=True)
    assert b'"amount":3.999999,' in answer.raw
    assert (rows[0]["allocated_after"], rows[0]["spent_after"], rows[0]["held_after"]) == (100, usd("1.000001"), 0)


def test_the_ledger_is_filtered_by_kind_and_lease(world: Stage, agent: TestAgent) -> None:
    """Each filter alone and both together."""
    first, second = (agent.handshake(5 * USD).lease.id for _ in range(2))
    agent.report(first, "r1", USD)
    agent.report(second, "r2", USD)

    by_lease = world.get(f"/budget/ledger?lease_id={first}", user="ann").body["data"]
    by_kind = world.get(f"/budget/ledger?kind=spend&agent_id={agent.id}", user="ann").body["data"]
    by_both = world.get(f"/budget/ledger?kind=spend&lease_id={second}", user="ann").body["data"]

    assert [each["kind"] for each in by_lease] == ["spend", "grant"]
    assert [each["lease_id"] for each in by_kind] == [second, first]
    assert [each["ref"] for each in by_both] == ["r2"]


def test_a_range_includes_its_start_and_its_last_day_but_not_its_end(world: Stage, agent: TestAgent) -> None:
    """An instant that ends a range is exclusive, a date that ends it is a whole day."""
    posted = agent.handshake().lease.created_at
    at = world.get(f"/budget/ledger?agent_id={agent.id}&per_page=1", user="ann").body["data"][0]["posted_at"]
    day = at[:10]
    world.clock.pass_s(0.001)
    agent.handshake()

    def total(limits: str) -> int:
        answer = world.get(f"/budget/ledger?agent_id={agent.id}&kind=grant&{limits}", user="ann")
        return int(answer.body["pagination"]["total"])

    assert posted < world.clock.now()
    assert total(f"from={at}") == 2
    assert total(f"to={at}") == 0
    assert total(f"from={day}&to={day}") == 2
    assert total(f"to={day}T00:00:00Z") == 0
    assert total("from=9999-12-31") == 0


@pytest.mark.parametrize("who", ["vera", "agent"])
def test_neither_viewer_nor_agent_reads_the_ledger(world: Stage, veras: TestAgent, who: str) -> None:
    """Not even of what is their own; and 403 comes before bad parameters."""
    caller = {"token": veras.token} if who == "agent" else {"user": who}

    answer = world.get("/budget/ledger?page=0", **caller)

    assert refusal(answer) == (403, "AGENT_TOKEN_FORBIDDEN" if who == "agent" else "FORBIDDEN")


def test_an_owner_reads_only_his_own_ledger(world: Stage, agent: TestAgent, veras: TestAgent) -> None:
    """In the list silently, by name with a refusal."""
    lease = veras.handshake().lease.id

    listed = world.get("/budget/ledger?per_page=100", user="ann")
    by_agent = world.get(f"/budget/ledger?agent_id={veras.id}", user="ann")
    by_lease = world.get(f"/budget/ledger?lease_id={lease}", user="ann")

    assert listed.body["data"][0]["agent_id"] == agent.id
    assert {each["bank_user_id"] for each in listed.body["data"]} == {world.owner_id}
    assert refusal(by_agent) == refusal(by_lease) == (403, "FORBIDDEN")
    assert refusal(world.get("/budget/ledger?lease_id=x", user="ann")) == (404, "LEASE_NOT_FOUND")


# --- paging -----------------------------------------------------------------


@pytest.mark.parametrize("path", LISTS)
@pytest.mark.parametrize("page", [2, 10**12])
def test_past_the_end_is_an_empty_page_with_true_totals(world: Stage, agent: TestAgent, path: str, page: int) -> None:
    """200, not 404."""
    agent.handshake()
    there = world.get(f"{path}?per_page=100", user="ann").body["pagination"]
    beyond = there["total_pages"] + page - 1

    answer = world.get(f"{path}?per_page=100&page={min(beyond, 10**12)}", user="ann")

    assert (answer.status, answer.body["data"]) == (200, [])
    assert answer.body["pagination"] == {**there, "page": min(beyond, 10**12)}


@pytest.mark.parametrize("path", LISTS)
@pytest.mark.parametrize("name", ["page", "per_page"])
@pytest.mark.parametrize("value", ["0", "-1", "x", "1.5", "", "%2B1", "9" * 30, "1&{name}=2", "%00"])
def test_a_bad_page_is_named(world: Stage, path: str, name: str, value: str) -> None:
    """In details.fields, like a field of a body."""
    answer = world.get(f"{path}?{name}={value.format(name=name)}", user="ann")

    assert refusal(answer) == (400, "VALIDATION_ERROR")
    assert set(answer.fields) == {name}


@pytest.mark.parametrize(
    ("path", "name", "value"),
    [
        ("/budget", "status", "x"), ("/budget", "per_page", "101"), ("/budget", "agent_id", ""),
        ("/budget", "at", "yesterday"), ("/budget", "at", "2025-11-21T12:00:00"), ("/budget", "at", "-1"),
        ("/budget/leases", "status", "Active"), ("/budget/leases", "status", ""), ("/budget/ledger", "kind", "x"),
        ("/budget/ledger", "from", "today"), ("/budget/ledger", "to", "2025-02-30"), ("/budget/ledger", "lease_id", ""),
        ("/budget/ledger", "from", "2025-11-21T12:00:00"), ("/budget/ledger", "agent_id", "%00"),
    ],
)  # fmt: skip
def test_a_bad_filter_is_named(world: Stage, path: str, name: str, value: str) -> None:
    """Not ignored: the answer would look right and be wrong."""
    answer = world.get(f"{path}?{name}={value}", user="ann")

    assert refusal(answer) == (400, "VALIDATION_ERROR")
    assert set(answer.fields) == {name}


def test_all_bad_parameters_are_named_at_once_and_unknown_ones_ignored(world: Stage) -> None:
    """One round trip tells everything."""
    answer = world.get("/budget/ledger?page=0&kind=x&from=y&surprise=", user="ann")

    assert set(answer.fields) == {"page", "kind", "from"}
