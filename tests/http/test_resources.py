"""Agents, provider keys and IC tokens over HTTP, bytes to bytes."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

from ironcage_core.domain.instants import MS_PER_S
from ironcage_core.domain.sessions import AccessClaims, Session
from ironcage_core.domain.users import Role
from ironcage_core.ports.storage import UnitOfWork
from ironcage_core.services.accounts import add_user
from ironcage_http import app as root
from ironcage_http.settings import read_settings
from ironcage_storage.sqlite.store import SqliteStore
from tests.support.world import ADMIN, API_KEY

HOUR = 3600 * MS_PER_S
Headers = dict[str, str]


class Server(NamedTuple):
    """An app and who may call it."""

    app: Any
    ids: dict[str, str]
    tokens: dict[str, Headers]

    def call(self, who: str, method: str, path: str, body: object = None) -> httpx.Response:
        """Send one request."""

        async def send() -> httpx.Response:
            transport = httpx.ASGITransport(app=self.app)
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
                content = b"" if body is None else json.dumps(body).encode()
                headers = {"Content-Type": "application/json", **self.tokens.get(who, {})}
                return await client.request(method, f"/api/v1{path}", content=content, headers=headers)

        return asyncio.run(send())


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    settings = read_settings({}, folder=tmp_path)
    with SqliteStore(":memory:") as store:
        signer = root.wire(store, settings).access_signer
        cast: tuple[tuple[str, Role], ...] = (("root", "admin"), ("ann", "user"), ("bob", "user"), ("vic", "viewer"))
        ids, tokens = {}, {}
        for name, role in cast:

            def enter(uow: UnitOfWork, name: str = name, role: Role = role) -> AccessClaims:
                user = add_user(uow, username=name, email=f"{name}@test", role=role, actor=ADMIN)
                now = uow.now // MS_PER_S * MS_PER_S
                session = Session(
                    uow.new_id("sess"), user.id, 1, name, now + HOUR, now + HOUR, now, now, None, None
                )  # fmt: skip
                uow.sessions.put(session)
                return AccessClaims(user.id, session.id, 1, name, now, now + HOUR, user.email, role)

            claims = store.write(enter)
            ids[name] = claims.user_id
            tokens[name] = {"Authorization": f"Bearer {signer.sign(claims)}"}
        yield Server(root.create_app(store, settings), ids, tokens)


def new_agent(server: Server, **fields: object) -> dict[str, Any]:
    body = {"name": "worker", "budget": 25.5, "owner_id": server.ids["ann"], **fields}
    response = server.call("root", "POST", "/agents", body)
    assert response.status_code == 201, response.text
    return dict(response.json())


def fields_of(response: httpx.Response) -> list[str]:
    assert (response.status_code, response.json()["code"]) == (400, "VALIDATION_ERROR"), response.text
    return sorted(response.json()["details"]["fields"])


def test_an_agent_is_created_shown_and_listed(server: Server) -> None:
    """Its token's value is in the first answer alone."""
    key = server.call("root", "POST", "/providers", {"provider": "openai", "api_key": API_KEY}).json()
    created = new_agent(server, providers=[key["id"]])
    token = created["ic_token"].pop("token")

    shown = server.call("ann", "GET", f"/agents/{created['id']}")
    listed = server.call("ann", "GET", "/agents")

    assert token.count(".") == 2
    assert '"budget":25.5,"spent":0,"held":0,"remaining":25.5,"percent_used":0' in shown.text
    assert shown.json()["ic_token"].pop("last_used_at") is None
    assert {**shown.json(), "ic_token": created["ic_token"]} == created
    assert (created["providers"], created["provider_key_id"]) == ([key["id"]], key["id"])
    assert listed.json() == {
        "data": [shown.json()],
        "pagination": {"page": 1, "per_page": 50, "total": 1, "total_pages": 1},
    }
    assert token not in shown.text + listed.text


