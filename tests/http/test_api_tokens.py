"""API tokens over the wire: made, shown once, used, changed, rotated and ended. Contract identity.md 6."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from ironcage_core.ports.storage import UnitOfWork
from ironcage_http.server import embedded_settings
from ironcage_storage.sealed.api_tokens import api_token_hash
from ironcage_storage.sqlite.store import SqliteStore
from tests.support.web import Answer, Caller, serving

pytestmark = pytest.mark.anyio

RECORD = {
    "id", "name", "description", "user_id", "project_id", "agent_id", "provider", "scopes", "status", "is_active",
    "hint", "expires_at", "rate_limit_rps", "daily_request_limit", "daily_token_limit", "daily_limit_usd",
    "cost_cap_usd", "created_at", "updated_at", "last_used_at", "revoked_at", "revoked_by", "rotated_from",
    "replaced_by",
}  # fmt: skip
NOBODY = "tok_" + 32 * "0"
LATER = (datetime.now(UTC) + timedelta(days=1)).isoformat()
MUCH_LATER = (datetime.now(UTC) + timedelta(days=2)).isoformat()


@asynccontextmanager
async def desks(store: SqliteStore, most: int = 10) -> AsyncIterator[tuple[Caller, Caller, Caller]]:
    """Yield ann, an admin and a viewer, each logged in."""
    settings = replace(embedded_settings(), max_active_tokens=most)
    async with serving(store, settings) as caller:
        yield await caller.login("ann"), await caller.login("admin"), await caller.login("vera")


async def made(caller: Caller, **fields: object) -> dict[str, Any]:
    answer = await caller.post("/api-tokens", {"name": "ci", **fields})
    assert answer.status == 201, answer.raw
    return dict(answer.body)


async def agent_of(admin: Caller, username: str) -> str:
    """Let an admin make an agent for a user, and return its id."""
    owner = admin.store.read(lambda uow: uow.users.find_by_username(username))
    assert owner is not None
    answer = await admin.post("/agents", {"name": f"{username}'s agent", "budget": 1, "owner_id": owner.id})
    assert answer.status == 201, answer.raw
    return str(answer.body["id"])


async def code_of_use(caller: Caller, value: str) -> str | None:
    """Return why a token is refused where any user may read, or None."""
    answer = await caller.bearing(value).get("/agents")
    return None if answer.status == 200 else answer.code


async def put(caller: Caller, token_id: str, body: object) -> Answer:
    return await caller.send("PUT", f"/api-tokens/{token_id}", body)


async def revoke(caller: Caller, token_id: str, body: object = None) -> Answer:
    return await caller.send("DELETE", f"/api-tokens/{token_id}", body)


async def rotate(caller: Caller, token_id: str, body: object = None) -> Answer:
    return await caller.post(f"/api-tokens/{token_id}/rotate", body)


# --- made --------------------------------------------------------------------


async def test_a_token_is_shown_once_and_works_in_both_carriers(store: SqliteStore) -> None:
    """The answer that makes it has its value, and no other; it may not be kept by a cache."""
    async with desks(store) as (ann, _, _):
        answer = await ann.post("/api-tokens", {"name": " ci ", "scopes": ["agents:read", "tokens:read"]})
        value = answer.body["token"]
        by_bearer = await ann.bearing(value).get("/agents")
        by_header = await replace(ann, headers={"X-API-Token": value}).get("/agents")
        seen = await ann.get(f"/api-tokens/{answer.body['id']}")

        assert answer.status == 201
        assert set(answer.body) == RECORD | {"token", "message"}
        assert answer.headers["location"] == f"/api/v1/api-tokens/{answer.body['id']}"
        assert answer.headers["cache-control"] == "no-store"
        assert (len(value), value[:3], answer.body["hint"]) == (46, "at_", value[-4:])
        assert (answer.body["name"], answer.body["status"], answer.body["is_active"]) == ("ci", "active", True)
        assert (by_bearer.status, by_header.status) == (200, 200)
        assert set(seen.body) == RECORD | {"usage_stats"}
        assert value.encode() not in seen.raw
        assert (api_token_hash(value) or "").encode() not in seen.raw + answer.raw


async def test_every_field_comes_back_as_it_went_in(store: SqliteStore) -> None:
    """Amounts exactly, as numbers, whether they were sent as numbers or as text."""
    wish = {
        "name": "<b>'; DROP TABLE api_tokens;--", "description": "ünï", "project_id": "proj_master_001",
        "provider": "openai", "scopes": ["usage:read"], "expires_at": "2100-01-01T00:00:00.000Z", "rate_limit_rps": 5,
        "daily_request_limit": 10**12, "daily_token_limit": 1, "cost_cap_usd": "0.000001", "daily_limit_usd": 0.1,
    }  # fmt: skip
    async with desks(store) as (ann, _, _):
        token = await made(ann, **wish)

        assert {name: token[name] for name in wish} == {
            **wish, "cost_cap_usd": Decimal("0.000001"), "daily_limit_usd": Decimal("0.1"),
        }  # fmt: skip


async def test_all_that_is_wrong_is_told_at_once(store: SqliteStore) -> None:
    """Each field by its name; an unknown one too."""
    bad = {
        "name": "", "description": "d" * 501, "project_id": "proj_orphaned", "provider": "", "scopes": ["x:y"],
        "expires_at": "yesterday", "rate_limit_rps": 1001, "daily_request_limit": 0, "daily_token_limit": 10**12 + 1,
        "daily_limit_usd": "0.0000001", "cost_cap_usd": 1_000_001, "user_id": 7,
    }  # fmt: skip
    async with desks(store) as (ann, _, _):
        answer = await ann.post("/api-tokens", bad)
        unknown = await ann.post("/api-tokens", {"name": "x", "admin": True})
        nameless = await ann.post("/api-tokens", {})
        listing = await ann.get("/api-tokens")

        assert (answer.status, answer.code) == (400, "VALIDATION_ERROR")
        assert set(answer.fields) == set(bad)
        assert set(unknown.fields) == {"admin"}
        assert set(nameless.fields) == {"name"}
        assert listing.body["pagination"]["total"] == 0


async def test_what_is_no_amount_is_refused(store: SqliteStore) -> None:
    """Of both amounts of a token."""
    async with desks(store) as (ann, _, _):
        amounts: tuple[object, ...] = (True, "NaN", "Infinity", -1, 0, "", [], "1e400")
        for amount in amounts:
            answer = await ann.post("/api-tokens", {"name": "x", "daily_limit_usd": amount, "cost_cap_usd": amount})

            assert answer.status == 400, amount
            assert set(answer.fields) == {"daily_limit_usd", "cost_cap_usd"}, amount


async def test_tokens_are_made_by_people_for_themselves(store: SqliteStore) -> None:
    """Not by viewers, not by tokens, not for others, not without a credential."""
    async with desks(store) as (ann, admin, vera):
        own = await made(ann, user_id=(await made(ann))["user_id"])
        token = ann.bearing(own["token"])
        refusals = [
            await vera.post("/api-tokens", {"bad": 1}),
            await admin.post("/api-tokens", {"name": "x", "user_id": own["user_id"]}),
            await token.post("/api-tokens", {"name": "x"}),
            await rotate(token, own["id"]),
            await put(token, own["id"], {"name": "x"}),
            await replace(ann, headers={}).post("/api-tokens", {"name": "x"}),
        ]

        assert [(each.status, each.code) for each in refusals] == [
            (403, "FORBIDDEN"), (403, "FORBIDDEN"), (403, "SESSION_REQUIRED"), (403, "SESSION_REQUIRED"),
            (403, "SESSION_REQUIRED"), (401, "AUTH_MISSING_TOKEN"),
        ]  # fmt: skip


async def test_a_token_is_bound_to_an_agent_of_its_maker(store: SqliteStore) -> None:
    """Foreign ones are forbidden, unknown ones not found; and then it manages no tokens, not even itself."""
    async with desks(store) as (ann, admin, _):
        annes, admins = await agent_of(admin, "ann"), await agent_of(admin, "admin")
        bound = await made(ann, agent_id=annes)
        foreign = await ann.post("/api-tokens", {"name": "x", "agent_id": admins})
        unknown = await ann.post("/api-tokens", {"name": "x", "agent_id": "agent_1"})
        anybodys = await made(admin, agent_id=annes)
        agent = ann.bearing(bound["token"])
        refused = [await agent.get("/api-tokens"), await revoke(agent, bound["id"]), await agent.get("/tokens")]
        own = await agent.get(f"/agents/{annes}")

        assert bound["agent_id"] == anybodys["agent_id"] == annes
        assert (foreign.status, foreign.code) == (403, "FORBIDDEN")
        assert (unknown.status, unknown.code) == (404, "AGENT_NOT_FOUND")
        assert [each.code for each in refused] == ["AGENT_TOKEN_FORBIDDEN"] * 3
        assert own.status == 200


async def test_there_is_a_limit_of_living_tokens(store: SqliteStore) -> None:
    """It says how many there are; a revocation makes room."""
    async with desks(store, most=2) as (ann, _, _):
        first = await made(ann)
        await made(ann)
        full = await ann.post("/api-tokens", {"name": "x"})
        await revoke(ann, first["id"])
        room = await ann.post("/api-tokens", {"name": "x"})

        assert (full.status, full.code) == (429, "TOKEN_LIMIT_EXCEEDED")
        assert full.headers["retry-after"] == "60"
        assert (full.body["details"]["limit"], full.body["details"]["active"]) == (2, 2)
        assert room.status == 201


async def test_making_and_rotating_share_a_rate_limit(store: SqliteStore) -> None:
    """Ten a minute, whatever comes of them, with limits switched off; the limit of living tokens comes after it."""
    async with desks(store, most=1) as (ann, _, _):
        answers = [await ann.post("/api-tokens", {"name": "x"}) for _ in range(5)]
        answers += [await rotate(ann, NOBODY) for _ in range(6)]

        assert [each.status for each in answers] == [201, *[429] * 4, *[404] * 5, 429]
        assert [each.code for each in answers[1:5]] == ["TOKEN_LIMIT_EXCEEDED"] * 4
        assert answers[-1].code == "RATE_LIMIT_EXCEEDED"


# --- validated ---------------------------------------------------------------


async def test_anybody_may_ask_whether_a_token_is_good(store: SqliteStore) -> None:
    """A good one tells whose it is; of any other nothing is told but that."""
    async with desks(store) as (ann, _, _):
        anybody = replace(ann, headers={})
        good = await made(ann, project_id="proj_master_001")
        off, dead, turned = await made(ann), await made(ann), await made(ann)
        await put(ann, off["id"], {"is_active": False})
        await revoke(ann, dead["id"])
        await rotate(ann, turned["id"])
        values = [off["token"], dead["token"], turned["token"], "at_" + 43 * "a", "x", "\n", "x" * 500]
        bad = [await anybody.post("/api-tokens/validate", {"token": value}) for value in values if value != "\n"]
        answer = await anybody.post("/api-tokens/validate", {"token": good["token"]})
        seen = await ann.get(f"/api-tokens/{good['id']}")

        assert answer.body == {
            "valid": True, "user_id": good["user_id"], "project_id": "proj_master_001", "token_id": good["id"],
        }  # fmt: skip
        assert [(each.status, each.body) for each in bad] == [(200, {"valid": False})] * 6
        assert seen.body["last_used_at"] is None
        assert seen.body["usage_stats"]["total_requests"] == 0


async def test_a_good_token_without_a_project_says_so(store: SqliteStore) -> None:
    """Null, not nothing."""
    async with desks(store) as (ann, _, _):
        token = await made(ann)

        answer = await ann.post("/api-tokens/validate", {"token": token["token"]})

        assert answer.body["project_id"] is None


async def test_what_is_no_question_is_refused(store: SqliteStore) -> None:
    """Missing, empty, too long, no text."""
    async with serving(store) as caller:
        tokens: tuple[object, ...] = (None, "", " ", "x" * 501, 7, [])
        for token in tokens:
            answer = await caller.post("/api-tokens/validate", {"token": token})

            assert (answer.status, answer.code, set(answer.fields)) == (400, "VALIDATION_ERROR", {"token"}), token
        bodies: tuple[object, ...] = ({}, None, b"")
        for body in bodies:
            assert set((await caller.post("/api-tokens/validate", body)).fields) == {"token"}


# --- seen --------------------------------------------------------------------


async def test_use_is_counted_and_shown_to_the_next_who_looks(store: SqliteStore) -> None:
    """Requests that were refused for want of a right count too: they were made."""
    async with desks(store) as (ann, _, _):
        token = await made(ann, scopes=["agents:read"])
        user = ann.bearing(token["token"])
        await user.get("/agents")
        await user.get("/budget")
        seen = await ann.get(f"/api-tokens/{token['id']}")
        await user.get("/agents")
        listing = await ann.get("/api-tokens")
        again = await ann.get(f"/api-tokens/{token['id']}")

        assert seen.body["usage_stats"] == {
            "total_requests": 2, "requests_today": 2, "requests_last_hour": 2, "total_tokens": 0, "tokens_today": 0,
            "total_cost_usd": 0, "cost_today_usd": 0,
        }  # fmt: skip
        assert seen.body["last_used_at"] is not None
        assert again.body["usage_stats"]["total_requests"] == 3
        assert listing.body["data"][0]["last_used_at"] == again.body["last_used_at"]


async def test_lists_hold_own_tokens_of_every_status(store: SqliteStore) -> None:
    """An admin sees all and may ask for one user's; others may ask, but in vain."""
    async with desks(store) as (ann, admin, vera):
        plain, off, dead = await made(ann, name="plain"), await made(ann, name="off"), await made(ann, name="dead")
        await put(ann, off["id"], {"is_active": False})
        await revoke(ann, dead["id"])
        admins = await made(admin, name="admins", project_id="proj_master_001")

        async def names(caller: Caller, query: str = "") -> list[str]:
            answer = await caller.get(f"/api-tokens{query}")
            assert answer.status == 200, answer.raw
            assert answer.body["pagination"]["total"] == len(answer.body["data"])
            return [each["name"] for each in answer.body["data"]]

        assert await names(ann, "?sort=name") == ["dead", "off", "plain"]
        assert await names(ann, f"?sort=name&user_id={admins['user_id']}") == ["dead", "off", "plain"]
        assert await names(ann, "?user_id=whatever&status=active") == ["plain"]
        assert await names(vera) == []
        assert await names(admin, "?sort=-name") == ["plain", "off", "dead", "admins"]
        assert await names(admin, f"?user_id={plain['user_id']}&status=inactive") == ["off"]
        assert await names(admin, "?project_id=proj_master_001") == ["admins"]
        assert await names(admin, "?name=DEA") == ["dead"]
        assert await names(admin, f"?agent_id=agent_{32 * '0'}") == []


