"""The long-lived service: what runs when, which signals do what, what can be asked over HTTP, and how it ends.

One scheduler job per kind of work, never one per target. What is done to targets is the engine's business.
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
from pathlib import Path
from typing import NoReturn

from rotator import __version__
from rotator.app.wiring import Installation
from rotator.config.files import Watch
from rotator.config.loader import Configuration, load
from rotator.core.errors import ConfigurationError, RotatorError
from rotator.core.events import Event, EventType, Fields, Level
from rotator.core.ports import Listener
from rotator.core.request import RotationRequest
from rotator.core.times import timestamp
from rotator.daemon import systemd
from rotator.daemon.dispatcher import SWEEP, Dispatcher
from rotator.daemon.jobs import Jobs
from rotator.daemon.leader import Lease
from rotator.daemon.notices import Notices
from rotator.daemon.signals import STOP, Signals
from rotator.runtime.clock import SystemClock
from rotator.runtime.redact import quoted
from rotator.stores.vault.check import login_end
from rotator.stores.vault.store import VaultStore
from rotator.telemetry.logging import dropped, unexpected
from rotator.telemetry.metrics import Metrics
from rotator.telemetry.status import DaemonInfo, DaemonStatus, Recent
from rotator.web import page
from rotator.web.server import Response, Routes, Server, Shared, serve

TICK = 1.0
"""Seconds between looks at the agenda: what is due is begun at most this late, and a clock jump is noticed."""

KEEP_LOGIN = 5.0
"""Seconds between looks at the age of each store's login."""

LOOK_FOR_SIGNALS = 0.5
"""Seconds after which a signal is noticed at the latest."""

WATCH_HEALTH = 2.0
"""Seconds between looks at whether anything is stuck, for the log and for systemd's watchdog."""

FILES = "files"
"""The name of the job that looks at the configuration's files and reloads."""

LOOK_AT_FILES = 2.0
"""Seconds between looks at whether the configuration's files have changed, as a mounted ConfigMap's do."""

LOOK_AT_MANY_FILES = 60.0
"""Seconds between looks at most, where there are thousands of files."""

READ_AT_START = ("lease", "http.listen", "http.admin", "http.target_metrics", "daemon.workers")
"""The options that a running daemon does not change. The chart replaces the pods for them, and for no others."""

ASK_THE_DOWN = 5.0
"""Seconds between looks at whether something is down and to be asked again."""

TO_END = 5.0
"""Seconds that the end may take beyond `drain` and the Lease's duration; the chart's grace period has as many."""


