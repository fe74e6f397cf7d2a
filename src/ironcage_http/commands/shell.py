"""The shell's side of every command: exit codes, `--json`, Ctrl-C, and loading no more than the command that runs.

With `--json` the standard output holds JSON alone, and a failure is the one shape of errors on standard error.
"""

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import IntEnum
from importlib import import_module
from io import TextIOWrapper
from pathlib import Path
from typing import Any, Final, NamedTuple, NoReturn, TextIO

import click
import msgspec

from ironcage_http.commands.plain_text import plain_json, plain_lines


class Exit(IntEnum):
    """How a command ends."""

    DONE = 0
    DIFFERENCES = 1
    USAGE = 2
    CANNOT = 3
    REFUSED = 4
    LOGIN = 5
    UNREACHABLE = 6
    INTERRUPTED = 130


MEANINGS: Final[Mapping[Exit, str]] = {
    Exit.DONE: "done",
    Exit.DIFFERENCES: "a check found something that is wrong",
    Exit.USAGE: "wrong usage",
    Exit.CANNOT: "a start-up, file or storage error; the message says what to do",
    Exit.REFUSED: "the server refused what was asked for",
    Exit.LOGIN: "no login, or one that is over: run `ironcage login`",
    Exit.UNREACHABLE: "the server does not answer",
    Exit.INTERRUPTED: "stopped by Ctrl-C",
}
"""What each exit code says, for the reference."""

_JSON: Final = "ironcage.json"
_OF_A_COMMAND: Final = ("--json", "--url")
_STOPPED: Final = "Stopped. A request that was on its way may have been carried out: look before you ask again."


class Failure(click.ClickException):
    """What ends a command: an exit code, a message that says what to do, and facts for programs."""

    def __init__(
        self, exit_code: Exit, message: str, *, code: str, details: Mapping[str, object] | None = None
    ) -> None:
        super().__init__(message)
        self.exit_code = exit_code  # type: ignore[misc]  # click's own subclasses set it so too
        self.code = code
        self.details = details or {}


class Command(click.Command):
    """A command that also takes `--json`."""

    def __init__(self, *args: Any, **options: Any) -> None:  # noqa: ANN401 - whatever click's takes
        super().__init__(*args, **options)
        note = "Print JSON, for programs."
        self.params.append(
            click.Option(["--json"], is_flag=True, expose_value=False, callback=_remember_json, help=note)
        )


class Commands(click.Group):
    """Commands that share a name; what each of them takes is told of if it comes before the command."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read what stands before the command."""
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            name = error.option_name
            if name not in _OF_A_COMMAND:
                raise
            raise click.UsageError(f"{name} comes after the command: {ctx.command_path} COMMAND {name}", ctx) from None


class Group(Commands):
    """A group of such commands."""

    command_class = Command
    group_class = type


class Place(NamedTuple):
    """Where a command is to be found: its module, and its name there."""

    module: str
    name: str


class Main(Commands):
    """The program itself: each command is imported when it is asked for.

    Args:
        places: Where the commands are, by their names.
    """

    command_class = Command

    def __init__(self, *args: Any, places: Mapping[str, Place], **options: Any) -> None:  # noqa: ANN401 - click's
        super().__init__(*args, **options)
        self._places = places

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return every name."""
        return sorted({*self._places, *super().list_commands(ctx)})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command by its name."""
        place = self._places.get(cmd_name)
        if place is None:
            return super().get_command(ctx, cmd_name)
        command: click.Command = getattr(import_module(place.module), place.name)
        return command

    def make_context(self, *args: Any, **options: Any) -> click.Context:  # noqa: ANN401 - click's
        """Read the command line; the help is shown here."""
        with _maybe_unread():
            return super().make_context(*args, **options)

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401 - click's
        """Run the command."""
        with _maybe_unread():
            return super().invoke(ctx)

    def main(self, args: Sequence[str] | None = None, *rest: Any, **options: Any) -> NoReturn:  # noqa: ANN401 - click's
        """Run a command line and exit."""
        given = list(sys.argv[1:] if args is None else args)
        options["standalone_mode"] = False
        _prepare_streams()
        with _ending(as_json="--json" in given):
            code = super().main(given, *rest, **options)
        raise SystemExit(code if isinstance(code, int) else Exit.DONE)


