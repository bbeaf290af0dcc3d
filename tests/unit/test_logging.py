"""The log: one line an event, in text and JSON; and nothing that is planted comes out."""

import gc
import io
import json
import logging
import re
import subprocess
import sys
import threading
import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import pytest
import stamina
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st
from support.inprocess import restored
from support.recorded_events import RecordedEvents, flaws_of_lines

from rotator.core.events import AUDIT, Event, EventType, Level
from rotator.core.reasons import Reason
from rotator.core.secrets import Secret
from rotator.providers.respan.settings import TRAITS
from rotator.runtime.redact import HIDDEN, hide_pattern, printable, register
from rotator.telemetry import logging as logs
from rotator.telemetry.logging import configure, log_event, unexpected
from tools.event_catalogue import EVENTS

DOCS = Path(__file__).parents[2] / "docs"
Format = Literal["text", "json"]
Log = Callable[[], list[str]]

RESPAN = TRAITS.key_pattern or ""
VENDOR_KEY = "a1b2c3d4.Zx9-_kQpR7tUvWxYz0123456789abcdefghIJKLM-q"
ORGANISATION_KEY = "sk_live_0123456789abcdef"
WEIRD_KEY = 'correct horse "battery" \\ staple\'s é'
KNOWN = Secret(WEIRD_KEY)  # which lives as long as the tests
SECRETS = {
    "vendor key": VENDOR_KEY,
    "organisation key": ORGANISATION_KEY,
    "Vault token": "hvs.CAESIJlWh2vPq0nA4",
    "Vault batch token": "hvb.AAAAAQKz4uH1",
    "old Vault token": "s.aB3dE6gH9jK2mN5pQ8sT1vW4",
    "JWT": "eyJhbGciOiJSUzI1NiIsImtpZCI6Ijk5In0.eyJzdWIiOiJzeXN0ZW0ifQ.c2lnbmF0dXJl-_x",
    "registered": WEIRD_KEY,
}
FORMATS: tuple[Format, Format] = ("text", "json")


@pytest.fixture(autouse=True)
def untouched(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Restore what `configure` changes for the whole process. Respan's keys are hidden, as in an installation."""
    with restored(monkeypatch):
        hide_pattern(RESPAN)
        yield


@pytest.fixture
def log() -> Callable[..., Log]:
    """Starts the log, and gives a function that reads its lines."""

    def start(log_format: Format | None = "json", level: str = "info") -> Log:
        stream = io.StringIO()
        configure(log_format, level, stream)

        def lines() -> list[str]:
            logs.flush()
            return stream.getvalue().splitlines()

        return lines

    return start


def emit(what: EventType = EventType.KEY_PUBLISHED, target: str = "billing", **more: Any) -> None:
    log_event(Event(what, target, more.pop("level", Level.INFO), more.pop("fields", {})))


def parsed(log: Log) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log()]


# --- lines -----------------------------------------------------------------------------------------------------------

FIELDS: Mapping[str, str | int | float | bool] = {
    "key_id": "tk_1",
    "reason": Reason.EXPIRING,
    "version": 7,
    "share": 0.5,
    "ok": True,
    "note": 'as "asked" by=me',
}


def test_json_is_one_object_a_line_that_begins_with_what_every_line_has(log: Callable[..., Log]) -> None:
    lines = log("json")
    emit(fields=FIELDS)
    (line,) = parsed(lines)
    assert list(line)[:4] == ["timestamp", "level", "event", "target"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line.pop("timestamp"))
    assert line == {"level": "info", "event": "key_published", "target": "billing", **FIELDS}


def test_text_is_logfmt(log: Callable[..., Log]) -> None:
    lines = log("text")
    emit(fields=FIELDS)
    emit(EventType.STOPPED, "", level=Level.WARNING)
    first, second = (line.partition(" ") for line in lines())
    assert first[2] == (
        "info    event=key_published target=billing key_id=tk_1 reason=expiring version=7 share=0.5 ok=true "
        r'note="as \"asked\" by=me"'
    )
    assert second[2] == "warning event=stopped"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", first[0])


@pytest.mark.parametrize("on_terminal", [True, False])
def test_without_a_format_it_is_text_on_a_terminal_only(on_terminal: bool) -> None:
    class Stream(io.StringIO):
        def isatty(self) -> bool:
            return on_terminal

    stream = Stream()
    configure(None, "info", stream)
    emit()
    logs.flush()
    assert stream.getvalue().startswith("{") is not on_terminal


