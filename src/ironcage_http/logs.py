"""Logs: one line per event on standard error, for a person or for a machine, and no secret in either.

Modules log with the standard library; only the server process says, by `configure`, what becomes of it. A line holds a
time, a level, a logger, an event, some facts, the request that it belongs to, and an exception as one text without the
values of variables. Whatever happens to a line, nobody who logs hears of it.
"""

import logging
import sys
import threading
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, Final, TextIO

from structlog.dev import ConsoleRenderer, plain_traceback
from structlog.processors import JSONRenderer, StackInfoRenderer, format_exc_info
from structlog.stdlib import ExtraAdder, ProcessorFormatter
from structlog.typing import EventDict, Processor

from ironcage_core.domain.redaction import masked
from ironcage_http.variable_kinds import LogFormat, LogLevel

REQUEST_ID: Final[ContextVar[str | None]] = ContextVar("request_id", default=None)
"""The request that is being answered."""

FACTS: Final = (
    "method", "route", "status", "ms",
    "signal", "url", "version", "commit", "mode", "database", "pid",
)  # fmt: skip
"""What a line may tell beside its event, as `extra`; other libraries' extras are left out."""

_OURS: Final = ("ironcage_core", "ironcage_storage", "ironcage_http")
_LEVELS: Final[dict[LogLevel, tuple[int, int]]] = {
    "error": (logging.ERROR, logging.ERROR),
    "warn": (logging.WARNING, logging.WARNING),
    "info": (logging.INFO, logging.WARNING),
    "debug": (logging.DEBUG, logging.INFO),
    "trace": (logging.DEBUG, logging.DEBUG),
}
"""From which level on ironcage and other libraries are heard."""

_CONTROLS: Final = {**{code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160))}, 9: "\t", 10: "\\n"}
_IN_TRACES: Final = {**_CONTROLS, 10: "\n"}


class Sink(logging.StreamHandler[TextIO]):
    """Writes lines to a stream; what cannot be written is lost, and breaks nothing."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's own name
        """Lose the line: there is no place left to complain at."""


def configure(level: LogLevel, form: LogFormat | None, stream: TextIO | None = None) -> None:
    """Send what this process logs to a stream, from now on; calling it again starts anew.

    Args:
        level: From which level on.
        form: How a line looks; None is for people on a terminal, else for machines.
        stream: Where to; None is standard error.
    """
    stream = stream or sys.stderr
    sink: logging.Handler = logging.NullHandler()
    if stream is not None:  # a process that was started without it has none
        is_terminal = stream.isatty()
        sink = Sink(stream)
        sink.setFormatter(formatter(form or ("text" if is_terminal else "json"), has_colors=is_terminal))
    ours, theirs = _LEVELS[level]
    root = logging.getLogger()
    root.handlers[:] = [sink]
    root.setLevel(theirs)
    for name in _OURS:
        logging.getLogger(name).setLevel(ours)
    logging.captureWarnings(True)
    threading.excepthook = _tell_of_thread


def formatter(form: LogFormat, *, has_colors: bool = False) -> logging.Formatter:
    """Return what makes a line of a record."""
    last: list[Processor] = (
        [JSONRenderer()]  # it escapes whatever is no plain character
        if form == "json"
        else [
            _on_one_line,
            ConsoleRenderer(colors=has_colors, sort_keys=False, pad_event_to=0, exception_formatter=plain_traceback),
        ]
    )
    return ProcessorFormatter(
        foreign_pre_chain=[_begin, ExtraAdder(FACTS)],
        processors=[
            ProcessorFormatter.remove_processors_meta,
            StackInfoRenderer(),
            format_exc_info,
            _without_secrets,
            *last,
        ],
    )


def _begin(_: object, __: str, event: EventDict) -> EventDict:
    """Put what every line has in front."""
    record: logging.LogRecord = event["_record"]
    begun: dict[str, Any] = {
        "timestamp": f"{datetime.fromtimestamp(record.created, UTC):%Y-%m-%dT%H:%M:%S}.{int(record.msecs):03d}Z",
        "level": _level_name(record.levelno),
        "logger": record.name,
        **event,
        "event": event["event"].strip(),
    }
    request_id = REQUEST_ID.get()
    if request_id is not None:
        begun["request_id"] = request_id
    return begun


def _level_name(number: int) -> LogLevel:
    if number >= logging.ERROR:
        return "error"
    if number >= logging.WARNING:
        return "warn"
    return "info" if number >= logging.INFO else "debug" if number >= logging.DEBUG else "trace"


def _without_secrets(_: object, __: str, event: EventDict) -> EventDict:
    return {name: masked(value) if isinstance(value, str) else value for name, value in event.items()}


def _on_one_line(_: object, __: str, event: EventDict) -> EventDict:
    """Let no text from elsewhere steer a terminal or begin a line of its own; traces keep their lines."""
    return {
        name: value.translate(_IN_TRACES if name in {"exception", "stack"} else _CONTROLS)
        if isinstance(value, str)
        else value
        for name, value in event.items()
    }


def _tell_of_thread(failed: threading.ExceptHookArgs) -> None:
    if failed.exc_value is not None:
        logging.getLogger(__name__).error("a thread failed", exc_info=failed.exc_value)
