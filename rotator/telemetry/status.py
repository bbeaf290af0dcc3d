"""The status of each target and of the daemon, for the `status` command, `/status.json`, the page and the metrics.

No I/O. `status_json` holds the shape that programs rely on. The `to_model` methods redact foreign texts (a provider's
error, a path's record) and make them printable.
"""

import math
import threading
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from rotator.core.caps import CapState
from rotator.core.errors import RotatorError
from rotator.core.events import Event, EventType, Level
from rotator.core.pickup import Pickup, measured
from rotator.core.plan import Plan, grace_error
from rotator.core.ports import Listener
from rotator.core.reasons import Reason, State
from rotator.core.renewal import margin
from rotator.core.superseded import Superseded
from rotator.core.target import Target
from rotator.core.versions import Record
from rotator.runtime.redact import scrub, scrub_fields, scrub_name
from rotator.telemetry.status_json import (
    DaemonJson,
    DaemonStatusJson,
    EventJson,
    PickupJson,
    StatusJson,
    SupersededJson,
    TargetJson,
    UsedJson,
    UseJson,
)

UNHEALTHY = frozenset({State.FAILING, State.FOREIGN, State.MISSING, State.SPENT, State.UNKNOWN})
"""The states in which applications lack a live key, or will lack one unless a person acts."""

WORST_FIRST = (State.MISSING, State.SPENT, State.FOREIGN, State.FAILING, State.UNKNOWN, State.DUE, State.OK)
"""The order for a person. For `rank`, a target that is due is as healthy as one that is ok."""

KEPT = 100
"""Events that are kept at level info, and as many above it."""


@dataclass(frozen=True, slots=True)
class TargetStatus:
    """One target at one moment."""

    target: Target
    plan: Plan | None
    error: RotatorError | None
    next_attempt_at: datetime | None = None  # when the daemon works on it again, if that is known
    requested: bool = False  # a person requested a new key, and it is not served yet
    pickups: tuple[Pickup, ...] = ()  # of the last rotations
    looked_at: datetime | None = None  # when the daemon last read the path

    @property
    def state(self) -> State:
        """Return the plan's state; `FAILING` if the last attempt failed, `DUE` if a requested rotation waits."""
        if self.plan is None:
            return State.UNKNOWN
        if self.error is not None and self.plan.state in (State.OK, State.DUE):
            return State.FAILING
        return State.DUE if self._waits else self.plan.state

    @property
    def reason(self) -> Reason | None:
        """Return why the target has this state, or gets a new key."""
        return Reason.REQUESTED if self._waits else self.plan.reason if self.plan else None

    @property
    def _waits(self) -> bool:
        return self.requested and self.plan is not None and self.plan.state is State.OK

    @property
    def expires_at(self) -> datetime | None:
        """Return when the served key expires."""
        return self.plan.current.expires_at if self.plan and self.plan.current else None

    @property
    def window(self) -> str | None:
        """Return when the key is replaced next, in the zone of the target's windows; None if it has none."""
        at, windows = self.plan.next_rotation_at if self.plan else None, self.target.windows
        return windows[0].shown(at) if at is not None and windows else None

    def is_late(self, now: datetime) -> bool:
        """Return whether over half of the time from the renewal to the expiry is over. Alerts fire then."""
        plan = self.plan
        return (
            plan is not None
            and self.expires_at is not None
            and margin(self.expires_at, plan.next_rotation_at, now) < 0.5
        )

    def to_model(self) -> TargetJson:
        """Return the target's part of `status --json`."""
        plan, current = self.plan, self.plan.current if self.plan else None
        superseded = plan.superseded if plan else ()
        return TargetJson(
            name=self.target.name,
            state=self.state,
            path=self.target.path,
            key_id=scrub_name(current.key_id) if current else None,
            issued_at=current.issued_at if current else None,
            expires_at=current.expires_at if current else None,
            next_rotation_at=plan.next_rotation_at if plan else None,
            window=self.window,
            reason=self.reason,
            superseded=tuple(_superseded_json(key, self.target) for key in superseded),
            use=_use_json(plan.use) if plan and plan.use else None,
            caps=tuple(cap.option for cap in self.target.caps.caps),
            pickups=tuple(_pickup_json(pickup) for pickup in self.pickups),
            last_error=scrub(self.error.message) if self.error else None,
            looked_at=self.looked_at,
        )

    def to_json(self) -> dict[str, Any]:
        """Return the same for `json.dumps`."""
        return self.to_model().to_json()


