"""Rate limits: how many requests a key may make, told by a token bucket, and how many failures, by a sliding window.

Buckets count in whole units: a token is as many units as its period has nanoseconds, and every nanosecond gives back as
many units as the limit has tokens. So nothing is ever rounded, however many requests come and however long it runs.
What is kept is bounded: a bucket that is full again, like a window without failures, says nothing and is forgotten.

Source: contract identity.md 3 and 8.
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from heapq import heappop, heappush, heapreplace
from itertools import count
from typing import Final, NamedTuple

Clock = Callable[[], float]
"""Seconds since whenever; it may stand still, and where it goes back, time stands still until it has caught up."""

MAX_KEYS: Final = 100_000
_NS_PER_S: Final = 1_000_000_000
_LOOKS: Final = 8
"""How many old keys a new one looks at to make room: more than one, so that what is over goes faster than it comes."""


class Rate(NamedTuple):
    """So many requests at once, and as many again in every period; a limit of 0 refuses everything."""

    limit: int
    period_s: int


class Taken(NamedTuple):
    """What a bucket says to one request.

    Args:
        is_allowed: Whether there was a token.
        limit: How many a full bucket holds.
        period_s: How long an empty one takes to be full.
        remaining: Whole tokens left now.
        retry_after_s: When the next is there, rounded up, at least 1; 0 where the request is allowed.
        reset_in_s: When the bucket is full again, rounded up.
    """

    is_allowed: bool
    limit: int
    period_s: int
    remaining: int
    retry_after_s: int
    reset_in_s: int


class _Ticks:
    """A clock in nanoseconds that never goes back; used under the lock of its owner."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._last = round(clock() * _NS_PER_S)

    def now(self) -> int:
        self._last = max(self._last, round(self._clock() * _NS_PER_S))
        return self._last


class _Bucket(NamedTuple):
    """What was missing from a bucket, in units, at a moment."""

    missing: int
    at: int
    rate: Rate

    @property
    def full_at(self) -> int:
        return self.at + _up(self.missing, self.rate.limit)

    def missing_at(self, now: int, rate: Rate) -> int:
        """Return what is missing at a later moment; under another rate the same share of the bucket is."""
        missing = max(0, self.missing - (now - self.at) * self.rate.limit)
        return missing if rate == self.rate else _up(missing * _size(rate), _size(self.rate))


class TokenBuckets:
    """Buckets by key, for many threads.

    Under pressure, with `max_keys` buckets none of which is full, the one that is nearest to being full is forgotten:
    its key may then make a full burst again, somewhat early. So a flood of new keys forgets its own kind first, and an
    exhausted key stays exhausted.

    Args:
        clock: Seconds since whenever.
        max_keys: How many buckets are kept at most.
    """

    def __init__(self, clock: Clock = time.monotonic, max_keys: int = MAX_KEYS) -> None:
        self._ticks = _Ticks(clock)
        self._max_keys = _at_least(1, max_keys, "max_keys")
        self._lock = threading.Lock()
        self._buckets: dict[Hashable, _Bucket] = {}
        # One entry a bucket, in the order in which they are full again as far as known: requests only put that off.
        self._due: list[tuple[int, int, Hashable]] = []
        self._turns = count()

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, key: Hashable, rate: Rate) -> Taken:
        """Take a token of a key's bucket if there is one; a refusal takes nothing.

        Args:
            key: Whose bucket; keys share nothing.
            rate: What holds now; where it has changed, the bucket keeps its share of tokens.
        """
        if rate.limit <= 0:
            return _closed(rate)
        with self._lock:
            now = self._ticks.now()
            missing = self._missing(key, rate, now)
            is_allowed = missing + _token(rate) <= _size(rate)
            if is_allowed:
                missing += _token(rate)
                self._put(key, _Bucket(missing, now, rate), now)
        return _told(rate, missing, is_allowed=is_allowed)

    def peek(self, key: Hashable, rate: Rate) -> Taken:
        """Tell what `take` would, with the tokens that are there now, and take nothing."""
        if rate.limit <= 0:
            return _closed(rate)
        with self._lock:
            missing = self._missing(key, rate, self._ticks.now())
        return _told(rate, missing, is_allowed=missing + _token(rate) <= _size(rate))

    def _missing(self, key: Hashable, rate: Rate, now: int) -> int:
        bucket = self._buckets.get(key)
        return 0 if bucket is None else bucket.missing_at(now, rate)

    def _put(self, key: Hashable, bucket: _Bucket, now: int) -> None:
        if key not in self._buckets:
            self._make_room(now)
            heappush(self._due, (bucket.full_at, next(self._turns), key))
        self._buckets[key] = bucket

    def _make_room(self, now: int) -> None:
        for _ in range(_LOOKS):
            if not self._due or (self._due[0][0] > now and len(self) < self._max_keys):
                return
            due, turn, key = self._due[0]
            full_at = self._buckets[key].full_at
            if full_at > due:
                heapreplace(self._due, (full_at, turn, key))
            else:
                self._forget_first()
        if len(self) >= self._max_keys:
            self._forget_first()

    def _forget_first(self) -> None:
        del self._buckets[heappop(self._due)[2]]


