"""`ironcage audit`: who did what to what, from where, and what became of it."""

from typing import Final

import click

from ironcage_http.commands.control_plane import RemoteGroup
from ironcage_http.commands.listings import listing, showing
from ironcage_http.commands.screen import Column, as_json, instant


@click.group(cls=RemoteGroup)
def audit() -> None:
    """Look into the audit log."""


_ROW: Final = (
    Column("id", "id"),
    Column("at", "timestamp", instant),
    Column("operation", "operation"),
    Column("outcome", "outcome"),
    Column("by", "actor_id"),
    Column("of", "resource_type"),
    Column("which", "resource_id"),
    Column("from", "ip_address"),
)
_ONE: Final = (
    *_ROW,
    Column("category", "category"),
    Column("actor is", "actor_type"),
    Column("role", "user_role"),
    Column("token", "token_id"),
    Column("program", "user_agent"),
    Column("request", "request_id"),
    Column("reason", "reason"),
    Column("changes", "changes", as_json),
    Column("more", "metadata", as_json),
    Column("hash", "hash"),
    Column("hash before", "prev_hash"),
)

audit.add_command(
    listing(
        "/audit-logs", _ROW, "List what was done, newest first.",
        filters=(
            "user_id", "operation", "resource_type", "resource_id", "category", "outcome", "start_date", "end_date",
        ),
    )
)  # fmt: skip
audit.add_command(showing("/audit-logs/{row}", _ONE, "Show one ROW of the audit log."))
