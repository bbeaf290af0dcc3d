"""The long-lived service: what runs when, which signals do what, and how it ends.

One scheduler job per kind of work, never one per target: a short tick hands the agenda's due targets to a bounded
pool. What is done to a target, and whether, is decided in `plan` and `execute`.
"""

import contextlib
import json
import os
import queue
import random
import signal
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from apscheduler.executors.pool import ThreadPoolExecutor as JobThreads
from apscheduler.schedulers.background import BackgroundScheduler

from rotator import __version__
from rotator.agenda import Agenda
from rotator.assembly import Installation
from rotator.clock import SystemClock
from rotator.config import Configuration, load
from rotator.errors import ConfigurationError, RotatorError
from rotator.events import Event, Level, What
from rotator.httpd import Response, Server, serve, text
from rotator.metrics import Metrics
from rotator.model import Target, hash_fraction
from rotator.plan import Order
from rotator.ports import Listener
from rotator.status import Board, status_json
from rotator.stores.vault import VaultStore
from rotator.work import failure, work_on

TICK = 1.0
"""Seconds between looks at the agenda: what is due is begun at most this late, and a clock jump is noticed."""

KEEP_LOGIN = 5.0
"""Seconds between looks at the age of each store's login."""

STUCK = 30.0
"""Seconds without a tick after which /healthz says that the loop is stuck."""


