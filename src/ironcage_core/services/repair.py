"""Repair: make every derived number anew from the ledger, the leases and the records of usage, which stay as they are.

On a healthy store it changes nothing. What is wrong with the sources themselves it leaves, and verify names it still.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from ironcage_core.domain.audit import SYSTEM, Actor, AuditNote
from ironcage_core.ports.storage import UnitOfWork
from ironcage_core.services.verify import Difference, Verification, miscounted_tokens, verify

TOLD: Final = 100
"""How many differences the audit log remembers one by one."""


@dataclass(frozen=True, slots=True)
class Repaired:
    """How many rows of which table were changed, the differences there were, and what verify finds now."""

    rows: Mapping[str, int]
    differences: list[Difference]
    now: Verification


def repair(uow: UnitOfWork, *, actor: Actor = SYSTEM, rollups_only: bool = False) -> Repaired:
    """Make what is derived anew, in one unit of work; the audit log remembers what was changed.

    Args:
        uow: The open unit of work.
        actor: Who repairs.
        rollups_only: Leave everything but the rollups of usage.

    Source: contract budget.md 15; analytics.md 5.
    """
    before = verify(uow)
    rows = {} if rollups_only else {**uow.repairs.rebuild_books(), "limit_windows": _recount_tokens(uow)}
    rows |= uow.repairs.rebuild_rollups()
    changed = {table: n for table, n in rows.items() if n}
    if changed:
        told = [[each.subject, each.number, str(each.stored), str(each.recomputed)] for each in before.differences]
        numbers = {"rows": changed, "differences": len(told), "first_differences": told[:TOLD]}
        uow.audit.append(AuditNote("BOOKS_REPAIRED", "budget", "database", None, actor, metadata=numbers))
    return Repaired(changed, before.differences, verify(uow))


def _recount_tokens(uow: UnitOfWork) -> int:
    """Move today's tokens to the nearest number they can be; of purged records it is only known how many at most."""
    wrong = list(miscounted_tokens(uow))
    for each in wrong:
        right = each.lowest if each.counted < each.lowest else each.highest
        uow.limit_windows.set_tokens(each.user_id, each.project_id, uow.now, right)
    return len(wrong)