async def test_a_bad_question_is_refused(store: SqliteStore) -> None:
    """The parameter is named."""
    queries = ["page=0", "per_page=101", "sort=hash", "status=gone", "project_id=x", "agent_id=", "name=a&name=b"]
    async with desks(store) as (ann, admin, _):
        answers = {query.partition("=")[0]: await ann.get(f"/api-tokens?{query}") for query in queries}
        answers["user_id"] = await admin.get("/api-tokens?user_id=whatever")

        assert {answer.status for answer in answers.values()} == {400}
        assert all(set(answer.fields) == {name} for name, answer in answers.items())


async def test_what_is_not_there_is_not_found(store: SqliteStore) -> None:
    """Whatever its id looks like, by whatever route."""
    async with desks(store) as (ann, _, _):
        for token_id in ("-1", "0", "abc", "99999", NOBODY, "9223372036854775807", "%00"):
            answers = [
                await ann.get(f"/api-tokens/{token_id}"),
                await put(ann, token_id, {"name": "x"}),
                await rotate(ann, token_id),
                await revoke(ann, token_id),
            ]

            assert [(each.status, each.code) for each in answers] == [(404, "TOKEN_NOT_FOUND")] * 4, token_id


async def test_anothers_token_is_forbidden(store: SqliteStore) -> None:
    """Even with a body that would not do; an admin sees it, and may change and end but not rotate it."""
    async with desks(store) as (ann, admin, vera):
        token = await made(ann)
        forbidden = [
            await vera.get(f"/api-tokens/{token['id']}"),
            await revoke(vera, token["id"], {"reason": 7}),
            await rotate(admin, token["id"], {"expires_at": 7}),
            await put(vera, token["id"], {"name": 7}),
        ]
        seen = await admin.get(f"/api-tokens/{token['id']}")
        changed = await put(admin, token["id"], {"scopes": ["agents:read"]})
        widened = await put(admin, token["id"], {"scopes": ["*"]})
        ended = await revoke(admin, token["id"])

        assert [(each.status, each.code) for each in forbidden] == [(403, "FORBIDDEN")] * 4
        assert [each.status for each in (seen, changed, ended)] == [200] * 3
        assert (widened.status, widened.code) == (403, "FORBIDDEN")
        assert (await admin.get(f"/api-tokens/{token['id']}")).body["revoked_by"] != token["user_id"]


