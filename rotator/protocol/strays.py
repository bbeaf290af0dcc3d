"""Removes keys that a provider may have made without confirming it.

A create may have made the key even if its answer was lost, is an error, or is about another key. Its name is
unique to that attempt, so the provider's list shows it. A list may have a hundred pages: no pass over a target waits
for it, and one list serves all waiting names. A missing name is looked for again once the provider must show the key.
"""

import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import timedelta

from rotator.core.errors import KeyUnreadable, ProviderError, RotatorError
from rotator.core.events import EventType
from rotator.core.keys import ListedKey
from rotator.core.ports import Budget, Clock, Listener, Provider
from rotator.core.renewal import TIDYING
from rotator.core.request import RotationRequest
from rotator.core.target import Target
from rotator.core.versions import Record
from rotator.protocol.audit import emit_key_event, emit_not_removed
from rotator.protocol.rotation import UNPUBLISHED

REST = 10.0
"""Seconds from the end of a list to the next one, so that one list serves more names."""

RETRY = 60.0
"""The same after a list that failed."""

PATIENCE = 1800.0
"""Seconds for which a name waits for a list that works, at least. By then a sweep has seen its key."""


@dataclass(frozen=True, slots=True)
class Stray:
    """A key that may have been made in vain, by its name."""

    target: Target
    name: str
    request: RotationRequest
    since: float  # monotonic
    missed: bool = False  # by a list that was read when the provider may not have shown it yet

    def is_settled(self, min_age: float, at: float) -> bool:
        """Return whether the provider shows the key at that time, if there is one."""
        return at - self.since >= min_age


class StrayKeys:
    """The names to look for at one provider. Safe for many threads."""

    def __init__(
        self,
        provider: Provider,
        budget: Budget,
        clock: Clock,
        emit: Listener,
        served: Mapping[str, Record],
        min_age: timedelta = timedelta(0),
        waiting: dict[str, Stray] | None = None,
    ) -> None:
        """`served` are the records of the keys in use, which are never removed. A successor shares `waiting`.

        A provider may not show a key yet that is younger than `min_age`: a name is looked for at once, and then.
        """
        self._provider, self._budget, self._clock, self._emit, self._served = provider, budget, clock, emit, served
        self._min_age = min_age.total_seconds()
        self.waiting = {} if waiting is None else waiting
        self._removing = threading.Lock()
        self._next_at = float("-inf")

    def look_for(self, target: Target, name: str, request: RotationRequest) -> None:
        """Remove the key of this name later, if there is one."""
        self.waiting[name] = Stray(target, name, request, self._clock.monotonic())

    @property
    def due(self) -> bool:
        """Whether a list may show a waiting name now, and the last list is long enough ago."""
        now = self._clock.monotonic()
        is_wanted = any(not one.missed or one.is_settled(self._min_age, now) for one in [*self.waiting.values()])
        return is_wanted and now >= self._next_at

    def remove(self, *, at_last: bool = False) -> None:
        """List the provider's keys once, and remove those whose names wait. After a failure the rest waits on.

        `at_last`: names that cannot be looked for now are reported and forgotten.
        """
        with self._removing:
            left = dict(self.waiting)  # a key that is made later may be missing in a page that was read before
            if not left:
                return
            began = self._clock.monotonic()
            found: list[tuple[Stray, ListedKey]] = []
            failure: ProviderError | None = None
            try:
                self._provider.ready()
                for page in self._provider.pages(before=lambda: self._budget.take(TIDYING)):
                    found += [(left.pop(key.name), key) for key in page if key.name in left]
                    if not left:
                        break  # there is no other of those names, and the list may be long
            except ProviderError as error:
                failure = error
            for stray, key in found:  # not before: where a key is removed, the pages that follow lack another
                self._remove(stray, key)
                self._forget(stray)
            now = self._clock.monotonic()
            for stray in left.values():
                if failure and (at_last or now - stray.since > PATIENCE + self._min_age):
                    self._leave(stray, "unknown", failure)
                    self._forget(stray)
                elif failure is None and (at_last or stray.is_settled(self._min_age, began)):
                    self._forget(stray)
                elif failure is None:
                    self.waiting[stray.name] = replace(stray, missed=True)
            self._next_at = now + (RETRY if failure else REST)

    def _remove(self, stray: Stray, key: ListedKey) -> None:
        if not key.id:
            self._leave(stray, "unknown", KeyUnreadable(stray.target.path, [key]))
            return
        if any(record.key_id == key.id for record in [*self._served.values()]):
            self._leave(stray, key.id, ProviderError("the provider shows this name at a key that is served"))
            return
        try:
            self._budget.take(TIDYING)
            self._provider.delete(key.id)
        except ProviderError as error:
            self._leave(stray, key.id, error)
            return
        emit_key_event(self._emit, EventType.KEY_DELETED, stray.target, key, stray.request, UNPUBLISHED)

    def _leave(self, stray: Stray, key_id: str, error: RotatorError) -> None:
        emit_not_removed(self._emit, stray.target, key_id, stray.name, error)

    def _forget(self, stray: Stray) -> None:
        self.waiting.pop(stray.name, None)
