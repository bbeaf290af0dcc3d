"""Keeps when each target's next pass is due, and what a person requested for it.

Data and arithmetic only: nothing here starts a thread or runs a pass. All targets share one heap, so that a tick costs
nothing per target.
"""

import heapq
import itertools
import random
import threading
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from rotator.core.errors import ProviderRateLimited
from rotator.core.plan import Rotate, deadline
from rotator.core.ports import Clock
from rotator.core.renewal import AT_ONCE, TIDYING, Renewal
from rotator.core.request import ACT, LOOK, SCHEDULED, PassOptions, RotationRequest
from rotator.core.target import Target
from rotator.core.times import hash_fraction
from rotator.protocol.reconciler import Report

FIRST_WAIT = timedelta(seconds=5)
LONGEST_WAIT = timedelta(minutes=10)
LONGEST_WAIT_AT_END = timedelta(minutes=1)
JUMP = 5.0
"""Seconds by which the wall clock may differ from the monotonic clock before every target gets a new pass."""

LEVEL_EVERY = timedelta(minutes=1)
"""How often the schedule compares what comes due with what the budgets allow."""

Lane = tuple[str, str]
"""The provider and the store that a pass uses and may wait for."""


@dataclass(frozen=True, slots=True)
class Task:
    """What the next pass over a target does."""

    request: RotationRequest = SCHEDULED
    options: PassOptions = ACT


_NOTHING_ASKED = Task()  # one for all targets
_LOOK_AGAIN = Task(options=LOOK)  # compared by identity: the first pass, which is repeated until it succeeds, is equal


@dataclass(slots=True)
class _Slot:
    at: datetime
    ticket: int  # of the valid entry in the heap; older entries are ignored
    lane: Lane
    task: Task = Task(options=LOOK)  # the first pass only reads: then the most urgent target is first
    under_way: bool = False
    again: bool = False  # it came due again during its pass
    failures: int = 0
    retry_at: datetime = AT_ONCE  # after a look, the pass that was due before it is due again
    renewal: Renewal | None = None
    deadline: datetime = AT_ONCE  # a target that has not been observed yet may be without a key

    @property
    def begins_at(self) -> datetime | None:
        """Return when its rotation starts: when the key is due, or earlier if too many are due at once."""
        return self.renewal.brought_forward(self.task.options.ahead) if self.renewal else None


