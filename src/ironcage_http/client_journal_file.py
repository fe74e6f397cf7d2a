"""The file of a journal: a line is on disk when it is kept, and the lock on the file says that its session lives.

Threads that write at once share a sync. Where a write or a sync has failed nothing is written behind it: what is open
is still known here, and the next write puts a new file in the place of the old one, as it does where a long file says
little. A lock is held on a file before it has its name, so that nobody else can take it for a dead session's.
"""

import fcntl
import logging
import os
import re
import secrets
import threading
import weakref
from io import FileIO
from pathlib import Path
from typing import Final

from ironcage_core.errors.runtime import OutboxError
from ironcage_http.client_journal import OpenItems, Record, line_of, lines_of
from ironcage_http.folders import sync_folder

logger = logging.getLogger(__name__)

JOURNAL: Final = ".journal"
DRAFT: Final = ".draft"

_ACCOUNT: Final = re.compile(r"[a-z0-9_-]{1,80}")
_LONG: Final = 2**20
_FOLDER_MODE: Final = 0o700
_FILE_MODE: Final = 0o600
_FLAGS: Final = os.O_RDWR | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


class JournalFile:
    """The journal of one living session; safe in many threads, closed in a fork.

    Args:
        folder: Where the journals are; it is made if there is none.
        account: 1 to 80 of `a-z`, `0-9`, `_`, `-`.

    Raises:
        OutboxError: The folder cannot be made or written.
        ValueError: The account is no such name.
    """

    def __init__(self, folder: Path, account: str) -> None:
        if not _ACCOUNT.fullmatch(account):
            raise ValueError("an account has 1 to 80 characters of a-z, 0-9, _ and -")
        self._stem = folder / account
        self.path = self._new_path(JOURNAL)
        self.items = OpenItems()
        self._writing = threading.Lock()  # taken before the other one, where both are
        self._syncing = threading.Lock()
        self._file: FileIO | None = None
        self._written = self._synced = 0  # positions: all bytes ever written, in whichever file
        self._size = 0
        self._check_at = _LONG
        self._is_behind = False
        try:
            _make_folder(folder)
            self._rewrite()
        except OSError as error:
            raise self.refusal(error) from error
        _JOURNALS.add(self)

    def keep(self, *records: Record) -> None:
        """Write records; they are on disk when this returns.

        Raises:
            OutboxError: They are not; they count here, and are written with the next write that works.
            ValueError: One could not be read again; nothing was changed.
        """
        data = b"".join(map(line_of, records))
        self.check_open()
        with self._writing:
            file = self.check_open()
            for record in records:
                self.items.apply(record)
            try:
                self._append(file, data)
            except OSError as error:
                raise self.refusal(error) from error
            position = self._written
        self._sync(position)

    def withdraw(self, request_id: str) -> None:
        """Forget an intent that could not be kept; if it is in the file nevertheless, the next write takes it out."""
        if self._file is None:
            return  # in a fork somebody who is not here may hold the lock for ever
        with self._writing:
            self.items.intents.pop(request_id, None)
            self._is_behind = True

    def close(self) -> None:
        """Let go of the file, and remove it if nothing in it is open. A second time it does nothing."""
        if self._file is None:
            return
        with self._writing:
            if self._file is None:
                return
            try:
                self._end(self._file)
            except OSError as error:
                logger.warning("the journal %s could not be closed as it should: %s", self.path, error.strerror)
            with self._syncing:
                self._file.close()
                self._file = None

    def check_open(self) -> FileIO:
        """Return the file.

        Raises:
            OutboxError: It is closed.
        """
        if self._file is None:
            raise OutboxError("The outbox is closed, or another process's from before a fork: open a session here")
        return self._file

    def refusal(self, error: OSError) -> OutboxError:
        """Return the refusal to spend what cannot be kept."""
        return OutboxError(
            f"What is spent cannot be kept in {self.path}: {error.strerror}; make the folder writable and free space"
            " on its disk, or choose another folder with outbox=...",
            path=str(self.path),
        )

    def abandon(self) -> None:
        """Leave the file and its lock to the process that this one was forked from."""
        file, self._file = self._file, None
        if file is not None:
            file.close()

    def _end(self, file: FileIO) -> None:
        if not self.items:
            self.path.unlink(missing_ok=True)
            sync_folder(self.path.parent)
        elif self._must_rewrite(file):
            self._rewrite()
        else:
            os.fsync(file.fileno())
        self._synced = self._written

    def _append(self, file: FileIO, data: bytes) -> None:
        if self._must_rewrite(file):
            self._rewrite()
            return
        try:
            _write(file, data)
        except BaseException:
            self._is_behind = True  # a part of it may be in the file: nothing may follow that
            raise
        self._written += len(data)
        self._size += len(data)
        if self._size >= self._check_at:
            self._shorten()

    def _must_rewrite(self, file: FileIO) -> bool:
        """Tell whether the file says something else than what is open, or whether somebody has removed it."""
        return self._is_behind or not os.fstat(file.fileno()).st_nlink

    def _shorten(self) -> None:
        size = len(lines_of(self.items))
        self._check_at = max(_LONG, 2 * size)
        if 2 * size < self._size:
            try:
                self._rewrite()
            except OSError as error:
                self._check_at = self._size + _LONG
                logger.warning("the journal %s could not be shortened: %s", self.path, error.strerror)

    def _rewrite(self) -> None:
        data = lines_of(self.items)
        draft, file = self._new_draft()
        try:
            _write(file, data)
            os.fsync(file.fileno())
            draft.rename(self.path)
        except BaseException:
            file.close()
            draft.unlink(missing_ok=True)
            raise
        with self._syncing:
            old, self._file = self._file, file
            if old is not None:
                old.close()
            self._size = len(data)
            self._check_at = max(_LONG, 2 * self._size)
            self._is_behind = True
            sync_folder(self.path.parent)
            self._is_behind = False
            self._synced = self._written

    def _sync(self, position: int) -> None:
        """Wait until all up to a position is on disk; whoever syncs does so for all who wrote before."""
        if self._synced >= position:
            return
        with self._syncing:
            if self._synced >= position:
                return
            file = self.check_open()
            if self._is_behind:  # after a sync that failed another one succeeds, whatever is on disk
                raise self.refusal(OSError(0, "an earlier write failed"))
            reached = self._written
            try:
                os.fsync(file.fileno())
            except OSError as error:
                self._is_behind = True
                raise self.refusal(error) from error
            self._synced = reached

    def _new_draft(self) -> tuple[Path, FileIO]:
        while True:  # somebody who adopts may take a draft before we lock it
            path = self._new_path(DRAFT)
            file = _opened(path, os.O_CREAT | os.O_EXCL)
            if _is_locked(file, path):
                return path, file
            file.close()

    def _new_path(self, suffix: str) -> Path:
        return self._stem.with_name(f"{self._stem.name}-{secrets.token_hex(8)}{suffix}")


