"""What must hold, judged by the whole truth after every effect, whatever anybody was answered.

Nothing here asks rotator's own code whose a version is, what is superseded, or since when: its wrong answers are what
is looked for. People's deeds weaken a promise for exactly what they touched: a key that somebody rolled the path back
to may be on its way out, and then has to be healed; the rest is held to the promises all the same.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from support.world import START, IssuedKey

from rotator.model import Target
from rotator.plan import TOLERANCE
from simulation.world import LaggingVendor, RememberingStore

SERVED = "the served key was ended by us"
GRACE_CUT = "grace was cut short"
NOT_OURS = "somebody else's was touched"
UNPROVEN = "a key was made that could not be stored"
REPEATED = "a create was repeated blindly"
LEAKED = "a key of ours is left over"
NOT_HEALED = "what is served is not alive, and nobody heals it"
FAULT = "a fault in rotator"

UNDER_WAY = 30.0
"""Seconds: when a schedule ends, a key this young may be on its way into its version."""

SOMEBODYS = "note"
"""A field that only people write."""


@dataclass(slots=True)
class Place:
    """The truth of one target's path."""

    target: Target
    served: IssuedKey | None = None
    foreign: bool = False  # the newest version is somebody else's
    forged: bool = False  # the newest version has a record of ours that somebody made up
    others: dict[int, str] = field(default_factory=dict)  # versions that people made: "foreign" or "forged"
    weakened: set[str] = field(default_factory=set)  # keys that people brought back, or may have
    superseded: dict[str, datetime] = field(default_factory=dict)  # when a key was last replaced here
    reset_at: float = -1.0  # when the path was deleted with its metadata
    undeleted_at: float = -1.0  # when its versions last changed without a new one: no compare-and-set notices that


