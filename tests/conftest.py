"""What holds for every test: how long a draw takes says something of the machine, not of what is tested."""

from hypothesis import HealthCheck, settings

settings.register_profile("ironcage", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("ironcage")
