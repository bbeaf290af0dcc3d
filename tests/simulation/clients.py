"""The ports of rotator, as one process sees them: each call may be interrupted, delayed, refused, lost, late or stale.

What befalls a call is drawn from the calling actor's own generator, always the same number of draws a call. A
disturbance has a name ("a.1#17"), so that a schedule can be run again without it.
"""

import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, TypeVar

from support.world import CHANGES, OWNER, START, IssuedKey, only_newest, refusals, unknown

from rotator.core.errors import (
    CasMismatch,
    ProviderCredentialRefused,
    ProviderRequestRefused,
    ProviderUnavailable,
    RotatorError,
    StoreError,
    StoreOutcomeUnknown,
    StorePermissionDenied,
    StoreSealed,
    StoreUnavailable,
)
from rotator.core.events import Event
from rotator.core.keys import CreatedKey, ListedKey, ProviderKey, UnreadableKey
from rotator.core.ports import Ports
from rotator.core.secrets import Secret
from rotator.core.target import KeyParameters, Target
from rotator.core.traits import Traits
from rotator.core.use import KeyUse
from rotator.core.versions import RECORD_FIELD, History, Record, Version
from rotator.protocol.observer import MAX_AGE
from rotator.protocol.strays import Stray, StrayKeys
from simulation.consumers import Meter
from simulation.intent import NEVER_READ, Intent
from simulation.invariants import LATER, Truth
from simulation.scheduler import NEVER, Freezable, Happening, Scheduler
from simulation.settings import ALONE, IN_LIST, Settings
from simulation.world import LaggingVendor, RememberingStore, shown_id

T = TypeVar("T")
UNKNOWN = ("unsent", "lost", "late")
IN_VAIN_KINDS = (*UNKNOWN, "false refusal")
"""What may befall a create, after which a key of its name is looked for."""

PLACE = "memory"
"""Where the store's data are at first."""

LONGEST_DELAY = 400.0
"""Seconds after which what was sent has landed, or never will."""


@dataclass(slots=True, eq=False)
class Late:
    """An effect that was sent and not answered."""

    at: float
    number: int
    name: str
    operation: str
    subject: str
    effect: Callable[[], object]


@dataclass(frozen=True, slots=True)
class Configuration:
    """What a process reads when it starts."""

    targets: tuple[Target, ...]
    owner: str = OWNER
    former_owners: frozenset[str] = frozenset()
    place: str = PLACE  # where the store's data are
    former_places: tuple[str, ...] = ()  # where they were before they moved

    @property
    def owners(self) -> frozenset[str]:
        return self.former_owners | {self.owner}


@dataclass(slots=True, eq=False)
class DaemonInfo:
    """All that the programs of one schedule share."""

    scheduler: Scheduler
    settings: Settings
    store: RememberingStore
    vendor: LaggingVendor
    truth: Truth
    without: frozenset[str]  # disturbances that are left out
    configuration: "Configuration"  # the newest
    quiet: bool = False
    blind: bool = False  # the vendor knows no key, as another organisation's does not
    outage: str = ""  # the store takes no writes: they are "denied", it is "sealed", "down" or "unwritable"
    late: list[Late] = field(default_factory=list)
    intents: dict[str, Intent] = field(default_factory=dict)  # by actor
    disturbances: list[str] = field(default_factory=list)
    effects: int = 0
    begun: int = 0
    restart: Callable[[Freezable], None] = lambda process: None
    network: Happening = field(default_factory=lambda: Happening("network", lambda: NEVER, NEVER))
    coverage: "Counter[str]" = field(default_factory=Counter)
    meter: Meter | None = None  # of the use of keys

    @property
    def intent(self) -> Intent:
        return self.intents[self.scheduler.running.name]

    def begin(self, intent: Intent) -> None:
        """What the running actor's calls are about from now on."""
        self.begun += 1
        intent.since, intent.number = self.scheduler.now, self.begun
        self.intents[self.scheduler.running.name] = intent

    def happens(self, name: str, what: str) -> bool:
        """Note a disturbance; False when this run is to do without it."""
        if self.quiet or name in self.without:
            return False
        self.disturbances.append(name)
        self.coverage[what] += 1
        return True

    def land(self) -> float:
        """Let the next late effect land; its answer is lost. Return when the one after it lands."""
        late, known = self.late.pop(0), set(self.vendor.keys)
        try:
            late.effect()
            self.truth.came_late |= self.vendor.keys.keys() - known
            what = f"lands, sent by {late.name}"
        except RotatorError as error:
            what = f"arrives, sent by {late.name}: {type(error).__name__}"
        self.scheduler.note("(late)", late.operation, late.subject, what)
        self.truth.check()
        return self.late[0].at if self.late else NEVER


