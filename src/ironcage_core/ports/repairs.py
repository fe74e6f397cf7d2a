"""The port to repairs: what is stored as a sum is made anew from what it is the sum of."""

from collections.abc import Mapping
from typing import Protocol


class Repairs(Protocol):
    """Set-wise changes of derived numbers; the ledger, the records of usage and the audit log are only read."""

    def rebuild_books(self) -> Mapping[str, int]:
        """Make balances, sums of leases, banks, counts and totals anew; return how many rows of which table changed."""
        ...

    def rebuild_rollups(self) -> Mapping[str, int]:
        """Make the rollups of usage anew, as far back as records and hours are kept; return as `rebuild_books`."""
        ...