class Truth:
    """Follows every effect. `broken` is the first promise that did not hold, in words; then a schedule ends."""

    def __init__(
        self, targets: tuple[Target, ...], store: RememberingStore, vendor: LaggingVendor, skew: float, *, strict: bool
    ) -> None:
        """`strict`: people only roll back, and nothing is stale or late: then no served key is deleted, even so."""
        self.places = {target.path: Place(target) for target in targets}
        self.broken: str | None = None
        self._store, self._vendor, self._strict = store, vendor, strict
        self._leeway = TOLERANCE + timedelta(seconds=2 * skew)
        self._asked: dict[str, str] = {}  # by a key's name: for which path it was asked
        self.strangers: set[str] = set()  # keys that are not ours

    # --- what we do ----------------------------------------------------------------------------------------------

    def break_(self, promise: str, how: str) -> None:
        if self.broken is None:
            self.broken = f"{promise}: {how}"

    def asked_for(self, name: str, path: str, *, proven: bool, before: int) -> None:
        """A create is sent, after so many in the same pass."""
        if before or name in self._asked:
            self.break_(REPEATED, f"a second create in one pass, or of one name, for {path}")
        self._asked[name] = path
        if not proven:
            self.break_(UNPROVEN, f"{name} was asked for, and nobody knows that {path} can be written")

    def written(self, path: str, number: int, *, since: float, by_person: bool, adopting: bool) -> None:
        """A write of ours has landed. `since`: as of when its sender knew the path; `by_person`: a typed `rollback`."""
        place = self.places[path]
        old_counter = since <= place.reset_at
        if place.foreign and not adopting and not old_counter and since > place.undeleted_at:
            self.break_(NOT_OURS, f"version {number} of {path} was written over somebody else's data")
        puts = [put.data for put in self._store.puts if put.path == path]
        if number - 1 in place.others and puts[-1] == puts[-2]:
            place.others[number] = place.others[number - 1]  # a fence repeats what is there
        self._serve(place, by_hand=by_person or old_counter)

    def destroying(self, path: str, numbers: Sequence[int], *, since: float) -> None:
        """Versions are about to be destroyed by us."""
        place = self.places[path]
        if since <= place.reset_at:
            return
        for number in numbers:
            version = self._store.versions(path).get(number)
            if version is None or version.destroyed:
                continue
            if number == self._store.current_version(path):
                self.break_(SERVED, f"version {number} of {path}, the current one, was destroyed")
            if place.others.get(number) == "foreign" or SOMEBODYS in version.data:
                self.break_(NOT_OURS, f"version {number} of {path} carries somebody else's data and was destroyed")

    def destroyed(self, path: str) -> None:
        """They are."""
        self._serve(self.places[path], by_hand=True)

    def ending(self, key_id: str, ends: datetime, *, delete: bool, revoking: bool, since: float) -> None:
        """A key is about to be given this expiry, or (`delete`) to be removed now."""
        key = self._vendor.keys.get(key_id)
        if key is None or not self._vendor.alive(key):
            return
        if key_id in self.strangers:
            self.break_(NOT_OURS, f"{key_id} ({key.name}), a key that is none of ours, was changed")
        for place in self.places.values():
            if since <= place.reset_at:
                place.weakened.add(key_id)
            promised = self._promised(place, key, revoking=revoking)
            served_by_hand = place.served is key and key_id in place.weakened
            if promised is None or (served_by_hand and not (delete and self._strict)):
                continue
            if ends < promised - self._leeway:
                path = place.target.path
                if place.served is key:
                    self.break_(SERVED, f"{key_id}, which {path} serves, would end at {_clock(ends)}")
                else:
                    how = f"{key_id} of {path} would end at {_clock(ends)}, and was promised until {_clock(promised)}"
                    self.break_(GRACE_CUT, how)

    def _promised(self, place: Place, key: IssuedKey, *, revoking: bool) -> datetime | None:
        """Until when this key must work; None when nothing was promised."""
        if place.served is key:
            return key.granted
        since = place.superseded.get(key.id)
        if since is None or revoking or key.id in place.weakened:
            return None
        return min(key.granted, since + place.target.grace_period)

    def check(self) -> None:
        """What must hold at every moment."""
        now = self._store.now()
        for place in self.places.values():
            key = place.served
            if key is None or key.id in place.weakened or now >= key.granted:
                continue
            ends = now if key.revoked else key.expires_at
            if ends is not None and ends < key.granted - self._leeway:
                path = place.target.path
                self.break_(SERVED, f"{path} serves {key.id}, which we let end before its time")

    # --- what people do ------------------------------------------------------------------------------------------

    def by_hand(self, path: str, kind: str = "") -> None:
        """Somebody has changed the path; `kind`, when the newest version is "foreign" or "forged" now."""
        if kind:
            self.places[path].others[self._store.current_version(path)] = kind
        self._serve(self.places[path], by_hand=True)

    def undeleted(self, path: str, now: float) -> None:
        """Somebody has brought a version back."""
        self.places[path].undeleted_at = now
        self.by_hand(path)

    def reset(self, path: str, now: float) -> None:
        """Somebody has deleted the path with its metadata: whatever was sent before may land as if it were new."""
        place = self.places[path]
        place.others.clear()
        place.reset_at = now
        self._serve(place, by_hand=True)
        place.weakened |= set(self._vendor.keys)

    def revoked_by_hand(self, key: IssuedKey) -> None:
        """Somebody has removed a key at the vendor: it cannot be ours to have ended it."""
        for place in self.places.values():
            place.weakened.add(key.id)

    # --- in the end ----------------------------------------------------------------------------------------------

    def check_healed(self) -> None:
        """After quiet and one sweep: each path serves a live key that nothing ends before its time."""
        for path, place in self.places.items():
            if place.foreign or place.forged:
                continue
            key = place.served
            if key is None or not self._vendor.alive(key):
                self.break_(NOT_HEALED, f"{path} serves {key.id if key else 'no key'}")
            elif key.expires_at is not None and key.expires_at < key.granted - self._leeway:
                self.break_(NOT_HEALED, f"{key.id}, which {path} serves, is still to end before its time")

    def check_end(self) -> None:
        """After quiet and sweeps: no key of ours is alive but what is served or in grace."""
        self.check_healed()
        now = self._store.now()
        allowed = {key.id for place in self.places.values() for key in self._in_place(place, now)}
        for key in self._vendor.living():
            path = self._asked.get(key.name, "")
            under_way = self._vendor.age(key) < UNDER_WAY
            if path and not self._left_alone(self.places[path]) and key.id not in allowed and not under_way:
                ends = _clock(key.expires_at) if key.expires_at else "never"
                self.break_(LEAKED, f"{key.id}, made for {path}, still works and ends {ends}")

    def _in_place(self, place: Place, now: datetime) -> Iterator[IssuedKey]:
        if place.served:
            yield place.served
        for key_id, since in place.superseded.items():
            if now < since + place.target.grace_period + self._leeway:
                yield self._vendor.keys[key_id]

    def _left_alone(self, place: Place) -> bool:
        return place.foreign or place.forged

    # --- what is served ------------------------------------------------------------------------------------------

    def _serve(self, place: Place, *, by_hand: bool) -> None:
        """Take note of what the path serves now, and of what it did until now."""
        data: Mapping[str, Any] = self._store.read(place.target.path) or {}
        key = self._vendor.by_text(data.get(place.target.field))
        kind = place.others.get(self._store.current_version(place.target.path)) if data else None
        place.foreign, place.forged = kind == "foreign", kind == "forged"
        if key is not place.served:
            if place.served is not None:
                place.superseded[place.served.id] = self._store.now()
            if key is not None:
                if by_hand:
                    place.weakened.add(key.id)
                place.superseded.pop(key.id, None)
            place.served = key
        self.check()


def _clock(moment: datetime) -> str:
    return f"{(moment - START).total_seconds():.1f}"
