"""Query parameters: what is read, what is refused, and that all of it is told at once."""

import pytest

from ironcage_core.domain.instants import MS_PER_DAY, MS_PER_S
from ironcage_core.errors.tree import ValidationError
from ironcage_core.ports.lists import Paging
from ironcage_http.queries import Query

ORDERS = ("name", "created_at")
DAY = 20_413 * MS_PER_DAY
"""2025-11-21."""


def everything(query: Query) -> None:
    query.paging()
    query.text("name", longest=5)
    query.choice("status", ("active", "inactive"))
    query.flag("is_enabled")
    query.id("owner_id", "user")
    query.id("project_id", "proj")
    query.instant("from")
    query.instant("to", is_end=True)
    query.sort(ORDERS, default="-created_at")


def test_nothing_given_means_the_defaults() -> None:
    """The first 50, newest first, nothing filtered."""
    query = Query({"stranger": ["", ""]})

    assert query.paging() == Paging(1, 50)
    assert query.sort(ORDERS, default="-created_at") == ("created_at", True)
    assert [query.text("name"), query.choice("status", ("a",)), query.flag("on"), query.instant("from")] == [None] * 4
    query.check()


def test_what_is_given_is_read() -> None:
    """Each in its own form."""
    user = "user_" + "0" * 32
    query = Query({"page": ["3"], "per_page": ["100"], "sort": ["name"], "on": ["false"], "o": [user], "n": ["50%_"]})

    assert query.paging() == Paging(3, 100)
    assert query.sort(ORDERS, default="-created_at") == ("name", False)
    assert query.flag("on") is False
    assert query.id("o", "user") == user
    assert query.text("n") == "50%_"
    query.check()


BAD = [
    *[("page", value) for value in ("0", "-1", "1.0", "x", "1e3", "\u0661", " 1", "9" * 19, "9" * 5000)],
    *[("per_page", value) for value in ("0", "101", "+5", "0x1")],
    *[("sort", value) for value in ("size", "--name", "-", "Name", "name,created_at")],
    *[("name", value) for value in (" ", "a\0", "\ud800", "123456")],
    *[("status", value) for value in ("Active", "gone")],
    *[("is_enabled", value) for value in ("1", "True", "yes")],
    *[("owner_id", value) for value in ("me", "agent_" + "0" * 32, "proj_master_001")],
    *[("project_id", value) for value in ("proj_", "master")],
    *[("from", value) for value in ("today", "2025-02-30", "2025-11-21T12:00:00", "0000-00-00", "1763726400")],
    *[("to", value) for value in ("2025-13-01", "20251121")],
]


@pytest.mark.parametrize("name", ["page", "per_page", "sort", "name", "status", "is_enabled", "owner_id", "from", "to"])
@pytest.mark.parametrize("values", [[""], ["active", "active"]], ids=["empty", "repeated"])
def test_a_known_parameter_is_neither_empty_nor_repeated(name: str, values: list[str]) -> None:
    """Nobody could say what it means."""
    query = Query({name: values})
    everything(query)

    assert list(query.problems) == [name]


@pytest.mark.parametrize(("name", "value"), BAD)
def test_a_bad_value_is_named_and_not_echoed(name: str, value: str) -> None:
    """One problem, on its own parameter."""
    query = Query({name: [value]})
    everything(query)

    assert list(query.problems) == [name]
    with pytest.raises(ValidationError) as refusal:
        query.check()
    assert list(refusal.value.fields) == [name]


def test_all_that_is_wrong_is_told_at_once() -> None:
    """One refusal for the whole query."""
    query = Query({"page": ["0"], "sort": ["x"], "status": ["x"], "tag": [""], "is_enabled": ["true"]})
    everything(query)
    query.texts("tag")

    with pytest.raises(ValidationError) as refusal:
        query.check()

    assert set(refusal.value.fields) == {"page", "sort", "status", "tag"}


def test_a_day_that_ends_a_range_belongs_to_it() -> None:
    """An instant is exclusive as it stands."""
    query = Query({"from": ["2025-11-21"], "to": ["2025-11-21"], "at": ["2025-11-21T01:00:00.5+01:00"]})

    assert query.instant("from") == DAY
    assert query.instant("to", is_end=True) == DAY + MS_PER_DAY
    assert query.instant("at", is_end=True) == DAY + MS_PER_S // 2
    query.check()


def test_a_parameter_may_be_repeated_where_that_means_something() -> None:
    """Each value once, in their order; each is judged."""
    query = Query({"tag": ["b", "a", "b"], "mark": ["a", "x" * 6], "label": ["a", ""]})

    assert query.texts("tag", longest=5) == ("b", "a")
    assert query.texts("absent") == ()
    query.texts("mark", longest=5)
    query.texts("label")
    assert query.problems == {"mark": "must have 1 to 5 characters", "label": "may not be empty"}
