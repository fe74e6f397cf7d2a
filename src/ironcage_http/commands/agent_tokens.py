"""`ironcage agents token`: the IC token of an agent, with which its runtime asks for leases."""

from pathlib import Path
from typing import Any, Final

import click

from ironcage_http.commands.changes import given
from ironcage_http.commands.confirming import YES, confirm
from ironcage_http.commands.control_plane import RemoteGroup, control_plane
from ironcage_http.commands.listings import identify, place_of, segment, showing
from ironcage_http.commands.screen import Column, instant, several, tell, yes
from ironcage_http.commands.shown_once import TOKEN_OUT, token_place

_LOOK: Final = (
    Column("agent", "agent_id"),
    Column("has a token", "has_ic_token", yes),
    Column("id", "id"),
    Column("status", "status"),
    Column("created", "created_at", instant),
    Column("renewed", "rotated_at", instant),
    Column("last used", "last_used_at", instant),
    Column("expires", "expires_at", instant),
)
_MADE: Final = (
    Column("id", "id"),
    Column("agent", "agent_id"),
    Column("project", "project_id"),
    Column("permissions", "permissions", several),
    Column("description", "description"),
    Column("created", "created_at", instant),
    Column("renewed", "rotated_at", instant),
    Column("expires", "expires_at", instant),
)
_RENEWED: Final = (
    *_MADE,
    Column("old token is dead", "old_token_invalidated", yes),
    Column("leases revoked", "leases_revoked"),
)
_EXPIRES: Final = "Such as 2027-01-31T00:00:00Z"


@click.group(cls=RemoteGroup)
def token() -> None:
    """Issue, renew and revoke the IC token of an agent."""


token.add_command(showing("/agents/{agent}/ic-token", _LOOK, "Tell whether an agent has an IC token; never its value."))


@token.command()
@click.argument("agent")
@click.option("--expires-at", metavar="TIME", help=f"{_EXPIRES}; never if not given.")
@click.option("--description")
@click.option("--permission", "permissions", multiple=True, help="May be given again.")
@TOKEN_OUT
def issue(agent: str, token_out: Path | None, **options: Any) -> None:  # noqa: ANN401 - options
    """Give an agent that has none its IC token, which is shown this once."""
    _make(agent, "ic-token", options, token_out, _MADE)


@token.command()
@click.argument("agent")
@click.option(
    "--overlap-seconds", type=click.IntRange(0, 86_400), help="How long the old value works as well; 0 if not given."
)
@click.option("--revoke-leases", is_flag=True, default=None, help="Revoke the agent's open leases, too.")
@click.option("--expires-at", metavar="TIME", help=f"{_EXPIRES}; as before if not given.")
@TOKEN_OUT
def regenerate(agent: str, token_out: Path | None, **options: Any) -> None:  # noqa: ANN401 - options
    """Put a new value in the place of an agent's IC token; it is shown this once."""
    _make(agent, "ic-token/regenerate", options, token_out, _RENEWED)


def _make(agent: str, what: str, options: dict[str, Any], token_out: Path | None, columns: tuple[Column, ...]) -> None:
    with token_place(token_out) as place:
        with control_plane() as remote:
            made = remote.ask("POST", f"{place_of(remote, 'agent', agent)}/{what}", body=given(options) or None)
        place.show(made, columns, made["token"])


@token.command()
@click.argument("agent")
@YES
def revoke(agent: str, is_sure: bool) -> None:
    """Take an agent's IC token away, and with it the agent's leases."""
    confirm(f"Revoke the IC token of agent {agent}, and its leases?", is_sure=is_sure)
    with control_plane() as remote:
        agent_id = identify(remote, "agent", agent)
        remote.delete(f"/agents/{segment(agent_id)}/ic-token")
    tell(f"agent {agent} has no IC token now", agent_id=agent_id, has_ic_token=False)
