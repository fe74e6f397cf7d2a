"""Identifiers: a prefix that names the kind and the 32 hex digits of a UUIDv7.

Time-ordered ids keep index inserts local, which is worth more than anything else the store can do.
Well-formed means prefix and 32 lower-case hex digits, whatever the digits.
"""

import re
from typing import Final, Literal

Prefix = Literal[
    "user",
    "sess",
    "agent",
    "budget",
    "lease",
    "led",
    "breq",
    "tok",
    "ict",
    "prov",
    "proj",
    "lim",
    "trace",
    "evt",
    "aud",
]

MASTER_PROJECT: Final = "proj_master_001"
ORPHANED_PROJECT: Final = "proj_orphaned"

_HEX32: Final = re.compile(r"[0-9a-f]{32}")
_VARIANT_BITS: Final = 0b10 << 62
_RANDOM_MASK: Final = (1 << 74) - 1
_LOW_MASK: Final = (1 << 62) - 1


def is_id(value: object, prefix: Prefix) -> bool:
    """Tell whether `value`, whatever it is, is well-formed for `prefix`."""
    if not isinstance(value, str):
        return False
    head, _, digits = value.partition("_")
    return head == prefix and _HEX32.fullmatch(digits) is not None


def uuid7_hex(unix_ms: int, random_bits: int) -> str:
    """Lay out a UUIDv7 and return its 32 hex digits.

    Args:
        unix_ms: Milliseconds since the epoch, below 2**48.
        random_bits: 74 bits that tell ids of one millisecond apart; higher bits are dropped.

    Source: RFC 9562 section 5.7.
    """
    bits = random_bits & _RANDOM_MASK
    high = (unix_ms << 16) | 0x7000 | (bits >> 62)
    return f"{high:016x}{_VARIANT_BITS | (bits & _LOW_MASK):016x}"