@dataclass(slots=True, eq=False)
class Line:
    """What all calls of one process go through."""

    surroundings: DaemonInfo
    process: Freezable
    clock: "MachineClock"

    def call(
        self,
        operation: str,
        subject: str,
        effect: Callable[[], T],
        show: Callable[[T], str] = lambda answer: "",
        stale: Callable[[float], T] | None = None,
    ) -> T:
        """One call of the running actor. `stale` answers with a state of up to that many seconds ago."""
        around, scheduler = self.surroundings, self.surroundings.scheduler
        actor = scheduler.running
        actor.calls += 1
        rng = actor.rng
        chance, size, which, latency = rng.random(), rng.random(), rng.random(), rng.random()
        kind = "" if around.quiet else self._befalls(operation, chance, which, stale is not None)
        name = f"{actor.name}#{actor.calls}"
        if kind and not around.happens(name, kind.split(":")[0]):
            kind = ""
        note = f" [{name}: {kind}]" if kind else ""
        if operation == "provider.create" and kind in IN_VAIN_KINDS:
            around.intent.made_in_vain = True
        elif kind:
            around.intent.disturbed = True
            around.intent.is_stale |= kind == "stale"

        def emit(what: str) -> None:
            is_shown = bool(kind) or operation in CHANGES or what.startswith("->")
            scheduler.note(actor.name, operation, subject, what + note, around.intent.number, is_shown=is_shown)

        self._interrupted(kind, "before", size, emit)
        scheduler.pause(_delay(kind, "before", size))
        around.effects += 1
        try:
            answer = self._answer(kind, operation, subject, effect, size, which, stale, name)
        except RotatorError as error:
            if operation != "provider.create" and not isinstance(error, CasMismatch):
                around.intent.disturbed = True
            emit(f"-> {type(error).__name__}")
            around.truth.check()
            scheduler.pause(_delay(self._after(kind), "after", size))
            raise
        kind = self._after(kind)
        self.clock.record_date(operation.partition(".")[0], None, 0.0)
        around.intent.trusts_its_clock &= self.clock.trusted()
        emit(show(answer))
        around.truth.check()
        self._interrupted(kind, "after", size, emit)
        scheduler.pause(_delay(kind, "after", size) + (0.0 if latency < 0.5 else latency * 0.4))
        return answer

    def _befalls(self, operation: str, chance: float, which: float, can_be_stale: bool) -> str:
        s = self.surroundings.settings
        changes = operation in CHANGES
        rates = [
            ("kill", s.kill),
            ("freeze", s.freeze),
            ("slow", s.slow),
            ("refused", s.refused),
            ("unknown", s.unknown if changes else 0.0),
            ("false refusal", s.false_refusals if changes else 0.0),
            ("stale", s.stale if can_be_stale else 0.0),
        ]
        for kind, rate in rates:
            if chance < rate:
                if kind == "unknown":
                    return UNKNOWN[int(which * 3)]
                if kind in ("kill", "freeze", "slow"):
                    return f"{kind}:{'before' if which < 0.5 else 'after'}"
                return kind
            chance -= rate
        return ""

    def _after(self, kind: str) -> str:
        """What happens after the effect: nothing that was drawn before things became quiet, and would come later."""
        return "" if self.surroundings.quiet and kind.endswith(":after") else kind

    def _interrupted(self, kind: str, when: str, size: float, emit: Callable[[str], None]) -> None:
        around = self.surroundings
        if kind == f"kill:{when}":
            if when == "before":
                emit("is not sent")
            around.restart(self.process)
        elif kind == f"freeze:{when}":
            around.scheduler.freeze(self.process, _freeze(size))

    def _answer(
        self,
        kind: str,
        operation: str,
        subject: str,
        effect: Callable[[], T],
        size: float,
        which: float,
        stale: Callable[[float], T] | None,
        name: str,
    ) -> T:
        around = self.surroundings
        if kind == "refused":
            errors = refusals(operation) or [ProviderUnavailable(f"{operation}: no answer")]
            raise errors[int(which * len(errors))]
        if operation.startswith("store.") and (error := _outage(around.outage, operation)):
            raise error
        if kind == "false refusal":  # a proxy answers in the server's place, which has done it
            effect()
            sure = (ProviderUnavailable, ProviderCredentialRefused)  # after which no process looks for a created key
            errors = [error for error in refusals(operation) if not isinstance(error, sure)]
            raise errors[int(size * len(errors))]
        if kind == "stale" and stale is not None:
            return stale(size)
        if kind in UNKNOWN:
            if kind == "lost":
                effect()
            elif kind == "late":
                at = around.scheduler.now + 1 + size * size * LONGEST_DELAY
                around.late.append(Late(at, around.effects, name, operation, subject, effect))
                around.late.sort(key=lambda late: (late.at, late.number))
                around.network.wake = around.late[0].at
            raise unknown(operation)
        return effect()


