"""The port to the buckets that requests are counted in, so that several servers may share them.

`domain.rate_limits.TokenBuckets` keeps them in the process.
"""

from collections.abc import Hashable
from typing import Protocol

from ironcage_core.domain.rate_limits import Rate, Taken


class RateLimits(Protocol):
    """Token buckets by key; keys share nothing."""

    def take(self, key: Hashable, rate: Rate) -> Taken:
        """Take a token of a key's bucket if there is one; a refusal takes nothing."""
        ...

    def peek(self, key: Hashable, rate: Rate) -> Taken:
        """Tell what `take` would, and take nothing."""
        ...
