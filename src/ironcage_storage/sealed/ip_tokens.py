"""IP tokens: a provider key sealed for one lease and one IC token.

`AES256:{iv}:{ciphertext}:{tag}`, each part in standard padded base64, AES-256-GCM under a key that HKDF-SHA256 draws
from the IC token and the lease id. Protects transit, logs and disks; whoever owns the IC token and the runtime
process can recover the provider key.

Runtimes use this module to open what the server sealed, so it stays free of databases and web frameworks. An error
is raised outside the `except` that noticed it: a chained decoding error would carry the plaintext along.

Source: contract budget.md 4.2.
"""

import base64
import binascii
import os
from collections.abc import Callable
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from ironcage_core.errors.tree import RefusalError

_ALGORITHM: Final = "AES256"
_INFO: Final = b"ironcage:ip-token:v1"
_PART_COUNT: Final = 4
_KEY_BYTES: Final = 32
_IV_BYTES: Final = 12
_TAG_BYTES: Final = 16


class IpTokenError(RefusalError):
    """An IP token that cannot be opened; each reason is a class of its own."""

    code = "IP_TOKEN_INVALID"


class IpTokenPartsError(IpTokenError):
    """Not exactly four parts between colons."""

    code = "IP_TOKEN_PARTS"


class IpTokenAlgorithmError(IpTokenError):
    """Another algorithm word than `AES256`."""

    code = "IP_TOKEN_ALGORITHM"


class IpTokenEncodingError(IpTokenError):
    """A part that is not standard padded base64."""

    code = "IP_TOKEN_ENCODING"


class IpTokenIvLengthError(IpTokenError):
    """An iv of other than 12 bytes."""

    code = "IP_TOKEN_IV_LENGTH"


class IpTokenTagLengthError(IpTokenError):
    """A tag of other than 16 bytes."""

    code = "IP_TOKEN_TAG_LENGTH"


class IpTokenAuthenticationError(IpTokenError):
    """Tampered with, or made for another IC token, agent, lease or provider."""

    code = "IP_TOKEN_AUTHENTICATION"


class IpTokenTextError(IpTokenError):
    """Authentic, but what was sealed is not UTF-8."""

    code = "IP_TOKEN_TEXT"


class IpTokenSealer:
    """Seals provider keys into IP tokens; implements `KeySealer`.

    Args:
        iv_source: Returns as many unpredictable bytes as it is asked for; never the same twice.
    """

    def __init__(self, iv_source: Callable[[int], bytes] = os.urandom) -> None:
        self._iv_source = iv_source

    def seal(self, provider_key: str, *, ic_token: str, agent_id: str, lease_id: str, provider: str) -> str:
        """Return the IP token that only the holder of `ic_token` can open.

        Args:
            provider_key: The plaintext.
            ic_token: The IC token value, with or without its `ic_` prefix.
            agent_id: The agent that holds the lease.
            lease_id: The lease the key is lent under.
            provider: The provider's name, such as `openai`.
        """
        iv = self._iv_source(_IV_BYTES)
        cipher = AESGCM(_key(ic_token, lease_id))
        sealed = cipher.encrypt(iv, _utf8(provider_key), _binding(agent_id, lease_id, provider))
        parts = (iv, sealed[:-_TAG_BYTES], sealed[-_TAG_BYTES:])
        return ":".join((_ALGORITHM, *(base64.b64encode(part).decode("ascii") for part in parts)))


def open_ip_token(ip_token: str, *, ic_token: str, agent_id: str, lease_id: str, provider: str) -> str:
    """Return the provider key inside an IP token.

    Args:
        ip_token: What the handshake answered.
        ic_token: The IC token value the handshake was made with, with or without its `ic_` prefix.
        agent_id: The agent that holds the lease.
        lease_id: The lease the key is lent under.
        provider: The provider's name, such as `openai`.

    Raises:
        IpTokenPartsError: Not four parts.
        IpTokenAlgorithmError: Another algorithm word.
        IpTokenEncodingError: A part is not standard padded base64.
        IpTokenIvLengthError: The iv is not 12 bytes.
        IpTokenTagLengthError: The tag is not 16 bytes.
        IpTokenAuthenticationError: Tampered with, or made for another token, agent, lease or provider.
        IpTokenTextError: The sealed bytes are not UTF-8.

    Source: contract budget.md 4.2.
    """
    iv, sealed = _parse(ip_token)
    plaintext = _decrypt(_key(ic_token, lease_id), iv, sealed, _binding(agent_id, lease_id, provider))
    if plaintext is None:
        raise IpTokenAuthenticationError("The IP token does not belong to this IC token and lease, or was altered")
    text = _text(plaintext)
    if text is None:
        raise IpTokenTextError("The IP token does not hold UTF-8 text")
    return text


def strict_base64(text: str) -> bytes | None:
    """Return the bytes of standard padded base64, or None for anything else.

    Only the one spelling an encoder writes is taken, so no two texts stand for the same bytes.
    """
    try:
        decoded = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    return decoded if base64.b64encode(decoded) == text.encode("ascii") else None


def _parse(ip_token: str) -> tuple[bytes, bytes]:
    """Return the iv and the ciphertext with its tag, or raise for the first thing wrong with the form."""
    parts = ip_token.split(":")
    if len(parts) != _PART_COUNT:
        raise IpTokenPartsError("An IP token has four parts")
    if parts[0] != _ALGORITHM:
        raise IpTokenAlgorithmError("An IP token starts with AES256")
    iv, ciphertext, tag = map(strict_base64, parts[1:])
    if iv is None or ciphertext is None or tag is None:
        raise IpTokenEncodingError("The parts of an IP token are standard padded base64")
    if len(iv) != _IV_BYTES:
        raise IpTokenIvLengthError("The iv of an IP token has 12 bytes")
    if len(tag) != _TAG_BYTES:
        raise IpTokenTagLengthError("The tag of an IP token has 16 bytes")
    return iv, ciphertext + tag


def _key(ic_token: str, lease_id: str) -> bytes:
    derivation = HKDF(algorithm=SHA256(), length=_KEY_BYTES, salt=_utf8(lease_id), info=_INFO)
    return derivation.derive(_utf8(ic_token.removeprefix("ic_")))


def _binding(agent_id: str, lease_id: str, provider: str) -> bytes:
    return _utf8(f"{agent_id}|{lease_id}|{provider}")


def _utf8(text: str) -> bytes:
    # An encoding error would carry the whole text, which may be a key: a lone surrogate is passed on instead, and
    # the opening side refuses it.
    return text.encode("utf-8", "surrogatepass")


def _decrypt(key: bytes, iv: bytes, sealed: bytes, binding: bytes) -> bytes | None:
    try:
        return AESGCM(key).decrypt(iv, sealed, binding)
    except InvalidTag:
        return None


def _text(plaintext: bytes) -> str | None:
    try:
        return plaintext.decode("utf-8")
    except UnicodeDecodeError:
        return None