def _delay(kind: str, when: str, size: float) -> float:
    return size * 20 if kind == f"slow:{when}" else 0.0


def _freeze(size: float) -> float:
    return 5.0 + size * size * 600


def _outage(kind: str, operation: str) -> RotatorError | None:
    if not kind or operation == "store.location":
        return None
    changes = operation in ("store.write", "store.destroy")
    if kind == "sealed":
        return StoreSealed("sealed")
    if kind == "denied":
        return StorePermissionDenied("the policy has changed") if changes or operation == "store.preflight" else None
    if changes:
        return StoreOutcomeUnknown("no answer")
    return StoreUnavailable("no answer") if kind == "down" else None


@dataclass(slots=True, eq=False)
class MachineClock:
    """Time as one machine sees it: its wall clock may be off, and may jump.

    `ahead` is within what is tolerated; `wrong` is beyond it, and the guard has noticed, but one upstream agrees.
    It is wrong by `off` against each upstream that has answered in this life; when both have, it is corrected.
    """

    scheduler: Scheduler
    ahead: timedelta = timedelta(0)
    wrong: timedelta = timedelta(0)
    off: timedelta = timedelta(0)
    upstreams: set[str] = field(default_factory=set)

    def now(self) -> datetime:
        return self.scheduler.clock.now() + self.ahead + self.wrong + self._uncorrected

    def record_date(self, upstream: str, date: str | None, sent_at: float) -> None:
        self.upstreams.add(upstream)

    def may_be_ahead(self) -> timedelta:
        return max(self.ahead + (self._uncorrected if self.upstreams else timedelta(0)), timedelta(0))

    def trusted(self) -> bool:
        return not self.wrong and not (self.off and self.upstreams)

    def disputed_by(self) -> timedelta:
        return self._uncorrected if self.upstreams else timedelta(0)

    @property
    def _uncorrected(self) -> timedelta:
        return self.off if len(self.upstreams) < 2 else timedelta(0)

    def monotonic(self) -> float:
        return self.scheduler.now

    def sleep(self, seconds: float) -> None:
        self.scheduler.pause(seconds)


