"""Exports: what calls add up to by day or hour, to take away as CSV or JSON, sent piece by piece."""

import csv
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from decimal import Decimal
from itertools import islice
from typing import Any, Final, Literal

import msgspec
from litestar.response.base import ASGIResponse
from litestar.response.streaming import ASGIStreamingResponse

from ironcage_core.domain.access import Principal
from ironcage_core.domain.instants import Instant, as_datetime
from ironcage_core.domain.usage import UsageSums
from ironcage_core.errors.usage import UnsupportedFormatError
from ironcage_core.ports.lists import UsageBucket
from ironcage_core.ports.storage import UnitOfWork
from ironcage_core.ports.totals import UsageCell
from ironcage_core.services.usage_exports import ExportOf, UsageExport, export_usage, note_export
from ironcage_core.services.usage_selection import Selection, selected
from ironcage_http.calls import JSON, Call
from ironcage_http.queries import Query
from ironcage_http.routes.analytics_views import CURRENCY
from ironcage_http.routing import Route
from ironcage_http.usage_queries import CODES, QUESTIONS, RangeView, echo, judged_filter, read_question, read_time
from ironcage_http.wire import amount, encode, moment

Format = Literal["csv", "json"]

FORMATS: Final[tuple[Format, ...]] = ("csv", "json")
ROWS_AT_ONCE: Final = 500
"""How many rows a piece of an answer has: so many are written in a few milliseconds."""

_CSV: Final = "text/csv"
_BUCKETS: Final[tuple[UsageBucket, ...]] = ("day", "hour")
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")
"""How a text begins that a spreadsheet would take for a formula."""


class ExportedView(msgspec.Struct, frozen=True):
    """Calls of one agent to one model in one day or hour; `requests` are completed ones."""

    bucket_start: str | None
    agent_id: str
    agent_name: str
    project_id: str
    provider: str
    provider_id: str | None
    model: str
    requests: int


class ExportedUsageView(ExportedView, frozen=True):
    """What they add up to."""

    failed_requests: int
    input_tokens: int
    output_tokens: int
    total_tokens: int


class ExportedSpendingView(ExportedView, frozen=True):
    """What they cost."""

    spending: Decimal
    currency: str


class UsageExportView(msgspec.Struct, frozen=True):
    """An export of usage as JSON."""

    data: list[ExportedUsageView]
    format: str
    period: str
    range: RangeView
    generated_at: str | None


class SpendingExportView(msgspec.Struct, frozen=True):
    """An export of spending as JSON."""

    data: list[ExportedSpendingView]
    format: str
    period: str
    range: RangeView
    generated_at: str | None


_View = ExportedUsageView | ExportedSpendingView
_MakeView = Callable[[UsageCell, str, UsageSums], _View]


async def export_of_usage(call: Call) -> ASGIResponse:
    """Send calls and tokens."""
    return await _export(call, "usage", ExportedUsageView, _usage_view)


async def export_of_spending(call: Call) -> ASGIResponse:
    """Send what calls cost."""
    return await _export(call, "spending", ExportedSpendingView, _spending_view)


async def _export(call: Call, what: ExportOf, kind: type[msgspec.Struct], make: _MakeView) -> ASGIResponse:
    who = call.user()
    query = Query(call.query)
    asked, when = read_question(query), read_time(query)
    bucket = query.choice("bucket", _BUCKETS) or "day"
    named = query.text("format")

    def run(uow: UnitOfWork) -> tuple[Principal, Format, Selection, UsageExport]:
        principal = who(uow)
        which = judged_filter(uow, query, asked, principal)
        written = _format(named, call.headers)
        chosen = selected(uow, which, when)
        return principal, written, chosen, export_usage(uow, chosen, bucket)

    principal, written, chosen, export = await call.see(run)
    told = echo(asked, chosen)
    remembered = {
        "format": written,
        "bucket": bucket,
        "period": told["period"],
        "range": msgspec.structs.asdict(told["range"]),
        "rows": len(export.rows),
    }
    await call.write(lambda uow: note_export(uow, what, asked.used, remembered, principal.actor))
    views = (make(cell, export.agent_names.get(cell.agent_id, ""), sums) for cell, sums in export.rows)
    pieces = _csv_pieces(kind.__struct_fields__, views) if written == "csv" else _json_pieces(views, told)
    return ASGIStreamingResponse(
        iterator=pieces,
        status_code=200,
        media_type=_CSV if written == "csv" else JSON,
        headers={"Content-Disposition": f'attachment; filename="{_file_name(what, chosen, written)}"'},
    )


