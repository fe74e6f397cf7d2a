"""Keys in the clear over HTTP: who gets one, and what each caller is refused with, in order."""

import logging
import secrets
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

from ironcage_core.domain.ids import MASTER_PROJECT
from ironcage_core.services.ic_token_changes import revoke_ic_token
from ironcage_core.services.provider_keys import add_provider_key
from ironcage_storage.sealed.vault import AesGcmVault, MasterKey
from tests.support.http_agents import Stage, shown_secrets, stage
from tests.support.web import Answer, Caller
from tests.support.world import ADMIN, USD, TestAgent, cap_month

SECRET = "sk-released-0123456789abcdef"
BASE_URL = "https://proxy.test/v1"
AGENTS_PATH = "/agents/provider-key"
Headers = dict[str, str]


@pytest.fixture(scope="module")
def world() -> Iterator[Stage]:
    with stage() as made:
        made.post("/projects", {"name": "Search"}, user="admin")
        yield made


def add_key(world: Stage, provider: str = "openai", **fields: Any) -> str:  # noqa: ANN401 - as the use case takes them
    fields = {"api_key": SECRET, "vault": world.vault, **fields}
    return world.store.write(partial(add_provider_key, provider=provider, actor=ADMIN, **fields)).id


def new_project(world: Stage, *key_ids: str) -> str:
    """Make a project with these keys, the last of which is assigned last."""
    made = world.post("/projects", {"name": secrets.token_hex(8)}, user="admin")
    project_id: str = made.body["id"]
    for key_id in key_ids:
        world.clock.pass_s(0.001)
        answer = world.post(f"/projects/{project_id}/provider", {"provider_key_id": key_id}, user="admin")
        assert answer.status == 200, answer.raw
    return project_id


def program(world: Stage, project_id: str | None, *, user: str = "", **fields: object) -> Headers:
    """Return the credential of a program of a user, who may see the project and is new unless named."""
    name = user or f"owner-{secrets.token_hex(6)}"
    if not user:
        owner_id = world.add_user(name)
        agent = world.agent(owner_id=owner_id)
        if project_id is not None:
            world.store.write(lambda uow: uow.agents.put(moved(uow.agents.find(agent.id), project_id=project_id)))
    made = world.post("/api-tokens", {"name": "program", "project_id": project_id, **fields}, user=name)
    assert made.status == 201, made.raw
    return {"X-API-Token": made.body["token"]}


def moved(row: Any, **fields: object) -> Any:  # noqa: ANN401 - any row
    return row._replace(**fields)


def change_key(world: Stage, key_id: str, **fields: object) -> None:
    world.store.write(lambda uow: uow.provider_keys.put(moved(uow.provider_keys.find(key_id), **fields)))


def get(world: Stage, headers: Headers, path: str = "/keys") -> Answer:
    answer = world.get(path, headers=headers)
    assert answer.status == 200 or SECRET not in answer.raw.decode()
    return answer


def refusal(answer: Answer) -> tuple[int, str]:
    assert answer.status >= 400, "a key was released"
    return answer.status, answer.code


def releases(world: Stage) -> int:
    return world.store.read(lambda uow: sum(row.operation == "CREDENTIAL_ACCESSED" for row in uow.audit.rows()))


# --- GET /keys ---------------------------------------------------------------


def test_a_program_gets_its_projects_key_and_nothing_more(world: Stage) -> None:
    """In either carrier; not to be stored anywhere; without a URL where there is none."""
    plain, proxied = add_key(world), add_key(world, "anthropic", base_url=BASE_URL)
    project = new_project(world, plain, proxied)
    headers = program(world, project)
    before = releases(world)

    latest = get(world, headers)
    asked = get(world, {"Authorization": f"Bearer {headers['X-API-Token']}"}, "/keys?provider=openai")

    assert latest.body == {"provider": "anthropic", "api_key": SECRET, "base_url": BASE_URL}
    assert asked.body == {"provider": "openai", "api_key": SECRET}
    assert {latest.headers["cache-control"], asked.headers["cache-control"]} == {"no-store"}
    assert (latest.headers["x-ratelimit-limit"], latest.headers["x-ratelimit-remaining"]) == ("10", "9")
    assert releases(world) == before + 2


