"""`ironcage usage by-period`: what calls cost from one stretch of time to the next."""

from typing import Any, Final

from ironcage_http.commands.control_plane import control_plane
from ironcage_http.commands.listings import Reading, filled
from ironcage_http.commands.screen import Column, count, instant, money, note, show_rows, yes
from ironcage_http.commands.usage_filters import QUESTIONS

_PATH: Final = "/analytics/spending/by-period"
_START: Final = Column("from", "bucket_start", instant)
_GROUP: Final = Column("group", "label")
_SUMS: Final = (
    Column("spending", "spending", money),
    Column("calls", "request_count", count),
    Column("failed", "failed_requests", count),
    Column("tokens", "total_tokens", count),
    Column("still runs", "partial", yes),
)


def _run(**given: Any) -> None:  # noqa: ANN401 - options
    with control_plane() as remote:
        answer = remote.get(filled(remote, _PATH, given), **given)
    groups = () if answer["group_by"] == "none" else (_GROUP,)
    show_rows(answer["data"], (_START, *groups, *_SUMS), whole=answer)
    summary = answer["summary"]
    note(f"{money(summary['total_spend'])} for {count(summary['total_requests'])} completed calls in all")


by_period: Final = Reading(
    _PATH, name="by-period", callback=_run, filters=(*QUESTIONS, "bucket", "group_by"),
    help="Show what calls cost by hour, day, week, month or year (--bucket).",
)  # fmt: skip
