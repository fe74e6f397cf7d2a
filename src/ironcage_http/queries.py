"""Query parameters: read one by one, with everything that is wrong told at once.

A known parameter that is empty or repeated is refused; one that nobody asks for is ignored. Reading never raises: what
is wrong waits until `check`, because a caller's standing is judged before what he asks for.
"""

import re
from collections.abc import Callable, Collection, Mapping
from datetime import date
from typing import Final, TypeVar

from ironcage_core.domain.ids import MASTER_PROJECT, ORPHANED_PROJECT, Prefix, is_id
from ironcage_core.domain.instants import MS_PER_DAY, MS_PER_S, Instant, parse_instant
from ironcage_core.domain.texts import text_problem
from ironcage_core.errors.tree import ValidationError
from ironcage_core.ports.lists import Paging

C = TypeVar("C", bound=str)
R = TypeVar("R")

MAX_PER_PAGE: Final = 100
"""What people may ask for over a wire."""

MAX_PAGE: Final = 10**12

_INTEGER: Final = re.compile(r"[0-9]{1,19}", re.ASCII)
_DATE: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", re.ASCII)
_UNIX_S: Final = re.compile(r"[0-9]{1,11}", re.ASCII)  # until the year 5138, so milliseconds are none
_EPOCH_DAY: Final = date(1970, 1, 1).toordinal()
_WELL_KNOWN: Final = frozenset((MASTER_PROJECT, ORPHANED_PROJECT))


class _BadValueError(Exception):
    """What is wrong with one value."""


class Query:
    """The query parameters of one request, and what is wrong with them.

    Args:
        given: Every parameter with its values, in their order.
    """

    __slots__ = ("_given", "problems")

    def __init__(self, given: Mapping[str, list[str]]) -> None:
        self._given = given
        self.problems: dict[str, str] = {}

    def check(self) -> None:
        """Refuse what is wrong with the parameters read so far.

        Raises:
            ValidationError: One or more break a rule; each is named.
        """
        if self.problems:
            raise ValidationError(self.problems)

    def has(self, name: str) -> bool:
        """Tell whether a parameter is given at all, whatever is wrong with it."""
        return name in self._given

    def text(self, name: str, *, longest: int = 100) -> str | None:
        """Return a text of 1 to `longest` characters."""

        def reading(value: str) -> str:
            if problem := text_problem(value, longest=longest):
                raise _BadValueError(problem)
            return value

        return self._read(name, reading)

    def texts(self, name: str, *, longest: int = 100) -> tuple[str, ...]:
        """Return the texts of a parameter that may be repeated, each of 1 to `longest` characters."""
        values = tuple(dict.fromkeys(self._given.get(name, ())))
        for value in values:
            if problem := text_problem(value, longest=longest):
                self.problems[name] = problem if value else "may not be empty"
        return values

    def choice(self, name: str, allowed: Collection[C]) -> C | None:
        """Return one of the allowed words."""

        def reading(value: str) -> C:
            for word in allowed:
                if word == value:
                    return word
            raise _BadValueError(f"must be one of {_spelled(allowed)}")

        return self._read(name, reading)

    def flag(self, name: str) -> bool | None:
        """Return a boolean, written `true` or `false`."""
        word = self.choice(name, ("true", "false"))
        return None if word is None else word == "true"

    def id(self, name: str, prefix: Prefix) -> str | None:
        """Return a well-formed id, or one of the well-known ones of its kind."""

        def reading(value: str) -> str:
            if is_id(value, prefix) or (prefix == "proj" and value in _WELL_KNOWN):
                return value
            raise _BadValueError(f"must be {prefix}_ and 32 hex digits")

        return self._read(name, reading)

    def instant(self, name: str, *, is_end: bool = False, takes_unix_s: bool = False) -> Instant | None:
        """Return an RFC 3339 time, or where a UTC day that is written as a date starts.

        Args:
            name: The parameter.
            is_end: Whether it ends a range, exclusive; a date then means where the next day starts, so that the
                day belongs to the range.
            takes_unix_s: Whether whole seconds since the epoch will do as well.
        """
        forms = "an RFC 3339 time with an offset such as Z, or a date" + (", or Unix seconds" if takes_unix_s else "")

        def reading(value: str) -> Instant:
            if takes_unix_s and _UNIX_S.fullmatch(value):
                return int(value) * MS_PER_S
            try:
                if not _DATE.fullmatch(value):
                    return parse_instant(value, field=name)
                day = date.fromisoformat(value).toordinal() - _EPOCH_DAY
            except (ValidationError, ValueError):
                raise _BadValueError(f"must be {forms}") from None
            return (day + is_end) * MS_PER_DAY

        return self._read(name, reading)

    def sort(self, allowed: Collection[C], *, default: str) -> tuple[C, bool]:
        """Return the field to sort by and whether the order is descending, written as a `-` before it."""

        def reading(value: str) -> tuple[C, bool]:
            for word in allowed:
                if value.removeprefix("-") == word:
                    return word, value.startswith("-")
            raise _BadValueError(f"must be one of {_spelled(allowed)}, with or without a leading -")

        return self._read("sort", reading) or reading(default)

    def paging(self, *, per_page: int = 50) -> Paging:
        """Return which page is asked for; `per_page` is the default."""
        page = self.integer("page", least=1, most=MAX_PAGE)
        return Paging(page or 1, self.integer("per_page", least=1, most=MAX_PER_PAGE) or per_page)

    def integer(self, name: str, *, least: int, most: int) -> int | None:
        """Return a whole number within these bounds."""

        def reading(value: str) -> int:
            if not _INTEGER.fullmatch(value) or not least <= int(value) <= most:
                raise _BadValueError(f"must be an integer from {least} to {most}")
            return int(value)

        return self._read(name, reading)

    def _read(self, name: str, reading: Callable[[str], R]) -> R | None:
        values = self._given.get(name)
        if not values:
            return None
        if len(values) > 1:
            self.problems[name] = "may be given only once"
            return None
        if not values[0]:
            self.problems[name] = "may not be empty"
            return None
        try:
            return reading(values[0])
        except _BadValueError as bad:
            self.problems[name] = str(bad)
            return None


def _spelled(words: Collection[str]) -> str:
    return ", ".join(sorted(words))