def test_only_a_users_token_opens_it(world: Stage) -> None:
    """A session is of the wrong kind, an agent's credential forbidden; who is not known is unknown."""
    agent = world.agent()
    project = new_project(world, add_key(world))
    bound = world.post("/api-tokens", {"name": "bound", "agent_id": agent.id}, user="ann").body["token"]
    session = {"Authorization": f"Bearer {world.session('ann')}"}
    good = program(world, project)
    off = program(world, project, user="admin")
    token_id = world.get("/api-tokens?name=program&sort=-created_at", user="admin").body["data"][0]["id"]
    world.send("DELETE", f"/api-tokens/{token_id}", user="admin")

    for headers, expected in (
        ({}, (401, "AUTH_MISSING_TOKEN")),
        ({"Authorization": "Basic YTpi"}, (401, "AUTH_MISSING_TOKEN")),
        ({"X-API-Token": ""}, (401, "AUTH_MISSING_TOKEN")),
        ({"X-API-Token": "at_short"}, (401, "AUTH_INVALID_TOKEN")),
        ({"X-API-Token": "at_" + "x" * 43}, (401, "AUTH_INVALID_TOKEN")),
        (off, (401, "AUTH_TOKEN_REVOKED")),
        (session, (401, "AUTH_WRONG_TOKEN_TYPE")),
        ({"Authorization": "Bearer rt_x"}, (401, "AUTH_WRONG_TOKEN_TYPE")),
        ({**session, "X-IC-Token": agent.token}, (401, "AUTH_WRONG_TOKEN_TYPE")),
        ({"X-API-Token": bound}, (403, "AGENT_TOKEN_FORBIDDEN")),
        ({"X-IC-Token": agent.token}, (403, "AGENT_TOKEN_FORBIDDEN")),
        ({"X-IC-Token": "x.y.z"}, (401, "AUTH_INVALID_TOKEN")),
    ):
        assert refusal(get(world, headers)) == expected, headers
    assert get(world, {**session, **good}).status == 200


def test_role_and_scope_are_needed(world: Stage) -> None:
    """A viewer may not, whatever the token; a user may with a token that has the scope."""
    project = new_project(world, add_key(world))
    narrow = program(world, project, scopes=["agents:read"])
    name = f"sinks-{secrets.token_hex(4)}"
    user_id = world.add_user(name)
    sinks = program(world, MASTER_PROJECT, user=name)
    world.send("PUT", f"/users/{user_id}/role", {"role": "viewer"}, user="admin")

    assert refusal(get(world, narrow)) == (403, "INSUFFICIENT_SCOPE")
    assert refusal(get(world, sinks)) == (403, "FORBIDDEN")
    assert get(world, program(world, project, scopes=["keys:read"])).status == 200


def test_a_credential_that_may_not_never_uses_the_limit_up(world: Stage) -> None:
    """It is told the same an eleventh time, and the user's programs still get keys."""
    agent = world.agent()
    bound = world.post("/api-tokens", {"name": "b", "agent_id": agent.id}, user="ann").body["token"]
    project = new_project(world, add_key(world))
    name = f"owner-{secrets.token_hex(4)}"
    world.add_user(name)
    admins = program(world, project, user="admin")
    narrow = program(world, project, user="admin", scopes=["agents:read"])

    for headers in ({"X-API-Token": bound}, {"X-IC-Token": agent.token}, narrow):
        assert {refusal(get(world, headers))[0] for _ in range(12)} == {403}
    assert get(world, admins).headers["x-ratelimit-remaining"] == "9"


def test_ten_a_minute_for_each_user_and_project(world: Stage) -> None:
    """Failing calls count, refused ones do not; tokens of one project share, other users and projects do not."""
    name = f"busy-{secrets.token_hex(4)}"
    owner_id = world.add_user(name)
    projects = [new_project(world, add_key(world)) for _ in range(2)]
    for project in projects:
        agent = world.agent(owner_id=owner_id)
        put = partial(lambda uow, agent, project: uow.agents.put(moved(uow.agents.find(agent.id), project_id=project)))
        world.store.write(partial(put, agent=agent, project=project))
    first, second, elsewhere = (program(world, projects[n], user=name) for n in (0, 0, 1))
    nowhere = program(world, None, user=name)

    answers = [get(world, first, "/keys?provider=acme") for _ in range(5)] + [get(world, second) for _ in range(7)]

    assert [each.status for each in answers] == [400] * 5 + [200] * 5 + [429] * 2
    assert answers[-1].code == "RATE_LIMIT_EXCEEDED"
    assert 1 <= int(answers[-1].headers["retry-after"]) <= 6
    assert get(world, elsewhere).status == 200
    assert refusal(get(world, nowhere)) == (400, "TOKEN_NOT_IN_PROJECT")
    assert get(world, program(world, projects[0])).status == 200


