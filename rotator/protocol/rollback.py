"""Serves a target's previous key again, because a person asked for it.

The order of the effects: restore its expiry, for a served key must never be about to expire; publish it; look it up
again; shorten the key that was served until now, like any superseded key.
"""

from dataclasses import replace
from datetime import datetime

from rotator.core.caps import carried
from rotator.core.errors import CasMismatch, ProviderRequestRefused, RotatorError
from rotator.core.events import EventType
from rotator.core.expiry import TOLERANCE
from rotator.core.keys import ProviderKey
from rotator.core.observation import Observation
from rotator.core.plan import Plan, plan
from rotator.core.reasons import Reason
from rotator.core.request import RotationRequest
from rotator.core.superseded import Superseded, superseded_keys
from rotator.core.target import Target
from rotator.core.times import timestamp
from rotator.core.versions import Ownership, Record, compose, key_in
from rotator.protocol.audit import emit_key_event
from rotator.protocol.expiry import keep_until
from rotator.protocol.observer import Observer
from rotator.protocol.publish import publish
from rotator.protocol.reconciler import Reconciler, Report


def roll_back(reconciler: Reconciler, target: Target, request: RotationRequest) -> Report:
    """Serve the previous key again, if it still works; if it turns out not to, rotate. Errors are in the report."""
    made: Plan | None = None
    observer, ports = reconciler.observer, reconciler.observer.ports
    try:
        observer.confirm(observer.observe(target))
        ports.budget.take(ports.clock.now())
        observation = observer.observe(target)  # again: waiting for the budget has made the first look old
        made = plan(observation, ports.clock.now())
        return _serve_again(reconciler, observation, _previous(observation), request)
    except RotatorError as error:
        return Report(target, made, error)


def _previous(observation: Observation) -> Superseded:
    """Return the key before the served one. Raises `RotatorError` with the reason where there is none."""
    target, current = observation.target, observation.current
    if current is not None and current.ownership.foreign:
        raise RotatorError(
            f"the newest version of {target.path} is not ours ({current.ownership}), and was left as it is",
            f"`rotator rotate {target.name} --adopt` makes a new key. To serve an older version again, roll the path "
            "back to it in the store.",
        )
    if observation.history.current_version and (current is None or current.ownership is Ownership.UNREADABLE):
        raise RotatorError(
            f"the newest version of {target.path} is deleted",
            f"Undelete it in the store to serve its key again, or `rotator rotate {target.name}` makes a new one.",
        )
    held = superseded_keys(observation, current) if current else ()
    previous = max(held, key=lambda key: key.versions[-1].number, default=None)
    if previous is None:
        raise RotatorError(
            f"{target.path} holds no previous key to go back to", f"`rotator rotate {target.name}` makes a new one."
        )
    return previous


def _serve_again(
    reconciler: Reconciler, observation: Observation, previous: Superseded, request: RotationRequest
) -> Report:
    target, record, ports = observation.target, previous.record, reconciler.observer.ports
    until = _restore(reconciler.observer, observation, record, request)
    if not _publish_again(reconciler.observer, observation, previous, request):
        error = CasMismatch(
            f"another writer published to {target.path} first; nothing was rolled back",
            "`rotator status` shows what is served now. Run the command again if that is not what you want.",
        )
        return replace(reconciler.reconcile(target, replace(request, rotate=False)), error=error)
    # Now shorten the key that was just superseded; and replace this one if the provider lost it meanwhile.
    failure: RotatorError | None = None
    try:
        ports.budget.take(until)
        after = reconciler.observer.observe(target)
        reconciler.observer.memory.note(after, record.key_id, ports.provider.retrieve(record.key_id))
    except RotatorError as error:
        failure = error
    report = reconciler.reconcile(target, replace(request, rotate=False))
    return replace(report, rolled_back=True, error=failure or report.error)


def _restore(observer: Observer, observation: Observation, record: Record, request: RotationRequest) -> datetime:
    """Restore the expiry of a key that is to be served again; return when it expires. Raises `RotatorError`."""
    target, ports = observation.target, observer.ports
    if record.key_id not in observation.shown:
        raise CasMismatch(f"{target.path} was written meanwhile, and was left as it is", "Try again.")
    seen = observation.shown[record.key_id].key
    why = _why_not(observation, record, seen, ports.clock.now())
    if seen is None or why:
        raise _refused(target, record, why)
    until = max(record.expires_at, seen.expires_at or record.expires_at)  # it may have been extended
    if not observation.traits.can_set_expiry:
        return until
    ends = keep_until(ports, record.key_id, until, until)
    if ends is None or ends < record.expires_at - TOLERANCE:
        raise _refused(target, record, "is gone" if ends is None else f"expires at {timestamp(ends)} all the same")
    what, shown = EventType.KEY_RESTORED, timestamp(ends)
    emit_key_event(ports.emit, what, target, record, request, Reason.REQUESTED, expires_at=shown)
    observer.memory.note(observation, record.key_id, ProviderKey(seen.id, seen.name, ends))
    return until


def _publish_again(
    observer: Observer, observation: Observation, previous: Superseded, request: RotationRequest
) -> bool:
    """Publish a key again. Return whether it is served; False when another write came first."""
    target, record, ports, history = observation.target, previous.record, observer.ports, observation.history
    version = next(version for version in history.versions if version.number == previous.versions[-1].number)
    secret = key_in(version.data or {})
    assert secret is not None  # noqa: S101 - an entry with a record holds the key that the record names
    record = replace(record, early=carried(observation, ports.clock.now()))  # the versions that show it may not stay
    data = compose(target, record, secret, observation.preserved_fields())
    written = publish(ports.store, ports.clock, target, data, history.current_version)
    if written is None:
        return False
    what, number = EventType.KEY_ROLLED_BACK, written.number
    emit_key_event(ports.emit, what, target, record, request, Reason.REQUESTED, version=number)
    return True


def _refused(target: Target, record: Record, why: str) -> ProviderRequestRefused:
    return ProviderRequestRefused(
        f"the previous key {record.key_id} {why}; the served key was left as it is",
        f"`rotator rotate {target.name}` makes a new one.",
    )


def _why_not(observation: Observation, record: Record, seen: ProviderKey | None, now: datetime) -> str:
    """Return why a key cannot be served again, as the rest of a sentence; empty if it can."""
    if seen is None:
        return "is gone"
    if not observation.scope.owns(seen.name):
        return "is not ours"
    if seen.expires_by(now):
        return "has expired"
    if seen.expires_at and observation.is_cut_short(record, now) and not observation.traits.can_set_expiry:
        return f"expires at {timestamp(seen.expires_at)}, which {observation.traits.label} cannot change"
    if observation.is_overlong(record):
        return f"is recorded to live until {timestamp(record.expires_at)}, longer than any key of this target"
    return ""
