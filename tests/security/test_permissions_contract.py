"""The contract's table of permissions, word for word, against what is registered and against what the server does.

It shares nothing with the table that the server judges by: not its actions, not its rules.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import pytest

from ironcage_http.app import ROUTES
from tests.http.test_permission_matrix import CALLERS, MATRIX, REFUSALS, things
from tests.support.http_agents import Stage, stage

__all__ = ["things"]  # a fixture

TABLE = """
health, version, login, refresh, auth/validate, api-tokens/validate | public | yes | yes | yes | yes | yes | yes
    GET /health, GET /version, POST /auth/login, POST /auth/refresh, POST /auth/validate,
    POST /api-tokens/validate
users: list | users:read | all | - | - | yes | - | -
    GET /users
users: get | users:read | all | own | own | yes | - | -
    GET /users/{user_id}, GET /users/{user_id}/permissions
users: create, suspend, activate, delete, role, reset, sessions | users:write | all | - | - | yes | - | -
    POST /users, PUT /users/{user_id}/suspend, PUT /users/{user_id}/activate, DELETE /users/{deleted_id},
    PUT /users/{user_id}/role, POST /users/{user_id}/reset-password, POST /users/{deleted_id}/revoke-sessions
API tokens: create | tokens:write | own only | own | - | session only | - | -
    POST /api-tokens
API tokens: rotate | tokens:write | own only | own | - | session only | - | -
    POST /api-tokens/{token_id}/rotate
API tokens: list, get | tokens:read | all | own | own | yes | - | -
    GET /api-tokens, GET /api-tokens/{token_id}
API tokens: update metadata | tokens:write | all | own | - | session only | - | -
    PUT /api-tokens/{token_id}
API tokens: revoke | tokens:write | all | own | own | yes | - | -
    DELETE /api-tokens/{token_id}
IC tokens: status | ic_tokens:read | all | own | own | yes | - | -
    GET /agents/{agent_id}/ic-token
IC tokens: issue, regenerate, revoke | ic_tokens:write | all | own | - | yes | - | -
    POST /agents/{agent_id}/ic-token, POST /agents/{agent_id}/ic-token/regenerate,
    DELETE /agents/{tokenless_id}/ic-token
agents: list | agents:read | all | own | own | yes | - | -
    GET /agents
agents: get, status, metrics, providers | agents:read | all | own | own | yes | own agent | -
    GET /agents/{agent_id}, GET /agents/{agent_id}/status, GET /agents/{agent_id}/metrics,
    GET /agents/{agent_id}/providers
agents: list tokens | agents:read | all | own | own | yes | - | -
    GET /agents/{agent_id}/tokens
agents: create, delete | agents:manage | all | - | - | yes | - | -
    POST /agents, DELETE /agents/{dead_agent_id}
agents: budget | budget:write | all | - | - | yes | - | -
    PUT /limits/agents/{agent_id}/budget
agents: name, description, tags, reorder/remove providers | agents:write | all | own | - | yes | - | -
    PUT /agents/{agent_id}, PUT /agents/{agent_id}/providers, DELETE /agents/{agent_id}/providers/{other_key_id}
agents: stop, start | agents:stop | all | own | - | yes | - | -
    POST /agents/{agent_id}/stop, POST /agents/{agent_id}/start
agents: provider-key | IC | - | - | - | - | - | own agent
    POST /agents/provider-key
providers: list, get | providers:read | all | all | all | yes | - | -
    GET /providers, GET /providers/{provider_id}
providers: create, update, delete | providers:write | all | - | - | yes | - | -
    POST /providers, PUT /providers/{provider_id}, DELETE /providers/{unknown_key_id}
projects: list, get | projects:read | all | all | all | yes | - | -
    GET /projects, GET /projects/{project_id}
projects: create, change, assign / unassign provider | projects:write | all | - | - | yes | - | -
    POST /projects, PUT /projects/{project_id}, DELETE /projects/{project_id},
    POST /projects/{project_id}/provider, DELETE /projects/{project_id}/provider
usage: /usage, aggregate, by-project, by-provider | usage:read | all | own | own | yes | - | -
    GET /usage, GET /usage/aggregate, GET /usage/by-project/{project_id}, GET /usage/by-provider/{provider}
