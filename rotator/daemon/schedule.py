"""When each target is looked at next, and what a person requested for it.

Data and arithmetic only: no thread is started here, nothing is executed, and time comes from the given clock. One
heap for all targets, so that nothing is done per target per tick.
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
"""Seconds by which the wall clock may leave the monotonic one before every target is looked at again."""

LEVEL_EVERY = timedelta(minutes=1)
"""How often what comes due is compared with what the budgets allow."""

Lane = tuple[str, str]
"""A provider and a store: what a target waits for when it is worked on."""


@dataclass(frozen=True, slots=True)
class Task:
    """What the next pass over a target does."""

    request: RotationRequest = SCHEDULED
    options: PassOptions = ACT


_NOTHING_ASKED = Task()  # one for all targets


@dataclass(slots=True)
class _Slot:
    at: datetime
    ticket: int  # the heap's entry that counts; older ones are passed over
    lane: Lane
    task: Task = Task(options=LOOK)  # the first pass only looks: then the most urgent of all targets is acted on first
    under_way: bool = False
    again: bool = False  # it came due again while it was under way
    failures: int = 0
    renewal: Renewal | None = None
    deadline: datetime = AT_ONCE  # a target that has not been observed yet may be without a key

    @property
    def begins_at(self) -> datetime | None:
        """When its key is due, brought forward where too many are due at once."""
        return self.renewal.due_at - self.task.options.ahead if self.renewal else None


@dataclass(slots=True)
class Schedule:
    """The targets of a daemon. Safe to be used by many threads."""

    clock: Clock
    rng: random.Random
    resync: timedelta
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _slots: dict[str, _Slot] = field(default_factory=dict)
    _heap: list[tuple[datetime, int, str]] = field(default_factory=list)  # by time
    _ready: dict[Lane, list[tuple[datetime, int, str]]] = field(default_factory=dict)  # due, by urgency
    _tickets: "itertools.count[int]" = field(default_factory=itertools.count)
    _offset: float | None = None  # of the wall clock to the monotonic one
    _jumped: float = 0.0  # seconds, since that was last asked for
    _paces: Mapping[str, timedelta] = field(default_factory=dict)
    _levelled_at: datetime | None = None

    def configure(
        self,
        targets: Mapping[str, Target],
        changed: Collection[str],
        resync: timedelta,
        paces: Mapping[str, timedelta],
    ) -> None:
        """Take a new set of targets: the new and the changed are due now, those that are gone are forgotten.

        `paces`: how far apart a provider's budget lets rotations be.
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
        """Have these targets worked on now; asking again before it is done changes nothing."""
        with self._lock:
            for name in names:
                if name in self._slots:
                    if self._slots[name].task != Task(request):
                        self._slots[name].task = Task(request)
                    self._put(name, self.clock.now())

    def wake(self, names: Collection[str]) -> None:
        """Look at these now; what was asked for them stays asked for."""
        with self._lock:
            for name in names:
                if name in self._slots:
                    self._put(name, self.clock.now())

    def wake_in_turn(self, names: Collection[str]) -> None:
        """Look at these, which something held up: the most urgent now, the others as far apart as rotations have to be.

        None of them later than it would be looked at anyway.
        """
        with self._lock:
            now = self.clock.now()
            turns: dict[str, datetime] = {}  # by provider
            held_up = [name for name in names if name in self._slots]
            for name in sorted(held_up, key=lambda name: self._slots[name].deadline):
                slot = self._slots[name]
                turn = turns.get(slot.lane[0], now)
                if turn < slot.at:
                    self._put(name, turn)
                turns[slot.lane[0]] = turn + self._paces[slot.lane[0]]

    def take(self, is_open: Callable[[Lane], bool] = lambda _: True) -> tuple[str, Task] | None:
        """The target to work on now, most urgent first, of the lanes that are open; None when nothing is due there."""
        with self._lock:
            now = self.clock.now()
            self._notice_jump(now)
            if self._levelled_at is None or not timedelta(0) <= now - self._levelled_at < LEVEL_EVERY:
                self._level(now)
            if len(self._heap) > 100 + 3 * len(self._slots):  # entries that count no more lie there until their time
                self._heap = [entry for entry in self._heap if entry[1] == self._ticket(entry[2])]
                heapq.heapify(self._heap)
            while self._heap and self._heap[0][0] <= now:
                _, ticket, name = heapq.heappop(self._heap)
                slot = self._slots.get(name)
                if slot is not None and slot.ticket == ticket:
                    deadline = self._deadline(slot, now)
                    heapq.heappush(self._ready.setdefault(slot.lane, []), (deadline, ticket, name))
                    if deadline == TIDYING and slot.begins_at is not None:
                        # While it waits its key may come due: then it is no longer as little urgent as it is now.
                        heapq.heappush(self._heap, (slot.begins_at, ticket, name))
            lanes = {lane: ready for lane, ready in self._ready.items() if is_open(lane)}
            while ready := min((ready for ready in lanes.values() if ready), default=None, key=lambda ready: ready[0]):
                _, ticket, name = heapq.heappop(ready)
                slot = self._slots.get(name)
                if slot is None or slot.ticket != ticket:
                    continue
                if not slot.under_way:
                    slot.under_way = True
                    slot.ticket = next(self._tickets)  # its other entries count no more
                    return name, slot.task
                slot.again = True
            return None

    def done(self, report: Report, task: Task) -> tuple[int, datetime | None]:
        """Take a pass's result. Returns how many passes failed in a row, and when it is next looked at."""
        with self._lock:
            slot = self._slots.get(report.target.name)
            if slot is None:
                return 0, None
            now = self.clock.now()
            slot.under_way = False
            at = now + LONGEST_WAIT  # should there be a fault below, the target is not forgotten
            try:
                slot.failures = slot.failures + 1 if report.error else 0
                if report.plan:
                    slot.renewal = report.plan.renewal
                    needed = deadline(report.plan, now)
                    waits = report.plan.current is None and slot.deadline != AT_ONCE  # and so keeps its place
                    slot.deadline = min(slot.deadline, needed) if waits else needed
                again, slot.again = slot.again or slot.task is not task, False
                if slot.task is task and (report.rotated or report.error is None):
                    slot.task = _NOTHING_ASKED
                at = now if again else self._next(slot, report, task, now)
            finally:
                self._put(report.target.name, at)
            return slot.failures, at

    def _next(self, slot: _Slot, report: Report, task: Task, now: datetime) -> datetime:
        if report.error is not None:
            # The nearer the end of the served key, the more often a try is worth its requests; not where this target's
            # own requests are refused: until a person has acted, each would only take from the others' budget.
            refused = report.error.needs_a_person and not report.error.nothing_tried
            near = max(LONGEST_WAIT_AT_END, (slot.deadline - now) / 10)
            ceiling = LONGEST_WAIT if refused else min(LONGEST_WAIT, near)
            doubled: timedelta = min(ceiling, FIRST_WAIT * 2 ** min(slot.failures - 1, 10))
            wait = doubled * (0.5 + self.rng.random() / 2)
            if isinstance(report.error, ProviderRateLimited):
                wait = max(wait, timedelta(seconds=report.error.retry_after))
            # What else is to be done at its time does not wait for what fails.
            wake = report.plan.wake_at if report.plan else None
            return min(now + wait, wake) if wake and wake > now else now + wait
        if not task.options.act and report.plan and report.plan.actions:
            return now
        if report.rotated and report.plan and any(isinstance(action, Rotate) for action in report.plan.actions):
            return now + FIRST_WAIT  # a pass rotates once, and its new key has come due meanwhile
        # The first look after the start spreads the targets over the interval; from then on they stay spread.
        share = 1.0 if task.options.act else hash_fraction(report.target.name)
        look = now + self.resync * share
        wake = report.plan.wake_at if report.plan else None
        return min(look, wake) if wake else look

    def _deadline(self, slot: _Slot, now: datetime) -> datetime:
        due = slot.begins_at is None or slot.begins_at <= now or slot.task.request.rotate
        return slot.deadline if due else TIDYING

    def _level(self, now: datetime) -> None:
        """Bring forward what would come due faster than its provider's budget allows.

        Backwards from the last: each has to begin a pace before the next one, or else when it is due.
        """
        self._levelled_at = now
        due: dict[str, list[tuple[datetime, str]]] = defaultdict(list)
        for name, slot in self._slots.items():
            if slot.renewal is not None:
                due[slot.lane[0]].append((slot.renewal.due_at, name))
        for provider, moments in due.items():
            pace = self._paces[provider]
            moments.sort(reverse=True)
            begin = moments[0][0] + pace
            for due_at, name in moments:
                begin = min(due_at, begin - pace)
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
        slot.at, slot.ticket = at, next(self._tickets)
        heapq.heappush(self._heap, (at, slot.ticket, name))

    def overdue(self, seconds: float) -> int:
        """How many targets have been due for so long, and were not taken."""
        with self._lock:
            by = self.clock.now() - timedelta(seconds=seconds)
            return sum(slot.at <= by and not slot.under_way for slot in self._slots.values())

    def jumped(self) -> float:
        """The seconds by which the wall clock has jumped since this was last asked; below zero, if it was set back."""
        with self._lock:
            self._notice_jump(self.clock.now())
            jumped, self._jumped = self._jumped, 0.0
            return jumped

    def _notice_jump(self, now: datetime) -> None:
        """What was planned by a wall clock that has jumped since is looked at again."""
        offset = now.timestamp() - self.clock.monotonic()
        if self._offset is not None and abs(offset - self._offset) > JUMP:
            self._jumped += offset - self._offset
            for name in self._slots:
                self._put(name, now)
        self._offset = offset
