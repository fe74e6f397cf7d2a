"""Parameters, times and amounts are read exactly and within their bounds, or refused by name."""

import click
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ironcage_core.domain.instants import Instant, format_instant, parse_instant
from ironcage_core.domain.money import parse_usd, usd
from ironcage_core.errors.tree import ValidationError
from ironcage_http.commands.amounts import USD
from ironcage_http.queries import MAX_PAGE, Query
from tests.fuzz.alterations import CHARACTERS, NUMBERS, altered
from tests.fuzz.effort import examples
from tests.fuzz.refusals import assert_is_money, assert_names

TIMES = altered(
    "2026-01-31T12:00:00.000Z", "2026-02-28", "1790000000", "0001-01-01T00:00:00+23:59", "9999-12-31", joint="-"
)
GIVEN = st.one_of(
    st.text(CHARACTERS, max_size=12), NUMBERS, TIMES, altered(f"agent_{'a' * 32}", "-name", "true", joint="_")
)
FIRST, LAST = parse_instant("0001-01-01T00:00:00Z", field="x"), parse_instant("9999-12-31T23:59:59.999Z", field="x")


@examples(60)
@given(st.lists(GIVEN, min_size=1, max_size=2))
@example(["9999-12-31"])
@example(["9" * 5000])
@example(["\u0665"])
def test_any_parameter_is_read_within_its_bounds_or_named(given_values: list[str]) -> None:
    """Reading never raises; what is wrong is told without what was sent."""
    query = Query(dict.fromkeys(("page", "per_page", "sort", "n", "t", "e", "u", "w", "i", "f", "s"), given_values))

    paging, number = query.paging(), query.integer("n", least=-5, most=10**18)
    times: list[Instant | None] = [
        query.instant("t"),
        query.instant("e", is_end=True),
        query.instant("u", takes_unix_s=True),
    ]
    query.sort(("name",), default="name")
    query.text("w")
    query.texts("s")
    query.id("i", "agent")
    query.flag("f")

    assert 1 <= paging.page <= MAX_PAGE
    assert 1 <= paging.per_page <= 100
    assert number is None or 0 <= number <= 10**18
    assert all(each is None or FIRST <= each <= LAST + 1 for each in times)
    assert all(problem.isprintable() and len(problem) < 120 for problem in query.problems.values())


@examples(100)
@given(TIMES)
def test_a_time_is_one_instant_that_can_be_written_or_refused(text: str) -> None:
    """Written down it reads back as itself."""
    try:
        instant = parse_instant(text, field="at")
    except ValidationError as refused:
        assert_names(refused, "at")
    else:
        assert parse_instant(format_instant(instant), field="at") == instant


AMOUNTS = st.one_of(
    NUMBERS,
    st.text(CHARACTERS, max_size=10),
    altered("2.50", "0.000001", "-1e3", joint="."),
    st.sampled_from(["\u0661", "1,5", "$2"]),
)


@examples(60)
@given(AMOUNTS)
def test_an_amount_on_a_command_line_is_exact_or_refused(text: str) -> None:
    """It is what the wire takes for the same amount."""
    assert_is_money(text)
    try:
        found = USD.convert(text, None, None)
    except click.BadParameter:
        with pytest.raises(ValidationError):
            parse_usd(text, field="amount")
    else:
        assert found == usd(parse_usd(text, field="amount"))
