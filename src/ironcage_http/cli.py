"""The command line: what an operator does from a shell.

Exit codes: 0 done; 1 a check found differences; 2 wrong usage; 3 a start-up or storage error, with what to do about it.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
from rich.console import Console

from ironcage_core.domain.ids import is_id
from ironcage_core.errors.tree import IroncageError
from ironcage_core.services.verify import verify as verify_books
from ironcage_http.admin_commands import admin
from ironcage_http.command_errors import Refused
from ironcage_http.key_commands import doctor, keys
from ironcage_http.verification import show_verification
from ironcage_storage.sqlite.store import SqliteStore

DIFFERENCES_FOUND = 1


def _console() -> Console:
    # Never narrower than the widest table, so that a pipe or a small window cuts no number off.
    return Console(width=max(Console().width, 100), highlight=False)


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


@main.command()
def demo() -> None:
    """Play one agent's day over HTTP on a temporary database and check the books."""
    with _server_extra():
        from ironcage_http.rehearsal import rehearse  # noqa: PLC0415 - a bare install has no server
    if not rehearse(_console()):
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


@main.command()
@click.argument("database", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--agent", "agent_id", help="Check only this agent.")
def verify(database: Path, agent_id: str | None) -> None:
    """Recompute every balance of DATABASE from its ledger; exit 1 if anything differs."""
    console = _console()
    if agent_id is not None and not is_id(agent_id, "agent"):
        raise click.UsageError("an agent id is agent_ and 32 hex digits")
    try:
        with SqliteStore(database, must_exist=True) as store:
            complaints = store.check_file()
            for complaint in complaints:
                console.print(f"[red]file[/]        {complaint}")
            checked = store.read(lambda uow: verify_books(uow, agent_id))
    except IroncageError as error:
        raise Refused(error) from error
    if agent_id is not None and not checked.agents:
        raise click.UsageError(f"there is no agent {agent_id}")
    show_verification(checked, console)
    if complaints or not checked.holds:
        raise SystemExit(DIFFERENCES_FOUND)
