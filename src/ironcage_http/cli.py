"""The command line: what an operator does from a shell.

Exit codes: 0 done; 1 a check found differences; 2 wrong usage; 3 a start-up or storage error, with what to do about it.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import click
from rich.console import Console

from ironcage_core.errors.tree import IroncageError
from ironcage_http.admin_commands import admin
from ironcage_http.book_commands import DIFFERENCES_FOUND, rebuild_rollups, repair, table_console, verify
from ironcage_http.command_errors import Refused
from ironcage_http.key_commands import doctor, keys


@contextmanager
def _server_extra() -> Iterator[None]:
    """Import what a bare install does not have; it needs no web server for the other commands."""
    try:
        yield
    except ModuleNotFoundError as missing:
        raise click.ClickException(f"{missing.name} is missing: pip install 'ironcage[server]'") from missing


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="ironcage")
def main() -> None:
    """Lend AI agents a hard budget and a sealed provider key."""


main.add_command(admin)
main.add_command(keys)
main.add_command(doctor)
main.add_command(verify)
main.add_command(repair)
main.add_command(rebuild_rollups)


@main.command()
def demo() -> None:
    """Play one agent's day over HTTP on a temporary database and check the books."""
    with _server_extra():
        from ironcage_http.rehearsal import rehearse  # noqa: PLC0415 - a bare install has no server
    if not rehearse(table_console()):
        raise SystemExit(DIFFERENCES_FOUND)


@main.command()
def serve() -> None:
    """Serve the control plane over HTTP, as the environment says."""
    with _server_extra():
        from ironcage_http.serving import serve as serve_until_stopped  # noqa: PLC0415 - a bare install has no server
        from ironcage_http.settings import read_settings  # noqa: PLC0415 - a bare install has no server
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    try:
        serve_until_stopped(read_settings(os.environ), console)
    except IroncageError as error:
        raise Refused(error) from error
