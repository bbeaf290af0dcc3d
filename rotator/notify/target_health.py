"""Which targets fail, as consumers know it. The leader leaves it to its successor in an annotation of the Lease.

So the successor sends again what its predecessor may not have sent, with the same ids, and notifies of the recovery of
a target that its predecessor has reported. A notification waits until the Lease holds it: what a crash loses before
that, the successor finds by its own passes.
"""

import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated

from pydantic import AfterValidator, AwareDatetime, BaseModel, ValidationError

from rotator.core.ports import Clock, Leadership
from rotator.notify.notification import Facts

MOST = 128 * 1024
"""Bytes of the annotation. Kubernetes allows 256 KiB for all annotations of an object. The latest are left out."""


@dataclass(frozen=True, slots=True)
class Change:
    """A target began to fail, or works again."""

    target: str
    fails: bool
    since: datetime
    facts: Facts

    @property
    def kind(self) -> str:
        """Return the type of the notification."""
        return "target.failing" if self.fails else "target.recovered"


_Moment = Annotated[AwareDatetime, AfterValidator(lambda moment: moment.astimezone(UTC))]


class _Shared(BaseModel):
    """The annotation: by target, when it began to fail, or to work again."""

    failing: dict[str, _Moment] = {}
    recovered: dict[str, _Moment] = {}


class TargetHealth:
    """Notifies of each target that begins to fail, and of its recovery. A `leader.Handover`. Safe for many threads."""

    def __init__(self, notify: Callable[[Change], None], clock: Clock, leads: Leadership) -> None:
        self._notify, self._clock, self._leads = notify, clock, leads
        self._recent = timedelta(0)
        self._targets: frozenset[str] = frozenset()
        self._lock = threading.Lock()
        self._failing: dict[str, datetime] = {}  # consumers know of these, and of their recovery
        self._recovered: dict[str, datetime] = {}
        self._inherited: set[str] = set()  # failing targets of which this process has sent nothing
        self._seen: dict[str, Facts] = {}  # targets that fail for this process, whether or not it leads
        self._waiting: list[Change] = []  # until the Lease holds them
        self._written = 0  # how many of them are in the text that is being written
        self._is_shared = self._has_resumed = False

    def share(self) -> None:
        """Notify only of what a Lease holds from now on."""
        self._is_shared = True

    def configure(self, targets: Collection[str], recent: timedelta) -> None:
        """Forget all other targets. A successor sends again what is `recent`."""
        with self._lock:
            self._targets, self._recent = frozenset(targets), recent
            for states in (self._failing, self._recovered, self._seen):
                for gone in states.keys() - self._targets:
                    del states[gone]

    def failed(self, target: str, facts: Facts) -> None:
        """Note that a target fails."""
        with self._lock:
            self._seen[target] = facts
            if self._leads():
                self._begin(target)
        self._send_unshared()

    def worked(self, target: str, *, is_done: bool) -> None:
        """Note a pass that did not fail, and whether it did what there was to do."""
        with self._lock:
            self._seen.pop(target, None)
            if is_done and self._leads() and target in self._failing:
                del self._failing[target]
                self._recovered[target] = now = self._clock.now()
                self._inherited.discard(target)
                self._waiting.append(Change(target, False, now, {}))
        self._send_unshared()

    def _begin(self, target: str) -> None:
        since = self._failing.get(target)
        if since is None:
            since = self._failing[target] = self._clock.now()
            self._recovered.pop(target, None)
        elif target not in self._inherited or not self._is_recent(since):
            return
        self._inherited.discard(target)
        self._waiting.append(Change(target, True, since, self._seen[target]))

    def _is_recent(self, moment: datetime) -> bool:
        return self._clock.now() - moment < self._recent

    def _send_unshared(self) -> None:
        if not self._is_shared:
            with self._lock:
                self._written = len(self._waiting)
            self.written()

    # --- what a leader leaves to its successor -----------------------------------------------------------------------

    def resume(self, text: str) -> None:
        """Begin where the last leader has ended."""
        try:
            shared = _Shared.model_validate_json(text or "{}")
        except (ValidationError, OverflowError):  # another program's: this replica notifies of all that fails
            shared = _Shared()
        with self._lock:
            self._failing = {name: since for name, since in shared.failing.items() if name in self._targets}
            self._recovered = {name: since for name, since in shared.recovered.items() if name in self._targets}
            self._inherited = {*self._failing}
            self._waiting = [Change(name, False, since, {}) for name, since in self._recent_ones().items()]
            self._has_resumed = True

    def text(self) -> str:
        """Return what the Lease has to hold; empty if there is nothing."""
        with self._lock:
            self._written = len(self._waiting)
            self._recovered = self._recent_ones()
            states = self._failing, self._recovered
        if not any(states):
            return ""
        failing, recovered = (_oldest(state) for state in states)
        return _Shared(failing=failing, recovered=recovered).model_dump_json()

    def written(self) -> None:
        """Notify of what the last `text` holds."""
        with self._lock:
            changes, self._waiting = self._waiting[: self._written], self._waiting[self._written :]
            self._written = 0
            if self._has_resumed:
                self._has_resumed = False
                for target in self._seen:
                    self._begin(target)
        for change in changes:
            self._notify(change)

    def _recent_ones(self) -> dict[str, datetime]:
        return {name: since for name, since in self._recovered.items() if self._is_recent(since)}


def _oldest(state: Mapping[str, datetime]) -> dict[str, datetime]:
    """Return what fits into half of the annotation."""
    kept, room = {}, MOST // 2
    for name, since in sorted(state.items(), key=lambda each: each[1]):
        room -= len(name) + len('"":"2026-03-01T12:00:00.000000Z",')
        if room < 0:
            break
        kept[name] = since
    return kept
