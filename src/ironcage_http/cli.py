"""The command line: what an operator does from a shell.

Exit codes: 0 done; 1 a check found differences; 2 wrong usage; 3 a start-up or storage error, with what to do about it.
"""

import tempfile
from pathlib import Path

import click
from rich.console import Console

from ironcage_core.domain.ids import is_id
from ironcage_core.errors import IroncageError
from ironcage_core.services.key_lending import Sealing
from ironcage_core.services.verify import verify as verify_books
from ironcage_http.demo import Cast, play, show_verification
from ironcage_storage.prices import bundled_prices
from ironcage_storage.sealed.ip_tokens import IpTokenSealer, open_ip_token
from ironcage_storage.sealed.tokens import IcTokenSigner
from ironcage_storage.sealed.vault import AesGcmVault, MasterKey
from ironcage_storage.sqlite.store import SqliteStore
from ironcage_storage.system import SystemClock

DIFFERENCES_FOUND = 1
CANNOT_START = 3


class Refused(click.ClickException):
    """A typed error, told to the operator with its code."""

    exit_code = CANNOT_START

    def __init__(self, error: IroncageError) -> None:
        super().__init__(f"{error.message} ({error.code})")


def _console() -> Console:
    # Never narrower than the widest table, so that a pipe or a small window cuts no number off.
    return Console(width=max(Console().width, 100), highlight=False)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="ironcage")
def main() -> None:
    """Lend AI agents a hard budget and a sealed provider key."""


@main.command()
def demo() -> None:
    """Play one agent's day on a temporary database and check the books."""
    console = _console()
    clock = SystemClock()
    with tempfile.TemporaryDirectory(prefix="ironcage-demo-") as folder:
        file = Path(folder) / "demo.db"
        console.print(f"[bold]database[/]    {file} (removed at the end)")
        with SqliteStore(file, clock=clock) as store:
            cast = Cast(
                store=store,
                sealing=Sealing(AesGcmVault(MasterKey.generate()), IpTokenSealer()),
                signer=IcTokenSigner(MasterKey.generate().to_base64()),
                prices=bundled_prices(),
                unseal=open_ip_token,
                now=clock.now,
            )
            holds = play(cast, console)
    if not holds:
        raise SystemExit(DIFFERENCES_FOUND)


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
