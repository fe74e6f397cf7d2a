"""`ironcage tokens`: API tokens, with which programs act for a user; a value is shown once or written into a file."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TextIO, TypeVar

import click

from ironcage_http.commands.amounts import USD
from ironcage_http.commands.changes import Clearable, changed, given
from ironcage_http.commands.confirming import YES, confirm
from ironcage_http.commands.control_plane import RemoteGroup, control_plane
from ironcage_http.commands.listings import identify, listing, segment, showing
from ironcage_http.commands.screen import Column, instant, money, several, show_record, tell, yes
from ironcage_http.commands.secret_files import secret_of
from ironcage_http.commands.shell import Exit
from ironcage_http.commands.shown_once import TOKEN_OUT, token_place

if TYPE_CHECKING:
    from ironcage_http.remote import Remote

_F = TypeVar("_F", bound=Callable[..., Any])

_FEW: Final = (
    Column("id", "id"),
    Column("name", "name"),
    Column("status", "status"),
    Column("scopes", "scopes", several),
    Column("last used", "last_used_at", instant),
    Column("expires", "expires_at", instant),
)
_ALL: Final = (
    Column("id", "id"),
    Column("name", "name"),
    Column("description", "description"),
    Column("status", "status"),
    Column("ends in", "hint"),
    Column("user", "user_id"),
    Column("project", "project_id"),
    Column("agent", "agent_id"),
    Column("provider", "provider"),
    Column("scopes", "scopes", several),
    Column("expires", "expires_at", instant),
    Column("requests a second", "rate_limit_rps"),
    Column("requests a day", "daily_request_limit"),
    Column("tokens a day", "daily_token_limit"),
    Column("USD a day", "daily_limit_usd", money),
    Column("USD in all", "cost_cap_usd", money),
    Column("created", "created_at", instant),
    Column("changed", "updated_at", instant),
    Column("last used", "last_used_at", instant),
    Column("revoked", "revoked_at", instant),
    Column("revoked by", "revoked_by"),
    Column("in the place of", "rotated_from"),
    Column("replaced by", "replaced_by"),
)
_USED: Final = (
    *_ALL,
    Column("requests", "usage_stats.total_requests"),
    Column("requests today", "usage_stats.requests_today"),
    Column("requests of the last hour", "usage_stats.requests_last_hour"),
    Column("tokens", "usage_stats.total_tokens"),
    Column("tokens today", "usage_stats.tokens_today"),
    Column("cost", "usage_stats.total_cost_usd", money),
    Column("cost today", "usage_stats.cost_today_usd", money),
)
_BOTH: Final = (
    Column("id", "id"),
    Column("kind", "kind"),
    Column("name", "name"),
    Column("status", "status"),
    Column("last used", "last_used_at", instant),
    Column("expires", "expires_at", instant),
)
_CHECKED: Final = (
    Column("valid", "valid", yes),
    Column("id", "token_id"),
    Column("user", "user_id"),
    Column("project", "project_id"),
)
_EXPIRES: Final = "Such as 2027-01-31T00:00:00Z"
_COUNT: Final = click.IntRange(1)


def _bounds(read: Callable[[click.ParamType[Any]], click.ParamType[Any]], note: str) -> Callable[[_F], _F]:
    """Return the options for what a token is good for.

    Args:
        read: Makes the type of an option from that of its value.
        note: What an option says in its help beside itself.
    """
    options = (
        click.option("--description", type=read(click.STRING)),
        click.option("--project", "project_id", type=read(click.STRING), help="A project, by name or id."),
        click.option("--provider", type=read(click.STRING), help="The provider whose key it fetches."),
        click.option("--scope", "scopes", multiple=True, help="Such as agents:read; may be given again."),
        click.option("--expires-at", type=read(click.STRING), metavar="TIME", help=f"{_EXPIRES}; {note}"),
        click.option("--rate-limit-rps", type=read(_COUNT), help="Requests a second."),
        click.option("--daily-request-limit", type=read(_COUNT), help="Requests a day (UTC)."),
        click.option("--daily-token-limit", type=read(_COUNT), help="LLM tokens a day (UTC)."),
        click.option("--daily-limit-usd", type=read(USD), help="USD a day (UTC)."),
        click.option("--cost-cap-usd", type=read(USD), help="USD in all."),
    )

    def wrap(command: _F) -> _F:
        for option in reversed(options):
            command = option(command)
        return command

    return wrap


@click.group(cls=RemoteGroup)
def tokens() -> None:
    """Make, look at, change, renew and revoke API tokens, with which programs act for you.

    Making, changing and renewing need a session: log in with a password, not with an API token.
    """


tokens.add_command(
    listing(
        "/api-tokens",
        _FEW,
        "List API tokens, ended ones too: an admin's are all.",
        filters=("name", "status", "user_id", "project_id", "agent_id"),
    )
)
tokens.add_command(showing("/api-tokens/{token_id}", _USED, "Show an API token and what it has used."))
tokens.add_command(
    listing(
        "/tokens",
        _BOTH,
        "List API tokens and the IC tokens of agents together.",
        name="list-both",
        filters=("kind", "status", "search", "agent_id", "project_id"),
    )
)


@tokens.command()
@click.argument("name")
@click.option("--agent", "agent_id", help="Bind it to an agent, by name or id: it can only look at that one then.")
@_bounds(lambda kind: kind, "never if not given.")
@TOKEN_OUT
def create(name: str, token_out: Path | None, **options: Any) -> None:  # noqa: ANN401 - options
    """Make an API token NAME for yourself, which is shown this once."""
    with token_place(token_out) as place:
        with control_plane() as remote:
            made = remote.post("/api-tokens", name=name, **_identified(remote, given(options)))
        place.show(made, _ALL, made["token"])


@tokens.command()
@click.argument("token_id")
@click.option("--name")
@_bounds(Clearable, "an empty text takes it away, as everywhere here.")
@click.option(
    "--active/--inactive", "is_active", default=None, help="What is inactive opens nothing until it is again."
)
def update(token_id: str, **options: Any) -> None:  # noqa: ANN401 - options
    """Change what an API token is good for; what is not given stays as it is."""
    fields = changed(options)
    with control_plane() as remote:
        answer = remote.ask("PUT", _path_of(token_id), body=_identified(remote, fields))
    show_record(answer, _ALL)


def _identified(remote: "Remote", fields: dict[str, Any]) -> dict[str, Any]:
    """Return the fields with ids in the place of names."""
    found = ((field, what, fields.get(field)) for field, what in (("project_id", "project"), ("agent_id", "agent")))
    return fields | {field: identify(remote, what, text) for field, what, text in found if text is not None}


def _path_of(token_id: str) -> str:
    return f"/api-tokens/{segment(token_id)}"


@tokens.command()
@click.argument("token_id")
@click.option("--expires-at", metavar="TIME", help=f"{_EXPIRES}; as the old one if not given.")
@TOKEN_OUT
def rotate(token_id: str, expires_at: str | None, token_out: Path | None) -> None:
    """Put a new API token in the place of one of yours, which ends at once; it is shown this once."""
    with token_place(token_out) as place:
        with control_plane() as remote:
            made = remote.post(f"{_path_of(token_id)}/rotate", expires_at=expires_at)
        place.show(made, _ALL, made["token"])


@tokens.command()
@click.argument("token_id")
@click.option("--reason", help="Why, for the audit log.")
@YES
def revoke(token_id: str, reason: str | None, is_sure: bool) -> None:
    """End an API token for good."""
    confirm(f"Revoke API token {token_id} for good?", is_sure=is_sure)
    with control_plane() as remote:
        gone = remote.ask("DELETE", _path_of(token_id), body=given({"reason": reason}) or None)
    tell(f"API token {gone['name']} is revoked, and opens nothing any more", **gone)


@tokens.command()
@click.option("--token-file", type=click.File(encoding="utf-8"), help="Read it from this file, - for standard input.")
def check(token_file: TextIO | None) -> None:
    """Tell whether an API token opens anything, without using it; exit 1 if it opens nothing."""
    value = secret_of(token_file, "API token", "--token-file")
    with control_plane() as remote:
        answer = remote.post("/api-tokens/validate", token=value)
    show_record(answer, _CHECKED)
    if not answer["valid"]:
        raise SystemExit(Exit.DIFFERENCES)
