"""What a process remembers of each target between two passes, and when that replaces a request.

Nothing is read here, and losing it costs only requests. The rules:

- The newest version alone shows as much as the whole history if its key was made for it, and the whole history was read
  at this very version and held no other key of ours. For a path that was not read yet, in a process that sweeps, a
  version that is older than a grace with its extension is enough: the sweep finds all other keys in the provider's
  list.
- An incomplete sweep proves nothing: each path is read whole again.
- A record does not prove whose the key is that it names: a forger who can write the path can write a record. A key is
  this path's when the provider shows it under the name in its record, and that name is one for this path.
- The provider's list may be older than the path. Of a served key it proves only the name: while that key is served, it
  counts as not looked up.
- What the provider shows of one key is kept with the version that was current then, and may be out of date: `plan`
  decides what it proves. It is forgotten when the path no longer holds that key.
- A key whose write was refused or not answered is offered again by the next pass: it is as good as a new one, and it
  cannot be removed while that write may land or have landed. It is forgotten when the path has that version.
- What the provider showed of a key's use is kept for as long as the path holds the key.
- A reload keeps only what the provider showed, and such keys: the paths were read with the previous configuration.
"""

import threading
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime

from rotator.core.expiry import TOLERANCE, Asked, KeyObservation
from rotator.core.keys import ProviderKey
from rotator.core.observation import Made, Observation
from rotator.core.reasons import Reason
from rotator.core.renewal import made_keys
from rotator.core.request import RotationRequest
from rotator.core.secrets import Secret
from rotator.core.superseded import superseded_keys
from rotator.core.target import Target
from rotator.core.use import UseSeries, series_with
from rotator.core.versions import Record, Scope


@dataclass(frozen=True, slots=True)
class PendingKey:
    """A key of ours, created to be the version after `base`."""

    provider: str
    base: int
    record: Record
    secret: Secret
    reason: Reason  # why it was made
    request: RotationRequest  # and who asked for it
    unsettled: bool = False  # its write was refused or not answered: it may have landed, or still land


@dataclass(frozen=True, slots=True)
class Kept:
    """What a reload keeps, by target. The memories of before and after share it, and its lock."""

    seen: dict[str, Mapping[str, KeyObservation]] = field(default_factory=dict)  # what the provider showed of keys
    use: dict[str, Mapping[str, UseSeries]] = field(default_factory=dict)  # and of their use
    pending: dict[str, PendingKey] = field(default_factory=dict)  # keys whose write is unsettled
    landed: dict[str, tuple[PendingKey, int]] = field(default_factory=dict)  # and those that turned out to be served
    lock: threading.Lock = field(default_factory=threading.Lock)

    def keep_only(self, targets: Collection[str]) -> None:
        """Forget all other targets: their keys are not published again, and a pending key has its text here."""
        with self.lock:
            known = self.seen.keys() | self.use.keys() | self.pending.keys() | self.landed.keys()
            for name in known - set(targets):
                self.seen.pop(name, None)
                self.use.pop(name, None)
                self.pending.pop(name, None)
                self.landed.pop(name, None)

    def forget_seen(self) -> None:
        """Forget what the provider showed: another replica acts from now on, and changes it."""
        with self.lock:
            self.seen.clear()


