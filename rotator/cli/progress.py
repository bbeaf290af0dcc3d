"""Progress of long work on standard error: a bar on a terminal, otherwise a line every ten seconds."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from rotator.cli.streams import is_terminal, print_error
from rotator.core.errors import RotatorError
from rotator.runtime.threads import start
from rotator.telemetry.log_writer import Stderr
from rotator.telemetry.wording import in_units

LINE_EVERY = 10.0
"""Seconds between lines of progress where there is no terminal."""

Advance = Callable[[], None]
"""Counts one more as done."""


@contextlib.contextmanager
def progress(what: str, total: int, waits: Callable[[], str] = lambda: "") -> Iterator[Advance]:
    """Show the progress of `what`; `waits` returns what the work waits for now, or nothing."""

    class Waiting(ProgressColumn):
        def render(self, _task: Task) -> Text:
            return Text(waits(), style="yellow")

    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        Waiting(),
        console=Console(stderr=True),
        transient=True,
        redirect_stdout=is_terminal(),  # a file must not get the bar's escapes
        disable=not Stderr().isatty(),
    )
    task_id = bar.add_task(what, total=total)
    task = bar.tasks[0]
    with bar, _lines(lambda: _line(task, waits())) if bar.disable else contextlib.nullcontext():
        yield lambda: bar.advance(task_id)


def _line(task: Task, waits: str) -> str:
    left = task.time_remaining if task.completed else None
    estimate = f", about {in_units(timedelta(seconds=left))} left" if left else ""
    return f"{task.description}: {task.completed:.0f} of {task.total:.0f} done{estimate}{f'; {waits}' if waits else ''}"


@contextlib.contextmanager
def _lines(line: Callable[[], str]) -> Iterator[None]:
    ended = threading.Event()

    def print_lines() -> None:
        while not ended.wait(LINE_EVERY):
            print_error(line())

    thread: threading.Thread | None = None
    with contextlib.suppress(RotatorError):  # no thread left: the work goes on without progress
        thread = start(threading.Thread(target=print_lines, name="progress", daemon=True))
    try:
        yield
    finally:
        ended.set()
        if thread is not None:
            thread.join()
