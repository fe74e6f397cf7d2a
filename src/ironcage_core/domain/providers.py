"""Provider keys: the secrets ironcage exists to protect, and how little of them may be shown."""

import re
from typing import Final, NamedTuple

from ironcage_core.domain.instants import Instant
from ironcage_core.errors import ValidationError

KNOWN_PROVIDERS: Final = ("openai", "anthropic")
"""Source: contract resources.md 2.3."""

_MASK_FROM: Final = 16
_HEADER_SAFE: Final = re.compile(r"[\x21-\x7e]{1,500}")


class ProviderKey(NamedTuple):
    """One stored provider key; a column each, in order. `ciphertext` opens only with the master key and this id."""

    id: str
    name: str
    provider: str
    base_url: str | None
    ciphertext: str
    masked_key: str
    is_enabled: int
    created_by: str
    created_at: Instant
    updated_at: Instant
    last_used_at: Instant | None


def mask(api_key: str) -> str:
    """Return what may be shown of a key: nothing of a short one, else the first 4 and last 3 characters."""
    return "***" if len(api_key) < _MASK_FROM else f"{api_key[:4]}...{api_key[-3:]}"


def check_api_key(api_key: str) -> str:
    """Return the key without surrounding blanks.

    Raises:
        ValidationError: Empty, over 500 characters, or not printable ASCII without spaces; the key is not echoed.
    """
    trimmed = api_key.strip()
    if not _HEADER_SAFE.fullmatch(trimmed):
        raise ValidationError({"api_key": "must be 1 to 500 printable ASCII characters without spaces"})
    return trimmed