limits: list, get | limits:read | all | own | own | yes | - | -
    GET /limits, GET /limits/{limit_id}
limits: the budget of an agent | limits:read | all | own | own | yes | own agent | -
    GET /limits/agents/{agent_id}/budget
limits: create, update, delete | limits:write | all | - | - | yes | - | -
    POST /limits, PUT /limits/{limit_id}, DELETE /limits/{unknown_limit_id}
traces: list, get | traces:read | all | own | own | yes | own agent | -
    GET /traces, GET /traces/{trace_id}
budget: status and leases | budget:read | all | own | own | yes | - | own agent
    GET /budget, GET /budget/leases, GET /budget/leases/{lease_id}
budget: ledger | budget:read | all | own | - | yes | - | -
    GET /budget/ledger
budget: revoke a lease by hand | agents:stop | all | own | - | yes | - | -
    POST /budget/leases/{lease_id}/revoke
budget: history of an agent's budget | budget:read | all | own | own | yes | - | -
    GET /limits/agents/{agent_id}/budget/history
budget: handshake, report, return, refresh, reserve and its DELETE | IC | - | - | - | - | - | own agent
    POST /budget/handshake, POST /budget/report, POST /budget/refresh, POST /budget/return, POST /budget/reserve,
    DELETE /budget/reserve/{call_id}
budget requests: create | budget:request | all | own | - | yes | - | -
    POST /budget/requests
budget requests: list, get | budget:read | all | own | own | yes | - | -
    GET /budget/requests, GET /budget/requests/{breq_id}
budget requests: approve, reject | budget:approve | all | - | - | yes | - | -
    PATCH /budget/requests/{breq_id}/approve, PATCH /budget/requests/{breq_id}/reject
budget requests: cancel | budget:request | all | own | - | yes | - | -
    PATCH /budget/requests/{decided_breq_id}/cancel, DELETE /budget/requests/{decided_breq_id}
analytics: POST events, telemetry | IC | - | - | - | - | - | own agent
    POST /analytics/events, POST /telemetry/events
analytics: all GET, events list | analytics:read | all | own | own | yes | - | -
    GET /analytics*
audit log | audit:read | all | - | - | yes | - | -
    GET /audit-logs, GET /audit-logs/{audit_id}
"""
"""Each row, and below it its routes with what the paths name.

Source: contract identity.md 5, where an agent's budget is a row of its own (resources.md 6, 7.2).

