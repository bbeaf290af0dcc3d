"""Logging never waits for a reader: lines are buffered, and dropped in the right order, counted and reported."""

import io
import json
import re
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from support.inprocess import restored
from support.known import known

from rotator.core.events import AUDIT, Event, EventType, Level
from rotator.telemetry import logging as logs
from rotator.telemetry.log_writer import Dropped, LineWriter
from rotator.telemetry.logging import configure, log_event
from rotator.telemetry.metrics import Metrics


class Reader:
    """A pipe's other end: nothing is taken before `read`."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.failing = False
        self._reads = threading.Event()
        self.waited_for = threading.Event()

    def take(self, text: str) -> None:
        """Block as a full pipe does."""
        self.waited_for.set()
        assert self._reads.wait(20)
        if self.failing:
            raise BrokenPipeError
        self.lines.append(text)

    def read(self) -> None:
        """From now on take everything."""
        self._reads.set()


@pytest.fixture
def reader() -> Reader:
    return Reader()


Make = Callable[..., tuple[LineWriter, list[Dropped]]]


@pytest.fixture
def make(reader: Reader) -> Iterator[Make]:
    made: list[LineWriter] = []

    def make(most: int = 100) -> tuple[LineWriter, list[Dropped]]:
        missed: list[Dropped] = []
        writer = LineWriter(
            reader.take, lambda missing: f"missing {missing.other} {missing.audit}", missed.append, most
        )
        made.append(writer)
        writer.put("first", audit=False)
        assert reader.waited_for.wait(20), "it is being written, and no longer waits here"
        return writer, missed

    yield make
    reader.read()
    for writer in made:
        writer.close()


def test_lines_come_in_the_order_in_which_they_were_put(reader: Reader, make: Make) -> None:
    writer, missed = make()
    for number in range(10):
        writer.put(str(number), audit=number % 3 == 0)
    reader.read()
    assert writer.flush(20)
    assert reader.lines == ["first", *map(str, range(10))]
    assert missed == []


def test_beyond_the_bound_lines_are_dropped_and_their_number_is_logged_later(reader: Reader, make: Make) -> None:
    writer, missed = make()
    for _ in range(13):
        writer.put("x" * 10, audit=False)
    assert missed == [Dropped(other=1)] * 3
    reader.read()
    assert writer.flush(20)
    assert reader.lines == ["first", "missing 3 0", *["x" * 10] * 10]


def test_the_audit_trail_is_dropped_last(reader: Reader, make: Make) -> None:
    writer, missed = make()
    for number in range(10):
        writer.put(f"other {number:4}", audit=False)
    for number in range(12):
        writer.put(f"audit {number:4}", audit=True)
        writer.put("never this", audit=False)
    reader.read()
    assert writer.flush(20)
    assert reader.lines == ["first", "missing 22 2", *(f"audit {number:4}" for number in range(10))]
    assert sum((one.other for one in missed), 0) == 22


def test_an_end_waits_for_a_reader_but_not_for_long(make: Make) -> None:
    writer, _ = make()
    writer.close()
    assert not writer.flush(0.01)


def test_a_line_that_cannot_be_written_is_missing(reader: Reader, make: Make) -> None:
    writer, missed = make()
    reader.failing = True
    reader.read()
    assert writer.flush(20)
    reader.failing = False
    writer.put("second", audit=True)
    assert writer.flush(20)
    assert reader.lines == ["second", "missing 1 0"]
    assert missed == [Dropped(other=1)]


# --- as a part of the log --------------------------------------------------------------------------------------------


class Full(io.StringIO):
    """A stream that fails as a full disk does, until there is room."""

    room = False

    def write(self, text: str) -> int:
        if not self.room:
            raise OSError(28, "No space left on device")
        return super().write(text)


def test_what_is_missing_is_an_event_and_a_metric(monkeypatch: pytest.MonkeyPatch) -> None:
    with restored(monkeypatch):
        stream, before = Full(), logs.dropped()
        configure("json", "info", stream)
        log_event(Event(EventType.KEY_CREATED, "a", fields={"key_id": "k"}))
        log_event(Event(EventType.STARTED))
        logs.flush()
        stream.room = True
        log_event(Event(EventType.STOPPED, level=Level.INFO, fields={"drained": True}))
        logs.flush()
        stopped, missing = map(json.loads, stream.getvalue().splitlines())
        assert stopped["event"] == "stopped"
        assert (missing["event"], missing["level"]) == ("log_lines_dropped", "error")
        assert (missing["lines"], missing["audit_lines"]) == (1, 1)
        metrics = Metrics("1")
        now = logs.dropped()
        lacks = {"audit": now.audit - before.audit, "other": now.other - before.other}
        metrics.watch(lambda: known(at=datetime.now(UTC), log_lines_dropped=lacks), each=True)
        page = metrics.render().decode()
        assert 'rotator_log_lines_dropped_total{kind="audit"} 1.0' in page
        assert 'rotator_log_lines_dropped_total{kind="other"} 1.0' in page


def test_the_audit_trail_is_as_documented() -> None:
    document = Path(__file__).parents[2] / "docs/logging.md"
    marked = re.findall(r"(?m)^\| `(\w+)` \| [^|]* \| \*audit\*", document.read_text())
    assert sorted(marked) == sorted(AUDIT)
