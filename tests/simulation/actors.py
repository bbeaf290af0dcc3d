"""Who acts: replicas of several threads, people at the command line, people with other tools, and the weather."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from random import Random
from typing import Any

from support.world import IssuedKey

from rotator.core.errors import ProviderError
from rotator.core.keys import KeyName
from rotator.core.reasons import Reason
from rotator.core.request import SCHEDULED, RotationRequest
from rotator.core.secrets import Secret
from rotator.core.target import Target
from rotator.core.versions import RECORD_FIELD, Record, compose
from rotator.protocol import reconciler as execute
from rotator.protocol import rollback
from rotator.protocol import sweeper as sweep
from rotator.protocol.extend import extendable
from rotator.protocol.memory import Memory
from rotator.protocol.observer import Observer, list_keys
from rotator.protocol.places import Claims
from rotator.protocol.strays import StrayKeys
from rotator.protocol.use_watch import UseWatch
from simulation.clients import DaemonInfo, Line, MachineClock, ports
from simulation.intent import Intent
from simulation.invariants import SOMEBODYS
from simulation.scheduler import Freezable, Happening, Killed
from simulation.settings import HOT_EVERY, LIST_EVERY

FORCED = RotationRequest(rotate=True, by="person")
REVOKED = RotationRequest(rotate=True, revoke_now=True, by="person")
ADOPTED = RotationRequest(rotate=True, adopt=True, by="person")


@dataclass(slots=True, eq=False)
class Life:
    """What a process has in memory; gone when it is killed."""

    reconciler: execute.Reconciler
    sweeper: sweep.Sweeper
    watch: UseWatch
    strays: StrayKeys
    due: dict[str, float]  # when each target is looked at next
    under_way: set[str] = field(default_factory=set)
    forced: set[str] = field(default_factory=set)  # targets that a person wants to be rotated
    failures: int = 0


class Program:
    """A process that may be killed at any call, and then starts again with nothing remembered."""

    is_swept = True

    def __init__(self, around: DaemonInfo, name: str, seed: str) -> None:
        self.around, self.name = around, name
        self.process = Freezable(name)
        self._seed = f"{seed}/{name}"
        self._lives = 0
        self.clock = MachineClock(around.scheduler)
        self.life = self._new_life()

    def start(self) -> None:
        """Called when the process was killed."""
        self.clock.upstreams.clear()
        self.life = self._new_life()

    def reload(self) -> None:
        """Take the newest configuration up; what is under way ends with the old one."""
        self.life = self._new_life(self.life)

    def _new_life(self, before: Life | None = None) -> Life:
        self._lives += 1
        line = Line(self.around, self.process, self.clock)
        self.configuration = read = self.around.configuration
        self.targets = read.targets
        if self.around.settings.differ and self.name == "b":
            first, *others = read.targets
            self.targets = (replace(first, parameters={"rate_limit": 7}), *others)
        names = frozenset(target.name for target in self.targets)
        served: dict[str, Record] = {}
        waiting = before.strays.waiting if before else None
        min_age = timedelta(seconds=self.around.settings.settle)
        mine, strays = ports(line, read, self.clock, f"{self._seed}/{self._lives}", served, min_age, waiting)
        memory = Memory(before.reconciler.observer.memory.kept if before else None, served, is_swept=self.is_swept)
        settings = self.around.settings
        claims = Claims((target, mine.store) for target in self.targets)
        reconciler = execute.Reconciler(
            Observer(
                read.owner,
                read.former_owners,
                names,
                mine,
                memory,
                min_age,
                claims=claims,
                list_every=timedelta(seconds=LIST_EVERY),
                hot_every=timedelta(seconds=HOT_EVERY),
            )
        )
        sweeper = sweep.Sweeper(
            "respan",
            [(reconciler.observer, self.targets)],
            mine.budget,
            min_age,
            settings.max_orphans,
        )
        now = self.around.scheduler.now
        under_way = before.under_way if before else set()
        watch = UseWatch([(reconciler.observer, self.targets)], mine.budget, most=10)
        return Life(reconciler, sweeper, watch, strays, {target.name: now for target in self.targets}, under_way)

    def thread(self, name: str, work: Callable[[Random], None]) -> None:
        """Another thread of this process, which does `work` over and over."""
        rng = Random(f"{self._seed}/{name}/work")

        def body() -> None:
            pause = self.around.scheduler.pause
            while True:
                try:
                    pause()
                    while True:
                        work(rng)
                except Killed:
                    continue

        label = f"{self.name}.{name}"
        self.around.scheduler.add(self.process, label, Random(f"{self._seed}/{name}/calls"), body)

    def pass_over(self, target: Target, request: RotationRequest, *, roll_back: bool = False) -> execute.Report:
        """One pass, and what the invariants have to know of it."""
        around = self.around
        adopting = request.adopt or target.adopt
        intent = Intent(
            target.path,
            life=f"{self.name}/{self._lives}",
            scheduled=request == SCHEDULED,
            by_person=roll_back,
            adopting=adopting,
            revoking=request.revoke_now,
            trusts_its_clock=self.clock.trusted(),
        )
        around.begin(intent)
        reconciler, configuration = self.life.reconciler, self.configuration
        report = rollback.roll_back(reconciler, target, request) if roll_back else reconciler.reconcile(target, request)
        around.coverage["rotations"] += report.rotated
        if report.plan:
            around.truth.judged(intent, report.plan.state)
        if report.rotated and report.attempted is Reason.NEARLY_SPENT:
            around.coverage["early rotations"] += 1
            around.truth.made_early(intent)
        if report.rotated and report.attempted is Reason.DRIFTED:
            around.coverage["drifted"] += 1
            around.truth.drifted(intent)
        intent.outdated = configuration is not around.configuration
        around.truth.passed(intent, report.error)
        return report

    def remove_strays(self, *, at_last: bool = False) -> None:
        """Look for what was made in vain, and remove it; and what the invariants have to know of that."""
        around = self.around
        intent = Intent(life=f"{self.name}/{self._lives}", tidying=True, trusts_its_clock=self.clock.trusted())
        around.begin(intent)
        self.life.strays.remove(at_last=at_last)
        around.coverage["lists for strays"] += 1
        around.truth.tidied(intent)


class Replica(Program):
    """A daemon: a few threads that pass over the targets, and one that sweeps."""

    def begin(self) -> None:
        for number in range(self.around.settings.workers):
            self.thread(str(number + 1), self._work)
        self.thread("sweep", self._sweep)
        self.thread("strays", self._remove_strays)
        if self.around.settings.consumers:
            self.thread("watch", self._watch_use)

    def _sweep(self, rng: Random) -> None:
        around, life = self.around, self.life
        wait = rng.random()
        if not self.process.leads:
            around.scheduler.pause(60.0 if around.quiet else 5 + wait * 60)
            return
        limit = 1000 if around.quiet else None  # by then a person has decided
        most = around.settings.max_orphans if limit is None else limit
        intent = Intent(sweeping=True, max_orphans=most, trusts_its_clock=self.clock.trusted())
        around.begin(intent)
        swept = life.sweeper.sweep(max_orphans=limit)
        around.coverage["sweeps"] += 1
        for orphan in swept.orphans:
            around.coverage[f"orphan {orphan.state.value}: {orphan.outcome.value}"] += 1
        if swept.error:
            around.coverage[f"sweep: {type(swept.error).__name__}"] += 1
        around.truth.compared(life=f"{self.name}/{self._lives}")
        around.truth.unknown([target.path for target in swept.unknown], intent)
        if around.quiet:  # by then a person has decided that, too
            life.forced |= {target.name for target in swept.unknown}
            life.due |= {target.name: around.scheduler.now for target in swept.unknown}
        self._hurry(swept.to_work)
        around.scheduler.pause(60.0 if around.quiet else 5 + wait * wait * 300)

    def _hurry(self, targets: Iterable[Target]) -> None:
        """Pass over these targets next, as the daemon's schedule does.

        Where consumers may wait, and once nothing goes wrong, at once; else a while may pass in which more does.
        """
        now = self.around.scheduler.now
        for target in targets:
            self.life.due[target.name] = now
            self.around.coverage["targets to work on"] += 1
        for actor in self.process.actors:
            if (self.around.settings.consumers or self.around.quiet) and actor.look is not None:
                actor.wake = min(actor.wake, now)

    def _watch_use(self, rng: Random) -> None:
        around, life = self.around, self.life
        if self.process.leads:
            around.begin(Intent(trusts_its_clock=self.clock.trusted()))
            self._hurry(life.watch.look(lambda: False))
        around.scheduler.pause(HOT_EVERY)

    def _remove_strays(self, rng: Random) -> None:
        def look() -> float:
            return 0.0 if self.life.strays.due else 2 + rng.random() * 10

        if self.life.strays.due:
            self.remove_strays()
        self.around.scheduler.rest(2 + rng.random() * 10, look)

    def _work(self, rng: Random) -> None:
        around = self.around
        draws, target = (0.0, 0.0), self.targets[0]

        def look() -> float:
            nonlocal draws, target
            draws, life = (rng.random(), rng.random()), self.life
            free = [target for target in self.targets if target.name not in life.under_way]
            if not free:
                return 10.0
            target = min(free, key=lambda target: life.due[target.name])
            return max(life.due[target.name] - around.scheduler.now, 0.0)

        if wait := look():
            around.scheduler.rest(wait, look)
        life = self.life
        life.under_way.add(target.name)
        report = self.pass_over(target, FORCED if target.name in life.forced else self._order(draws[0]))
        life.forced.discard(target.name)
        life.under_way.discard(target.name)
        life.failures = life.failures + 1 if report.error else 0
        wait = 5.0 * min(life.failures, 6) if report.error else 2 + draws[1] ** 3 * 300
        if around.quiet:
            wait = 60.0
        if around.settings.consumers and report.plan and report.plan.wake_at:
            wait = min(wait, max(1.0, (report.plan.wake_at - self.clock.now()).total_seconds()))
        life.due[target.name] = around.scheduler.now + wait

    def _order(self, draw: float) -> RotationRequest:
        around, settings = self.around, self.around.settings
        actor = around.scheduler.running
        if draw >= settings.revoked + settings.forced or not around.happens(f"{actor.name}!{actor.calls}", "forced"):
            return SCHEDULED
        return REVOKED if draw < settings.revoked else FORCED


class Commands(Program):
    """A person who types commands now and then; each is a program of its own."""

    is_swept = False

    def begin(self) -> None:
        self.thread("1", self._work)

    def _work(self, rng: Random) -> None:
        around = self.around
        wait, which, what = rng.random(), rng.random(), rng.random()
        around.scheduler.pause(20 + wait * 300)
        if around.quiet or not around.happens(f"command at {around.scheduler.now:.0f}", "command"):
            around.scheduler.pause(60)
            return
        self.start()
        target = self.targets[int(which * len(self.targets))]
        if what > 1 - around.settings.extends:
            self._extend(timedelta(seconds=300 + wait * 1200))
            return
        what /= 1 - around.settings.extends
        kind, request = ("rollback", RotationRequest(by="person")) if what < 0.5 else ("rotate", FORCED)
        if what > 0.7:
            kind, request = ("rotate --revoke-now", REVOKED) if what < 0.85 else ("rotate --adopt", ADOPTED)
        around.scheduler.note(self.name, kind, target.path, "")
        report = self.pass_over(target, request, roll_back=kind == "rollback")
        around.coverage[f"{kind}: {'error' if report.error else 'done'}"] += 1
        if self.life.strays.waiting:
            self.remove_strays(at_last=True)

    def _extend(self, time: timedelta) -> None:
        around = self.around
        around.scheduler.note(self.name, "extend", "", f"for {time.total_seconds():.0f} s")
        around.begin(Intent(extending=True))
        until = self.clock.now().replace(microsecond=0) + time
        reconciler = self.life.reconciler
        try:
            keys = list_keys(reconciler.observer.ports)
        except ProviderError:
            return
        found, _ = extendable(reconciler.observer, keys, self.targets, until)
        ended = [one.extend(until) for one in found]
        around.coverage["extended"] += sum(isinstance(ends, datetime) for ends in ended)
        around.coverage["extended by slug"] += sum(key.by_slug for key in found)


class People(Happening):
    """A person with `vault` and the provider's web page. Each act happens at once, between any two effects."""

    def __init__(self, around: DaemonInfo, rng: Random, deeds: dict[str, int]) -> None:
        super().__init__("people", self._act)
        self._around, self._rng = around, rng
        self._deeds = [name for name, weight in deeds.items() for _ in range(weight)]
        self._count = 0

    def _act(self) -> float:
        """Something, or nothing; returns when the next may happen."""
        around, rng = self._around, self._rng
        wait, which, what, detail = rng.random(), rng.random(), rng.random(), rng.random()
        self._count += 1
        target = self._targets[int(which * len(self._targets))]
        deed = self._deeds[int(what * len(self._deeds))]
        if self._count > 1 and around.happens(f"people#{self._count}", "deed"):
            done = getattr(self, "_" + deed.replace(" ", "_"))(target, detail)
            if done:
                around.coverage[deed] += 1
                around.scheduler.note("(people)", deed, target.path, done)
                around.truth.check()
        return around.scheduler.now + 10 + wait * wait * 400

    @property
    def _targets(self) -> tuple[Target, ...]:
        return self._around.configuration.targets

    def _data(self, target: Target) -> dict[str, Any]:
        return dict(self._around.store.read(target.path) or {})

    def _put(self, target: Target, data: dict[str, Any], kind: str = "", *, rolled_back: bool = False) -> str:
        number = self._around.store.put(target.path, **data)
        self._around.truth.by_hand(target.path, kind, rolled_back=rolled_back)
        return f"version {number}"

    def _some_version(self, target: Target, detail: float, *, readable: bool) -> int | None:
        found = [
            number
            for number, version in self._around.store.versions(target.path).items()
            if not version.destroyed and version.deleted is not readable
        ]
        return found[int(detail * len(found))] if found else None

    def _rollback(self, target: Target, detail: float) -> str:
        number = self._some_version(target, detail, readable=True)
        if number is None:
            return ""
        kind = self._around.truth.places[target.path].others.get(number, "")
        data = dict(self._around.store.versions(target.path)[number].data)
        return self._put(target, data, kind, rolled_back=True) + f", as {number} was"

    def _delete(self, target: Target, detail: float) -> str:
        store = self._around.store
        number = self._some_version(target, detail, readable=True)
        if number is None:
            return ""
        data = store.versions(target.path)[number].data
        store.delete(target.path, number)
        self._around.truth.hidden(target.path, data)
        return f"version {number}"

    def _undelete(self, target: Target, detail: float) -> str:
        number = self._some_version(target, detail, readable=False)
        if number is None:
            return ""
        self._around.store.undelete(target.path, number)
        self._around.truth.undeleted(target.path, self._around.scheduler.now)
        return f"version {number}"

    def _revive(self, target: Target, detail: float) -> str:
        """Undelete a version and roll back to it."""
        number = self._some_version(target, detail, readable=False)
        if number is None or not self._undelete(target, detail):
            return ""
        data = dict(self._around.store.versions(target.path)[number].data)
        return self._put(target, data, rolled_back=True) + f", as {number} was"

    def _destroy(self, target: Target, detail: float) -> str:
        number = self._some_version(target, detail, readable=True)
        if number is None:
            return ""
        data = self._around.store.versions(target.path)[number].data
        self._around.store.destroy(target.path, number)
        self._around.truth.hidden(target.path, data)
        return f"version {number}"

    def _put_other(self, target: Target, detail: float) -> str:
        return self._put(target, {"password": "x"}, "foreign")

    def _edit_key(self, target: Target, detail: float) -> str:
        data = self._data(target)
        held_by = [name for name, value in data.items() if self._around.vendor.by_text(value)]
        names = held_by or [target.key_field]
        return self._put(target, {**data, **dict.fromkeys(names, "sk-typed-by-hand")}, "foreign") if data else ""

    def _drop_record(self, target: Target, detail: float) -> str:
        data = self._data(target)
        return (
            self._put(target, {target.key_field: data[target.key_field]}, "foreign") if target.key_field in data else ""
        )

    def _copy(self, target: Target, detail: float) -> str:
        other = self._targets[int(detail * len(self._targets))]
        place, data = self._around.truth.places[other.path], self._data(other)
        if not data or other is target or place.foreign or place.forged or self._around.settings.changes:
            return ""  # (once its target has another name, a copy looks like what was here before)
        return self._put(target, data, "foreign")

    def _forge(self, target: Target, detail: float) -> str:
        """An attacker who may write this path names a foreign key in a record that looks like ours.

        A third does it well: as if the key had been made for just this version. Another third copies the key's name.
        """
        found = Record.parse(self._data(target).get(RECORD_FIELD))
        strangers = sorted(self._around.truth.strangers)
        if found is None or self._around.truth.places[target.path].foreign:
            return ""
        key: IssuedKey = self._around.vendor.keys[strangers[int(detail * len(strangers))]]
        secret = Secret("sk-made-up")
        name, kind = KeyName.parse(found.key_name), int(detail * 1000) % 3
        if name is not None and kind == 1:
            name = replace(name, version=self._around.store.current_version(target.path) + 1)
        record = Record(
            found.owner,
            target.name,
            key.id,
            key.name if kind == 2 else str(name or found.key_name),
            found.issued_at,
            found.expires_at,
            found.params,
            secret.fingerprint,
        )
        return self._put(target, compose(target, record, secret, {}), "forged") + f" names {key.id}"

    def _add_field(self, target: Target, detail: float) -> str:
        data = self._data(target)
        place = self._around.truth.places[target.path]
        kind = "foreign" if place.foreign else "forged" if place.forged else ""
        return self._put(target, {**data, SOMEBODYS: "mind this"}, kind) if data else ""

    def _reset(self, target: Target, detail: float) -> str:
        if not self._around.store.current_version(target.path):
            return ""
        self._around.store.delete_metadata(target.path)
        self._around.truth.reset(target.path, self._around.scheduler.now)
        return "metadata and all"

    def _restore(self, target: Target, detail: float) -> str:
        """The store's snapshot of a while ago is put back, for all paths."""
        store, truth, now = self._around.store, self._around.truth, self._around.scheduler.now
        earliest = max(place.reset_at for place in truth.places.values()) + 1
        moment = max(earliest, now - 600 * detail)
        if moment >= now or not any(store.current_version(path) for path in truth.places):
            return ""
        for path in truth.places:
            truth.restored(path, store.restore(path, moment), now)
        return f"as at {moment:.0f}"

    def _revoke_at_vendor(self, target: Target, detail: float) -> str:
        vendor, truth = self._around.vendor, self._around.truth
        keys = [key for key in vendor.living() if key.id not in truth.strangers]
        if not keys:
            return ""
        key = keys[int(detail * len(keys))]
        truth.revoked_by_hand(key)
        vendor.revoke(key.id)
        if truth.is_left_alone_yet(key):
            vendor.free(key.id)
        return key.id


