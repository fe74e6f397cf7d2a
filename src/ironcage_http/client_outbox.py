"""The outbox of a runtime: what it has spent and not reported outlives its process, in a journal on disk.

A session keeps one journal in its folder and holds its lock. What a session finds without a lock was left by a dead
one: it writes all that is open of it into its own journal before it removes it, so that a call is never in none of
them, and one that is in both is one by its request id.

Source: contract budget.md 10 (runtime killed) and 11 (never drop; dead-letter log).
"""

import logging
import re
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from ironcage_core.errors.runtime import OutboxError
from ironcage_core.runtime.lease_session import Spend
from ironcage_http.client_journal import (
    AckLine,
    Intent,
    IntentLine,
    LeaseLine,
    OpenItems,
    Record,
    ReturnedLine,
    SpendLine,
    VoidLine,
    read_journal,
)
from ironcage_http.client_journal_file import DRAFT, JOURNAL, JournalFile, append_shared, take
from ironcage_http.folders import sync_folder
from ironcage_storage.system import SystemClock

__all__ = ["DEAD_LETTERS", "Intent", "Left", "Outbox"]

logger = logging.getLogger(__name__)

DEAD_LETTERS: Final = "dead-letters.jsonl"
"""The file beside the journals with what the control plane will never take."""

_DAMAGED: Final = ".damaged"


class Left(NamedTuple):
    """What dead sessions left; it is in our own journal now."""

    intents: Sequence[Intent]
    spends: Sequence[Spend]
    lease_ids: Sequence[str]


class Outbox:
    """The journal of one session; safe in many threads, closed in a fork.

    What a method was given is on disk when it returns. Each raises an `OutboxError` where that cannot be, or after
    `close`; a record other than an intent counts nevertheless, and is written with the next write that works.

    Args:
        folder: Where the journals are; it is made if there is none.
        account: Whose sessions adopt from each other: 1 to 80 of `a-z`, `0-9`, `_`, `-`.

    Raises:
        OutboxError: The folder cannot be made or written; the message says what to do.
        ValueError: The account is no such name.
    """

    def __init__(self, folder: Path, account: str) -> None:
        self._folder = folder.absolute()  # whoever changes the working directory does not change the folder
        self._journal = JournalFile(self._folder, account)
        self._names = re.compile(rf"{account}-[0-9a-f]{{16}}({re.escape(JOURNAL)}|{re.escape(DRAFT)})")
        self._adopting = threading.Lock()
        self._inherited = OpenItems()
        self.path: Path = self._journal.path

    def adopt(self) -> Left:
        """Make what dead sessions of this account left our own.

        Raises:
            OutboxError: Theirs cannot be read or ours cannot be written. Nothing is lost: what was adopted before that
                is part of the next answer.
        """
        self._journal.check_open()
        with self._adopting:
            try:
                for path in sorted(self._folder.iterdir()):
                    if self._names.fullmatch(path.name) and path != self.path:
                        self._adopt_one(path)
                sync_folder(self._folder)
            except OSError as error:
                raise self._journal.refusal(error) from error
            items, self._inherited = self._inherited, OpenItems()
        return Left([*items.intents.values()], [*items.spends.values()], [*items.lease_ids])

    def lend(self, lease_id: str) -> None:
        """Keep that a lease was granted."""
        self._journal.keep(LeaseLine(lease_id))

    def returned(self, lease_id: str) -> None:
        """Keep that a lease needs no return any more."""
        self._journal.keep(ReturnedLine(lease_id))

    def intend(self, intent: Intent) -> None:
        """Keep that a call is about to be made.

        Raises:
            OutboxError: It is not kept: the call must not be made.
        """
        try:
            self._journal.keep(IntentLine(*intent))
        except OutboxError:
            self._journal.withdraw(intent.request_id)
            raise

    def settle(self, spend: Spend) -> None:
        """Keep what a call cost."""
        self._journal.keep(SpendLine(*spend))

    def void(self, request_id: str) -> None:
        """Keep that a call cost nothing."""
        self._journal.keep(VoidLine(request_id))

    def acknowledge(self, request_ids: Sequence[str]) -> None:
        """Keep that nothing is left to do about these calls."""
        if request_ids:
            self._journal.keep(AckLine(tuple(request_ids)))

    def bury(self, spend: Spend, code: str, message: str) -> None:
        """Put a spend that the control plane will never take where a person finds it, and close it."""
        self._journal.check_open()
        line = {"at": SystemClock().now(), "code": code, "message": message, "spend": spend._asdict()}
        try:
            append_shared(self._folder / DEAD_LETTERS, msgspec.json.encode(line) + b"\n")
        except OSError as error:
            raise self._journal.refusal(error) from error
        self.acknowledge([spend.request_id])

    def close(self) -> None:
        """Let go of the journal, and remove it if nothing in it is open. A second time it does nothing."""
        self._journal.close()

    def _adopt_one(self, path: Path) -> None:
        try:
            file = take(path)
        except OSError as error:
            raise _unreadable(path, error) from error
        if file is None:
            return
        with file:
            try:
                content = file.readall() or b""
            except OSError as error:
                raise _unreadable(path, error) from error
            # A draft says nothing that a journal does not.
            items, unreadable = read_journal(content) if path.suffix == JOURNAL else (OpenItems(), 0)
            records = [record for record in items.records() if not self._is_settled(record)]
            if records:
                self._journal.keep(*records)
            for record in records:
                self._inherited.apply(record)
            _put_away(path, unreadable)

    def _is_settled(self, record: Record) -> bool:
        return isinstance(record, IntentLine) and record.request_id in self._journal.items.spends


def _put_away(path: Path, unreadable: int) -> None:
    """Remove a journal whose content is ours now, or keep it beside the others if not all of it could be read."""
    try:
        if not unreadable:
            path.unlink()
            return
        kept = path.with_name(path.name + _DAMAGED)
        path.rename(kept)
    except OSError as error:
        logger.warning("the journal %s is adopted and could not be removed: %s", path, error.strerror)
        return
    logger.warning(
        "%d lines of the journal of an earlier session are damaged, or of a newer version: calls may be missing from"
        " what is reported. It is kept as %s",
        unreadable,
        kept,
    )


def _unreadable(path: Path, error: OSError) -> OutboxError:
    return OutboxError(
        f"The journal {path} of an earlier session cannot be read: {error.strerror}; let this user read and write it,"
        " or choose another folder with outbox=...; its calls are reported only once it can be read",
        path=str(path),
    )
