"""Finds what a pass over one target cannot see: keys that no version holds, and served keys that are gone.

A sweep asks one provider for all its keys, and only then reads the history of each of its targets: a key that is
published in between is found there. What is an orphan is judged by `orphans`, which is pure. What is done about it:

- An orphan is treated as if it had just been superseded, for somebody may still use it (a key that was pushed out of a
  short history, a deleted path, a restored snapshot): it is shortened to the end of a grace period that begins now, and
  its record at the provider goes when that is over. It is never deleted at once.
- A key that is meant for a version which the path does not have yet may still be published. So first the path is
  *fenced*: its current data is written once more, and the compare-and-set of whoever is about to publish is spent.
- With more orphans than `max_orphans` none is touched: more likely than so many crashes is that something is wrong
  with what we see.
- A served key that the list lacks, or shows as ending early, is looked up by itself. What was learned goes to the
  reconciler; the targets that need a pass because of it are returned, and replacing and restoring is done there.
- Where the provider does not know most served keys, none of them is replaced and nothing is tidied away.

Nothing is done about keys whose name is not that of a configured target's path, and nothing on a path that is not ours.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import partial
from typing import TypeVar

from rotator.core.errors import (
    CasMismatch,
    ClockDisagrees,
    KeyUnreadable,
    ProviderError,
    RotatorError,
    ServedKeyMisnamed,
    ServedKeysUnknown,
    StoreError,
    TooManyOrphans,
)
from rotator.core.events import Event, EventType, Fields, Level
from rotator.core.expiry import TOLERANCE, Asked, corrected, on_the_grid, whole_seconds
from rotator.core.keys import OWNER_LETTERS, KeyName, ListedKey, ProviderKey, UnreadableKey
from rotator.core.observation import Observation, cut_short, is_gone
from rotator.core.orphans import Orphan, OrphanState, Outcome, orphans
from rotator.core.plan import Reason, Rotate, plan
from rotator.core.ports import Budget
from rotator.core.target import Target
from rotator.core.times import timestamp
from rotator.core.versions import Record
from rotator.protocol.doubt import Missing, look_up_each
from rotator.protocol.expiry import set_expiry
from rotator.protocol.recognition import is_most
from rotator.protocol.reconciler import Reconciler, too_old
from rotator.protocol.rotation import listed

PATIENCE = timedelta(hours=12)
"""How long a sweep waits for requests that the rotations leave over, before it goes ahead of keys that live longer."""


@dataclass(frozen=True, slots=True)
class SweepReport:
    """What came of a sweep over one provider's keys. `error`: why not all of it was done."""

    provider: str
    listed: int = 0
    orphans: tuple[Orphan, ...] = ()
    unclaimed: tuple[ProviderKey, ...] = ()  # live; carry our owner's name, and the place of no configured path
    unclear: tuple[ProviderKey, ...] = ()  # the same, but the owner may be another whose name begins alike
    others: int = 0  # live keys that are not ours for certain
    to_work: tuple[Target, ...] = ()  # these need a pass now
    failed: Mapping[str, RotatorError] = field(default_factory=dict)  # by target
    error: RotatorError | None = None
    dry_run: bool = False
    stopped: bool = False  # before every target was looked at
    unknown: tuple[Target, ...] = ()  # the provider does not know their served keys; left alone where it is most

    @property
    def complete(self) -> bool:
        """Whether every target of the provider was looked at, and all was done that was to be done."""
        return self.error is None and not self.failed and not self.stopped


@dataclass(frozen=True, slots=True)
class _End:
    """When an orphan that was shortened expires: as the provider keeps it, and as the grace demands."""

    shown: datetime
    until: datetime


K = TypeVar("K", bound=ListedKey)


def by_place(keys: Iterable[K]) -> dict[str, list[K]]:
    """A provider's keys by the place in their names; those whose name is none of ours are at no place, ""."""
    found: dict[str, list[K]] = {}
    for key in keys:
        name = KeyName.parse(key.name)
        found.setdefault(name.place if name else "", []).append(key)
    return found


