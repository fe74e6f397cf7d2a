"""Refusals about usage: its records and the range of time it is asked for."""

from ironcage_core.errors.tree import NotFoundError, RefusalError


class TraceNotFoundError(NotFoundError):
    """No such usage record, or one that is older than what is kept."""

    code = "TRACE_NOT_FOUND"


class InvalidPeriodError(RefusalError):
    """No such period; `details.allowed` names those there are (400)."""

    code = "INVALID_PERIOD"


class RangeTooOldError(RefusalError):
    """A range that cuts a day of which only the whole is kept; `details.kept_since` says from when hours are (400)."""

    code = "RANGE_TOO_OLD"
