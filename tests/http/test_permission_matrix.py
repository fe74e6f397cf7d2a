"""Every route with every kind of credential, against the matrix of the contract (identity.md 5, resources.md 6)."""

import secrets
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from ironcage_http.app import ROUTES
from tests.support.http_agents import Stage

CALLERS = ("nobody", "admin", "ann", "vera", "otto", "anns token", "anns narrow", "admins narrow", "bound", "ic")
"""Ann is a user and owns what the paths name; vera is a viewer; otto is another user. Narrow tokens have one scope that
opens no route here; the bound one is ann's, for the agent that the paths name, whose IC token comes last."""

REFUSALS = {
    "M": (401, "AUTH_MISSING_TOKEN"),
    "W": (401, "AUTH_WRONG_TOKEN_TYPE"),
    "F": (403, "FORBIDDEN"),
    "S": (403, "INSUFFICIENT_SCOPE"),
    "N": (403, "SESSION_REQUIRED"),
    "A": (403, "AGENT_TOKEN_FORBIDDEN"),
}
"""What stands for a refusal in the matrix; a dot is anything but a refusal because of who asks."""

MATRIX: Mapping[str, tuple[str, Any]] = {
    # one character a caller, in their order; and a body that, where it counts at all, changes nothing
    "GET /health": ("..........", None),
    "GET /version": ("..........", None),
    "POST /auth/login": ("..........", {"password": ""}),
    "POST /auth/refresh": ("..........", {"refresh_token": "x" * 501}),
    "POST /auth/validate": ("..........", {"token": "x"}),
    "GET /auth/verify": ("M.......AA", None),
    "POST /auth/logout": ("M....WWWWA", {"all_sessions": "x"}),
    "POST /auth/change-password": ("M....NNNAA", {}),
    "GET /users": ("M.FFFFFSAA", None),
    "POST /users": ("M.FFFFFSAA", {}),
    "GET /users/me": ("M.......AA", None),
    "PATCH /users/me": ("M....NNNAA", {"role": "admin"}),
    "GET /users/{user_id}": ("M..FF.SSAA", None),
    "GET /users/{user_id}/permissions": ("M..FF.SSAA", None),
    "PUT /users/{user_id}/suspend": ("M.FFFFFSAA", {"reason": ""}),
    "PUT /users/{user_id}/activate": ("M.FFFFFSAA", None),
    "DELETE /users/{deleted_id}": ("M.FFFFFSAA", None),
    "PUT /users/{user_id}/role": ("M.FFFFFSAA", {}),
    "POST /users/{user_id}/reset-password": ("M.FFFFFSAA", {}),
    "POST /users/{deleted_id}/revoke-sessions": ("M.FFFFFSAA", None),
    "POST /api-tokens": ("M..F.NNNAA", {}),
    "POST /api-tokens/validate": ("..........", {"token": "x"}),
    "GET /api-tokens": ("M.....SSAA", None),
    "GET /api-tokens/{token_id}": ("M..FF.SSAA", None),
    "PUT /api-tokens/{token_id}": ("M..FFNNNAA", {}),
    "POST /api-tokens/{token_id}/rotate": ("MF.FFNNNAA", {"expires_at": "x"}),
    "DELETE /api-tokens/{token_id}": ("M..FF.SSAA", {"reason": ""}),
    "GET /tokens": ("M.....SSAA", None),
    "GET /agents": ("M.....SSAA", None),
    "POST /agents": ("M.FFFFFSAA", {}),
    "GET /agents/{agent_id}": ("M..FF.SS.A", None),
    "PUT /agents/{agent_id}": ("M..FF.SSAA", {"name": ""}),
    "DELETE /agents/{dead_agent_id}": ("M.FFFFFSAA", None),
    "POST /agents/{agent_id}/stop": ("M..FF.SSAA", {"reason": 1}),
    "POST /agents/{agent_id}/start": ("M..FF.SSAA", None),
    "GET /agents/{agent_id}/tokens": ("M..FF.SSAA", None),
    "GET /agents/{agent_id}/status": ("M..FF.SS.A", None),
    "GET /agents/{agent_id}/metrics": ("M..FF.SS.A", None),
    "GET /agents/{agent_id}/providers": ("M..FF.SS.A", None),
    "PUT /agents/{agent_id}/providers": ("M..FF.SSAA", {}),
    "DELETE /agents/{agent_id}/providers/{other_key_id}": ("M..FF.SSAA", None),
    "GET /agents/{agent_id}/ic-token": ("M..FF.SSAA", None),
    "POST /agents/{agent_id}/ic-token": ("M..FF.SSAA", None),
    "POST /agents/{agent_id}/ic-token/regenerate": ("M..FF.SSAA", {"overlap_seconds": -1}),
    "DELETE /agents/{tokenless_id}/ic-token": ("M..FF.SSAA", None),
    "GET /providers": ("M.....SSAA", None),
    "POST /providers": ("M.FFFFFSAA", {}),
    "GET /providers/{provider_id}": ("M.....SSAA", None),
    "PUT /providers/{provider_id}": ("M.FFFFFSAA", {}),
    "DELETE /providers/{unknown_key_id}": ("M.FFFFFSAA", None),
    "GET /projects": ("M.....SSAA", None),
    "POST /projects": ("M.FFFFFSAA", {}),
    "GET /projects/{project_id}": ("M.....SSAA", None),
    "PUT /projects/{project_id}": ("M.FFFFFSAA", {}),
    "DELETE /projects/{project_id}": ("M.FFFFFSAA", None),
    "POST /projects/{project_id}/provider": ("M.FFFFFSAA", {}),
    "DELETE /projects/{project_id}/provider": ("M.FFFFFSAA", None),
    "POST /limits": ("M.FFFFFSAA", {}),
    "GET /limits": ("M.....SSAA", None),
    "GET /limits/{limit_id}": ("M..FF.SSAA", None),
    "PUT /limits/{limit_id}": ("M.FFFFFSAA", {}),
    "DELETE /limits/{unknown_limit_id}": ("M.FFFFFSAA", None),
    "GET /keys": ("MWWWW.SSAA", None),
    "POST /agents/provider-key": ("MWWWWWWWA.", {"provider": "x"}),
    "POST /budget/handshake": ("MWWWWWWWA.", {"runtime_version": "x"}),
    "POST /budget/report": ("MWWWWWWWA.", {}),
    "POST /budget/refresh": ("MWWWWWWWA.", {}),
    "POST /budget/return": ("MWWWWWWWA.", {}),
    "POST /budget/reserve": ("MWWWWWWWA.", {}),
    "DELETE /budget/reserve/{call_id}": ("MWWWWWWWA.", None),
    "GET /budget": ("M.....SSA.", None),
    "POST /budget/requests": ("M..F..SSAA", {}),
    "GET /budget/requests": ("M.....SSAA", None),
    "GET /budget/requests/{breq_id}": ("M..FF.SSAA", None),
    "PATCH /budget/requests/{breq_id}/approve": ("M.FFFFFSAA", {"approved_budget": "x"}),
    "PATCH /budget/requests/{breq_id}/reject": ("M.FFFFFSAA", {}),
    "PATCH /budget/requests/{decided_breq_id}/cancel": ("M..FF.SSAA", None),
    "DELETE /budget/requests/{decided_breq_id}": ("M..FF.SSAA", None),
    "GET /budget/leases": ("M.....SSA.", None),
    "GET /budget/leases/{lease_id}": ("M..FF.SSA.", None),
    "POST /budget/leases/{lease_id}/revoke": ("M..FF.SSAA", {"reason": ""}),
    "GET /budget/ledger": ("M..F..SSAA", None),
    "GET /limits/agents/{agent_id}/budget": ("M..FF.SS.A", None),
    "PUT /limits/agents/{agent_id}/budget": ("M.FFFFFSAA", {}),
    "GET /limits/agents/{agent_id}/budget/history": ("M..FF.SSAA", None),
    "GET /usage": ("M.....SSAA", None),
    "GET /usage/aggregate": ("M.....SSAA", None),
    "GET /usage/by-project/{project_id}": ("M.....SSAA", None),
    "GET /usage/by-provider/{provider}": ("M.....SSAA", None),
    "GET /analytics": ("M.....SSAA", None),
    "GET /analytics/spending": ("M.....SSAA", None),
    "GET /analytics/spending/total": ("M.....SSAA", None),
    "GET /analytics/spending/by-agent": ("M.....SSAA", None),
    "GET /analytics/spending/by-provider": ("M.....SSAA", None),
    "GET /analytics/spending/avg-per-request": ("M.....SSAA", None),
    "GET /analytics/usage": ("M.....SSAA", None),
    "GET /analytics/usage/requests": ("M.....SSAA", None),
    "GET /analytics/usage/tokens/by-agent": ("M.....SSAA", None),
    "GET /analytics/usage/models": ("M.....SSAA", None),
    "GET /analytics/usage/by-agent": ("M.....SSAA", None),
    "GET /analytics/usage/by-provider": ("M.....SSAA", None),
    "GET /analytics/budget/status": ("M.....SSAA", None),
    "GET /analytics/spending/by-period": ("M.....SSAA", None),
    "GET /analytics/metrics": ("M.....SSAA", None),
    "GET /analytics/errors": ("M.....SSAA", None),
    "GET /analytics/events": ("M.....SSAA", None),
    "GET /analytics/events/list": ("M.....SSAA", None),
    "GET /analytics/export/usage": ("M.....SSAA", None),
    "GET /analytics/export/spending": ("M.....SSAA", None),
    "GET /traces": ("M.....SS.A", None),
    "GET /traces/{trace_id}": ("M..FF.SS.A", None),
    "POST /analytics/events": ("MWWWWWWWA.", {}),
    "POST /telemetry/events": ("MWWWWWWWA.", {}),
    "GET /audit-logs": ("M.FFFFFSAA", None),
    "GET /audit-logs/{audit_id}": ("M.FFFFFSAA", None),
}