def test_what_is_wrong_is_told_in_order(world: Stage) -> None:
    """No project, no key, a disabled one, no money; the first that holds answers."""
    key_id = add_key(world)
    project = new_project(world, key_id)
    headers = program(world, project)
    owner_id = world.get("/auth/verify", headers=headers).body["user"]["id"]
    spender = world.agent(owner_id=owner_id)
    spender.handshake(USD)
    world.store.write(lambda uow: cap_month(uow, owner_id, USD))

    broke = get(world, headers)
    change_key(world, key_id, is_enabled=0)

    assert refusal(get(world, headers)) == (403, "PROVIDER_KEY_DISABLED")
    assert refusal(get(world, headers, "/keys?provider=anthropic")) == (404, "NO_PROVIDER_KEY")
    bad = get(world, headers, "/keys?provider=acme&provider=openai")
    assert (refusal(bad), set(bad.fields)) == ((400, "VALIDATION_ERROR"), {"provider"})
    assert refusal(get(world, program(world, None))) == (400, "TOKEN_NOT_IN_PROJECT")
    assert refusal(broke) == (403, "BUDGET_EXCEEDED")
    assert (broke.body["details"]["scope"], broke.body["details"]["limit"]) == ("user_month", 1)


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
def test_keys_are_only_got(world: Stage, method: str) -> None:
    """Every other method is refused before anybody is asked who it is."""
    assert refusal(world.send(method, "/keys", {})) == (405, "METHOD_NOT_ALLOWED")


# --- POST /agents/provider-key -----------------------------------------------


def agent_with(world: Stage, *key_ids: str, budget: int = 100 * USD) -> TestAgent:
    agent = world.agent(budget)
    world.store.write(lambda uow: uow.provider_keys.assign(agent.id, key_ids))
    return agent


def ask(world: Stage, agent: TestAgent, body: object = None, **options: Any) -> Answer:  # noqa: ANN401 - as send takes them
    answer = world.post(AGENTS_PATH, body, **{"token": agent.token, **options})
    assert answer.status == 200 or SECRET not in answer.raw.decode()
    return answer


def test_an_agent_gets_its_own_key_and_nothing_more(world: Stage) -> None:
    """By its token in any carrier; the key that the body might name is not looked at."""
    agent = agent_with(world, add_key(world), add_key(world, "anthropic", base_url=BASE_URL))
    before = releases(world)

    first = ask(world, agent)
    of_kind = ask(world, agent, {"provider": "anthropic", "provider_key_id": world.key_id})
    by_body = world.post(AGENTS_PATH, {"ic_token": agent.token, "provider": None})
    by_bearer = world.post(AGENTS_PATH, headers={"Authorization": f"Bearer {agent.token}"})
    beside = ask(world, agent, user="ann")

    assert first.body == {"provider_key": SECRET, "provider": "openai"}
    assert of_kind.body == {"provider_key": SECRET, "provider": "anthropic", "base_url": BASE_URL}
    assert by_body.body == by_bearer.body == beside.body == first.body
    assert first.headers["cache-control"] == "no-store"
    assert (first.headers["x-ratelimit-limit"], first.headers["x-ratelimit-remaining"]) == ("10", "9")
    assert releases(world) == before + 5


def test_who_asks_for_an_agents_key_is_judged_in_order(world: Stage) -> None:
    """Syntax, shape of the token, one token, a living one; then the rest of the body."""
    agent = agent_with(world, add_key(world))
    dead = agent_with(world, add_key(world))
    world.store.write(lambda uow: revoke_ic_token(uow, dead.id, actor=ADMIN))
    bound = world.post("/api-tokens", {"name": "b", "agent_id": agent.id}, user="ann").body["token"]
    bare = program(world, None)["X-API-Token"]
    session = world.session("ann")

    def sent(body: object = None, **options: Any) -> tuple[int, str]:  # noqa: ANN401 - as send takes them
        return refusal(world.post(AGENTS_PATH, body, **options))

    assert sent(b"{", token=agent.token) == (400, "MALFORMED_JSON")
    assert sent(b"{}", headers={"Content-Type": "text/plain"}) == (415, "UNSUPPORTED_MEDIA_TYPE")
    for bad in ("", "  ", 5, "x" * 2001):
        assert sent({"ic_token": bad}) == (400, "VALIDATION_ERROR")
    assert sent({"ic_token": dead.token}, token=agent.token) == (400, "AMBIGUOUS_CREDENTIALS")
    for nobody in (None, {"ic_token": None}, {"provider": 5}):
        assert sent(nobody) == (401, "AUTH_MISSING_TOKEN")
    assert sent(user="ann") == (401, "AUTH_WRONG_TOKEN_TYPE")
    assert sent(headers={"X-API-Token": bare}) == (401, "AUTH_WRONG_TOKEN_TYPE")
    assert sent(headers={"X-API-Token": bound}) == (403, "AGENT_TOKEN_FORBIDDEN")
    for wrong in (session, bare, "x.y.z", dead.token):
        assert sent({"ic_token": wrong, "provider": 5}) == (401, "AUTH_INVALID_TOKEN")
        assert sent(token=wrong) == (401, "AUTH_INVALID_TOKEN")
    for provider in (5, "", "acme", "OpenAI"):
        assert sent({"provider": provider}, token=agent.token) == (400, "VALIDATION_ERROR")


