"""Writes events and the lines of libraries as text or JSON. docs/logging.md describes their fields.

Every line passes the standard library's logging, the redaction of each value, and structlog's formatter. An event
carries all its context, because context variables do not reach the threads of a pool. A traceback never shows local
variables, because keys are among them.
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
    "apscheduler": logging.ERROR,  # it warns of each run that it leaves out, because the one before is not over yet
    "httpcore": logging.WARNING,
    "httpx": logging.WARNING,
    "hvac": logging.WARNING,
    "urllib3": logging.WARNING,
}
"""Libraries that log each request or job, some with its headers, and the level from which on they are of use."""

_FIRST = ("timestamp", "level", "event", "target")
_RESERVED = frozenset((*_FIRST, "logger"))
AT_THE_END = 2.0
"""The longest time that a process waits for its log at its end, in seconds."""

_OURS = "rotator"  # the logger's name
_FIELDS = "rotator_fields"  # the attribute of a log record in which an event's fields travel


def configure(log_format: Literal["text", "json"] | None, level: str, stream: TextIO | Stderr | None = None) -> None:
    """Log to `stream` (by default standard error) from `level` on. Without a format: text on a terminal, else JSON.

    `level` is one of debug, info, warning, error. Uncaught exceptions of all threads are logged too. May be called
    again.
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
    for name, lowest in QUIET.items():
        logging.getLogger(name).setLevel(max(threshold, lowest))
    # A retry that succeeds is not worth a line, and rotator reports the last failure.
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
    """Return an unforeseen exception as an event. `where` names the work that failed."""
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
    """Formats a record in the thread that logs it. Another thread writes the line."""

    def __init__(self, write: Callable[[str], object]) -> None:
        super().__init__()
        self._writer = LineWriter(write, self._missing, _count)

    def emit(self, record: logging.LogRecord) -> None:
        """Queue the record's line."""
        try:
            audit = hasattr(record, _FIELDS) and record.getMessage() in AUDIT
            self._writer.put(self.format(record) + "\n", audit=audit)
        except Exception:
            self.handleError(record)

    def handleError(self, record: logging.LogRecord) -> None:
        """Lose the line. The library would print it to standard error without redaction."""

    def flush(self) -> None:
        """Wait a little until all lines are written. The library calls this when the interpreter ends."""
        self._writer.flush(AT_THE_END)

    def close(self) -> None:
        """Also end the writer."""
        self.flush()
        self._writer.close()
        super().close()

    def _missing(self, missing: Dropped) -> str:
        fields: Fields = {
            "lines": missing.other,
            "audit_lines": missing.audit,
            "advice": "Check what reads this log. The store's history has what is missing of the audit trail.",
        }
        level = Level.ERROR if missing.audit else Level.WARNING
        return self.format(_record(Event(EventType.LOG_LINES_DROPPED, "", level, fields))) + "\n"


_counting = threading.Lock()
_dropped = Dropped()


def _count(missing: Dropped) -> None:
    global _dropped
    with _counting:
        _dropped += missing


def dropped() -> Dropped:
    """Return how many lines this process could not write."""
    return _dropped


def flush() -> None:
    """Wait a little until all lines are written."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, _Handler):
            handler.flush()


def _record(event: Event) -> logging.LogRecord:
    fields = {f"{name}_" if name in _RESERVED else name: value for name, value in event.fields.items()}
    if event.target:
        fields["target"] = event.target
    level = logging.getLevelNamesMapping()[event.level.value.upper()]
    return logging.getLogger(_OURS).makeRecord(_OURS, level, "", 0, event.what.value, (), None, extra={_FIELDS: fields})


def _line(_logger: WrappedLogger, _method: str, found: EventDict) -> EventDict:
    """Return the line's fields in order: time, level, event, target, and then the others, each redacted."""
    record: logging.LogRecord = found["_record"]
    moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
    line = {"timestamp": moment.replace("+00:00", "Z"), "level": record.levelname.lower()}
    fields: dict[str, Any] | None = getattr(record, _FIELDS, None)
    if fields is None:
        # Without the arguments of a library's calls, because a secret may be among them.
        dropped = {"_record", "_from_structlog", "exc_info", "stack_info", "args", "kwargs"}
        fields = {"logger": record.name, **{name: found[name] for name in found if name not in dropped}}
        match found.get("exc_info"):
            case (_, BaseException() as error, _):
                fields["traceback"] = _traceback(error)
    else:
        line["event"] = found["event"]  # a name of ours
    rest = sorted(fields.items(), key=lambda item: item[0] not in _FIRST)
    foreign = "logger" in fields or "traceback" in fields
    return line | {name: _plain(name, value, foreign=foreign) for name, value in rest}


def _plain(name: str, value: object, *, foreign: bool) -> str | int | float | bool | None:
    if value is None or isinstance(value, bool | int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    if name in NAMES:
        return scrub_name(str(value))
    return scrub_foreign(str(value)) if foreign else scrub_lines(str(value))


def _text(logger: WrappedLogger, method: str, line: EventDict) -> str:
    """Return one line of `name=value`. A traceback follows, indented so that no line of it looks like an event."""
    below = textwrap.indent(line.pop("traceback", ""), "    ")
    start = f"{line.pop('timestamp')} {line.pop('level'):<7} "
    rest = structlog.processors.LogfmtRenderer(bool_as_flag=False)(logger, method, line)
    return start + printable(rest) + (f"\n{below}" if below else "")


# --- uncaught exceptions ---------------------------------------------------------------------------------------------


def _thread_ended(args: threading.ExceptHookArgs) -> None:
    if args.exc_value is not None and not isinstance(args.exc_value, SystemExit):
        log_event(unexpected(f"thread {args.thread.name}" if args.thread else "a thread", args.exc_value))


def _unraisable(args: "sys.UnraisableHookArgs") -> None:
    if args.exc_value is not None:
        # Without a repr, because a secret may be in it. From Python 3.14 the message ends with one, and has no object.
        message, _, _ = (args.err_msg or "Exception ignored in").partition(" <")
        where = message if args.object is None else f"{message} {type(args.object).__name__}"
        log_event(unexpected(where, args.exc_value))
