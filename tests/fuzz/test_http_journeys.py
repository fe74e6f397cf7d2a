"""Journeys along the links of the description: what one answer names, the next requests are about.

Whatever was made is there for who made it, and what was deleted is gone.
"""

from collections import Counter
from functools import cache
from typing import Any, Final

import pytest
from schemathesis.specs.openapi.schemas import OpenApiSchema

from tests.fuzz.cases import Case, Operation, cases, every_operation
from tests.fuzz.surface import Surface, described, route_of, served
from tests.fuzz.test_http_surface import may_never, problems_of, sent

DRAWN: Final = 1
FORGOTTEN: Final = {"agent_id", "provider_id", "project_id", "limit_id"}
"""What is not shown any more once it is deleted; of other things it is shown that they have ended."""

ROTATED: Final = "post_api_tokens_token_id_rotate"
"""What puts another thing in the place of the one that is followed."""

# The server runs beside the strategies, and makes ids meanwhile.
pytestmark = pytest.mark.filterwarnings("ignore:Do not use the `random` module inside strategies")


def links(operation: Operation) -> dict[str, Any]:
    """Return the links of what an operation makes, to what deletes it last."""
    responses = operation.definition.raw["responses"].values()
    linked = (each for response in responses for each in response.get("links", {}).items())
    found = {name: link for name, link in linked if name != ROTATED}
    return dict(sorted(found.items(), key=lambda each: (each[0].startswith("delete"), -len(each[0]))))


def following(case: Case, link: dict[str, Any], made: dict[str, Any]) -> str:
    """Let a request be about what was made, and return by which name."""
    ((name, source),) = (link.get("parameters") or link["requestBody"]).items()
    value = made[source.rpartition("/")[2]]
    if "parameters" in link:
        case.path_parameters = {**case.path_parameters, name: value}
    else:
        case.body = {**case.body, name: value} if isinstance(case.body, dict) else {name: value}
    return str(name)


def fitting(schema: OpenApiSchema, operation: Operation) -> list[Case]:
    """Return some requests that fit the description."""
    found = cases(schema, operation, step=20, drawn=DRAWN)
    return [case for case in found if case.meta is not None and case.meta.generation.mode.is_positive]


def may(role: str, operation: Operation) -> bool:
    """Tell whether a role may do an operation at all."""
    return not may_never(role, route_of(operation.method, operation.path))


def follow(surface: Surface, role: str, case: Case, link: dict[str, Any], made: dict[str, Any]) -> bool:
    """Follow one link; return whether the request was accepted."""
    route = route_of(case.operation.method, case.operation.path)
    name = following(case, link, made)
    response = sent(surface, case, role, surface.credential(role, route))
    assert not (found := problems_of(case, response, role, route)), found
    code = "" if response.status_code < 400 else response.json()["code"]
    assert not code.endswith(f"{name.removesuffix('_id').upper()}_NOT_FOUND"), f"{route.method} {route.path}"
    if route.method == "DELETE" and route.path.endswith(f"{{{name}}}") and not code and name in FORGOTTEN:
        url = surface.url + case.formatted_path
        assert surface.session.get(url, headers=surface.headers[role]).status_code == 404
    return response.status_code < 300


@pytest.mark.parametrize("role", ["admin", "user", "agent"])
def test_what_was_made_is_there_until_it_is_deleted(role: str) -> None:
    """And every answer on the way is one that the description has."""
    followed: Counter[str] = Counter()
    with served() as surface:
        schema = described(surface.url)
        operations = {each.definition.raw["operationId"]: each for each in every_operation(schema)}
        usual = cache(lambda name: fitting(schema, operations[name]))
        for name, maker in operations.items():
            targets = {each: link for each, link in links(maker).items() if may(role, operations[each])}
            for case in usual(name) if targets and may(role, maker) else ():
                answer = sent(surface, case, role, surface.headers[role])
                if answer.status_code not in {200, 201} or "_id" not in str(made := answer.json()):
                    continue
                surface.see(answer.content)
                for target, link in targets.items():
                    followed[f"{name} {target}"] += follow(surface, role, usual(target)[0], link, made)

    assert sum(followed.values()) > len(followed) / 2, followed