def budget_request(world: Stage, agent_id: str) -> str:
    body = {"agent_id": agent_id, "requested_budget": 500, "justification": "j" * 20}
    return str(world.post("/budget/requests", body, user="ann").body["id"])


@pytest.fixture(scope="module")
def things(world: Stage) -> Mapping[str, str]:
    """What the paths name."""
    ann = world.owner_id
    agent, tokenless = world.agent(), world.agent()
    deleted = world.add_user("gone")
    admin = {"user": "admin"}
    assert world.send("DELETE", f"/users/{deleted}", **admin).status == 200
    dead = world.agent()
    assert world.send("DELETE", f"/agents/{dead.id}", **admin).status == 204
    lease = world.post("/budget/handshake", {}, token=agent.token)
    agent.report(lease.body["lease_id"], "r1", 1)
    requests = [budget_request(world, agent.id) for _ in range(2)]
    world.send("PATCH", f"/budget/requests/{requests[1]}/reject", {"review_notes": "n" * 20}, **admin)
    audit = world.get("/audit-logs", **admin).body["data"][0]["id"]
    made = world.post("/api-tokens", {"name": "subject"}, user="ann")
    limit = world.post("/limits", {"user_id": ann, "max_tokens_per_day": 10**9}, **admin)
    assert made.status == 201, made.raw
    return {
        "user_id": ann,
        "deleted_id": deleted,
        "token_id": made.body["id"],
        "agent_id": agent.id,
        "tokenless_id": tokenless.id,
        "provider_id": world.key_id,
        "project_id": "proj_master_001",
        "unknown_key_id": "prov_" + "0" * 32,
        "dead_agent_id": dead.id,
        "other_key_id": world.other_key_id,
        "lease_id": lease.body["lease_id"],
        "call_id": "a call of nobody",
        "provider": "openai",
        "trace_id": world.get("/traces", user="admin").body["data"][0]["id"],
        "audit_id": audit,
        "limit_id": limit.body["id"],
        "breq_id": requests[0],
        "decided_breq_id": requests[1],
        "unknown_limit_id": "lim_" + "0" * 32,
        "ic token": agent.token,
    }


