"""Routing: the one table row a route has, from which the app and its documentation are made."""

from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from ironcage_http.calls import Handler

Access = Literal["public", "any", "user", "admin", "ic"]


@dataclass(frozen=True, slots=True)
class Route:
    """One route.

    Args:
        method: The HTTP method.
        path: Below the base path, with `{name}` for a part that varies.
        handler: What answers it.
        summary: One sentence for the documentation.
        body: The struct of the request's body, if it takes one.
        answer: The struct of the answer, if it has one.
        status: The status of success.
        codes: The codes it may refuse with, beside those every route of its access has; where a code has two
            statuses, the one of this route stands before it.
        access: Who may call: anybody, any credential, a user, an admin, or an agent by IC token.
        example: A body for the documentation.
    """

    method: Literal["GET", "POST", "PUT", "PATCH", "DELETE"]
    path: str
    handler: Handler
    summary: str
    body: type[msgspec.Struct] | None = None
    answer: Any = None
    status: int = 200
    codes: tuple[str, ...] = ()
    access: Access = "user"
    example: Any = None