class Sweeper:
    """Sweeps one provider's keys; one call at a time.

    It remembers only what the provider does not show: when it first saw a key, and which end it gave one.
    """

    def __init__(
        self,
        provider: str,
        groups: Sequence[tuple[Reconciler, Sequence[Target]]],
        budget: Budget,
        owners: frozenset[str],
        settle: timedelta,
        max_orphans: int,
    ) -> None:
        """`groups` are all targets of the provider, by who works on them; `budget` is the sweep's share of its own."""
        self.provider = provider
        self._groups = groups
        self._slugs = {owner[:OWNER_LETTERS] for owner in owners}
        self._min_age = settle
        self._max_orphans = max_orphans
        if groups:
            self._ports = replace(groups[0][0].ports, budget=budget)
        self._first_seen: dict[str, float] = {}
        self._ends: dict[str, _End] = {}  # of keys that were shortened here

    def sweep(
        self,
        *,
        by: str = "schedule",
        dry_run: bool = False,
        max_orphans: int | None = None,
        stopping: Callable[[], bool] = lambda: False,
    ) -> SweepReport:
        """Look at everything, then tidy; a dry run ends before that. Raises nothing of ours.

        `max_orphans` stands in for the configured one; `stopping` is asked before each target.
        """
        if not self._groups:
            return SweepReport(self.provider)
        deadline = self._ports.clock.now() + PATIENCE
        try:
            listing = listed(self._ports, deadline)
        except ProviderError as error:
            for reconciler, _ in self._groups:
                reconciler.memory.swept(complete=False)
            return SweepReport(self.provider, error=error)
        keys = {key.id: self._dated(key) for key in listing if isinstance(key, ProviderKey)}
        unreadable = by_place(key for key in listing if isinstance(key, UnreadableKey))
        self._ends = {key_id: given for key_id, given in self._ends.items() if key_id in keys}
        undated = [key.id for key in keys.values() if key.created_at is None]
        self._first_seen = {key_id: self._first_seen.get(key_id, self._monotonic()) for key_id in undated}
        swept = self._compare(keys, unreadable, stopping)
        for reconciler, _ in self._groups:
            reconciler.memory.swept(complete=not swept.stopped)
        limit = self._max_orphans if max_orphans is None else max_orphans
        to_shorten = sum(orphan.state is OrphanState.TO_SHORTEN for orphan in swept.orphans)
        if swept.error is not None:
            swept = _held(swept)
        elif to_shorten > limit:
            swept = replace(_held(swept), error=TooManyOrphans(to_shorten, limit))
        elif swept.orphans and not self._ports.clock.trusted():
            swept = replace(_held(swept), error=ClockDisagrees())
        elif not dry_run:
            swept = self._tidy(swept, by, deadline, stopping)
        return replace(swept, dry_run=dry_run)

    def _targets(self) -> Iterator[tuple[Reconciler, Target]]:
        for reconciler, targets in self._groups:
            for target in targets:
                yield reconciler, target

    # --- look --------------------------------------------------------------------------------------------------------

    def _compare(
        self,
        keys: Mapping[str, ProviderKey],
        unreadable: Mapping[str, Sequence[UnreadableKey]],
        stopping: Callable[[], bool],
    ) -> SweepReport:
        """Read every target's history, and see what the list says about it.

        `unreadable` entries, by place, end what concerns themselves: each target that has one is reported as failed.
        """
        found = _Compared(keys, unreadable, by_place(keys.values()))
        stopped = False
        for reconciler, target in self._targets():
            if stopping():
                stopped = True
                break
            try:
                self._compare_one(reconciler, target, found)
            except (StoreError, ProviderError) as error:
                found.failed[target.name] = error
                reconciler.memory.look_closer(target)
        missing = () if stopped else found.missing
        listed_now = {key.id for key in keys.values() if _lives(key, self._ports.clock.now())}
        answers = look_up_each(missing, found.served, self._ports.budget, listed_now)
        failed = {**found.failed, **answers.failed}
        unknown = (*found.unknown, *answers.unknown)
        if is_most(len(found.gone) + len(unknown), found.served) and not self._still_knows(found.witness):
            unknown, found.gone = (*found.gone, *unknown), []
        held = self._judge(found, unknown, complete=not failed and not stopped)
        to_work = {target.name: target for target in (*found.to_work, *answers.to_work)}
        to_work |= {target.name: target for target in unknown if not held}
        now = self._ports.clock.now()
        rest = [key for some in found.left.values() for key in some if _lives(key, now)]
        named = [(key, name) for key in rest if (name := KeyName.parse(key.name)) and name.owner in self._slugs]
        if failed or stopped:
            named = []  # while a path could not be read, whose they are is not known
        unclaimed = tuple(key for key, name in named if not name.may_be_cut)
        return SweepReport(
            self.provider,
            len(keys) + sum(map(len, unreadable.values())),
            tuple(found.orphans),
            unclaimed,
            tuple(key for key, name in named if name.may_be_cut),
            len(rest) - len(unclaimed) + len(unreadable.get("", ())),
            tuple(to_work.values()),
            {**found.spoilt, **failed},
            ServedKeysUnknown(self.provider, len(unknown), found.served) if held else None,
            stopped=stopped,
            unknown=unknown if held else (),
        )

    def _compare_one(self, reconciler: Reconciler, target: Target, found: "_Compared") -> None:
        places = reconciler.scope(target).places
        mine = [key for place in places for key in found.left.pop(place, ())]
        if spoils := [key for place in places for key in found.unreadable.get(place, ())]:
            found.spoilt[target.name] = KeyUnreadable(target.path, spoils)
        observation = _read(reconciler, target, [*mine, *spoils])
        record, now = _served(observation), self._ports.clock.now()
        lives = record is not None and record.expires_at > now
        known = found.keys.get(record.key_id) if record else None
        if known is not None and not observation.scope.owns(known.name):
            found.spoilt.setdefault(target.name, ServedKeyMisnamed(target.path, known.id, known.name))
        is_recognised = bool(spoils) or any(key is not known and _lives(key, now) for key in mine)
        is_listed = known is not None and _lives(known, now)
        is_missing = lives and not is_recognised and not is_listed
        if is_missing:
            found.missing.append((reconciler, target))
        else:
            try:
                observation = self._learn(reconciler, observation, found.keys, {key.id for key in spoils})
            except ProviderError as error:  # of the served key; the path's other keys are judged without it
                found.failed[target.name] = error
                reconciler.memory.look_closer(target)
        now = self._ports.clock.now()
        found.served += lives
        is_proved = is_recognised and not is_listed  # else the list and the look-up contradict each other
        if lives and not is_proved:
            observation = replace(observation, gone_is_believed=False)  # until all are compared
        is_known = not is_missing and target.name not in found.failed
        if lives and is_known and is_gone(observation, now):
            (found.gone if is_proved else found.unknown).append(target)
            found.witness = next((key.id for key in mine if is_proved and _lives(key, now)), found.witness)
        actions = plan(observation, now).actions
        offer = reconciler.memory.offers.get(target.name)
        is_due = any(isinstance(action, Rotate) for action in actions)
        waiting = offer.record.key_id if offer and is_due else ""  # the next pass of this process writes it
        lonely = orphans(observation, mine, now, partial(self._is_on_its_way, waiting))
        found.orphans += lonely
        if any(orphan.state is OrphanState.EMPTIED for orphan in lonely):
            reconciler.memory.emptied(target)
        # What only time has made due is the schedule's business.
        urgent = reconciler.memory.is_emptied(target) or any(
            not isinstance(action, Rotate) or action.reason is Reason.MISSING for action in actions
        )
        if urgent or (record and cut_short(observation, record, now)):
            found.to_work.append(target)

    def _still_knows(self, key_id: str) -> bool:
        """Return whether a listed key of ours is found by its id, too: the list may be older than a change."""
        try:
            self._ports.budget.take(self._ports.clock.now())
            return bool(key_id) and self._ports.provider.retrieve(key_id) is not None
        except ProviderError:
            return False

    def _judge(self, found: "_Compared", unknown: Sequence[Target], *, complete: bool) -> bool:
        """Return whether the served keys that the provider does not know are left alone."""
        gone, names = ([target.name for target in some] for some in (found.gone, unknown))
        of_each = {id(reconciler.recognition): reconciler.recognition for reconciler, _ in self._groups}
        held = [one.compared(gone, names, found.served, complete=complete) for one in of_each.values()]
        return any(held) and bool(unknown)

    def _learn(
        self,
        reconciler: Reconciler,
        observation: Observation,
        keys: Mapping[str, ProviderKey],
        unreadable: Collection[str],
    ) -> Observation:
        """The list confirms what keys are called, so that nobody has to ask once more when one is superseded.

        It proves no more than that, for it may be older than what the path holds, and than what is known of a key. An
        entry that is `unreadable` shows that its key is there.
        """
        served = _served(observation)
        if served is None:
            return observation
        for entry in observation.entries:
            key = keys.get(entry.key_id or "")
            if key is not None and key.id != served.key_id:
                observation = reconciler.memory.note(observation, key.id, key, listed=True)
        key = keys.get(served.key_id)
        was_gone = is_gone(observation, self._ports.clock.now())  # the credential may have been another one then
        if served.key_id in unreadable and not was_gone:
            return observation
        if key is None or was_gone or (key.expires_at and key.expires_at < served.expires_at - TOLERANCE):
            return reconciler.look_up(observation, served, self._ports.budget)
        reconciler.memory.show(observation.target, observation.scope, key)
        return observation

    def _is_unsettled(self, key: ProviderKey) -> bool:
        if key.created_at is not None:
            return self._ports.clock.now() - key.created_at < self._min_age
        return self._monotonic() - self._first_seen[key.id] < self._min_age.total_seconds()

    def _is_on_its_way(self, waiting: str, key: ProviderKey) -> bool:
        return key.id == waiting or self._is_unsettled(key)

    def _dated(self, key: ProviderKey) -> ProviderKey:
        """With the end of its grace if the provider shows none, or a rounded one: else each sweep gives another."""
        given = self._ends.get(key.id)
        return replace(key, expires_at=given.until) if given and key.expires_at in (None, given.shown) else key

    def _monotonic(self) -> float:
        return self._ports.clock.monotonic()

    # --- tidy --------------------------------------------------------------------------------------------------------

    def _tidy(self, swept: SweepReport, by: str, deadline: datetime, stopping: Callable[[], bool]) -> SweepReport:
        failed = dict(swept.failed)
        after = [orphan for orphan in swept.orphans if not _needs_us(orphan)]
        to_end: dict[str, list[Orphan]] = {}
        for orphan in swept.orphans:
            if _needs_us(orphan):
                to_end.setdefault(orphan.target.name, []).append(orphan)
        for reconciler, target in self._targets():
            mine = to_end.get(target.name, [])
            fence: int | None = None
            for number, orphan in enumerate(mine):
                if stopping():
                    after += mine[number:]
                    break
                try:
                    if orphan.ahead and orphan.state is OrphanState.TO_SHORTEN and fence is None:
                        fence = self._fence(reconciler, target, by)
                    if (ended := self._end(reconciler, orphan, by, deadline, fence)) is not None:
                        after.append(ended)
                except (StoreError, ProviderError) as error:
                    failed[target.name] = error
                    after += [replace(left, outcome=Outcome.FAILED) for left in mine[number:]]
                    break
        return replace(swept, orphans=tuple(after), failed=failed)

    def _fence(self, reconciler: Reconciler, target: Target, by: str) -> int:
        """Write the current data again; the version that it became, or 0: somebody else wrote first.

        Sent once. A refused write is not settled by looking, as that of a new key is: another sweep's fence holds the
        same data, and stands where ours was meant to be, but not where a writer is about to publish.
        """
        observation = reconciler.observe(target)
        current, entry = observation.history.current, observation.current
        if current is None or current.data is None or entry is None or entry.record is None:
            return 0
        try:
            written = reconciler.ports.store.write(target.path, current.data, cas=current.number)
        except CasMismatch:
            return 0
        fields: Fields = {
            "key_id": entry.record.key_id,
            "key_name": entry.record.key_name,
            "version": written.number,
            "reason": Reason.ORPHAN.value,
            "by": by,
        }
        reconciler.ports.emit(Event(EventType.PATH_FENCED, target.name, Level.INFO, fields))
        return written.number

    def _end(
        self, reconciler: Reconciler, orphan: Orphan, by: str, deadline: datetime, fence: int | None
    ) -> Orphan | None:
        """Shorten it, or remove its record; unless it turns out that it is in a version now. None: it is gone.

        A read that does not know of our own fence is from the past, and in what it lacks the key may stand. So may the
        list be, and so the key is looked up: what was shortened since must not be prolonged, and of a key that was
        retired since nobody is to hear that it was lost.
        """
        ports, target = self._ports, orphan.target
        ports.budget.take(deadline)
        found = ports.provider.retrieve(orphan.key.id)
        if found is None:
            return None
        key = replace(self._dated(found), created_at=orphan.key.created_at)
        still = self._is_still(reconciler, orphan, key, deadline, fence)
        if still is None:
            return orphan
        fields = {"key_id": key.id, "key_name": key.name, "reason": Reason.ORPHAN.value, "by": by}
        if still.state is OrphanState.OVER:
            ports.provider.delete(key.id)
            ports.emit(Event(EventType.KEY_DELETED, target.name, Level.INFO, fields))
            return replace(still, outcome=Outcome.REMOVED)
        until = whole_seconds(ports.clock.now() + target.grace_period)
        asked: Asked | None = Asked(until, on_the_grid(until, found.expires_at, key.created_at))
        while asked:
            ends = set_expiry(ports, key.id, asked.request, deadline)
            if ends is None:
                return orphan
            self._ends[key.id] = _End(ends, min(until, ends))
            ports.emit(
                Event(EventType.KEY_SHORTENED, target.name, Level.INFO, {**fields, "expires_at": timestamp(ends)})
            )
            later = corrected(asked, ends)
            again = self._is_still(reconciler, orphan, key, deadline, fence) if later else None
            asked = Asked(until, later) if later and again else None
        return replace(still, outcome=Outcome.SHORTENED, until=self._ends[key.id].shown)

    def _is_still(
        self, reconciler: Reconciler, orphan: Orphan, key: ProviderKey, deadline: datetime, fence: int | None
    ) -> Orphan | None:
        """The orphan, if a fresh look at the path shows it to be one, and nothing may publish it meanwhile."""
        ports = self._ports
        ports.budget.take(deadline)
        observation = reconciler.observe(orphan.target)
        # Where the list and the look-up differ it waits for the next sweep: `max_orphans` was counted by the list.
        found_again = orphans(observation, [key], ports.clock.now(), self._is_unsettled)
        still = next((again for again in found_again if again.state is orphan.state), None)
        unfenced = still is not None and still.state is OrphanState.TO_SHORTEN and still.ahead and not fence
        if too_old(observation, ports.clock) or unfenced or observation.history.current_version < (fence or 0):
            return None
        return still


