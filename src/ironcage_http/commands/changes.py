"""Changes of a record: what is not given stays as it is, and an empty text takes away what is there."""

from collections.abc import Mapping
from typing import Any, Final

import click

CLEARED: Final = object()
"""What an option is that takes away what is there."""


class Clearable(click.ParamType[object]):
    """What another type reads, or nothing where the text is empty.

    Args:
        inner: The type of what is there.
    """

    def __init__(self, inner: click.ParamType[Any] = click.STRING) -> None:
        self.name = inner.name
        self._inner = inner

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> object:
        """Return what the text says."""
        return CLEARED if value == "" else self._inner.convert(value, param, ctx)


def given(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a body: those that were given; several values of one are a list of those not empty."""
    found = {name: value for name, value in options.items() if value is not None and value != ()}
    return {name: _field(value) for name, value in found.items()}


def changed(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a body that changes a record.

    Raises:
        click.UsageError: Nothing was given.
    """
    fields = given(options)
    if not fields:
        raise click.UsageError("say what to change: give at least one option")
    return fields


def _field(value: object) -> object:
    if isinstance(value, tuple):
        return [each for each in value if each != ""]
    return None if value is CLEARED else value
