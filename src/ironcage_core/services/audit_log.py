"""The audit log, to look at and to prune: what is older than its chain's retention goes, oldest first."""

from ironcage_core.domain.audit import RETENTION_DAYS, AuditRow
from ironcage_core.domain.instants import MS_PER_DAY
from ironcage_core.errors.identity import AuditRowNotFoundError
from ironcage_core.ports.lists import AuditFilter, Page, Paging
from ironcage_core.ports.storage import UnitOfWork


def list_audit_rows(uow: UnitOfWork, which: AuditFilter, paging: Paging, *, descending: bool = True) -> Page[AuditRow]:
    """Return one page of the log, newest first unless told otherwise."""
    return uow.audit.page(which, paging, descending=descending)


def get_audit_row(uow: UnitOfWork, row_id: str) -> AuditRow:
    """Return one row.

    Raises:
        AuditRowNotFoundError: No such row, or it was pruned.
    """
    row = uow.audit.find(row_id)
    if row is None:
        raise AuditRowNotFoundError("No such row of the audit log")
    return row


def prune_audit_log(uow: UnitOfWork, *, standard_days: int, limit: int = 256) -> int:
    """Remove rows whose retention is over and return how many went; fewer than `limit` means that none is left.

    Args:
        uow: An open unit of work.
        standard_days: How long the rows of the standard chain stay.
        limit: At most how many rows go, of all chains together.

    Source: contract identity.md 11.
    """
    pruned = 0
    for chain, days in {**RETENTION_DAYS, "standard": standard_days}.items():
        if days is not None:
            pruned += uow.audit.prune(chain, uow.now - days * MS_PER_DAY, limit - pruned)
    return pruned
