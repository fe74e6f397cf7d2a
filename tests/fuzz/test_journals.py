"""A journal that was altered, by a crash or by hand, costs what was altered and nothing else, and stops nobody."""

import zlib
from pathlib import Path

import msgspec
from hypothesis import example, given
from hypothesis import strategies as st

from ironcage_core.domain.prices import TokenCounts
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
    line_of,
    lines_of,
    read_journal,
)
from ironcage_http.client_outbox import Left, Outbox
from ironcage_http.client_wire import report_body
from tests.fuzz.alterations import altered_bytes, values
from tests.fuzz.effort import examples

AT = 1_700_000_000_000
ACCOUNT = "localhost-agent_1"
INTENT = Intent("a", "lease_1", "gpt", "openai", 2_500, 900, AT)
COUNTS = TokenCounts(input=40, output=2, cached_input=8, cache_write=1)
SPEND = Spend("b", "lease_1", "gpt", "openai", 70, 42, COUNTS, AT, is_estimated=True)
RECORDS: tuple[Record, ...] = (
    LeaseLine("lease_1"),
    IntentLine(*INTENT),
    IntentLine(*INTENT._replace(request_id="c")),
    SpendLine(*SPEND),
    VoidLine("c"),
    SpendLine(*SPEND._replace(request_id="d", counts=None)),
    AckLine(("d",)),
    LeaseLine("lease_2"),
    ReturnedLine("lease_2"),
)
LINES = tuple(map(line_of, RECORDS))
JOURNAL = b"".join(LINES)


def line(payload: bytes) -> bytes:
    """Return a line with the right checksum, whatever it says."""
    return f"{zlib.crc32(payload):08x} ".encode() + payload + b"\n"


NAMES = st.sampled_from([*SpendLine.__struct_fields__, *IntentLine.__struct_fields__, "kind", "request_ids", "input"])
KINDS = ("lease", "returned", "intent", "spend", "void", "ack", "later")


@st.composite
def payloads(draw: st.DrawFn) -> bytes:
    """Draw what a line says: fields of other types, sizes and depths, twice or not at all."""
    said = msgspec.json.decode(msgspec.json.encode(draw(st.sampled_from(RECORDS))))
    members = [f'"{name}":{msgspec.json.encode(value).decode()}' for name, value in said.items()]
    for _ in range(draw(st.integers(0, 3))):
        members.insert(draw(st.integers(0, len(members))), f'"{draw(NAMES)}":{draw(values(NAMES))}')
    if draw(st.booleans()):
        members.append(f'"kind":"{draw(st.sampled_from(KINDS))}"')
    return ("{" + ",".join(members) + "}").encode("utf-8", "surrogatepass").replace(b"\n", b" ")


def state(items: OpenItems) -> tuple[object, ...]:
    return items.intents, items.spends, list(items.lease_ids)


def assert_is_sound(items: OpenItems) -> None:
    """What is open can be written down again, and be reported."""
    again, unreadable = read_journal(lines_of(items))
    assert (state(again), unreadable) == (state(items), 0)
    assert not items.intents.keys() & items.spends.keys()
    msgspec.json.decode(report_body([*items.spends.values()], offset_ms=0, now=AT))


CONTENTS = st.one_of(
    altered_bytes(JOURNAL, joint=b"\n"),
    altered_bytes(*LINES, joint=b","),
    st.binary(max_size=60),
    st.lists(st.sampled_from(LINES) | payloads().map(line), max_size=6).map(b"".join),
)


@examples(80)
@given(CONTENTS)
@example(line(b'{"kind":"lease","lease_id":"a","x":' + b"[" * 100_000 + b"}"))
@example(line(b'{"kind":"void","request_id":"a","x":' + b'{"a":' * 5_000 + b"1" + b"}" * 5_001))
@example(line(msgspec.json.encode(SpendLine(*SPEND)).replace(b"40", b"9" * 30)))
@example(line(msgspec.json.encode(SpendLine(*SPEND)).replace(b"1700000000000", b"9" * 30)))
@example(line(msgspec.json.encode(SpendLine(*SPEND)).replace(b'"gpt"', b'"\\ud800"')))
def test_any_content_is_read(content: bytes) -> None:
    """No byte stops the next session, and no line says what could not be written down or reported."""
    items, unreadable = read_journal(content)

    assert unreadable <= content.count(b"\n")
    assert_is_sound(items)


@examples(50)
@given(st.integers(0, len(LINES) - 1), st.data())
def test_a_damaged_line_costs_itself_alone(place: int, data: st.DataObject) -> None:
    """A checksum finds each one: no altered line says anything else than it did."""
    without = data.draw(altered_bytes(LINES[place][:-1], joint=b","))
    damaged = without.replace(b"\n", b"")

    found, unreadable = read_journal(b"".join((*LINES[:place], damaged + b"\n", *LINES[place + 1 :])))

    is_gone = damaged != LINES[place][:-1]
    kept = LINES[:place] + LINES[place + is_gone :]
    assert state(found) == state(read_journal(b"".join(kept))[0])
    assert unreadable == (is_gone and damaged != b"")


@examples(8)
@given(CONTENTS)
def test_any_journal_of_a_dead_session_is_adopted(tmp_path_factory: object, content: bytes) -> None:
    """What of it can be read is ours and durable; the rest is kept where a person finds it."""
    folder: Path = tmp_path_factory.mktemp("outbox")  # type: ignore[attr-defined]  # pytest's
    (folder / f"{ACCOUNT}-{'0' * 16}.journal").write_bytes(content)
    expected, unreadable = read_journal(content)
    outbox = Outbox(folder, ACCOUNT)

    left = outbox.adopt()

    assert left == Left([*expected.intents.values()], [*expected.spends.values()], [*expected.lease_ids])
    assert state(read_journal(outbox.path.read_bytes())[0]) == state(expected)
    assert len(list(folder.glob("*.damaged"))) == (unreadable > 0)
    outbox.close()
