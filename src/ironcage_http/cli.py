"""The command line: what an operator does from a shell, and anybody over HTTP with a stored login.

Each command stands in a module of `commands`, and no other is imported to run it.
"""

from typing import Final

import click

from ironcage_http.commands.shell import Main, Place
from ironcage_http.hardening import leave_no_core

_HERE: Final = "ironcage_http.commands"

PLACES: Final = {
    name: Place(f"{_HERE}.{module}", attribute)
    for module, commands in {
        "server": {"serve": "serve", "demo": "demo"},
        "books": {"verify": "verify", "repair": "repair", "rebuild-rollups": "rebuild_rollups"},
        "backups": {"backup": "backup"},
        "restores": {"restore": "restore"},
        "migrations": {"migrate": "migrate"},
        "keys": {"keys": "keys"},
        "doctor": {"doctor": "doctor"},
        "admin": {"admin": "admin"},
        "login": {"login": "login", "logout": "logout", "whoami": "whoami"},
        "api": {"api": "api"},
        "budget": {"budget": "budget"},
        "requests": {"requests": "requests"},
        "limits": {"limits": "limits"},
        "usage": {"usage": "usage"},
        "audit": {"audit": "audit"},
        "watch": {"watch": "watch"},
        "completion": {"completion": "completion"},
        "agents": {"agents": "agents"},
        "providers": {"providers": "providers"},
        "projects": {"projects": "projects"},
        "tokens": {"tokens": "tokens"},
    }.items()
    for name, attribute in commands.items()
}
"""Where each command is."""


@click.group(cls=Main, places=PLACES, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="ironcage")
def main() -> None:
    """Lend AI agents a hard budget and a sealed provider key."""
    leave_no_core()  # there is hardly a command without a secret
