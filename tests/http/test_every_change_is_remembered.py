"""Every route that changes something writes its row of the audit log, with who asked and by which request."""

import secrets
from collections.abc import Callable
from typing import Any

import pytest

from ironcage_http.app import ROUTES
from tests.support.http_agents import Stage
from tests.support.web import PASSWORD

NOT_REMEMBERED = {
    "POST /auth/refresh": "a session goes on",
    "POST /auth/validate": "nothing changes",
    "POST /api-tokens/validate": "nothing changes",
    "POST /budget/report": "the ledger is its memory",
    "POST /budget/reserve": "no money moves, and it ends by itself",
    "DELETE /budget/reserve/{request_id}": "likewise",
    "POST /analytics/events": "usage is its memory, and no money moves",
    "POST /telemetry/events": "likewise; a failure and what is found of people have rows of their own",
}
"""Source: contract identity.md 11."""

Made = tuple[str, object, dict[str, Any]]


def user(world: Stage) -> str:
    return world.add_user(secrets.token_hex(4))


def token(world: Stage) -> str:
    return str(world.post("/api-tokens", {"name": "x"}, user="admin").body["id"])


def lease(world: Stage) -> tuple[str, str]:
    agent = world.agent()
    return str(world.post("/budget/handshake", {}, token=agent.token).body["lease_id"]), agent.token