@dataclass(slots=True, eq=False)
class Budget:
    """Lets everybody go, mostly at once."""

    line: Line

    def take(self, deadline: datetime) -> None:
        around, actor = self.line.surroundings, self.line.surroundings.scheduler.running
        settings = around.settings
        if around.quiet or settings.slow + settings.queues == 0.0:
            return
        actor.calls += 1
        chance, size = actor.rng.random(), actor.rng.random()
        if chance < settings.slow and around.happens(f"{actor.name}#{actor.calls}", "budget"):
            around.scheduler.pause(size * 20)
        elif 1 - chance < settings.queues and around.happens(f"{actor.name}#{actor.calls}", "budget queues"):
            around.scheduler.pause(20 + size * 200)

    def pause(self, seconds: float) -> None:
        return None


@dataclass(slots=True, eq=False)
class StoreClient:
    line: Line
    configuration: Configuration  # of its process: one that has not taken a move up reads and writes all the same

    def location(self, path: str) -> str:
        around = self.line.surroundings
        if around.outage == "down" and around.intent.extending:
            raise StoreUnavailable("no answer")
        return f"{self.configuration.place}/{path}"

    def former_locations(self, path: str) -> Sequence[str]:
        return [f"{place}/{path}" for place in self.configuration.former_places]

    def history(self, path: str) -> History:
        return self._read(path, lambda history: history)

    def newest(self, path: str) -> History:
        return self._read(path, only_newest)

    def _read(self, path: str, part: Callable[[History], History]) -> History:
        around = self.line.surroundings
        store = around.store
        intent, observed_at = around.intent, around.scheduler.now
        if intent.read_at > NEVER_READ and observed_at - intent.read_at > MAX_AGE:
            intent.disturbed = True  # its process was frozen meanwhile, or slow

        def stale(size: float) -> History:
            moments = store.moments(path)[-3:]
            moment = moments[int(size * len(moments))] - 1e-9 if moments else 0.0
            around.intent.since = min(around.intent.since, moment)
            return part(store.history_at(path, moment, observed_at))

        def show(history: History) -> str:
            return f"at version {history.current_version}, {_readable(history)}"

        def effect() -> History:
            answer = part(store.history_at(path, around.scheduler.now, observed_at))
            around.scheduler.pause(around.settings.slow_store)
            return answer

        answer = self.line.call("store.history", path, effect, show, stale)
        intent.read_at, intent.read_took = around.scheduler.now, around.scheduler.now - observed_at
        return answer

    def preflight(self, path: str, data: Mapping[str, Any]) -> None:
        around = self.line.surroundings
        intent = around.intent
        intent.proven = False
        around.truth.begins_to_change(intent, guarded=True)
        self.line.call("store.preflight", path, lambda: None)
        intent.proven = True
        intent.leads = None  # it takes its time

    def write(self, path: str, data: Mapping[str, Any], cas: int) -> Version:
        around = self.line.surroundings
        intent = around.intent
        if around.settings.later and self.line.process.name == "a" and not intent.sweeping:  # a fence repeats the data
            data = _as_a_later_version(data)

        def effect() -> Version:
            before = around.store.read(path)
            version = around.store.write(path, data, cas)
            around.truth.written(path, version.number, intent, before or {})
            return version

        def show(version: Version) -> str:
            served = around.truth.places[path].served
            return f"version {version.number} holds {served.id if served else 'no key'}"

        began = around.scheduler.now
        try:
            version = self.line.call("store.write", f"{path} cas={cas}", effect, show)
        except CasMismatch:
            raise
        except StoreError:
            around.truth.unsettled(path, data, cas, intent)
            raise
        if not intent.sweeping:  # what we publish ourselves we know
            intent.read_at, intent.read_took = around.scheduler.now, around.scheduler.now - began
        return version

    def destroy(self, path: str, versions: Sequence[int]) -> None:
        around = self.line.surroundings
        intent = around.intent

        def effect() -> None:
            around.truth.destroying(path, versions, since=intent.since)
            around.store.destroy(path, *versions)
            around.truth.destroyed(path)

        around.truth.begins_to_change(intent)
        self.line.call("store.destroy", f"{path} {[*versions]}", effect)


