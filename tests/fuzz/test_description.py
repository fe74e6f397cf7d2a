"""What the description says of every parameter and field, held against the server at each edge of it.

Just within an edge nothing is said against the value, whatever else may be wrong; just beyond it is refused by name.
"""

import re
from collections.abc import Iterator, Mapping
from inspect import getmodule, getsource
from typing import Any, Final

import pytest
import requests

from ironcage_http.app import ROUTES
from ironcage_http.described_fields import CLOSED, FIELDS, NEEDED, NEVER_NULL, OPTIONAL
from ironcage_http.openapi import BASE
from ironcage_http.routing import Route
from tests.fuzz.beyond import is_beyond_schemas
from tests.fuzz.surface import DOCUMENT, Surface, served

Schema = Mapping[str, Any]

SCHEMAS: Final[Mapping[str, Schema]] = DOCUMENT["components"]["schemas"]
BODIES: Final = [route for route in ROUTES if route.body is not None]
QUERIES: Final = [route for route in ROUTES if route.query]
TIMES: Final = {"at", "from", "to", "start_date", "end_date"}
EXTREMES: Final = (
    "0001-01-01", "0001-01-01T00:00:00+00:01", "9999-12-31", "9999-12-31T23:59:59.999Z", "9999-12-31T23:59:59-00:01",
)  # fmt: skip
"""The first and the last time that can be written down, as a date and to the millisecond, and what lies beyond."""

TELLS_ALLOWED: Final = {"INVALID_PERIOD", "UNSUPPORTED_FORMAT"}
_ONE_OF: Final = re.compile(r"must be one of (.*?)(, with or without a leading -)?$")


@pytest.fixture(scope="module")
def surface() -> Iterator[Surface]:
    with served() as opened:
        yield opened


def asked(surface: Surface, route: Route, **options: Any) -> requests.Response:  # noqa: ANN401 - as requests takes them
    """Send a request to a route, about things that are there, as somebody who may."""
    role = "agent" if route.rule.ic == "only" else "admin" if route.rule.takes_sessions else "token"
    path = re.sub(r"{(\w+)}", lambda found: _thing(surface, route, found[1]), route.path)
    headers = surface.credential(role, route)
    return surface.session.request(route.method, surface.url + BASE + path, headers=headers, **options)


def _thing(surface: Surface, route: Route, name: str) -> str:
    kinds = {"agent_id": "agent", "limit_id": "lim", "token_id": "tok", "user_id": "user", "lease_id": "lease"}
    if "/requests/" in route.path:
        kinds["request_id"] = "breq"
    prefix = kinds.get(name, name[:4])
    return surface.known.get(prefix, ["told-0"])[0]


def problems(response: requests.Response) -> dict[str, str]:
    """Return what a refusal says of each field; all parameters are judged together, and so are the fields of a body."""
    if response.ok:
        return {}
    found: dict[str, str] = response.json()["details"].get("fields", {})
    return found


def beyond(schema: Schema) -> Iterator[object]:
    """Yield values just beyond the edges of a schema."""
    if "anyOf" in schema:
        schema = next(each for each in schema["anyOf"] if each.get("type") != "null")
    if "anyOf" in schema:  # an amount
        schema = schema["anyOf"][0]
    kind = schema.get("type")
    if "enum" in schema or "pattern" in schema or "format" in schema:
        yield "\0" if kind == "string" else None
    if kind == "string" and schema.get("minLength"):
        yield "a" * (schema["minLength"] - 1)
    if kind == "string" and "maxLength" in schema:
        yield "a" * (schema["maxLength"] + 1)
    if kind in ("integer", "number"):
        step = 1 if kind == "integer" else 1e-6
        yield from ([schema["minimum"] - step] if "minimum" in schema else [])
        yield from ([schema["maximum"] + (1 if kind == "integer" else 0.01)] if "maximum" in schema else [])
    if kind == "boolean":
        yield "maybe"
    if kind == "array":
        item = next(iter(within(schema.get("items", {}))), None)
        yield from ([[item] * (schema["minItems"] - 1)] if schema.get("minItems") else [])
        yield from ([[item] * (schema["maxItems"] + 1)] if "maxItems" in schema else [])