class Daemon:
    """One replica. `run` returns the exit status; it must be called from the main thread, where signals arrive."""

    def __init__(
        self, file: Path, environment: Mapping[str, str], clock: SystemClock, metrics: Metrics, tell: Listener
    ) -> None:
        """Raises `ConfigurationError`, or a `RotatorError` when a credential that must be there at once is not."""
        self._file, self._environment = file, environment
        self._clock, self._metrics, self._tell = clock, metrics, tell
        self._installation = self._assemble(load(file, environment), None)
        self._configured_at = clock.now()
        self._board = Board()
        daemon = self._installation.configuration.daemon
        self._agenda = Agenda(clock, random.SystemRandom(), daemon.resync)
        self._pool = ThreadPoolExecutor(daemon.workers, thread_name_prefix="worker")
        self._places = threading.Semaphore(daemon.workers)
        self._under_way: set[Future[None]] = set()
        self._signals: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._last_tick = clock.monotonic()
        self._ending = False
        self._read_once = threading.Event()

    def run(self) -> int:
        """Work until TERM or INT; 0 when all that was under way ended within `drain`, 1 when it did not."""
        scheduler = BackgroundScheduler(
            timezone=UTC,
            executors={"default": JobThreads(4)},
            job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": None},
        )
        scheduler.add_job(self._tick, "interval", seconds=TICK, id="tick", next_run_time=datetime.now(UTC))
        scheduler.add_job(self._keep_logins, "interval", seconds=KEEP_LOGIN, id="login")
        self._handle_signals()
        with contextlib.ExitStack() as stack:
            for server in self._listen():
                stack.callback(server.close)
            self._take_up(None)
            scheduler.start()
            stack.callback(scheduler.shutdown, wait=False)
            while (number := self._signals.get()) not in (signal.SIGTERM, signal.SIGINT):
                if number == signal.SIGHUP:
                    self._reload()
                elif number == signal.SIGUSR1:
                    self._rotate_all()
            self._tell(Event(What.STOPPING, fields={"signal": signal.Signals(number).name}))
            drained = self._drain()
        self._tell(Event(What.STOPPED, fields={"drained": drained}))
        if not drained:
            os._exit(1)  # threads that did not end in time would keep the interpreter waiting
        self._installation.close()
        return 0

    # --- signals -----------------------------------------------------------------------------------------------------

    def _handle_signals(self) -> None:
        def on_signal(number: int, _frame: object) -> None:
            if number in (signal.SIGTERM, signal.SIGINT):
                if self._ending:
                    os._exit(1)  # asked twice: at once
                self._ending = True
            self._signals.put(number)

        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
            signal.signal(number, on_signal)

    def _rotate_all(self) -> None:
        names = list(self._installation.targets)
        self._tell(Event(What.ROTATION_REQUESTED, fields={"by": "signal", "targets": len(names)}))
        self._agenda.request(names, Order(rotate=True, by="signal"))

    def _reload(self) -> None:
        try:
            successor = self._assemble(load(self._file, self._environment), self._installation)
        except RotatorError as error:
            problems = [str(p) for p in error.problems] if isinstance(error, ConfigurationError) else [error.message]
            self._metrics.reload(ok=False)
            refused = {"file": str(self._file), "problems": "; ".join(problems), "advice": "The old one stays in use."}
            self._tell(Event(What.CONFIGURATION_REFUSED, level=Level.ERROR, fields=refused))
            return
        self._metrics.reload(ok=True)
        predecessor, self._installation = self._installation, successor
        self._configured_at = self._clock.now()
        self._take_up(predecessor)

    # --- the configuration in use ------------------------------------------------------------------------------------

    def _assemble(self, configuration: Configuration, predecessor: Installation | None) -> Installation:
        return Installation(configuration, self._environment, self._clock, self._metrics, self._tell, predecessor)

    def _take_up(self, predecessor: Installation | None) -> None:
        """Work with the installation from now on; what is under way ends with its own."""
        new, old = self._installation.targets, predecessor.targets if predecessor else {}
        changed = {name for name in new.keys() & old.keys() if new[name] != old[name]}
        configuration = self._installation.configuration
        self._board.keep_only(new)
        self._agenda.configure(new, changed, configuration.daemon.resync)
        self._metrics.watch(self._board.snapshot, self._clock.now)
        for name, budget in self._installation.budgets.items():
            self._metrics.watch_budget(name, budget.used)
        for name, store in self._installation.stores.items():
            if isinstance(store, VaultStore):
                self._metrics.watch_token(name, lambda store=store: store.token_expires_at)
        for warning in configuration.warnings:
            fields = {"file": warning.file, "key": warning.key, "message": warning.message}
            self._tell(Event(What.CONFIGURATION_WARNING, level=Level.WARNING, fields=fields))
        if predecessor is None:
            fields = {"version": __version__, "owner": configuration.owner, "targets": len(new)}
            self._tell(Event(What.STARTED, fields=fields))
        else:
            counts = {"added": len(new.keys() - old.keys()), "changed": len(changed), "removed": len(old.keys() - new)}
            fields = {"file": str(self._file), "targets": len(new), **counts}
            self._tell(Event(What.CONFIGURATION_LOADED, fields=fields))

    # --- the work ----------------------------------------------------------------------------------------------------

    def _tick(self) -> None:
        self._last_tick = self._clock.monotonic()
        self._begin_what_is_due()

    def _begin_what_is_due(self) -> None:
        """Hand targets out while there are threads for them, so that the most urgent is always the next."""
        while not self._ending and self._places.acquire(blocking=False):
            taken = self._agenda.take()
            target = self._installation.targets.get(taken[0]) if taken else None
            if taken is None or target is None:
                self._places.release()
                return
            future = self._pool.submit(self._pass, target, taken[1])
            self._under_way.add(future)
            future.add_done_callback(self._passed)

    def _passed(self, future: "Future[None]") -> None:
        self._under_way.discard(future)
        self._places.release()
        self._begin_what_is_due()

    def _pass(self, target: Target, order: Order) -> None:
        installation = self._installation
        spread = installation.configuration.daemon.spread * hash_fraction(target.name)
        report = work_on(installation, self._metrics, target, order, self._configured_at + spread)
        failures, retry_at = self._agenda.done(report, order)
        before = self._board.update(target, report.plan, report.error)
        if report.plan is not None:
            self._read_once.set()
        event = failure(report, failures, retry_at)
        if event is not None:
            self._tell(event)
        elif before is not None and before.error is not None:
            self._tell(Event(What.TARGET_RECOVERED, target.name))

    def _keep_logins(self) -> None:
        for name, store in self._installation.stores.items():
            if isinstance(store, VaultStore):
                try:
                    store.keep_login()
                except RotatorError as error:
                    fields = {"store": name, "error": error.message, "advice": error.advice}
                    self._tell(Event(What.LOGIN_FAILED, level=Level.ERROR, fields=fields))

    def _drain(self) -> bool:
        """Begin nothing more and end what is under way; True when it ended in time."""
        for budget in self._installation.budgets.values():
            budget.close()
        _, late = wait(set(self._under_way), self._installation.configuration.daemon.drain.total_seconds())
        self._clock.stop()
        return not late

    # --- what can be asked -------------------------------------------------------------------------------------------

    def _listen(self) -> tuple[Server, ...]:
        http = self._installation.configuration.http
        open_routes: dict[str, Callable[[], Response]] = {
            "/metrics": self._metrics_page,
            "/healthz": self._health,
            "/readyz": self._readiness,
        }
        return (
            serve(http.listen.host, http.listen.port, open_routes, loopback_only_hosts=False, tell=self._tell),
            serve(
                http.admin.host,
                http.admin.port,
                {"/status.json": self._status},
                loopback_only_hosts=True,
                tell=self._tell,
            ),
        )

    def _metrics_page(self) -> Response:
        return Response(200, self._metrics.content_type, self._metrics.render())

    def _health(self) -> Response:
        """Fails only when the loop itself is stuck: then nothing helps but a restart."""
        silent = self._clock.monotonic() - self._last_tick
        if silent > STUCK:
            return text(503, f"stuck: the agenda was last looked at {silent:.0f} s ago")
        return text(200, "ok")

    def _readiness(self) -> Response:
        """True once a path could be read, and from then on: an outage later is no reason to take the pod away."""
        if self._read_once.is_set() or not self._installation.targets:
            return text(200, "ok")
        errors = [status.error.message for status in self._board.snapshot() if status.error]
        return text(503, f"not ready: no path could be read yet; {errors[0] if errors else 'nothing was tried yet'}")

    def _status(self) -> Response:
        status = status_json(self._installation.configuration.owner, self._clock.now(), self._board.snapshot())
        return Response(200, "application/json", json.dumps(status).encode())
