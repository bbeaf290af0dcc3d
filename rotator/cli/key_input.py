"""Reads the texts of keys from standard input. No message repeats any part of what was read."""

import contextlib
import sys
import termios
from collections.abc import Iterator

from rotator.cli.exit_status import usage_error
from rotator.cli.streams import print_error
from rotator.core.secrets import Secret
from rotator.runtime.redact import register

MAX_LENGTH = 4096
"""Bytes of a line. A terminal passes on no longer one."""

MAX_LINES = 100
"""Lines at once: each line of output is searched for each of the keys."""


def read_keys() -> dict[int, Secret]:
    """Return the key on each line by the line's number, without empty lines. Ends the command with 2 if there is none.

    All output hides a key for as long as its `Secret` lives.
    """
    if sys.stdin is None:  # it was closed before Python started
        usage_error("standard input is closed: write the keys to it, one a line")
    keys: dict[int, Secret] = {}
    with _hidden_typing():
        for number, line in enumerate(iter(lambda: sys.stdin.buffer.readline(MAX_LENGTH + 1), b""), 1):
            if number > MAX_LINES:
                usage_error(f"standard input has more than {MAX_LINES} lines: run the command on a part of them")
            if len(line) > MAX_LENGTH:
                usage_error(f"line {number} of standard input is longer than {MAX_LENGTH} bytes: it is no key")
            text = line.decode("utf-8-sig", "replace").strip()
            if "\ufffd" in text:
                usage_error(f"line {number} of standard input is not text in UTF-8")
            if text:
                keys[number] = register(Secret(text))
    if not keys:
        usage_error("standard input has no key: write the keys to it, one a line")
    return keys


@contextlib.contextmanager
def _hidden_typing() -> Iterator[None]:
    """On a terminal, ask for the keys and do not show what is typed."""
    if not sys.stdin.isatty():
        yield
        return
    terminal = sys.stdin.fileno()
    before = termios.tcgetattr(terminal)
    hidden = [*before]
    hidden[3] &= ~termios.ECHO
    termios.tcsetattr(terminal, termios.TCSADRAIN, hidden)
    try:
        print_error("Enter the keys, one a line, then press Ctrl-D. What you type is not shown.")
        yield
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)
