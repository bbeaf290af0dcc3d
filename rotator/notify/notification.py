"""One notification, and what takes it. Pure."""

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from rotator.core.times import timestamp

Facts = Mapping[str, str | int | float | bool]


@dataclass(frozen=True, slots=True)
class Notification:
    """What happened to a target. Sent again, after a restart or a takeover, it has the same `id`."""

    id: str
    type: str
    at: datetime
    facts: Facts

    def body(self) -> bytes:
        """Return the JSON that a webhook gets."""
        document = {"type": self.type, "timestamp": timestamp(self.at), "data": dict(self.facts)}
        return json.dumps(document, separators=(",", ":")).encode()


def notification(kind: str, at: datetime, owner: str, target: str, facts: Facts, *identity: object) -> Notification:
    """Return a notification whose id follows from what it is about: owner, target, kind and `identity`."""
    subject = json.dumps([owner, target, kind, *map(str, identity)])
    number = hashlib.sha256(subject.encode()).hexdigest()[:32]
    return Notification(f"msg_{number}", kind, at, {"owner": owner, "target": target, **facts})


class Sender(Protocol):
    """Sends the notifications of one channel. Only one thread at a time uses it."""

    @property
    def types(self) -> Collection[str]:
        """The types of notifications that the channel wants."""

    def send(self, notification: Notification) -> None:
        """Send it once, within a bound of the sender's own. Raises `NotificationFailed`: it is sent again later."""
