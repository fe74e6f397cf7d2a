"""The commands of the command line, one module for what is one subject over HTTP or one task on the database file."""