@pytest.fixture(scope="module")
def credentials(world: Stage, things: Mapping[str, str]) -> Mapping[str, Mapping[str, str]]:
    """The headers of each caller."""
    world.add_user("otto")

    def token(user: str, **fields: Any) -> dict[str, str]:  # noqa: ANN401 - fields of a body
        made = world.post("/api-tokens", {"name": secrets.token_hex(4), **fields}, user=user)
        assert made.status == 201, made.raw
        return {"X-API-Token": made.body["token"]}

    narrow = {"scopes": ["events:subscribe"]}
    sessions = {name: {"Authorization": f"Bearer {world.session(name)}"} for name in ("admin", "ann", "vera", "otto")}
    return {
        "nobody": {},
        **sessions,
        "anns token": token("ann"),
        "anns narrow": token("ann", **narrow),
        "admins narrow": token("admin", **narrow),
        "bound": token("ann", agent_id=things["agent_id"]),
        "ic": {"X-IC-Token": things["ic token"]},
    }


def cells() -> Iterator[Any]:
    for route, (outcomes, body) in MATRIX.items():
        for caller, outcome in zip(CALLERS, outcomes, strict=True):
            yield pytest.param(route, caller, outcome, body, id=f"{route} by {caller}")


@pytest.mark.parametrize(("route", "caller", "outcome", "body"), list(cells()))
def test_a_route_opens_to_whom_the_matrix_names(
    world: Stage,
    things: Mapping[str, str],
    credentials: Mapping[str, Mapping[str, str]],
    route: str,
    caller: str,
    outcome: str,
    body: object,
) -> None:
    """Refused with the right code, or not refused because of who asks."""
    method, path = route.split()

    answer = world.send(method, path.format(**things), body, headers=credentials[caller])

    told = (answer.status, answer.code if answer.status >= 400 else None)
    if outcome == ".":
        assert told not in set(REFUSALS.values())
    else:
        assert told == REFUSALS[outcome]


