"""The journal of a runtime: what its lines say, and what of them is still open.

A line is the checksum of a record and the record as compact JSON. What a crash leaves of a last line has no end, and
counts for nothing: nobody was told that it is kept.
"""

import zlib
from collections.abc import Iterator
from typing import Annotated, Final, NamedTuple, TypeAlias

import msgspec

from ironcage_core.domain.instants import Instant
from ironcage_core.domain.money import MAX_MICROS, Micros
from ironcage_core.domain.prices import TokenCounts
from ironcage_core.errors.tree import RefusalError
from ironcage_core.runtime.lease_session import Spend

_CHECKSUM_CHARS: Final = 8

_Count: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=MAX_MICROS)]


class Intent(NamedTuple):
    """A call that is about to be made, and what it may cost at most."""

    request_id: str
    lease_id: str
    model: str
    provider: str
    reserved: Micros
    tokens: int
    at: Instant


class LeaseLine(msgspec.Struct, frozen=True, tag_field="kind", tag="lease"):
    """A lease was granted."""

    lease_id: str


class ReturnedLine(msgspec.Struct, frozen=True, tag_field="kind", tag="returned"):
    """A lease needs no return any more."""

    lease_id: str


class IntentLine(msgspec.Struct, frozen=True, tag_field="kind", tag="intent"):
    """The fields of an `Intent`, in their order."""

    request_id: str
    lease_id: str
    model: str
    provider: str
    reserved: _Count
    tokens: _Count
    at: int


class SpendLine(msgspec.Struct, frozen=True, tag_field="kind", tag="spend"):
    """The fields of a `Spend`, in their order."""

    request_id: str
    lease_id: str
    model: str
    provider: str
    cost: _Count
    tokens: _Count
    counts: TokenCounts | None
    occurred_at: int
    is_estimated: bool = False


class VoidLine(msgspec.Struct, frozen=True, tag_field="kind", tag="void"):
    """A call cost nothing."""

    request_id: str


class AckLine(msgspec.Struct, frozen=True, tag_field="kind", tag="ack"):
    """Nothing is left to do about these calls."""

    request_ids: tuple[str, ...]


Record: TypeAlias = LeaseLine | ReturnedLine | IntentLine | SpendLine | VoidLine | AckLine

_DECODER: Final[msgspec.json.Decoder[Record]] = msgspec.json.Decoder(Record)


class OpenItems:
    """What is open after some records; one entry for a request id, whatever says so how often."""

    __slots__ = ("intents", "lease_ids", "spends")

    def __init__(self) -> None:
        self.intents: dict[str, Intent] = {}
        self.spends: dict[str, Spend] = {}
        self.lease_ids: dict[str, None] = {}

    def __bool__(self) -> bool:
        return bool(self.intents or self.spends or self.lease_ids)

    def apply(self, record: Record) -> None:
        """Take a record into account; what a call did cost beats what it may cost."""
        match record:
            case LeaseLine(lease_id=lease_id):
                self.lease_ids[lease_id] = None
            case ReturnedLine(lease_id=lease_id):
                self.lease_ids.pop(lease_id, None)
            case IntentLine(request_id=request_id):
                if request_id not in self.spends:
                    self.intents[request_id] = Intent(*msgspec.structs.astuple(record))
            case SpendLine(request_id=request_id):
                self.intents.pop(request_id, None)
                self.spends[request_id] = Spend(*msgspec.structs.astuple(record))
            case VoidLine(request_id=request_id):
                self.intents.pop(request_id, None)
            case AckLine(request_ids=request_ids):
                for request_id in request_ids:
                    self.intents.pop(request_id, None)
                    self.spends.pop(request_id, None)

    def records(self) -> Iterator[Record]:
        """Yield the records that say no more than what is open."""
        yield from map(LeaseLine, self.lease_ids)
        for intent in self.intents.values():
            yield IntentLine(*intent)
        for spend in self.spends.values():
            yield SpendLine(*spend)


def line_of(record: Record) -> bytes:
    """Return the line of a record.

    Raises:
        ValueError: It could not be read again: a field is of another type, an amount negative or no whole number.
    """
    payload = msgspec.json.encode(record)
    if _decoded(payload) != record:
        raise ValueError("the record could not be read again")
    return f"{zlib.crc32(payload):0{_CHECKSUM_CHARS}x} ".encode() + payload + b"\n"


def lines_of(items: OpenItems) -> bytes:
    """Return the lines of a journal that says no more than what is open."""
    return b"".join(map(line_of, items.records()))


def read_journal(content: bytes) -> tuple[OpenItems, int]:
    """Return what is open in a journal, and how many of its lines say nothing: damaged, or of a newer version."""
    items = OpenItems()
    unreadable = 0
    *lines, _torn = content.split(b"\n")
    for line in filter(None, lines):
        record = _read(line)
        if record is None:
            unreadable += 1
        else:
            items.apply(record)
    return items, unreadable


def _read(line: bytes) -> Record | None:
    checksum, _, payload = line.partition(b" ")
    return _decoded(payload) if checksum == f"{zlib.crc32(payload):0{_CHECKSUM_CHARS}x}".encode() else None


def _decoded(payload: bytes) -> Record | None:
    try:
        return _DECODER.decode(payload)
    except (ValueError, RecursionError, RefusalError):  # counts that contradict each other refuse themselves
        return None
