"""Plain text: what comes from elsewhere, without a character that a terminal obeys instead of showing it."""

import re
from typing import Final

_OBEYED: Final = re.compile("[\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
"""What JSON may hold as it is: controls of eight bits, and marks that turn the direction of a line."""


def plain(text: str) -> str:
    """Return a text in which every character that does not print is one that does."""
    return "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in text)


def plain_lines(text: str) -> str:
    """Return the same of a text that may have lines and tabs."""
    return "".join(each if each in "\n\t" else plain(each) for each in text.replace("\r\n", "\n"))


def plain_json(document: bytes) -> bytes:
    """Return JSON that says the same, with what a terminal obeys written as escapes."""
    return _OBEYED.sub(lambda found: f"\\u{ord(found[0]):04x}", document.decode()).encode()