def test_the_matrix_has_every_route() -> None:
    """A route that is added must be added here as well."""
    names = {"{deleted_id}": "{user_id}", "{tokenless_id}": "{agent_id}", "{unknown_key_id}": "{provider_id}"}
    names |= {"{dead_agent_id}": "{agent_id}", "{other_key_id}": "{provider_id}"}
    names |= {"{unknown_limit_id}": "{limit_id}"}
    names |= {"{call_id}": "{request_id}"}
    names |= {"{breq_id}": "{request_id}", "{decided_breq_id}": "{request_id}"}

    tried = set()
    for line in MATRIX:
        for special, usual in names.items():
            line = line.replace(special, usual)  # noqa: PLW2901 - the same line, spelled as its route
        tried.add(line)

    assert tried == {f"{route.method} {route.path}" for route in ROUTES}


VIEWERS_OWN = {
    "GET /agents/{agent_id}": None,
    "GET /agents/{agent_id}/ic-token": None,
    "GET /agents/{agent_id}/tokens": None,
    "GET /agents/{agent_id}/status": None,
    "GET /agents/{agent_id}/metrics": None,
    "GET /agents/{agent_id}/providers": None,
    "PUT /agents/{agent_id}": "FORBIDDEN",
    "POST /agents/{agent_id}/stop": "FORBIDDEN",
    "POST /agents/{agent_id}/start": "FORBIDDEN",
    "PUT /agents/{agent_id}/providers": "FORBIDDEN",
    "GET /budget?agent_id={agent_id}": None,
    "POST /agents/{agent_id}/ic-token/regenerate": "FORBIDDEN",
    "DELETE /agents/{agent_id}/ic-token": "FORBIDDEN",
    "GET /budget/ledger?agent_id={agent_id}": "FORBIDDEN",
    "GET /usage?agent_id={agent_id}": None,
    "GET /analytics?agent_id={agent_id}": None,
    "GET /traces?agent_id={agent_id}": None,
    "GET /limits/agents/{agent_id}/budget": None,
    "GET /limits/agents/{agent_id}/budget/history": None,
    "PUT /limits/agents/{agent_id}/budget": "FORBIDDEN",
}


@pytest.mark.parametrize(("route", "code"), list(VIEWERS_OWN.items()), ids=list(VIEWERS_OWN))
def test_a_viewer_looks_at_the_own_agent_and_changes_nothing(world: Stage, route: str, code: str | None) -> None:
    """Role and ownership are both needed."""
    agent = world.agent(owner_id=world.user_id("vera"))
    method, path = route.split()

    answer = world.send(method, path.format(agent_id=agent.id), user="vera")

    assert (answer.code if answer.status >= 400 else None) == code


def test_an_agent_bound_token_gets_one_answer_about_every_other_agent(
    world: Stage, credentials: Mapping[str, Mapping[str, str]]
) -> None:
    """Whether the agent exists, or whose it is, is not told."""
    others = [world.agent().id, world.agent(owner_id=world.user_id("otto")).id, "agent_" + "0" * 32, "abc"]

    paths = [f"/agents/{other}{tail}" for other in others for tail in ("", "/status", "/metrics")]
    answers = [world.get(path, headers=credentials["bound"]) for path in paths]

    assert {(each.status, each.code) for each in answers} == {(403, "AGENT_TOKEN_FORBIDDEN")}


def test_a_token_does_what_its_owners_role_allows_now(world: Stage) -> None:
    """Scopes narrow, they never widen."""
    user_id = world.add_user("nora")
    value = world.post("/api-tokens", {"name": "all", "scopes": ["*"]}, user="nora").body["token"]
    headers = {"X-API-Token": value}
    before = world.get("/users", headers=headers)
    world.send("PUT", f"/users/{user_id}/role", {"role": "admin"}, user="admin")
    promoted = world.get("/users", headers=headers)
    world.send("PUT", f"/users/{user_id}/role", {"role": "viewer"}, user="admin")

    demoted = world.get("/users", headers=headers)

    assert (before.status, promoted.status, demoted.status) == (403, 200, 403)
