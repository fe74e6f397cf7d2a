"""Spending over time: what calls cost from hour to hour, day to day, week to week, month to month or year to year."""

from collections.abc import Iterator, Sequence
from decimal import Decimal
from itertools import groupby
from operator import attrgetter
from typing import Final, get_args

import msgspec
from litestar.response.base import ASGIResponse

from ironcage_core.domain.buckets import Bucket
from ironcage_core.domain.instants import Instant
from ironcage_core.domain.periods import Asked
from ironcage_core.ports.storage import UnitOfWork
from ironcage_core.services.usage_selection import Selection
from ironcage_core.services.usage_series import Grouping, SeriesRow, UsageSeries, usage_series
from ironcage_http.calls import Call, answer
from ironcage_http.queries import Query
from ironcage_http.routes.analytics_views import CURRENCY
from ironcage_http.routing import Route
from ironcage_http.usage_queries import CODES, QUESTIONS, EchoView, echo, judged_filter, read_question, read_time
from ironcage_http.wire import amount, moment

_BUCKETS: Final[tuple[Bucket, ...]] = get_args(Bucket)
_GROUPINGS: Final[tuple[Grouping, ...]] = get_args(Grouping)
_AS_PERIODS: Final[tuple[Bucket, ...]] = ("day", "week", "month", "year")
"""What `period` may name instead of a range of time."""


class BucketView(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the calls of one bucket add up to; key and label are those of the group, where there are groups."""

    bucket_start: str | None
    bucket_end: str | None
    spending: Decimal
    request_count: int
    failed_requests: int
    input_tokens: int
    output_tokens: int
    total_tokens: int
    partial: bool
    key: str | msgspec.UnsetType = msgspec.UNSET
    label: str | msgspec.UnsetType = msgspec.UNSET


class SeriesSummaryView(msgspec.Struct, frozen=True):
    """Sums over all buckets, and the earliest in which most was spent."""

    total_spend: Decimal
    total_requests: int
    peak_spend: Decimal
    peak_bucket_start: str | None


class SeriesView(EchoView, frozen=True, kw_only=True):
    """What calls add up to, bucket by bucket."""

    bucket: str
    group_by: str
    currency: str
    data: list[BucketView]
    summary: SeriesSummaryView


async def get_series(call: Call) -> ASGIResponse:
    """Return what calls add up to, bucket by bucket."""
    who = call.user()
    query = Query(call.query)
    asked, (bucket, when) = read_question(query), _read_bucket(query)
    grouping = query.choice("group_by", _GROUPINGS) or "none"

    def run(uow: UnitOfWork) -> tuple[Selection, UsageSeries]:
        principal = who(uow)
        which = judged_filter(uow, query, asked, principal)
        return usage_series(uow, which, when, bucket, grouping, principal)

    chosen, series = await call.see(run)
    view = SeriesView(
        bucket=bucket,
        group_by=grouping,
        currency=CURRENCY,
        data=list(_views(series.rows, chosen.calculated_at)),
        summary=SeriesSummaryView(
            total_spend=amount(series.total.cost_micros),
            total_requests=series.total.completed,
            peak_spend=amount(series.peak_micros),
            peak_bucket_start=moment(series.peak_start),
        ),
        **echo(asked, chosen),
    )
    return answer(view)


def _read_bucket(query: Query) -> tuple[Bucket, Asked]:
    """Return into what a series is cut, and of what time it is."""
    bucket, when = query.choice("bucket", _BUCKETS), read_time(query)
    named = next((each for each in _AS_PERIODS if each == when.period), None)
    if named is None:
        return bucket or "day", when
    if bucket not in {None, named}:
        query.problems["period"] = "may not name another bucket than bucket does"
    return named, Asked(start=when.start, end=when.end)


def _views(rows: Sequence[SeriesRow], now: Instant) -> Iterator[BucketView]:
    for (start, end), of_bucket in groupby(rows, attrgetter("start", "end")):
        bucket_start, bucket_end, is_partial = moment(start), moment(end), end > now
        for row in of_bucket:
            sums = row.sums
            yield BucketView(
                bucket_start=bucket_start,
                bucket_end=bucket_end,
                spending=amount(sums.cost_micros),
                request_count=sums.completed,
                failed_requests=sums.failed,
                input_tokens=sums.input_tokens,
                output_tokens=sums.output_tokens,
                total_tokens=sums.total_tokens,
                partial=is_partial,
                key=msgspec.UNSET if row.key is None else row.key,
                label=msgspec.UNSET if row.label is None else row.label,
            )


ROUTES: Final[tuple[Route, ...]] = (
    Route(
        "GET", "/analytics/spending/by-period", get_series, "What calls cost from one stretch of time to the next",
        action="analytics.read", limit="analytics_read", answer=SeriesView, query=(*QUESTIONS, "bucket", "group_by"),
        codes=(*CODES, "RANGE_TOO_LARGE"),
    ),
)  # fmt: skip