@pytest.mark.parametrize(
    ("level", "logged"),
    [
        ("debug", ["debug", "info", "warning", "error"]),
        ("info", ["info", "warning", "error"]),
        ("warning", ["warning", "error"]),
        ("error", ["error"]),
    ],
)
def test_the_level_is_a_threshold(log: Callable[..., Log], level: str, logged: list[str]) -> None:
    lines = log(level=level)
    for one in Level:
        emit(level=one)
    assert [line["level"] for line in parsed(lines)] == logged


def test_set_up_again_it_writes_each_line_once_and_to_the_new_place(log: Callable[..., Log]) -> None:
    first, second = log(), log()
    emit()
    assert (len(first()), len(second())) == (0, 1)


def test_fields_cannot_take_the_place_of_what_every_line_has(log: Callable[..., Log]) -> None:
    lines = log()
    names = ("event", "level", "target", "timestamp", "logger", "self", "msg", "args", "name", "exc_info", "_record")
    emit(fields=dict.fromkeys(names, "mine"))
    (line,) = parsed(lines)
    assert (line["event"], line["level"], line["target"]) == ("key_published", "info", "billing")
    assert {name for name, value in line.items() if value == "mine"} == {
        *("event_", "level_", "target_", "timestamp_", "logger_", "self", "msg", "args", "name", "exc_info", "_record")
    }


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_numbers_that_json_lacks_are_strings(log: Callable[..., Log], number: float) -> None:
    lines = log()
    emit(fields={"n": number})
    assert parsed(lines)[0]["n"] == str(number)


def test_a_stream_that_is_gone_does_not_stop_the_work(capfd: pytest.CaptureFixture[str]) -> None:
    stream = io.StringIO()
    configure("json", "info", stream)
    stream.close()
    emit(fields={"error": ORGANISATION_KEY})
    assert capfd.readouterr() == ("", "")


# --- injection -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("log_format", FORMATS)
@settings(deadline=None)
@given(text=st.text())
def test_whatever_a_field_holds_it_is_one_line_without_control_characters(log_format: Format, text: str) -> None:
    stream = io.StringIO()
    configure(log_format, "info", stream)
    emit(fields={"error": text + "\n2026-03-01T12:00:00.000Z info event=forged\x1b[2K\r\x9b31m\u2028\u202e\x00"})
    logs.flush()
    line = stream.getvalue()
    assert line.endswith("\n")
    assert line[:-1] == printable(line[:-1])
    assert line[:-1].splitlines() == [line[:-1]]
    line.encode()  # no lone surrogates


def test_json_holds_no_terminal_sequence_even_when_decoded(log: Callable[..., Log]) -> None:
    lines = log()
    emit(fields={"error": "a\x1b[31mb\nc"})
    assert parsed(lines)[0]["error"] == "a\\x1b[31mb\nc"


@pytest.mark.parametrize("log_format", FORMATS)
def test_no_line_of_a_traceback_passes_for_an_event(log: Callable[..., Log], log_format: Format) -> None:
    lines = log(log_format)
    forged = "2026-03-01T12:00:00.000Z info    event=key_deleted"
    log_event(unexpected("a test", ValueError(f"x\n{forged}\x1b[31m\r{forged}")))
    assert len([line for line in lines() if not line.startswith("    ")]) == 1
    assert not any("\x1b" in line or "\r" in line for line in lines())


# --- secrets ---------------------------------------------------------------------------------------------------------


class Careless(Exception):
    """Shows all it is given, as a library's exceptions do."""


def fail(secret: str, shape: str) -> None:
    local_variable = {"api_key": secret}
    match shape:
        case "message":
            raise Careless(f"could not send {secret} anywhere")
        case "arguments":
            raise Careless("sent", {"Authorization": f"Bearer {secret}"}, secret)
        case "bytes":
            raise Careless(secret.encode())
        case "cause":
            raise Careless("outer") from ValueError(f"token={secret}")
        case "note":
            error = Careless("outer")
            error.add_note(secret)
            raise error
        case "group":
            raise ExceptionGroup("several", [Careless(secret), ValueError(secret)])
    raise Careless(f"of {len(local_variable)}")


SHAPES = ("message", "arguments", "bytes", "cause", "note", "group", "local variable")


