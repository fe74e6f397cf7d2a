"""The transitions table, and what time and spend do to a lease."""

from itertools import product
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ironcage_core.domain.leases import (
    TRANSITIONS,
    Lease,
    LeaseEvent,
    LeaseStatus,
    SpendSplit,
    charged,
    counted,
    kept_alive,
    moved,
    overdue,
    pended,
    split_spend,
)
from ironcage_core.errors.faults import InvariantViolationError

FRESH = Lease(
    id="lease", agent_id="agent", bank_user_id="user", project_id="proj", ic_token_id="ict", ic_token_gen=1,
    provider_key_id="prov", provider="openai", runtime_id=None, status="active", status_reason=None, granted=100,
    rolled_over=0, spent=0, overspent=0, returned=0, reclaimed=0, unattributed=0, reports=0, discrepancy=0,
    ttl=3600, grace=60, created_at=1000, expires_at=4600, expired_at=None, closed_at=None,
    last_activity_at=1000, due_at=4600, lives_until=10_000, successor_id=None,
)  # fmt: skip
EMPTY = FRESH._replace(returned=100)


@pytest.mark.parametrize(("status", "event"), list(product(get_args(LeaseStatus), get_args(LeaseEvent))))
def test_a_lease_moves_by_the_table_or_not_at_all(status: LeaseStatus, event: LeaseEvent) -> None:
    """Every pair is either in the table or an invariant violation; terminal states have no way out."""
    lease = EMPTY._replace(status=status)
    if (status, event) in TRANSITIONS:
        reason = "manual" if event == "revoked" else None
        assert moved(lease, event, at=1, reason=reason).status == TRANSITIONS[status, event]
        assert status in {"active", "expired"}
    else:
        with pytest.raises(InvariantViolationError):
            moved(lease, event, at=1)


@pytest.mark.parametrize("event", ["returned", "superseded", "refreshed", "revoked"])
def test_no_lease_ends_while_it_holds_money(event: LeaseEvent) -> None:
    """I2: terminal means held is 0."""
    with pytest.raises(InvariantViolationError):
        moved(FRESH, event, at=1, reason="manual")


def test_only_the_end_of_a_lease_ends_what_is_pending() -> None:
    """An expired one is open still."""
    expired = moved(EMPTY._replace(pending=7), "time_up", at=4600)

    assert (expired.pending, moved(expired, "grace_over", at=4660).pending) == (7, 0)


def test_nothing_is_pending_on_a_lease_that_is_over() -> None:
    """Nor does anything more become so than can be stored."""
    assert pended(FRESH._replace(pending=7), -2) == FRESH._replace(pending=5)
    with pytest.raises(InvariantViolationError):
        pended(moved(EMPTY, "returned", at=1), 1)
    with pytest.raises(InvariantViolationError):
        pended(FRESH, 2**62 + 1)


def test_the_end_of_the_time_is_inclusive_and_so_is_the_end_of_the_grace() -> None:
    """Now >= expires_at expires; now >= expired_at + grace closes; both instants follow from the row."""
    assert overdue(FRESH, 4599) is None
    assert overdue(FRESH, 4600) == "time_up"
    expired = moved(FRESH, "time_up", at=4600)
    assert (expired.status_reason, expired.due_at, overdue(expired, 4659)) == ("ttl", 4660, None)
    assert overdue(expired, 4660) == "grace_over"
    assert overdue(moved(EMPTY._replace(status="expired"), "grace_over", at=4660), 10**9) is None


@given(st.integers(0, 20_000))
def test_a_sign_of_life_extends_within_the_lifetime_and_never_shortens(now: int) -> None:
    """expires_at = min(now + ttl, created + lifetime), and the clock may have gone back."""
    kept = kept_alive(FRESH, now)

    assert kept.expires_at == kept.changes_at == max(4600, min(now + 3600, 10_000))
    assert kept.due_at == 4600, "looking again too early costs a look; moving an index costs every report"
    assert charged(FRESH, split_spend(FRESH, 1), at=now).expires_at == kept.expires_at


def test_a_sign_of_life_does_not_revive_an_expired_lease() -> None:
    """Only refresh does."""
    expired = moved(FRESH, "time_up", at=4600)

    assert kept_alive(expired, 4601)._replace(last_activity_at=1000) == expired


@given(st.integers(0, 300), st.integers(0, 100), st.integers(0, 50))
def test_a_cost_is_split_without_loss(cost: int, spent: int, unattributed: int) -> None:
    """Earlier reconciled spend first, then the hold, then overspend."""
    lease = FRESH._replace(spent=spent, unattributed=unattributed)

    split = split_spend(lease, cost)

    assert sum(split) == cost
    assert split.already_booked == min(cost, unattributed)
    assert split.covered == min(cost - split.already_booked, 100 - spent)


@given(st.integers(0, 300), st.integers(0, 100), st.integers(0, 50))
def test_a_report_counts_each_part_of_its_cost_and_ends_a_lease_it_empties(
    cost: int, spent: int, unattributed: int
) -> None:
    """E5 and E6 hold after it; an active lease without a hold is expired from that moment on."""
    lease = FRESH._replace(spent=spent, unattributed=unattributed)
    split = split_spend(lease, cost)

    after = charged(lease, split, at=2000)

    assert after.total_spent + after.granted - after.spent == lease.total_spent + lease.held + split.uncovered
    assert (after.held, after.overspent) == (lease.held - split.covered, split.uncovered)
    assert (after.unattributed, after.reports) == (unattributed - split.already_booked, 1)
    is_used_up = after.held == 0
    assert (after.status, after.expired_at) == (("expired", 2000) if is_used_up else ("active", None))
    assert after.changes_at == (2060 if is_used_up else 5600)


def test_a_report_takes_no_more_than_its_lease_can_give() -> None:
    """A wrong split is a bug, not a booking."""
    ended = EMPTY._replace(status="closed")
    for lease, split in (
        (FRESH, SpendSplit(0, 101, 0)),
        (FRESH, SpendSplit(1, 0, 0)),
        (FRESH._replace(status="closed"), SpendSplit(0, 1, 0)),
    ):
        with pytest.raises(InvariantViolationError):
            charged(lease, split, at=2000)
    assert charged(ended, SpendSplit(0, 0, 7), at=2000).overspent == 7


def test_an_ended_lease_covers_nothing() -> None:
    """Late reports are all overspend."""
    assert split_spend(EMPTY._replace(status="closed"), 7) == (0, 0, 7)


@pytest.mark.parametrize("kind", ["grant", "spend", "return", "reclaim"])
def test_a_terminal_lease_moves_no_money_but_overspend(kind: str) -> None:
    """I6: only overspent and unattributed may still move."""
    closed = EMPTY._replace(status="closed")

    with pytest.raises(InvariantViolationError):
        counted(closed, kind, 1)  # type: ignore[arg-type]  # every kind that needs an open lease
    assert counted(closed, "overspend", 1).overspent == 1


@pytest.mark.parametrize("kind", ["spend", "return", "reclaim"])
def test_no_more_leaves_a_lease_than_it_holds(kind: str) -> None:
    """E5 with held >= 0."""
    with pytest.raises(InvariantViolationError):
        counted(FRESH, kind, 101)  # type: ignore[arg-type]  # every kind that takes from the hold


def test_an_adjustment_belongs_to_no_lease() -> None:
    """Adjust has no lease column."""
    with pytest.raises(InvariantViolationError):
        counted(FRESH, "adjust", 1)
