"""Routing: the one table row a route has, from which the app, its guard and its documentation are made."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, Literal

import msgspec
from litestar.response.base import ASGIResponse

from ironcage_core.domain.limit_classes import LimitClass
from ironcage_core.domain.permissions import RULES, Rule

PAGED: Final = ("page", "per_page", "sort")
"""The query parameters of every list."""

Handler = Callable[[Any], Awaitable[ASGIResponse]]


@dataclass(frozen=True)
class Route:
    """One route.

    Args:
        method: The HTTP method.
        path: Below the base path, with `{name}` for a part that varies.
        handler: What answers a `Call` of it.
        summary: One sentence for the documentation.
        action: What it does, by the name in the table of permissions, which alone says who may call.
        body: The struct of the request's body, if it takes one.
        answer: The struct of the answer, if it has one.
        status: The status of success.
        codes: The codes it may refuse with, beside those that its action brings; where a code has two
            statuses, the one of this route stands before it.
        limit: The class of its rate limit; None for the general one of its method, `none` for no limit.
        example: A body for the documentation.
        query: The query parameters it knows, by name.
        is_retried_by_key: Whether it takes the header `Idempotency-Key`.
        body_factor: How many times as large as that of other routes its body may be.
        other_body: Another struct that the body may be instead.
        other_answers: Other answers of success: their status, which may be the same, and struct.
        text_types: The media types besides JSON that the answer may come in, as a text.

    Raises:
        ValueError: The action is not in the table: nobody could say who may call.
    """

    method: Literal["GET", "POST", "PUT", "PATCH", "DELETE"]
    path: str
    handler: Handler
    summary: str
    action: str
    body: type[msgspec.Struct] | None = None
    answer: Any = None
    status: int = 200
    codes: tuple[str, ...] = ()
    limit: LimitClass | Literal["none"] | None = None
    example: Any = None
    query: tuple[str, ...] = ()
    is_retried_by_key: bool = False
    body_factor: int = 1
    other_body: type[msgspec.Struct] | None = None
    other_answers: tuple[tuple[int, Any], ...] = ()
    text_types: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.action not in RULES:
            raise ValueError(f"{self.method} {self.path}: no rule says who may do {self.action}")

    @property
    def rule(self) -> Rule:
        """Who may call."""
        return RULES[self.action]

    @cached_property
    def limit_class(self) -> LimitClass | None:
        """The class of its rate limit, if it has one."""
        if self.limit is None:
            return "reads" if self.method == "GET" else "writes"
        return None if self.limit == "none" else self.limit
