"""The ports to cryptography: sealing at rest, sealing for a lease, signing, password hashing.

Implementations raise only errors of `ironcage_core.errors`, and never put a secret in a message.
"""

from typing import Protocol

from ironcage_core.domain.ic_tokens import IcTokenClaims, PresentedIcToken
from ironcage_core.domain.instants import Instant
from ironcage_core.domain.sessions import AccessClaims


class Vault(Protocol):
    """Keeps provider keys encrypted at rest, bound to the record they belong to."""

    @property
    def key_id(self) -> str | None:
        """The id of the master key that seals; None where there is none."""
        ...

    def key_id_of(self, ciphertext: str) -> str | None:
        """Return the id of the master key that made a ciphertext, or None for what no vault made."""
        ...

    def seal(self, plaintext: str, *, record_id: str) -> str:
        """Return the ciphertext to store for `record_id`; fresh nonce each time.

        Raises:
            CryptoUnavailableError: No master key is configured.
        """
        ...

    def open(self, ciphertext: str, *, record_id: str) -> str:
        """Return the plaintext stored for `record_id`.

        Raises:
            CryptoUnavailableError: No master key is configured.
            SecretUnreadableError: Wrong key, tampering, or a ciphertext of another record.
        """
        ...


class KeySealer(Protocol):
    """Seals a provider key for one lease and one IC token: the IP token."""

    def seal(self, provider_key: str, *, ic_token: str, agent_id: str, lease_id: str, provider: str) -> str:
        """Return `AES256:{iv}:{ciphertext}:{tag}`; only the holder of `ic_token` can open it."""
        ...


class TokenSigner(Protocol):
    """Signs IC tokens and proves presented ones."""

    def sign(self, claims: IcTokenClaims) -> str:
        """Return the token value for `claims`."""
        ...

    def digest(self, value: str) -> str:
        """Return the lower-case hex SHA-256 of a value without its `ic_` prefix: what a record stores."""
        ...

    def prove(self, value: str, *, now: Instant) -> PresentedIcToken:
        """Check form, signature, claims and expiry of a presented value, with or without its `ic_` prefix.

        Raises:
            TokenExpiredError: Genuine, but its time is over.
            InvalidTokenError: Anything else.
        """
        ...


class AccessSigner(Protocol):
    """Signs access tokens and proves presented ones; digests refresh tokens."""

    def sign(self, claims: AccessClaims) -> str:
        """Return the token value for `claims`."""
        ...

    def digest(self, refresh_token: str) -> str:
        """Return the lower-case hex SHA-256 of a refresh token: what a session stores."""
        ...

    def prove(self, value: str, *, now: Instant) -> AccessClaims:
        """Check form, signature, claims and expiry of a presented value.

        Raises:
            WrongTokenTypeError: A genuine token of another kind, or one that looks like a refresh or API token.
            TokenExpiredError: Genuine, but its time is over.
            InvalidTokenError: Anything else.
        """
        ...


class PasswordHasher(Protocol):
    """Hashes passwords slowly; never call it inside a unit of work."""

    def hash(self, password: str) -> str:
        """Return the encoded hash with its parameters and salt."""
        ...

    def verify(self, encoded: str, password: str) -> bool:
        """Tell whether `password` made `encoded`; garbage in `encoded` is False, not an error."""
        ...

    def needs_rehash(self, encoded: str) -> bool:
        """Tell whether `encoded` was made with other parameters than today's."""
        ...
