"""`ironcage serve` and `ironcage demo`: the control plane itself, for good or for one rehearsed day."""

import os

import click
from rich.console import Console

from ironcage_core.errors.tree import IroncageError
from ironcage_http.commands.failures import refused
from ironcage_http.commands.screen import console, tell
from ironcage_http.commands.shell import Command, Exit, needing, wants_json


@click.command(cls=Command)
def demo() -> None:
    """Play one agent's day over HTTP on a temporary database and check the books."""
    with needing("server"):
        from ironcage_http.rehearsal import rehearse  # noqa: PLC0415 - a bare install has no server
    shown = Console(stderr=True, highlight=False) if wants_json() else console()
    went_well = rehearse(shown)
    if wants_json():
        tell("", went_well=went_well)
    if not went_well:
        raise SystemExit(Exit.DIFFERENCES)


@click.command(cls=Command)
def serve() -> None:
    """Serve the control plane over HTTP, as the environment says."""
    with needing("server"):
        from ironcage_http.serving import serve as serve_until_stopped  # noqa: PLC0415 - a bare install has no server
        from ironcage_http.settings import read_settings  # noqa: PLC0415 - a bare install has no server
    screen = Console(stderr=True, soft_wrap=True, highlight=False)
    try:
        serve_until_stopped(read_settings(os.environ), screen)
    except IroncageError as error:
        raise refused(error) from error
