"""How far long work is: a bar on a terminal, else a line now and then; both on standard error."""

import contextlib
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn
from rich.text import Text

from rotator.cli.streams import print_error
from rotator.core.errors import RotatorError
from rotator.runtime.threads import start
from rotator.telemetry.log_writer import Stderr

LINE_EVERY = 10.0
"""Seconds between lines that tell how far long work is, where there is no terminal for a bar."""

TOO_EARLY = 60.0
"""Seconds in which no estimate holds while a budget is waited for: a minute's requests go at once, then one by one."""

Advance = Callable[[], None]
"""Says that one more is done."""


@contextlib.contextmanager
def progress(what: str, total: int, waits: Callable[[], str] = lambda: "") -> Iterator[Advance]:
    """Show how far long work is, and when it may end: a bar on a terminal, else a line now and then.

    `waits` says, if anything, what the work waits for at the moment.
    """
    with _bar(what, total, waits) if Stderr().isatty() else _lines(what, total, waits) as advance:
        yield advance


@contextlib.contextmanager
def _lines(what: str, total: int, waits: Callable[[], str]) -> Iterator[Advance]:
    done: deque[None] = deque()
    ended, started = threading.Event(), time.monotonic()

    def emit() -> None:
        while not ended.wait(LINE_EVERY):
            print_error(progress_line(what, len(done), total, time.monotonic() - started, waits()))

    teller: threading.Thread | None = None
    with contextlib.suppress(RotatorError):  # the work can be done without it
        teller = start(threading.Thread(target=emit, name="progress", daemon=True))
    try:
        yield lambda: done.append(None)
    finally:
        ended.set()
        if teller is not None:
            teller.join()


def progress_line(what: str, done: int, total: int, elapsed: float, waits: str) -> str:
    """One line of it; the rest is taken to last as long as what is done, each for each."""
    left = _left(done, total, elapsed, waits)
    return f"{what}: {done} of {total} done{f', {left}' if left else ''}{f'; {waits}' if waits else ''}"


def _left(done: int, total: int, elapsed: float, waits: str) -> str:
    if waits and elapsed < TOO_EARLY:
        return ""
    return f"about {in_units(elapsed / done * (total - done))} left" if 0 < done < total else ""


@contextlib.contextmanager
def _bar(what: str, total: int, waits: Callable[[], str]) -> Iterator[Advance]:
    class Rest(ProgressColumn):
        def render(self, task: Task) -> Text:  # rich's own estimate knows nothing of a stall that goes on
            why = waits()
            parts = (_left(int(task.completed), total, task.elapsed or 0.0, why), why)
            return Text("; ".join(filter(None, parts)), style="yellow")

    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        Rest(),
        console=Console(stderr=True),
        transient=True,
        redirect_stdout=sys.stdout is not None and sys.stdout.isatty(),  # what goes to a file stays out of its way
    )
    with bar:
        task = bar.add_task(what, total=total)
        yield lambda: bar.advance(task)


_UNITS = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))


def in_units(seconds: float, units: int = 2) -> str:
    """The largest units of a time, as one says it: "4 h 10 min", "40 s"."""
    rest = round(max(0.0, seconds))
    largest = next((index for index, (_, size) in enumerate(_UNITS) if rest >= size), len(_UNITS) - 1)
    parts: list[str] = []
    for unit, size in _UNITS[largest : largest + units]:
        number, rest = divmod(rest, size)
        if number or not parts:
            parts.append(f"{number} {unit}")
    return " ".join(parts)
