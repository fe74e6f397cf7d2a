"""Private files: what only their owner may read, written whole or not at all.

The whole file is written and synced under a name of its own first and then put in its place: whoever reads sees one
complete file, and a crash leaves the old one.
"""

import os
import secrets
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Final

from ironcage_http.folders import sync_folder

_OWNER_ONLY: Final = 0o600
_OTHERS: Final = 0o077
_LARGEST: Final = 65_536
"""Far more than any of our files holds; what is longer is none of them."""


class NotPrivateError(Exception):
    """Something is there that must not be read; the text says what is wrong with it."""


def read_private(path: Path) -> bytes | None:
    """Return what a small file holds; None where there is none.

    Raises:
        NotPrivateError: It is no regular file, open to group or others, or somebody's whose folder it is not.
        OSError: It cannot be read.
    """
    try:
        # Without O_NONBLOCK a named pipe in its place would hang the start.
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    with os.fdopen(handle, "rb") as file:
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode):
            raise NotPrivateError("is not a regular file")
        if found.st_mode & _OTHERS:
            raise NotPrivateError("is open to group or others: run chmod 600 on it")
        # Root reads every file, also one that somebody has put into a folder where all may, such as /tmp.
        if found.st_uid not in {os.geteuid(), path.parent.stat().st_uid}:
            raise NotPrivateError("belongs to somebody else: take it away, or run chown on it")
        return file.read(_LARGEST)


def make_private(path: Path) -> None:
    """Make an empty file that nobody has made before.

    Raises:
        FileExistsError: Something is there.
        OSError: It cannot be made.
    """
    os.close(_made(path))


def _made(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _OWNER_ONLY)


def write_private(path: Path, content: bytes, put: Callable[[Path, Path], object] = Path.replace) -> None:
    """Write a file under a name of its own, then put it in its place; no draft stays behind.

    Args:
        path: Its place, in a folder that is there.
        content: All of it.
        put: Moves the draft to its place, and may leave it to be removed.

    Raises:
        OSError: It cannot be written; what was there still is.
    """
    draft = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    handle = _made(draft)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(handle)
        put(draft, path)
    finally:
        draft.unlink(missing_ok=True)
    sync_folder(path.parent)
