"""Links in the description of the interface: what was just made, and which routes take it by its name.

Nothing is listed twice: whatever has the name in its path, or takes it in the body of a POST, is linked.
"""

import re
from collections.abc import Iterator, Sequence
from types import MappingProxyType
from typing import Any, Final

from ironcage_http.described_parameters import takes_in_path
from ironcage_http.routing import Route

_MADE: Final = MappingProxyType(
    {
        "POST /agents": ("agent_id", "id"),
        "POST /api-tokens": ("token_id", "id"),
        "POST /api-tokens/{token_id}/rotate": ("token_id", "id"),
        "POST /budget/handshake": ("lease_id", "lease_id"),
        "POST /budget/refresh": ("lease_id", "lease_id"),
        "POST /budget/requests": ("request_id", "id"),
        "POST /limits": ("limit_id", "id"),
        "POST /projects": ("project_id", "id"),
        "POST /providers": ("provider_id", "id"),
        "POST /users": ("user_id", "id"),
    }
)
"""What a route makes: what it is called as a parameter, and which field of the answer names it."""

_IN_BODIES: Final = MappingProxyType({"provider_id": "provider_key_id"})


def operation_id(route: Route) -> str:
    """Return what a route is called in the description."""
    return "_".join([route.method.lower(), *re.findall(r"\w+", route.path)])


def links_of(route: Route, routes: Sequence[Route]) -> dict[str, Any]:
    """Return the links from what a route makes to the routes that take it."""
    made = _MADE.get(f"{route.method} {route.path}")
    return {} if made is None else dict(_links(*made, routes))


def _links(name: str, field: str, routes: Sequence[Route]) -> Iterator[tuple[str, Any]]:
    value, in_body = f"$response.body#/{field}", _IN_BODIES.get(name, name)
    for route in routes:
        target = operation_id(route)
        if takes_in_path(route, name):
            yield target, {"operationId": target, "parameters": {name: value}}
        elif (
            route.method == "POST" and in_body in getattr(route.body, "__struct_fields__", ()) and name != "request_id"
        ):
            yield target, {"operationId": target, "requestBody": {in_body: value}}
