"""Copies of secrets files: one goes beside the backup or the database it belongs to, and over no other one."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ironcage_http.commands.drafts import filing, put_new
from ironcage_http.commands.shell import Exit, Failure
from ironcage_http.private_files import read_private, write_private
from ironcage_http.secrets_file import secrets_beside, secrets_path


def secrets_of(database: Path) -> bytes:
    """Return the content of the secrets file of a database.

    Raises:
        SecretsFileError: It cannot be used.
        Failure: There is none.
    """
    path = secrets_path(database)
    is_sound = secrets_beside(database, may_create=False) is not None
    content = read_private(path) if is_sound else None
    if content is None:
        hint = f"There is no {path}: leave --with-secrets away where the secrets are in variables"
        raise Failure(Exit.CANNOT, hint, code="NO_SECRETS_FILE")
    return content


def has_secrets(database: Path, content: bytes) -> bool:
    """Tell whether a secrets file beside a database is this one; False where there is none.

    Raises:
        SecretsFileError: It cannot be used.
        Failure: It is another one.
    """
    if secrets_beside(database, may_create=False) is None:
        return False
    if secrets_of(database) != content:
        path = secrets_path(database)
        hint = f"{path} holds other secrets, and stays: move it away yourself if it is of no use any more"
        raise Failure(Exit.CANNOT, hint, code="OTHER_SECRETS")
    return True


@contextmanager
def put_secrets(content: bytes | None, database: Path) -> Iterator[None]:
    """Put a secrets file beside a database for what follows, and take it away again if that fails.

    Args:
        content: None where there is nothing to put.
        database: What it belongs to.
    """
    if content is None:
        yield
        return
    path = secrets_path(database)
    with filing(path):
        write_private(path, content, put_new)
    try:
        yield
    except BaseException:
        path.unlink(missing_ok=True)
        raise
