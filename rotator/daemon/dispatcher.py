"""Works through the schedule with a bounded pool: the part of the daemon that knows no signals, ports or files.

The caller calls `tick` often, and a tick costs nothing per target. `plan` and `reconciler` decide what happens to a
target. The demo uses the same dispatcher.
"""

import contextlib
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import datetime
from functools import partial
from random import SystemRandom

from rotator.app.passes import fault, sweep_all, work_on
from rotator.app.wiring import Installation
from rotator.core.errors import ProviderError
from rotator.core.events import Event, EventType, Fields, Level
from rotator.core.plan import Plan
from rotator.core.ports import Leadership, Listener
from rotator.core.renewal import TIDYING, permitted_from
from rotator.core.request import RotationRequest
from rotator.core.target import Target
from rotator.core.times import next_turn
from rotator.daemon.health import Health
from rotator.daemon.notices import Reports
from rotator.daemon.schedule import Lane, Schedule, Task
from rotator.protocol.reconciler import Report
from rotator.protocol.strays import StrayKeys
from rotator.protocol.use_watch import UseWatch
from rotator.runtime.rate_limit import SlidingWindow
from rotator.runtime.threads import Workers
from rotator.telemetry.logging import unexpected
from rotator.telemetry.metrics import Metrics
from rotator.telemetry.status import StatusRegistry

SWEEP = "sweep"
"""The name of the sweep's job."""

STUCK = 30.0
"""Seconds without a tick after which the job that ticks counts as stuck."""

NO_PASS = 600.0
"""Seconds without a finished pass after which all are stuck, if targets are due and nothing waits for a budget."""


LOOK_EVERY = 5.0
"""Seconds between two looks on demand at every path, at least."""

LOOKS_A_SECOND = 100
"""How many paths a second looks on demand read at most, on average: each takes a request to the store."""


