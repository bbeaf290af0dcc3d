"""Decides what consumers are notified of: from the plans of targets, and from events.

`key.published` and `key.ending` follow from plans, and so from the store: it does not matter which process published a
key. Where this process cannot know whether they were sent (after a start or a takeover), what is recent is sent again.
No event and no plan holds a key.
"""

import threading
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from rotator.core.events import Event, EventType
from rotator.core.plan import Plan, SetExpiry
from rotator.core.ports import Clock, Leadership, Listener
from rotator.core.reasons import State
from rotator.core.target import Target
from rotator.core.times import timestamp
from rotator.notify.notification import Facts, Sender, notification
from rotator.notify.outbox import Outbox
from rotator.notify.target_health import Change, TargetHealth
from rotator.protocol.reconciler import Report
from rotator.runtime.redact import scrub_fields
from rotator.telemetry.logging import unexpected
from rotator.telemetry.metrics import Notifications

_SPENT = {EventType.KEY_NEARLY_SPENT: "key.nearly_spent", EventType.KEY_SPENT: "key.spent"}
_ABOUT_USE = ("key_id", "cap", "used", "limit", "as_of", "spent_at", "advice")


class Notifier:
    """A `ports.Listener` that passes each event on, and notifies the channels. Safe for many threads.

    Only the leader notifies.
    """

    def __init__(self, emit: Listener, clock: Clock, counted: Notifications, leads: Leadership) -> None:
        self._emit, self._clock, self._counted, self._leads = emit, clock, counted, leads
        self._outboxes: Mapping[str, Outbox] = {}
        self._owner, self._recent = "", timedelta(0)
        self._lock = threading.Lock()
        self._seen: dict[str, _Seen] = {}  # by target
        self.health = TargetHealth(self._changed, clock, leads)

    def configure(self, owner: str, senders: Mapping[str, Sender], targets: Collection[str], resync: timedelta) -> None:
        """Use these channels from now on. What is queued for one that stays goes on waiting there."""
        # Every path is looked at once in each `resync`. So what a former leader did in its last one is seen in time.
        self._owner, self._recent = owner, 2 * resync
        before = self._outboxes
        self._counted.start(senders)
        self._outboxes = {
            name: before.get(name) or Outbox(name, self._clock, self._counted, self._emit) for name in senders
        }
        for name, sender in senders.items():
            self._outboxes[name].use(sender)
        for name in before.keys() - senders.keys():
            before[name].end(by=self._clock.monotonic())
            before[name].join()
        with self._lock:
            self._seen = {name: seen for name, seen in self._seen.items() if name in targets}
        self.health.configure(targets, self._recent)

    def end(self, by: float) -> None:
        """Send what is queued until this monotonic second, and report what is left."""
        for outbox in self._outboxes.values():
            outbox.end(by)
        for outbox in self._outboxes.values():
            outbox.join()

    # --- from plans --------------------------------------------------------------------------------------------------

    def observe(self, target: Target, plan: Plan) -> None:
        """Notify of a key that is served now, and of superseded keys whose end is set. Raises nothing."""
        try:
            self._observe(target, plan)
        except Exception as error:  # a pass must not fail for it
            self._emit(unexpected("notifying of a plan", error, target.name))

    def _observe(self, target: Target, plan: Plan) -> None:
        if not self._leads():
            with self._lock:
                self._seen.pop(target.name, None)  # another replica notifies
            return
        with self._lock:
            before = self._seen.get(target.name, _NOTHING)
            ends = _ends(plan)
            self._seen[target.name] = _Seen(
                plan.current.key_id if plan.current else None, _announced(before, plan, ends)
            )
        self._published(target, plan, before)
        for key in plan.superseded:
            ends_at = ends[key.key_id]
            if ends_at is None:
                continue
            former = before.ends[key.key_id] if key.key_id in before.ends else self._unless_recent(key.since, ends_at)
            if former is None or ends_at < former:
                facts: Facts = {"key_id": key.key_id, "ends_at": timestamp(ends_at)}
                self._notify("key.ending", key.since, target.name, facts, key.key_id, ends_at)

    def _published(self, target: Target, plan: Plan, before: "_Seen") -> None:
        record, version = plan.current, plan.version
        if record is None or version is None or record.key_id == before.served:
            return
        if before.served is None and not self._is_recent(version.created_at):
            return
        facts: dict[str, str | int] = {"key_id": record.key_id, "version": version.number}
        if not plan.is_endless:
            facts["expires_at"] = timestamp(record.expires_at)
        self._notify("key.published", version.created_at, target.name, facts, record.key_id, version.number)

    def _unless_recent(self, since: datetime, ends_at: datetime) -> datetime | None:
        return None if self._is_recent(since) else ends_at

    def _is_recent(self, moment: datetime) -> bool:
        return self._clock.now() - moment < self._recent

    # --- from events -------------------------------------------------------------------------------------------------

    def __call__(self, event: Event) -> None:
        """Pass the event on, and notify of what consumers want to know of it. Raises nothing."""
        self._emit(event)
        try:
            self._note(event)
        except Exception as error:
            self._emit(unexpected("notifying of an event", error, event.target))

    def _note(self, event: Event) -> None:
        if event.what in _SPENT and self._leads():
            facts = {name: event.fields[name] for name in _ABOUT_USE if name in event.fields}
            self._notify(_SPENT[event.what], self._clock.now(), event.target, facts, facts["key_id"], facts["cap"])
        elif event.what is EventType.TARGET_FAILED:
            self.health.failed(event.target, {name: event.fields[name] for name in ("error", "advice")})
        elif event.what is EventType.TARGET_FOREIGN:
            error = f"its path holds data that rotator did not write ({event.fields['reason']})"
            self.health.failed(event.target, {"error": error, "advice": event.fields["advice"]})

    def passed(self, report: Report) -> None:
        """Notify of a target that works again."""
        plan = report.plan
        if report.error is None and plan is not None and plan.state is not State.FOREIGN:
            is_done = not plan.actions or report.rotated or report.tidied  # a pass that only looks does nothing
            self.health.worked(report.target.name, is_done=is_done)

    def _changed(self, change: Change) -> None:
        self._notify(change.kind, change.since, change.target, change.facts, change.since.timestamp())

    def _notify(self, kind: str, at: datetime, target: str, facts: Facts, *identity: object) -> None:
        made = notification(kind, at, self._owner, target, scrub_fields(facts), *identity)
        for outbox in self._outboxes.values():
            outbox.put(made)


@dataclass(frozen=True, slots=True)
class _Seen:
    """What this process has seen of a target while it led."""

    served: str | None  # the id of the key
    ends: Mapping[str, datetime | None]  # by key id: when a superseded key ends; None while that is not set


_NOTHING = _Seen(None, {})


def _ends(plan: Plan) -> dict[str, datetime | None]:
    """Return when each superseded key ends: None before the provider shows it so, or where nothing ends it."""
    unset = {action.record.key_id for action in plan.actions if isinstance(action, SetExpiry)}
    return {
        key.key_id: key.works_until
        if key.ends_with_grace
        and key.other_name is None
        and (key.shown is not None or key.is_endless)
        and key.key_id not in unset
        else None
        for key in plan.superseded
    }


def _announced(before: _Seen, plan: Plan, ends: Mapping[str, datetime | None]) -> dict[str, datetime | None]:
    """Return the ends that consumers know of. A later end than announced does no harm, and is not news."""
    known = {key_id: min(filter(None, (end, before.ends.get(key_id))), default=None) for key_id, end in ends.items()}
    return {**known, **({plan.current.key_id: None} if plan.current else {})}
