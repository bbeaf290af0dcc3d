"""One schedule from its seed; many of them; and a failing one with all that it can do without left out."""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import lru_cache
from random import Random
from typing import Any, Literal
from unittest.mock import patch

from support.world import HOUR, START, make_target

from rotator.core import versions
from rotator.core.keys import KeyName, place_of
from rotator.core.target import Cap, CapPolicy
from simulation.actors import Commands, Deployment, Election, People, Program, Replica, Weather
from simulation.clients import Configuration, DaemonInfo
from simulation.consumers import Consumers, Meter
from simulation.invariants import FAULT, Truth
from simulation.scheduler import Freezable, Scheduler, Step
from simulation.settings import CAP, GRACE, IDLE_AFTER, LIMIT, PICKUP, RENEW_BEFORE, TTL, Profile, Settings
from simulation.windows import repeated
from simulation.world import LaggingVendor, RememberingStore

HEALED = 180
"""Seconds without disturbance after which each process has swept once, and has passed over each target since.

A sweep that was under way ends within 30, the next one and the pass after it begin 60 after what was before them.
"""

QUIET = GRACE * 2 + 150
"""Seconds without disturbance after which nothing may be left over: settling, a grace that begins then, and sweeps."""

SLOW_READS = 30
"""Reads of paths in that time, of which each takes so much longer where the store is slow: a sweep, and a pass after it
that lost against the sweep's fence.
"""

FENCED = 120
"""The same where a new key has the id of the served one: a sweep fences it, and the pass that replaces it loses once.
"""

REMOVAL = 120
"""Seconds without disturbance in which each process has swept or passed over each target twice."""

MOST_STEPS = 3000
"""After so many calls a schedule is taken to go round in circles."""


SHOWN: tuple[Literal["no", "list", "retrieve"], ...] = ("no", "list", "retrieve", "list")
"""What a provider states of `Profile.shows`."""


SIMPLER = (
    *("targets=1", "replicas=1", "workers=1", "hand=0", "commands=0", "outages=0", "skew=0", "wrong=0", "lagging=0"),
    *("queues=0", "leading=0", "hours=0", "extends=0", "adopts=0", "changes=0"),
    *("blind=0", "forced=0", "revoked=0", "kill=0", "freeze=0", "slow=0", "refused=0", "odd_grants=0", "survivors=0"),
    *("false_refusals=0", "mixed_up=0", "rounds=0", "slow_store=0", "differ=0", "reuses=0"),
    *("replaces=0", "extension=0", "bursts=0", "stuck=0", "vanishes=0", "use_lag=0"),
)
"""Changes that make a schedule easier to read, if it still breaks the same promise."""

_NAMES = tuple(change.partition("=")[0] for change in SIMPLER)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one schedule."""

    seed: int
    profile: Profile
    settings: Settings
    broken: str | None
    steps: list[Step]
    disturbances: list[str]
    without: frozenset[str]
    coverage: "Counter[str]" = field(repr=False)

    def __str__(self) -> str:
        """What was broken, and the steps of all passes and sweeps that did anything; the others are left out."""
        shown = {step.part_of for step in self.steps if step.is_shown} | {step.part_of for step in self.steps[-1:]}
        return self.trace([step for step in self.steps if step.part_of in shown])

    def trace(self, steps: Iterable[Step]) -> str:
        """These steps, under what is to be known of the schedule."""
        left_out = [f"    without {' '.join(sorted(self.without))}"] if self.without else []
        lines = [
            f"seed {self.seed}, profile {self.profile.name}: {self.broken or 'no promise was broken'}",
            f"    {self.settings}",
            *left_out,
            *map(str, steps),
        ]
        return "\n".join(lines)


@contextmanager
def parsed_once() -> Iterator[None]:
    """Parse each key's name once, and no record as a schedule before did, which may have run under another mutation."""
    versions._parsed.cache_clear()
    with patch.object(KeyName, "parse", lru_cache(maxsize=None)(KeyName.parse)):
        yield


