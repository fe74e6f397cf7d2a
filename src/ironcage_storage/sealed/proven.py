"""What was proven of token values: a signature check is a pure function of value and key, so it need not be repeated.

Only what the signature says is remembered, never whether the token lives.
"""

import threading
from collections import OrderedDict
from typing import Generic, TypeVar

C = TypeVar("C")


class Proven(Generic[C]):
    """Remembers the claims of the latest proven values by their hash; the values themselves are not kept."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._lock = threading.Lock()
        self._claims: OrderedDict[str, C] = OrderedDict()

    def find(self, value_hash: str) -> C | None:
        """Return the claims of a value that was proven before, if they are still remembered."""
        with self._lock:
            claims = self._claims.get(value_hash)
            if claims is not None:
                self._claims.move_to_end(value_hash)
            return claims

    def remember(self, value_hash: str, claims: C) -> None:
        """Keep the claims of a value; the longest unused ones go."""
        with self._lock:
            self._claims[value_hash] = claims
            if len(self._claims) > self._capacity:
                self._claims.popitem(last=False)
