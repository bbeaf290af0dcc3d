"""Standard output and standard error of the commands.

Results go to standard output; logs, progress and errors go to standard error. A closed pipe or a full disk on standard
output never interrupts a command half-way: the failure is kept, and decides the exit status when the work is done.
Redaction is imported when something is printed: `--version` needs none.
"""

import contextlib
import errno
import json
import os
import sys
from collections.abc import Iterable
from typing import Any

_failure: OSError | None = None


def reset() -> None:
    """Forget an earlier failure: a new command begins."""
    global _failure
    _failure = None


def failure() -> OSError | None:
    """Return why standard output did not take everything, or None if it did."""
    if sys.stdout is None:  # it was closed before Python started
        return OSError(errno.EBADF, os.strerror(errno.EBADF))
    return _failure


def fail(error: OSError) -> None:
    """Keep the first failure of standard output, and discard everything written to it from now on."""
    global _failure
    _failure = _failure or error
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def is_terminal() -> bool:
    """Return whether standard output is a terminal."""
    return sys.stdout is not None and sys.stdout.isatty()


def write(text: str) -> None:
    """Write to standard output at once, without redaction."""
    try:
        if sys.stdout is not None:
            sys.stdout.write(text)
            sys.stdout.flush()
    except OSError as error:
        fail(error)


def print_line(line: str) -> None:
    """Print one line of a result, redacted: upstreams wrote part of it."""
    from rotator.runtime.redact import scrub_lines

    write(scrub_lines(line) + "\n")


def print_json(value: Any) -> None:
    """Print a result as JSON, without redaction: an id that looks like a token must arrive complete.

    The caller redacts each value: ids with `scrub_name`, the words of others with `scrub_lines`.
    """
    write(json.dumps(value, indent=2) + "\n")


def print_row(cells: Iterable[str]) -> None:
    """Print one line of cells separated by tabs. The caller redacts, as for `print_json`."""
    from rotator.runtime.redact import printable

    write("\t".join(map(printable, cells)) + "\n")


def print_error(line: str) -> None:
    """Print one line to standard error, redacted."""
    from rotator.runtime.redact import scrub_lines
    from rotator.telemetry.log_writer import Stderr

    with contextlib.suppress(OSError):
        Stderr().write(scrub_lines(line) + "\n")
