"""Kinds of values in the description of the interface: what most parameters and fields are, as JSON Schemas.

A schema is stated here and the rule it tells of lives in the core; tests hold one against the other at its edges.
"""

from collections.abc import Mapping
from typing import Any, Final

from ironcage_core.domain.ids import MASTER_PROJECT, ORPHANED_PROJECT, Prefix
from ironcage_core.domain.users import LONGEST_PASSWORD, SHORTEST_PASSWORD

Schema = Mapping[str, Any]

_PRINTED: Final = r"[^\x00-\x1f\x7f-\x9f]"
_SEEN: Final = r"[^\s\x00-\x1f\x7f-\x9f]"
_LINES: Final = r"(\r\n|[^\x00-\x08\x0b-\x1f\x7f-\x9f])*"
_BLANKS: Final = r"[\s\x1c-\x1f\x85]*"
_HEX32: Final = "[0-9a-f]{32}"

_SIDE: Final = r"[^@\x00-\x1f\x7f-\x9f]*[^@\s\x00-\x1f\x7f-\x9f][^@\x00-\x1f\x7f-\x9f]*"

EMAIL: Final[Schema] = {"type": "string", "minLength": 3, "maxLength": 255, "pattern": f"^{_SIDE}@{_SIDE}$"}
FLAG: Final[Schema] = {"type": "boolean"}
TIME: Final[Schema] = {"type": "string", "format": "date-time"}
PROJECT: Final[Schema] = {"type": "string", "pattern": f"^(proj_{_HEX32}|{MASTER_PROJECT}|{ORPHANED_PROJECT})$"}


def ident(prefix: Prefix) -> Schema:
    """Return the schema of an id."""
    return {"type": "string", "pattern": f"^{prefix}_{_HEX32}$"}


def text(longest: int) -> Schema:
    """Return the schema of a text on one line that is not blank."""
    return {"type": "string", "minLength": 1, "maxLength": longest, "pattern": f"^{_PRINTED}*{_SEEN}{_PRINTED}*$"}


def padded(longest: int) -> Schema:
    """Return the schema of a text on one line that is not blank; blanks around it do not count."""
    inner = f"{_SEEN}({_PRINTED}{{0,{longest - 2}}}{_SEEN})?"
    return {"type": "string", "minLength": 1, "pattern": f"^{_BLANKS}{inner}{_BLANKS}$"}


def line(longest: int) -> Schema:
    """Return the schema of a text on one line that may be empty."""
    return {"type": "string", "maxLength": longest, "pattern": f"^({_PRINTED}*{_SEEN}{_PRINTED}*)?$"}


def trimmed(longest: int) -> Schema:
    """Return the schema of a text on one line that is none if it is blank."""
    return {"type": "string", "maxLength": longest, "pattern": f"^{_PRINTED}*$"}


def prose(longest: int, shortest: int = 1) -> Schema:
    """Return the schema of a text that may have lines and is not blank."""
    return {"type": "string", "minLength": shortest, "maxLength": longest, "pattern": f"^{_LINES}{_SEEN}{_LINES}$"}


def remark(longest: int) -> Schema:
    """Return the schema of a text that may have lines; blanks around it do not count, and it may be none but these."""
    return {"type": "string", "maxLength": longest, "pattern": f"^{_BLANKS}{_LINES}{_BLANKS}$"}


def password(shortest: int = SHORTEST_PASSWORD) -> Schema:
    """Return the schema of a password."""
    return {"type": "string", "minLength": shortest, "maxLength": LONGEST_PASSWORD, "pattern": r"^[^\x00]*$"}


def words(*allowed: str) -> Schema:
    """Return the schema of one of a closed list of words."""
    return {"type": "string", "enum": sorted(allowed)}


def order(*fields: str) -> Schema:
    """Return the schema of the order of a list, ascending or with a `-` descending."""
    return {"type": "string", "enum": sorted((*fields, *(f"-{field}" for field in fields)))}


def whole(least: int, most: int | None = None) -> Schema:
    """Return the schema of a whole number."""
    return {"type": "integer", "minimum": least} | ({} if most is None else {"maximum": most})


def usd(least: float, most: float | None = None) -> Schema:
    """Return the schema of an amount in USD, which has at most 6 decimals."""
    return {"type": "number", "minimum": least} | ({} if most is None else {"maximum": most})


def each(schema: Schema, *, least: int = 0, most: int | None = None) -> Schema:
    """Return the schema of a list of things of one kind."""
    bounds = {"minItems": least or None, "maxItems": most}
    return {"type": "array", "items": schema} | {name: value for name, value in bounds.items() if value is not None}