ADMIN = {"user": "admin"}
CHANGES: dict[str, tuple[str, Callable[[Stage], Made]]] = {
    "POST /auth/login": (
        "AUTH_LOGIN_SUCCEEDED", lambda _: ("/auth/login", {"username": "ann", "password": PASSWORD}, {}),
    ),
    "POST /auth/logout": ("AUTH_LOGOUT", lambda world: ("/auth/logout", None, fresh_session(world))),
    "POST /auth/change-password": (
        "USER_PASSWORD_CHANGED",
        lambda world: (
            "/auth/change-password",
            {"current_password": PASSWORD, "new_password": "quite another"},
            fresh_session(world),
        ),
    ),
    "PATCH /users/me": ("USER_UPDATED", lambda _: ("/users/me", {"name": secrets.token_hex(4)}, {"user": "ann"})),
    "POST /users": (
        "USER_CREATED",
        lambda _: ("/users", {"username": secrets.token_hex(4), "email": "x@y.io", "password": "long enough"}, ADMIN),
    ),
    "PUT /users/{user_id}/suspend": ("USER_SUSPENDED", lambda world: (f"/users/{user(world)}/suspend", None, ADMIN)),
    "PUT /users/{user_id}/activate": (
        "USER_ACTIVATED", lambda world: (f"/users/{suspended(world)}/activate", None, ADMIN),
    ),
    "DELETE /users/{user_id}": ("USER_DELETED", lambda world: (f"/users/{user(world)}", None, ADMIN)),
    "PUT /users/{user_id}/role": (
        "USER_ROLE_CHANGED", lambda world: (f"/users/{user(world)}/role", {"role": "viewer"}, ADMIN),
    ),
    "POST /users/{user_id}/reset-password": (
        "USER_PASSWORD_RESET",
        lambda world: (f"/users/{user(world)}/reset-password", {"new_password": "long enough"}, ADMIN),
    ),
    "POST /users/{user_id}/revoke-sessions": (
        "USER_SESSIONS_REVOKED", lambda world: (f"/users/{user(world)}/revoke-sessions", None, ADMIN),
    ),
    "POST /api-tokens": ("API_TOKEN_CREATED", lambda _: ("/api-tokens", {"name": "x"}, {"user": "ann"})),
    "PUT /api-tokens/{token_id}": (
        "API_TOKEN_UPDATED", lambda world: (f"/api-tokens/{token(world)}", {"name": "y"}, ADMIN),
    ),
    "POST /api-tokens/{token_id}/rotate": (
        "API_TOKEN_ROTATED", lambda world: (f"/api-tokens/{token(world)}/rotate", None, ADMIN),
    ),
    "DELETE /api-tokens/{token_id}": (
        "API_TOKEN_REVOKED", lambda world: (f"/api-tokens/{token(world)}", None, ADMIN),
    ),
    "POST /agents": ("AGENT_CREATED", lambda _: ("/agents", {"name": "a", "budget": 5}, ADMIN)),
    "PUT /agents/{agent_id}": (
        "AGENT_UPDATED", lambda world: (f"/agents/{world.agent().id}", {"name": "b"}, ADMIN),
    ),
    "DELETE /agents/{agent_id}": ("AGENT_DELETED", lambda world: (f"/agents/{world.agent().id}", None, ADMIN)),
    "POST /agents/{agent_id}/stop": ("AGENT_STOPPED", lambda world: (f"/agents/{world.agent().id}/stop", None, ADMIN)),
    "POST /agents/{agent_id}/start": ("AGENT_STARTED", lambda world: (f"/agents/{stopped(world)}/start", None, ADMIN)),
    "PUT /limits/agents/{agent_id}/budget": (
        "BUDGET_UPDATED", lambda world: (f"/limits/agents/{world.agent().id}/budget", {"budget": 200}, ADMIN),
    ),
    "PUT /agents/{agent_id}/providers": (
        "PROVIDERS_ASSIGNED", lambda world: (f"/agents/{world.agent().id}/providers", {"providers": []}, ADMIN),
    ),
    "DELETE /agents/{agent_id}/providers/{provider_id}": (
        "PROVIDERS_ASSIGNED", lambda world: (f"/agents/{world.agent().id}/providers/{world.key_id}", None, ADMIN),
    ),
    "POST /agents/{agent_id}/ic-token": (
        "IC_TOKEN_CREATED", lambda world: (f"/agents/{without_token(world)}/ic-token", None, ADMIN),
    ),
    "POST /agents/{agent_id}/ic-token/regenerate": (
        "IC_TOKEN_REGENERATED", lambda world: (f"/agents/{world.agent().id}/ic-token/regenerate", None, ADMIN),
    ),
    "DELETE /agents/{agent_id}/ic-token": (
        "IC_TOKEN_REVOKED", lambda world: (f"/agents/{world.agent().id}/ic-token", None, ADMIN),
    ),
    "POST /providers": (
        "PROVIDER_CREATED", lambda _: ("/providers", {"provider": "openai", "api_key": "sk-0123456789"}, ADMIN),
    ),
    "POST /projects": ("PROJECT_CREATED", lambda _: ("/projects", {"name": secrets.token_hex(4)}, ADMIN)),
    "PUT /projects/{project_id}": (
        "PROJECT_UPDATED", lambda world: (f"/projects/{project(world)}", {"description": "x"}, ADMIN),
    ),
    "DELETE /projects/{project_id}": ("PROJECT_DELETED", lambda world: (f"/projects/{project(world)}", None, ADMIN)),
    "POST /projects/{project_id}/provider": (
        "PROJECT_PROVIDER_ASSIGNED",
        lambda world: (f"/projects/{project(world)}/provider", {"provider_key_id": world.key_id}, ADMIN),
    ),
    "DELETE /projects/{project_id}/provider": (
        "PROJECT_PROVIDER_UNASSIGNED",
        lambda world: (f"/projects/{project(world, with_key=True)}/provider", None, ADMIN),
    ),
    "POST /limits": (
        "LIMIT_CREATED", lambda world: ("/limits", {"user_id": user(world), "max_tokens_per_day": 1}, ADMIN),
    ),
    "PUT /limits/{limit_id}": (
        "LIMIT_UPDATED", lambda world: (f"/limits/{limit(world)}", {"max_tokens_per_day": 2}, ADMIN),
    ),
    "DELETE /limits/{limit_id}": ("LIMIT_DELETED", lambda world: (f"/limits/{limit(world)}", None, ADMIN)),
    "POST /agents/provider-key": (
        "CREDENTIAL_ACCESSED", lambda world: ("/agents/provider-key", None, {"token": own_key_agent(world)}),
    ),
    "PUT /providers/{provider_id}": (
        "PROVIDER_UPDATED",
        lambda world: (f"/providers/{world.add_key('openai').id}", {"description": secrets.token_hex(4)}, ADMIN),
    ),
    "DELETE /providers/{provider_id}": (
        "PROVIDER_DELETED",
        lambda world: (f"/providers/{world.add_key('openai').id}", None, ADMIN),
    ),
    "POST /budget/handshake": (
        "CREDENTIAL_ACCESSED", lambda world: ("/budget/handshake", {}, {"token": world.agent().token}),
    ),
    "POST /budget/refresh": ("CREDENTIAL_ACCESSED", lambda world: with_lease(world, "/budget/refresh")),
    "POST /budget/return": ("LEASE_RETURNED", lambda world: with_lease(world, "/budget/return")),
    "POST /budget/requests": (
        "BUDGET_REQUEST_CREATED", lambda world: ("/budget/requests", wish(world), {"user": "ann"}),
    ),
    "PATCH /budget/requests/{request_id}/approve": (
        "BUDGET_REQUEST_APPROVED", lambda world: (f"/budget/requests/{asked(world)}/approve", None, ADMIN),
    ),
    "PATCH /budget/requests/{request_id}/reject": (
        "BUDGET_REQUEST_REJECTED",
        lambda world: (f"/budget/requests/{asked(world)}/reject", {"review_notes": "n" * 20}, ADMIN),
    ),
    "PATCH /budget/requests/{request_id}/cancel": (
        "BUDGET_REQUEST_CANCELLED", lambda world: (f"/budget/requests/{asked(world)}/cancel", None, {"user": "ann"}),
    ),
    "DELETE /budget/requests/{request_id}": (
        "BUDGET_REQUEST_CANCELLED", lambda world: (f"/budget/requests/{asked(world)}", None, ADMIN),
    ),
    "POST /budget/leases/{lease_id}/revoke": (
        "LEASE_REVOKED", lambda world: (f"/budget/leases/{lease(world)[0]}/revoke", None, ADMIN),
    ),
}  # fmt: skip


