"""Texts that come from outside."""

import pytest

from ironcage_core.domain.texts import reason_problem


@pytest.mark.parametrize("reason", [None, "x", "x" * 5, "a\nb", "a\r\nb", "a\tb", " ж\n"])
def test_a_reason_may_be_left_out_and_have_lines(reason: str | None) -> None:
    """People paste them; tabs as well."""
    assert reason_problem(reason, longest=5) is None


@pytest.mark.parametrize(
    ("reason", "problem"),
    [
        ("", "may not be empty"),
        (" \n", "may not be empty"),
        ("x" * 6, "must have at most 5 characters"),
        ("a\r\n\r\nb", "must have at most 5 characters"),
        *((f"a{control}b", "may not contain control characters") for control in "\r\0\x1b\x7f\x85"),
        ("\ud800", "must be valid Unicode"),
        (5, "must be a string"),
        (b"x", "must be a string"),
    ],
)
def test_what_is_wrong_with_a_reason_is_told(reason: object, problem: str) -> None:
    """A carriage return alone hides what stands before it."""
    assert reason_problem(reason, longest=5) == problem
