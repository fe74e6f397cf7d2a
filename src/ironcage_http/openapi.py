"""The description of the interface: OpenAPI 3.1, made from the same table the routes are registered from."""

import html
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from http import HTTPStatus
from importlib.metadata import version
from typing import Any, Final

import msgspec

from ironcage_core.domain.permissions import Rule
from ironcage_core.errors.tree import IroncageError
from ironcage_http.amounts_in_schemas import with_amounts
from ironcage_http.calls import PaginationView
from ironcage_http.described_fields import OPTIONAL, with_limits
from ironcage_http.described_links import links_of, operation_id
from ironcage_http.described_parameters import parameters_of
from ironcage_http.errors import status_of
from ironcage_http.routing import Route

BASE: Final = "/api/v1"

_TOKEN_CODES: Final = ("AUTH_MISSING_TOKEN", "AUTH_INVALID_TOKEN", "AUTH_TOKEN_EXPIRED", "AUTH_WRONG_TOKEN_TYPE")
_USER_CODES: Final = (*_TOKEN_CODES, "AUTH_TOKEN_REVOKED", "AUTH_ACCOUNT_DISABLED")
_QUOTA_CODES: Final = ("QUOTA_EXCEEDED", "BUDGET_EXCEEDED")
_IC_SECURITY: Final[list[dict[str, list[str]]]] = [{"icToken": []}, {"bearer": []}]

BODY_CODES: Final = ("MALFORMED_JSON", "VALIDATION_ERROR", "UNSUPPORTED_MEDIA_TYPE", "PAYLOAD_TOO_LARGE")
ALWAYS: Final = ("INTERNAL_ERROR", "SERVICE_UNAVAILABLE")


class ErrorView(msgspec.Struct, frozen=True):
    """Every refusal: a sentence for a person, a code and facts for a program."""

    error: str
    code: str
    details: dict[str, Any]


def codes_of(route: Route) -> dict[str, int]:
    """Return every code a route may refuse with, and its status."""
    codes = [*_codes_of_rule(route.rule), *route.codes, *ALWAYS]
    if route.limit_class is not None:
        codes.append("RATE_LIMIT_EXCEEDED")
    if route.body is not None:
        codes += BODY_CODES
    if route.method == "GET" and not route.rule.is_public:
        codes.append("VALIDATION_ERROR")
    known = _statuses()
    explicit = {code: int(status) for status, _, code in (each.partition(" ") for each in codes) if code}
    return explicit | {code: known[code] for code in dict.fromkeys(codes) if " " not in code}


def _codes_of_rule(rule: Rule) -> Iterable[str]:
    """Yield what a route may refuse with because of who calls."""
    if rule.is_public:
        return
    yield from ("AMBIGUOUS_CREDENTIALS", "AGENT_TOKEN_FORBIDDEN")
    if rule.ic == "only":
        yield from _TOKEN_CODES
        return
    yield from _USER_CODES
    if not rule.may_owe_password:
        yield "PASSWORD_CHANGE_REQUIRED"
    if "none" in {rule.admin, rule.user, rule.viewer}:
        yield "FORBIDDEN"
    if not rule.takes_tokens:
        yield "SESSION_REQUIRED"
    else:
        yield from _QUOTA_CODES
        if rule.permission is not None:
            yield "INSUFFICIENT_SCOPE"


def _security_of(rule: Rule) -> list[dict[str, list[str]]]:
    """Return the ways to say who calls, as OpenAPI lists them."""
    if rule.is_public:
        return []
    user: list[dict[str, list[str]]] = [{"bearer": []}]
    if rule.takes_tokens:
        user.append({"apiToken": []})
    return {"no": user, "too": [*user, *_IC_SECURITY], "only": _IC_SECURITY}[rule.ic]


def codes_reference(routes: Sequence[Route]) -> str:
    """Return the table of every route with every status and code it may answer, in Markdown."""
    lines = ["| route | success | refusals |", "|---|---|---|"]
    for route in routes:
        by_status: dict[int, list[str]] = {}
        for code, status in codes_of(route).items():
            by_status.setdefault(status, []).append(f"`{code}`")
        refusals = "; ".join(f"{status} {', '.join(codes)}" for status, codes in sorted(by_status.items()))
        lines.append(f"| `{route.method} {BASE}{route.path}` | {route.status} | {refusals} |")
    return "\n".join(lines) + "\n"


@lru_cache  # every class of error is imported by the time the routes are
def _statuses() -> dict[str, int]:
    statuses = {"PAYLOAD_TOO_LARGE": 413, "INTERNAL_ERROR": 500}
    for kind in _all_errors(IroncageError):
        statuses.setdefault(kind.code, _status_of_kind(kind))
    return statuses


def _all_errors(kind: type[IroncageError]) -> Iterable[type[IroncageError]]:
    yield kind
    for narrower in kind.__subclasses__():
        yield from _all_errors(narrower)


def _status_of_kind(kind: type[IroncageError]) -> int:
    blank = IroncageError.__new__(kind)
    return status_of(blank)