def with_lease(world: Stage, path: str) -> Made:
    lease_id, value = lease(world)
    return path, {"lease_id": lease_id}, {"token": value}


def wish(world: Stage) -> dict[str, object]:
    return {"agent_id": world.agent().id, "requested_budget": 500, "justification": "j" * 20}


def asked(world: Stage) -> str:
    return str(world.post("/budget/requests", wish(world), user="ann").body["id"])


def stopped(world: Stage) -> str:
    agent = world.agent()
    world.post(f"/agents/{agent.id}/stop", **ADMIN)
    return agent.id


def without_token(world: Stage) -> str:
    agent = world.agent()
    world.send("DELETE", f"/agents/{agent.id}/ic-token", **ADMIN)
    return agent.id


def project(world: Stage, *, with_key: bool = False) -> str:
    made = world.post("/projects", {"name": secrets.token_hex(4)}, **ADMIN)
    if with_key:
        world.post(f"/projects/{made.body['id']}/provider", {"provider_key_id": world.key_id}, **ADMIN)
    return str(made.body["id"])


def limit(world: Stage) -> str:
    made = world.post("/limits", {"user_id": user(world), "max_tokens_per_day": 1}, **ADMIN)
    return str(made.body["id"])


def own_key_agent(world: Stage) -> str:
    """Return the token of an agent whose key may be shown: it is none of those that never may."""
    key = {"provider": "openai", "api_key": f"sk-{secrets.token_hex(16)}"}
    key_id = world.post("/providers", key, **ADMIN).body["id"]
    agent = world.agent()
    world.store.write(lambda uow: uow.provider_keys.assign(agent.id, [key_id]))
    return agent.token


def suspended(world: Stage) -> str:
    user_id = user(world)
    world.send("PUT", f"/users/{user_id}/suspend", **ADMIN)
    return user_id


def fresh_session(world: Stage) -> dict[str, Any]:
    name = secrets.token_hex(4)
    world.add_user(name)
    return {"user": name}


@pytest.mark.parametrize("route", CHANGES)
def test_a_change_leaves_a_row_of_its_request(world: Stage, route: str) -> None:
    """With the operation, the address, and an actor; and the row is the change's own, not a later one's."""
    operation, make = CHANGES[route]
    path, body, options = make(world)
    if options.get("user"):
        world.session(options["user"])  # logging in leaves a row of its own
    request_id = f"change-{secrets.token_hex(6)}"

    answer = world.send(route.split(maxsplit=1)[0], path, body, headers={"X-Request-Id": request_id}, **options)
    rows = world.store.read(lambda uow: [row for row in uow.audit.rows() if row.request_id == request_id])

    assert answer.status < 300, answer.raw
    assert operation in {row.operation for row in rows}
    assert {row.ip_address for row in rows} == {"127.0.0.1"}
    assert all(row.actor_id for row in rows)


def test_every_route_that_changes_something_is_tried() -> None:
    """One that is added must be added here."""
    changing = {f"{route.method} {route.path}" for route in ROUTES if route.method != "GET"}

    assert changing == {*CHANGES, *NOT_REMEMBERED}
