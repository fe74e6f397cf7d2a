"""`ironcage completion`: what a shell needs to complete commands, options and choices."""

import click
from click.shell_completion import get_completion_class

from ironcage_http.commands.screen import show_json
from ironcage_http.commands.shell import Command, wants_json


@click.command(cls=Command)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion script of SHELL.

    For bash: eval "$(ironcage completion bash)" in ~/.bashrc.
    """
    kind = get_completion_class(shell)
    if kind is None:
        raise click.UsageError(f"{shell} is not known")
    root = click.get_current_context().find_root().command
    script = kind(root, {}, "ironcage", "_IRONCAGE_COMPLETE").source()
    if wants_json():
        show_json({"shell": shell, "script": script})
    else:
        click.echo(script)
