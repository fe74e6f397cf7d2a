"""Amounts, instants and ids at the edge."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ironcage_core.domain.ids import is_id, uuid7_hex
from ironcage_core.domain.instants import (
    as_datetime,
    format_instant,
    from_datetime,
    next_period_start,
    parse_instant,
    period_of,
)
from ironcage_core.domain.money import MAX_MICROS, format_usd, parse_usd, usd
from ironcage_core.errors.tree import ValidationError

MICROS = st.integers(-MAX_MICROS, MAX_MICROS)
INSTANTS = st.integers(0, 4_102_444_800_000)


@given(MICROS)
def test_an_amount_survives_the_wire_exactly(micros: int) -> None:
    """micro-USD -> decimal USD -> micro-USD."""
    assert parse_usd(usd(micros), field="x") == micros
    assert parse_usd(str(usd(micros)), field="x") == micros


@pytest.mark.parametrize(
    ("text", "micros"),
    [("8.20", 8_200_000), ("32.01", 32_010_000), ("1e-6", 1), ("0.1", 100_000), (" 5 ", 5_000_000), (10, 10_000_000)],
)
def test_amounts_are_read_without_a_float(text: str | int, micros: int) -> None:
    """$8.20 is 8 200 000 micro-USD and not one less."""
    assert parse_usd(text, field="x") == micros


@pytest.mark.parametrize(
    "value",
    [
        "NaN", "Infinity", "-inf", "0.0000001", "1.1234567", "", "ten", True, 1.5, None, [], "1" * 29, "1e30",
        "9" * 20, ".00000100000000000000000000000000001", Decimal("NaN"), "0x10", "1\0",
        "1_0", "1_0.5", "1e1_0", "٨٦",
    ],
)  # fmt: skip
def test_what_is_no_exact_amount_is_refused_by_name(value: object) -> None:
    """NaN, more than 6 decimals, floats, booleans, garbage, too large."""
    with pytest.raises(ValidationError) as refusal:
        parse_usd(value, field="budget")

    assert list(refusal.value.fields) == ["budget"]


@pytest.mark.parametrize(("micros", "text"), [(-1_500_000, "-$1.50"), (1, "$0.000001"), (1_234_000_000, "$1,234.00")])
def test_amounts_read_well(micros: int, text: str) -> None:
    """At least two decimals, six at most."""
    assert format_usd(micros) == text


@given(INSTANTS)
def test_an_instant_survives_its_text(instant: int) -> None:
    """RFC 3339 with Z and milliseconds, there and back."""
    text = format_instant(instant)

    assert text.endswith("Z")
    assert parse_instant(text, field="x") == instant
    assert from_datetime(as_datetime(instant)) == instant


@given(INSTANTS)
def test_the_next_period_starts_where_this_one_ends(instant: int) -> None:
    """Months are arithmetic: the instant before belongs to this one, the start itself to the next."""
    start = next_period_start(instant)

    assert start > instant
    assert period_of(start - 1) == period_of(instant)
    assert period_of(start) != period_of(instant)
    assert format_instant(start).endswith("-01T00:00:00.000Z")


@pytest.mark.parametrize(
    "text",
    [
        "yesterday",
        "2026-01-01T00:00:00",
        "",
        "2026-13-01T00:00:00Z",
        "2026-01-01T10Z",
        "2026-01-01T10:00Z",
        "20260101T100000Z",
        "2026-W01-1T10:00:00Z",
        "2026-01-01T10:00:00+0100",
        "2026-01-01T10:00:60Z",
    ],
)
def test_a_time_without_offset_or_sense_is_refused(text: str) -> None:
    """RFC 3339 carries its offset and its seconds; ISO 8601 is wider."""
    with pytest.raises(ValidationError):
        parse_instant(text, field="from")


@given(st.integers(0, 2**48 - 1), st.integers(0, 2**80))
def test_a_uuid7_carries_its_time_and_version(unix_ms: int, bits: int) -> None:
    """RFC 9562: 48 bits of time, version 7, variant 10."""
    digits = uuid7_hex(unix_ms, bits)

    assert (len(digits), int(digits[:12], 16), digits[12]) == (32, unix_ms, "7")
    assert digits[16] in "89ab"


@pytest.mark.parametrize(
    ("value", "fits"),
    [("agent_" + "0" * 32, True), ("agent_" + "0" * 31, False), ("agent_" + "A" * 32, False),
     ("lease_" + "0" * 32, False), ("agent_" + "0" * 32 + "\n", False), ("-1", False), (7, False), ("", False)],
)  # fmt: skip
def test_an_id_is_its_prefix_and_32_hex_digits(value: object, *, fits: bool) -> None:
    """Whatever the digits; anything else is malformed."""
    assert is_id(value, "agent") is fits
