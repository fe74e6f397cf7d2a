"""Buckets and windows: exact at their edges, isolated by key, safe between threads, and bounded."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from itertools import combinations
from threading import Barrier
from time import sleep
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ironcage_core.domain.limit_classes import LIMITS, LimitClass, parse_overrides
from ironcage_core.domain.rate_limits import FailureWindow, Rate, RateLimiter, Taken, TokenBuckets
from ironcage_core.ports.rate_limits import RateLimits


class Time:
    """A clock that stands where it is put, in thousandths of a second."""

    def __init__(self) -> None:
        self.ms = 0

    def __call__(self) -> float:
        return self.ms / 1000


class SlowKey:
    """A key that lets other threads run whenever it is looked up."""

    def __hash__(self) -> int:
        sleep(0)
        return 1


RATES = st.builds(Rate, st.integers(1, 7), st.integers(1, 5))
STEPS_MS = st.lists(st.integers(-2000, 3000) | st.just(0), max_size=60)


def at_once(threads: int, act: Callable[[], bool]) -> int:
    """Return in how many of so many threads an act succeeds, 50 times in each."""
    barrier = Barrier(threads)

    def run(_: int) -> int:
        barrier.wait()
        return sum(act() for _ in range(50))

    with ThreadPoolExecutor(threads) as pool:
        return sum(pool.map(run, range(threads)))


# --- token buckets -----------------------------------------------------------


@given(RATES, STEPS_MS)
def test_a_bucket_does_what_exact_fractions_say(rate: Rate, steps: list[int]) -> None:
    """Capacity N, refilled by N in a period, without drift; a clock that goes back neither adds nor takes."""
    time, level, seen = Time(), Fraction(rate.limit), 0
    buckets = TokenBuckets(time)

    for step in steps:
        time.ms += step
        level += Fraction(max(0, time.ms - seen) * rate.limit, 1000 * rate.period_s)
        level, seen = min(level, Fraction(rate.limit)), max(seen, time.ms)
        before, taken = buckets.peek("a", rate), buckets.take("a", rate)
        assert taken.is_allowed == before.is_allowed == (level >= 1)
        assert before.remaining == int(level)
        level -= taken.is_allowed
        assert taken.remaining == int(level)
        assert (taken.limit, taken.period_s) == rate


@given(RATES, st.lists(st.integers(0, 3000), max_size=60))
def test_no_window_lets_more_pass_than_a_bucket_and_its_refill(rate: Rate, steps: list[int]) -> None:
    """Between any two requests that pass."""
    time, passed = Time(), []
    limiter = RateLimiter(*rate, clock=time)

    for step in steps:
        time.ms += step
        if limiter.check("a"):
            passed.append(time.ms)

    for first, last in combinations(range(len(passed)), 2):
        elapsed_s = Fraction(passed[last] - passed[first], 1000)
        assert last - first + 1 <= rate.limit + elapsed_s * rate.limit / rate.period_s


@given(RATES, STEPS_MS)
def test_who_waits_as_long_as_told_passes_and_not_a_second_earlier(rate: Rate, steps: list[int]) -> None:
    """Whole seconds, rounded up, and none where nothing was refused."""
    time = Time()
    buckets = TokenBuckets(time)

    for step in steps:
        time.ms += abs(step) // 4
        taken = buckets.take("a", rate)
        assert (taken.retry_after_s == 0) == taken.is_allowed
        if not taken.is_allowed:
            now = time.ms
            time.ms = now + (taken.retry_after_s - 1) * 1000
            assert not buckets.peek("a", rate).is_allowed
            time.ms = now + taken.retry_after_s * 1000
            assert buckets.peek("a", rate).is_allowed


@given(RATES, st.integers(1, 7), st.integers(0, 900))
def test_a_bucket_is_full_when_it_says_so_and_not_a_second_earlier(rate: Rate, takes: int, late_ms: int) -> None:
    """`reset_in_s` is what the header X-RateLimit-Reset tells."""
    time = Time()
    buckets = TokenBuckets(time)
    for _ in range(takes):
        buckets.take("a", rate)

    time.ms = late_ms
    reset_s = buckets.peek("a", rate).reset_in_s

    if reset_s:
        time.ms = late_ms + (reset_s - 1) * 1000
        assert buckets.peek("a", rate).reset_in_s == 1
    time.ms = late_ms + reset_s * 1000
    assert buckets.peek("a", rate) == Taken(
        is_allowed=True, limit=rate.limit, period_s=rate.period_s, remaining=rate.limit, retry_after_s=0, reset_in_s=0
    )


def test_an_odd_rate_does_not_drift() -> None:
    """7 in 3 s, asked every ms for 30 s: the bucket and exactly 70 more, and the next a ms too early still waits."""
    time = Time()
    limiter = RateLimiter(7, 3, clock=time)

    passed = 0
    for time.ms in range(30_001):
        passed += limiter.check("a")

    assert passed == 7 + 70


def test_a_full_period_later_everything_is_back_and_no_more() -> None:
    """Not one a period: the whole limit."""
    time = Time()
    limiter = RateLimiter(10, 60, clock=time)

    first = [limiter.check("a") for _ in range(12)]
    time.ms = 60_000
    second = [limiter.check("a") for _ in range(12)]
    time.ms = 65_999
    early = limiter.check("a")
    time.ms = 66_000

    assert first == second == [True] * 10 + [False] * 2
    assert not early
    assert limiter.check("a")


def test_keys_share_nothing() -> None:
    """Whatever they are: a text, a number, a pair."""
    limiter = RateLimiter(1, clock=Time())

    assert [limiter.check(key) for key in ("a", "b", 1, ("a", "b"), None)] == [True] * 5
    assert [limiter.check(key) for key in ("a", "b", 1, ("a", "b"), None)] == [False] * 5


def test_remaining_never_consumes() -> None:
    """Neither of a key that is known nor of one that is not."""
    limiter = RateLimiter(3, clock=Time())

    assert [limiter.remaining("a") for _ in range(5)] == [3] * 5
    assert limiter.check("a")
    assert [limiter.remaining("a") for _ in range(5)] == [2] * 5


def test_a_limit_of_zero_refuses_everything_for_ever() -> None:
    """And says to wait at least a second."""
    time = Time()
    buckets = TokenBuckets(time)

    for time.ms in (0, 10**9):
        assert buckets.take("a", Rate(0, 60)) == buckets.peek("a", Rate(0, 60))
        assert buckets.take("a", Rate(0, 60)) == Taken(
            is_allowed=False, limit=0, period_s=60, remaining=0, retry_after_s=60, reset_in_s=60
        )
    assert not RateLimiter(0).check("a")
    assert RateLimiter(0).remaining("a") == 0


def test_a_limiter_needs_no_more_than_its_rate() -> None:
    """It has a clock of its own."""
    limiter = RateLimiter(2, 3600)

    assert [limiter.check("a") for _ in range(3)] == [True, True, False]


@pytest.mark.parametrize("rate", [-1, 1.5, "1", None, True])
def test_a_rate_that_is_no_whole_number_is_refused(rate: int) -> None:
    """True is none either."""
    with pytest.raises(ValueError, match="rate"):
        RateLimiter(rate)


def test_a_period_or_a_size_below_one_is_refused() -> None:
    """Nothing could be counted by it."""
    with pytest.raises(ValueError, match="period_s"):
        RateLimiter(1, 0)
    with pytest.raises(ValueError, match="max_keys"):
        RateLimiter(1, max_keys=0)


def test_a_changed_rate_holds_at_once_and_gives_nothing_away() -> None:
    """The bucket keeps its share: an empty one is empty under every rate, a half full one half full."""
    time = Time()
    buckets = TokenBuckets(time)
    slow, fast = Rate(4, 1), Rate(1000, 1)
    half = [buckets.take("half", slow).is_allowed for _ in range(2)]
    empty = [buckets.take("empty", slow).is_allowed for _ in range(4)]

    assert all(half + empty)
    assert (buckets.peek("half", fast).remaining, buckets.peek("half", Rate(2, 60)).remaining) == (500, 1)
    assert not buckets.take("empty", fast).is_allowed
    assert not buckets.take("empty", Rate(0, 1)).is_allowed
    time.ms = 1
    assert buckets.peek("empty", slow).remaining == 0
    assert buckets.peek("new", fast).remaining == 1000
    time.ms = 250
    assert buckets.take("empty", fast).remaining == 249, "so far it was refilled at the rate it was emptied at"
    time.ms = 350
    assert buckets.take("empty", fast).remaining == 348, "from now on at the new one"


def test_of_many_threads_exactly_as_many_pass_as_the_limit() -> None:
    """Checking and taking is one step."""
    limiter, key = RateLimiter(123, clock=Time()), SlowKey()

    assert at_once(16, lambda: limiter.check(key)) == 123
    assert limiter.remaining(key) == 0


@given(st.lists(st.tuples(st.integers(0, 12), st.integers(0, 4), st.integers(0, 700)), max_size=120))
def test_buckets_never_exceed_their_number_and_forget_no_key_while_there_is_room(
    steps: list[tuple[int, int, int]],
) -> None:
    """A bounded store agrees with an unbounded one until it had to forget."""
    time = Time()
    small, large = TokenBuckets(time, max_keys=5), TokenBuckets(time)
    used: set[int] = set()

    for key, rate, step in steps:
        time.ms += step
        used.add(key)
        one, other = (each.take(key, Rate(2 + rate, 1 + rate)) for each in (small, large))
        assert len(small) <= 5
        assert one == other or len(used) > 5


def test_a_bucket_that_is_full_again_is_forgotten_without_being_asked() -> None:
    """As new keys come; buckets that take longer do not stand in their way."""
    time = Time()
    buckets = TokenBuckets(time)
    for key in range(100):
        buckets.take(("hour", key), Rate(1, 3600))
    for key in range(1000):
        buckets.take(("second", key), Rate(1, 1))

    time.ms = 1000
    for key in range(200):
        buckets.take(("new", key), Rate(1, 3600))

    assert len(buckets) == 300


def test_a_flood_of_new_keys_does_not_free_an_exhausted_one() -> None:
    """What is nearest to being full goes first, and looking for it is bounded."""
    buckets = TokenBuckets(Time(), max_keys=50)
    rate = Rate(10, 60)
    for _ in range(10):
        buckets.take("exhausted", rate)

    for key in range(5000):
        buckets.take(key, rate)

    assert not buckets.take("exhausted", rate).is_allowed
    assert len(buckets) == 50


def test_buckets_are_bounded_also_where_all_of_them_are_busy() -> None:
    """More than a new key looks at."""
    buckets = TokenBuckets(Time(), max_keys=50)
    for key in [*range(50), *range(50), *range(50, 100)]:
        buckets.take(key, Rate(10, 60))

        assert len(buckets) <= 50


# --- the failure window ------------------------------------------------------


def test_the_window_closes_with_the_fifth_failure_and_opens_as_the_oldest_leaves() -> None:
    """Exactly `window_s` after it, for one more failure: the window slides."""
    time = Time()
    window = FailureWindow(clock=time)
    noted = []
    for time.ms in (0, 1000, 1001, 2000, 9500):
        assert window.wait_s("a") == 0
        noted.append(window.note("a"))

    assert noted == [True] * 5
    assert window.wait_s("a") == 291
    time.ms = 299_999
    assert (window.wait_s("a"), window.note("a")) == (1, False)
    time.ms = 300_000
    assert (window.wait_s("a"), window.note("a")) == (0, True)
    assert window.wait_s("a") == 1, "until the second failure leaves"
    time.ms = 301_000
    assert window.wait_s("a") == 0


def test_a_failure_of_a_full_window_is_not_recorded() -> None:
    """So it does not put the end off."""
    time = Time()
    window = FailureWindow(2, 10, clock=time)
    noted = [window.note("a") for _ in range(3)]
    time.ms = 9000
    noted += [window.note("a") for _ in range(100)]

    assert noted == [True, True] + [False] * 101
    assert window.wait_s("a") == 1
    time.ms = 10_000
    assert window.wait_s("a") == 0


def test_asking_a_window_records_nothing_and_other_keys_are_open() -> None:
    """Nobody is locked out for another."""
    window = FailureWindow(1, 10, clock=Time())

    assert [window.wait_s("a") for _ in range(3)] == [0, 0, 0]
    assert len(window) == 0
    assert window.note("a")
    assert (window.wait_s("a"), window.wait_s("b"), window.note("b")) == (10, 0, True)


@given(st.lists(st.tuples(st.integers(-4000, 4000), st.booleans()), max_size=80))
def test_a_window_never_holds_more_failures_than_its_limit(steps: list[tuple[int, bool]]) -> None:
    """The wait stays within 1 and the window, also where the clock goes back."""
    time, seen = Time(), 0
    recorded: list[int] = []
    window = FailureWindow(3, 10, clock=time)

    for step, fails in steps:
        time.ms += step
        seen = max(seen, time.ms)
        live = [at for at in recorded if seen - at < 10_000]
        wait_s = window.wait_s("a")
        assert (wait_s > 0) == (len(live) >= 3)
        assert wait_s == (0 if len(live) < 3 else -(-(live[0] + 10_000 - seen) // 1000))
        if fails and window.note("a"):
            recorded.append(seen)
            assert len(live) < 3


def test_of_many_threads_that_fail_exactly_as_many_are_recorded_as_the_limit() -> None:
    """Looking and recording is one step."""
    window, key = FailureWindow(17, clock=Time()), SlowKey()

    assert at_once(16, lambda: window.note(key)) == 17


def test_windows_are_bounded_and_forgotten_when_they_are_over() -> None:
    """Under pressure the one goes that has not failed for longest."""
    time = Time()
    window = FailureWindow(2, 10, clock=time, max_keys=3)
    for key in ("a", "b", "b", "c", "a", "d"):
        window.note(key)

    assert len(window) == 3
    assert [window.wait_s(key) for key in "abcd"] == [10, 0, 0, 0]
    time.ms = 10_000
    window.note("e")
    assert len(window) == 1


def test_a_window_is_kept_as_long_as_its_last_failure_counts() -> None:
    """Not as long as its first."""
    time = Time()
    window = FailureWindow(2, 10, clock=time)
    for time.ms in (0, 5000):
        window.note("a")

    time.ms = 12_000
    window.note("b")

    assert window.note("a")
    assert window.wait_s("a") == 3


@pytest.mark.parametrize("sizes", [(0, 300, 1), (5, 0, 1), (5, 300, 0)])
def test_a_window_of_nothing_is_refused(sizes: tuple[int, int, int]) -> None:
    """It would be closed for ever, or never."""
    limit, window_s, max_keys = sizes
    with pytest.raises(ValueError, match="at least 1"):
        FailureWindow(limit, window_s, max_keys=max_keys)


# --- the table ---------------------------------------------------------------


def test_every_class_has_a_limit_and_the_buckets_serve_the_port() -> None:
    """So no class can be named that nothing limits."""
    port: RateLimits = TokenBuckets(Time())

    assert tuple(LIMITS) == get_args(LimitClass)
    assert all(port.take(name, limit.rate).is_allowed for name, limit in LIMITS.items())


def test_what_guards_credentials_is_always_on() -> None:
    """Contract identity.md 8."""
    always = {name for name, limit in LIMITS.items() if limit.is_always_on}

    assert always == {"api_token_validate", "api_token_make", "keys", "provider_key"}


def test_events_have_a_burst_of_5000_and_a_refill_of_1000_a_minute() -> None:
    """Contract analytics.md: new events of one agent."""
    time = Time()
    buckets = TokenBuckets(time)
    rate = LIMITS["analytics_events"].rate

    burst = sum(buckets.take("a", rate).is_allowed for _ in range(6000))
    time.ms = 60_000
    refill = sum(buckets.take("a", rate).is_allowed for _ in range(6000))

    assert (burst, refill) == (5000, 1000)


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("1/s", (1, 1)),
        ("2/sec", (2, 1)),
        ("3/second", (3, 1)),
        ("4/m", (4, 60)),
        ("4/min", (4, 60)),
        ("5 / Minute", (5, 60)),
        ("6/h", (6, 3600)),
        ("7/hour", (7, 3600)),
        ("8/d", (8, 86_400)),
        ("9/day", (9, 86_400)),
        ("10/90", (10, 90)),
        ("0/s", (0, 1)),
    ],
)
def test_an_override_is_so_many_in_a_period(text: str, rate: tuple[int, int]) -> None:
    """By name or in seconds."""
    assert parse_overrides(json.dumps({"login": text})) == {"login": rate}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "login",
        "[]",
        "null",
        "[" * 100_000,
        '{"logins": "1/s"}',
        '{"": "1/s"}',
        *(json.dumps({"login": rate}) for rate in ("", "1", "1/", "/s", "-1/s", "1.5/s", "1/0", "1/-1", "1/week")),
        *(json.dumps({"login": rate}) for rate in ("1/s/s", "1/s ", "٣/s", "9" * 13 + "/s", "1/" + "9" * 9)),
        *(json.dumps({"login": rate}) for rate in (1, None, ["1/s"], {"1": "s"})),
    ],
)
def test_an_override_of_another_form_is_refused(text: str) -> None:
    """As is one of a class that is not there."""
    with pytest.raises(ValueError, match=r".*"):
        parse_overrides(text)
