"""What a runtime knows of its lease: what is spent counts at once, and what is not acknowledged counts again."""

import pytest

from ironcage_core.errors.runtime import InsufficientBudget, ReservationClosedError
from ironcage_core.runtime.lease_session import MAX_ASKED, LeaseSession, Spend

TRANCHE = 10_000_000
THRESHOLD = 1_000_000


def opened(budget: int = TRANCHE, tranche: int = TRANCHE) -> LeaseSession:
    session = LeaseSession(tranche)
    session.begin("lease_1", budget, THRESHOLD)
    return session


def spend(session: LeaseSession, name: str, cost: int, reserved: int | None = None) -> Spend:
    made = Spend(name, session.lease_id or "", "gpt-4o", "openai", cost, 10, None, 0)
    session.commit(session.controller.reserve(cost if reserved is None else reserved), made)
    return made


def test_a_session_without_a_lease_has_nothing_to_spend() -> None:
    """Not even a little."""
    session = LeaseSession(TRANCHE)

    with pytest.raises(InsufficientBudget):
        session.controller.reserve(1)

    assert session.lease_id is None


def test_a_spend_counts_at_once_and_waits_until_it_is_acknowledged() -> None:
    """In the order in which it came, however large a batch may be; what was acknowledged still counts as spent."""
    session = opened()
    first, second = spend(session, "a", 5), spend(session, "b", 7)

    assert (session.batch(1), session.batch(10), session.waiting) == ([first], [first, second], 2)
    session.acknowledge(["a", "unknown"])

    assert (session.batch(10), session.waiting) == ([second], 1)
    assert session.status() == (12, 0, TRANCHE)


def test_a_refreshed_lease_begins_with_what_was_not_acknowledged() -> None:
    """The control plane has rolled over what it did not know to be spent; also along a chain of refreshes."""
    session = opened()
    spend(session, "a", 1_000)
    spend(session, "b", 20)
    held = session.controller.reserve(300)
    session.acknowledge(["a"])

    session.go_on("lease_2", TRANCHE)
    spend(session, "c", 3)
    assert session.status() == (23, 300, TRANCHE)
    session.go_on("lease_3", TRANCHE)

    assert (session.status(), session.lease_id) == ((23, 300, TRANCHE), "lease_3")
    session.controller.cancel(held)


def test_what_was_acknowledged_while_a_refresh_had_no_answer_is_spent_of_the_new_lease() -> None:
    """The answer to the first asking was lost: what was reported behind it was charged to the successor."""
    session = opened()
    spend(session, "before", 1_000)
    session.acknowledge(["before"])
    session.begin_to_ask()
    spend(session, "behind", 20)
    spend(session, "waiting", 3)
    session.recover([Spend("old", "lease_0", "gpt-4o", "openai", 9, 1, None, 0)])
    session.acknowledge(["behind", "old"])

    session.go_on("lease_2", TRANCHE)
    assert session.status().spent == 23
    session.acknowledge(["waiting"])
    session.begin_to_ask()
    session.go_on("lease_3", TRANCHE)

    assert session.status().spent == 0


def test_a_new_lease_owes_nothing_of_the_one_before() -> None:
    """What waits was spent of another lease; neither the new one nor its refresh counts it."""
    session = opened()
    spend(session, "a", 1_000)

    session.begin("lease_2", TRANCHE, THRESHOLD)
    assert (session.status().spent, session.waiting) == (0, 1)
    session.go_on("lease_3", TRANCHE)

    assert session.status().spent == 0


def test_spends_of_a_dead_session_wait_and_cost_this_lease_nothing() -> None:
    """They are sent with the rest; one that is known already waits once."""
    session = opened()
    old = Spend("old", "lease_0", "gpt-4o", "openai", 9, 1, None, 0)

    session.recover([old, old])
    session.go_on("lease_2", TRANCHE)

    assert (session.batch(10), session.status().spent) == ([old], 0)


@pytest.mark.parametrize(
    ("budget", "tranche", "low_below"),
    [(10_000_000, 10_000_000, 1_000_000), (500_000, 500_000, 100_000), (2_000_000, 10_000_000, 1_000_000)],
)
def test_a_lease_is_low_below_the_threshold_or_a_fifth_of_a_small_one(
    budget: int, tranche: int, low_below: int
) -> None:
    """A lease that is smaller than the threshold must not be low from its first moment."""
    session = opened(budget, tranche)
    spend(session, "a", budget - low_below)
    assert not session.is_low

    spend(session, "b", 1)

    assert session.is_low


def test_a_session_asks_for_what_fills_its_tranche_or_for_what_a_call_needs() -> None:
    """At least for something, and never for more than may be asked."""
    session = opened()
    assert session.asks() == 1
    spend(session, "a", 9_500_000)

    assert session.asks() == 9_500_000
    assert session.asks(30_000_000) == 29_500_000
    assert session.asks(10**12) == MAX_ASKED


def test_a_reservation_that_has_ended_is_not_spent_again() -> None:
    """Nothing waits because of it."""
    session = opened()
    reservation = session.controller.reserve(5)
    session.controller.cancel(reservation)

    with pytest.raises(ReservationClosedError):
        session.commit(reservation, Spend("a", "lease_1", "gpt-4o", "openai", 5, 1, None, 0))

    assert (session.waiting, session.status().spent) == (0, 0)
