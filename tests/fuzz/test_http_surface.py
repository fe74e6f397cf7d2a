"""Everything that the description allows, and what it does not, sent to every route by callers of every role.

No answer is a fault, each is one that the description has, and every refusal has the one shape and a code that is
documented for its route. Whoever may not do a thing never does it.
"""

from collections import Counter
from typing import Any, Final

import pytest
from hypothesis import settings
from schemathesis import GenerationMode
from schemathesis.core import NOT_SET
from schemathesis.core.failures import AcceptedNegativeData, Failure, FailureGroup
from schemathesis.core.transport import Response
from schemathesis.openapi.checks import RejectedPositiveData
from schemathesis.specs.openapi.checks import ignored_auth

from ironcage_http.openapi import BASE, codes_of
from ironcage_http.routing import Route
from tests.fuzz.beyond import IGNORED, is_beyond_schemas
from tests.fuzz.cases import Case, cases, operations
from tests.fuzz.effort import LONG
from tests.fuzz.surface import ROLES, Surface, described, route_of, served

PARTS: Final = 10
STEP: Final = 1 if settings.get_current_profile_name() == LONG else 20
DRAWN: Final = 1

# The server that is fuzzed runs beside the strategies, and makes ids meanwhile.
pytestmark = pytest.mark.filterwarnings("ignore:Do not use the `random` module inside strategies")

ANYWHERE: Final = {"NOT_FOUND", "METHOD_NOT_ALLOWED"}
"""The codes of what no route answers."""

EXCLUDED: Final = {
    ignored_auth: "sends each request again without a credential: the role `nobody` does so here, for all routes",
}
"""The checks of schemathesis that are left out, each with its reason; all others are made of every answer."""


def is_beyond(answer: dict[str, Any]) -> bool:
    """Tell whether a refusal is one that no schema could have announced."""
    if answer["code"] not in {"VALIDATION_ERROR", "MALFORMED_JSON"}:
        return True  # a rule with a name of its own
    if "results" in answer["details"]:
        return True  # a batch, of which each item is judged alone
    told = [f"{name}: {text}" for name, text in answer["details"].get("fields", {}).items()]
    return bool(told) and all(map(is_beyond_schemas, told))


def faults(case: Case, response: Response, headers: dict[str, str]) -> list[str]:
    """Return what is wrong with an answer by the checks of schemathesis."""
    try:
        case.validate_response(response, headers=headers, excluded_checks=list(EXCLUDED))
    except FailureGroup as group:
        found = list(group.exceptions)
    except Failure as failure:
        found = [failure]
    else:
        return []
    return [f"{type(each).__name__}: {each}" for each in found if not is_right(each, case, response)]


def is_right(failure: Failure, case: Case, response: Response) -> bool:
    """Tell whether the server judged rightly what schemathesis finds judged wrongly."""
    if isinstance(failure, RejectedPositiveData):
        return is_beyond(response.json())
    ignored = IGNORED.get(f"{case.operation.method.upper()} {case.operation.path.removeprefix(BASE)}")
    return isinstance(failure, AcceptedNegativeData) and ignored in (case.query or {})


def faults_of_refusal(route: Route, response: Response) -> list[str]:
    """Return what is wrong with a refusal: its shape, its code, or what belongs beside it."""
    status = response.status_code
    if status < 400:
        return []
    answer = response.json()
    if set(answer) != {"error", "code", "details"} or not answer["error"] or not isinstance(answer["details"], dict):
        return [f"another shape: {answer}"]
    code, found = answer["code"], []
    if code not in ANYWHERE and codes_of(route).get(code) != status:
        found.append(f"{status} {code} is not documented")
    if status == 401 and response.headers.get("www-authenticate") != ["Bearer"]:
        found.append("no WWW-Authenticate")
    if code in {"RATE_LIMIT_EXCEEDED", "SERVICE_UNAVAILABLE"} and "retry-after" not in response.headers:
        found.append("no Retry-After")
    return found