@dataclass(slots=True)
class _Compared:
    """The provider's list, and what a comparison with it has found so far."""

    keys: Mapping[str, ProviderKey]  # by id
    unreadable: Mapping[str, Sequence[UnreadableKey]]  # by place
    left: dict[str, list[ProviderKey]]  # by place, those of paths that were not looked at yet
    spoilt: dict[str, RotatorError] = field(default_factory=dict)  # targets with an unreadable or misnamed key
    orphans: list[Orphan] = field(default_factory=list)
    to_work: list[Target] = field(default_factory=list)
    gone: list[Target] = field(default_factory=list)  # their served keys, while the list has others of their paths
    unknown: list[Target] = field(default_factory=list)  # listed, and yet not found by its id
    missing: list[Missing] = field(default_factory=list)  # the list has no live key of their paths
    witness: str = ""  # the id of another live key of a path whose served key is gone
    served: int = 0  # keys that work, by their records
    failed: dict[str, RotatorError] = field(default_factory=dict)


def _served(observation: Observation) -> Record | None:
    return observation.current.record if observation.current else None


def _lives(key: ProviderKey, now: datetime) -> bool:
    return key.expires_at is None or key.expires_at > now


def _read(reconciler: Reconciler, target: Target, mine: Sequence[ListedKey]) -> Observation:
    """The whole history only where the list holds another key of this path than the served one."""
    if len(mine) <= 1:
        observation = reconciler.read_current(target)
        served = observation.current and observation.current.key_id
        if all(key.id == served for key in mine):
            return observation
    return reconciler.observe(target)


def _needs_us(orphan: Orphan) -> bool:
    return orphan.state in (OrphanState.TO_SHORTEN, OrphanState.OVER)


def _held(swept: SweepReport) -> SweepReport:
    held = (replace(orphan, outcome=Outcome.HELD) if _needs_us(orphan) else orphan for orphan in swept.orphans)
    return replace(swept, orphans=tuple(held))
