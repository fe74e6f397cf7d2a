"""The throttle: which rate limits hold on this server, and what a request that meets one is told.

Where rate limits are switched off, those hold that are always on, and failed logins are counted by account only.

Source: contract identity.md 3 and 8.
"""

from ironcage_core.domain.instants import MS_PER_S, Instant
from ironcage_core.domain.limit_classes import LIMITS, LimitClass
from ironcage_core.domain.rate_limits import FailureWindow, Taken
from ironcage_core.errors.access import RateLimitExceededError
from ironcage_core.ports.rate_limits import RateLimits
from ironcage_http.errors import limit_headers
from ironcage_http.settings import Settings


class Throttle:
    """The limits of one server.

    Args:
        settings: Whether they are on, and the rates that the operator sets.
        buckets: Where requests are counted.
        failures: Where failed logins are counted.
    """

    def __init__(self, settings: Settings, buckets: RateLimits, failures: FailureWindow) -> None:
        self._is_on = settings.rate_limit_enabled
        self._rates = {name: settings.rate_limits.get(name, limit.rate) for name, limit in LIMITS.items()}
        self._buckets = buckets
        self._failures = failures

    def take(self, name: LimitClass, key: str) -> Taken | None:
        """Count a request of a class, and tell whether it may go on; None where the class has no limit here.

        Args:
            name: The class.
            key: What the class is counted by, narrowed by what the class says; classes share no buckets.
        """
        if not (self._is_on or LIMITS[name].is_always_on):
            return None
        return self._buckets.take((name, key), self._rates[name])

    def login_wait_s(self, ip: str) -> int:
        """Return for how many seconds an address may not log in, after too many failures; 0 if it may."""
        return self._failures.wait_s(ip) if self._is_on else 0

    def login_refusal(self, ip: str, now: Instant) -> RateLimitExceededError:
        """Return what an address is told that has failed too often to log in."""
        wait_s = max(1, self.login_wait_s(ip))
        return RateLimitExceededError(
            f"Too many failed logins; try again in {wait_s} s",
            limit=self._failures.limit,
            window_seconds=self._failures.window_s,
            retry_after_s=wait_s,
            reset_at=now + wait_s * MS_PER_S,
        )

    def note_failed_login(self, ip: str) -> bool:
        """Count a failed login of an address.

        Returns:
            Whether it was within the limit: if not, others failed while this one was judged, and it must be told
            nothing but to wait.
        """
        return not self._is_on or self._failures.note(ip)


def headers_of(taken: Taken, now_unix_s: int) -> dict[str, str]:
    """Return the headers of an answer to a request that was counted, refused or not."""
    return limit_headers(taken.limit, taken.remaining, now_unix_s + taken.reset_in_s)


def check(taken: Taken | None, now: Instant) -> None:
    """Let a request go on that was counted and allowed, or has no limit.

    Raises:
        RateLimitExceededError: It was refused.
    """
    if taken is None or taken.is_allowed:
        return
    raise RateLimitExceededError(
        f"Too many requests; try again in {taken.retry_after_s} s",
        limit=taken.limit,
        window_seconds=taken.period_s,
        retry_after_s=taken.retry_after_s,
        reset_at=now + taken.reset_in_s * MS_PER_S,
    )
