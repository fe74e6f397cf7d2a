"""`ironcage login`, `logout` and `whoami`: who you are to a control plane, stored for the other commands.

A password is typed without an echo or read from a file, and never stored; what is stored is a session, which ends by
itself, or an API token.
"""

from typing import TYPE_CHECKING, TextIO

import click

from ironcage_http import variables as v
from ironcage_http.answers import AnsweredError, NoAnswerError
from ironcage_http.commands.control_plane import (
    HERE,
    RemoteCommand,
    answered,
    api_url,
    control_plane,
    login_file,
    told,
    understanding,
)
from ironcage_http.commands.screen import Column, show_record, tell, yes
from ironcage_http.commands.secret_files import line_of, typed
from ironcage_http.commands.shell import Command, Exit, Failure, needing
from ironcage_http.logins import Login, login_of

if TYPE_CHECKING:
    from ironcage_http.remote import Remote


@click.command(cls=Command)
@click.argument("url", default=HERE)
@click.option("-u", "--username", help="A username or an email.")
@click.option("--password-file", type=click.File(), help="Read the password from this file, - for standard input.")
@click.option("--new-password-file", type=click.File(), help="Where a password must be changed: the one to choose.")
@click.option("--token-file", type=click.File(), help="Store the API token in this file instead of opening a session.")
@click.option("--allow-http", is_flag=True, help="Send secrets without TLS to another machine of a trusted network.")
def login(
    url: str,
    username: str | None,
    password_file: TextIO | None,
    new_password_file: TextIO | None,
    token_file: TextIO | None,
    allow_http: bool,
) -> None:
    """Log in to the control plane at URL, and store the session.

    URL is http://127.0.0.1:8080 unless you say otherwise.
    """
    if token_file is not None and (username or password_file or new_password_file):
        raise click.UsageError("an API token comes alone: it says by itself whose it is")
    base = api_url(url, allows_http=allow_http)
    with needing("cli"):
        from ironcage_http.remote import Remote, client_of  # noqa: PLC0415 - a bare install has no httpx
    with told(), client_of(base) as client, answered(base), understanding():
        nobody = Remote(client, base)
        if token_file is not None:
            found = Login(base, None, _token_of(token_file), None)
        else:
            found = _with_password(nobody, username, password_file, new_password_file)
        me = nobody.acting_as(found).get("/users/me")
        done = f"logged in to {base} as {me['username']} ({me['role']})"
        file = login_file()
        with file.locked():  # a renewal that is under way would put the old login back
            file.save(found)
    tell(done, url=base, user=me)


def _token_of(file: TextIO) -> str:
    try:
        return str(v.CLI_TOKEN.parse(line_of(file, "token").strip()))
    except ValueError:
        raise click.UsageError(f"an API token must be {v.CLI_TOKEN.rule}") from None


def _with_password(nobody: "Remote", username: str | None, file: TextIO | None, new_file: TextIO | None) -> Login:
    username = username or typed("username", "give --username", hide_input=False)
    password = line_of(file, "password") if file else typed("password", "give --password-file")
    found, must_change = _open(nobody, username, password)
    if not must_change:
        return found
    chosen = line_of(new_file, "new password") if new_file else _choose()
    nobody.acting_as(found).post("/auth/change-password", current_password=password, new_password=chosen)
    return found  # of all sessions this one goes on


def _open(nobody: "Remote", username: str, password: str) -> tuple[Login, bool]:
    """Return a new session, and whether its password must be changed first."""
    name = {"email" if "@" in username else "username": username}
    session = nobody.post("/auth/login", **name, password=password)
    try:
        username, must_change = session["user"]["username"], session["password_change_required"]
    except (KeyError, TypeError):  # some other service took the request for one of its own
        raise NoAnswerError("answered, and not as ironcage does") from None
    return login_of(nobody.url, username, session), must_change


def _choose() -> str:
    click.echo("This password must be changed at the first login.", err=True)
    return typed("new password", "give --new-password-file", confirmation_prompt=True)


@click.command(cls=Command)
def logout() -> None:
    """End the stored session, on the server too, and forget it."""
    with told():
        file = login_file()
        with file.locked():  # likewise
            stored = file.load()
            if stored is None:
                tell("you were not logged in", ended=False)
                return
            ended = stored.refresh_token is not None and _end(stored)
            file.remove()
    what = "logged out" if ended else "the login is forgotten here; on the server it ends by itself or was no session"
    tell(f"{what} ({stored.url})", ended=ended)


def _end(stored: Login) -> bool:
    """Tell whether the server has ended the session; without an answer the login is forgotten all the same."""
    with needing("cli"):
        from ironcage_http.remote import Remote, client_of  # noqa: PLC0415 - a bare install has no httpx
    with client_of(stored.url) as client:
        try:
            Remote(client, stored.url).post("/auth/logout", refresh_token=stored.refresh_token)
        except (AnsweredError, NoAnswerError):
            return False
    return True


@click.command(cls=RemoteCommand)
def whoami() -> None:
    """Show as whom you are logged in, and where."""
    with control_plane() as remote:
        if remote.login is None:
            raise Failure(Exit.LOGIN, f"You are not logged in to {remote.url}: run ironcage login", code="NO_LOGIN")
        me = remote.get("/users/me")
    columns = (
        Column("server", "url"),
        Column("user", "username"),
        Column("email", "email"),
        Column("id", "id"),
        Column("role", "role"),
        Column("must change password", "force_password_change", yes),
    )
    show_record({"url": remote.url, **me}, columns)
