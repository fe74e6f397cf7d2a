"""Usage queries: the filters and the time that every question about usage takes, and how an answer echoes them."""

import msgspec

from ironcage_core.domain.instants import Instant
from ironcage_core.domain.periods import Asked, TimeRange
from ironcage_core.services.usage_scope import UsageQuestion
from ironcage_http.queries import Query
from ironcage_http.wire import moment

LONGEST_MODEL = 200
LONGEST_PROJECT = 500


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


def read_question(query: Query, *, provider: str | None = None, project_id: str | None = None) -> UsageQuestion:
    """Return which calls a query asks about; the provider and the project are those of the path, if it names one."""
    return UsageQuestion(
        agent_id=query.id("agent_id", "agent"),
        provider_id=query.text("provider_id"),
        provider=query.text("provider") if provider is None else provider,
        model=query.text("model", longest=LONGEST_MODEL),
        project_id=query.text("project_id", longest=LONGEST_PROJECT) if project_id is None else project_id,
        user_id=query.id("user_id", "user"),
    )


def read_time(query: Query) -> Asked:
    """Return of what time a query asks."""
    return Asked(
        period=query.text("period"),
        start=query.instant("start_date", takes_unix_s=True),
        end=query.instant("end_date", is_end=True, takes_unix_s=True),
    )


def range_view(time: TimeRange, start: Instant | None) -> RangeView:
    """Return a range as callers see it."""
    return RangeView(moment(start), moment(time.end))
