"""Adapters of the core's ports: SQLite, sealing, the system's clock and ids."""
