"""API token values: `at_` and 32 random bytes as base64url; only the SHA-256 of a value is ever stored.

Source: contract identity.md 2 and 6.
"""

import hashlib
import re
import secrets
from typing import Final

_FORM: Final = re.compile(r"at_[A-Za-z0-9_-]{43}")
_ENTROPY_BYTES: Final = 32


def new_api_token() -> str:
    """Return a fresh value of 46 characters, from the operating system's source of randomness."""
    return f"at_{secrets.token_urlsafe(_ENTROPY_BYTES)}"


def api_token_hash(value: str) -> str | None:
    """Return the lower-case hex SHA-256 of a whole presented value; None for one of another form."""
    if _FORM.fullmatch(value) is None:
        return None
    return hashlib.sha256(value.encode()).hexdigest()
