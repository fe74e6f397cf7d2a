"""Refusals about usage: its records and the range of time it is asked for."""

from ironcage_core.errors.tree import NotFoundError, RefusalError, UnavailableError


class TraceNotFoundError(NotFoundError):
    """No such usage record, or one that is older than what is kept."""

    code = "TRACE_NOT_FOUND"


class InvalidPeriodError(RefusalError):
    """No such period; `details.allowed` names those there are (400)."""

    code = "INVALID_PERIOD"


class RangeTooOldError(RefusalError):
    """A range that cuts a day of which only the whole is kept; `details.kept_since` says from when hours are (400)."""

    code = "RANGE_TOO_OLD"


class RangeTooLargeError(RefusalError):
    """More rows than a series may have; `details.limit` says how many of which `bucket` it may be (400)."""

    code = "RANGE_TOO_LARGE"


class UnsupportedFormatError(RefusalError):
    """An export in a format that there is not; `details.allowed` names those there are (400)."""

    code = "UNSUPPORTED_FORMAT"


class ExportTooLargeError(RefusalError):
    """More rows than an export may have; `details.limit` says how many (400)."""

    code = "EXPORT_TOO_LARGE"


class QueryTimeoutError(UnavailableError):
    """A question that took too long to answer was given up (503)."""

    code = "QUERY_TIMEOUT"


class EventTooOldError(RefusalError):
    """An event from before what is remembered of calls: it could be counted a second time (400)."""

    code = "EVENT_TOO_OLD"