class Daemon:
    """One replica. `run` returns the exit status; it must be called from the main thread, where signals arrive."""

    def __init__(
        self,
        file: Path,
        environment: Mapping[str, str],
        clock: SystemClock,
        metrics: Metrics,
        emit: Listener,
        signals: Signals,
    ) -> None:
        """Raises `ConfigurationError`, or another `RotatorError` when a credential is needed at once and not there."""
        self._file, self._environment = file, environment
        self._clock, self._metrics = clock, metrics
        self._emit = self._recent = Recent(emit, clock.now)
        self._replica = ""
        self._lease: Lease | None = None
        self._watched = Watch(file)
        self._files = self._watched.look()
        self._installation = self._assemble(None)
        self._started_with = self._installation.configuration
        self._lease = self._wanted_lease()
        self._engine = Dispatcher(self._installation, metrics, self._emit, self._leads)
        self._jobs = Jobs(clock, self._emit, self._engine.health)
        self._signals = signals
        self._asked_to_reload = threading.Event()
        self._asked_to_rotate = threading.Event()
        self._refused = ""  # what is wrong with a configuration that was not taken up
        self._logins, self._tokens, self._stuck = Notices(self._emit), Notices(self._emit), Notices(self._emit)
        self._was_ready = False
        self._servers: tuple[Server, ...] = ()
        self._systemd = systemd.Systemd(environment, clock)
        self._health_at = float("-inf")
        self._look_again_at = float("-inf")  # monotonic: when the files may be looked at again

    def run(self) -> NoReturn:
        """Work until TERM or INT, and end the process: 0 when what was under way ended within `drain`, else 1."""
        jobs, every = self._jobs, _intervals(self._installation.configuration)
        jobs.every(TICK, "tick", self._tick, at_once=True)
        jobs.every(KEEP_LOGIN, "login", self._keep_logins)
        jobs.every(TICK, "watch", self._engine.watch)
        jobs.every(ASK_THE_DOWN, "down", self._engine.ask_the_down)
        jobs.every(LOOK_AT_FILES, FILES, self._look_at_files)
        jobs.every(TICK, "strays", self._engine.remove_strays)
        jobs.every(every["check"], "check", self._engine.ask_providers)
        jobs.every(every["sweep"], SWEEP, self._engine.sweep, at_once=True)
        self._signals.handle()
        with contextlib.ExitStack() as stack:
            self._servers = servers = self._listen()
            for server in servers:
                stack.callback(server.close)
            self._tell_of_start(*servers)
            self._signals.started(self._ends_within)
            if self._lease is not None:
                self._lease.start()
            jobs.start()
            stack.callback(jobs.shutdown, wait=False)
            self._systemd.send(systemd.READY)
            number = self._obey_signals()
            self._systemd.send(systemd.STOPPING)
            self._emit(Event(EventType.STOPPING, fields={"signal": signal.Signals(number).name}))
            drained = self._engine.end()
            if self._lease is not None and drained:  # else what is under way may still write: let it run out by itself
                self._lease.stop()
            if drained:
                self._installation.close()
        self._emit(Event(EventType.STOPPED, fields={"drained": drained}))
        # Not by returning: the interpreter would wait for every thread. A job's may wait for an answer that nobody
        # reads any more, and would call it an error that its connection is closed.
        logging.shutdown()
        os._exit(0 if drained else 1)

    def _tick(self) -> None:
        if self._asked_to_rotate.is_set():
            self._asked_to_rotate.clear()
            self._engine.request(RotationRequest(rotate=True, by="signal"))
        self._engine.tick()

    # --- signals -----------------------------------------------------------------------------------------------------

    def _ends_within(self) -> float:
        """The seconds that the end may take: to drain, and to give the Lease and the login back."""
        configuration = self._installation.configuration
        lease = configuration.lease.duration if configuration.lease else timedelta(0)
        return (configuration.daemon.drain + lease).total_seconds() + TO_END

    def _obey_signals(self) -> int:
        """Until one says to stop; returns that one. Meanwhile systemd's watchdog is kept quiet, while all is well.

        Nothing is done here that may wait for a file or for an answer: that would hold up the next signal.
        """
        while True:
            self._watch_health()
            # Not without a time-out: a signal that comes just before the wait begins does not wake it.
            try:
                number = self._signals.received.get(timeout=LOOK_FOR_SIGNALS)
            except queue.Empty:
                continue
            if number in STOP:
                return number
            if number == signal.SIGHUP:
                self._asked_to_reload.set()
                self._jobs.run_now(FILES)
            else:
                fields: Fields = {"by": "signal", "targets": len(self._installation.targets)}
                self._emit(Event(EventType.ROTATION_REQUESTED, fields=fields))
                self._asked_to_rotate.set()  # for the next tick: those that come until then are one

    def _look_at_files(self) -> None:
        """Reload when asked, or when a file has changed; one that was refused is not read again until it changes."""
        began = self._clock.monotonic()
        if not self._asked_to_reload.is_set():
            if began < self._look_again_at:
                return
            changed = self._watched.look() != self._files
            # Of thousands of included files each look takes its time: no more of it than one hundredth.
            self._look_again_at = began + min(100 * (self._clock.monotonic() - began), LOOK_AT_MANY_FILES)
            if not changed:
                return
        self._asked_to_reload.clear()
        self._reload()

    def _reload(self) -> None:
        self._is_ready()  # as what is about to be replaced has it
        self._files = self._watched.look()
        try:
            successor = self._assemble(self._installation)
        except Exception as error:
            match error:
                case ConfigurationError():
                    problems = [str(problem) for problem in error.problems]
                case RotatorError():
                    problems = [error.message]
                case _:  # what a library has against a value, and no check of ours foresaw
                    problems = [f"{type(error).__name__}: {quoted(str(error))}"]
                    self._emit(unexpected("reading the configuration", error))
            self._refused = "; ".join(problems)
            self._metrics.reload(ok=False)
            refused = {"file": str(self._file), "problems": self._refused, "advice": "The old one stays in use."}
            self._emit(Event(EventType.CONFIGURATION_REFUSED, level=Level.ERROR, fields=refused))
            return
        former, self._installation = self._installation, successor
        changed = self._engine.take_up(successor)
        self._refused = ""
        self._metrics.reload(ok=True)
        for key in READ_AT_START:
            if _option(successor.configuration, key) != _option(self._started_with, key):
                message = "is read at the start only: it differs from what is in use since then, and needs a restart"
                late = {"file": str(self._file), "key": key, "message": message}
                self._emit(Event(EventType.CONFIGURATION_WARNING, level=Level.WARNING, fields=late))
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
        self._tell_of_warnings()

    # --- the configuration in use ------------------------------------------------------------------------------------

    def _assemble(self, predecessor: Installation | None) -> Installation:
        in_use = predecessor.configuration if predecessor else None
        configuration = load(self._file, self._environment, in_use)
        return Installation(
            configuration,
            self._environment,
            self._clock,
            self._metrics,
            self._emit,
            predecessor,
            self._leads,
            is_swept=True,
        )

    def _leads(self) -> bool:
        return self._lease is None or self._lease.leads()

    def _wanted_lease(self) -> Lease | None:
        wanted = self._installation.lease()
        if wanted is None:
            return None
        self._replica = wanted.identity
        return Lease(wanted, self._clock, self._emit, self._begin_to_lead)

    def _begin_to_lead(self, leads: bool) -> None:
        if leads:
            self._engine.lead()
            self._engine.tick()
            # What the former leader left behind when it died is not left for another interval.
            self._jobs.run_now(SWEEP)

    def _tell_of_start(self, listen: Server, admin: Server) -> None:
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
        self._tell_of_warnings()

    def _tell_of_warnings(self) -> None:
        for warning in self._installation.configuration.warnings:
            fields = {"file": warning.file, "key": warning.key, "message": warning.message}
            self._emit(Event(EventType.CONFIGURATION_WARNING, level=Level.WARNING, fields=fields))

    def _keep_logins(self) -> None:
        self._is_ready()
        for name, store in self._installation.vaults.items():
            try:
                store.keep_login()
            except RotatorError as error:
                # Once for each error, and not where `upstream_down` reports it.
                if self._logins.count(name, error.message) == 1 and store.client.circuit.error is None:
                    fields = {"store": name, "error": error.message, "advice": error.advice}
                    self._emit(Event(EventType.LOGIN_FAILED, level=Level.of(error), fields=fields))
            else:
                self._logins.resolve(Event(EventType.LOGIN_RECOVERED, fields={"store": name}), name)
                self._tell_of_end(name, store)

    def _tell_of_end(self, name: str, store: VaultStore) -> None:
        """Once for each token."""
        end, ends_at = login_end(store, self._clock.now()), store.token_expires_at
        if end is not None and ends_at is not None:
            fields = {"store": name, "expires_at": timestamp(ends_at), "message": end.message, "advice": end.advice}
            self._tokens.report(Event(EventType.LOGIN_ENDING, level=Level.WARNING, fields=fields), name, ends_at)

    # --- what can be asked -------------------------------------------------------------------------------------------

    def _listen(self) -> tuple[Server, Server]:
        http = self._installation.configuration.http
        pages: Routes = {"/metrics": Shared(self._metrics_page), "/healthz": self._health, "/readyz": self._readiness}
        host, port = http.listen.host, http.listen.port
        listen = serve(host, port, pages, option="[http].listen", loopback_only_hosts=False, emit=self._emit)
        pages = {"/": self._page, "/status.json": self._status}
        host, port = http.admin.host, http.admin.port
        try:
            admin = serve(host, port, pages, option="[http].admin", loopback_only_hosts=True, emit=self._emit)
        except RotatorError:
            listen.close()
            raise
        return listen, admin

    def _metrics_page(self) -> Response:
        return Response(200, self._metrics.content_type, self._metrics.render())

    def _health(self, _query: str) -> Response:
        """Fails only where nothing helps but a restart."""
        problems = self._problems()
        return _line(503, f"stuck: {'; '.join(problems)}") if problems else _line(200, "ok")

    def _problems(self) -> list[str]:
        parts = (self._engine, self._jobs, *([self._lease] if self._lease else ()), *self._servers)
        return [problem for part in parts for problem in part.problems()]

    def _watch_health(self) -> None:
        """Keep systemd's watchdog quiet while all is well; report when that changes, for a restart ends the log."""
        if self._clock.monotonic() < self._health_at:
            return
        self._health_at = self._clock.monotonic() + WATCH_HEALTH
        problems = self._problems()
        if not problems and self._systemd.is_due():
            self._systemd.alive()
        if problems:
            fields: Fields = {"problems": "; ".join(problems), "advice": "Restart rotator, and please report this."}
            self._stuck.report(Event(EventType.STUCK, "", Level.ERROR, fields))
        else:
            self._stuck.resolve(Event(EventType.UNSTUCK))

    def _readiness(self, _query: str) -> Response:
        """No message of an error here: it may name a path, and this port is open."""
        if self._is_ready():
            return _line(200, "ok")
        kinds = sorted({type(status.error).__name__ for status in self._engine.board.snapshot() if status.error})
        return _line(503, f"not ready: no store took a login yet ({', '.join(kinds) or 'nothing was tried yet'})")

    def _is_ready(self) -> bool:
        """True once a store took a login, a path could be read, or there was nothing to be done, and from then on.

        Neither an outage nor a path that a policy refuses is a reason to take the pod away, or to hold up an upgrade.
        """
        self._was_ready = (
            self._was_ready
            or self._engine.has_read
            or not self._installation.targets
            or any(store.is_logged_in for store in self._installation.vaults.values())
        )
        return self._was_ready

    def _page(self, query: str) -> Response:
        shown = page.render(self._known(), page.read_query(query))
        return Response(200, "text/html; charset=utf-8", shown.encode(), page.POLICY)

    def _status(self, _query: str) -> Response:
        return Response(200, "application/json", self._known().to_model().model_dump_json().encode())

    def _known(self) -> DaemonStatus:
        installation, lease = self._installation, self._lease
        surroundings = DaemonInfo(
            version=__version__,
            replica=self._replica,
            leads=self._leads(),
            holder=lease.holder if lease else "",
            budgets={name: budget.used() for name, budget in installation.budgets.items()},
            logins={name: store.token_expires_at for name, store in installation.vaults.items()},
            # A standby asks no provider: what it knows of one is of when it led.
            down={
                name: error
                for name, error in installation.upstreams().items()
                if error is not None and (self._leads() or not name.startswith("provider "))
            },
            logins_failing=[name for name in installation.vaults if name in self._logins],
            refused=self._refused,
            clock_trusted=self._clock.trusted(),
            skews=self._clock.skews,
            log_lines_dropped=asdict(dropped()),
        )
        owner, targets = installation.configuration.owner, self._engine.board.snapshot()
        return DaemonStatus(owner, self._clock.now(), targets, self._recent.latest(), surroundings)


def _option(configuration: Configuration, key: str) -> object:
    section, _, name = key.partition(".")
    table = getattr(configuration, section)
    return getattr(table, name) if name else table


def _budget(configuration: Configuration) -> str:
    """What the targets take of each provider's budget, worked out."""
    return "; ".join(map(str, configuration.loads))


def _intervals(configuration: Configuration) -> dict[str, float]:
    """How often the jobs run that the configuration has a say in, in seconds."""
    return {"check": configuration.daemon.resync.total_seconds(), SWEEP: configuration.sweep.interval.total_seconds()}


def _line(status: int, text: str) -> Response:
    return Response(status, "text/plain; charset=utf-8", f"{text}\n".encode())
