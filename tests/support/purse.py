"""A purse: what a metered transport needs of a session, with every call it was asked for and how each one ended."""

import threading
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ironcage_core.errors.tree import IroncageError

LOST = "the most it may have cost"
FREE = "free"


@dataclass
class Slip:
    """One call on paper; `ends` are all its settlements, of which there must be one."""

    model: str
    request: Mapping[str, object]
    purse: "Purse" = field(repr=False)
    request_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    has_begun: bool = False
    ends: list[object] = field(default_factory=list)
    threads: set[str] = field(default_factory=set)

    def begin(self) -> None:
        self.threads.add(threading.current_thread().name)
        self.purse.is_beginning.set()
        self.purse.may_begin.wait(10)
        if self.purse.refusal is not None:
            raise self.purse.refusal
        self.purse.on_begin()
        self.has_begun = True

    def commit(self, usage: object = None) -> None:
        self._end(usage)

    def cancel(self) -> None:
        self._end(FREE)

    def give_up(self) -> None:
        self._end(LOST)

    def _end(self, how: object) -> None:
        self.threads.add(threading.current_thread().name)
        self.purse.is_settling.set()
        self.purse.may_settle.wait(10)
        self.ends.append(how)
        self.purse.has_settled.set()


@dataclass
class Purse:
    """Pays for everything; `refusal` is raised instead, where there is one."""

    api_key: str = field(repr=False)
    provider: str
    base_url: str | None
    refusal: IroncageError | None = None
    calls: list[Slip] = field(default_factory=list)
    clients: list[Any] = field(default_factory=list)
    on_begin: Callable[[], None] = lambda: None

    def __post_init__(self) -> None:
        self.is_beginning, self.may_begin = threading.Event(), threading.Event()
        self.is_settling, self.may_settle, self.has_settled = (threading.Event() for _ in range(3))
        self.may_begin.set()
        self.may_settle.set()

    def call(self, *, model: str, request: Mapping[str, object]) -> Slip:
        slip = Slip(model, request, self)
        self.calls.append(slip)
        return slip

    @property
    def books(self) -> dict[str, object]:
        """How each call ended that had begun; once each."""
        for slip in self.calls:
            assert len(slip.ends) <= 1, f"settled twice: {slip.ends}"
        begun = [slip for slip in self.calls if slip.has_begun]
        assert all(slip.ends for slip in begun), "a call was forgotten"
        return {slip.request_id: slip.ends[0] for slip in begun}

    @property
    def ends(self) -> list[object]:
        """How the calls ended, in their order."""
        return list(self.books.values())

    def close(self) -> None:
        """Close the clients that were made for it."""
        for client in self.clients:
            client.close()