# --- changed -----------------------------------------------------------------


async def test_a_change_is_partial_and_null_clears(store: SqliteStore) -> None:
    """What is not given stays; what cannot be empty cannot be cleared."""
    async with desks(store) as (ann, _, _):
        token = await made(ann, description="d", expires_at=LATER, daily_limit_usd=1, rate_limit_rps=3)
        changed = await put(
            ann, token["id"], {"description": None, "expires_at": None, "daily_limit_usd": None, "cost_cap_usd": 2}
        )
        null = await put(ann, token["id"], {"name": None, "scopes": None, "is_active": None})
        both = await put(ann, token["id"], {"name": "", "daily_limit_usd": "NaN", "expires_at": "2000-01-01T00:00:00Z"})

        assert set(changed.body) == RECORD
        kept = {"updated_at", "description", "expires_at", "daily_limit_usd", "cost_cap_usd"}
        assert all(changed.body[name] == token[name] for name in RECORD - kept)
        assert [changed.body[name] for name in ("description", "expires_at", "daily_limit_usd")] == [None] * 3
        assert changed.body["cost_cap_usd"] == 2
        assert null.fields == dict.fromkeys(("name", "scopes", "is_active"), "may not be null")
        assert set(both.fields) == {"name", "daily_limit_usd", "expires_at"}


