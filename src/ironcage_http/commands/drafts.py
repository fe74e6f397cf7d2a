"""Drafts: a large file is made beside its place under a name that says so, and put there when it is whole.

Nothing is ever overwritten. What a kill leaves behind is called `NAME.draft-...` and may be removed.
"""

import errno
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from ironcage_http.commands.screen import progress
from ironcage_http.commands.shell import Exit, Failure
from ironcage_http.commands.stopping import Work
from ironcage_http.folders import sync_folder
from ironcage_http.private_files import make_private
from ironcage_storage.sqlite.backups import Advance
from ironcage_storage.sqlite.files import companions

_NO_LINKS: Final = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})
"""What file systems without hard links say, such as those of USB sticks."""


@contextmanager
def draft_of(place: Path) -> Iterator[Path]:
    """Make an empty private file beside a place; whatever becomes of it, no draft stays behind."""
    draft = place.with_name(f"{place.name}.draft-{secrets.token_hex(4)}")
    make_private(draft)
    try:
        yield draft
    finally:
        for each in (draft, *companions(draft)):
            each.unlink(missing_ok=True)


@contextmanager
def copying(work: Work, what: str) -> Iterator[Advance]:
    """Show how far a copy has come, and end it where Ctrl-C was pressed."""
    with progress(what) as show:

        def advance(done: int, of: int) -> None:
            work.check()
            show(done, of)

        yield advance


def put_new(draft: Path, place: Path) -> None:
    """Put a draft in its place.

    Raises:
        FileExistsError: Something is there.
        OSError: It cannot be put there.
    """
    try:
        place.hardlink_to(draft)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        make_private(place)  # ours now, and nobody's content
        draft.replace(place)
    sync_folder(place.parent)


@contextmanager
def filing(place: Path) -> Iterator[None]:
    """Tell of a file that cannot be made as a failure that says what to do."""
    try:
        yield
    except FileExistsError:
        raise taken(place) from None
    except FileNotFoundError as error:
        raise Failure(Exit.CANNOT, f"The folder of {place} is not there: make it first", code="NO_FOLDER") from error
    except OSError as error:
        raise Failure(Exit.CANNOT, f"{place} cannot be written: {error.strerror}", code="NOT_WRITABLE") from error


def taken(place: Path) -> Failure:
    """Return how a command ends whose place is taken."""
    return Failure(Exit.CANNOT, f"{place} is there already, and stays: name another place", code="ALREADY_THERE")
