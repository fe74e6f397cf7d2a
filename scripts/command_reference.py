"""Write the pages of the command line into docs/reference/command-line.md: `python scripts/command_reference.py`."""

from collections.abc import Iterator
from pathlib import Path

import click

from ironcage_http import variables
from ironcage_http.cli import main
from ironcage_http.commands.shell import MEANINGS

PAGE = Path(__file__).parents[1] / "docs" / "reference" / "command-line.md"
MARK = "<!-- made by scripts/command_reference.py -->\n"
_EVERYWHERE = {"--json", "--url", "--help"}


def page() -> str:
    """Return the page with fresh tables."""
    return PAGE.read_text().partition(MARK)[0] + MARK + "\n".join([*_exit_codes(), *_variables(), *_commands()]) + "\n"


def _exit_codes() -> Iterator[str]:
    yield from ("| exit | meaning |", "|---|---|")
    yield from (f"| {code.value} | {meaning} |" for code, meaning in MEANINGS.items())
    yield ""


def _variables() -> Iterator[str]:
    yield from ("| variable | must be | default | what it does |", "|---|---|---|---|")
    for each in variables.OF_THE_COMMAND_LINE:
        yield f"| `{each.name}` | {each.rule} | {each.shown} | {each.note} |"


def _commands() -> Iterator[str]:
    for words, command in leaves():
        yield from ("", f"## `{usage(words, command)}`", "", _cell(command.help or ""))
        options = [each for each in command.params if isinstance(each, click.Option) and not _is_common(each)]
        if options:
            yield from ("", "| option | meaning |", "|---|---|")
            yield from (f"| `{_name(each)}` | {_meaning(each)} |" for each in options)


def leaves() -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Yield every command that does something, with its words."""
    yield from _below((), main)


def _below(words: tuple[str, ...], command: click.Command) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    if not isinstance(command, click.Group):
        yield words, command
        return
    context = click.Context(command)
    for name in command.list_commands(context):
        found = command.get_command(context, name)
        if found is not None:
            yield from _below((*words, name), found)


def usage(words: tuple[str, ...], command: click.Command) -> str:
    """Return how a command is called."""
    arguments = [
        each.make_metavar(click.Context(command)) for each in command.params if isinstance(each, click.Argument)
    ]
    return " ".join(["ironcage", *words, *arguments])


def _is_common(option: click.Option) -> bool:
    return not _EVERYWHERE.isdisjoint(option.opts)


def _name(option: click.Option) -> str:
    names = ", ".join([*option.opts, *option.secondary_opts])
    return names if option.is_flag else f"{names} {option.make_metavar(click.Context(main))}".replace("|", "\\|")


def _meaning(option: click.Option) -> str:
    notes = [option.help or ""]
    if option.required:
        notes.append("Required.")
    if option.multiple:
        notes.append("May be given several times.")
    if option.show_default:
        notes.append(f"Default: {option.default}.")
    return _cell(" ".join(filter(None, notes)))


def _cell(text: str) -> str:
    return " ".join(text.replace("\b", "").split()).replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(page())
