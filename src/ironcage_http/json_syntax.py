"""The syntax of JSON bodies beyond what the decoder looks at: UTF-8, depth, and names that come twice."""

import json
import re
from typing import Final

import msgspec

MAX_DEPTH: Final = 64
# Possessive, and content with a string that never ends: nothing is scanned twice, whatever is sent.
_STRING: Final = re.compile(rb'"(?:[^"\\]|\\.)*+(?:"|\\?\Z)', re.DOTALL)
_BLANKS: Final = " \t\n\r"
_BRACKET: Final = re.compile(rb"[\[\]{}]")
_NO_STRUCTURE: Final = bytes(set(range(256)) - set(b'[]{}"'))
_value_of: Final = msgspec.json.Decoder().decode
_fields_of: Final = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def syntax_fault(raw: bytes) -> str | None:
    """Return what is wrong with a body as a clause, or None; whether it is JSON at all is for the decoder to tell."""
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        return "is not valid UTF-8"
    if is_too_deep(raw):
        return f"nests deeper than {MAX_DEPTH} levels"
    if _is_plainly_without_twins(raw):
        return None
    return "has two fields of one name in one object" if has_twins(text) else None


def _is_plainly_without_twins(raw: bytes) -> bool:
    """Tell of an object, fast, that it has as many names as colons: then none comes twice, here or deeper.

    The names that are counted are its own, and those of the objects in its lists.
    """
    colons = raw.count(b":")
    try:
        fields = _fields_of(raw)
        if len(fields) == colons:
            return True
        lists = [value for value in _value_of(raw).values() if isinstance(value, list)]
    except (msgspec.MsgspecError, RecursionError):
        return False
    return len(fields) + sum(len(each) for items in lists for each in items if isinstance(each, dict)) == colons


def is_too_deep(raw: bytes) -> bool:
    """Tell whether brackets outside strings nest deeper than they may."""
    if raw.count(b"[") + raw.count(b"{") <= MAX_DEPTH:
        return False
    bare = _structure_of(raw)
    # Without its innermost objects, and then without its empty lists, it is at most two levels less deep.
    shallow = bare.replace(b"{}", b"").replace(b"[]", b"")
    if shallow.count(b"[") + shallow.count(b"{") + 2 <= MAX_DEPTH:
        return False
    depth = 0
    for match in _BRACKET.finditer(bare):
        depth += 1 if match[0] in b"[{" else -1
        if depth > MAX_DEPTH:
            return True
    return False


def _structure_of(raw: bytes) -> bytes:
    """Return a body without its strings; where none holds a bracket or an escape, without all but its brackets."""
    if b"\\" not in raw:
        bare = raw.translate(None, _NO_STRUCTURE).replace(b'""', b"")
        if b'"' not in bare:  # so each quote stood beside its own other one
            return bare
    return _STRING.sub(b"", raw)


class _TwinsError(Exception):
    """Two fields of one object have one name."""


def _refuse_twins(fields: list[tuple[str, object]]) -> None:
    if len({name for name, _ in fields}) < len(fields):
        raise _TwinsError


# Reads names only: numbers stay texts, of whatever size, and objects become nothing.
_scan: Final = json.JSONDecoder(
    object_pairs_hook=_refuse_twins, parse_int=str, parse_float=str, parse_constant=str, strict=False
).raw_decode


def has_twins(text: str) -> bool:
    """Tell whether an object has two fields of one name, of which each reader takes another one."""
    try:
        _scan(text.lstrip(_BLANKS))
    except _TwinsError:
        return True
    except ValueError:
        return False  # it is no JSON, as whoever reads it will say
    return False
