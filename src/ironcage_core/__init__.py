"""The books of ironcage: pure domain, use cases and the ports they need."""