def _superseded_json(key: Superseded, target: Target) -> SupersededJson:
    units = {cap.option: cap.unit for cap in target.caps.caps}
    return SupersededJson(
        key_id=scrub_name(key.key_id),
        until=key.works_until,
        last_used_at=key.last_used_at,
        used_since=tuple(UsedJson(cap=use.cap, unit=units.get(use.cap, ""), used=use.used) for use in key.used_since),
    )


def _pickup_json(pickup: Pickup) -> PickupJson:
    return PickupJson(
        key_id=scrub_name(pickup.key_id),
        replaced_at=pickup.replaced_at,
        last_used_at=pickup.last_used_at,
        seconds=pickup.took.total_seconds(),
    )


def _use_json(use: CapState) -> UseJson:
    return UseJson(ratio=use.ratio, cap=use.cap.option, as_of=use.as_of, spent_at=use.spent_at)


def with_unenforced(status: TargetStatus, now: datetime) -> TargetStatus:
    """Return the status, with an error if superseded keys outlive their grace."""
    made = status.plan
    return replace(status, error=status.error or (grace_error(status.target, made, now) if made else None))


def status_model(owner: str, at: datetime, targets: Collection[TargetStatus]) -> StatusJson:
    """Return `status --json` without a daemon."""
    return StatusJson(owner=owner, at=at, targets=tuple(target.to_model() for target in targets))


def rank(
    state: State, expires_at: datetime | None, next_rotation_at: datetime | None, now: datetime
) -> tuple[int, float, datetime]:
    """Return a sort key, worst first: unhealthy targets by state, due ones by their margin, others by expiry."""
    urgency = min(WORST_FIRST.index(state), WORST_FIRST.index(State.DUE))
    if expires_at is None:
        return urgency, -math.inf, now
    return urgency, min(margin(expires_at, next_rotation_at, now), 1.0), expires_at


# --- the daemon ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RecordedEvent:
    """An event and the time at which it was emitted."""

    at: datetime
    event: Event

    @property
    def fields(self) -> dict[str, str | int | float | bool]:
        """Return the fields of the event, redacted, without the traceback."""
        return scrub_fields({name: value for name, value in self.event.fields.items() if name != "traceback"})

    def to_model(self) -> EventJson:
        """Return the event's part of `/status.json`."""
        event = self.event
        return EventJson(
            at=self.at, level=event.level, event=event.what, target=event.target or None, fields=self.fields
        )


class RecentEvents:
    """A `ports.Listener` that keeps the latest events and passes each on to another listener.

    Events above info are kept apart, so that a busy hour of rotations does not push them out. Of each provider's sweeps
    only the last is kept, so that they do not push out rotations.
    """

    def __init__(self, emit: Listener, now: Callable[[], datetime]) -> None:
        self._emit, self._now = emit, now
        self._lock = threading.Lock()
        self._good: deque[RecordedEvent] = deque(maxlen=KEPT)
        self._bad: deque[RecordedEvent] = deque(maxlen=KEPT)

    def __call__(self, event: Event) -> None:
        """Keep the event, and pass it on."""
        if event.level is not Level.DEBUG:
            with self._lock:
                if event.what is EventType.SWEEP_COMPLETED:
                    sweep = event.what, event.fields.get("provider")
                    for former in [e for e in self._good if (e.event.what, e.event.fields.get("provider")) == sweep]:
                        self._good.remove(former)
                (self._good if event.level is Level.INFO else self._bad).append(RecordedEvent(self._now(), event))
        self._emit(event)

    def latest(self) -> tuple[RecordedEvent, ...]:
        """Return the kept events, newest first."""
        with self._lock:
            kept = [*self._good, *self._bad]
        return tuple(sorted(kept, key=lambda recorded: recorded.at, reverse=True))


