"""The daemon: its jobs, signals, HTTP pages and end.

One scheduler job for each kind of work, never one for each target. The dispatcher works on targets.
"""

import contextlib
import logging
import os
import queue
import signal
import threading
from collections.abc import Mapping
from dataclasses import asdict
from datetime import timedelta
from operator import attrgetter
from pathlib import Path
from typing import NoReturn

from rotator import __version__
from rotator.app.wiring import Installation
from rotator.config.loader import Configuration
from rotator.core.caps import HOT_EVERY
from rotator.core.errors import Problem, RotatorError
from rotator.core.events import Event, EventType, Fields, Level
from rotator.core.ports import Listener
from rotator.core.request import RotationRequest
from rotator.daemon import systemd
from rotator.daemon.dispatcher import SWEEP, Dispatcher
from rotator.daemon.jobs import Jobs
from rotator.daemon.leader import Lease
from rotator.daemon.logins import Logins
from rotator.daemon.notices import Notices
from rotator.daemon.reload import Reloader
from rotator.daemon.signals import STOP, Signals
from rotator.notify.notifier import Notifier
from rotator.runtime.clock import SystemClock
from rotator.telemetry.logging import dropped
from rotator.telemetry.metrics import Metrics
from rotator.telemetry.status import DaemonInfo, DaemonStatus, RecentEvents
from rotator.web import page
from rotator.web.server import Response, Routes, Server, Shared, text_response

TICK = 1.0
"""Seconds between ticks: due work starts at most this late."""

KEEP_LOGIN = 5.0
"""Seconds between checks of each store's login."""

LOOK_FOR_SIGNALS = 0.5
"""The longest time until a signal is noticed, in seconds."""

WATCH_HEALTH = 2.0
"""Seconds between checks for stuck work, for the log and for systemd's watchdog."""

FILES = "files"
"""The name of the job that checks the configuration's files and reloads."""

LOOK_AT_FILES = 2.0
"""Seconds between checks whether the configuration's files have changed, as those of a mounted ConfigMap do."""

READ_AT_START = ("lease", "http.listen", "http.admin", "http.target_metrics", "daemon.workers")
"""The options that a running daemon does not change. The chart replaces the pods when they change."""

ASK_THE_DOWN = 5.0
"""Seconds between checks whether an upstream that is down is due for a request."""

TO_END = 5.0
"""Seconds that the end may take beyond `drain` and the Lease's duration. The chart's grace period includes them."""


