"""Use cases: plain functions on an open unit of work."""
