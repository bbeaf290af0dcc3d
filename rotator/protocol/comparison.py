"""Compares a provider's list with the paths of its targets, one after the other.

The list is read first and the paths afterwards: a key that is published in between is found in its path. Only the first
sweep of a process leaves out paths that its first look has just read, where the list shows their served keys and no
other key of theirs: then there is no orphan to judge. The next look or sweep finds what has changed there since.

A list may be late, filtered or another account's. So it only confirms the names of keys. A served key that it lacks, or
shows with an early expiry, is looked up by its id before it counts as gone. Where the list lacks most served keys, a
few answers show whether it is right: the other keys are not looked up. The observer's memory keeps what was learned.
Replacing and restoring keys is left to passes over the targets that need one.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime

from rotator.core.errors import KeyUnreadable, ProviderError, RotatorError, ServedKeyMisnamed, StoreError
from rotator.core.expiry import TOLERANCE
from rotator.core.keys import ListedKey, ProviderKey, UnreadableKey
from rotator.core.observation import Observation
from rotator.core.orphans import Grace, Orphan, OrphanState, Sighting, by_place, orphans, sighting
from rotator.core.plan import Rotate, plan
from rotator.core.ports import Ports
from rotator.core.reasons import Reason
from rotator.core.target import Target
from rotator.core.versions import Record
from rotator.protocol.observer import Observer
from rotator.protocol.recognition import Recognition, is_most
from rotator.protocol.use_watch import is_known_to_be_nearly_spent

SAMPLE = 3
"""Look-ups in a row that find no key, in a list that lacks most served keys: then the others count as unknown."""


class Comparison:
    """What a provider's list and the paths of its targets show together.

    Call `compare` for each target, then `conclude` once.
    """

    def __init__(
        self,
        ports: Ports,
        keys: Mapping[str, ProviderKey],
        unreadable: Mapping[str, Sequence[UnreadableKey]],
        is_unsettled: Callable[[ProviderKey], bool],
        found_before: Callable[[ProviderKey], Grace | None],
        *,
        is_first: bool,
    ) -> None:
        """`keys` are the list's, by id; `unreadable` its other entries, by place.

        `is_first`: the process has not compared these targets before, but may have looked at them.
        """
        self._ports, self._keys, self._unreadable, self._is_unsettled = ports, keys, unreadable, is_unsettled
        self._found_before = found_before
        self._is_first = is_first
        self._left = by_place(keys.values())  # those of paths that were not compared yet
        self._flawed: dict[str, RotatorError] = {}  # targets with an unreadable or misnamed key
        self._failed: dict[str, RotatorError] = {}  # targets that could not be compared
        self._missing: list[tuple[Observer, Target]] = []  # the list shows no live key of their paths
        self._gone: list[Target] = []  # the provider lacks their served keys, and knows other keys of their paths
        self._witness = ""  # the id of such another key
        self._to_work: dict[str, Target] = {}
        self.served = 0  # keys that work, by their records
        self.orphans: list[Orphan] = []
        self.unknown: list[Target] = []  # the provider does not know their served keys

    @property
    def to_work(self) -> tuple[Target, ...]:
        """The targets that need a pass now."""
        return tuple(self._to_work.values())

    @property
    def failed(self) -> dict[str, RotatorError]:
        """What kept a target from being compared, or is wrong with its keys; by target."""
        return {**self._flawed, **self._failed}

    @property
    def is_complete(self) -> bool:
        """Whether each target that was to be compared was."""
        return not self._failed

    def unmatched(self) -> list[ProviderKey]:
        """Return the live keys that belong to no path that was compared."""
        now = self._ports.clock.now()
        return [key for some in self._left.values() for key in some if not key.expires_by(now)]

    # --- one target --------------------------------------------------------------------------------------------------

    def compare(self, observer: Observer, target: Target) -> None:
        """Read the target's path, and judge the keys that the list shows of it."""
        try:
            self._compare(observer, target)
        except (StoreError, ProviderError) as error:
            self._fail(observer, target, error)

    def _compare(self, observer: Observer, target: Target) -> None:
        scope = observer.scope(target)
        places = scope.places
        mine = [key for place in places for key in self._left.pop(place, ())]
        unreadable = [key for place in places for key in self._unreadable.get(place, ())]
        memory, is_alone = observer.memory, self._is_first and len(mine) == 1 and not unreadable
        for key in mine:
            memory.note_use(target, key, alone=False)  # before the path is read, which forgets others' keys
        is_alone = is_alone and memory.is_as_at_last_look(target, scope, mine[0], self._ports.clock.now())
        if is_alone and not is_known_to_be_nearly_spent(observer, target):
            self.served += 1  # and the path, which was read when the process started, is not read again
            return
        observation = _read(observer, target, [*mine, *unreadable])
        entry, now = self._entry_of(observation, observation.served), self._ports.clock.now()
        if unreadable:
            self._flawed[target.name] = KeyUnreadable(target.path, unreadable)
        elif entry is not None and not observation.scope.owns(entry.name):
            self._flawed[target.name] = ServedKeyMisnamed(target.path, entry.id, entry.name)
        seen = sighting(_live(observation, now), entry, [*mine, *unreadable], now)
        if seen is Sighting.MISSING:
            self._missing.append((observer, target))
        else:
            try:
                observation = self._learn(observer, observation, {key.id for key in unreadable})
            except ProviderError as error:  # of the served key; the path's other keys are judged without it
                self._fail(observer, target, error)
        if seen is not Sighting.NOT_DUE:
            observation = self._count(observation, seen, mine)
        self._judge(observer, observation, mine)

    def _entry_of(self, observation: Observation, record: Record | None) -> ProviderKey | None:
        """Return what the list shows of a key; None for another key that has its id now."""
        entry = self._keys.get(record.key_id) if record else None
        return None if entry is None or observation.is_another(entry) else entry

    def _fail(self, observer: Observer, target: Target, error: RotatorError) -> None:
        self._failed[target.name] = error
        observer.memory.require_whole(target)

    def _learn(self, observer: Observer, observation: Observation, unreadable: Collection[str]) -> Observation:
        """Remember the names that the list confirms, so that no key has to be looked up when it is superseded.

        The list proves no more, for it may be older than the path, and than what is known of a key. An `unreadable`
        entry shows that its key is there.
        """
        served = observation.served
        if served is None:
            return observation
        for entry in observation.entries:
            key = self._keys.get(entry.key_id or "")
            if key is not None and key.id != served.key_id:
                observation = observer.memory.note(observation, key.id, key, listed=True)
        key = self._entry_of(observation, served)
        was_gone = observation.is_gone(self._ports.clock.now())  # the credential may have been another one then
        if served.key_id in unreadable and not was_gone:
            return observation
        if key is None or was_gone or (key.expires_at and key.expires_at < served.expires_at - TOLERANCE):
            return observer.look_up(observation, served, self._ports.budget)
        observer.memory.note_listed(observation.target, observation.scope, key)
        return observation

    def _count(self, observation: Observation, seen: Sighting, mine: Sequence[ProviderKey]) -> Observation:
        """Count a served key, and whether it is gone. Only where the provider recognises the path is that believed."""
        self.served += 1
        target, now = observation.target, self._ports.clock.now()
        is_compared = seen is not Sighting.MISSING and target.name not in self._failed
        gone = is_compared and observation.is_gone(now)
        if seen is Sighting.REPLACED:
            if gone:
                self._gone.append(target)
                self._witness = next((key.id for key in mine if not key.expires_by(now)), self._witness)
            return observation
        if gone:  # the list and the look-up contradict each other
            self.unknown.append(target)
        return replace(observation, gone_is_believed=False)  # until all are compared

    def _judge(self, observer: Observer, observation: Observation, mine: Sequence[ProviderKey]) -> None:
        """Find the path's orphans, and whether the target needs a pass."""
        target, memory, now = observation.target, observer.memory, self._ports.clock.now()
        record = observation.served
        made = plan(observation, now)
        actions = made.actions
        pending = memory.pending.get(target.name)
        is_due = any(isinstance(action, Rotate) for action in actions)
        waiting = pending.record.key_id if pending and is_due else ""  # the next pass of this process writes it
        found = orphans(
            observation, mine, now, lambda key: key.id == waiting or self._is_unsettled(key), self._found_before
        )
        self.orphans += found
        if any(orphan.state is OrphanState.EMPTIED for orphan in found):
            memory.emptied(target)
        # What only time has made due is the schedule's business.
        is_urgent = made.is_nearly_spent or any(
            not isinstance(action, Rotate) or action.reason is Reason.MISSING for action in actions
        )
        if is_urgent or memory.is_emptied(target) or (record and observation.is_cut_short(record, now)):
            self._to_work[target.name] = target

    # --- all targets -------------------------------------------------------------------------------------------------

    def conclude(self, recognition: Recognition, *, stopped: bool) -> bool:
        """Look up what is missing, when each target was compared, or the sweep was `stopped` before.

        Return whether the served keys that the provider does not know are left alone.
        """
        if not stopped:
            self._look_up_missing()
        if is_most(len(self._gone) + len(self.unknown), self.served) and not self._knows_witness():
            self.unknown, self._gone = [*self._gone, *self.unknown], []
        gone, unknown = ([target.name for target in some] for some in (self._gone, self.unknown))
        held = recognition.compared(gone, unknown, self.served, complete=self.is_complete and not stopped)
        if held and unknown:
            return True
        self._to_work |= {target.name: target for target in self.unknown}
        return False

    def _look_up_missing(self) -> None:
        """Look up the served keys that the list lacks.

        The path is read again: it may serve another key by now, which is left to the next sweep.
        """
        before = len(self.unknown)
        for number, (observer, target) in enumerate(self._missing):
            if number >= SAMPLE and len(self.unknown) - before == number and is_most(len(self._missing), self.served):
                self.unknown += [target for _, target in self._missing[number:]]
                return
            try:
                self._look_up(observer, target)
            except (StoreError, ProviderError) as error:
                self._fail(observer, target, error)

    def _look_up(self, observer: Observer, target: Target) -> None:
        observation = observer.read_current(target)
        now = self._ports.clock.now()
        record = _live(observation, now)
        entry = self._entry_of(observation, record)
        if record is None or (entry is not None and not entry.expires_by(now)):
            return
        observation = observer.look_up(observation, record, self._ports.budget)
        if observation.is_gone(now):
            self.unknown.append(target)
        elif observation.is_cut_short(record, now):
            self._to_work[target.name] = target

    def _knows_witness(self) -> bool:
        """Return whether the provider finds a listed key of ours by its id, too: its list may be out of date."""
        try:
            self._ports.budget.take(self._ports.clock.now())
            return bool(self._witness) and self._ports.provider.retrieve(self._witness) is not None
        except ProviderError:
            return False


def _live(observation: Observation, now: datetime) -> Record | None:
    """Return the record of the served key, unless that key has expired by it."""
    record = observation.served
    return None if record is None or observation.has_expired(record, now) else record


def _read(observer: Observer, target: Target, mine: Sequence[ListedKey]) -> Observation:
    """Read the path: the whole history only where the list shows another key of it than the served one."""
    if len(mine) <= 1:
        observation = observer.read_current(target)
        if all(key.id == observation.served_id for key in mine):
            return observation
    return observer.observe(target)
