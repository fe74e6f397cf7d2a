"""Every scenario there is; who imports this has them all in `SCENARIOS`, in the order of the table."""

from importlib import import_module
from typing import Final

from tests.faults.outcome import SCENARIOS, Scenario

_MODULES: Final = ("killed", "commands", "full_disk", "read_only", "damaged", "locked", "clock")


def all_scenarios() -> dict[str, Scenario]:
    """Load them, and return them by name."""
    for name in _MODULES:
        import_module(f"tests.faults.{name}")
    return SCENARIOS
