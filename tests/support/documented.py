"""Whether an answer is one the documentation speaks of."""

import re

from ironcage_http.app import ROUTES
from ironcage_http.openapi import codes_of

_ANYWHERE = {"NOT_FOUND", "METHOD_NOT_ALLOWED", "PAYLOAD_TOO_LARGE"}
_PATTERNS = [(re.compile("/api(?:/v1)?" + re.sub(r"{\w+}", "[^/]+", route.path)), route) for route in ROUTES]


def check_documented(method: str, path: str, status: int, body: object) -> None:
    """Fail on a refusal that the route's list of codes does not have."""
    if not isinstance(body, dict) or not isinstance(body.get("code"), str) or body["code"] in _ANYWHERE:
        return
    for pattern, route in _PATTERNS:
        if route.method == method and pattern.fullmatch(path.partition("?")[0]):
            assert codes_of(route).get(body["code"]) == status, f"{method} {path} answered {status} {body['code']}"
