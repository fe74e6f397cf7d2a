"""HS256 and nothing else: payloads signed as JWTs, and payloads proven.

Nothing is said of why a value is refused, and nothing that could carry it is raised.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Final

import jwt

from ironcage_core.errors.tree import StartupError

_ALGORITHM: Final = "HS256"

# PyJWT also takes parts padded with "="; ours have none, and so one signature has one value.
_FORM: Final = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")


class Hs256:
    """Signs with the first key and verifies with all of them. Safe to share between threads.

    Args:
        keys: The key, and those of before a rotation.
        refusal: What to say of a key that is the text of a public key.

    Raises:
        StartupError: A key is one.
    """

    def __init__(self, keys: Sequence[bytes], *, refusal: str) -> None:
        self._jws = jwt.PyJWS(algorithms=[_ALGORITHM])
        self._keys = tuple(keys)
        if not all(map(self._signs_with, keys)):
            raise StartupError(refusal)

    def sign(self, payload: Mapping[str, object]) -> str:
        """Return the token of a payload."""
        text = json.dumps(payload, separators=(",", ":")).encode()
        return self._jws.encode(text, self._keys[0], algorithm=_ALGORITHM)

    def signed_payload(self, value: str) -> bytes | None:
        """Return the payload of a token that one of the keys has signed, or None."""
        if not _FORM.fullmatch(value):
            return None
        for key in self._keys:
            try:
                payload: bytes = self._jws.decode(value, key, algorithms=[_ALGORITHM])
            except jwt.InvalidSignatureError:
                continue
            except jwt.PyJWTError:
                return None
            else:
                return payload
        return None

    def _signs_with(self, key: bytes) -> bool:
        try:
            self._jws.encode(b"", key, algorithm=_ALGORITHM)
        except jwt.InvalidKeyError:
            return False
        return True