@pytest.mark.parametrize("log_format", FORMATS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", SECRETS)
def test_a_secret_in_an_exception_does_not_come_out(
    log: Callable[..., Log], log_format: Format, shape: str, kind: str
) -> None:
    secret = SECRETS[kind]
    register(KNOWN)
    lines = log(log_format)
    try:
        fail(secret, shape)
    except Exception as error:
        log_event(unexpected("a test", error, "billing"))
        logging.getLogger("apscheduler.executors").exception("Job raised")
        structlog.get_logger("stamina").error("oh", caused_by=repr(error), exc_info=error)
    text = "\n".join(lines())
    assert text.count("Careless") >= 3
    assert "test_logging.py" in text
    for part in (secret, secret[3:], repr(secret)[1:-1], json.dumps(secret)[1:-1]):
        assert part not in text
    assert (HIDDEN in text) is (shape != "local variable")


@pytest.mark.parametrize("log_format", FORMATS)
@pytest.mark.parametrize("kind", SECRETS)
@pytest.mark.parametrize(
    "around", ["{}", "a {} b", "a\n{}\nb", "'{}'", '{{"api_key": "{}"}}', "x={}&y", "{},{}", "é{}é"]
)
def test_a_secret_in_a_field_does_not_come_out(
    log: Callable[..., Log], log_format: Format, kind: str, around: str
) -> None:
    register(KNOWN)
    lines = log(log_format)
    emit(fields={"error": around.format(*[SECRETS[kind]] * 2)})
    (line,) = lines()
    assert SECRETS[kind] not in line
    assert SECRETS[kind][-8:] not in line
    assert HIDDEN in line
    if log_format == "json":
        json.loads(line)


# --- libraries -------------------------------------------------------------------------------------------------------


def test_a_job_that_is_left_out_because_it_still_runs_is_no_news(log: Callable[..., Log]) -> None:
    lines = log(level="debug")
    logger = logging.getLogger("apscheduler.scheduler")
    logger.warning("Execution of job skipped: maximum number of running instances reached (1)")
    assert lines() == []
    logger.error("out of threads")
    assert parsed(lines)[0]["event"] == "out of threads"


@pytest.mark.parametrize("name", ["httpcore", "httpx", "hvac", "urllib3", "httpx._client", "urllib3.connectionpool"])
def test_libraries_log_from_warning_on_only_and_in_the_same_form(log: Callable[..., Log], name: str) -> None:
    lines = log(level="debug")
    logger = logging.getLogger(name)
    logger.info("request %s", ORGANISATION_KEY)
    logger.warning("retry of %s", ORGANISATION_KEY)
    (line,) = parsed(lines)
    assert (line["level"], line["event"], line["logger"]) == ("warning", f"retry of {HIDDEN}", name)


def test_a_library_is_not_louder_than_the_level(log: Callable[..., Log]) -> None:
    lines = log(level="error")
    logging.getLogger("httpx").warning("x")
    assert lines() == []


@pytest.mark.parametrize("level", ["info", "debug"])
def test_retries_are_logged_at_debug_without_the_arguments(log: Callable[..., Log], level: str) -> None:
    lines = log(level=level)
    tries = []

    @stamina.retry(on=OSError, attempts=2, wait_initial=0.001, wait_max=0.001, wait_jitter=0)
    def once(argument: str, *, keyword: str) -> None:
        tries.append(argument + keyword)
        if len(tries) == 1:
            raise OSError("no")

    once("planted", keyword="as well")
    if level == "info":
        assert lines() == []
        return
    (line,) = parsed(lines)
    assert (line["event"], line["level"], line["caused_by"]) == ("stamina.retry_scheduled", "warning", "OSError('no')")
    assert "planted" not in str(line)
    assert "as well" not in str(line)


def test_warnings_are_lines(log: Callable[..., Log], monkeypatch: pytest.MonkeyPatch) -> None:
    lines = log()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        # pytest's own recorder stands where the log would, so that is asked directly.
        logging._showwarning(UserWarning(f"a\n{ORGANISATION_KEY}"), UserWarning, "f.py", 1)  # type: ignore[attr-defined]
    (line,) = parsed(lines)
    assert line["logger"] == "py.warnings"
    assert HIDDEN in line["event"]


# --- exceptions that no code caught ----------------------------------------------------------------------------------


def uncaught(lines: Log) -> dict[str, Any]:
    (line,) = parsed(lines)
    assert (line["event"], line["level"]) == ("unexpected_error", "error")
    assert ORGANISATION_KEY not in str(line)
    assert "Traceback" in line["traceback"]
    return line


def test_an_exception_that_ends_a_thread_is_logged(log: Callable[..., Log]) -> None:
    lines = log()
    thread = threading.Thread(target=fail, args=(ORGANISATION_KEY, "message"), name="worker-3")
    thread.start()
    thread.join()
    line = uncaught(lines)
    assert line["where"] == "thread worker-3"
    assert line["error"] == f"test_logging.Careless: could not send {HIDDEN} anywhere"


def test_a_thread_that_exits_is_not_logged(log: Callable[..., Log]) -> None:
    lines = log()
    thread = threading.Thread(target=sys.exit)
    thread.start()
    thread.join()
    assert lines() == []


def test_an_exception_that_cannot_be_raised_is_logged(log: Callable[..., Log]) -> None:
    class Fragile:
        def __del__(self) -> None:
            fail(ORGANISATION_KEY, "message")

        def __repr__(self) -> str:
            return f"Fragile({ORGANISATION_KEY})"

    lines = log()
    Fragile()
    gc.collect()
    where = "while calling deallocator" if sys.version_info >= (3, 14) else "in function"
    assert uncaught(lines)["where"] == f"Exception ignored {where}"


def test_what_ignored_an_exception_is_not_shown_as_it_shows_itself(log: Callable[..., Log]) -> None:
    class Watched:
        pass

    class Watcher:
        def gone(self, _: object) -> None:
            fail("x", "message")

        def __repr__(self) -> str:
            return "a credential of no known form"

    lines, watched = log(), Watched()
    reference = weakref.ref(watched, Watcher().gone)
    del watched
    where = "while calling weakref callback" if sys.version_info >= (3, 14) else "in method"
    assert (reference(), uncaught(lines)["where"]) == (None, f"Exception ignored {where}")


@pytest.mark.parametrize("log_format", FORMATS)
def test_a_program_that_dies_prints_nothing_else(log_format: Format) -> None:
    program = (
        "from rotator.runtime.redact import hide_pattern\n"
        "from rotator.telemetry.logging import configure\n"
        f"hide_pattern({RESPAN!r})\n"
        f"configure({log_format!r}, 'info')\n"
        f"local = {ORGANISATION_KEY!r}\n"
        "raise ValueError(local)\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 1
    assert ended.stdout == ""
    assert ORGANISATION_KEY not in ended.stderr
    assert HIDDEN in ended.stderr
    if log_format == "json":
        assert json.loads(ended.stderr)["where"] == "main thread"
    else:
        first, *rest = ended.stderr.splitlines()
        assert 'event=unexpected_error where="main thread"' in first
        assert all(line.startswith("    ") for line in rest)


# --- the schema ------------------------------------------------------------------------------------------------------


def test_every_event_is_described_and_documented() -> None:
    assert sorted(EVENTS) == sorted(EventType)
    text = (DOCS / "logging.md").read_text()
    assert all(description.markdown(event) in text for event, description in EVENTS.items())


def test_every_event_of_the_audit_trail_has_its_key_reason_requester_and_comment() -> None:
    assert {
        f"key_{done}" for done in ("created", "published", "shortened", "deleted", "rolled_back", "extended")
    } <= AUDIT
    for event in AUDIT:
        assert EVENTS[event].levels == (Level.INFO,), event
        assert {"key_id", "key_name", "reason", "by", "comment?"} <= {*EVENTS[event].fields}, event


@pytest.mark.parametrize(
    ("level", "missing", "more", "flaw"),
    [
        (Level.INFO, "", {}, None),
        (Level.INFO, "", {"comment": "why not"}, None),
        (Level.INFO, "key_name", {}, "key_deleted lacks key_name"),
        (Level.INFO, "by", {}, "key_deleted lacks by"),
        (Level.INFO, "", {"versions": "1"}, "key_deleted has versions, which is not described"),
        (Level.WARNING, "", {}, "key_deleted is logged at warning"),
    ],
)
def test_an_event_that_differs_from_its_description_fails_the_session(
    log: Callable[..., Log],
    monkeypatch: pytest.MonkeyPatch,
    level: Level,
    missing: str,
    more: dict[str, str],
    flaw: str | None,
) -> None:
    monkeypatch.setattr(RecordedEvents, "all_flaws", set())
    fields = {"key_id": "k", "key_name": "n", "reason": "grace-over", "by": "schedule", **more}
    event = Event(EventType.KEY_DELETED, "a", level, {name: value for name, value in fields.items() if name != missing})
    RecordedEvents().append(event)
    lines = log()
    log_event(event)
    expected = [flaw] if flaw else []
    assert sorted(RecordedEvents.all_flaws) == sorted(flaws_of_lines(["\n".join(lines())])) == expected
