"""How long the simulation runs: short with the suite, for `SIM_MINUTES` minutes when that is set."""

import os

from hypothesis import HealthCheck, Verbosity, settings

settings.register_profile(
    "simulation",
    max_examples=100 if os.environ.get("SIM_MINUTES") else 30,
    stateful_step_count=50 if os.environ.get("SIM_MINUTES") else 30,
    derandomize=False,
    deadline=None,
    print_blob=True,
    verbosity=Verbosity.normal,
    suppress_health_check=list(HealthCheck),
)