@dataclass(frozen=True, slots=True)
class DaemonInfo:
    """The daemon's leadership, upstreams and configuration at one moment."""

    version: str
    replica: str  # the name of this replica in the Lease; empty without a Lease
    leads: bool
    holder: str  # the leader, if this replica knows it
    budgets: Mapping[str, float] = field(default_factory=dict)  # by provider: share of the last minute's request budget
    logins: Mapping[str, datetime | None] = field(default_factory=dict)  # by store: expiry of its token, if any
    down: Mapping[str, RotatorError] = field(default_factory=dict)  # by upstream: why it gets no requests for now
    clock_trusted: bool = True
    logins_failing: Collection[str] = ()  # stores whose last login or renewal failed
    refused: str = ""  # the problems of a changed configuration that was refused
    skews: Mapping[str, timedelta] = field(default_factory=dict)  # by upstream: how far this clock is ahead
    log_lines_dropped: Mapping[str, int] = field(default_factory=dict)  # by kind; only for the metrics, like `skews`
    sweep_interval: timedelta = timedelta(0)  # only for the metrics

    def to_model(self) -> DaemonJson:
        """Return the daemon's part of `/status.json`."""
        return DaemonJson(
            version=self.version,
            replica=self.replica or None,
            leads=self.leads,
            holder=self.holder or None,
            budgets_used={name: round(used, 3) for name, used in self.budgets.items()},
            logins_end=dict(self.logins),
            down={name: scrub(error.message) for name, error in self.down.items()},
            clock_trusted=self.clock_trusted,
            logins_failing=tuple(sorted(self.logins_failing)),
            configuration_refused=scrub(self.refused) or None,
        )


@dataclass(frozen=True, slots=True)
class DaemonStatus:
    """All that a daemon knows at one moment: the one snapshot behind page, JSON and metrics."""

    owner: str
    at: datetime
    targets: Sequence[TargetStatus]
    events: Sequence[RecordedEvent]  # newest first
    daemon: DaemonInfo

    def to_model(self) -> DaemonStatusJson:
        """Return all of `/status.json`."""
        return DaemonStatusJson(
            owner=self.owner,
            at=self.at,
            targets=tuple(target.to_model() for target in self.targets),
            daemon=self.daemon.to_model(),
            events=tuple(event.to_model() for event in self.events),
        )


# --- the registry ----------------------------------------------------------------------------------------------------


class StatusRegistry:
    """The latest status of each target. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._targets: dict[str, TargetStatus] = {}

    def request(self, names: Iterable[str]) -> None:
        """Mark these targets: a person requested new keys."""
        with self._lock:
            for name in names:
                if name in self._targets:
                    self._targets[name] = replace(self._targets[name], requested=True)

    def observe(self, target: Target, plan: Plan, at: datetime) -> None:
        """Record the plan of a pass that is under way, which has read the path. A new served key fulfils a request."""
        with self._lock:
            before = self._targets.get(target.name)
            if before is not None:
                is_new = before.plan is not None and _key_id(plan) != _key_id(before.plan)
                pickups = measured(before.pickups, plan.superseded)
                requested = before.requested and not is_new
                self._targets[target.name] = replace(
                    before, plan=plan, requested=requested, pickups=pickups, looked_at=at
                )

    def update(
        self,
        target: Target,
        plan: Plan | None,
        error: RotatorError | None,
        next_attempt_at: datetime | None = None,
        *,
        fulfilled: bool = False,
    ) -> None:
        """Record the result of a pass. Without a plan (the store could not be read) the last known plan stays.

        `fulfilled`: the pass did what a person requested. A target that is no longer configured is ignored.
        """
        with self._lock:
            before = self._targets.get(target.name)
            if before is not None:
                self._targets[target.name] = replace(
                    before,
                    plan=plan or before.plan,
                    error=error,
                    next_attempt_at=next_attempt_at,
                    requested=before.requested and not fulfilled,
                    pickups=measured(before.pickups, plan.superseded) if plan else before.pickups,
                )

    def show_use(self, target: Target, served: Record, use: CapState) -> None:
        """Record a look at the use of the served key. Only a pass finds it spent, and sets the state with it."""
        with self._lock:
            before = self._targets.get(target.name)
            if before is not None and before.plan is not None and before.plan.current == served and not use.is_spent:
                self._targets[target.name] = replace(before, plan=replace(before.plan, use=use))

    def keep_only(self, targets: Mapping[str, Target]) -> None:
        """Forget the targets that are no longer configured. New ones have the state unknown."""
        with self._lock:
            known = self._targets
            self._targets = {
                name: replace(before, target=target)
                if (before := known.get(name))
                else TargetStatus(target, None, None)
                for name, target in sorted(targets.items())
            }

    def snapshot(self) -> tuple[TargetStatus, ...]:
        """Return all targets, sorted by name."""
        with self._lock:
            return tuple(self._targets.values())  # `keep_only` sorted them


def _key_id(plan: Plan) -> str | None:
    return plan.current.key_id if plan.current else None
