"""`ironcage admin`: accounts without a server, for the first admin in production and for lost passwords.

Whoever can write the database file may do anything with it; these commands only do it right. A password is typed
without an echo, read from a file or made up, and never an argument: other users of the machine can read those.
"""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple, TextIO

import click

from ironcage_core.domain.audit import SYSTEM
from ironcage_core.domain.users import User, password_problem
from ironcage_core.errors.tree import ValidationError
from ironcage_core.ports.storage import UnitOfWork
from ironcage_core.services.accounts import add_user, first_admin, user_problems
from ironcage_core.services.logins import find_account
from ironcage_core.services.user_changes import reset_password
from ironcage_http import variables
from ironcage_http.commands.databases import MAY_BE_NEW, chosen
from ironcage_http.commands.failures import telling
from ironcage_http.commands.screen import tell
from ironcage_http.commands.secret_files import line_of, typed
from ironcage_http.commands.shell import Group
from ironcage_http.commands.stopping import working
from ironcage_http.environment import Environment
from ironcage_storage.sealed.passwords import Argon2PasswordHasher, new_password
from ironcage_storage.sqlite.store import SqliteStore

_UNTOUCHED: Final = "No account was changed: run the command again."


class Secret(NamedTuple):
    """A password, and whether it was made up here: then it is shown once and must be changed."""

    password: str
    is_generated: bool

    def check(self, username: str, email: str) -> dict[str, str]:
        """Return what is wrong with the password, by field."""
        env = Environment(os.environ, [variables.PASSWORD_MIN_LENGTH])
        if env.problems:
            raise click.UsageError(env.problems[0])
        shortest = env.read(variables.PASSWORD_MIN_LENGTH)
        problem = password_problem(self.password, username=username.strip(), email=email.strip(), shortest=shortest)
        return {} if problem is None or self.is_generated else {"password": problem}

    def __repr__(self) -> str:
        return f"Secret(is_generated={self.is_generated})"


@click.group(cls=Group)
def admin() -> None:
    """Add admins and reset passwords on the database file, with or without a server running."""


def _with_password(command: Callable[..., Any]) -> Callable[..., Any]:
    file = click.option(
        "--password-file",
        type=click.File(encoding="utf-8"),
        help="Read the password from this file, - for standard input.",
    )
    generate = click.option("--generate", is_flag=True, help="Make a password up and print it once.")
    return file(generate(command))


@admin.command()
@MAY_BE_NEW
@click.option("--email", required=True)
@click.option("--username", required=True)
@_with_password
def create(database: Path | None, email: str, username: str, password_file: TextIO | None, generate: bool) -> None:
    """Add an admin to DATABASE, which is made if it is missing.

    Without DATABASE it is the one of DATABASE_URL.
    """
    file = chosen(database, may_be_new=True)
    secret = _secret(password_file, generate=generate)
    with working(_UNTOUCHED) as work, telling():
        if problems := {**user_problems(username, email, "admin"), **secret.check(username, email)}:
            raise ValidationError(problems)
        password_hash = Argon2PasswordHasher().hash(secret.password)
        add = partial(
            _add_admin, username=username, email=email, password_hash=password_hash, force_change=secret.is_generated
        )
        work.check()
        with SqliteStore(file) as store:
            user = store.write(add)
        _tell(f"{user.username} is an admin now", user, secret)


def _add_admin(uow: UnitOfWork, *, username: str, email: str, password_hash: str, force_change: bool) -> User:
    first = first_admin(uow, username=username, email=email, password_hash=password_hash, force_change=force_change)
    return first or add_user(
        uow,
        username=username,
        email=email,
        role="admin",
        password_hash=password_hash,
        force_password_change=force_change,
        actor=SYSTEM,
    )


@admin.command("reset-password")
@click.argument(
    "databases", nargs=-1, metavar="[DATABASE]", type=click.Path(exists=True, dir_okay=False, path_type=Path)
)
@click.argument("user")
@_with_password
def reset(databases: tuple[Path, ...], user: str, password_file: TextIO | None, generate: bool) -> None:
    """Give USER of DATABASE, a username or an email, a new password; sessions and a lock end.

    Without DATABASE it is the one of DATABASE_URL.
    """
    if len(databases) > 1:
        raise click.UsageError("one database and one user: a username or an email with blanks needs quotes")
    file = chosen(databases[0] if databases else None)
    secret = _secret(password_file, generate=generate)
    with working(_UNTOUCHED) as work, telling():
        with SqliteStore(file, must_exist=True) as store:
            found = store.read(partial(find_account, identifier=user))
            if found is None:
                raise click.UsageError(f"there is no user {user} in {file}: give a username or an email")
            if problems := secret.check(found.username, found.email):
                raise ValidationError(problems)
            new_hash = Argon2PasswordHasher().hash(secret.password)
            force = secret.is_generated
            renew = partial(reset_password, user_id=found.id, new_hash=new_hash, force_change=force, actor=SYSTEM)
            work.check()
            store.write(renew)
        _tell(f"{found.username} has a new password", found, secret)


def _secret(file: TextIO | None, *, generate: bool) -> Secret:
    if file is not None and generate:
        raise click.UsageError("only one of --password-file and --generate may be given")
    if generate:
        return Secret(new_password(), is_generated=True)
    if file is not None:
        return Secret(line_of(file, "password"), is_generated=False)
    otherwise = "give --password-file or --generate"
    return Secret(typed("password", otherwise, confirmation_prompt=True), is_generated=False)


def _tell(done: str, user: User, secret: Secret) -> None:
    facts: dict[str, object] = {"id": user.id, "username": user.username, "email": user.email, "role": user.role}
    facts["force_password_change"] = secret.is_generated
    if secret.is_generated:
        done += f"; password {secret.password} (to be changed at the first login)"
        facts["password"] = secret.password
    tell(done, **facts)
