"""Writes events and the lines of libraries as text or JSON; docs/logging.md is their schema.

All lines take one way: the standard library's logging, the scrubber (value by value), structlog's formatter. There is
no context but what an event carries, because context variables do not reach the threads of a pool. A traceback never
shows local variables: keys are among them.
"""

import logging
import math
import sys
import textwrap
import threading
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Literal, TextIO

import structlog
from structlog.typing import EventDict, WrappedLogger

from rotator.core.events import AUDIT, Event, EventType, Fields, Level
from rotator.runtime.redact import NAMES, printable, scrub_foreign, scrub_lines, scrub_name
from rotator.telemetry.log_writer import Dropped, LineWriter, Stderr

QUIET = {
    "httpcore": logging.WARNING,
    "httpx": logging.WARNING,
    "hvac": logging.WARNING,
    "urllib3": logging.WARNING,
}
"""Libraries that log each request, some with its headers, and the lowest level that is useful."""

_FIRST = ("timestamp", "level", "event", "target")
_RESERVED = frozenset((*_FIRST, "logger"))
AT_THE_END = 2.0
"""Seconds that a process waits at its end until its log is written."""

_OURS = "rotator"  # the logger's name
_FIELDS = "rotator_fields"  # the attribute of a log record in which an event's fields travel