def _format(named: str | None, headers: Mapping[str, str]) -> Format:
    """Return in which format an export is written: the one that is named, else the one that is accepted.

    Raises:
        UnsupportedFormatError: There is no such format.
    """
    if named is None:
        accepted = [each.partition(";")[0].strip().lower() for each in headers.get("accept", "").split(",")]
        return "csv" if _CSV in accepted else "json"
    found = next((each for each in FORMATS if each == named), None)
    if found is None:
        raise UnsupportedFormatError(f"format must be one of {', '.join(FORMATS)}", allowed=list(FORMATS))
    return found


def _file_name(what: ExportOf, chosen: Selection, written: Format) -> str:
    end = chosen.time.end
    return f"{what}_{_date(end if chosen.start is None else chosen.start)}_{_date(end)}.{written}"


def _date(instant: Instant) -> str:
    return as_datetime(instant).date().isoformat()


def _csv_pieces(names: Sequence[str], views: Iterator[_View]) -> Iterator[bytes]:
    """Yield a table as RFC 4180 has it, in UTF-8."""
    rows: Sequence[Sequence[object]] = [names]
    while rows:
        text = io.StringIO(newline="")
        csv.writer(text).writerows([_cell(value) for value in row] for row in rows)
        yield text.getvalue().encode()
        rows = [msgspec.structs.astuple(view) for view in islice(views, ROWS_AT_ONCE)]


def _cell(value: object) -> str:
    """Return what stands in a cell; a text that looks like a formula is marked as one that is none."""
    if isinstance(value, Decimal):
        return f"{value:f}"
    if isinstance(value, str) and value.startswith(_FORMULA):
        return f"'{value}"
    return "" if value is None else str(value)


def _json_pieces(views: Iterator[_View], told: Mapping[str, Any]) -> Iterator[bytes]:
    """Yield a JSON object, its rows first."""
    separator = b'{"data":['
    while rows := [encode(view) for view in islice(views, ROWS_AT_ONCE)]:
        yield separator + b",".join(rows)
        separator = b","
    tail = encode(
        {"format": "json", "period": told["period"], "range": told["range"], "generated_at": told["calculated_at"]}
    )
    yield (b"" if separator == b"," else separator) + b"]," + tail[1:]


def _cell_fields(cell: UsageCell, agent_name: str, sums: UsageSums) -> dict[str, Any]:
    return {
        "bucket_start": moment(cell.start),
        "agent_id": cell.agent_id,
        "agent_name": agent_name,
        "project_id": cell.project_id,
        "provider": cell.provider,
        "provider_id": cell.provider_id or None,
        "model": cell.model,
        "requests": sums.completed,
    }


def _usage_view(cell: UsageCell, agent_name: str, sums: UsageSums) -> ExportedUsageView:
    return ExportedUsageView(
        failed_requests=sums.failed,
        input_tokens=sums.input_tokens,
        output_tokens=sums.output_tokens,
        total_tokens=sums.total_tokens,
        **_cell_fields(cell, agent_name, sums),
    )


def _spending_view(cell: UsageCell, agent_name: str, sums: UsageSums) -> ExportedSpendingView:
    spending = amount(sums.cost_micros)
    return ExportedSpendingView(spending=spending, currency=CURRENCY, **_cell_fields(cell, agent_name, sums))


_COMMON: Final[dict[str, Any]] = {
    "action": "analytics.read",
    "limit": "analytics_export",
    "codes": (*CODES, "UNSUPPORTED_FORMAT", "EXPORT_TOO_LARGE"),
    "text_types": (_CSV,),
    "query": (*QUESTIONS, "format", "bucket"),
}

ROUTES: Final[tuple[Route, ...]] = (
    Route(
        "GET", "/analytics/export/usage", export_of_usage, "Calls and tokens by agent and model, as CSV or JSON",
        answer=UsageExportView, **_COMMON,
    ),
    Route(
        "GET", "/analytics/export/spending", export_of_spending, "What calls cost by agent and model, as CSV or JSON",
        answer=SpendingExportView, **_COMMON,
    ),
)  # fmt: skip