def test_roles_and_owners_decide(server: Server) -> None:
    """Roles first, then the record, then whose it is, then the body."""
    path = f"/agents/{new_agent(server)['id']}"
    cases = [
        ("", "GET", "/agents", None, 401),
        ("ann", "POST", "/agents", {}, 403),
        ("ann", "POST", "/providers", {}, 403),
        ("bob", "GET", path, None, 403),
        ("bob", "GET", f"{path}/ic-token", None, 403),
        ("bob", "POST", f"{path}/ic-token", {"expires_at": 1}, 403),
        ("vic", "POST", f"{path}/ic-token/regenerate", {}, 403),
        ("root", "GET", "/agents/abc", None, 404),
        ("ann", "POST", "/agents/abc/ic-token", {"expires_at": 1}, 404),
        ("ann", "GET", "/providers/openai", None, 404),
        ("ann", "POST", f"{path}/ic-token", {"expires_at": 1}, 400),
        ("ann", "POST", f"{path}/ic-token", None, 409),
    ]

    assert [server.call(who, verb, at, body).status_code for who, verb, at, body, _ in cases] == [
        status for *_, status in cases
    ]
    assert server.call("bob", "GET", "/agents").json()["data"] == []


def test_a_mistyped_field_of_a_key_is_refused(server: Server) -> None:
    """Rather than dropped without a word."""
    key = {"provider": "openai", "api_key": API_KEY}
    assert fields_of(server.call("root", "POST", "/providers", {**key, "apikey": "x"})) == ["apikey"]


def test_a_bad_query_names_its_parameters(server: Server) -> None:
    """All of them at once; unknown ones are ignored."""
    bad = "page=0&per_page=101&sort=size&status=gone&runtime_status=&owner_id=me&provider_id=x&name=a&name=b"
    assert fields_of(server.call("ann", "GET", f"/agents?{bad}&color=red")) == [
        "name", "owner_id", "page", "per_page", "provider_id", "runtime_status", "sort", "status",
    ]  # fmt: skip
    assert fields_of(server.call("vic", "GET", "/providers?is_enabled=1&sort=budget")) == ["is_enabled", "sort"]
    assert server.call("ann", "GET", "/agents?page=7&color=").json() == {
        "data": [],
        "pagination": {"page": 7, "per_page": 50, "total": 0, "total_pages": 0},
    }


def test_each_role_sees_its_part_of_a_provider_key(server: Server) -> None:
    """Nobody sees the key; only an admin its mask; a viewer no URL."""
    body = {"provider": "openai", "api_key": API_KEY, "name": "main", "base_url": "https://llm.test/v1"}
    created = server.call("root", "POST", "/providers", body)
    again = server.call("root", "POST", "/providers", body)
    path = f"/providers/{created.json()['id']}"
    seen = {who: server.call(who, "GET", path) for who in ("root", "ann", "vic")}
    parts = {
        who: (shown.json()["masked_key"], shown.json()["base_url"], shown.json()["created_by"])
        for who, shown in seen.items()
    }

    assert (again.status_code, again.json()["code"]) == (409, "PROVIDER_EXISTS")
    assert parts == {
        "root": ("sk-t...def", "https://llm.test/v1", server.ids["root"]),
        "ann": ("***", "https://llm.test/v1", None),
        "vic": ("***", None, None),
    }
    assert API_KEY not in created.text + again.text + "".join(shown.text for shown in seen.values())
    for query, total in (("status=active", 1), ("is_enabled=false", 0), ("status=active&is_enabled=false", 0)):
        assert server.call("vic", "GET", f"/providers?{query}").json()["pagination"]["total"] == total


def test_a_token_is_regenerated(server: Server) -> None:
    """Same record, new value; what is there is told without the value."""
    created = new_agent(server)
    path = f"/agents/{created['id']}/ic-token"
    old = created["ic_token"]

    renewed = server.call("ann", "POST", f"{path}/regenerate", {"overlap_seconds": 60})
    status = server.call("ann", "GET", path).json()

    assert renewed.status_code == 200
    assert renewed.headers["cache-control"] == "no-store"
    view = renewed.json()
    assert view["token"] == view["ic_token"] != old["token"]
    assert (view["id"], view["old_token_invalidated"], view["leases_revoked"]) == (old["id"], False, 0)
    assert server.call("ann", "POST", f"{path}/regenerate").json()["old_token_invalidated"] is True
    assert (status["has_ic_token"], status["id"], status["created_at"]) == (True, old["id"], old["created_at"])
    assert "token" not in status
    bad = {"overlap_seconds": 86_401, "expires_at": "2020-01-01T00:00:00Z"}
    assert fields_of(server.call("ann", "POST", f"{path}/regenerate", bad)) == ["expires_at", "overlap_seconds"]