@parsed_once()
def simulate(seed: int, profile: Profile, without: Iterable[str] = (), promises: Collection[str] = ()) -> Outcome:
    """Run one schedule. `without`: disturbances that are left out, and settings ("replicas=1") that are changed.

    `promises`: only these are looked at; all when there are none.
    """
    settings = Settings.draw(profile, Random(f"{seed}/settings"))
    changes = dict(name.split("=") for name in without if "=" in name)
    settings = replace(settings, **{name: int(value) for name, value in changes.items()})
    scheduler = Scheduler(f"{seed}/scheduler")
    store = RememberingStore(scheduler.clock, settings.max_versions)
    vendor = LaggingVendor(scheduler.clock)
    vendor.traits = profile.traits
    vendor.rounds = settings.rounds
    vendor.shown_after = settings.shown_after
    vendor.reuses = settings.reuses
    second, meter = timedelta(seconds=1), Meter(settings) if settings.consumers else None
    if meter:
        vendor.traits = replace(vendor.traits, reports_use=SHOWN[settings.shows])
    targets = tuple(
        make_target(
            f"target-{letter}",
            path=letter,
            ttl=TTL * second,
            renew_before=RENEW_BEFORE * second,
            grace_period=GRACE * second,
            adopt=bool(settings.adopts) and letter == "x",
            windows=repeated(settings.windows),
            pause_until=START + settings.pauses * second if settings.pauses else None,
            **_caps(settings),
        )
        for letter in "xyz"[: settings.targets]
    )
    truth = Truth(
        targets,
        store,
        vendor,
        skew=settings.skew,
        wrong=settings.wrong,
        settle=settings.settle,
        strict=profile.strict,
        removal=0.0 if profile.traits.can_set_expiry else REMOVAL + SLOW_READS * settings.slow_store,
        promises=promises,
        meter=meter,
    )
    for name in ("a stranger's", str(KeyName("prod-eu", targets[0].name, place_of("other", "memory/x"), 1, "a" * 8))):
        truth.strangers.add(vendor.issue(name, START + 1000 * HOUR).id)
    vendor.elsewhere.add(vendor.issue("another organisation's", START + 1000 * HOUR).id)
    truth.strangers |= vendor.elsewhere
    around = DaemonInfo(
        scheduler, settings, store, vendor, truth, frozenset(without), Configuration(targets), meter=meter
    )

    if settings.differ:
        truth.contest()
    replicas = [Replica(around, letter, str(seed)) for letter in "abc"[: settings.replicas]]
    for replica in replicas:
        replica.begin()
    programs: list[Program] = [*replicas]
    if settings.hours:
        programs[0].clock.off = timedelta(seconds=settings.hours * (1 if seed // 2 % 2 else -1))
    if settings.wrong:
        programs[-1].clock.wrong = timedelta(seconds=settings.wrong * (1 if seed % 2 else -1))
    if settings.commands:
        commands = Commands(around, "cli", str(seed))
        commands.begin()
        programs.append(commands)

    def restart(process: Freezable) -> None:
        scheduler.kill(process)
        next(program for program in programs if program.process is process).start()

    around.restart = restart
    around.network.act = around.land
    scheduler.happenings.append(around.network)
    weather = Weather(around, [program.clock for program in programs], Random(f"{seed}/weather"))
    scheduler.happenings.append(weather)
    if settings.changes:
        scheduler.happenings.append(Deployment(around, programs, Random(f"{seed}/deployment")))
    if settings.leading:
        scheduler.happenings.append(Election(around, replicas, Random(f"{seed}/election")))
    if meter:
        scheduler.happenings.append(Consumers(around, meter, Random(f"{seed}/consumers")))
    if settings.hand:
        scheduler.happenings.append(People(around, Random(f"{seed}/people"), dict(profile.deeds)))

    ending = _Ending(around, programs, weather)
    scheduler.ends = ending
    scheduler.crashed = lambda text: truth.break_(FAULT, text)
    scheduler.run()
    if truth.broken is None:
        truth.check_end()
    return Outcome(
        seed,
        profile,
        settings,
        truth.broken,
        scheduler.steps,
        around.disturbances,
        around.without,
        around.coverage,
    )


def _caps(settings: Settings) -> dict[str, Any]:
    """Return the options of a target that say what its keys may use, and what follows from it."""
    if not settings.consumers:
        return {}
    return {
        "caps": CapPolicy(
            (Cap(CAP, LIMIT, "calls"),),
            replaces=bool(settings.replaces and settings.shows),
            pickup=timedelta(seconds=PICKUP),
            max_early_rotations=settings.most_early,
        ),
        "grace_extension": timedelta(seconds=settings.extension if settings.shows else 0),
        "idle_after": timedelta(seconds=IDLE_AFTER),
    }


class _Ending:
    """When a schedule becomes quiet, and when it ends."""

    def __init__(self, around: DaemonInfo, programs: list[Program], weather: Weather) -> None:
        self._around, self._programs, self._weather = around, programs, weather
        self._healed_by = self._until = self._slow = 0.0

    def __call__(self) -> bool:
        around = self._around
        scheduler = around.scheduler
        if around.truth.broken is not None:
            return True
        if around.quiet:
            if around.effects > MOST_STEPS:
                around.truth.break_(FAULT, "it goes round in circles")
            if scheduler.now >= self._healed_by:
                self._healed_by = float("inf")
                around.truth.check_healed()
            # The later sweeps look at the keys of a path that another writer had.
            return scheduler.now >= max(self._until, around.truth.ours_at + self._slow + QUIET)
        if around.effects >= around.settings.steps:
            self._be_quiet()
        return False

    def _be_quiet(self) -> None:
        """The faults end: delayed calls land, and frozen processes go on."""
        around = self._around
        around.quiet, around.outage, around.blind, around.vendor.shown_after = True, "", False, 0.0
        around.truth.quiet_since = around.scheduler.now
        around.scheduler.note("", "quiet", "", "from here on nothing goes wrong")
        while around.late:
            around.land()
        happenings = around.scheduler.happenings
        happenings[:] = (happening for happening in happenings if isinstance(happening, Consumers))
        for program in self._programs:
            program.process.frozen_until = 0.0
            program.clock.ahead = program.clock.wrong = program.clock.off = timedelta(0)
            program.process.leads = program is self._programs[0] or not around.settings.leading
            if around.settings.survivors and program.configuration is around.configuration:
                for name in program.life.due:
                    program.life.due[name] = min(program.life.due[name], around.scheduler.now + 30)
            else:
                around.restart(program.process)
        for actor in around.scheduler.actors:
            actor.wake = min(actor.wake, around.scheduler.now + 30)
        self._slow = SLOW_READS * around.settings.slow_store + FENCED * bool(around.settings.reuses)
        self._slow += around.settings.extension
        from_now = around.scheduler.now + self._slow
        self._healed_by, self._until = from_now + HEALED, from_now + QUIET


def shortest(outcome: Outcome) -> Outcome:
    """The same promise broken with as few disturbances as leaving them out one at a time finds."""
    assert outcome.broken is not None
    promise = outcome.broken.partition(":")[0]
    settings = outcome.settings
    tried = {change for change in SIMPLER if change in (f"{name}={getattr(settings, name):g}" for name in _NAMES)}
    while left := [name for name in (*SIMPLER, *reversed(outcome.disturbances)) if name not in tried]:
        tried.add(left[0])
        shorter = simulate(outcome.seed, outcome.profile, outcome.without | {left[0]})
        if shorter.broken is not None and shorter.broken.startswith(promise):
            outcome = shorter
    return outcome
