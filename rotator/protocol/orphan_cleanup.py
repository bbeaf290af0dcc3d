"""Expires the orphans that a sweep found, and removes those that have expired.

- An orphan is treated as if it had just been superseded, for an application may still use it (a key that was pushed out
  of a short history, a deleted path, a restored snapshot). It is shortened to the end of a grace period that begins
  now, and deleted at the provider when that is over, never at once.
- A key that was made for a version which the path does not have yet may still be published. So the path is *fenced*
  first: its current data is written again, and the compare-and-set of a writer that is about to publish fails.
- Where the provider cannot set an expiry, the orphan is deleted a grace period after the path can last have served it.
  The versions of the path show since when, so that a restart does not begin the grace again. Of a key without a date,
  and of one that is more than one version ahead (its path was restored or emptied), this process remembers when it
  found it.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from rotator.core.errors import CasMismatch, ProviderError, RotatorError, StoreError
from rotator.core.events import EventType
from rotator.core.expiry import Asked, corrected, on_the_grid, whole_seconds
from rotator.core.keys import ListedKey, ProviderKey
from rotator.core.orphans import Grace, Orphan, OrphanState, Outcome, orphans
from rotator.core.ports import Ports
from rotator.core.reasons import Reason
from rotator.core.request import RotationRequest
from rotator.core.target import Target
from rotator.core.times import timestamp
from rotator.protocol.audit import emit_key_event
from rotator.protocol.expiry import set_expiry
from rotator.protocol.observer import Observer


@dataclass(frozen=True, slots=True)
class _End:
    """When an orphan that was shortened expires: as the provider keeps it, and as the grace demands."""

    shown: datetime
    until: datetime


def _identity(key: ProviderKey) -> tuple[str, str]:
    """Return what no two keys share: some providers give the id of a deleted key to a later one."""
    return key.id, key.name


class OrphanCleanup:
    """Cleans up after one provider.

    It remembers what the provider does not show: when it first listed a key, which expiry a key was given, and since
    when the grace of a key counts whose expiry cannot be set.
    """

    def __init__(self, ports: Ports, min_age: timedelta) -> None:
        self._ports, self._min_age = ports, min_age
        self._first_seen: dict[tuple[str, str], float] = {}  # of keys without a date
        self._ends: dict[tuple[str, str], _End] = {}  # of keys that were shortened here
        self._graces: dict[tuple[str, str], Grace] = {}  # of orphans, as the last sweep found them

    def keys_in(self, listing: Iterable[ListedKey]) -> Mapping[str, ProviderKey]:
        """Return the readable keys of a list by id, with what is remembered of them; forget all others."""
        keys = {key.id: self._dated(key) for key in listing if isinstance(key, ProviderKey)}
        now, seen = self._ports.clock.monotonic(), self._first_seen
        there = {_identity(key) for key in keys.values()}
        self._ends = {identity: end for identity, end in self._ends.items() if identity in there}
        undated = (_identity(key) for key in keys.values() if key.created_at is None)
        self._first_seen = {identity: seen.get(identity, now) for identity in undated}
        return keys

    def is_unsettled(self, key: ProviderKey) -> bool:
        """Return whether a listed key is so young that a version may still receive it."""
        clock = self._ports.clock
        if key.created_at is not None:
            return clock.now() - key.created_at < self._min_age
        return clock.monotonic() - self._first_seen[_identity(key)] < self._min_age.total_seconds()

    def found_before(self, key: ProviderKey) -> Grace | None:
        """Return the grace of an orphan, as `remember` kept it."""
        return self._graces.get(_identity(key))

    def remember(self, found: Iterable[Orphan]) -> None:
        """Keep the graces of these orphans; forget all others, for a version may have held them.

        A clock that is not trusted dates none.
        """
        trusted = self._ports.clock.trusted()
        self._graces = {_identity(orphan.key): orphan.grace for orphan in found if orphan.grace and trusted}

    def clean_up(
        self,
        observers: Iterable[tuple[Observer, Target]],
        found: Iterable[Orphan],
        request: RotationRequest,
        deadline: datetime,
        stopping: Callable[[], bool],
    ) -> tuple[tuple[Orphan, ...], dict[str, RotatorError]]:
        """Do what is due about each orphan; return them with the outcome, and by target what failed.

        Orphans that turn out to be gone are left out.
        """
        failed: dict[str, RotatorError] = {}
        after: list[Orphan] = []
        due: dict[str, list[Orphan]] = defaultdict(list)
        for orphan in found:
            (due[orphan.target.name] if orphan.is_due else after).append(orphan)
        for observer, target in observers:
            if target.name in due:
                outcomes, error = self._clean_up_path(observer, due[target.name], request, deadline, stopping)
                after += outcomes
                if error is not None:
                    failed[target.name] = error
        return tuple(after), failed

    def _clean_up_path(
        self,
        observer: Observer,
        found: Sequence[Orphan],
        request: RotationRequest,
        deadline: datetime,
        stopping: Callable[[], bool],
    ) -> tuple[list[Orphan], RotatorError | None]:
        """Do what is due about one path's orphans, until the first error."""
        after: list[Orphan] = []
        fence: int | None = None
        for number, orphan in enumerate(found):
            if stopping():
                return [*after, *found[number:]], None
            try:
                if orphan.is_to_fence and fence is None:
                    fence = self._fence(observer, orphan.target, request)
                if (ended := self._end(observer, orphan, request, deadline, fence)) is not None:
                    after.append(ended)
            except (StoreError, ProviderError) as error:
                return [*after, *(replace(left, outcome=Outcome.FAILED) for left in found[number:])], error
        return after, None

    def _fence(self, observer: Observer, target: Target, request: RotationRequest) -> int:
        """Write the current data again; return the version that it became, or 0 if another writer was first.

        Sent once. Looking does not settle a refused write, as it settles that of a new key: another sweep's fence holds
        the same data, and stands where ours was meant to be, but not where a writer is about to publish.
        """
        observation = observer.observe(target)
        current, entry = observation.history.current, observation.current
        if current is None or current.data is None or entry is None or entry.record is None:
            return 0
        try:
            written = observer.ports.store.write(target.path, current.data, cas=current.number)
        except CasMismatch:
            return 0
        emit, what, number = self._ports.emit, EventType.PATH_FENCED, written.number
        emit_key_event(emit, what, target, entry.record, request, Reason.ORPHAN, version=number)
        return number

    def _end(
        self, observer: Observer, orphan: Orphan, request: RotationRequest, deadline: datetime, fence: int | None
    ) -> Orphan | None:
        """Shorten it, or remove its record, unless a version holds it by now. Return None if the key is gone.

        The list may be out of date, and so the key is looked up: what was shortened since must not be extended, a key
        that was retired since is not reported as lost, and another one may have its id.
        """
        ports, target = self._ports, orphan.target
        if orphan.state is OrphanState.TO_FENCE:
            until = whole_seconds(ports.clock.now() + target.grace_period)
            return replace(orphan, state=OrphanState.IN_GRACE, until=until) if fence else orphan
        ports.budget.take(deadline)
        found = ports.provider.retrieve(orphan.key.id)
        if found is None or not found.may_be(orphan.key.name):
            return None
        key = replace(self._dated(found), created_at=orphan.key.created_at)
        still = self._is_still(observer, orphan, key, deadline, fence)
        if still is None:
            return orphan
        if still.state is not OrphanState.TO_SHORTEN:
            ports.provider.delete(key.id)
            emit_key_event(ports.emit, EventType.KEY_DELETED, target, key, request, Reason.ORPHAN)
            return replace(still, outcome=Outcome.REMOVED)
        until = whole_seconds(ports.clock.now() + target.grace_period)
        asked: Asked | None = Asked(until, on_the_grid(until, found.expires_at, key.created_at))
        while asked:
            ends = set_expiry(ports, key.id, asked.request, deadline)
            if ends is None:
                return orphan
            self._ends[_identity(key)] = _End(ends, min(until, ends))
            emit_key_event(
                ports.emit, EventType.KEY_SHORTENED, target, key, request, Reason.ORPHAN, expires_at=timestamp(ends)
            )
            later = corrected(asked, ends)
            again = self._is_still(observer, orphan, key, deadline, fence) if later else None
            asked = Asked(until, later) if later and again else None
        return replace(still, outcome=Outcome.SHORTENED, until=self._ends[_identity(key)].shown)

    def _is_still(
        self, observer: Observer, orphan: Orphan, key: ProviderKey, deadline: datetime, fence: int | None
    ) -> Orphan | None:
        """Return the orphan if a fresh look at the path shows it to be one, and no writer can publish it meanwhile.

        A read that does not show our own fence is from the past, and a version that it lacks may hold the key.
        """
        ports = self._ports
        ports.budget.take(deadline)
        observation = observer.observe(orphan.target)
        # Where the list and the look-up differ it waits for the next sweep: `max_orphans` was counted by the list.
        found_again = orphans(observation, [key], ports.clock.now(), self.is_unsettled, self.found_before)
        still = next((again for again in found_again if again.state is orphan.state), None)
        unfenced = still is not None and still.is_to_fence and not fence
        if observer.is_too_old(observation) or unfenced or observation.history.current_version < (fence or 0):
            return None
        return still

    def _dated(self, key: ProviderKey) -> ProviderKey:
        """Give it the end of its grace if the provider shows none, or a rounded one: else each sweep gives another."""
        end = self._ends.get(_identity(key))
        return replace(key, expires_at=end.until) if end and key.expires_at in (None, end.shown) else key
