"""Provider keys: the secrets ironcage exists to protect, and how little of them may be shown."""

import re
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from ironcage_core.domain.instants import Instant
from ironcage_core.domain.texts import text_problem
from ironcage_core.errors import ValidationError

KNOWN_PROVIDERS: Final = ("openai", "anthropic")
"""Source: contract resources.md 2.3."""

_MASK_FROM: Final = 16
_SLUG: Final = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*")
_LONGEST_NAME: Final = 50
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
    description: str | None = None
    models: str = "[]"  # a JSON list of texts; empty means any


def check_base_url(base_url: str | None) -> str | None:
    """Return the URL at which a provider is reached, or None for its usual place.

    Raises:
        ValidationError: Not an absolute https URL (http for localhost) of at most 500 characters without user
            information and fragment.
    """
    if not base_url:
        return None
    problem = text_problem(base_url, longest=500)
    if problem is None:
        try:
            url = urlsplit(base_url)
            is_local = url.hostname in {"localhost", "127.0.0.1", "::1"}
            fits = bool(url.hostname) and (url.scheme == "https" or (url.scheme == "http" and is_local))
        except ValueError:
            fits = False
        else:
            fits = fits and "@" not in url.netloc and not url.fragment and " " not in base_url
        problem = None if fits else "must be an absolute https URL without user information and fragment"
    if problem:
        raise ValidationError({"base_url": problem})
    return base_url


def check_key_name(name: object) -> str:
    """Return the name of a provider key.

    Raises:
        ValidationError: Not 1 to 50 lower-case letters and digits, in parts joined by single hyphens.
    """
    if not isinstance(name, str) or len(name) > _LONGEST_NAME or not _SLUG.fullmatch(name):
        raise ValidationError({"name": "must be 1 to 50 lower-case letters and digits, joined by single hyphens"})
    return name


def mask(api_key: str) -> str:
    """Return what may be shown of a key: nothing of a short one, else the first 4 and last 3 characters."""
    return "***" if len(api_key) < _MASK_FROM else f"{api_key[:4]}...{api_key[-3:]}"


def check_api_key(api_key: object) -> str:
    """Return the key without surrounding blanks.

    Raises:
        ValidationError: Empty, over 500 characters, or not printable ASCII without spaces; the key is not echoed.
    """
    trimmed = api_key.strip() if isinstance(api_key, str) else ""
    if not _HEADER_SAFE.fullmatch(trimmed):
        raise ValidationError({"api_key": "must be 1 to 500 printable ASCII characters without spaces"})
    return trimmed