class Dispatcher:
    """Keeps the targets of its current installation. Any thread may call `tick`, `request`, `look` and `take_up`."""

    def __init__(
        self,
        installation: Installation,
        metrics: Metrics,
        emit: Listener,
        leads: Leadership = lambda: True,
        planned: Callable[[Target, Plan], object] = lambda *_: None,
        passed: Callable[[Report], object] = lambda _: None,
    ) -> None:
        """`planned` is called with each plan as it is made, and `passed` after a pass. They must not wait."""
        self.installation = installation
        self._leads, self._planned, self._passed = leads, planned, passed
        self.statuses = StatusRegistry()
        self._metrics, self._emit = metrics, emit
        daemon = installation.configuration.daemon
        self._clock = installation.clock
        self._schedule = Schedule(self._clock, SystemRandom(), daemon.resync)
        self._workers = Workers(daemon.workers, "worker")
        self._busy: Counter[Lane] = Counter()  # workers in use
        self._lanes: frozenset[Lane] = frozenset()
        self._taking = threading.Lock()
        self._given_back = threading.Condition(self._taking)
        self._in_use: Counter[Installation] = Counter()
        self._formers: list[Installation] = []  # to close when no work uses them
        self._sweeping = threading.Lock()
        self._look_requested = threading.Event()
        self._look_again_at = float("-inf")  # monotonic
        self._reports = Reports(self._report)
        self._configured_at: dict[str, datetime] = {}  # by target: when its configuration last changed
        self._ending = False
        self.health = Health(self._clock)
        self.last_tick = self._last_pass = self._clock.monotonic()
        self.has_read = False  # whether a path was read since the start
        self.take_up(installation)

    def take_up(self, installation: Installation) -> set[str]:
        """Use this installation from now on, and return the changed targets. Work under way keeps the former one."""
        current, before = self.installation, self.installation.targets
        if installation is not current:
            self._formers.append(current)
        changed = {name for name, target in installation.targets.items() if before.get(name, target) != target}
        with self._taking:
            self.installation = installation
        if installation is not current:
            installation.take_over()
        now, since = self._clock.now(), self._configured_at
        self._configured_at = {name: now if name in changed else since.get(name, now) for name in installation.targets}
        self._lanes = frozenset((target.provider, target.store) for target in installation.targets.values())
        self.statuses.keep_only(installation.targets)
        self._reports.keep_only(installation.targets)
        paces = {name: budget.pace for name, budget in installation.budgets.items()}
        self._schedule.configure(installation.targets, changed, installation.configuration.daemon.resync, paces)
        if installation is not current:
            installation.look_again()  # last, because it may wait for an answer
        return changed

    def request(self, request: RotationRequest) -> None:
        """Rotate every target now, because a person requested it."""
        names = list(self.installation.targets)
        self.statuses.request(names)
        self._schedule.request(names, request)

    def look(self) -> None:
        """Read every path soon, because a person or a command may have changed some. Nothing is rotated for it.

        Several requests count as one. Does not wait.
        """
        self._look_requested.set()

    def lead(self) -> None:
        """Begin to lead: wake the targets that this replica has seen due. The others come in their turn."""
        statuses = self.statuses.snapshot()
        for status in statuses:
            if status.plan is not None:
                self._planned(status.target, status.plan)
        self._schedule.wake([status.target.name for status in statuses if status.plan is None or status.plan.actions])

    def stand_by(self) -> None:
        """Stop leading."""
        self.installation.stand_by()

    def tick(self) -> None:
        """Start the passes that are due."""
        if jumped := self._schedule.jumped():
            fields: Fields = {"seconds": round(jumped), "targets": len(self.installation.targets)}
            self._emit(Event(EventType.CLOCK_JUMPED, "", Level.WARNING, fields))
        self._look_if_requested()
        self._begin_what_is_due()
        self.last_tick = self._clock.monotonic()
        with self._taking:
            waits = any(budget.has_queue() for budget in self._budgets())
        if waits:
            self._last_pass = self.last_tick
            self.health.excuse()

    def _look_if_requested(self) -> None:
        now = self._clock.monotonic()
        if self._look_requested.is_set() and now >= self._look_again_at:
            self._look_requested.clear()
            self._look_again_at = now + max(LOOK_EVERY, len(self.installation.targets) / LOOKS_A_SECOND)
            self._schedule.look()

    def problems(self) -> Iterator[str]:
        """Yield the problems that only a restart of the process solves."""
        now = self._clock.monotonic()
        if now - self.last_tick > STUCK:
            yield f"the schedule was last looked at {now - self.last_tick:.0f} s ago"
        if now - self._last_pass > NO_PASS and (overdue := self._schedule.overdue(NO_PASS)):
            yield f"{overdue} targets are due, and no pass has ended for {now - self._last_pass:.0f} s"
        yield from self._workers.problems()
        yield from self.health.problems()

    def sweep(self) -> None:
        """Sweep the keys of all providers, unless a sweep is under way. Wake the targets that need work after it."""
        if self._ending or not self._leads() or not self._sweeping.acquire(blocking=False):
            return
        try:
            with self._using() as installation:
                for swept in sweep_all(installation, self._metrics, stopping=self._is_sweep_to_stop):
                    try:
                        self._reports.swept(swept, installation.upstreams())
                        spent_at = self._show_use(watch := installation.use_watches[swept.provider])
                        if swept.complete and ((unknown := watch.unknown()) or watch.shows_use()):
                            self._reports.unknown_use(swept.provider, len(unknown))
                        self._schedule.wake([target.name for target in swept.to_work], spent_at)
                    except Exception as error:
                        self._emit(unexpected("reporting a sweep", error))
        finally:
            self._sweeping.release()

    def _report(self, event: Event) -> None:
        """Emit an event of `Reports`, which emits what holds up an early rotation once for each key."""
        if event.what is EventType.EARLY_ROTATION_HELD:
            self._metrics.early_rotation_refused()
        self._emit(event)

    def watch_use(self) -> None:
        """Look up the use of keys that may soon be spent. Wake the targets that need a pass."""
        with self._using() as installation:
            for watch in installation.use_watches.values():
                to_work = watch.look(stopping=lambda: self._ending or not self._leads())
                spent_at = self._show_use(watch)
                self._schedule.wake([target.name for target in to_work], spent_at)

    def _show_use(self, watch: UseWatch) -> Mapping[str, datetime]:
        """Show what is known of the use of keys before their next passes. Return when keys are spent, by target."""
        spent_at = {}
        for target, record, use in watch.states():
            self.statuses.show_use(target, record, use)
            if use.spent_at is not None:
                spent_at[target.name] = use.spent_at
        return spent_at

    def _is_sweep_to_stop(self) -> bool:
        """Return whether to stop. The sweep calls this before each target and each orphan, so it counts as a step."""
        self.health.moved(SWEEP)
        return self._ending or not self._leads()

    def remove_strays(self) -> None:
        """Remove keys whose creation was not confirmed. Listing may take minutes, and no target waits for it."""
        with self._using() as installation:
            for strays in installation.strays.values():
                if strays.due:
                    strays.remove()

    def ask_providers(self) -> None:
        """Read a page of each provider's list, so that a refused credential is noticed in quiet times too."""
        if not self._leads():
            return
        with self._using() as installation:
            for name in {target.provider for target in installation.targets.values()}:
                # The provider's circuit and meter keep the result, and `watch` reports it.
                with contextlib.suppress(ProviderError):
                    next(installation.providers[name].pages(partial(installation.budgets[name].take, TIDYING)), None)

    def watch(self) -> None:
        """Report upstreams that went down or came up and a clock that went wrong. Close unused installations."""
        self._close_the_unused()
        for upstream in self._reports.watched(self.installation.upstreams()):
            failing = [status.target for status in self.statuses.snapshot() if status.error is not None]
            held_up = [t.name for t in failing if upstream in (f"provider {t.provider}", f"store {t.store}")]
            self._schedule.wake_in_turn(held_up)
        self._reports.timed(self._clock)

    def ask_the_down(self) -> None:
        """Send a request to each upstream that is down, because the targets' next attempts may be minutes away.

        `watch` reports the result.
        """
        with self._using() as installation:
            installation.ask_the_down(providers=self._leads())

    def end(self) -> bool:
        """Start nothing new, and wait for the work under way. Return whether it ended within `drain`."""
        with self._taking:  # a pass that is about to start either counts as started, or never starts
            self._ending = True
            for budget in self._budgets():
                budget.close()
        by = self._clock.monotonic() + self.installation.configuration.daemon.drain.total_seconds()
        with self._taking:
            drained = self._given_back.wait_for(lambda: not self.under_way, by - self._clock.monotonic())
        swept = self._sweeping.acquire(timeout=max(0.0, by - self._clock.monotonic()))
        looked = self._remove_strays_at_last(by)
        self._clock.stop()
        self._workers.end()
        return swept and drained and looked

    def _remove_strays_at_last(self, by: float) -> bool:
        """Remove what can be removed at once, and report the rest. Return whether that ended by then."""
        waiting = [strays for strays in self.installation.strays.values() if strays.waiting]
        done = threading.Semaphore(0)

        def remove(strays: StrayKeys) -> None:
            try:
                strays.remove(at_last=True)
            finally:
                done.release()

        for strays in waiting:
            self._workers.submit(partial(remove, strays))
        return all(done.acquire(timeout=max(0.0, by - self._clock.monotonic())) for _ in waiting)

    def _budgets(self) -> Iterator[SlidingWindow]:
        """Yield the budgets of all installations in use. The caller holds the lock."""
        for installation in (self.installation, *self._formers):
            yield from installation.budgets.values()

    @property
    def under_way(self) -> int:
        """Return how many passes have started and not ended."""
        return self._busy.total()

    def _begin_what_is_due(self) -> None:
        """Start passes only while workers are free, so that the most urgent target is always next."""
        while taken := self._take():
            try:
                self._workers.submit(partial(self._pass, *taken))
            except BaseException as error:
                self._schedule.done(Report(taken[0], None, fault(error)), taken[1])
                self._give_back(taken[0])
                raise

    def _take(self) -> tuple[Target, Task] | None:
        """Return the most urgent target that a worker is free for, and its task. The caller must call `_give_back`."""
        with self._taking:
            if self._ending or self.under_way >= self._workers.size:
                return None
            targets = self.installation.targets
            while taken := self._schedule.take(self._is_open):
                name, task = taken
                if name in targets:  # otherwise a reload is removing it
                    target = targets[name]
                    self._busy[target.provider, target.store] += 1
                    return target, task
            return None

    def _give_back(self, target: Target) -> None:
        with self._taking:
            self._busy[target.provider, target.store] -= 1
            self._last_pass = self._clock.monotonic()
            self._given_back.notify_all()

    def _is_open(self, lane: Lane) -> bool:
        """Return whether another worker may enter this lane, because an upstream that hangs must not take all workers.

        Each other provider and each other store without a worker keeps one. In addition a lane leaves a worker for each
        other upstream, up to half of all workers. Otherwise the last worker would be kept for a store without one, and
        another provider could not reach this lane's store.
        """
        others = sum(len({one[kind] for one in self._lanes}) - 1 for kind in (0, 1))
        size = self._workers.size
        if self._busy[lane] and self._busy[lane] >= size - min(others, size // 2):
            return False
        free = size - self.under_way
        for kind, upstream in enumerate(lane):
            busy = {one[kind] for one, threads in self._busy.items() if threads}
            idle = {one[kind] for one in self._lanes} - busy - {upstream}
            if upstream in busy and free <= len(idle):
                return False
        return True

    def _pass(self, target: Target, task: Task) -> None:
        """Work on a target. Whatever happens, schedule its next pass and free the worker."""
        try:
            report = self._work(target, task)
        except Exception as error:
            report = Report(target, None, fault(error))
        try:
            self._record_pass(report, task)
        except Exception as error:
            with contextlib.suppress(Exception):  # the log itself failed
                self._emit(unexpected("ending a pass", error, target.name))
        finally:
            self._give_back(target)
        self._begin_what_is_due()

    def _work(self, target: Target, task: Task) -> Report:
        with self.health.doing(f"the pass over {target.name}"), self._using() as installation:
            configured_at = self._configured_at.get(target.name, self._clock.now())
            permitted_at = max(configured_at, permitted_from(target, configured_at))
            roll_out_at = next_turn(target.name, permitted_at, installation.configuration.daemon.rollout)
            options = replace(task.options, roll_out_at=roll_out_at)
            return work_on(installation, self._metrics, target, task.request, options, partial(self._observe, target))

    def _observe(self, target: Target, plan: Plan) -> None:
        self.statuses.observe(target, plan, self._clock.now())
        self._planned(target, plan)

    def _record_pass(self, report: Report, task: Task) -> None:
        target = report.target
        failures, retry_at = self._schedule.done(report, task)
        self.has_read = self.has_read or report.plan is not None
        if failures and not report.error:
            return  # a look at a target that fails: its error lasts until the next try
        fulfilled = task.request.rotate and (report.rotated or report.error is None)
        self.statuses.update(target, report.plan, report.error, retry_at, fulfilled=fulfilled)
        self._reports.passed(report, failures, retry_at, self.installation.upstreams())
        self._passed(report)

    @contextlib.contextmanager
    def _using(self) -> Iterator[Installation]:
        """Yield the current installation, which stays open meanwhile."""
        with self._taking:
            installation = self.installation
            self._in_use[installation] += 1
        try:
            yield installation
        finally:
            with self._taking:
                self._in_use[installation] -= 1

    def _close_the_unused(self) -> None:
        with self._taking:
            unused = [former for former in self._formers if not self._in_use[former]]
            self._formers = [former for former in self._formers if former not in unused]
            used = [self.installation, *self._formers]
        for former in unused:
            former.close(but=used)
            del self._in_use[former]
