"""Token quotas: whether one more request of an API token may go on, and counting it without a write of its own.

Requests are counted in the process and written in batches. Within the process the count is exact: a lineage's requests
of a day are read once, when its first one comes, and counted in memory from then on. A batch is taken out, applied and
then confirmed or put back, so that a commit which fails loses nothing, and one that is tried again counts once.
What a crash can lose are the counts since the last batch.

Source: contract identity.md 6.
"""

import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from ironcage_core.domain.api_tokens import UNUSED, ApiToken
from ironcage_core.domain.instants import MS_PER_S, Instant, day_of
from ironcage_core.domain.quotas import check_quotas
from ironcage_core.domain.rate_limits import Rate, Taken
from ironcage_core.errors.access import RateLimitExceededError
from ironcage_core.ports.rate_limits import RateLimits
from ironcage_core.ports.storage import UnitOfWork

MS_PER_MINUTE: Final = 60_000
KEPT_MINUTES: Final = 61
"""One more than an hour has: the minute that is going on is one of them."""


@dataclass(frozen=True, slots=True)
class CountedRequests:
    """Requests on their way into the store: how many by lineage and minute, and when each token was last used."""

    requests: Mapping[tuple[str, int], int]
    last_used: Mapping[str, Instant]

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to write."""
        return not self.requests

    def apply(self, uow: UnitOfWork) -> None:
        """Write the counts; what was undone may be applied again."""
        for (lineage, minute), requests in self.requests.items():
            uow.token_usage.add_requests(lineage, minute * MS_PER_MINUTE, requests)
        for token_id, used_at in self.last_used.items():
            token = uow.api_tokens.find(token_id)
            if token is not None and (token.last_used_at is None or token.last_used_at < used_at):
                uow.api_tokens.put(token._replace(last_used_at=used_at))
        uow.token_usage.forget_minutes(uow.now - KEPT_MINUTES * MS_PER_MINUTE)


class TokenCounter:
    """Admits and counts the requests of API tokens; for many threads.

    Args:
        rates: Buckets for the limits per second.
    """

    def __init__(self, rates: RateLimits) -> None:
        self._rates = rates
        self._lock = threading.Lock()
        self._days: dict[tuple[str, int], int] = {}
        self._newest_day = 0
        self._requests: Counter[tuple[str, int]] = Counter()
        self._last_used: dict[str, Instant] = {}
        self._flushed: CountedRequests | None = None

    def admit(self, uow: UnitOfWork, token: ApiToken) -> Taken | None:
        """Count one request of a token that keeps within all its limits; a refused one uses up nothing.

        Returns:
            What its limit per second has left, if it has one.

        Raises:
            QuotaExceededError: A quota of the day is used up.
            CostCapReachedError: The token has cost what it may in its life.
            RateLimitExceededError: Too many requests in this second.
        """
        now = uow.now
        day = (token.lineage, day_of(now))
        with self._lock:
            is_first = day not in self._days
            use = uow.token_usage.of(token.lineage, now) if is_first or _spends(token) else UNUSED
            if is_first:
                self._begin_day(day, use.requests_today)
            if token.daily_request_limit is not None or _spends(token):
                check_quotas(token, use._replace(requests_today=self._days[day]), now=now)
            taken = self._take_rate(token, now)
            self._days[day] += 1
            self._requests[token.lineage, now // MS_PER_MINUTE] += 1
            self._last_used[token.id] = max(now, self._last_used.get(token.id, now))
            return taken

    def _begin_day(self, day: tuple[str, int], requests: int) -> None:
        if day[1] > self._newest_day:
            self._newest_day = day[1]
            # The day before stays: a clock that is set back must not count it from what is stored.
            self._days = {known: count for known, count in self._days.items() if known[1] >= day[1] - 1}
        self._days[day] = requests

    def _take_rate(self, token: ApiToken, now: Instant) -> Taken | None:
        if token.rate_limit_rps is None:
            return None
        taken = self._rates.take(token.lineage, Rate(token.rate_limit_rps, 1))
        if not taken.is_allowed:
            raise RateLimitExceededError(
                f"The token may make {taken.limit} requests a second",
                limit=taken.limit,
                window_seconds=taken.period_s,
                retry_after_s=max(taken.retry_after_s, 1),
                reset_at=now + taken.reset_in_s * MS_PER_S,
            )
        return taken

    def begin_flush(self) -> CountedRequests:
        """Take out what is counted and not written; unless it is empty, `end_flush` must follow.

        Raises:
            RuntimeError: The last one has not ended: it might be counted twice.
        """
        with self._lock:
            if self._flushed is not None:
                raise RuntimeError("one flush of counted requests at a time")
            if not self._requests:
                return CountedRequests({}, {})
            batch = self._flushed = CountedRequests(self._requests, self._last_used)
            self._requests, self._last_used = Counter(), {}
            return batch

    def end_flush(self, *, is_written: bool) -> None:
        """Forget what was taken out and is durable now, or put it back."""
        with self._lock:
            batch, self._flushed = self._flushed, None
            if batch is None or is_written:
                return
            self._requests.update(batch.requests)
            for token_id, used_at in batch.last_used.items():
                self._last_used[token_id] = max(used_at, self._last_used.get(token_id, used_at))


def _spends(token: ApiToken) -> bool:
    """Tell whether a limit holds on what only the store knows."""
    return (token.daily_token_limit, token.daily_limit_micros, token.cost_cap_micros) != (None, None, None)
