"""What events tell of calls that no report has settled: of open leases, and of budgets."""

from typing import Final

_LARGEST: Final = 2**62

STATEMENTS: Final = (
    # No event was ever taken before, so there is nothing to count.
    f"""ALTER TABLE leases ADD COLUMN pending INTEGER NOT NULL DEFAULT 0
        CHECK (pending BETWEEN 0 AND {_LARGEST}) CHECK (pending = 0 OR status IN ('active', 'expired'))""",
    f"""ALTER TABLE agent_budgets ADD COLUMN pending INTEGER NOT NULL DEFAULT 0
        CHECK (pending BETWEEN 0 AND {_LARGEST})""",
)