async def test_a_change_of_nothing_or_of_something_else_is_refused(store: SqliteStore) -> None:
    """A body without fields, with a field that never changes, of an ended token."""
    async with desks(store) as (ann, _, _):
        token, dead, old = await made(ann), await made(ann), await made(ann)
        await revoke(ann, dead["id"])
        await rotate(ann, old["id"])
        answers = [
            await put(ann, token["id"], {}),
            await put(ann, token["id"], {"agent_id": None}),
            await put(ann, token["id"], b""),
            await put(ann, dead["id"], {"name": "x"}),
            await put(ann, old["id"], {"name": "x"}),
        ]

        assert [(each.status, each.code) for each in answers] == [
            (400, "NO_FIELDS_PROVIDED"), (400, "VALIDATION_ERROR"), (400, "MALFORMED_JSON"),
            (409, "TOKEN_ALREADY_REVOKED"), (409, "TOKEN_ROTATED"),
        ]  # fmt: skip


async def test_a_token_is_switched_off_and_on(store: SqliteStore) -> None:
    """The next request knows."""
    async with desks(store) as (ann, _, _):
        token = await made(ann)
        off = await put(ann, token["id"], {"is_active": False})
        refused = await code_of_use(ann, token["token"])
        on = await put(ann, token["id"], {"is_active": True})

        assert (off.body["status"], off.body["is_active"]) == ("inactive", False)
        assert refused == "AUTH_TOKEN_REVOKED"
        assert (on.body["status"], on.body["is_active"]) == ("active", True)
        assert await code_of_use(ann, token["token"]) is None