class Election(Happening):
    """Replicas begin and cease to lead; often one, now and then none or several, as each of them sees it."""

    def __init__(self, around: DaemonInfo, replicas: list[Replica], rng: Random) -> None:
        super().__init__("election", self._change)
        self._around, self._replicas, self._rng = around, replicas, rng
        self._count = 0

    def _change(self) -> float:
        wait, which, whether = self._rng.random(), self._rng.random(), self._rng.random()
        self._count += 1
        if self._around.happens(f"election#{self._count}", "election"):
            process = self._replicas[int(which * len(self._replicas))].process
            process.leads = not process.leads
            if whether < 0.7:  # as it should be
                for replica in self._replicas:
                    replica.process.leads = replica.process is process
            leading = " ".join(replica.name for replica in self._replicas if replica.process.leads)
            self._around.scheduler.note("(election)", "leading", leading or "no replica", "")
        return self._around.scheduler.now + 5 + wait * wait * 400


class Deployment(Happening):
    """Now and then another configuration, which the programs take up one after the other, as they are restarted."""

    def __init__(self, around: DaemonInfo, programs: list[Program], rng: Random) -> None:
        super().__init__("deployment", self._act, 30 + rng.random() * 300)
        self._around, self._programs, self._rng = around, programs, rng
        self._count = 0

    def _act(self) -> float:
        around = self._around
        wait, which, what = self._rng.random(), self._rng.random(), self._rng.random()
        behind = [program for program in self._programs if program.configuration is not around.configuration]
        self._count += 1
        if not around.happens(f"deployment#{self._count}", "deployment"):
            return around.scheduler.now + 100
        if behind:
            program = behind[int(which * len(behind))]
            kind = "reload" if what < 0.5 else "restart"
            around.scheduler.note("(deployment)", kind, program.name, "")
            around.coverage[kind] += 1
            if kind == "reload":
                program.reload()
            else:
                around.restart(program.process)
            return around.scheduler.now + 1 + wait * 60
        kind = ("parameters", "extra field", "field", "name", "owner" if what < 0.9 else "place")[int(what * 5)]
        self._change(kind)
        around.coverage[f"changed: {kind}"] += 1
        around.scheduler.note("(deployment)", "changed", "", kind)
        return around.scheduler.now + 1 + wait * wait * 200

    def _change(self, kind: str) -> None:
        before = self._around.configuration
        first, *others = before.targets
        tag = str(self._count)
        match kind:
            case "parameters":
                first = replace(first, parameters={"rate_limit": 100 + self._count})
            case "extra field":
                first = replace(first, extra_fields={"base_url": f"https://api.respan.ai/{tag}"})
            case "field":
                first = replace(first, key_field="api_key" if first.key_field != "api_key" else "key")
            case "name":
                first = replace(first, name=f"renamed-{tag}")
        after = replace(before, targets=(first, *others))
        if kind == "owner":
            after = replace(after, owner=f"prod-{tag}", former_owners=before.owners)
        if kind == "place":
            after = replace(after, place=f"moved-{tag}", former_places=(*before.former_places, before.place))
        self._around.configuration = after
        if kind != "place":  # no key is replaced for a move; for an owner, where an old process adopts the path
            self._around.truth.configured(first)