def configure(log_format: Literal["text", "json"] | None, level: str, stream: TextIO | Stderr | None = None) -> None:
    """Log to `stream` (standard error) from `level` on; without a format, text on a terminal and JSON in a pipe.

    `level` is one of debug, info, warning, error. Uncaught exceptions are logged as well, in every thread.
    May be called again.
    """
    stream = Stderr() if stream is None else stream
    as_text = log_format == "text" or (log_format is None and stream.isatty())
    render = _text if as_text else structlog.processors.JSONRenderer()
    handler = _Handler(stream.write)
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(processors=[_line, render]))
    root = logging.getLogger()
    for old in [old for old in root.handlers if isinstance(old, _Handler)]:
        root.removeHandler(old)
        old.close()
    root.addHandler(handler)
    threshold = logging.getLevelNamesMapping()[level.upper()]
    root.setLevel(threshold)
    for name, heard_from in QUIET.items():
        logging.getLogger(name).setLevel(max(threshold, heard_from))
    # A second attempt that succeeds is no news, and rotator reports what fails in the end.
    logging.getLogger("stamina").setLevel(threshold if threshold <= logging.DEBUG else logging.ERROR)
    logging.captureWarnings(True)
    structlog.configure(  # for stamina, which reports its retries this way
        processors=[structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )
    sys.excepthook = lambda _kind, error, _traceback: log_event(unexpected("main thread", error))
    threading.excepthook = _thread_ended
    sys.unraisablehook = _unraisable


def unexpected(where: str, error: BaseException, target: str = "") -> Event:
    """Return an unforeseen exception as an event; `where` is what was being done."""
    described = "".join(traceback.format_exception_only(error)).strip()
    fields = {"where": where, "error": described, "traceback": _traceback(error)}
    return Event(EventType.UNEXPECTED_ERROR, target, Level.ERROR, fields)


def _traceback(error: BaseException) -> str:
    return "".join(traceback.format_exception(error)).strip()


# --- from an event to a line -----------------------------------------------------------------------------------------


def log_event(event: Event) -> None:
    """Write one line, if the event's level is high enough. A `ports.Listener`."""
    record, logger = _record(event), logging.getLogger(_OURS)
    if logger.isEnabledFor(record.levelno):
        logger.handle(record)


class _Handler(logging.Handler):
    """Makes lines where something is logged, and has them written by a thread of its own."""

    def __init__(self, write: Callable[[str], object]) -> None:
        super().__init__()
        self._writer = LineWriter(write, self._missing, _count)

    def emit(self, record: logging.LogRecord) -> None:
        """Write it, without waiting for that."""
        try:
            audit = hasattr(record, _FIELDS) and record.getMessage() in AUDIT
            self._writer.put(self.format(record) + "\n", audit=audit)
        except Exception:
            self.handleError(record)

    def handleError(self, record: logging.LogRecord) -> None:
        """Lose the line. The library would print it to standard error, past the scrubber."""

    def flush(self) -> None:
        """Wait a little until all is written. The library calls this when the interpreter ends, and `close`."""
        self._writer.flush(AT_THE_END)

    def close(self) -> None:
        """End the writer, too."""
        self.flush()
        self._writer.close()
        super().close()

    def _missing(self, missing: Dropped) -> str:
        return self.format(_record(_dropped_event(missing))) + "\n"


_counting = threading.Lock()
_dropped = Dropped()


def _count(missing: Dropped) -> None:
    global _dropped
    with _counting:
        _dropped += missing


def dropped() -> Dropped:
    """How many lines this process could not write."""
    return _dropped


def flush() -> None:
    """Wait until all that was logged is written, but not for long."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, _Handler):
            handler.flush()


def _dropped_event(missing: Dropped) -> Event:
    fields: Fields = {
        "lines": missing.other,
        "audit_lines": missing.audit,
        "advice": "Look at what reads this log. What is missing of the audit trail, the store's history still shows.",
    }
    return Event(EventType.LOG_LINES_DROPPED, "", Level.ERROR if missing.audit else Level.WARNING, fields)


def _record(event: Event) -> logging.LogRecord:
    fields = {f"{name}_" if name in _RESERVED else name: value for name, value in event.fields.items()}
    if event.target:
        fields["target"] = event.target
    level = logging.getLevelNamesMapping()[event.level.value.upper()]
    return logging.getLogger(_OURS).makeRecord(_OURS, level, "", 0, event.what.value, (), None, extra={_FIELDS: fields})


def _line(_logger: WrappedLogger, _method: str, found: EventDict) -> EventDict:
    """What every line has: when, how grave, what, about whom; then the rest, all of it plain values."""
    record: logging.LogRecord = found["_record"]
    moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
    line = {
        "timestamp": moment.replace("+00:00", "Z"),
        "level": record.levelname.lower(),
        "event": found["event"],
    }
    fields: dict[str, Any] | None = getattr(record, _FIELDS, None)
    if fields is None:
        # Not the arguments of a library's calls: a secret may be among them.
        dropped = {"event", "_record", "_from_structlog", "exc_info", "stack_info", "args", "kwargs"}
        fields = {"logger": record.name, **{name: found[name] for name in found if name not in dropped}}
        match found.get("exc_info"):
            case (_, BaseException() as error, _):
                fields["traceback"] = _traceback(error)
    rest = sorted(fields.items(), key=lambda item: item[0] not in _FIRST)
    foreign = "logger" in fields or "traceback" in fields
    return {name: _plain(name, value, foreign=foreign) for name, value in (*line.items(), *rest)}


def _plain(name: str, value: object, *, foreign: bool) -> str | int | float | bool | None:
    if value is None or isinstance(value, bool | int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    if name in NAMES:
        return scrub_name(str(value))
    return scrub_foreign(str(value)) if foreign else scrub_lines(str(value))


def _text(logger: WrappedLogger, method: str, line: EventDict) -> str:
    """One line of `name=value`, and below it the traceback, indented so that no line of it passes for another event."""
    told = textwrap.indent(line.pop("traceback", ""), "    ")
    start = f"{line.pop('timestamp')} {line.pop('level'):<7} "
    rest = structlog.processors.LogfmtRenderer(bool_as_flag=False)(logger, method, line)
    return start + printable(rest) + (f"\n{told}" if told else "")


# --- uncaught exceptions ---------------------------------------------------------------------------------------------


def _thread_ended(args: threading.ExceptHookArgs) -> None:
    if args.exc_value is not None and not isinstance(args.exc_value, SystemExit):
        log_event(unexpected(f"thread {args.thread.name}" if args.thread else "a thread", args.exc_value))


def _unraisable(args: "sys.UnraisableHookArgs") -> None:
    if args.exc_value is not None:
        # Not its repr: a secret may be in it.
        log_event(unexpected(f"{args.err_msg or 'Exception ignored in'} {type(args.object).__name__}", args.exc_value))