def may_never(role: str, route: Route) -> bool:
    """Tell whether a role is never to succeed with a route, by the table of permissions."""
    rule = route.rule
    if rule.is_public:
        return False
    if role == "agent":
        return rule.ic == "no"
    if role == "token":
        return not rule.takes_tokens or rule.user == "none"
    return rule.ic == "only" or not rule.takes_sessions or rule.reach(role) == "none"


NEVER_DONE: Final = {
    "POST /auth/login": "nobody guesses a password",
    "POST /auth/refresh": "nor a token",
    "DELETE /budget/reserve/{request_id}": "nor how a call was named",
}
"""What is never accepted here, and why."""

FEW: Final = 2
"""Of how many other operations of a part none may be accepted: of more, and the run would prove little."""


def sent(surface: Surface, case: Case, role: str, headers: dict[str, str]) -> Response:
    """Send a request as a role."""
    if case.meta is None or case.meta.generation.mode == GenerationMode.POSITIVE:
        if case.body is not NOT_SET:
            case.body = surface.brought_home(case.body)
        if isinstance(case.body, dict) and role != "nobody":
            case.body.pop("ic_token", None)  # a second credential, which is refused
        case.query = surface.brought_home(case.query)
    if (path := surface.brought_home(case.path_parameters)) != case.path_parameters:
        case.path_parameters = path  # which is judged anew, and as it stands in a URL: not without need
    return case.call(session=surface.session, headers=headers)


def problems_of(case: Case, response: Response, role: str, route: Route) -> list[str]:
    """Return what is wrong with an answer to a role, each with what was sent."""
    problems = [
        *faults(case, response, {name: str(value) for name, value in response.request.headers.items()}),
        *faults_of_refusal(route, response),
    ]
    if response.status_code < 300 and case.method == route.method and may_never(role, route):
        problems.append("it is not for this role")
    request = response.request
    about = f"{request.method} {request.url}\n{request.body!r}\n{response.status_code} {response.content[:500]!r}"
    return [f"{route.method} {route.path} as {role}: {each}\n{about}" for each in problems]


@pytest.mark.parametrize("part", range(PARTS))
def test_every_answer_is_one_that_the_description_has(part: int) -> None:
    """To whatever it is that is sent, by whomever; and nearly all that may be done was done at least once."""
    accepted: Counter[str] = Counter()
    found: dict[str, None] = {}
    with served() as surface:
        schema = described(surface.url)
        for operation in operations(schema, part, PARTS):
            route = route_of(operation.method, operation.path)
            name = f"{route.method} {route.path}"
            accepted[name] += 0
            for case in cases(schema, operation, step=STEP, drawn=DRAWN):
                for role in ROLES:
                    response = sent(surface, case, role, surface.credential(role, route))
                    accepted[name] += response.status_code < 300
                    found.update(dict.fromkeys(problems_of(case, response, role, route)))

    assert not found, f"{len(found)} faults\n" + "\n\n".join([*found][:50])
    assert len({name for name, times in accepted.items() if not times} - set(NEVER_DONE)) <= FEW


def drawn_anew(operation_id: str) -> list[str]:
    """Return what would be sent to an operation, by a description read anew."""
    schema = described("http://nowhere")
    operation = next(each for each in operations(schema, 0, 1) if each.definition.raw["operationId"] == operation_id)
    return [case.as_curl_command() for case in cases(schema, operation, step=STEP, drawn=DRAWN)]


@pytest.mark.skipif(settings.get_current_profile_name() == LONG, reason="the long run takes other ways each time")
@pytest.mark.parametrize("operation_id", ["post_agents", "put_limits_limit_id"])
def test_each_run_of_the_suite_sends_the_same(operation_id: str) -> None:
    """So what fails once fails again."""
    assert drawn_anew(operation_id) == drawn_anew(operation_id)