class RateLimiter:
    """One rate for many keys: `RateLimiter(100)` lets every key make 100 requests a second.

    Args:
        rate: Requests at once and in every period; 0 refuses everything.
        period_s: Whole seconds.
        clock: Seconds since whenever.
        max_keys: How many keys are remembered at most.

    Raises:
        ValueError: A rate that is not a whole number of at least 0, or a period or number of keys below 1.

    Source: contract identity.md 6 and 8.
    """

    def __init__(
        self, rate: int, period_s: int = 1, *, clock: Clock = time.monotonic, max_keys: int = MAX_KEYS
    ) -> None:
        self._rate = Rate(_at_least(0, rate, "rate"), _at_least(1, period_s, "period_s"))
        self._buckets = TokenBuckets(clock, max_keys)

    def check(self, key: Hashable) -> bool:
        """Tell whether a key may make a request now, and count it if so."""
        return self._buckets.take(key, self._rate).is_allowed

    def remaining(self, key: Hashable) -> int:
        """Return how many requests a key may make now; asking counts for nothing."""
        return self._buckets.peek(key, self._rate).remaining


class FailureWindow:
    """Failures by key in a sliding window, for many threads; a key that has too many must wait for the oldest to leave.

    Under pressure, with `max_keys` keys, the one that has not failed for longest is forgotten.

    Args:
        limit: How many failures close the window.
        window_s: How long a failure counts.
        clock: Seconds since whenever.
        max_keys: How many keys are remembered at most.

    Raises:
        ValueError: A number below 1.
    """

    def __init__(
        self, limit: int = 5, window_s: int = 300, *, clock: Clock = time.monotonic, max_keys: int = MAX_KEYS
    ) -> None:
        self.limit: Final = _at_least(1, limit, "limit")
        self.window_s: Final = _at_least(1, window_s, "window_s")
        self._max_keys = _at_least(1, max_keys, "max_keys")
        self._ticks = _Ticks(clock)
        self._lock = threading.Lock()
        self._ends: OrderedDict[Hashable, list[int]] = OrderedDict()  # when each failure leaves, oldest first

    def __len__(self) -> int:
        return len(self._ends)

    def wait_s(self, key: Hashable) -> int:
        """Return 0 where a key may try, else the whole seconds until it may, from 1 to `window_s`."""
        with self._lock:
            now = self._ticks.now()
            ends = self._live(key, now)
        return _up(ends[0] - now, _NS_PER_S) if len(ends) >= self.limit else 0

    def note(self, key: Hashable) -> bool:
        """Remember a failure, unless the window is full already, and tell whether it was."""
        with self._lock:
            now = self._ticks.now()
            ends = self._live(key, now)
            if len(ends) >= self.limit:
                return False
            if key not in self._ends:
                self._make_room(now)
            self._ends[key] = [*ends, now + self.window_s * _NS_PER_S]
            self._ends.move_to_end(key)
            return True

    def _live(self, key: Hashable, now: int) -> list[int]:
        return [end for end in self._ends.get(key, ()) if end > now]

    def _make_room(self, now: int) -> None:
        for _ in range(_LOOKS):
            first = next(iter(self._ends.values()), None)
            if first is None or (first[-1] > now and len(self) < self._max_keys):
                return
            self._ends.popitem(last=False)


def _token(rate: Rate) -> int:
    return rate.period_s * _NS_PER_S


def _size(rate: Rate) -> int:
    return rate.limit * _token(rate)


def _told(rate: Rate, missing: int, *, is_allowed: bool) -> Taken:
    wait_s = 0 if is_allowed else _up(missing + _token(rate) - _size(rate), rate.limit * _NS_PER_S)
    reset_s = _up(missing, rate.limit * _NS_PER_S)
    return Taken(is_allowed, rate.limit, rate.period_s, (_size(rate) - missing) // _token(rate), wait_s, reset_s)


def _closed(rate: Rate) -> Taken:
    return Taken(
        is_allowed=False, limit=0, period_s=rate.period_s, remaining=0, retry_after_s=rate.period_s,
        reset_in_s=rate.period_s,
    )  # fmt: skip


def _up(number: int, divisor: int) -> int:
    return -(-number // divisor)


def _at_least(low: int, number: int, name: str) -> int:
    if type(number) is not int or number < low:
        raise ValueError(f"{name} must be a whole number of at least {low}")
    return number