@dataclass(slots=True)
class Schedule:
    """The targets of a daemon. Thread-safe."""

    clock: Clock
    rng: random.Random
    resync: timedelta
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _slots: dict[str, _Slot] = field(default_factory=dict)
    _heap: list[tuple[datetime, int, str]] = field(default_factory=list)  # by time
    _ready: dict[Lane, list[tuple[datetime, int, str]]] = field(default_factory=dict)  # due, by urgency
    _tickets: "itertools.count[int]" = field(default_factory=itertools.count)
    _offset: float | None = None  # seconds from the monotonic clock to the wall clock
    _jumped: float = 0.0  # seconds, since `jumped` last returned
    _paces: Mapping[str, timedelta] = field(default_factory=dict)
    _levelled_at: datetime | None = None

    def configure(
        self,
        targets: Mapping[str, Target],
        changed: Collection[str],
        resync: timedelta,
        paces: Mapping[str, timedelta],
    ) -> None:
        """Replace the targets. New and changed ones are due now.

        `paces`: by provider, the shortest time between two rotations that its budget allows.
        """
        with self._lock:
            self.resync, self._paces = resync, paces
            self._slots = {name: slot for name, slot in self._slots.items() if name in targets}
            now = self.clock.now()
            lanes: dict[Lane, Lane] = {}  # one tuple for all targets of a lane
            for name, target in targets.items():
                lane = target.provider, target.store
                lane = lanes.setdefault(lane, lane)
                if name not in self._slots:
                    self._slots[name] = _Slot(now, 0, lane)
                    self._put(name, now)
                elif name in changed:
                    self._slots[name].lane = lane
                    self._put(name, now)

    def request(self, names: Collection[str], request: RotationRequest) -> None:
        """Make these targets due now with this request. A repeated request changes nothing until it is fulfilled."""
        with self._lock:
            for name in names:
                if name in self._slots:
                    if self._slots[name].task != Task(request):
                        self._slots[name].task = Task(request)
                    self._put(name, self.clock.now())

    def wake(self, names: Collection[str], spent_at: Mapping[str, datetime] | None = None) -> None:
        """Make these targets due now. Their requests stay. `spent_at`: by target, when its key will be spent."""
        with self._lock:
            for name in names:
                if slot := self._slots.get(name):
                    slot.deadline = min(slot.deadline, (spent_at or {}).get(name, slot.deadline))
                    if slot.task is _LOOK_AGAIN:  # a pass that acts reads the path as well
                        slot.task = _NOTHING_ASKED
                    self._put(name, self.clock.now())

    def wake_in_turn(self, names: Collection[str]) -> None:
        """Make these targets due: the most urgent now, the others one after another at the budget's pace.

        None becomes due later than it was.
        """
        with self._lock:
            now = self.clock.now()
            turns: dict[str, datetime] = {}  # by provider
            held_up = [name for name in names if name in self._slots]
            for name in sorted(held_up, key=lambda name: self._slots[name].deadline):
                slot = self._slots[name]
                turn = turns.get(slot.lane[0], now)
                slot.retry_at = min(slot.retry_at, turn)
                if turn < slot.at:
                    self._put(name, turn)
                turns[slot.lane[0]] = turn + self._paces[slot.lane[0]]

    def look(self) -> None:
        """Make every target due for a pass that only reads, unless it is due already or waits for another task."""
        with self._lock:
            now = self.clock.now()
            for name, slot in self._slots.items():
                if slot.at <= now and not slot.under_way:
                    continue  # otherwise many looks could put off what is due
                if slot.task == _NOTHING_ASKED:
                    slot.task = _LOOK_AGAIN
                    slot.retry_at = slot.retry_at if slot.under_way else slot.at
                elif slot.task is not _LOOK_AGAIN or not slot.under_way:
                    continue
                self._put(name, now)

    def take(self, is_open: Callable[[Lane], bool] = lambda _: True) -> tuple[str, Task] | None:
        """Return the most urgent target that is due in an open lane, and its task, or None."""
        with self._lock:
            now = self.clock.now()
            self._notice_jump(now)
            if self._levelled_at is None or not timedelta(0) <= now - self._levelled_at < LEVEL_EVERY:
                self._level(now)
            if len(self._heap) > 100 + 3 * len(self._slots):  # invalid entries stay until their time
                self._heap = [entry for entry in self._heap if entry[1] == self._ticket(entry[2])]
                heapq.heapify(self._heap)
            while self._heap and self._heap[0][0] <= now:
                _, ticket, name = heapq.heappop(self._heap)
                slot = self._slots.get(name)
                if slot is not None and slot.ticket == ticket:
                    deadline = self._deadline(slot, now)
                    heapq.heappush(self._ready.setdefault(slot.lane, []), (deadline, ticket, name))
                    if deadline == TIDYING and slot.begins_at is not None:
                        # Its key may come due while it waits, and then it is more urgent.
                        heapq.heappush(self._heap, (slot.begins_at, ticket, name))
            lanes = {lane: ready for lane, ready in self._ready.items() if is_open(lane)}
            while ready := min((ready for ready in lanes.values() if ready), default=None, key=lambda ready: ready[0]):
                _, ticket, name = heapq.heappop(ready)
                slot = self._slots.get(name)
                if slot is None or slot.ticket != ticket:
                    continue
                if not slot.under_way:
                    slot.under_way = True
                    slot.ticket = next(self._tickets)  # invalidates its other entries
                    return name, slot.task
                slot.again = True
            return None

    def done(self, report: Report, task: Task) -> tuple[int, datetime | None]:
        """Record the result of a pass. Return how many passes failed in a row, and when the next one is due."""
        with self._lock:
            slot = self._slots.get(report.target.name)
            if slot is None:
                return 0, None
            now = self.clock.now()
            slot.under_way = False
            at = now + LONGEST_WAIT  # if the code below fails, the target still has a next pass
            try:
                again, slot.again = slot.again or slot.task is not task, False
                if task is _LOOK_AGAIN and slot.failures and not _shows_another_key(report, slot):
                    # Its error lasts until the next try, at its time: a look costs the provider nothing.
                    slot.task = slot.task if again else _NOTHING_ASKED
                    slot.retry_at = min(slot.retry_at, at)  # the clock may have been set back
                    at = now if again else slot.retry_at
                    return slot.failures, slot.retry_at
                slot.failures = slot.failures + 1 if report.error else 0
                if report.plan:
                    slot.renewal = report.plan.renewal
                    needed = deadline(report.plan, now)
                    waits = report.plan.current is None and slot.deadline != AT_ONCE  # it keeps its place
                    slot.deadline = min(slot.deadline, needed) if waits else needed
                if slot.task is task and (report.rotated or report.error is None or task is _LOOK_AGAIN):
                    slot.task = _NOTHING_ASKED
                slot.retry_at = self._next(slot, report, task, now)
                at = now if again else slot.retry_at
            finally:
                self._put(report.target.name, at)
            return slot.failures, at

    def _next(self, slot: _Slot, report: Report, task: Task, now: datetime) -> datetime:
        if report.error is not None:
            # The closer the served key's expiry, the more often a retry is worth its requests. Not if an upstream
            # refuses this target's own requests: until a person acts, each retry only takes from the others' budget.
            refused = report.error.needs_a_person and not report.error.nothing_tried
            near = max(LONGEST_WAIT_AT_END, (slot.deadline - now) / 10)
            ceiling = LONGEST_WAIT if refused else min(LONGEST_WAIT, near)
            doubled: timedelta = min(ceiling, FIRST_WAIT * 2 ** min(slot.failures - 1, 10))
            wait = doubled * (0.5 + self.rng.random() / 2)
            if isinstance(report.error, ProviderRateLimited):
                wait = max(wait, timedelta(seconds=report.error.retry_after))
            # Other work of this target does not wait for the action that fails.
            wake = report.plan.wake_at if report.plan else None
            return min(now + wait, wake) if wake and wake > now else now + wait
        if not task.options.act and report.plan and report.plan.actions:
            return now
        if report.rotated and report.plan and any(isinstance(action, Rotate) for action in report.plan.actions):
            return now + FIRST_WAIT  # a pass rotates once, and the new key is due already
        # The first interval after the start spreads the targets, and they stay spread.
        share = 1.0 if task.options.act else hash_fraction(report.target.name)
        look = now + self.resync * share
        wake = report.plan.wake_at if report.plan else None
        return min(look, wake) if wake else look

    def _deadline(self, slot: _Slot, now: datetime) -> datetime:
        due = slot.begins_at is None or slot.begins_at <= now or slot.task.request.rotate
        is_needed_early = slot.renewal is not None and slot.deadline < slot.renewal.due_at  # it is gone, or soon spent
        return slot.deadline if due or is_needed_early else TIDYING

    def _level(self, now: datetime) -> None:
        """Bring rotations forward that would come due faster than the provider's budget allows.

        Works backwards from the last: each starts one pace before the next one, or when it is due if that is earlier;
        but not before its window opens.
        """
        self._levelled_at = now
        due: dict[str, list[tuple[datetime, str, datetime]]] = defaultdict(list)
        for name, slot in self._slots.items():
            if slot.renewal is not None:
                due[slot.lane[0]].append((slot.renewal.due_at, name, slot.renewal.not_before))
        for provider, moments in due.items():
            pace = self._paces[provider]
            moments.sort(reverse=True)
            begin = moments[0][0] + pace
            for due_at, name, not_before in moments:
                begin = max(min(due_at, begin - pace), not_before)
                slot = self._slots[name]
                if begin > now + LEVEL_EVERY or begin >= due_at or now < slot.at <= begin or slot.under_way:
                    continue
                if slot.task == _NOTHING_ASKED:
                    slot.task = Task(options=PassOptions(ahead=due_at - begin))
                    self._put(name, max(begin, now))

    def _ticket(self, name: str) -> int | None:
        return self._slots[name].ticket if name in self._slots else None

    def _put(self, name: str, at: datetime) -> None:
        slot = self._slots[name]
        slot.again = slot.again or slot.under_way  # the pass may have read the path before
        slot.at, slot.ticket = at, next(self._tickets)
        heapq.heappush(self._heap, (at, slot.ticket, name))

    def overdue(self, seconds: float) -> int:
        """Return how many targets have been due for this long without a pass."""
        with self._lock:
            by = self.clock.now() - timedelta(seconds=seconds)
            return sum(slot.at <= by and not slot.under_way for slot in self._slots.values())

    def jumped(self) -> float:
        """Return the seconds by which the wall clock jumped since the last call; negative if it was set back."""
        with self._lock:
            self._notice_jump(self.clock.now())
            jumped, self._jumped = self._jumped, 0.0
            return jumped

    def _notice_jump(self, now: datetime) -> None:
        """Make every target due if the wall clock has jumped, because all plans used the former time."""
        offset = now.timestamp() - self.clock.monotonic()
        if self._offset is not None and abs(offset - self._offset) > JUMP:
            self._jumped += offset - self._offset
            for name in self._slots:
                self._put(name, now)
        self._offset = offset


def _shows_another_key(report: Report, slot: _Slot) -> bool:
    """Return whether a pass has read another served key than the one before it."""
    if report.plan is None:
        return False
    before, after = slot.renewal, report.plan.renewal
    return (before.due_at if before else None) != (after.due_at if after else None)
