"""`ironcage limits`: what a user's agents and programs may use, in all or in one project."""

from collections.abc import Callable, Mapping
from typing import Any, Final

import click

from ironcage_http.commands.amounts import USD
from ironcage_http.commands.changes import Clearable, changed, given
from ironcage_http.commands.confirming import YES, confirm
from ironcage_http.commands.control_plane import RemoteGroup, control_plane
from ironcage_http.commands.listings import identify, listing, segment, showing
from ironcage_http.commands.screen import Column, count, instant, money, tell


@click.group(cls=RemoteGroup)
def limits() -> None:
    """Limit what users may use: tokens a day, requests a minute, cost a month."""


_ROW: Final = (
    Column("id", "id"),
    Column("user", "user_id"),
    Column("project", "project_id"),
    Column("tokens a day", "max_tokens_per_day", count),
    Column("used today", "usage.tokens_today", count),
    Column("requests a minute", "max_requests_per_minute", count),
    Column("cost a month", "max_cost_per_month_usd", money),
    Column("cost this month", "usage.cost_this_month_usd", money),
)
_ONE: Final = (
    *_ROW,
    Column("lent of this month", "usage.held_usd", money),
    Column("requests this minute", "usage.requests_this_minute"),
    Column("day ends", "usage.day_resets_at", instant),
    Column("month ends", "usage.month_resets_at", instant),
    Column("created", "created_at", instant),
    Column("changed", "updated_at", instant),
)
_Decorator = Callable[[Callable[..., None]], Callable[..., None]]


def _caps(kind: Callable[[click.ParamType[Any]], click.ParamType[Any]], beside: str) -> _Decorator:
    """Return what adds an option for each cap, named as the field of the body."""
    told = (
        ("--tokens-per-day", "max_tokens_per_day", click.IntRange(1), f"Tokens in a day of UTC{beside}."),
        ("--requests-per-minute", "max_requests_per_minute", click.IntRange(1), f"Requests in a minute{beside}."),
        ("--cost-per-month", "max_cost_per_month_usd", USD, f"USD in a calendar month{beside}."),
    )

    def add(command: Callable[..., None]) -> Callable[..., None]:
        for option, field, of, about in reversed(told):
            command = click.option(option, field, type=kind(of), help=about)(command)
        return command

    return add


limits.add_command(
    listing(
        "/limits", _ROW, "List limits, newest first: an admin's are all.", filters=("user_id", "project_id"),
        is_sorted=False,
    )
)  # fmt: skip
limits.add_command(showing("/limits/{limit}", _ONE, "Show LIMIT and what counts against it."))


@limits.command()
@click.argument("user")
@click.option("--project", help="Only what is used in this project, by name or id.")
@_caps(lambda of: of, "")
def create(user: str, project: str | None, **caps: Any) -> None:  # noqa: ANN401 - options
    """Limit USER, by name or id; give at least one cap."""
    with control_plane() as remote:
        user_id = identify(remote, "user", user)
        project_id = None if project is None else identify(remote, "project", project)
        made = remote.post("/limits", user_id=user_id, project_id=project_id, **given(caps))
    tell(f"{made['id']} limits {user}: {_told(made)}", **made)


@limits.command()
@click.argument("limit")
@_caps(Clearable, "; an empty text lifts the cap")
def update(limit: str, **caps: Any) -> None:  # noqa: ANN401 - options
    """Change the caps of LIMIT; one must remain."""
    fields = changed(caps)
    with control_plane() as remote:
        answer = remote.ask("PUT", f"/limits/{segment(limit)}", body=fields)
    tell(f"{limit}: {_told(answer)}", **answer)


@limits.command()
@click.argument("limit")
@YES
def delete(limit: str, is_sure: bool) -> None:
    """Lift LIMIT altogether."""
    confirm(f"Lift {limit}, so that its user is held back by it no more?", is_sure=is_sure)
    with control_plane() as remote:
        remote.delete(f"/limits/{segment(limit)}")
    tell(f"{limit} is lifted", id=limit)


def _told(limit: Mapping[str, Any]) -> str:
    """Return the caps of a limit in words."""
    kinds: tuple[tuple[str, str, Callable[[Any], str]], ...] = (
        ("max_tokens_per_day", "tokens a day", count),
        ("max_requests_per_minute", "requests a minute", count),
        ("max_cost_per_month_usd", "a month", money),
    )
    return ", ".join(f"{show(limit[name])} {what}" for name, what, show in kinds if limit[name] is not None)
