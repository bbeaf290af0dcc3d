"""Emits the audit trail: what was done to the keys of a target, and who asked for it."""

from rotator.core.errors import RotatorError
from rotator.core.events import Event, EventType, Level
from rotator.core.keys import ListedKey
from rotator.core.ports import Listener
from rotator.core.request import RotationRequest
from rotator.core.target import Target
from rotator.core.times import timestamp
from rotator.core.versions import Record
from rotator.protocol.memory import PendingKey


def emit_key_event(
    emit: Listener,
    what: EventType,
    target: Target,
    key: Record | ListedKey,
    request: RotationRequest,
    reason: str,
    **fields: str | int,
) -> None:
    """Emit what was done to a key of a target, why, and who asked for it."""
    key_id, name = (key.key_id, key.key_name) if isinstance(key, Record) else (key.id, key.name)
    comment = {"comment": request.comment} if request.comment else {}
    about = {"key_id": key_id, "key_name": name, "reason": reason, **fields, "by": request.by, **comment}
    emit(Event(what, target.name, Level.INFO, about))


def emit_published(emit: Listener, target: Target, pending: PendingKey, version: int) -> None:
    """Emit that a key is served, or was."""
    record, what, expires_at = pending.record, EventType.KEY_PUBLISHED, timestamp(pending.record.expires_at)
    emit_key_event(emit, what, target, record, pending.request, pending.reason, version=version, expires_at=expires_at)


def emit_not_removed(emit: Listener, target: Target, key_id: str, name: str, error: RotatorError) -> None:
    """Emit that a key may live on, and why it is left for now."""
    fields = {"key_id": key_id, "key_name": name, "error": error.message}
    emit(Event(EventType.KEY_NOT_REMOVED, target.name, Level.WARNING, fields))