def test_ten_keys_a_minute_for_an_agent_that_may_have_one(world: Stage) -> None:
    """Calls that are refused before count nothing; those for want of money do, but are told of the limit first."""
    key_id = add_key(world)
    agent, other = agent_with(world, key_id), agent_with(world, key_id)
    broke = agent_with(world, key_id, budget=USD)
    broke.report(broke.handshake(USD).lease.id, "one", USD)
    for body in ({"provider": "acme"}, {"provider": "anthropic"}):
        assert {ask(world, agent, body).status for _ in range(11)} <= {400, 403}

    statuses = [ask(world, agent).status for _ in range(12)]
    codes = [refusal(ask(world, broke))[1] for _ in range(11)]

    assert statuses == [200] * 10 + [429] * 2
    assert codes == ["BUDGET_EXCEEDED"] * 10 + ["RATE_LIMIT_EXCEEDED"]
    assert ask(world, other).status == 200
    assert refusal(ask(world, agent, {"provider": "anthropic"})) == (403, "NO_PROVIDER_ASSIGNED")


def test_an_agent_that_may_have_no_money_gets_no_key(world: Stage) -> None:
    """Held back before its keys are looked at; the reason is told."""
    agent = agent_with(world)
    world.store.write(lambda uow: uow.agents.put(moved(uow.agents.find(agent.id), status="inactive")))

    held = ask(world, agent)
    world.store.write(lambda uow: uow.agents.put(moved(uow.agents.find(agent.id), status="active")))

    assert refusal(held) == (403, "AGENT_INACTIVE")
    assert held.body["details"] == {"reason": "inactive"}
    assert refusal(ask(world, agent)) == (403, "NO_PROVIDER_ASSIGNED")


@pytest.mark.parametrize("method", ["GET", "PUT", "PATCH", "DELETE"])
def test_the_path_is_never_an_agents_id(world: Stage, method: str) -> None:
    """It takes one method; nobody is asked who it is, and no agent is looked for."""
    answer = world.send(method, AGENTS_PATH, user="admin")

    assert refusal(answer) == (405, "METHOD_NOT_ALLOWED")
    assert set(answer.headers["allow"].split(", ")) == {"OPTIONS", "POST"}


# --- cryptography ------------------------------------------------------------


def test_without_a_master_key_none_is_released() -> None:
    """503 for both, the last of all refusals."""
    with stage(has_master_key=False) as world:
        key_id = add_key(world)
        agent = agent_with(world, key_id)
        headers = program(world, new_project(world, key_id))

        answers = [get(world, headers), ask(world, agent)]
        change_key(world, key_id, is_enabled=0)

        assert [refusal(each) for each in answers] == [(503, "CRYPTO_UNAVAILABLE")] * 2
        assert refusal(get(world, headers)) == (403, "PROVIDER_KEY_DISABLED")
        assert releases(world) == 0


def test_a_key_that_does_not_decrypt_is_named_in_the_log_only(world: Stage, caplog: pytest.LogCaptureFixture) -> None:
    """The caller learns nothing; the operator which key it is."""
    key_id = add_key(world, vault=AesGcmVault(MasterKey.generate()))
    agent = agent_with(world, key_id)
    program_headers = program(world, new_project(world, key_id))
    before = releases(world)

    async def call(headers: Headers, method: str, path: str) -> Answer:
        return await Caller(world._client, world.store, headers).send(method, path)

    with caplog.at_level(logging.ERROR):
        answers = [
            world._runner.run(call(program_headers, "GET", "/keys")),
            world._runner.run(call({"X-IC-Token": agent.token}, "POST", AGENTS_PATH)),
        ]

    told = {"error": "Internal server error", "code": "INTERNAL_ERROR", "details": {}}
    assert [(each.status, each.body) for each in answers] == [(500, told)] * 2
    assert caplog.text.count(f"The secret of {key_id} does not decrypt") >= 2
    assert not shown_secrets(caplog.records, {SECRET, *world.known_secrets})
    assert releases(world) == before
