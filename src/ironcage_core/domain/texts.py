"""Text that comes from outside: length and characters, checked the same way everywhere."""

import re
from typing import Final

LONGEST_REASON: Final = 500

_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_BREAKS: Final = re.compile(r"\r\n|[\n\t]")
_UNPRINTED: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


def tidied(text: str | None) -> str | None:
    """Return a text that may be left out without the blanks around it, or None for an empty one."""
    return (text or "").strip() or None


def cleaned(text: str | None, *, longest: int) -> str | None:
    """Return a text that is never refused: without control characters and what no UTF-8 has, cut to its length."""
    return tidied(_UNPRINTED.sub("", text or "")[:longest])


def text_problem(value: object, *, longest: int) -> str | None:
    """Return what is wrong with a required text, or None.

    Args:
        value: Anything; fine are 1 to `longest` characters, no control characters, encodable as UTF-8.
        longest: Characters, not bytes.
    """
    # Printable means neither control characters nor lone surrogates: the common case is settled in C.
    if type(value) is str and 0 < len(value) <= longest and value.isprintable() and not value.isspace():
        return None
    if not isinstance(value, str):
        return "must be a string"
    if not 1 <= len(value) <= longest or not value.strip():
        return f"must have 1 to {longest} characters"
    if _CONTROL.search(value):
        return "may not contain control characters"
    try:
        value.encode()
    except UnicodeEncodeError:
        return "must be valid Unicode"
    return None


def reason_problem(reason: object, *, longest: int = LONGEST_REASON) -> str | None:
    """Return what is wrong with a reason, or None; it may be left out, and have lines and tabs."""
    if reason is None or not isinstance(reason, str):
        return None if reason is None else text_problem(reason, longest=longest)
    if not reason.strip():
        return "may not be empty"
    if len(reason) > longest:
        return f"must have at most {longest} characters"
    return text_problem(_BREAKS.sub(" ", reason), longest=longest)