# --- rotated and revoked -----------------------------------------------------


async def test_a_rotation_swaps_the_value_at_once(store: SqliteStore) -> None:
    """With an empty body, with or without a content type; the record is new and names the old one."""
    async with desks(store) as (ann, _, _):
        old = await made(ann, description="d", daily_request_limit=50)
        answer = await rotate(ann, old["id"], b"")
        new = answer.body
        ended = await ann.get(f"/api-tokens/{old['id']}")
        again = await rotate(ann, old["id"])
        later = await rotate(ann, new["id"], {"expires_at": LATER})

        assert (answer.status, set(new)) == (200, RECORD | {"token", "message"})
        assert new["id"] != old["id"]
        assert (new["rotated_from"], new["description"], new["daily_request_limit"]) == (old["id"], "d", 50)
        assert (ended.body["status"], ended.body["replaced_by"]) == ("rotated", new["id"])
        assert again.status == 404
        assert later.body["expires_at"] is not None
        assert await code_of_use(ann, old["token"]) == "AUTH_TOKEN_REVOKED"
        assert await code_of_use(ann, later.body["token"]) is None


async def test_a_revocation_is_for_good(store: SqliteStore) -> None:
    """With a reason or without; a second one tells when the first was. Any role may end its own."""
    async with desks(store) as (ann, _, _):
        token, other = await made(ann), await made(ann)
        answer = await revoke(ann, token["id"], {"reason": "leaked"})
        again = await revoke(ann, token["id"])
        plain = await revoke(ann, other["id"])
        bad = await revoke(ann, (await made(ann))["id"], {"reason": ""})

        assert answer.status == plain.status == 200
        assert set(answer.body) == {"id", "name", "revoked", "revoked_at", "message"}
        assert (answer.body["id"], answer.body["name"], answer.body["revoked"]) == (token["id"], "ci", True)
        assert (again.status, again.code) == (409, "TOKEN_ALREADY_REVOKED")
        assert again.body["details"]["revoked_at"] == answer.body["revoked_at"]
        assert set(bad.fields) == {"reason"}
        assert await code_of_use(ann, token["token"]) == "AUTH_TOKEN_REVOKED"
        seen = await ann.get(f"/api-tokens/{token['id']}")
        assert (seen.body["status"], seen.body["is_active"]) == ("revoked", False)


