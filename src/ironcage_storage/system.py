"""The machine's clock, and ids that grow with it."""

import os
import threading
import time
from collections.abc import Callable
from typing import Final

from ironcage_core.domain.ids import Prefix, uuid7_hex
from ironcage_core.domain.instants import Instant

_NS_PER_MS: Final = 1_000_000
_LAST_FIELD_BITS: Final = 62
# Of the last field 60 bits are seeded and a step has at most 24: there is room for 2**37 ids while the clock stands.
_LAST_SEED_BITS: Final = 60
_SEED_BITS: Final = 72
_STEP_BITS: Final = 24
_ENTROPY_BYTES: Final = (_SEED_BITS + _STEP_BITS) // 8
_ENTROPY_AT_ONCE: Final = 512 * _ENTROPY_BYTES


class SystemClock:
    """The clock of this machine; implements `Clock`."""

    def now(self) -> Instant:
        """Return the current time in milliseconds since the epoch."""
        return time.time_ns() // _NS_PER_MS


class TimeOrderedIds:
    """Makes ids that strictly grow within the process, whatever the clock does; implements `Ids`.

    A millisecond starts at a random UUIDv7 and each id adds that millisecond's random step to the last field. While
    the clock stands still or runs behind, ids go on from the latest millisecond seen. Randomness is read for hundreds
    of milliseconds at once, because this is the hot path and reading it lets other threads pass; ids are names, not
    secrets, and nothing may rely on their being hard to guess. Safe to share between threads.

    Args:
        entropy: Returns as many random bytes as it is asked for.

    Source: RFC 9562 section 6.2, methods 1 and 2.
    """

    def __init__(self, entropy: Callable[[int], bytes] = os.urandom) -> None:
        self._entropy = entropy
        self._unused = b""
        self._lock = threading.Lock()
        self._last_ms = 0
        self._latest, self._step = self._start_of(0)

    def new(self, prefix: Prefix, now: Instant) -> str:
        """Return `<prefix>_<32 hex digits>`, larger than every id of that prefix made before it.

        Args:
            prefix: The kind.
            now: Milliseconds since the epoch, below 2**48.
        """
        with self._lock:
            if now > self._last_ms:
                self._latest, self._step = self._start_of(now)
                self._last_ms = now
            latest = self._latest = self._latest + self._step
        return f"{prefix}_{latest.to_bytes(16, 'big').hex()}"

    def _start_of(self, unix_ms: Instant) -> tuple[int, int]:
        """Return a random UUID of a millisecond as a number, and the step, at least 1, from one id to the next."""
        if not self._unused:
            self._unused = self._entropy(_ENTROPY_AT_ONCE)
        drawn, self._unused = self._unused[:_ENTROPY_BYTES], self._unused[_ENTROPY_BYTES:]
        step, seed = divmod(int.from_bytes(drawn, "big"), 1 << _SEED_BITS)
        upper, lower = divmod(seed, 1 << _LAST_SEED_BITS)
        return int(uuid7_hex(unix_ms, (upper << _LAST_FIELD_BITS) | lower), 16), step + 1