def _as_a_later_version(data: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the data as a later version of rotator writes it: with one more field in its record."""
    record = data.get(RECORD_FIELD)
    return {**data, RECORD_FIELD: f"{LATER},{record}"} if record and LATER not in record else data


def _readable(history: History) -> str:
    numbers = [str(version.number) for version in history.versions if version.data is not None]
    return f"readable: {' '.join(numbers) or 'none'}"


@dataclass(slots=True, eq=False)
class VendorClient:
    line: Line

    @property
    def traits(self) -> Traits:
        return self.line.surroundings.vendor.traits

    def create(self, name: str, parameters: KeyParameters, expires_at: datetime) -> CreatedKey:
        around = self.line.surroundings
        intent, actor = around.intent, around.scheduler.running
        odd, which, mixed, whose = (actor.rng.random() for _ in range(4))
        around.truth.asked_for(name, expires_at, intent)
        intent.proven = False

        def effect() -> CreatedKey:
            granted: datetime | None = around.vendor.kept(expires_at)
            if odd < around.settings.odd_grants and around.happens(f"{actor.name}+{actor.calls}", "odd grant"):
                others = (None, expires_at + timedelta(seconds=600), expires_at - timedelta(seconds=400))
                granted = others[int(which * 3)]
            until = min(expires_at, around.vendor.kept(expires_at)) if self.traits.keys_expire else expires_at
            key = around.vendor.issue(name, granted, granted=until)
            created = CreatedKey(shown_id(key.id), key.name, Secret(key.text), key.expires_at)
            if mixed < around.settings.mixed_up and around.happens(f"{actor.name}?{actor.calls}", "mixed-up create"):
                return self._mixed_up(created, whose, intent)
            return created

        try:
            return self.line.call("provider.create", name.split(".", 3)[-1], effect, lambda key: f"makes {key.id}")
        finally:
            intent.made[name] = around.scheduler.now

    def _mixed_up(self, created: CreatedKey, whose: float, intent: Intent) -> CreatedKey:
        """The answer to a create shows another key, or the id or the text of the one that the path serves."""
        around = self.line.surroundings
        others = [key for key in around.vendor.keys.values() if shown_id(key.id) != created.id]
        other, served = others[int(whose * len(others))], around.truth.places[intent.path].served
        kind = int(whose * 4000) % 4
        if kind < 2 or served is None:
            return CreatedKey(shown_id(other.id), other.name if kind else "", Secret(other.text), other.expires_at)
        intent.disturbed = True  # only who has read what is served can know
        return replace(created, id=shown_id(served.id)) if kind == 2 else replace(created, secret=Secret(served.text))

    def ready(self) -> None: ...

    def pages(self, before: Callable[[], object]) -> Iterator[Sequence[ListedKey]]:
        around = self.line.surroundings
        start = 0
        behind = 0.0
        if not around.quiet and around.settings.lagging:
            actor = around.scheduler.running
            actor.calls += 1
            chance, size = actor.rng.random(), actor.rng.random()
            if chance < around.settings.lagging and around.happens(f"{actor.name}#{actor.calls}", "lagging list"):
                behind = size * 40
                around.intent.disturbed = True

        odd = 1.0
        if not around.quiet and around.settings.odd_entries:
            odd = around.scheduler.running.rng.random() * 5
            around.intent.disturbed |= odd < 1
        around.intent.disturbed |= around.vendor.shown_after > 0

        def effect() -> Sequence[ListedKey]:
            if around.blind:
                around.intent.disturbed = True
                return ()
            keys: list[ListedKey] = [
                replace(key, use=use) if (use := self._use(key.id, IN_LIST, behind)) else key
                for key in around.vendor.listed(behind, dated=bool(around.settings.dated))
            ]
            if odd < 1 and keys:
                key = keys[int(odd * len(keys))]
                keys[int(odd * len(keys))] = UnreadableKey(key.id, key.name, "whose expiry_date is true")
            others = [UnreadableKey("", "a stranger's", "whose id is 5")] if around.settings.odd_entries else []
            return [*others, *keys][start : start + 4]

        while True:
            before()
            subject = f"from {start}" + (f", {behind:.0f} s behind" if behind else "")
            page = self.line.call("provider.page", subject, effect, lambda page: " ".join(key.id for key in page))
            if not page:
                return
            yield page
            start += 4

    def retrieve(self, key_id: str) -> ProviderKey | None:
        around = self.line.surroundings
        vendor = around.vendor
        key_id = vendor.latest(key_id)
        around.intent.retrieved.add(key_id)

        def effect() -> ProviderKey | None:
            key = vendor.unrevoked(key_id)
            if around.blind:
                around.intent.disturbed = True
                around.truth.denied.add(key_id)
                around.truth.not_shown.add(key_id)
                return None
            if key and not vendor.shows(key):
                around.intent.disturbed = True
                return None
            return replace(_seen(key), use=self._use(key.id, ALONE)) if key else None

        def show(key: ProviderKey | None) -> str:
            return "is gone" if key is None else f"ends {_at(key.expires_at)}"

        try:
            return self.line.call("provider.retrieve", key_id, effect, show)
        except ProviderRequestRefused:
            around.truth.not_shown.add(key_id)
            raise

    def set_expiry(self, key_id: str, expires_at: datetime) -> ProviderKey | None:
        assert self.traits.can_set_expiry
        around = self.line.surroundings
        intent = around.intent
        key_id = around.vendor.latest(key_id)

        def effect() -> ProviderKey | None:
            key = around.vendor.unrevoked(key_id)
            if key is None:
                return None
            kept = around.vendor.kept(expires_at)
            around.truth.ending(key_id, kept, intent, asked=expires_at)
            key.expires_at = kept
            return _seen(key)

        around.truth.begins_to_end(key_id, expires_at, intent)
        try:
            return self.line.call(
                "provider.set_expiry",
                f"{key_id} to {_at(expires_at)}",
                effect,
                lambda key: f"ends {_at(key.expires_at)}" if key else "is gone",
            )
        except ProviderRequestRefused:
            around.truth.refused(key_id)
            raise

    def delete(self, key_id: str) -> None:
        around = self.line.surroundings
        intent = around.intent
        key_id = around.vendor.latest(key_id)

        def effect() -> None:
            around.vendor.unrevoked(key_id)
            around.truth.ending(key_id, None, intent)
            around.vendor.revoke(key_id)

        around.truth.begins_to_end(key_id, None, intent)
        self.line.call("provider.delete", key_id, effect)

    def _use(self, key_id: str, where: int, behind: float = 0.0) -> KeyUse | None:
        around = self.line.surroundings
        if around.meter is None or not where & around.settings.shows:
            return None
        return around.meter.shown(around.vendor.latest(key_id), around.scheduler.now - behind)

    def probe(self, key: Secret) -> None:
        self.line.call("probe", "", lambda: None)


def _seen(key: IssuedKey) -> ProviderKey:
    return replace(key.seen(), id=shown_id(key.id))


def _at(moment: datetime | None) -> str:
    return "never" if moment is None else f"{(moment - START).total_seconds():.0f}"


def ports(
    line: Line,
    configuration: Configuration,
    clock: MachineClock,
    seed: str,
    served: Mapping[str, Record],
    min_age: timedelta,
    waiting: dict[str, Stray] | None,
) -> tuple[Ports, StrayKeys]:
    """All the effects of one process; `waiting` names are what it takes over from its predecessor."""

    def emit(event: Event) -> None:
        line.surroundings.coverage[event.what.value] += 1

    def leads() -> bool:
        answer = line.surroundings.intent.leads = line.process.leads
        return answer

    provider, budget = VendorClient(line), Budget(line)
    strays = StrayKeys(provider, budget, clock, emit, served, min_age, waiting)
    store = StoreClient(line, configuration)
    return Ports(provider, store, budget, clock, random.Random(seed), emit, strays, leads), strays
