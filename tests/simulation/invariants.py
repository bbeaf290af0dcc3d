"""What must hold, judged by the whole truth after every effect, whatever the answers were.

Nothing here asks rotator's own code whose a version is, what is superseded, or since when: its wrong answers are what
is looked for. People's deeds weaken a promise for exactly what they touched, and until the truth is clear again: a key
that a person rolled the path back to may be about to expire, and must be restored; from then on it is a key like any
other, but for what was begun before by one who could not know of the deed.
"""

import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from support.world import HOUR, START, IssuedKey

from rotator.core.errors import ProviderError, RotatorError
from rotator.core.expiry import NEVER, TOLERANCE
from rotator.core.keys import KeyName
from rotator.core.reasons import State
from rotator.core.target import Target
from rotator.core.versions import RECORD_FIELD
from rotator.protocol.observer import MAX_AGE, MAX_READ
from simulation.caps import EARLY_WHY, Caps
from simulation.consumers import Meter
from simulation.intent import Intent
from simulation.windows import permitted_at
from simulation.world import LaggingVendor, RememberingStore, shown_id

SERVED = "the served key was ended by us"
GRACE_CUT = "grace was cut short"
SECOND_GRACE = "a key on its way out was given one more grace by a sweep that had not looked it up"
NOT_OURS = "a foreign key was touched"
DROPPED = "a foreign field was dropped"
ANOTHERS = "a key was published that was not made for its path"
UNPROVEN = "a key was made that could not be stored"
REPEATED = "a create was repeated blindly"
HEAPED = "a key was made while another one of the same process was waiting to be written"
IN_VAIN = "a key that was made in vain was left, and nothing was in the way of removing it"
NEEDLESS = "a key was replaced that was not due"
MASS = "most served keys were replaced because the provider did not know them"
NOT_HELD = "what a person had rolled back to was replaced at once"
TOO_LONG = "a key is served that lives longer than was asked for"
DEAD = "a key was published that was asked for with an end in the past"
LATE = "a served key has expired, though there was time to replace it"
UNDONE = "a pass went well and left undone what was due"
TOO_MANY = "a sweep ended more keys than it may"
UNSETTLED = "a sweep ended a key that may still have been on its way"
OLD = "something was done on old knowledge"
IDLE = "a replica that does not lead did something on its own"
DOUBTED = "a sweep that nothing disturbed does not know a served key that lives"
ENDLESS = "two programs replaced each other's keys again and again"
LEAKED = "a key of ours is left over"
NOT_HEALED = "the served key does not work, and is not replaced"
FAULT = "a fault in rotator"

UNDER_WAY = 30.0
"""Seconds: when a schedule ends, a key this young may be on its way into its version."""

ENOUGH = 3
"""Passes that nothing disturbed, and so could have replaced a key that was due; one may lose against another's."""

TURNS = 3
"""How often a process may replace another's key for its parameters, until it knows that the other does the same."""

NEVER_ENDS = float("inf")

MINUTE = timedelta(minutes=1)

ROUNDING = 1e-3
"""Seconds by which two clocks may differ on one moment."""

SOMEBODYS = "note"
"""A field that only people write."""

LATER = "mood=later"
"""A field of a record that only a later version of rotator writes."""


@dataclass(slots=True)
class Weak:
    """A promise that a person's deed has weakened; it holds again once the key has its whole life before it."""

    at: float
    healed: bool = False


@dataclass(frozen=True, slots=True)
class Held:
    """What a person rolled back to is not replaced before this."""

    until: datetime
    number: int  # the version that the rollback became


@dataclass(frozen=True, slots=True)
class Asked:
    """A key that was asked for: for which path, until when it was to live, and by which process, between two deaths."""

    path: str
    until: datetime
    life: str


@dataclass(frozen=True, slots=True)
class Unsettled:
    """A new key whose write was refused or not answered, and as of when."""

    key: IssuedKey
    base: int
    since: float


@dataclass(slots=True)
class Place:
    """The truth of one target's path."""

    target: Target
    served: IssuedKey | None = None
    served_since: float = 0.0
    foreign: bool = False  # the newest version is foreign
    forged: bool = False  # the newest version has a forged record of ours
    others: dict[int, str] = field(default_factory=dict)  # versions that people made: "foreign" or "forged"
    weakened: dict[str, Weak] = field(default_factory=dict)  # keys that people brought back, or may have
    cut_at: dict[str, float] = field(default_factory=dict)  # when one of those was ended early, on old knowledge
    superseded: dict[str, datetime] = field(default_factory=dict)  # when a key was last replaced here
    names: set[str] = field(default_factory=set)  # of the fields that were ever configured
    changed_at: float = -1.0  # when its configuration last did
    held: Held | None = None
    well_passes: int = 0  # that nothing disturbed, since the served key was due
    reset_at: float = -1.0  # when the path was deleted with its metadata
    undeleted_at: float = -1.0  # when its versions last changed without a new one: no compare-and-set notices that
    revoked_at: float = (
        -1.0
    )  # when a key was last revoked: the versions that show when others were superseded go as well
    ours_at: float = -1.0  # when its newest version last became ours again
    touched_at: float = -1.0  # when it was last changed by hand
    served_dead: bool = False  # whether it ever served a key that did not work