Left out, because no row of permissions says it: what one does to oneself, `GET /tokens`, `GET /keys` (SELF below).
"""

SELF = {
    "GET /auth/verify", "POST /auth/logout", "POST /auth/change-password", "GET /users/me", "PATCH /users/me",
    "GET /tokens", "GET /keys",
}  # fmt: skip

OWN_THINGS = ("user_id", "token_id", "agent_id", "tokenless_id", "lease_id", "trace_id", "breq_id", "limit_id",
              "decided_breq_id")  # fmt: skip


class Row(NamedTuple):
    """One line of the table."""

    name: str
    permission: str
    admin: str
    user: str
    viewer: str
    api_token: str
    agent_token: str
    ic_token: str


def rows_of_routes() -> Iterator[tuple[str, Row]]:
    row = None
    for line in TABLE.strip().splitlines():
        if not line.startswith(" "):
            row = Row._make(cell.strip() for cell in line.split(" | "))
            continue
        assert row is not None
        for place in line.strip(" ,").split(", "):
            is_all = place.endswith("*")
            yield from ((each, row) for each in MATRIX if (each.startswith(place[:-1]) if is_all else each == place))


ROW_OF = dict(rows_of_routes())
"""The row of each route."""


def expected(route: str, row: Row) -> str:
    """Return what the contract says for each of the callers, in the letters of the matrix."""
    if row.permission == "public":
        return "." * len(CALLERS)
    if row.permission == "IC":
        return "MWWWWWWWA."
    is_ann_s = any(f"{{{thing}}}" in route for thing in OWN_THINGS) and row.user == "own"
    strangers = "F" if is_ann_s else "."
    admin = "F" if row.admin == "own only" and is_ann_s else "."
    user, viewer = ("F" if reach == "-" else "." for reach in (row.user, row.viewer))
    by_token = "N" if row.api_token == "session only" else "."
    return "".join(
        (
            "M",
            admin,
            user,
            viewer if viewer == "F" else strangers,
            user if user == "F" else strangers,
            user if user == "F" else by_token,
            user if user == "F" else by_token.replace(".", "S"),
            by_token.replace(".", "S"),
            "." if row.agent_token == "own agent" else "A",
            "." if row.ic_token == "own agent" else "A",
        )
    )


@pytest.mark.parametrize("route", ROW_OF)
def test_what_is_tried_over_http_is_what_the_contract_says(route: str) -> None:
    """The matrix of `tests/http/test_permission_matrix.py` sends a request for each letter."""
    assert MATRIX[route][0] == expected(route, ROW_OF[route])


def test_the_contract_says_something_of_every_route() -> None:
    """But of those that are about oneself."""
    assert set(ROW_OF) | SELF == set(MATRIX)
    assert len(MATRIX) == len({f"{route.method} {route.path}" for route in ROUTES})


@pytest.fixture(scope="module")
def world() -> Iterator[Stage]:
    """One app for the module."""
    with stage() as made:
        yield made


SCOPED = {route: row.permission for route, row in ROW_OF.items() if row.api_token == "yes" and ":" in row.permission}


@pytest.fixture(scope="module")
def scoped(world: Stage) -> Any:  # noqa: ANN401 - a function
    """Return what gives the headers of an admin's token that has these scopes."""
    made = world.post("/api-tokens", {"name": "scoped"}, user="admin").body

    def with_scopes(scopes: list[str]) -> Mapping[str, str]:
        assert world.send("PUT", f"/api-tokens/{made['id']}", {"scopes": scopes}, user="admin").status == 200
        return {"X-API-Token": made["token"]}

    return with_scopes


@pytest.mark.parametrize("permission", sorted(set(SCOPED.values())))
def test_a_scope_opens_its_own_routes_and_no_others(
    world: Stage,
    things: Mapping[str, str],
    scoped: Any,  # noqa: ANN401 - a function
    permission: str,
) -> None:
    """Each route asks for the permission of its row, and says so."""

    def refused_by(scopes: list[str]) -> dict[str, str]:
        headers, refused = scoped(scopes), {}
        for route in SCOPED:
            method, path = route.split()
            answer = world.send(method, path.format(**things), MATRIX[route][1], headers=headers)
            if (answer.status, answer.code if answer.status >= 400 else "") == REFUSALS["S"]:
                refused[route] = answer.body["details"]["required"]
        return refused

    others = {route: needed for route, needed in SCOPED.items() if needed != permission}

    assert refused_by([permission]) == others
    rest = sorted({*SCOPED.values()} - {permission})
    assert refused_by(rest) == {route: permission for route in SCOPED if route not in others}


READ = [route for route, row in ROW_OF.items() if route.startswith("GET ") and row.user == "own" and "{" not in route]


@pytest.mark.parametrize("name", ["otto", "vera"])
@pytest.mark.parametrize("route", READ)
def test_a_list_holds_nothing_that_is_somebody_else_s(
    world: Stage,
    things: Mapping[str, str],
    route: str,
    name: str,
) -> None:
    """Neither for a user nor for a viewer: not one id of what ann owns, and not hers."""
    if name == "otto" and world.store.read(lambda uow: uow.users.find_by_username("otto")) is None:
        world.add_user("otto")
    answer = world.send(*route.split(), user=name)

    shown = json.dumps(answer.body, default=str)
    assert [thing for thing in OWN_THINGS if things[thing] in shown] == []


def test_an_admin_s_lists_hold_what_others_do_not_see(world: Stage, things: Mapping[str, str]) -> None:
    """So the ids that were looked for would have been found."""
    shown = "".join(json.dumps(world.send(*route.split(), user="admin").body, default=str) for route in READ)

    assert [thing for thing in OWN_THINGS if things[thing] not in shown] == []
