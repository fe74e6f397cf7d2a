"""What is wrong with a body is told in words that a person understands."""

import json
from decimal import Decimal

import msgspec
import pytest

from ironcage_core.errors.tree import ValidationError
from ironcage_http.wire import Read


class Inner(msgspec.Struct):
    """A part of a body."""

    count: int


class Body(msgspec.Struct):
    """One field of each kind."""

    whole: int | None = None
    text: str | msgspec.UnsetType | None = msgspec.UNSET
    flag: bool | None = None
    cost: Decimal | None = None
    words: list[str] | None = None
    parts: list[Inner] | None = None
    name: str | msgspec.UnsetType = msgspec.UNSET


@pytest.mark.parametrize(
    ("field", "value", "clause"),
    [
        ("whole", 1.0, "must be an integer"),
        ("whole", True, "must be an integer"),
        ("whole", "1", "must be an integer"),
        ("text", 5, "must be a string"),
        ("flag", 0, "must be true or false"),
        ("cost", True, "must be a number or a numeric string in USD"),
        ("words", "a", "must be a list"),
        ("words", ["a", 1], "[1] must be a string"),
        ("words", ["a", None], "[1] may not be null"),
        ("parts", [5], "[0] must be a JSON object"),
        ("parts", [{"count": 1}, {"count": "x"}], "[1].count must be an integer"),
        ("name", None, "may not be null"),
    ],
)
def test_a_wrong_type_is_told_in_words(field: str, value: object, clause: str) -> None:
    """And never what was sent."""
    read = Read(json.dumps({field: value}).encode(), "application/json", Body)

    with pytest.raises(ValidationError) as refusal:
        read.value()

    assert refusal.value.fields == {field: clause}


def test_what_can_be_read_is_had_beside_what_cannot() -> None:
    """So that the rest is judged as well, and all faults are told at once."""
    raw = b'{"whole": "x", "text": null, "cost": 1.5, "stranger": 1}'

    fields, faults = Read(raw, "application/json", Body, is_strict=True).parts()

    assert fields == {"text": None, "cost": Decimal("1.5")}
    assert faults == {"whole": "must be an integer", "stranger": "is not a field of this body"}


@pytest.mark.parametrize("raw", [b"[]", b"5", b"null"])
def test_what_is_no_object_has_no_parts(raw: bytes) -> None:
    """There is nothing to be judged in it."""
    with pytest.raises(ValidationError) as refusal:
        Read(raw, "application/json", Body).parts()

    assert refusal.value.fields == {"body": "must be a JSON object"}
