"""How each target stands, in the one shape that the `status` command, `/status.json`, the page and the metrics show.

No I/O. `status_json` has the shape that programs rely on. What others wrote (a vendor's error, a
path's record) is made printable here, and searched for secrets.
"""

import math
import threading
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from rotator.core.errors import RotatorError
from rotator.core.events import Event, EventType, Level
from rotator.core.plan import Plan, Reason, State, unenforced
from rotator.core.ports import Listener
from rotator.core.renewal import margin
from rotator.core.target import Target
from rotator.runtime.redact import NAMES, scrub, scrub_name
from rotator.telemetry.status_json import (
    DaemonJson,
    DaemonStatusJson,
    EventJson,
    StatusJson,
    SupersededJson,
    TargetJson,
)

NOT_WELL = frozenset({State.FAILING, State.FOREIGN, State.MISSING, State.UNKNOWN})
"""The states in which applications lack a live key, or will if nobody does anything."""

WORST_FIRST = (State.MISSING, State.FOREIGN, State.FAILING, State.UNKNOWN, State.DUE, State.OK)
"""The states as a person should hear of them; a target that is due is as well as one that is not."""

KEPT = 100
"""Events of each kind that are kept for whoever asks: those at info, and those above."""


@dataclass(frozen=True, slots=True)
class TargetStatus:
    """One target at one moment."""

    target: Target
    plan: Plan | None
    error: RotatorError | None
    next_look: datetime | None = None  # when the daemon works on it again; None: nobody knows
    asked: bool = False  # somebody wants a new key now, and it is not served yet

    @property
    def state(self) -> State:
        """The plan's state, unless the last attempt at something failed."""
        if self.plan is None:
            return State.UNKNOWN
        if self.error is not None and self.plan.state in (State.OK, State.DUE):
            return State.FAILING
        return State.DUE if self._waits else self.plan.state

    @property
    def reason(self) -> Reason | None:
        """Why that is its state, and a new key is or will be made."""
        return Reason.REQUESTED if self._waits else self.plan.reason if self.plan else None

    @property
    def _waits(self) -> bool:
        return self.asked and self.plan is not None and self.plan.state is State.OK

    @property
    def expires_at(self) -> datetime | None:
        """When the served key stops working."""
        return self.plan.current.expires_at if self.plan and self.plan.current else None

    def is_near_its_end(self, now: datetime) -> bool:
        """Whether more than half of the time in which its key is to be replaced is over: then alerts fire."""
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
            reason=self.reason,
            superseded=tuple(SupersededJson(key_id=scrub_name(k.key_id), until=k.works_until) for k in superseded),
            last_error=scrub(self.error.message) if self.error else None,
        )

    def to_json(self) -> dict[str, Any]:
        """Return the same for `json.dumps`."""
        return self.to_model().to_json()


def with_unenforced(status: TargetStatus, now: datetime) -> TargetStatus:
    """Return the status, with an error where keys do not end with their grace."""
    made = status.plan
    return replace(status, error=status.error or (unenforced(status.target, made, now) if made else None))


def status_json(owner: str, at: datetime, targets: Collection[TargetStatus]) -> StatusJson:
    """Return all of `status --json` where no daemon is asked."""
    return StatusJson(owner=owner, at=at, targets=tuple(target.to_model() for target in targets))


def rank(
    state: State, expires_at: datetime | None, next_rotation_at: datetime | None, now: datetime
) -> tuple[int, float, datetime]:
    """What to sort targets by, worst first: those that are not well, those that are due by their margin, the others."""
    urgency = min(WORST_FIRST.index(state), WORST_FIRST.index(State.DUE))
    if expires_at is None:
        return urgency, -math.inf, now
    return urgency, min(margin(expires_at, next_rotation_at, now), 1.0), expires_at


# --- what else a daemon knows ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Told:
    """An event, and when it was told."""

    at: datetime
    event: Event

    @property
    def fields(self) -> dict[str, str | int | float | bool]:
        """The event's, without what only a log has room for."""
        shown = {name: value for name, value in self.event.fields.items() if name != "traceback"}
        return {
            name: (scrub_name if name in NAMES else scrub)(value) if isinstance(value, str) else value
            for name, value in shown.items()
        }

    def to_model(self) -> EventJson:
        """Return the event's part of `/status.json`."""
        event = self.event
        return EventJson(
            at=self.at, level=event.level, event=event.what, target=event.target or None, fields=self.fields
        )