async def test_a_token_may_end_itself(store: SqliteStore) -> None:
    """With the scope for it."""
    async with desks(store) as (ann, _, _):
        able, unable = await made(ann, scopes=["tokens:write"]), await made(ann, scopes=["tokens:read"])
        refused = await revoke(ann.bearing(unable["token"]), able["id"])
        ended = await revoke(ann.bearing(able["token"]), able["id"])

        assert (refused.status, refused.code) == (403, "INSUFFICIENT_SCOPE")
        assert refused.body["details"]["required"] == "tokens:write"
        assert ended.status == 200


async def test_of_rivals_exactly_one_wins(tmp_path: Path) -> None:
    """Two rotations, two revocations, one of each; and no crowd makes more tokens than allowed."""
    with SqliteStore(tmp_path / "ironcage.db") as store:
        async with desks(store, most=5) as (ann, admin, _):
            turned, dead, torn = await made(ann), await made(ann), await made(ann)
            rotations = await asyncio.gather(*(rotate(ann, turned["id"]) for _ in range(2)))
            revocations = await asyncio.gather(*(revoke(ann, dead["id"]) for _ in range(2)))
            mixed = await asyncio.gather(rotate(ann, torn["id"]), revoke(ann, torn["id"]))
            crowd = await asyncio.gather(*(admin.post("/api-tokens", {"name": "x"}) for _ in range(9)))

    assert sorted(each.status for each in rotations) == [200, 404]
    assert sorted(each.status for each in revocations) == [200, 409]
    assert sorted(each.status for each in mixed) in ([200, 404], [200, 409])
    assert sorted(each.status for each in crowd) == [*[201] * 5, *[429] * 4]


# --- limits of use -----------------------------------------------------------