@contextmanager
def _maybe_unread() -> Iterator[None]:
    """An output that nobody reads any more is no failure; click and rich would make it one."""
    try:
        yield
    except (BrokenPipeError, SystemExit) as error:
        if isinstance(error, SystemExit) and not isinstance(error.__context__, BrokenPipeError):
            raise
        _forget_output(sys.stdout)
        raise click.exceptions.Exit(Exit.DONE) from None


@contextmanager
def _ending(*, as_json: bool) -> Iterator[None]:
    """Turn what ends a command into what it says and its exit code."""
    try:
        yield
    except click.ClickException as error:
        _tell(error, as_json=as_json)
        raise SystemExit(error.exit_code) from error
    except (click.Abort, KeyboardInterrupt):
        _tell(Failure(Exit.INTERRUPTED, _STOPPED, code="INTERRUPTED"), as_json=as_json)
        raise SystemExit(Exit.INTERRUPTED) from None
    except UnicodeEncodeError as error:
        _tell(click.UsageError("what was given is not UTF-8: look at the names, and at LANG"), as_json=as_json)
        raise SystemExit(Exit.USAGE) from error
    except OSError as error:
        if error.filename is None:
            _forget_output(sys.stdout)
        _tell(_failed(error), as_json=as_json)
        raise SystemExit(Exit.CANNOT) from error


def _failed(error: OSError) -> Failure:
    what = f"{error.filename or 'The output'} cannot be used: {error.strerror}"
    return Failure(Exit.CANNOT, f"{what}. What was asked for may have been done: look first", code="SYSTEM")


def _prepare_streams() -> None:
    """Give what is closed a place to go to, and let a terminal that cannot show a character not end a command."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # closed: what would be told there would come out elsewhere
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115 - until the end
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _forget_output(stream: TextIO) -> None:
    """Let the flush at the exit not fail as well."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _tell(error: click.ClickException, *, as_json: bool) -> None:
    try:
        _show(error, as_json=as_json)
    except OSError:  # the exit code tells all the same
        _forget_output(sys.stderr)


def _show(error: click.ClickException, *, as_json: bool) -> None:
    if not as_json:
        error.message = plain_lines(error.message)  # type: ignore[misc]  # a server's words are in it
        error.show()
        return
    code = error.code if isinstance(error, Failure) else "USAGE"
    details = error.details if isinstance(error, Failure) else {}
    told = {"error": error.format_message(), "code": code, "details": details}
    click.echo(plain_json(msgspec.json.encode(told, enc_hook=str)), err=True)


def _remember_json(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    ctx.meta[_JSON] = value


def wants_json() -> bool:
    """Tell whether the command that runs was asked for JSON."""
    return bool(click.get_current_context().meta.get(_JSON))


@contextmanager
def stoppable(what_is_left: str) -> Iterator[None]:
    """Say what Ctrl-C leaves behind, in a stretch of work of which that is known.

    Args:
        what_is_left: One or two sentences for a person, with what to do next.
    """
    try:
        yield
    except KeyboardInterrupt:
        raise Failure(Exit.INTERRUPTED, f"Stopped. {what_is_left}", code="INTERRUPTED") from None


@contextmanager
def needing(extra: str) -> Iterator[None]:
    """Import what a bare install does not have.

    Args:
        extra: The extra of the distribution that brings it.
    """
    try:
        yield
    except ModuleNotFoundError as missing:
        if (missing.name or "").startswith("ironcage"):
            raise
        hint = f"{missing.name} is missing: pip install 'ironcage[{extra}]'"
        raise Failure(Exit.CANNOT, hint, code="NOT_INSTALLED") from missing
