"""Made rows: one page of a list whose rows are not stored but made from sums."""

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from ironcage_core.ports.lists import Page, Paging

T = TypeVar("T")


def sorted_page(
    rows: Iterable[T],
    paging: Paging,
    by: Callable[[T], Any],
    *,
    tie: Callable[[T], Any],
    descending: bool = True,
) -> Page[T]:
    """Return one page of rows.

    Args:
        rows: All of them.
        paging: Which page.
        by: What they are sorted by.
        tie: What those alike are sorted by, always rising; no two rows have the same.
        descending: Whether the largest come first.
    """
    ordered = sorted(rows, key=tie)
    ordered.sort(key=by, reverse=descending)  # stable in either direction
    return Page(ordered[paging.offset : paging.offset + paging.per_page], len(ordered))
