"""`ironcage serve` and `ironcage demo`: the control plane itself, for good or for one rehearsed day."""

import os

import click
from rich.console import Console

from ironcage_core.errors.tree import IroncageError
from ironcage_http.commands.failures import refused, telling
from ironcage_http.commands.screen import console, show_json, show_line
from ironcage_http.commands.shell import Command, Exit, Failure, needing, stoppable, wants_json
from ironcage_http.commands.verification import facts_of, show_verification


@click.command(cls=Command)
def demo() -> None:
    """Play one agent's day over HTTP on a temporary database and check the books."""
    with needing("server"):
        from ironcage_http.rehearsal import rehearse  # noqa: PLC0415 - a bare install has no server
    shown = Console(stderr=True, highlight=False) if wants_json() else console()
    with stoppable("The demo's database was a temporary one, and nothing is left of it: run it again."), telling():
        try:
            done = rehearse(shown)
        except FileNotFoundError as error:  # says tempfile
            hint = "The demo needs a folder for temporary files: set TMPDIR to one that you may write to"
            raise Failure(Exit.CANNOT, hint, code="NO_TEMPORARY_FOLDER") from error
    is_well = done.went_well and done.books.holds
    if wants_json():
        show_json({"went_well": is_well, "books": facts_of(done.books)})
    else:
        show_verification(done.books, shown)
    if not is_well:
        click.echo(
            "The demo did not go as it should: that is a fault of this version or of its installation.", err=True
        )
        raise SystemExit(Exit.DIFFERENCES)


@click.command(cls=Command)
def serve() -> None:
    """Serve the control plane over HTTP, as the environment says.

    With --json: one line on standard output once it answers, with its address and the first login if one was made up.
    """
    with needing("server"):
        from ironcage_http.serving import serve as serve_until_stopped  # noqa: PLC0415 - a bare install has no server
        from ironcage_http.settings import read_settings  # noqa: PLC0415 - a bare install has no server
    as_json = wants_json()
    screen = Console(stderr=True, soft_wrap=True, highlight=False, quiet=as_json)
    greet = (lambda greeting: show_line(greeting._asdict())) if as_json else (lambda _: None)
    try:
        serve_until_stopped(read_settings(os.environ), screen, greet)
    except IroncageError as error:
        raise refused(error) from error