class Daemon:
    """One replica. Call `run` in the main thread, where signals arrive."""

    def __init__(
        self,
        file: Path,
        environment: Mapping[str, str],
        clock: SystemClock,
        metrics: Metrics,
        emit: Listener,
        signals: Signals,
    ) -> None:
        """Raises `ConfigurationError`, or another `RotatorError` if a credential that is needed at once is missing."""
        self._file = file
        self._clock, self._metrics = clock, metrics
        self._recent = RecentEvents(emit, clock.now)
        self._emit = self._notifier = Notifier(self._recent, clock, metrics.notifications, self._leads)
        self._lease: Lease | None = None
        self._reloader = Reloader(file, environment, clock, metrics, self._emit, self._leads)
        self._installation = self._reloader.installation()
        self._started_with = self._installation.configuration
        if (wanted := self._installation.lease()) is not None:
            self._notifier.health.share()
            self._lease = Lease(wanted, clock, self._emit, self._notifier.health, self._begin_to_lead)
        self._dispatcher = Dispatcher(
            self._installation, metrics, self._emit, self._leads, self._notifier.observe, self._notifier.passed
        )
        self._notify(self._installation)
        self._jobs = Jobs(clock, self._emit, self._dispatcher.health)
        self._signals = signals
        self._rotation_requested = threading.Event()
        self._logins, self._stuck = Logins(clock, self._emit), Notices(self._emit)
        self._was_ready = False
        self._servers: tuple[Server, ...] = ()
        self._systemd = systemd.Systemd(environment, clock)
        self._health_at = float("-inf")

    def run(self) -> NoReturn:
        """Work until TERM or INT, and end the process: with 0 if all work ended within `drain`, otherwise with 1."""
        jobs, every = self._jobs, _intervals(self._installation.configuration)
        jobs.every(TICK, "tick", self._tick, at_once=True)
        jobs.every(KEEP_LOGIN, "login", self._keep_logins)
        jobs.every(TICK, "watch", self._dispatcher.watch)
        jobs.every(ASK_THE_DOWN, "down", self._dispatcher.ask_the_down)
        jobs.every(LOOK_AT_FILES, FILES, self._look_at_files)
        jobs.every(TICK, "strays", self._dispatcher.remove_strays)
        jobs.every(every["check"], "check", self._dispatcher.ask_providers)
        jobs.every(HOT_EVERY.total_seconds(), "use", self._dispatcher.watch_use)
        jobs.every(every["sweep"], SWEEP, self._dispatcher.sweep, at_once=True)
        self._signals.handle()
        with contextlib.ExitStack() as stack:
            self._servers = servers = self._listen()
            for server in servers:
                stack.callback(server.close)
            self._report_start(*servers)
            self._signals.started(self._ends_within)
            if self._lease is not None:
                self._lease.start()
            jobs.start()
            stack.callback(jobs.shutdown, wait=False)
            self._systemd.send(systemd.READY)
            number = self._obey_signals()
            self._systemd.send(systemd.STOPPING)
            self._emit(Event(EventType.STOPPING, fields={"signal": signal.Signals(number).name}))
            by = self._clock.monotonic() + self._installation.configuration.daemon.drain.total_seconds()
            drained = self._dispatcher.end()
            if self._lease is not None and drained:  # otherwise work under way may still write, and the Lease expires
                self._lease.stop()
            self._notifier.end(by)  # last: the next leader does not wait for a slow receiver
            if drained:
                self._installation.close()
        self._emit(Event(EventType.STOPPED, fields={"drained": drained}))
        # Returning would wait for every thread. A job may wait for an answer that is no longer needed, and would report
        # its closed connection as an error.
        logging.shutdown()
        os._exit(0 if drained else 1)

    def _tick(self) -> None:
        if self._rotation_requested.is_set():
            self._rotation_requested.clear()
            self._dispatcher.request(RotationRequest(rotate=True, by="signal"))
        self._dispatcher.tick()

    # --- signals -----------------------------------------------------------------------------------------------------

    def _ends_within(self) -> float:
        """Return the seconds that the end may take: to drain and to release the Lease."""
        configuration = self._installation.configuration
        lease = configuration.lease.duration if configuration.lease else timedelta(0)
        return (configuration.daemon.drain + lease).total_seconds() + TO_END

    def _obey_signals(self) -> int:
        """Obey signals until TERM or INT, and return that one. Meanwhile notify systemd's watchdog.

        Nothing here may wait for a file or an answer, because that would delay the next signal.
        """
        while True:
            self._watch_health()
            # With a time-out, because a signal just before the wait does not end it.
            try:
                number = self._signals.received.get(timeout=LOOK_FOR_SIGNALS)
            except queue.Empty:
                continue
            if number in STOP:
                return number
            if number == signal.SIGHUP:
                self._reloader.request()
                self._jobs.run_now(FILES)
                self._dispatcher.look()
            else:
                fields: Fields = {"by": "signal", "targets": len(self._installation.targets)}
                self._emit(Event(EventType.ROTATION_REQUESTED, fields=fields))
                self._rotation_requested.set()  # for the next tick; several requests until then count as one

    def _look_at_files(self) -> None:
        """Reload when requested, or when a file has changed. A refused file is not read again until it changes."""
        if not self._reloader.is_due():
            return
        self._is_ready()  # judged by the installation that is about to be replaced
        successor = self._reloader.successor(self._installation)
        if successor is None:
            return
        former, self._installation = self._installation, successor
        changed = self._dispatcher.take_up(successor)
        self._notify(successor)
        for key in READ_AT_START:
            if attrgetter(key)(successor.configuration) != attrgetter(key)(self._started_with):
                message = "is read at the start only: the changed value needs a restart"
                self._report_warning(Problem(str(self._file), key, message))
        intervals = _intervals(former.configuration)
        for job, seconds in _intervals(successor.configuration).items():
            if seconds != intervals[job]:
                self._jobs.change(job, seconds)
        new, old = successor.targets, former.targets
        fields: Fields = {
            "file": str(self._file),
            "targets": len(new),
            "added": len(new.keys() - old.keys()),
            "changed": len(changed),
            "removed": len(old.keys() - new.keys()),
            "budget": _budget(successor.configuration),
        }
        self._emit(Event(EventType.CONFIGURATION_LOADED, fields=fields))
        self._report_warnings()

    # --- leadership and start ----------------------------------------------------------------------------------------

    def _leads(self) -> bool:
        return self._lease is None or self._lease.leads()

    def _notify(self, installation: Installation) -> None:
        configuration = installation.configuration
        self._notifier.configure(
            configuration.owner, installation.channels.senders, installation.targets, configuration.daemon.resync
        )

    def _begin_to_lead(self, leads: bool) -> None:
        if leads:
            self._dispatcher.lead()
            self._dispatcher.tick()
            # The former leader may have died and left work, which must not wait for the next interval.
            self._jobs.run_now(SWEEP)
        else:
            self._dispatcher.stand_by()

    def _report_start(self, listen: Server, admin: Server) -> None:
        configuration = self._installation.configuration
        self._metrics.watch(self._known, each=configuration.http.target_metrics)
        fields: Fields = {
            "version": __version__,
            "owner": configuration.owner,
            "targets": len(configuration.targets),
            "listen": str(listen.address),
            "admin": str(admin.address),
            "budget": _budget(configuration),
        }
        self._emit(Event(EventType.STARTED, fields=fields))
        self._report_warnings()

    def _report_warnings(self) -> None:
        for warning in self._installation.configuration.warnings:
            self._report_warning(warning)

    def _report_warning(self, warning: Problem) -> None:
        self._emit(Event(EventType.CONFIGURATION_WARNING, level=Level.WARNING, fields=asdict(warning)))

    def _keep_logins(self) -> None:
        self._is_ready()
        self._logins.keep(self._installation.vaults)

    # --- HTTP --------------------------------------------------------------------------------------------------------

    def _listen(self) -> tuple[Server, Server]:
        http = self._installation.configuration.http
        pages: Routes = {"/metrics": Shared(self._metrics_page), "/healthz": self._health, "/readyz": self._readiness}
        listen = Server(http.listen, pages, option="[http].listen", loopback_only_hosts=False, emit=self._emit)
        pages = {"/": self._page, "/status.json": self._status}
        try:
            admin = Server(
                http.admin,
                pages,
                option="[http].admin",
                loopback_only_hosts=True,
                emit=self._emit,
                posts={"/look": self._look},
            )
        except RotatorError:
            listen.close()
            raise
        return listen, admin

    def _metrics_page(self) -> Response:
        return Response(200, self._metrics.content_type, self._metrics.render())

    def _health(self, _query: str) -> Response:
        """Return 503 only if nothing but a restart helps."""
        problems = self._problems()
        return text_response(503, f"stuck: {'; '.join(problems)}") if problems else text_response(200, "ok")

    def _problems(self) -> list[str]:
        parts = (self._dispatcher, self._jobs, *([self._lease] if self._lease else ()), *self._servers)
        return [problem for part in parts for problem in part.problems()]

    def _watch_health(self) -> None:
        """Notify systemd's watchdog while nothing is stuck. Log a change, because a restart ends the log."""
        if self._clock.monotonic() < self._health_at:
            return
        self._health_at = self._clock.monotonic() + WATCH_HEALTH
        problems = self._problems()
        if problems:
            fields: Fields = {"problems": "; ".join(problems), "advice": "Restart rotator, and please report this."}
            self._stuck.report(Event(EventType.STUCK, "", Level.ERROR, fields))
        else:
            self._systemd.keep_alive()
            self._stuck.resolve(Event(EventType.UNSTUCK))

    def _readiness(self, _query: str) -> Response:
        """Return whether work is possible. No error message: it may name a path, and the port is open."""
        if self._is_ready():
            return text_response(200, "ok")
        kinds = sorted({type(status.error).__name__ for status in self._dispatcher.statuses.snapshot() if status.error})
        return text_response(
            503, f"not ready: no store accepted a login yet ({', '.join(kinds) or 'nothing was tried yet'})"
        )

    def _is_ready(self) -> bool:
        """Return whether a store has ever accepted a login, a path was read, or there is no target.

        An outage or a refused path must neither remove the pod from its service nor delay an upgrade.
        """
        self._was_ready = (
            self._was_ready
            or self._dispatcher.has_read
            or not self._installation.targets
            or any(store.is_logged_in for store in self._installation.vaults.values())
        )
        return self._was_ready

    def _look(self) -> Response:
        self._dispatcher.look()
        return text_response(202, "every path is read soon")

    def _page(self, query: str) -> Response:
        shown = page.render(self._known(), page.read_query(query))
        return Response(200, "text/html; charset=utf-8", shown.encode(), page.POLICY)

    def _status(self, _query: str) -> Response:
        return Response(200, "application/json", self._known().to_model().model_dump_json().encode())

    def _known(self) -> DaemonStatus:
        installation, lease = self._installation, self._lease
        info = DaemonInfo(
            version=__version__,
            replica=lease.identity if lease else "",
            leads=self._leads(),
            holder=lease.holder if lease else "",
            budgets={name: budget.used() for name, budget in installation.budgets.items()},
            logins={name: store.token_expires_at for name, store in installation.vaults.items()},
            # A standby makes no provider requests, so its knowledge of a provider is stale.
            down={
                name: error
                for name, error in installation.upstreams().items()
                if error is not None and (self._leads() or not name.startswith("provider "))
            },
            logins_failing=[name for name in installation.vaults if name in self._logins.failing],
            refused=self._reloader.refused,
            clock_trusted=self._clock.trusted(),
            skews=self._clock.skews,
            log_lines_dropped=asdict(dropped()),
            sweep_interval=installation.configuration.sweep.interval,
        )
        owner, targets = installation.configuration.owner, self._dispatcher.statuses.snapshot()
        return DaemonStatus(owner, self._clock.now(), targets, self._recent.latest(), info)


def _budget(configuration: Configuration) -> str:
    """Return how much of each provider's budget the targets need, in words."""
    return "; ".join(map(str, configuration.loads))


def _intervals(configuration: Configuration) -> dict[str, float]:
    """Return the seconds between runs of the jobs whose interval is configured."""
    return {"check": configuration.daemon.resync.total_seconds(), SWEEP: configuration.sweep.interval.total_seconds()}