def describe(routes: Sequence[Route]) -> dict[str, Any]:
    """Return the OpenAPI document of the routes."""
    models = {model for route in routes for model in _models_of(route) if model is not None}
    models |= {ErrorView, PaginationView}
    ordered = sorted(models, key=lambda model: model.__name__)
    schemas, components = msgspec.json.schema_components(ordered, ref_template="#/components/schemas/{name}")
    refs = dict(zip(ordered, schemas, strict=True))
    bodies = [refs[model] for route in routes for model in (route.body, route.other_body) if model is not None]
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(f"{BASE}{route.path}", {})[route.method.lower()] = _operation(route, routes, refs)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "ironcage",
            "version": version("ironcage"),
            "description": "Lends AI agents a hard budget and a sealed provider key. Amounts are USD, exact.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "components": {
            "schemas": {
                name: with_limits(name, schema) if name.endswith("Body") else schema
                for name, schema in with_amounts(components, bodies).items()
            },
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "apiToken": {"type": "apiKey", "in": "header", "name": "X-API-Token"},
                "icToken": {"type": "apiKey", "in": "header", "name": "X-IC-Token"},
            },
        },
    }


def _models_of(route: Route) -> Iterable[Any]:
    return (route.body, route.other_body, route.answer, *(view for _, view in route.other_answers))


def _list_of(refs: Mapping[Any, Any], row: Any) -> dict[str, Any]:  # noqa: ANN401 - a type
    """Return the schema of a page of rows; some lists have more beside them."""
    properties = {"data": {"type": "array", "items": refs[row]}, "pagination": refs[PaginationView]}
    return {"type": "object", "required": list(properties), "properties": properties}


def _any_of(refs: Mapping[Any, Any], models: Sequence[Any]) -> Any:  # noqa: ANN401 - JSON
    return refs[models[0]] if len(models) == 1 else {"anyOf": [refs[model] for model in models]}


def _answer_of(route: Route, refs: Mapping[Any, Any], views: Sequence[Any]) -> Any:  # noqa: ANN401 - JSON
    if "per_page" not in route.query:
        return _any_of(refs, views)
    page, *others = [_list_of(refs, views[0]), *(refs[view] for view in views[1:])]  # a list may be of one thing, too
    return {"anyOf": [page, *others]} if others else page


def _operation(route: Route, routes: Sequence[Route], refs: Mapping[Any, Any]) -> dict[str, Any]:
    responses: dict[str, Any] = {}
    answers = ((route.status, route.answer), *route.other_answers)
    for status in dict(answers):
        responses[str(status)] = {"description": HTTPStatus(status).phrase}
        views = [view for each, view in answers if each == status and view is not None]
        if views:
            schema = _answer_of(route, refs, views)
            texts = {media_type: {"schema": {"type": "string"}} for media_type in route.text_types}
            responses[str(status)]["content"] = {"application/json": {"schema": schema}, **texts}
        if links := links_of(route, routes):
            responses[str(status)]["links"] = links
    by_status: dict[int, list[str]] = {}
    for code, status in codes_of(route).items():
        by_status.setdefault(status, []).append(code)
    for status, codes in sorted(by_status.items()):
        example = {"error": HTTPStatus(status).phrase, "code": codes[0], "details": {}}
        responses[str(status)] = {
            "description": ", ".join(codes),
            "content": {"application/json": {"schema": refs[ErrorView], "example": example}},
        }
        if status == HTTPStatus.UNAUTHORIZED:
            responses[str(status)]["headers"] = _CHALLENGE
    operation: dict[str, Any] = {
        "operationId": operation_id(route),
        "summary": route.summary,
        "tags": [route.path.strip("/").partition("/")[0]],
        "security": _security_of(route.rule),
        "parameters": parameters_of(route),
        "responses": responses,
    }
    if route.body is not None:
        bodies = [route.body, *([] if route.other_body is None else [route.other_body])]
        content = {"schema": _any_of(refs, bodies)} | ({} if route.example is None else {"example": route.example})
        is_needed = route.body.__name__ not in OPTIONAL
        operation["requestBody"] = {"required": is_needed, "content": {"application/json": content}}
    return operation


_CHALLENGE: Final = {"WWW-Authenticate": {"required": True, "schema": {"type": "string", "const": "Bearer"}}}

_STYLE: Final = """body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}
code,pre{font-family:ui-monospace,monospace}pre{background:#f4f4f4;padding:.5rem;overflow:auto}
summary{cursor:pointer;padding:.3rem 0}b{display:inline-block;min-width:4.5rem}
td{padding-right:1rem;vertical-align:top}"""


def page(document: Mapping[str, Any]) -> str:
    """Return the document as a page for people: plain HTML, nothing loaded from anywhere."""
    operations = [
        _section(path, method, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]
    return (
        "<!doctype html><html lang=en><meta charset=utf-8><title>ironcage API</title>"
        f"<style>{_STYLE}</style><h1>ironcage API {html.escape(document['info']['version'])}</h1>"
        f"<p>{html.escape(document['info']['description'])} "
        "The machine-readable form is <a href=openapi.json>openapi.json</a>.</p>" + "".join(operations)
    )


def _section(path: str, method: str, operation: Mapping[str, Any]) -> str:
    rows = "".join(
        f"<tr><td>{status}</td><td>{html.escape(response['description'])}</td></tr>"
        for status, response in operation["responses"].items()
    )
    body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("example")
    shown = "" if body is None else f"<pre>{html.escape(msgspec.json.encode(body).decode())}</pre>"
    return (
        f"<details><summary><b>{method.upper()}</b> <code>{html.escape(path)}</code> "
        f"{html.escape(operation['summary'])}</summary>{shown}<table>{rows}</table></details>"
    )
