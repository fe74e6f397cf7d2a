"""The clock tells milliseconds; ids grow whatever the clock does."""

import os
import re
import threading
import time
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from ironcage_core.domain.ids import is_id
from ironcage_core.ports.system import Clock, Ids
from ironcage_storage.system import SystemClock, TimeOrderedIds

UUID7 = re.compile(r"[0-9a-f]{12}7[0-9a-f]{3}[89ab][0-9a-f]{15}")
LAST_MS = 2**48 - 1


class CountedEntropy:
    """Random bytes, and how often they were asked for."""

    def __init__(self, fill: bytes | None = None) -> None:
        self.calls = 0
        self._fill = fill

    def __call__(self, size: int) -> bytes:
        """Give `size` bytes, all alike if a fill was set."""
        self.calls += 1
        return os.urandom(size) if self._fill is None else self._fill * size


def test_the_clock_tells_milliseconds_since_the_epoch() -> None:
    """The clock's reading lies between two readings of the machine's."""
    clock: Clock = SystemClock()

    before = time.time()
    now = clock.now()
    after = time.time()

    assert int(before * 1000) - 1 <= now <= int(after * 1000) + 1


@given(st.lists(st.integers(0, LAST_MS), min_size=1, max_size=40))
def test_ids_strictly_grow_whatever_the_clock_does(instants: list[int]) -> None:
    """Clocks that stand, jump or go back never make an id smaller than one before it."""
    ids: Ids = TimeOrderedIds()

    made = [ids.new("led", now) for now in instants for _ in range(3)]

    assert all(earlier < later for earlier, later in pairwise(made))


@given(st.integers(1, LAST_MS), st.integers(1, 50))
def test_every_id_is_a_version_7_uuid_of_its_millisecond(now: int, count: int) -> None:
    """The version, the variant and the time are where RFC 9562 puts them."""
    ids = TimeOrderedIds()

    made = [ids.new("agent", now) for _ in range(count)]

    assert all(is_id(each, "agent") for each in made)
    assert all(UUID7.fullmatch(each.removeprefix("agent_")) for each in made)
    assert all(int(each.removeprefix("agent_")[:12], 16) == now for each in made)


def test_a_clock_gone_back_leaves_ids_in_the_latest_millisecond_seen() -> None:
    """An id made after the clock went back still carries the later time."""
    ids = TimeOrderedIds()
    ids.new("led", 5_000)

    made = ids.new("led", 1)

    assert int(made.removeprefix("led_")[:12], 16) == 5_000


def test_time_before_the_epoch_still_gives_well_formed_ids() -> None:
    """A clock before 1970 counts as one that went back."""
    made = TimeOrderedIds().new("led", -7)

    assert UUID7.fullmatch(made.removeprefix("led_"))


def test_the_largest_seed_and_step_leave_the_version_and_variant_alone() -> None:
    """A million ids from the highest start by the widest step stay version 7 UUIDs of that millisecond."""
    ids = TimeOrderedIds(CountedEntropy(b"\xff"))
    first = ids.new("led", 77)
    made = first
    for _ in range(1_000_000):
        made = ids.new("led", 77)

    assert UUID7.fullmatch(made.removeprefix("led_"))
    assert made[:20] == first[:20]
    assert made > first


def test_the_smallest_seed_and_step_still_tell_ids_apart() -> None:
    """Entropy of zeros gives growing ids."""
    ids = TimeOrderedIds(CountedEntropy(b"\x00"))

    made = [ids.new("led", 77) for _ in range(100)]

    assert made == sorted(set(made))


def test_randomness_is_read_for_many_milliseconds_at_once() -> None:
    """Ten ids of each of 500 milliseconds cost at most one more reading of entropy."""
    entropy = CountedEntropy()
    ids = TimeOrderedIds(entropy)
    calls_before = entropy.calls

    made = [ids.new("led", 1_000 + number // 10) for number in range(5_000)]

    assert entropy.calls <= calls_before + 1
    assert len({each[-15:] for each in made}) == 5_000


def test_two_processes_in_one_millisecond_make_different_ids() -> None:
    """Two sources that saw the same clock do not meet."""
    one, other = TimeOrderedIds(), TimeOrderedIds()

    made = [source.new("led", 9) for source in (one, other) for _ in range(500)]

    assert len(set(made)) == 1_000


def test_threads_that_share_a_source_never_get_the_same_id() -> None:
    """Four threads draw ids at once; all differ and each thread saw its own grow."""
    ids = TimeOrderedIds()
    drawn: list[list[str]] = [[] for _ in range(4)]

    def draw(into: list[str]) -> None:
        into.extend(ids.new("led", now // 10) for now in range(5_000))

    threads = [threading.Thread(target=draw, args=(into,)) for into in drawn]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len({each for into in drawn for each in into}) == 20_000
    assert all(into == sorted(into) for into in drawn)
