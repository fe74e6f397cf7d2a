"""Passwords are stored as argon2id hashes that carry their own parameters and salt.

A password is hashed as the UTF-8 bytes it was typed as: never trimmed, never normalised.
"""

import secrets
from typing import Final

import argon2
from argon2.exceptions import HashingError, InvalidHashError, VerificationError

from ironcage_core.errors.tree import UnavailableError

# Source: contract identity.md 3, "Password policy"; the floor of the OWASP password storage cheat sheet.
MEMORY_KIB: Final = 19_456
PASSES: Final = 2
LANES: Final = 1

GENERATED_BYTES: Final = 18
"""24 characters of base64url. Source: contract identity.md 10, "First admin"."""


def new_password() -> str:
    """Return a password that nobody can guess."""
    return secrets.token_urlsafe(GENERATED_BYTES)


class Argon2PasswordHasher:
    """Hashes and verifies with argon2id; slow and hungry on purpose; implements `PasswordHasher`.

    Args:
        memory_kib: Memory of one hash, in KiB; lower it only in tests.
        passes: Passes over that memory.
        lanes: Threads of one hash.
    """

    def __init__(self, *, memory_kib: int = MEMORY_KIB, passes: int = PASSES, lanes: int = LANES) -> None:
        self._argon2 = argon2.PasswordHasher(
            time_cost=passes, memory_cost=memory_kib, parallelism=lanes, type=argon2.Type.ID
        )

    def hash(self, password: str) -> str:
        """Return the encoded hash with its parameters and a fresh salt.

        Raises:
            UnavailableError: There is no memory for it now.
        """
        try:
            return self._argon2.hash(_utf8(password))
        except HashingError as error:
            raise UnavailableError("A password cannot be hashed now") from error

    def verify(self, encoded: str, password: str) -> bool:
        """Tell whether `password` made `encoded`; garbage in `encoded` is False, not an error."""
        if not encoded.isascii():
            return False
        try:
            return self._argon2.verify(encoded, _utf8(password))
        except (VerificationError, InvalidHashError):
            return False

    def needs_rehash(self, encoded: str) -> bool:
        """Tell whether `encoded` was made with other parameters than today's; true of garbage."""
        try:
            return self._argon2.check_needs_rehash(encoded)
        except InvalidHashError:
            return True


def _utf8(password: str) -> bytes:
    # An encoding error would carry the password; a lone surrogate is hashed as it is instead.
    return password.encode("utf-8", "surrogatepass")