async def test_the_request_after_the_last_one_of_a_day_is_refused(store: SqliteStore) -> None:
    """It is told which quota, how much, and when it starts afresh; it counts for nothing."""
    async with desks(store) as (ann, _, _):
        token = await made(ann, daily_request_limit=2)
        user = ann.bearing(token["token"])
        answers = [await user.get("/agents") for _ in range(4)]
        seen = await ann.get(f"/api-tokens/{token['id']}")
        await put(ann, token["id"], {"daily_request_limit": 3})
        more = [await user.get("/agents") for _ in range(2)]

        assert [each.status for each in answers] == [200, 200, 429, 429]
        details = answers[-1].body["details"]
        assert (answers[-1].code, details["quota"], details["limit"], details["used"]) == (
            "QUOTA_EXCEEDED", "daily_request_limit", 2, 2,
        )  # fmt: skip
        assert details["resets_at"].endswith("T00:00:00.000Z")
        assert 1 <= int(answers[-1].headers["retry-after"]) <= 86_400
        assert seen.body["usage_stats"]["requests_today"] == 2
        assert [each.status for each in more] == [200, 429]


async def test_a_quota_outlives_a_rotation(store: SqliteStore) -> None:
    """A new value is no new day."""
    async with desks(store) as (ann, _, _):
        token = await made(ann, daily_request_limit=1)
        await ann.bearing(token["token"]).get("/agents")
        new = await rotate(ann, token["id"])

        assert await code_of_use(ann, new.body["token"]) == "QUOTA_EXCEEDED"


async def test_cost_stops_a_token(store: SqliteStore) -> None:
    """For the day or for its life, told in USD."""
    async with desks(store) as (ann, _, _):
        daily, capped = await made(ann, daily_limit_usd=1.5), await made(ann, cost_cap_usd="1.5")

        def spend(uow: UnitOfWork) -> None:
            for token in (daily, capped):
                uow.token_usage.add_calls(token["id"], uow.now, tokens=0, cost=2_000_000)

        store.write(spend)
        for_the_day = await ann.bearing(daily["token"]).get("/agents")
        for_life = await ann.bearing(capped["token"]).get("/agents")

        assert (for_the_day.status, for_the_day.code) == (429, "QUOTA_EXCEEDED")
        assert [for_the_day.body["details"][name] for name in ("quota", "limit", "used")] == [
            "daily_limit_usd", Decimal("1.5"), 2,
        ]  # fmt: skip
        assert (for_life.status, for_life.code) == (403, "BUDGET_EXCEEDED")
        assert for_life.body["details"] == {"spent": 2, "limit": Decimal("1.5")}


async def test_a_token_makes_so_many_requests_a_second(store: SqliteStore) -> None:
    """The same token in whatever carrier, and no other."""
    async with desks(store) as (ann, _, _):
        token, other = await made(ann, rate_limit_rps=1), await made(ann, rate_limit_rps=1)
        first = await ann.bearing(token["token"]).get("/agents")
        second = await replace(ann, headers={"X-API-Token": token["token"]}).get("/agents")

        assert first.status == 200
        assert (second.status, second.code) == (429, "RATE_LIMIT_EXCEEDED")
        assert second.headers["retry-after"] == "1"
        assert (second.body["details"]["limit"], second.body["details"]["window_seconds"]) == (1, 1)
        assert await code_of_use(ann, other["token"]) is None


async def test_other_methods_are_not_offered(store: SqliteStore) -> None:
    """405, and which are."""
    async with desks(store) as (ann, _, _):
        for method, path in (("PATCH", f"/{NOBODY}"), ("PUT", ""), ("DELETE", ""), ("PUT", f"/{NOBODY}/rotate")):
            answer = await ann.send(method, f"/api-tokens{path}", {})

            assert (answer.status, bool(answer.headers["allow"])) == (405, True)


async def test_an_admin_is_told_what_is_no_time_of_another_users_token(store: SqliteStore) -> None:
    """Whether it would live longer cannot be told; that it is no time can."""
    async with desks(store) as (ann, admin, _):
        token = await made(ann, expires_at=LATER)
        answer = await admin.send("PUT", f"/api-tokens/{token['id']}", {"expires_at": ""})

    assert (answer.status, list(answer.fields)) == (400, ["expires_at"])
