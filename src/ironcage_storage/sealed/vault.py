"""The vault: provider keys encrypted at rest, AES-256-GCM, bound to the record they belong to.

A ciphertext reads `v1:{key_id}:{nonce}:{ciphertext and tag}`, the last two in standard padded base64. The record id
is the associated data, so a ciphertext moved to another row does not open. The key id says which master key made it,
so keys can be rotated while older ciphertexts stay readable. No error holds plaintext, key or ciphertext, nor does
anything chained to it: errors are raised outside the `except` that noticed them.

Source: contract resources.md 2.3, "Encryption at rest".
"""

import base64
import hashlib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, NoReturn

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from ironcage_core.errors.faults import CryptoUnavailableError, SecretUnreadableError
from ironcage_core.errors.tree import StartupError
from ironcage_storage.sealed.ip_tokens import strict_base64

_KEY_BYTES: Final = 32
_NONCE_BYTES: Final = 12
_KEY_ID_INFO: Final = b"ironcage:vault:key-id:v1"
_KEY_ID_DIGITS: Final = 8
_FORM: Final = re.compile(r"v1:([0-9a-f]{8}):([A-Za-z0-9+/]{16}):([A-Za-z0-9+/]+={0,2})")


@dataclass(frozen=True, slots=True)
class MasterKey:
    """The key that all provider keys are encrypted with.

    Args:
        raw: Exactly 32 bytes.

    Raises:
        StartupError: Not 32 bytes.
    """

    raw: bytes = field(repr=False)
    key_id: str = field(init=False)
    """Eight hex digits that name the key and tell nothing of it."""

    def __post_init__(self) -> None:
        if len(self.raw) != _KEY_BYTES:
            _refuse_key()
        object.__setattr__(self, "key_id", _key_id(self.raw))

    @classmethod
    def from_base64(cls, text: str) -> "MasterKey":
        """Read a key from standard padded base64; white space around it is dropped.

        Raises:
            StartupError: Not base64 of exactly 32 bytes; the value is not repeated.
        """
        raw = strict_base64(text.strip())
        return _refuse_key() if raw is None else cls(raw)

    @classmethod
    def generate(cls) -> "MasterKey":
        """Make a new random key."""
        return cls(os.urandom(_KEY_BYTES))

    def to_base64(self) -> str:
        """Return what `from_base64` reads: a secret, for a file only its owner can read."""
        return base64.b64encode(self.raw).decode("ascii")


class AesGcmVault:
    """Seals with the current master key and opens with any key it knows; implements `Vault`.

    Args:
        current: Seals everything new.
        previous: Keys that only open what they sealed before a rotation.
    """

    def __init__(self, current: MasterKey, previous: Sequence[MasterKey] = ()) -> None:
        self._key_id = current.key_id
        self._ciphers = {key.key_id: AESGCM(key.raw) for key in (*previous, current)}

    @property
    def key_id(self) -> str:
        """The id of the master key that seals."""
        return self._key_id

    def key_id_of(self, ciphertext: str) -> str | None:
        """Return the id of the master key that made a ciphertext, or None for what no vault made."""
        return key_id_of(ciphertext)

    def seal(self, plaintext: str, *, record_id: str) -> str:
        """Return the ciphertext to store for `record_id`; no two are alike."""
        nonce = os.urandom(_NONCE_BYTES)
        sealed = self._ciphers[self.key_id].encrypt(nonce, _utf8(plaintext), _utf8(record_id))
        return f"v1:{self.key_id}:{base64.b64encode(nonce).decode('ascii')}:{base64.b64encode(sealed).decode('ascii')}"

    def open(self, ciphertext: str, *, record_id: str) -> str:
        """Return the plaintext stored for `record_id`.

        Raises:
            SecretUnreadableError: Wrong key, tampering, or a ciphertext of another record; names the record only.
        """
        plaintext = self._find_plaintext(ciphertext, record_id)
        if plaintext is None:
            raise SecretUnreadableError(f"The secret of {record_id} does not decrypt", record_id=record_id)
        return plaintext

    def _find_plaintext(self, ciphertext: str, record_id: str) -> str | None:
        form = _FORM.fullmatch(ciphertext)
        if form is None:
            return None
        cipher = self._ciphers.get(form[1])
        nonce, sealed = strict_base64(form[2]), strict_base64(form[3])
        if cipher is None or nonce is None or sealed is None:
            return None
        try:
            return cipher.decrypt(nonce, sealed, _utf8(record_id)).decode("utf-8", "surrogatepass")
        except (InvalidTag, UnicodeDecodeError):
            return None


class NoVault:
    """Stands in where no master key is configured: the server runs, secrets do not; implements `Vault`."""

    key_id = None

    def key_id_of(self, ciphertext: str) -> str | None:
        """Return the id of the master key that made a ciphertext, or None for what no vault made."""
        return key_id_of(ciphertext)

    def seal(self, plaintext: str, *, record_id: str) -> str:  # noqa: ARG002 - the port names the arguments
        """Refuse to seal.

        Raises:
            CryptoUnavailableError: Always.
        """
        raise CryptoUnavailableError("No master key is configured: set IRON_SECRETS_MASTER_KEY")

    def open(self, ciphertext: str, *, record_id: str) -> str:  # noqa: ARG002 - the port names the arguments
        """Refuse to open.

        Raises:
            CryptoUnavailableError: Always.
        """
        raise CryptoUnavailableError("No master key is configured: set IRON_SECRETS_MASTER_KEY")


def key_id_of(ciphertext: str) -> str | None:
    """Return the id of the key that made a ciphertext, or None for what no vault made."""
    form = _FORM.fullmatch(ciphertext)
    return None if form is None else form[1]


def _refuse_key() -> NoReturn:
    raise StartupError("IRON_SECRETS_MASTER_KEY must be base64 of exactly 32 bytes")


def _key_id(raw: bytes) -> str:
    # Derived under a label of its own, so that the printed digits are no hash of the key itself.
    label = HKDF(algorithm=SHA256(), length=_KEY_BYTES, salt=None, info=_KEY_ID_INFO).derive(raw)
    return hashlib.sha256(label).hexdigest()[:_KEY_ID_DIGITS]


def _utf8(text: str) -> bytes:
    # An encoding error would carry the whole plaintext; a lone surrogate is stored as it is instead.
    return text.encode("utf-8", "surrogatepass")