_JOURNALS: Final[weakref.WeakSet[JournalFile]] = weakref.WeakSet()


def _abandon_all() -> None:
    for journal in list(_JOURNALS):
        journal.abandon()


os.register_at_fork(after_in_child=_abandon_all)


def take(path: Path) -> FileIO | None:
    """Open a file that no living session holds and lock it; None if one does, or if it is gone by now."""
    try:
        file = _opened(path)
    except FileNotFoundError:
        return None
    if _is_locked(file, path):
        return file
    file.close()
    return None


def append_shared(path: Path, line: bytes) -> None:
    """Append a line to a file of many sessions; what a full disk has left of an earlier line is not glued to it."""
    is_new = not path.exists()
    with _opened(path, os.O_CREAT) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        size = os.fstat(file.fileno()).st_size
        is_whole = not size or os.pread(file.fileno(), 1, size - 1) == b"\n"
        _write(file, line if is_whole else b"\n" + line)
        os.fsync(file.fileno())
    if is_new:
        sync_folder(path.parent)


def _make_folder(folder: Path) -> None:
    if not folder.is_dir():
        folder.mkdir(mode=_FOLDER_MODE, parents=True, exist_ok=True)
        sync_folder(folder.parent)


def _opened(path: Path, flags: int = 0) -> FileIO:
    return FileIO(os.open(path, _FLAGS | flags, _FILE_MODE), "r+")


def _is_locked(file: FileIO, path: Path) -> bool:
    """Lock a file; False if another has it, or if the path has become another file before we had it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.path.samestat(os.fstat(file.fileno()), path.lstat())
    except (BlockingIOError, FileNotFoundError):
        return False
    except OSError:
        file.close()
        raise


def _write(file: FileIO, data: bytes) -> None:
    rest = memoryview(data)
    while rest:  # a disk that is nearly full takes a part, and says why only when it is asked again
        rest = rest[os.write(file.fileno(), rest) :]