class Weather(Happening):
    """Outages of the store, and jumps of wall clocks."""

    def __init__(self, around: DaemonInfo, clocks: list[MachineClock], rng: Random) -> None:
        super().__init__("weather", self._change)
        self._around, self._clocks, self._rng = around, clocks, rng
        self._count = 0

    def _change(self) -> float:
        around, rng = self._around, self._rng
        wait, which, kind, size = rng.random(), rng.random(), rng.random(), rng.random()
        self._count += 1
        around.outage, around.blind = "", False
        if around.settings.outages and kind < 0.5 and around.happens(f"weather#{self._count}", "outage"):
            around.outage = ("denied", "sealed", "down", "unwritable")[int(which * 4)]
            around.scheduler.note("(weather)", "outage", around.outage, "")
            return around.scheduler.now + (5 + wait * 60 if size > around.settings.extends else 300 + wait * 900)
        if around.settings.blind and kind < 0.8 and around.happens(f"weather#{self._count}", "blind"):
            around.blind = True
            around.scheduler.note("(weather)", "blind", "", "the vendor knows no key")
            return around.scheduler.now + 20 + wait * 300
        if around.settings.skew and around.happens(f"weather#{self._count}", "clock jump"):
            clock = self._clocks[int(which * len(self._clocks))]
            clock.ahead = timedelta(seconds=(size - 0.5) * 2 * around.settings.skew)
            around.scheduler.note("(weather)", "clock jump", f"{clock.ahead.total_seconds():.0f} s", "")
        return around.scheduler.now + 20 + wait * 300
