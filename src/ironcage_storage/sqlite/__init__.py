"""The SQLite store: one writer, group commit, one collection a table."""