class Recent:
    """Keeps the latest events, and passes each on: a `ports.Listener` before another.

    What went wrong is kept apart from what went well, so that a busy hour of rotations does not push it out. Nor do
    sweeps push out rotations: of each provider's the last is kept.
    """

    def __init__(self, emit: Listener, now: Callable[[], datetime]) -> None:
        self._emit, self._now = emit, now
        self._lock = threading.Lock()
        self._good: deque[Told] = deque(maxlen=KEPT)
        self._bad: deque[Told] = deque(maxlen=KEPT)

    def __call__(self, event: Event) -> None:
        """Keep it, and pass it on."""
        if event.level is not Level.DEBUG:
            with self._lock:
                if event.what is EventType.SWEEP_COMPLETED:
                    for told in [told for told in self._good if _same_sweep(told.event, event)]:
                        self._good.remove(told)
                (self._good if event.level is Level.INFO else self._bad).append(Told(self._now(), event))
        self._emit(event)

    def latest(self) -> tuple[Told, ...]:
        """What is kept, the newest first."""
        with self._lock:
            kept = [*self._good, *self._bad]
        return tuple(sorted(kept, key=lambda told: told.at, reverse=True))


def _same_sweep(one: Event, other: Event) -> bool:
    return one.what is other.what and one.fields.get("provider") == other.fields.get("provider")


@dataclass(frozen=True, slots=True)
class DaemonInfo:
    """What a daemon knows beside its targets: who leads, and how it stands with providers and stores."""

    version: str
    replica: str  # this one's name in the Lease; empty where there is no Lease
    leads: bool
    holder: str  # who leads, as far as this replica knows
    budgets: Mapping[str, float] = field(default_factory=dict)  # by provider: the share of a minute's requests, used
    logins: Mapping[str, datetime | None] = field(default_factory=dict)  # by store: the end of its token; None: no end
    down: Mapping[str, RotatorError] = field(default_factory=dict)  # by upstream: why it is left alone for now
    clock_trusted: bool = True
    logins_failing: Collection[str] = ()  # the stores where the last try to log in, or to renew that, failed
    refused: str = ""  # what is wrong with a configuration that was not taken up
    skews: Mapping[str, timedelta] = field(default_factory=dict)  # by upstream: how far this clock is ahead of its
    log_lines_dropped: Mapping[str, int] = field(default_factory=dict)  # by kind; for the metrics alone, like skews

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
    """All that a daemon knows at one moment."""

    owner: str
    at: datetime
    targets: Sequence[TargetStatus]
    events: Sequence[Told]  # the newest first
    surroundings: DaemonInfo

    def to_model(self) -> DaemonStatusJson:
        """Return all of `/status.json`."""
        return DaemonStatusJson(
            owner=self.owner,
            at=self.at,
            targets=tuple(target.to_model() for target in self.targets),
            daemon=self.surroundings.to_model(),
            events=tuple(event.to_model() for event in self.events),
        )


# --- the board -------------------------------------------------------------------------------------------------------


class StatusRegistry:
    """What the daemon last knew of each target. Safe to be used by many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._targets: dict[str, TargetStatus] = {}

    def ask(self, names: Iterable[str]) -> None:
        """Take note that somebody wants new keys for these."""
        with self._lock:
            for name in names:
                if name in self._targets:
                    self._targets[name] = replace(self._targets[name], asked=True)

    def see(self, target: Target, plan: Plan) -> None:
        """Take what a pass that is under way has seen."""
        with self._lock:
            before = self._targets.get(target.name)
            if before is not None:
                is_new = before.plan is not None and _key_id(plan) != _key_id(before.plan)
                self._targets[target.name] = replace(before, plan=plan, asked=before.asked and not is_new)

    def update(
        self,
        target: Target,
        plan: Plan | None,
        error: RotatorError | None,
        next_look: datetime | None = None,
        *,
        obeyed: bool = False,
    ) -> None:
        """Take a pass's result; without a plan (the store could not be read) the last known one stays.

        `obeyed`: what somebody had asked for is done. A target that is not configured any more stays forgotten.
        """
        with self._lock:
            before = self._targets.get(target.name)
            if before is not None:
                asked = before.asked and not obeyed
                self._targets[target.name] = TargetStatus(before.target, plan or before.plan, error, next_look, asked)

    def keep_only(self, targets: Mapping[str, Target]) -> None:
        """Forget the targets that are not configured any more; those that are new are unknown."""
        with self._lock:
            known = self._targets
            self._targets = {
                name: replace(known[name], target=target) if name in known else TargetStatus(target, None, None)
                for name, target in sorted(targets.items())
            }

    def snapshot(self) -> tuple[TargetStatus, ...]:
        """All targets, by name."""
        with self._lock:
            return tuple(self._targets.values())  # `keep_only` put them in order


def _key_id(plan: Plan) -> str | None:
    return plan.current.key_id if plan.current else None