def within(schema: Schema) -> Iterator[object]:
    """Yield values at the edges of a schema."""
    if "anyOf" in schema:
        for each in schema["anyOf"]:
            yield from within(each)
    kind = schema.get("type")
    if "enum" in schema:
        yield from schema["enum"]
    elif kind == "null":
        yield None
    elif kind == "string" and "maxLength" in schema and "format" not in schema:
        yield from ("a" * length for length in {max(schema.get("minLength", 1), 1), schema["maxLength"]})
    elif kind in ("integer", "number"):
        yield from (schema[edge] for edge in ("minimum", "maximum") if edge in schema)


def parameters(route: Route) -> list[tuple[str, Schema]]:
    """Return the query parameters of a route as they are described."""
    operation = DOCUMENT["paths"][BASE + route.path][route.method.lower()]
    return [
        (each["name"], each["schema"].get("items", each["schema"]))
        for each in operation["parameters"]
        if each["in"] == "query"
    ]


def spelled(value: object) -> str:
    """Return a value as it stands in a query."""
    return str(value[0]) if isinstance(value, list) else str(value)


@pytest.mark.parametrize("route", QUERIES, ids=lambda route: f"{route.method} {route.path}")
def test_every_query_parameter_takes_what_the_description_says(surface: Surface, route: Route) -> None:
    """And nothing beyond; the words of a closed list are those that the server names."""
    for name, schema in parameters(route):
        for value in within(schema):
            said = problems(asked(surface, route, params={name: spelled(value)}))
            assert name not in said or is_beyond_schemas(f"{name}: {said[name]}"), (name, value, said)
        for value in beyond(schema):
            response = asked(surface, route, params={name: spelled(value)})
            told = problems(response).get(name, "")

            assert told or response.json()["code"] in TELLS_ALLOWED, (name, value, response.text)
            if (words := _ONE_OF.fullmatch(told)) and value == "\0":
                plain = words[1].split(", ")
                signed = [f"-{word}" for word in plain] if words[2] else []
                assert schema["enum"] == sorted([*plain, *signed])


@pytest.mark.parametrize(
    "route", [route for route in QUERIES if TIMES & set(route.query)], ids=lambda route: route.path
)
def test_no_time_is_too_early_or_too_late_to_be_judged(surface: Surface, route: Route) -> None:
    """What is asked of it is answered or refused, also where a day or an hour is added to it."""
    for name in TIMES & set(route.query):
        for value in EXTREMES:
            assert asked(surface, route, params={name: value}).status_code in {200, 400}, (name, value)


def fields(route: Route) -> list[tuple[str, Schema]]:
    """Return the fields of a route's body as they are described."""
    assert route.body is not None
    found: Mapping[str, Schema] = SCHEMAS[route.body.__name__]["properties"]
    return list(found.items())


@pytest.mark.parametrize("route", BODIES, ids=lambda route: f"{route.method} {route.path}")
def test_every_field_takes_what_the_description_says(surface: Surface, route: Route) -> None:
    """And nothing beyond: that is refused, by the name of the field wherever it is a matter of size."""
    usual = surface.brought_home(route.example or {})
    for name, schema in fields(route):
        for value in within(schema):
            told = problems(asked(surface, route, json={**usual, name: value}))
            assert name not in told or is_beyond_schemas(f"{name}: {told[name]}"), (name, value, told)
        for value in beyond(schema):
            response = asked(surface, route, json={**usual, name: value})
            assert 400 <= response.status_code < 500, (name, value, response.text)
            assert value in ("\0", None) or name in str(problems(response)), (name, value, response.text)


def read_with(flag: str) -> set[str]:
    """Return the bodies that routes read with a flag."""
    sources = {getsource(module) for route in ROUTES if (module := getmodule(route.handler))}
    found = re.compile(rf"\.read\(\s*(\w+),[^)]*{flag}=True")
    return {name for source in sources for name in found.findall(source)}


def test_the_bodies_that_are_closed_or_optional_are_those_that_are_read_so() -> None:
    """But for one that may be empty only to be told what it lacks."""
    assert read_with("is_strict") == CLOSED
    assert read_with("may_be_empty") - {"ValidateBody"} == OPTIONAL


def test_the_description_says_nothing_of_fields_that_are_not() -> None:
    """Every entry of its tables is of a body, or of a field of one."""
    names = {f"{name}.{field}" for name in SCHEMAS if name.endswith("Body") for field in SCHEMAS[name]["properties"]}
    known = {each.partition(".")[2] for each in names} | names

    assert FIELDS.keys() | NEVER_NULL | NEEDED <= known


def test_every_schema_has_a_name_of_its_own() -> None:
    """Two of one name would be told apart by their modules."""
    assert [name for name in SCHEMAS if not name.isalnum()] == []
