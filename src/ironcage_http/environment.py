"""The reader of the environment: variables with their rules, and everything that is wrong with them at once.

A variable that is empty or blank counts as unset. A rule completes the sentence "NAME must be ...", so that what is
wrong with a value is told without the value.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class UnsupportedError(ValueError):
    """A value that is understood and not supported; the message takes the place of the rule."""


@dataclass(frozen=True, slots=True)
class Variable(Generic[T]):
    """A variable of the environment.

    Args:
        name: Its literal name.
        default: What an unset one stands for, unless the deployment decides.
        rule: Completes "NAME must be ...".
        parse: Reads a text; a ValueError says that it breaks the rule.
        shown: The default as the reference shows it.
        note: What the reference says beyond the rule.
        is_verbatim: The blanks around the value belong to it.
    """

    name: str
    default: T
    rule: str
    parse: Callable[[str], T]
    shown: str
    note: str = ""
    is_verbatim: bool = False


class Environment:
    """Reads variables and collects what is wrong with them; what breaks its rule reads as its default."""

    def __init__(self, environ: Mapping[str, str], variables: Iterable[Variable[Any]]) -> None:
        self._environ = {name: value for name, value in environ.items() if value.strip()}
        self.problems: list[str] = []
        self.warnings: list[str] = []
        for variable in variables:
            self._check(variable)

    def warn_of_strangers(self, prefix: str, *, known: Iterable[str]) -> None:
        """Name the variables with the prefix that nobody knows, and so do nothing."""
        known = frozenset(known)
        for name in sorted(self._environ):
            if name.startswith(prefix) and name not in known:
                likely = get_close_matches(name, sorted(known), n=1)
                hint = f"; did you mean {likely[0]}?" if likely else ""
                self.warnings.append(f"{name} is not a setting of ironcage{hint}")

    def has(self, name: str) -> bool:
        """Tell whether a variable is set and not blank."""
        return name in self._environ

    def read(self, variable: Variable[T]) -> T:
        """Return the value of a variable, or its default where it is unset or breaks its rule."""
        try:
            return variable.parse(self._text(variable)) if self.has(variable.name) else variable.default
        except ValueError:
            return variable.default

    def refuse_if(self, is_broken: bool, problem: str) -> None:
        """Remember a problem; the text names variables and never holds a value."""
        if is_broken:
            self.problems.append(problem)

    def warn_if(self, is_odd: bool, warning: str) -> None:
        """Remember a warning; the text names variables and never holds a value."""
        if is_odd:
            self.warnings.append(warning)

    def _check(self, variable: Variable[Any]) -> None:
        try:
            if self.has(variable.name):
                variable.parse(self._text(variable))
        except UnsupportedError as error:
            self.problems.append(f"{variable.name}: {error}")
        except ValueError:
            self.problems.append(f"{variable.name} must be {variable.rule}")

    def _text(self, variable: Variable[Any]) -> str:
        text = self._environ[variable.name]
        return text if variable.is_verbatim else text.strip()
