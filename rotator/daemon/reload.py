"""Loads the configuration: at the start, and again when its files have changed or a person requests it."""

import threading
from collections.abc import Mapping
from pathlib import Path

from rotator.app.wiring import Installation
from rotator.config.files import Watch
from rotator.config.loader import load
from rotator.core.errors import ConfigurationError, RotatorError
from rotator.core.events import Event, EventType, Level
from rotator.core.ports import Leadership, Listener
from rotator.providers.registry import installed_types
from rotator.runtime.clock import SystemClock
from rotator.runtime.redact import quoted
from rotator.telemetry.logging import unexpected
from rotator.telemetry.metrics import Metrics

SHARE = 0.01
"""The largest share of the time that checking thousands of files may take."""

LOOK_AT_MANY_FILES = 60.0
"""The longest time between two checks of thousands of files, in seconds."""


class Reloader:
    """Makes installations from the configuration's files. Any thread may call `request`, and one thread the rest."""

    def __init__(
        self,
        file: Path,
        environment: Mapping[str, str],
        clock: SystemClock,
        metrics: Metrics,
        emit: Listener,
        leads: Leadership,
    ) -> None:
        self._file, self._environment = file, environment
        self._clock, self._metrics, self._emit, self._leads = clock, metrics, emit, leads
        self._requested = threading.Event()
        self._watched = Watch(file)
        self._seen = self._watched.look()
        self._look_again_at = float("-inf")  # monotonic
        self.refused = ""  # why the latest configuration is not in use

    def request(self) -> None:
        """Make a reload due, even if no file has changed."""
        self._requested.set()

    def installation(self, predecessor: Installation | None = None) -> Installation:
        """Load the configuration and build what it needs.

        Raises `ConfigurationError`, or another `RotatorError` when a credential that is needed at once is missing.
        """
        return Installation(
            load(self._file, self._environment, installed_types(), predecessor.configuration if predecessor else None),
            self._environment,
            self._clock,
            self._metrics,
            self._emit,
            predecessor,
            self._leads,
            is_swept=True,
        )

    def is_due(self) -> bool:
        """Return whether a reload was requested or a file has changed since the files were last read."""
        began = self._clock.monotonic()
        if self._requested.is_set():
            return True
        if began < self._look_again_at:
            return False
        changed = self._watched.look() != self._seen
        self._look_again_at = began + min((self._clock.monotonic() - began) / SHARE, LOOK_AT_MANY_FILES)
        return changed

    def successor(self, current: Installation) -> Installation | None:
        """Return an installation of the files as they are now; None if they are refused, which is reported."""
        self._requested.clear()
        self._seen = self._watched.look()
        try:
            successor = self.installation(current)
        except Exception as error:
            match error:
                case ConfigurationError():
                    problems = [str(problem) for problem in error.problems]
                case RotatorError():
                    problems = [error.message]
                case _:  # a library refused a value, and no rule of ours foresaw it
                    problems = [f"{type(error).__name__}: {quoted(str(error))}"]
                    self._emit(unexpected("reading the configuration", error))
            self.refused = "; ".join(problems)
            self._metrics.reload(ok=False)
            fields = {"file": str(self._file), "problems": self.refused, "advice": "The old one stays in use."}
            self._emit(Event(EventType.CONFIGURATION_REFUSED, level=Level.ERROR, fields=fields))
            return None
        self.refused = ""
        self._metrics.reload(ok=True)
        return successor
