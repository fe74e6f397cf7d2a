"""Amounts in the description of the interface: numbers in answers, numbers or numeric texts in bodies.

The library describes a decimal as a text, which is how it would write one by default.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final

_DECIMAL: Final = {"type": "string", "format": "decimal"}
_ANSWERED: Final = {"type": "number"}
_TAKEN: Final = {"anyOf": [{"type": "number"}, {"type": "string", "pattern": r"^-?[0-9]+(\.[0-9]+)?$"}]}
_REF: Final = "$ref"


def with_amounts(components: Mapping[str, Any], bodies: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the components of a description with their amounts as they are on the wire.

    Args:
        components: Schemas by their names.
        bodies: References to those that requests have; all others are answers.
    """
    taken = _reached(components, bodies)
    return {name: _replaced(schema, _TAKEN if name in taken else _ANSWERED) for name, schema in components.items()}


def amounts_as_numbers(schema: Any) -> Any:  # noqa: ANN401 - any part of a schema
    """Return a schema of what is answered with its amounts as they are on the wire."""
    return _replaced(schema, _ANSWERED)


def _reached(components: Mapping[str, Any], refs: Iterable[Any]) -> set[str]:
    found: set[str] = set()
    todo = [name for ref in refs for name in _names_in(ref)]
    while todo:
        name = todo.pop()
        if name not in found:
            found.add(name)
            todo += _names_in(components[name])
    return found


def _names_in(schema: Any) -> list[str]:  # noqa: ANN401 - JSON
    if isinstance(schema, dict):
        own = [schema[_REF].rpartition("/")[2]] if isinstance(schema.get(_REF), str) else []
        return own + [name for each in schema.values() for name in _names_in(each)]
    return [name for each in schema for name in _names_in(each)] if isinstance(schema, list) else []


def _replaced(schema: Any, amount: Mapping[str, Any]) -> Any:  # noqa: ANN401 - JSON
    """Return a schema with every amount in it described anew; what else is said of one stays."""
    if isinstance(schema, list):
        return [_replaced(each, amount) for each in schema]
    if not isinstance(schema, dict):
        return schema
    if _DECIMAL.items() <= schema.items():
        return {**{name: value for name, value in schema.items() if name not in _DECIMAL}, **amount}
    return {name: _replaced(each, amount) for name, each in schema.items()}