class Memory:
    """Remembers the targets of one provider and one store. Safe for many threads."""

    def __init__(
        self, kept: Kept | None = None, served: dict[str, Record] | None = None, *, is_swept: bool = False
    ) -> None:
        """`kept` is passed to the memory after a reload. `served` are the records of current keys, which all memories
        of one provider share. `is_swept`: this process also sweeps, and calls `swept` after each sweep.
        """
        self.kept = Kept() if kept is None else kept
        self.seen, self.pending, self._noting = self.kept.seen, self.kept.pending, self.kept.lock
        self._is_swept = is_swept
        self._made: dict[str, Mapping[str, Made]] = {}  # by target; a version is destroyed when its key's grace is over
        self._emptied: set[str] = set()  # the targets whose path is absent, though keys of it are known
        self._whole: dict[str, int] = {}  # the version at which a path held no other key of ours; 0: it may hold one
        self._served = {} if served is None else served  # the record of the current key at the last look
        self._as_made: set[str] = set()  # the targets whose current key was made for its version
        self._shown: dict[str, str] = {}  # the id of a key that was served so, and that the provider's list has shown

    # --- of the path -----------------------------------------------------------------------------------------------

    def recall(self, observation: Observation) -> Mapping[str, KeyObservation]:
        """Return what the provider showed of the keys that the path holds now; forget what it showed of others.

        Note what the path serves, for `note_listed`.
        """
        name, current = observation.target.name, observation.current
        held = {entry.record.key_id: entry.record for entry in observation.entries if entry.record}
        if observation.history.current_version:
            self._emptied.discard(name)
        elif name in self._served:
            self._emptied.add(name)
        if observation.served:
            self._served[name] = observation.served
        else:
            self._served.pop(name, None)
        if current and current.is_as_made:
            self._as_made.add(name)
        else:
            self._as_made.discard(name)
        with self._noting:
            if seen := {key_id: seen for key_id, seen in self.seen.get(name, {}).items() if key_id in held}:
                self.seen[name] = seen
            else:
                self.seen.pop(name, None)
            replaced_at = _replaced(observation) if name in self.kept.use else {}
            if used := {
                key_id: series.marked(replaced_at[key_id]) if key_id in replaced_at else series
                for key_id, series in self.kept.use.get(name, {}).items()
                if key_id in held
            }:
                self.kept.use[name] = used
            else:
                self.kept.use.pop(name, None)
        if shown := held.get(self._shown.get(name, "")):
            return {shown.key_id: KeyObservation(observation.as_recorded(shown), at_version=0), **seen}
        return seen

    def served(self, target: Target) -> Record | None:
        """Return the record of the key that the path served at the last look."""
        return self._served.get(target.name)

    def use(self, target: Target) -> Mapping[str, UseSeries]:
        """Return what the provider showed of the use of the keys that the path held at the last `recall`."""
        return self.kept.use.get(target.name, {})

    def settle(self, observation: Observation, *, whole: bool) -> None:
        """Forget a pending key once the path has moved on; if it landed, keep its version for `take_landed`.

        The newest version does not show that where it is a later one: `whole` is whether this is the whole history.
        """
        name, current_version = observation.target.name, observation.history.current_version
        with self._noting:  # a sweep and a pass may both look at this target
            pending = self.pending.get(name)
            if pending is None or current_version <= pending.base or not (whole or current_version == pending.base + 1):
                return
            if self.pending.pop(name, None) is None:
                return  # another pass has settled it meanwhile
            landed = next((entry for entry in observation.entries if entry.key_id == pending.record.key_id), None)
            if landed:
                self.kept.landed[name] = pending, landed.number

    def take_landed(self, target: Target) -> tuple[PendingKey, int] | None:
        """Return the key whose write was settled late, and the version that it became; to one caller alone."""
        return self.kept.landed.pop(target.name, None)

    def note_whole(self, observation: Observation) -> None:
        """Note that this is the whole history."""
        others = {entry.key_id for entry in observation.entries} - {observation.served_id, None}
        self._whole[observation.target.name] = 0 if others else observation.history.current_version

    def made(self, observation: Observation) -> Mapping[str, Made]:
        """Return how the path's latest keys were made, with those that it no longer holds."""
        name = observation.target.name
        with self._noting:
            made = self._made[name] = made_keys(self._made.get(name, {}), observation.entries)
            return made

    def emptied(self, target: Target) -> None:
        """Note that the provider has live keys of this path, which is absent."""
        self._emptied.add(target.name)

    def is_emptied(self, target: Target) -> bool:
        """Return whether the path is absent, though it has held a key, or the provider has live ones of it."""
        return target.name in self._emptied

    def published(self, target: Target, record: Record, at: datetime) -> None:
        """Note that this process has published this key, `at` the store's time."""
        self._served[target.name] = record
        with self._noting:
            made = self._made.get(target.name, {})
            self._made[target.name] = {**made, record.key_id: Made(record.params, at)}

    def require_whole(self, target: Target) -> None:
        """Read the whole history from now on, until the path holds no other key than the current one."""
        self._whole[target.name] = 0

    def newest_may_suffice(self, target: Target) -> bool:
        """Return whether reading the newest version alone may be enough."""
        known = self._whole.get(target.name)
        return self._is_swept if known is None else known != 0

    def newest_suffices(self, observation: Observation, now: datetime) -> bool:
        """Return whether this, which is the newest version alone, shows as much as the whole history."""
        current = observation.current
        if current is None or current.record is None:
            # While this is so, nothing is done about any other version. But the next record is to hold what they show.
            return not observation.target.caps.replaces
        target, known = observation.target, self._whole.get(observation.target.name)
        if known is None:
            grace = target.grace_period + target.grace_extension
            is_old = observation.clock_trusted and now - current.created_at > grace
            is_enough = self._is_swept and is_old
        else:
            is_enough = known == current.number
        if not is_enough or not current.is_as_made:
            return False
        self._whole.setdefault(target.name, current.number)
        return True

    # --- of the provider -------------------------------------------------------------------------------------------

    def swept(self, *, complete: bool) -> None:
        """Note a sweep. It proves nothing unless it compared the whole list with all paths (`complete`)."""
        self._is_swept = complete
        if not complete:
            self._whole.clear()

    def note_listed(self, target: Target, scope: Scope, key: ProviderKey) -> bool:
        """Note that the provider's list has shown this key under this path's name; return whether it was.

        Only if it was served at the last look and had been ever since it was made, and has its whole life before it.
        """
        served = self._served.get(target.name) if target.name in self._as_made else None
        if served is None or served.key_id != key.id:
            return False
        if key.name != served.key_name or not scope.owns(key.name):
            return False  # a forger may have written another path's key id there
        if key.expires_at is not None and key.expires_at < served.expires_at - TOLERANCE:
            return False
        self._shown[target.name] = served.key_id
        return True

    def note_use(self, target: Target, key: ProviderKey, *, alone: bool) -> Mapping[str, UseSeries]:
        """Keep what the provider showed of a key's use, and return what is known of the target's keys.

        `alone`: in a look-up of this key, not in the list. One that shows fewer caps than the list counts as showing
        none: the list's numbers stay. So do those of a look-up where the list shows fewer.
        """
        with self._noting:
            known = self.kept.use.get(target.name, {})
            series = known.get(key.id)
            shows_less = series is not None and (key.use is None or not key.use.shows_all_of(series.latest))
            stays = series is not None and shows_less and (alone or series.is_shown_alone)
            if key.use is not None and not stays:
                series = series_with(series, key.use)
            if series is not None:
                series = replace(series, is_shown_alone=not shows_less) if alone else series
                known = self.kept.use[target.name] = {**known, key.id: series}
            return known

    def is_as_at_last_look(self, target: Target, scope: Scope, key: ProviderKey, now: datetime) -> bool:
        """Return whether the provider's list shows a path's only key just as the last look at the path found it.

        Then `note_listed` has noted it. Not where the path held another key of ours at that look, or where more is
        known of its keys.
        """
        served, name = self._served.get(target.name), target.name
        lives = served is not None and served.expires_at > now and not key.expires_by(now)
        is_all = self.newest_may_suffice(target) and not self.seen.get(name) and name not in self.pending
        return lives and is_all and self.note_listed(target, scope, key)

    def in_use(self, provider: str) -> Iterator[Record]:
        """Yield the records of this provider's keys that this process knows to be served, or about to be."""
        yield from [*self._served.values()]
        yield from [pending.record for pending in [*self.pending.values()] if pending.provider == provider]

    def note(
        self,
        observation: Observation,
        key_id: str,
        key: ProviderKey | None,
        *,
        listed: bool = False,
        asked: Asked | None = None,
        looked_up_at: datetime | None = None,
    ) -> Observation:
        """Add what the provider showed of one key to the observation, and keep it for later passes.

        `listed`: in its list, which may be older than any version of the path. `asked`: the request that was just made.
        It is kept while the provider shows the same expiry. `looked_up_at`: now, if the key was looked up alone.
        """
        if key is not None and observation.is_another(key):
            key = None
        at_version, name = 0 if listed else observation.history.current_version, observation.target.name
        with self._noting:  # a sweep and a pass may both be learning about this target
            before = self.seen.get(name, {}).get(key_id)
            if asked is None and before and before.key and key and before.key.expires_at == key.expires_at:
                asked = before.asked
            looked_up_at = looked_up_at or (before.looked_up_at if before else None)
            seen = KeyObservation(key, at_version, asked, looked_up_at)
            self.seen[name] = {**self.seen.get(name, {}), key_id: seen}
        return replace(observation, shown={**observation.shown, key_id: seen})


def _replaced(observation: Observation) -> Mapping[str, datetime]:
    """Return when each superseded key of the path was replaced."""
    current = observation.current
    keys = superseded_keys(observation, current) if current and current.record else ()
    return {key.key_id: key.since for key in keys}
