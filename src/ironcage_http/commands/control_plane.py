"""The control plane that a command speaks to, and what its refusals mean at a shell.

The address is that of `--url`, else of `IRON_URL`, else of the stored login, else a server of this machine. Who asks is
the API token of `IRON_API_TOKEN`, else the stored login where it is of that very address.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from ironcage_http import variables as v
from ironcage_http.answers import AnsweredError, NoAnswerError
from ironcage_http.commands.shell import Command, Exit, Failure, Group, needing
from ironcage_http.environment import Environment
from ironcage_http.logins import Login, LoginFile, LoginFileError

if TYPE_CHECKING:
    from ironcage_http.remote import Remote

HERE: Final = "http://127.0.0.1:8080"
_URL: Final = "ironcage.url"
_LOG_IN: Final = "run ironcage login"
_ODD: Final = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
"""What comes of JSON that has another shape than it must have."""


class RemoteCommand(Command):
    """A command that asks a control plane; it also takes `--url`."""

    def __init__(self, *args: Any, **options: Any) -> None:  # noqa: ANN401 - whatever click's takes
        super().__init__(*args, **options)
        note = "Where the control plane is, instead of the one that you are logged in to."
        self.params.append(click.Option(["--url"], expose_value=False, callback=_remember_url, help=note))

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401 - click's
        """Run it."""
        with understanding():
            return super().invoke(ctx)


class RemoteGroup(Group):
    """A group of such commands."""

    command_class = RemoteCommand
    group_class = type


def _remember_url(ctx: click.Context, _: click.Parameter, value: str | None) -> None:
    ctx.meta[_URL] = value


def login_file() -> LoginFile:
    """Return where the login is stored."""
    folder = _environment().read(v.CONFIG_FOLDER)
    return LoginFile(Path(click.get_app_dir("ironcage") if folder is None else folder))


@contextmanager
def control_plane() -> Iterator["Remote"]:
    """Open the way to the control plane, and turn whatever it refuses into how the command ends."""
    with needing("cli"):
        from ironcage_http.remote import Remote, client_of  # noqa: PLC0415 - a bare install has no httpx
    with told():
        file = login_file()
        stored = file.load()
        url, login = _whom_to_ask(stored)
        with client_of(url) as client:
            remote = Remote(client, url, login, file)
            with answered(remote.url, is_known=login is not None):
                yield remote


def api_url(text: str, *, allows_http: bool) -> str:
    """Return where the interface is, for an address that somebody gave.

    Raises:
        click.UsageError: It is no address, or would send what is secret for everybody to read.
    """
    with needing("cli"):
        from ironcage_http.client_target import api_url as checked  # noqa: PLC0415 - a bare install has no httpx
    try:
        return str(checked(text, allows_http=allows_http, what="what you log in with", permission="give --allow-http"))
    except ValueError as error:
        raise click.UsageError(str(error)) from None


def _whom_to_ask(stored: Login | None) -> tuple[str, Login | None]:
    env = _environment()
    named = click.get_current_context().meta.get(_URL) or env.read(v.CLI_URL)
    # An address that a login was stored for was judged then.
    is_stored = stored is not None and named is None
    url = stored.url if stored is not None and is_stored else api_url(named or HERE, allows_http=False)
    token = env.read(v.CLI_TOKEN)
    if token is not None:
        return url, Login(url, None, token, None)
    return url, stored if stored is not None and stored.url == url else None


def _environment() -> Environment:
    env = Environment(os.environ, v.OF_THE_COMMAND_LINE)
    if env.problems:
        raise click.UsageError("; ".join(env.problems))
    return env


@contextmanager
def told() -> Iterator[None]:
    """Tell what is wrong with the stored login."""
    try:
        yield
    except LoginFileError as error:
        if isinstance(error.__cause__, OSError):
            hint = f"{error}; {v.CONFIG_FOLDER.name} may name another folder"
            raise Failure(Exit.CANNOT, hint, code="LOGIN_FILE") from error
        raise Failure(Exit.LOGIN, str(error), code="LOGIN_FILE") from error


@contextmanager
def answered(url: str, *, is_known: bool = True) -> Iterator[None]:
    """Tell what the control plane at an address refuses, and that it does not answer.

    Args:
        url: Where it is.
        is_known: Whether it was told who asks.
    """
    try:
        yield
    except NoAnswerError as error:
        message = f"{url} does not answer as a control plane: {error}. Is the server running, and is that its address?"
        raise Failure(Exit.UNREACHABLE, message, code="UNREACHABLE", details={"url": url}) from error
    except AnsweredError as error:
        raise _failure(error, url, is_known=is_known) from error


@contextmanager
def understanding() -> Iterator[None]:
    """Tell of an answer that lacks what a control plane answers, or has something else in its place."""
    try:
        yield
    except UnicodeEncodeError:  # of what was given, not of an answer
        raise
    except _ODD as error:
        message = (
            f"The answer is not one of a control plane ({type(error).__name__}: {error}). Is that its address, and is"
            " it of the version of this program?"
        )
        raise Failure(Exit.UNREACHABLE, message, code="UNREACHABLE") from error


def _failure(error: AnsweredError, url: str, *, is_known: bool) -> Failure:
    """Return how a command ends that the server refused."""
    message, exit_code = f"{error.message} ({error.code})", Exit.REFUSED
    if error.status == 401:
        exit_code = Exit.LOGIN
        message += f": {_LOG_IN} again" if is_known else f": {_LOG_IN} {url.removesuffix('/api/v1')}"
    elif error.code == "PASSWORD_CHANGE_REQUIRED":
        exit_code = Exit.LOGIN
        message += f": {_LOG_IN} and choose one"
    elif "retry_after" in error.details:
        message += f"; try again in {error.details['retry_after']} s"
    fields = error.details.get("fields")
    if isinstance(fields, dict) and len(fields) > 1:  # the message tells of the first
        message += "".join(f"\n  {name}: {problem}" for name, problem in fields.items())
    return Failure(exit_code, message, code=error.code, details=error.details)
