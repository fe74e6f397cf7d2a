"""Usage queries: the filters and the time that every question about usage takes, and how an answer echoes them."""

from collections.abc import Callable
from typing import Any, Final, TypeVar

import msgspec

from ironcage_core.domain.access import Principal
from ironcage_core.domain.periods import Asked, Period
from ironcage_core.ports.lists import UsageFilter
from ironcage_core.ports.storage import UnitOfWork
from ironcage_core.services.usage_scope import UsageQuestion, check_may_ask_by_user, usage_filter
from ironcage_core.services.usage_selection import Selection, selected
from ironcage_http.calls import Call
from ironcage_http.queries import Query
from ironcage_http.wire import moment

T = TypeVar("T")

LONGEST_MODEL = 200
LONGEST_PROJECT = 500


QUESTIONS: Final = (
    "agent_id", "provider_id", "provider", "model", "project_id", "user_id", "period", "start_date", "end_date",
)  # fmt: skip
"""The query parameters that say which calls a question is about."""

CODES: Final = (
    "INVALID_PERIOD", "RANGE_TOO_OLD", "AGENT_NOT_FOUND", "PROVIDER_NOT_FOUND", "FORBIDDEN", "QUERY_TIMEOUT",
)  # fmt: skip
"""The codes that these parameters may bring."""


class RangeView(msgspec.Struct, frozen=True):
    """A range of time; without any call, all of it has no start."""

    start: str | None
    end: str | None


class EchoView(msgspec.Struct, frozen=True, kw_only=True):
    """What an answer says of its question."""

    period: str
    range: RangeView
    filters: dict[str, str | None]
    calculated_at: str | None


def read_question(query: Query) -> UsageQuestion:
    """Return which calls a query asks about."""
    return UsageQuestion(
        agent_id=query.id("agent_id", "agent"),
        provider_id=query.text("provider_id"),
        provider=query.text("provider"),
        model=query.text("model", longest=LONGEST_MODEL),
        project_id=query.text("project_id", longest=LONGEST_PROJECT),
        user_id=query.id("user_id", "user"),
    )


def judged_filter(uow: UnitOfWork, query: Query, asked: UsageQuestion, principal: Principal) -> UsageFilter | None:
    """Return which usage a query means; None for none at all.

    Raises:
        ForbiddenError, AgentTokenForbiddenError, AgentNotFoundError, ProviderNotFoundError: As `usage_filter` says.
        ValidationError: What is wrong with the query, which is told only after that. Source: contract resources.md 0.
    """
    if query.has("user_id"):
        check_may_ask_by_user(principal)
    which = usage_filter(uow, asked, principal)
    query.check()
    return which


def read_time(query: Query) -> Asked:
    """Return of what time a query asks."""
    return Asked(
        period=query.text("period"),
        start=query.instant("start_date", takes_unix_s=True),
        end=query.instant("end_date", is_end=True, takes_unix_s=True),
    )


async def asked_of_usage(
    call: Call, query: Query, use_case: Callable[[UnitOfWork, Selection], T], *, default: Period = "all-time"
) -> tuple[dict[str, Any], T]:
    """Return what an answer says of its question, and what a use case says of the calls that a query means.

    Args:
        call: The call.
        query: Its query, read but for which calls it means.
        use_case: What is asked of them.
        default: The period that is meant if none is named.
    """
    who = call.user()
    asked, when = read_question(query), read_time(query)

    def run(uow: UnitOfWork) -> tuple[Selection, T]:
        chosen = selected(uow, judged_filter(uow, query, asked, who(uow)), when, default=default)
        return chosen, use_case(uow, chosen)

    chosen, found = await call.see(run)
    return echo(asked, chosen), found


def echo(asked: UsageQuestion, chosen: Selection) -> dict[str, Any]:
    """Return what an answer says of its question: the fields of an `EchoView`."""
    return {
        "period": chosen.time.period,
        "range": RangeView(moment(chosen.start), moment(chosen.time.end)),
        "filters": asked.used,
        "calculated_at": moment(chosen.calculated_at),
    }
