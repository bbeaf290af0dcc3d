"""Commands and logs in the tests' own process, which restore what they change in the whole process."""

import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from unittest.mock import patch

import pytest
import structlog

from rotator.cli import main as cli
from rotator.runtime import redact as scrub
from rotator.runtime.redact import Scrubber
from rotator.telemetry import logging as logs


@contextmanager
def restored(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Restore the hooks, handlers, levels and known secrets of this process at the end."""
    for owner, name in ((sys, "excepthook"), (sys, "unraisablehook"), (threading, "excepthook")):
        monkeypatch.setattr(owner, name, getattr(owner, name))
    monkeypatch.setattr(scrub, "_scrubber", Scrubber())
    root = logging.getLogger()
    handlers, levels = list(root.handlers), {name: logging.getLogger(name).level for name in ("", *logs.QUIET)}
    on_term = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, on_term)
    for handler in [one for one in root.handlers if one not in handlers and type(one).__module__ == logs.__name__]:
        root.removeHandler(handler)
        handler.close()
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)
    logging.captureWarnings(False)
    structlog.reset_defaults()


def run_command(arguments: Sequence[str], environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Run one command in the main thread of this process, with this environment."""
    out, err = StringIO(), StringIO()
    with (
        redirect_stdout(out),
        redirect_stderr(err),
        patch.dict(os.environ, environment, clear=True),
        pytest.MonkeyPatch.context() as monkeypatch,
        restored(monkeypatch),
        pytest.raises(SystemExit) as ended,
    ):
        cli.execute(arguments)
    assert isinstance(ended.value.code, int), ended.value.code
    return subprocess.CompletedProcess([*arguments], ended.value.code, out.getvalue(), err.getvalue())
