"""Tokens that are shown once: on standard output, or written into a new file that only its owner may read.

The file is made before the token is, so that no token is lost to a folder that is not there; a file that is there
already is never written over.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

import click

from ironcage_http.commands.plain_text import plain
from ironcage_http.commands.screen import Column, show_record
from ironcage_http.commands.shell import Exit, Failure, wants_json
from ironcage_http.private_files import make_private, write_private

TOKEN_OUT: Final = click.option(
    "--token-out",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write the token into this new file, for you alone to read, instead of showing it.",
)
"""The option of every command that makes a token; `token_place` takes it."""

_ONCE: Final = "Keep this token now: it is shown this once and cannot be read again."


class TokenPlace(NamedTuple):
    """Where a token that is made goes: into a file, or to standard output."""

    file: Path | None

    def show(self, record: Mapping[str, Any], columns: Sequence[Column], token: str) -> None:
        """Show what was made; its token too, in the last line of its own, unless it goes into the file.

        Args:
            record: What the server answered, with the token somewhere in it.
            columns: What of it a person is shown, without the token.
            token: The token.

        Raises:
            Failure: It cannot be written.
        """
        if self.file is not None:
            _write(self.file, token)
            show_record({**_without(token, record), "token_file": str(self.file)}, [*columns, _FILE])
            return
        show_record(record, columns)
        click.echo(_ONCE, err=True)
        if not wants_json():
            click.echo(plain(token))


_FILE: Final = Column("token in", "token_file")


@contextmanager
def token_place(file: Path | None) -> Iterator[TokenPlace]:
    """Make the file for a token, and take it away again if no token comes.

    Args:
        file: Where; None for standard output.

    Raises:
        click.UsageError: It is there already, or cannot be made.
    """
    if file is None:
        yield TokenPlace(None)
        return
    try:
        make_private(file)
    except FileExistsError:
        raise click.UsageError(f"{file} is there already, and no token is written over a file: name another") from None
    except OSError as error:
        raise click.UsageError(f"{file} cannot be made: {error.strerror}") from None
    try:
        yield TokenPlace(file)
    finally:
        if file.exists() and not file.stat().st_size:
            file.unlink()


def _write(file: Path, token: str) -> None:
    try:
        write_private(file, f"{token}\n".encode())
    except OSError as error:
        message = f"The token was made, but cannot be written to {file} ({error.strerror}): make another in its place"
        raise Failure(Exit.CANNOT, message, code="TOKEN_NOT_WRITTEN") from error


def _without(token: str, record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record without the members that are the token, however deep."""
    return {
        name: _without(token, value) if isinstance(value, Mapping) else value
        for name, value in record.items()
        if value != token
    }
