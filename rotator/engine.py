"""Works through the agenda with a bounded pool: the part of the daemon that knows neither signals nor ports nor files.

Somebody calls `tick` often; nothing is done per target per tick. What is done to a target, and whether, is decided in
`plan` and `execute`. The demo drives the same engine.
"""

import threading
from concurrent.futures import Future, ThreadPoolExecutor, wait
from random import SystemRandom

from rotator.agenda import Agenda
from rotator.assembly import Installation
from rotator.events import Event, What
from rotator.metrics import Metrics
from rotator.model import Target, hash_fraction
from rotator.plan import Order
from rotator.ports import Listener
from rotator.status import Board
from rotator.work import troubles, work_on


class Engine:
    """Keeps the targets of the installation it was last given. Any thread may call `tick`, `request` and `take_up`."""

    def __init__(self, installation: Installation, metrics: Metrics, tell: Listener) -> None:
        self.installation = installation
        self.board = Board()
        self._metrics, self._tell = metrics, tell
        daemon = installation.configuration.daemon
        self._clock = installation.clock
        self._agenda = Agenda(self._clock, SystemRandom(), daemon.resync)
        self._pool = ThreadPoolExecutor(daemon.workers, thread_name_prefix="worker")
        self._places = threading.Semaphore(daemon.workers)
        self._under_way: set[Future[None]] = set()
        self._ending = False
        self.last_tick = self._clock.monotonic()
        self.has_read = False  # a path could be read since the start
        self.take_up(installation)

    def take_up(self, installation: Installation) -> set[str]:
        """Work with this installation from now on; what is under way ends with its own. Returns the changed targets."""
        before = self.installation.targets
        changed = {name for name, target in installation.targets.items() if before.get(name, target) != target}
        self.installation = installation
        self._configured_at = self._clock.now()
        self.board.keep_only(installation.targets)
        self._agenda.configure(installation.targets, changed, installation.configuration.daemon.resync)
        return changed

    def request(self, order: Order) -> None:
        """Have every target worked on now."""
        self._agenda.request(list(self.installation.targets), order)

    def tick(self) -> None:
        """Begin what is due."""
        self.last_tick = self._clock.monotonic()
        self._begin_what_is_due()

    def end(self) -> bool:
        """Begin nothing more, and end what is under way; True when that was done within `drain`."""
        self._ending = True
        for budget in self.installation.budgets.values():
            budget.close()
        _, late = wait(set(self._under_way), self.installation.configuration.daemon.drain.total_seconds())
        self._clock.stop()
        self._pool.shutdown(wait=not late)
        return not late

    def _begin_what_is_due(self) -> None:
        """Hand targets out only while there are threads for them, so that the most urgent is always the next."""
        while not self._ending and self._places.acquire(blocking=False):
            taken = self._agenda.take()
            if taken is None:
                self._places.release()
                return
            name, order = taken
            target = self.installation.targets.get(name)
            if target is None:  # a reload has just taken it away
                self._places.release()
                continue
            future = self._pool.submit(self._pass, target, order)
            self._under_way.add(future)
            future.add_done_callback(self._passed)

    def _passed(self, future: "Future[None]") -> None:
        self._under_way.discard(future)
        self._places.release()
        self._begin_what_is_due()

    def _pass(self, target: Target, order: Order) -> None:
        installation = self.installation
        roll_out_at = self._configured_at + installation.configuration.daemon.spread * hash_fraction(target.name)
        report = work_on(installation, self._metrics, target, order, roll_out_at)
        failures, retry_at = self._agenda.done(report, order)
        before = self.board.update(target, report.plan, report.error)
        self.has_read = self.has_read or report.plan is not None
        for event in troubles(report, failures, retry_at):
            self._tell(event)
        if report.error is None and before is not None and before.error is not None:
            self._tell(Event(What.TARGET_RECOVERED, target.name))