class Truth:
    """Follows every effect. `broken` is the first promise that did not hold, in words; then a schedule ends."""

    def __init__(
        self,
        targets: tuple[Target, ...],
        store: RememberingStore,
        vendor: LaggingVendor,
        *,
        skew: float = 0.0,
        wrong: float = 0.0,
        settle: float = 0.0,
        strict: bool = False,
        removal: float = 0.0,
        promises: Collection[str] = (),
        meter: Meter | None = None,
    ) -> None:
        """`strict`: people only roll back, and nothing is stale or late: then no served key is deleted, even so.

        `removal`: the seconds in which a sweep and a pass remove a key whose grace is over, and that no expiry ends.
        `promises`: only these are looked at; all when there are none.
        """
        self.places = {target.path: Place(target) for target in targets}
        self.broken: str | None = None
        self._promises = frozenset((*promises, FAULT)) if promises else frozenset()
        self._store, self._vendor, self._strict = store, vendor, strict
        self._leeway = TOLERANCE + timedelta(seconds=2 * skew)
        self._rounded = self._leeway + timedelta(seconds=1 + abs(vendor.rounds))
        self._removal = timedelta(seconds=removal)
        self._wrong = timedelta(seconds=wrong)
        self._settled = settle - 2 * skew
        self.caps = Caps(meter, vendor, store.now, self._rounded, self.break_) if meter else None
        self._asked: dict[str, Asked] = {}  # by a key's name
        self._unsettled: dict[tuple[str, str], Unsettled] = {}  # by a process's life, and a path
        self._in_vain: dict[str, dict[str, float]] = {}  # by a process's life: keys to be removed, and since when
        self._revoked: set[str] = set()  # keys that a person wanted to end at once
        self._refused: set[str] = set()  # keys of which a change was refused: one that cannot be restored is replaced
        self.not_shown: set[str] = set()  # keys of which a look-up was refused, as if there were no such id
        self.denied: set[str] = set()  # keys that a look-up did not find, though they are there
        self._on_its_word: dict[str, set[str]] = {}  # by a process's life: paths whose keys it replaced because of that
        self._prolonged: dict[str, float] = {}  # when a key was last given a later end
        self._drifted: Counter[tuple[str, str]] = Counter()  # by a process's life and a path: keys replaced so
        self._extended: dict[str, datetime] = {}  # until when, by a person's word
        self.quiet_since = NEVER_ENDS  # when the last thing went wrong
        self.ours_at = -1.0  # when a path's newest version last became ours again
        self.came_late: set[str] = set()  # keys that were made after their sender had given up
        self.strangers: set[str] = set()  # keys that are not ours

    # --- what we do ----------------------------------------------------------------------------------------------

    def break_(self, promise: str, how: str) -> None:
        if self.broken is None and (not self._promises or promise in self._promises):
            self.broken = f"{promise}: {how}"

    def asked_for(self, name: str, until: datetime, intent: Intent) -> None:
        """A create is sent."""
        if intent.made or name in self._asked:
            self.break_(REPEATED, f"a second create in one pass, or of one name, for {intent.path}")
        self._asked[name] = Asked(intent.path, until, intent.life)
        intent.made_by_read_at = intent.read_at
        if until > self._store.now() + self.places[intent.path].target.ttl + self._leeway + self._wrong:
            self.break_(TOO_LONG, f"{name} was asked for until {_clock(until)}")
        if not intent.proven:
            self.break_(UNPROVEN, f"{name} was requested before {intent.path} was proven writable")
        self._judge_waiting(name, intent)
        if intent.scheduled and not intent.leads:
            self.break_(IDLE, f"{name} was asked for")

    def unsettled(self, path: str, data: Mapping[str, Any], base: int, intent: Intent) -> None:
        """A write was sent, and refused or not answered."""
        key = self._vendor.by_text(data.get(self.places[path].target.key_field))
        waiting = self._unsettled.get((intent.life, path))
        if key and (key.name in intent.made or (waiting and waiting.key is key)):
            self._unsettled[intent.life, path] = Unsettled(key, base, self._store.monotonic())

    def _judge_waiting(self, name: str, intent: Intent) -> None:
        waiting, place = self._unsettled.get((intent.life, intent.path)), self.places[intent.path]
        parsed = KeyName.parse(name)
        if waiting is None or parsed is None or not intent.trusts_its_clock or place.changed_at >= 0:
            return
        is_for_this = parsed.version - 1 == waiting.base == self._store.current_version(intent.path)
        key, due = waiting.key, self._own_due(place, waiting.key)  # no window lets a key wait that is due
        lives = (
            key.id not in self.not_shown
            and self._vendor.alive(key)
            and (key.expires_at is None or key.expires_at >= key.granted - self._leeway)
        )
        if is_for_this and place.reset_at < 0 and lives and due and self._store.now() + self._rounded < due:
            self.break_(HEAPED, f"{name} was asked for, and {key.id} is waiting")

    def begins_to_change(self, intent: Intent, *, guarded: bool = False) -> None:
        """Something is sent that acts on what a read has shown. `guarded`: by compare-and-set."""
        age, took = self._store.monotonic() - intent.read_at, intent.read_took
        if (age > MAX_AGE or took > MAX_READ) and not (guarded or intent.by_person or intent.extending):
            self.break_(OLD, f"{intent.path or 'a path'} was read {age:.1f} s before, in {took:.1f} s")
        if intent.scheduled and not intent.leads:
            self.break_(IDLE, f"on {intent.path}")

    def begins_to_end(self, key_id: str, ends: datetime | None, intent: Intent) -> None:
        """A new expiry is sent, or (None) that a key be removed."""
        key = self._vendor.keys.get(key_id)
        asked = key and self._asked.get(key.name)
        if key is None or key.name in intent.made or intent.extending:
            return
        if asked and (asked.life == intent.life or intent.tidying) and not self._was_published(key):
            return  # its maker knows best that it can never be served
        self.begins_to_change(intent)
        if not intent.sweeping or not intent.trusts_its_clock:
            return
        if self._vendor.age(key) < self._settled and self._vendor.alive(key):
            self.break_(UNSETTLED, f"{key_id} is {self._vendor.age(key):.0f} s old")
        if ends is None and (self._vendor.traits.can_set_expiry or not self._vendor.alive(key)):
            return
        intent.shortened.add(key_id)
        if len(intent.shortened) > intent.max_orphans:
            self.break_(TOO_MANY, f"{key_id} is number {len(intent.shortened)}")
        if ends is None:
            return
        prolonged = key.expires_at is not None and ends > key.expires_at + self._leeway
        if prolonged and key_id not in intent.retrieved and self._vendor.alive(key):
            self.break_(SECOND_GRACE, f"{key_id} was to end at {_clock(key.expires_at or ends)}")

    def written(self, path: str, number: int, intent: Intent, before: Mapping[str, Any]) -> None:
        """A write of ours has landed; `before` is what the path served until then."""
        place = self.places[path]
        old_counter = intent.since <= place.reset_at
        if place.foreign and not intent.adopting and not old_counter and intent.since > place.undeleted_at:
            self.break_(NOT_OURS, f"version {number} of {path} was written over foreign data")
        after = self._store.read(path) or {}
        previous = self._store.versions(path).get(number - 1)
        if number - 1 in place.others and (after == before or (previous and after == previous.data)):
            place.others[number] = place.others[number - 1]  # a fence repeats what is there, or was deleted since
        self._judge_record(place, after)
        if not old_counter and place.touched_at < intent.since:
            self._judge_carried(place, before, after)
            self._judge_need(place, intent)
        replaced, since = place.served, place.served_since
        self._serve(place, by_hand=intent.by_person or old_counter, rolled_back=intent.by_person)
        key = place.served
        if self.caps and key and key is not replaced and not (intent.sweeping or intent.by_person):
            trusted = intent.trusts_its_clock
            self.caps.published(place.target, after, key, replaced, since, is_clock_trusted=trusted)
        asked = self._asked.get(key.name) if key else None
        of_a_pass = not (intent.sweeping or intent.by_person) and key is not None and key.text not in before.values()
        if key and of_a_pass and (asked is None or asked.path != path):
            self.break_(ANOTHERS, f"{key.id} ({key.name}) in {path}")
        if key and asked and not intent.sweeping and key.id not in self._extended:
            ends = key.expires_at if self._vendor.traits.can_set_expiry else _recorded_end(after)
            if ends is None or ends > asked.until + self._rounded:
                self.break_(TOO_LONG, f"{key.id} of {path} ends {_clock(ends) if ends else 'never'}")
            if asked.until <= self._store.now() and not old_counter and self._vendor.age(key) < UNDER_WAY:
                self.break_(DEAD, f"{key.id} of {path} was asked for until {_clock(asked.until)}")

    def _judge_carried(self, place: Place, before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
        ours = {RECORD_FIELD, *place.names, place.target.key_field, *place.target.extra_fields}
        for name, value in before.items():
            if name not in ours and self._vendor.by_text(value) is None and after.get(name) != value:
                self.break_(DROPPED, f"{name} of {place.target.path}")

    def _judge_record(self, place: Place, after: Mapping[str, Any]) -> None:
        """A key's record stays the same wherever that key is published again."""
        path, field = place.target.path, place.target.key_field
        same = [put for put in self._store.puts if put.path == path and after.get(field) in put.data.values()]
        if any(LATER in str(put.data.get(RECORD_FIELD)) for put in same) and LATER not in after.get(RECORD_FIELD, ""):
            self.break_(DROPPED, f"a field in the record of {path} that a later version of rotator wrote")

    def _judge_need(self, place: Place, intent: Intent) -> None:
        """A new key is published: was the old one due, unless a person touched it?"""
        key = place.served
        if key is None or place.foreign or place.forged or not intent.scheduled or not intent.trusts_its_clock:
            return
        if place.changed_at >= 0:
            return  # what is configured otherwise is replaced
        written = self._store.read(place.target.path) or {}
        is_early = EARLY_WHY in str(written.get(RECORD_FIELD)) or not intent.made  # one that waited, for any reason
        if self.caps and place.target.caps.replaces and is_early:
            return  # see `Caps`
        if key.text in written.values() or key.revoked or key.id in self._refused:
            return
        if key.expires_at is not None and key.expires_at <= self._store.now() + self._leeway:
            return
        last_resort = key.expires_at - place.target.lead / 4 if key.expires_at else NEVER
        if place.target.pause_until and self._store.now() + self._leeway >= last_resort:
            return  # it could not be extended
        if key.id in self.denied:
            self._judge_mass(place, intent)
            return
        if self._prolonged.get(key.id, -1.0) >= place.served_since:
            return  # another replica has restored it, and this one may remember when it was to end
        life = key.granted - self._store.now() + timedelta(seconds=self._vendor.age(key))
        if key.expires_at and key.expires_at < key.granted and life > 2 * place.target.ttl - self._leeway:
            return  # made by a clock that was hours ahead, and cut short: no key is prolonged that far
        due = self._due(place, key)
        took = UNDER_WAY
        if intent.made:  # a process may have been frozen since
            took = max(took, self._store.monotonic() - intent.made_by_read_at)
        began_at = self._store.now() - timedelta(seconds=took)  # maybe in a window that has closed since
        at_begin = self._due(place, key, began_at)
        if due is None or at_begin is None or self._store.now() + self._rounded >= min(due, at_begin):
            return
        held = place.held is not None and due == place.held.until
        self.break_(NOT_HELD if held else NEEDLESS, f"{key.id} of {place.target.path} is due at {_clock(due)}")

    def _judge_mass(self, place: Place, intent: Intent) -> None:
        """A key that works was replaced because a look-up did not find it: between two sweeps that is done once."""
        due = self._due(place, place.served) if place.served else None
        if due is None or self._store.now() + self._rounded >= due:
            return
        paths = self._on_its_word.setdefault(intent.life, set())
        paths.add(place.target.path)
        if len(paths) > 1 and 2 * len(paths) > len(self.places):
            self.break_(MASS, f"{', '.join(sorted(paths))}")

    def unknown(self, paths: Collection[str], intent: Intent) -> None:
        """A sweep has found that the provider does not know the served keys of these paths."""
        if intent.disturbed or intent.since < self.quiet_since:
            return
        for place in (self.places[path] for path in paths):
            key = place.served
            if key is not None and self._vendor.alive(key) and place.served_since < intent.since:
                self.break_(DOUBTED, f"{key.id} of {place.target.path}")

    def compared(self, life: str) -> None:
        """A sweep of this process has come to its end."""
        self._on_its_word.pop(life, None)

    def _due(self, place: Place, key: IssuedKey, now: datetime | None = None) -> datetime | None:
        """When this key, served here, is to be replaced; None when it was not made for this path."""
        own_due = due = self._own_due(place, key)
        if due is None or own_due is None:
            return None
        target, held = place.target, place.held
        # It is by the version before that a rollback is known: not if it is deleted, for it may have held any key.
        before = self._store.versions(target.path).get(held.number - 1) if held else None
        if held and before and (before.destroyed or not before.deleted):
            due = max(due, held.until)
        end = max(key.granted, key.expires_at or key.granted)  # a pause may have extended it
        reserve = (key.granted - own_due) / 4
        return permitted_at(target, due, end, reserve, now or self._store.now())

    def _own_due(self, place: Place, key: IssuedKey) -> datetime | None:
        """When this key is due by its own end alone; None when it was not made for this path."""
        asked, target = self._asked.get(key.name), place.target
        if asked is None or asked.path != target.path:
            return None
        life = key.granted - (asked.until - target.ttl)
        return key.granted - target.lead * min(1.0, max(0.0, life / target.ttl))

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
                self.break_(NOT_OURS, f"version {number} of {path} carries foreign data and was destroyed")

    def destroyed(self, path: str) -> None:
        """They are."""
        self._serve(self.places[path], by_hand=True)

    def ending(self, key_id: str, ends: datetime | None, intent: Intent, *, asked: datetime | None = None) -> None:
        """A key is about to be given this expiry, or (None) to be removed now. `asked`: what it was made of."""
        key = self._vendor.keys.get(key_id)
        if key and key.expires_at and ends and ends > key.expires_at:
            self._prolonged[key_id] = self._store.monotonic()
        if key is None or not self._vendor.alive(key):
            return
        if key_id in self.strangers:
            self.break_(NOT_OURS, f"{key_id} ({key.name}), a key that is none of ours, was changed")
        at = self._store.now() if ends is None else ends
        if intent.extending:
            # One that lands after another undoes it; the provider has no compare-and-set.
            overtaken = self._prolonged.get(key_id, -1.0) >= intent.since
            self._extended[key_id] = at if overtaken else max(at, self._extended.get(key_id, at))
        if intent.revoking and intent.path:
            self.places[intent.path].revoked_at = self._store.monotonic()
            self._revoked.add(key_id)
        for place in self.places.values():
            self._judge_extended(place, key, ends, intent)
            if intent.since <= place.reset_at:
                place.weakened[key_id] = Weak(self._store.monotonic())
            promised = self._promised(place, key)
            if promised is None or at >= promised - self._leeway or (place.served is not key and intent.revoking):
                continue
            if asked is not None and asked >= promised - self._leeway:
                continue  # rounded down by the provider: see `passed`
            weak = place.weakened.get(key_id)
            excused = weak is not None and (not weak.healed or intent.since <= weak.at)
            if weak and excused and not (place.served is key and ends is None and self._strict):
                weak.healed = False
                place.cut_at[key_id] = self._store.monotonic()
                continue
            path = place.target.path
            if place.served is key:
                self.break_(SERVED, f"{key_id}, which {path} serves, would end at {_clock(at)}")
            else:
                how = f"{key_id} of {path} would end at {_clock(at)}, and was promised until {_clock(promised)}"
                self.break_(GRACE_CUT, how)
        if key_id in self._extended and not intent.extending:  # a rollback to it restores the recorded expiry
            self._extended[key_id] = min(at, self._extended[key_id])

    def _judge_extended(self, place: Place, key: IssuedKey, ends: datetime | None, intent: Intent) -> None:
        since = place.superseded.get(key.id)
        if self.caps is None or since is None or ends is None or key.expires_at is None or ends <= key.expires_at:
            return
        if intent.extending or intent.sweeping or intent.by_person or key.id in self._extended:
            return
        # To one that reads the path as it was before, the key is served still, and has to be restored.
        is_stale = intent.is_stale or intent.read_at - intent.read_took <= _seconds(since)
        if not is_stale and max(place.touched_at, place.revoked_at) < _seconds(since):
            self.caps.extended(place.target, key, since, ends)

    def refused(self, key_id: str) -> None:
        """A change of this key was refused."""
        self._refused.add(key_id)

    def passed(self, intent: Intent, error: RotatorError | None) -> None:
        """A pass over one path has come to its end."""
        if intent.disturbed or intent.by_person or intent.outdated:
            return
        place = self.places[intent.path]
        self._note_strays(intent, error)
        if place.foreign or place.forged or place.touched_at >= intent.since or not intent.trusts_its_clock:
            return
        if intent.scheduled and not intent.leads:
            return
        if self._is_ambiguous(place):
            return
        self._judge_served(place, intent, error)
        two_fields = place.others and len(place.names) > 1  # whose its older versions are depends on that, too
        if error is None and not two_fields:
            self._judge_superseded(place, intent)

    def _note_strays(self, intent: Intent, error: RotatorError | None) -> None:
        """Nothing went wrong but, perhaps, that a create was not confirmed: what it made is to be removed soon."""
        if error is not None and not isinstance(error, ProviderError):
            return
        for key in self._vendor.living():
            answered = intent.made.get(key.name)
            if answered is None or self._vendor.made_at(key) > answered or key.id in self.came_late:
                continue
            if not self._was_published(key):
                self._in_vain.setdefault(intent.life, {})[key.id] = answered

    def judged(self, intent: Intent, state: State) -> None:
        """A pass calls its target this."""
        place = self.places[intent.path]
        if self.caps and place.served and place.served_since < intent.since:
            self.caps.judged(place.target, place.served, state)

    def made_early(self, intent: Intent) -> None:
        """A pass has published a key because the one before it was nearly spent."""
        place = self.places[intent.path]
        if self.caps and place.served and place.served.name in intent.made:
            self.caps.made_early(place.target, place.served)

    def contest(self) -> None:
        """Two programs have different parameters for the first path: so a key that is not due may be replaced."""
        next(iter(self.places.values())).changed_at = 0.0

    def drifted(self, intent: Intent) -> None:
        """A pass has replaced a key because it was made with other parameters."""
        self._drifted[intent.life, intent.path] += 1
        if self._drifted[intent.life, intent.path] > TURNS and self.places[intent.path].changed_at == 0.0:
            self.break_(ENDLESS, f"{intent.life} did so {TURNS + 1} times in {intent.path}")

    def tidied(self, intent: Intent) -> None:
        """A process has looked for the keys that it had made in vain."""
        noted = self._in_vain.pop(intent.life, {})
        shown = self._store.monotonic() - intent.since + self._vendor.shown_after
        late = {key_id for key_id in noted if self._vendor.age(self._vendor.keys[key_id]) < shown}
        self._in_vain[intent.life] = {key_id: noted[key_id] for key_id in late}
        # A list of several pages has lost a key where another was removed.
        if intent.disturbed or self._vendor.removed_since(intent.since) - noted.keys():
            return
        for key_id in noted.keys() - late:
            key = self._vendor.keys[key_id]
            if any(self._was_published(other) for other in self._vendor.namesakes(key)):
                continue  # it has the id of a key that may be served, and is left to the sweep
            if self._vendor.alive(key) and not self._was_published(key):
                self.break_(IN_VAIN, f"{key.id} ({key.name})")

    def _was_published(self, key: IssuedKey) -> bool:
        return any(key.text in put.data.values() for put in self._store.puts)

    def _judge_served(self, place: Place, intent: Intent, error: RotatorError | None) -> None:
        key = place.served
        due = self._due(place, key) if key else None
        if key is None or key.revoked or due is None or place.served_since >= intent.since:
            return
        path = place.target.path
        # Of what a rollback is held by a version may have gone since the pass has read it.
        at_the_latest = max(due, place.held.until) if place.held else due
        # One that the vendor did not know in a pause may have been extended before: a sweep decides.
        may_be_extended = key.id in self.denied and place.target.pause_until is not None
        if intent.since >= _seconds(at_the_latest + self._rounded) and not (place.others or may_be_extended):
            place.well_passes += not intent.made_in_vain
            if error is None:
                self.break_(UNDONE, f"{key.id}, which {path} serves, was due at {_clock(due)}")
        ends, promised = key.expires_at, self._promised(place, key)
        # With a counter that was set back, only a sweep can find that it is served again.
        cut_since = place.reset_at >= 0 or place.cut_at.get(key.id, -1.0) > place.served_since
        # Once the provider did not know live keys, only a sweep decides what one is that it did not find. Of several
        # dead ones, all but one wait for a sweep.
        others_died = any(other.served_dead for other in self.places.values() if other is not place)
        in_doubt = key.id in self.denied or (not self._vendor.alive(key) and (bool(self.denied) or others_died))
        if error is None and not (cut_since or in_doubt) and ends and promised and ends < promised - self._leeway:
            self.break_(UNDONE, f"{key.id}, which {path} serves, still ends at {_clock(ends)}")

    def _judge_superseded(self, place: Place, intent: Intent) -> None:
        path, now = place.target.path, self._store.now()
        grace = place.target.grace_period
        for key_id, since in place.superseded.items():
            key = self._vendor.keys[key_id]
            asked = self._asked.get(key.name)
            if key_id in self._prolonged or key_id in self.denied:
                continue  # an answer with an earlier expiry may be remembered until a sweep
            began = max(place.touched_at, place.revoked_at) + ROUNDING
            known = began < _seconds(since) < intent.since - ROUNDING and now < since + grace - self._leeway
            if not known or key.revoked or asked is None or asked.path != path:
                continue
            promised = self._promised(place, key)
            versions = self._store.versions(path).values()
            ours = [v for v in versions if not (v.deleted or v.destroyed or v.number in place.others)]
            field = place.target.key_field  # its place, unless there is none: else another writer made it
            recorded = any(
                f"key_id={shown_id(key_id)}," in str(v.data.get(RECORD_FIELD))
                and v.data.get(field, key.text) == key.text
                for v in ours
            )
            cut = promised and key.expires_at and key.expires_at < promised - self._leeway
            # What was rounded down may have expired before the budget let the correction go.
            cut = cut and (self._vendor.alive(key) or not self._vendor.rounds)
            if cut and recorded and key_id not in place.weakened:
                self.break_(GRACE_CUT, f"{key_id} of {path} still ends {_clock(key.expires_at or now)}")
            if not self._vendor.alive(key):
                continue
            if not self._vendor.traits.can_set_expiry:
                continue  # see `check_end`
            ends_by = max(
                since + grace, min(now + place.target.idle_after, since + grace + place.target.grace_extension)
            )
            late = key.expires_at is None or key.expires_at > ends_by + self._rounded
            # To a provider that seems to round these are as near.
            near = [_ceiling(since + grace, unit) for unit in (MINUTE, HOUR)]
            late = late and not (key.expires_at and any(abs(key.expires_at - moment) <= TOLERANCE for moment in near))
            if late and recorded and key_id not in self._extended:
                ends = _clock(key.expires_at) if key.expires_at else "never"
                self.break_(UNDONE, f"{key_id}, superseded in {path} at {_clock(since)}, still ends {ends}")

    def _granted(self, key: IssuedKey) -> datetime:
        """Until when it may be relied on while it is served."""
        if not self._vendor.traits.keys_expire:
            return NEVER
        return max(key.granted, self._extended.get(key.id, key.granted))

    def _promised(self, place: Place, key: IssuedKey) -> datetime | None:
        """Until when this key must work; None when nothing was promised."""
        asked = self._asked.get(key.name)
        if asked is None or asked.path != place.target.path:
            return None  # a copy, which no process can know
        if place.served is key:
            is_as_recorded = key.id in place.weakened and self._vendor.traits.can_set_expiry  # for it was restored
            return key.granted if is_as_recorded else self._granted(key)
        since = place.superseded.get(key.id)
        if since is None or key.id in self._revoked:
            return None
        # An extension within a key's grace need not be known.
        later = self._prolonged.get(key.id, -1.0) > _seconds(since)
        return min(key.granted if later else self._granted(key), since + place.target.grace_period)

    def check(self) -> None:
        """What must hold at every moment."""
        now = self._store.now()
        for place in self.places.values():
            self._heal(place)
            key = place.served
            granted = self._promised(place, key) if key else None
            if key is None or granted is None:
                continue
            place.served_dead = place.served_dead or not self._vendor.alive(key)
            path = place.target.path
            replaced_by = granted if self._vendor.traits.keys_expire else key.granted
            if now >= replaced_by and place.well_passes >= ENOUGH and not (place.foreign or place.forged):
                self.break_(LATE, f"{key.id} of {path}, after {place.well_passes} passes")
            if now >= granted:
                continue
            weak = place.weakened.get(key.id)
            if weak and not weak.healed:
                continue
            ends = now if key.revoked else key.expires_at
            if ends is not None and ends < granted - self._leeway:
                self.break_(SERVED, f"{path} serves {key.id}, which we shortened before its time")

    def _heal(self, place: Place) -> None:
        for key_id, weak in place.weakened.items():
            key = self._vendor.keys[key_id]
            if weak.healed or key.revoked:
                continue
            promised = self._promised(place, key)
            if promised is None or key.expires_at is None or key.expires_at >= promised - self._leeway:
                weak.healed = True

    def configured(self, target: Target) -> None:
        """From now on the configuration of its path is this."""
        place = self.places[target.path]
        place.names |= {place.target.key_field, *place.target.extra_fields}
        place.target, place.changed_at = target, self._store.monotonic()

    # --- what people do ------------------------------------------------------------------------------------------

    def by_hand(self, path: str, kind: str = "", *, rolled_back: bool = False) -> None:
        """A person has changed the path; `kind`, when the newest version is "foreign" or "forged" now."""
        place = self.places[path]
        place.touched_at = self._store.monotonic()
        if kind:
            place.others[self._store.current_version(path)] = kind
        self._serve(place, by_hand=True, rolled_back=rolled_back)

    def hidden(self, path: str, data: Mapping[str, Any]) -> None:
        """A person has deleted or destroyed a version with this data: whether others hold its key is not known."""
        place = self.places[path]
        self.by_hand(path)
        for value in data.values():  # the field may have been another one then
            if key := self._vendor.by_text(value):
                place.weakened[key.id] = Weak(NEVER_ENDS)

    def undeleted(self, path: str, now: float) -> None:
        """A person has undeleted a version."""
        self.places[path].undeleted_at = now
        self.by_hand(path)

    def reset(self, path: str, now: float) -> None:
        """A person has deleted the path with its metadata: whatever was sent before may land as if it were new."""
        place = self.places[path]
        place.others.clear()
        place.reset_at = now
        place.held = None
        self.by_hand(path)
        place.weakened.update({key_id: Weak(now) for key_id in self._vendor.keys})

    def restored(self, path: str, number: int, now: float) -> None:
        """A person has restored the path's state from when this was its current version."""
        place = self.places[path]
        lost = place.served
        kept = {version: kind for version, kind in place.others.items() if version <= number}
        self.reset(path, now)
        place.others.update(kept)
        self._serve(place, by_hand=True)
        place.superseded.clear()  # each grace is counted by the old history
        held = [text for version in self._store.versions(path).values() for text in version.data.values()]
        if lost is not None and lost.text not in held:
            place.superseded[lost.id] = self._store.now()

    def revoked_by_hand(self, key: IssuedKey) -> None:
        """A person has removed a key at the provider: rotator did not end it."""
        for place in self.places.values():
            place.weakened[key.id] = Weak(self._store.monotonic())

    def is_left_alone_yet(self, key: IssuedKey) -> bool:
        """Return whether no process is about to end this key: it is served, or its grace is far from over."""
        soon = self._store.now() + MINUTE
        return any(
            place.served is key
            or (key.id in place.superseded and soon < place.superseded[key.id] + place.target.grace_period)
            for place in self.places.values()
        )

    # --- in the end ----------------------------------------------------------------------------------------------

    def check_healed(self) -> None:
        """After quiet and one sweep: each path serves a live key that nothing ends before its time."""
        for path, place in self.places.items():
            if self._left_alone(place):
                continue
            key = place.served
            if key is None or not self._vendor.alive(key):
                self.break_(NOT_HEALED, f"{path} serves {key.id if key else 'no key'}")
            elif key.expires_at is not None and key.expires_at < key.granted - self._leeway:
                self.break_(NOT_HEALED, f"{key.id}, which {path} serves, is still to end before its time")

    def check_end(self) -> None:
        """After quiet and sweeps: no key of ours is alive but what is served, under whatever field, or in grace."""
        self.check_healed()
        now = self._store.now()
        allowed = {key.id for place in self.places.values() for key in self._in_place(place, now)}
        for key in self._vendor.living():
            asked = self._asked.get(key.name)
            under_way = self._vendor.age(key) < UNDER_WAY
            place = self.places[asked.path] if asked else None
            if place is None or self._left_alone(place) or key.id in allowed or under_way:
                continue
            grace_ends = now + place.target.grace_period + self._rounded
            found_at = max(self._vendor.made_at(key), place.ours_at)
            if found_at >= self.quiet_since and key.expires_at and key.expires_at <= grace_ends:
                continue  # a sweep has found it by now, and what it gave is not over
            removed_by = START + timedelta(seconds=found_at) + place.target.grace_period + 2 * self._removal
            if found_at >= self.quiet_since and self._removal and now < removed_by:
                continue
            ends = _clock(key.expires_at) if key.expires_at else "never"
            self.break_(LEAKED, f"{key.id}, made for {place.target.path}, still works and ends {ends}")

    def _in_place(self, place: Place, now: datetime) -> Iterator[IssuedKey]:
        for value in (self._store.read(place.target.path) or {}).values():
            if key := self._vendor.by_text(value):
                yield key
        for key_id, since in place.superseded.items():
            target = place.target
            if now < since + target.grace_period + target.grace_extension + self._rounded + self._removal:
                yield self._vendor.keys[key_id]

    def _left_alone(self, place: Place) -> bool:
        if place.forged or (place.foreign and not place.target.adopt) or self._is_ambiguous(place):
            return True
        # A key of another path has the id of the served one: it may have been renamed, so that is only reported.
        namesakes = self._vendor.namesakes(place.served) if place.served else []
        lately = self._vendor.removed_since(self.quiet_since)
        paths = {self._asked[key.name].path for key in namesakes if self._vendor.alive(key) or key.id in lately}
        return bool(paths - {place.target.path})

    def _is_ambiguous(self, place: Place) -> bool:
        """With a hand in it, and other texts under two names of its field: what it serves depends on who reads it."""
        data = self._store.read(place.target.path) or {}
        return bool(place.others) and len({data[name] for name in place.names if name in data}) > 1

    # --- what is served ------------------------------------------------------------------------------------------

    def _serve(self, place: Place, *, by_hand: bool, rolled_back: bool = False) -> None:
        """Take note of what the path serves now, and of what it did until now."""
        path = place.target.path
        data: Mapping[str, Any] = self._store.read(path) or {}
        texts = [data.get(place.target.key_field), *(data.get(name) for name in sorted(place.names))]
        key, before = next((key for text in texts if (key := self._vendor.by_text(text))), None), place.served
        number = self._store.current_version(path)
        kind = place.others.get(number) if data else None
        was_ours = before is not None and not place.foreign and not place.forged
        if (place.foreign or place.forged) and kind not in ("foreign", "forged"):
            place.ours_at = self.ours_at = self._store.monotonic()
        place.foreign, place.forged = kind == "foreign", kind == "forged"
        if key is not before:
            now = self._store.now()
            if before is not None:
                place.superseded[before.id] = now
            if key is not None:
                if by_hand:
                    place.weakened[key.id] = Weak(self._store.monotonic())
                place.superseded.pop(key.id, None)
            place.served, place.served_since, place.well_passes = key, self._store.monotonic(), 0
            previous = self._store.versions(path).get(number - 1)
            from_ours = was_ours or (previous is not None and previous.destroyed)  # by that it is known, too
            held = key is not None and rolled_back and from_ours and not kind
            rest = key.granted - now if key and self._vendor.traits.keys_expire else place.target.lead
            place.held = Held(now + rest / 2, number) if key and held else None
        self.check()


def _recorded_end(data: Mapping[str, Any]) -> datetime | None:
    found = re.search("expires_at=([^,]+)", str(data.get(RECORD_FIELD)))
    return datetime.fromisoformat(found[1]) if found else None


def _ceiling(moment: datetime, unit: timedelta) -> datetime:
    return moment + (START - moment) % unit


def _clock(moment: datetime) -> str:
    return f"{_seconds(moment):.1f}"


def _seconds(moment: datetime) -> float:
    return (moment - START).total_seconds()
