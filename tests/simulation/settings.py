"""What a schedule is like: how many programs and targets there are, and how often each fault occurs.

All of it follows from the seed. A `Profile` lists the possible values; a `Settings` holds those of one schedule.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from random import Random

from support.world import ALL, ENDLESS, FIXED

from rotator.core.traits import Traits

TTL = 1200
RENEW_BEFORE = 400
GRACE = 180
CAP, LIMIT = "max_usage", 100.0
"""The cap of each key, in a schedule with consumers."""

IN_LIST, ALONE = 1, 2
"""Where use is shown, see `Profile.shows`."""

PICKUP, IDLE_AFTER = 45, 60
LIST_EVERY, HOT_EVERY = 150, 30
"""Seconds. Lives are short, so that much happens in few steps; only their proportions matter to the protocol."""


@dataclass(frozen=True, slots=True)
class Profile:
    """The ranges that a schedule is drawn from. Rates are chances at each call, or of each person's deed."""

    name: str = "mixed"
    strict: bool = False  # see `invariants.Truth`
    traits: Traits = ALL
    targets: tuple[int, ...] = (1, 1, 1, 2, 3)
    replicas: tuple[int, ...] = (1, 2, 2, 2, 3)
    workers: tuple[int, ...] = (1, 1, 2)
    max_versions: tuple[int, ...] = (1, 2, 10, 10)
    settle: tuple[int, ...] = (0, 30, 60)
    steps: tuple[int, ...] = (80, 160)
    refused: tuple[float, ...] = (0.0, 0.02)
    unknown: tuple[float, ...] = (0.0, 0.05, 0.12)  # unsent, lost or late, in equal parts
    stale: tuple[float, ...] = (0.0, 0.0, 0.1)
    lagging: tuple[float, ...] = (0.0, 0.2)
    kill: tuple[float, ...] = (0.0, 0.01, 0.02)
    freeze: tuple[float, ...] = (0.0, 0.02, 0.05)
    slow: tuple[float, ...] = (0.0, 0.03)
    queues: tuple[float, ...] = (0.0, 0.0, 0.05)  # of the budget's requests, that wait for minutes
    forced: tuple[float, ...] = (0.1, 0.3)
    revoked: tuple[float, ...] = (0.0, 0.0, 0.05)
    hand: tuple[float, ...] = (0.0, 0.0, 1.0)  # of the schedules in which people change things by hand
    deeds: Mapping[str, int] = field(
        default_factory=lambda: {
            "rollback": 6,
            "delete": 2,
            "undelete": 1,
            "destroy": 1,
            "put other": 1,
            "edit key": 1,
            "drop record": 1,
            "copy": 1,
            "forge": 1,
            "add field": 2,
            "reset": 1,
            "revoke at vendor": 2,
            "restore": 1,
        }
    )
    commands: tuple[float, ...] = (0.0, 0.0, 1.0)  # of the schedules with a person at the command line
    extends: tuple[float, ...] = (0.0, 0.3)  # of the commands; and of the outages, those that outlast a key
    outages: tuple[float, ...] = (0.0, 0.0, 1.0)
    skew: tuple[float, ...] = (0.0, 0.0, 30.0)  # seconds by which a machine's wall clock may be off, and jump
    leading: tuple[int, ...] = (0, 0, 1)  # whether only some replicas lead at a time
    wrong: tuple[float, ...] = (0.0, 0.0, 0.0, 300.0)  # by which one machine's clock is off, and knows that it is
    hours: tuple[float, ...] = (0.0, 0.0, 0.0, 7200.0)  # by which one machine's clock is off, by both upstreams' dates
    dated: tuple[int, ...] = (0, 1)  # whether the vendor shows when a key was created
    changes: tuple[float, ...] = (0.0, 0.0, 1.0)  # of the schedules in which the configuration changes
    adopts: tuple[int, ...] = (0, 0, 1)  # whether the first target takes over what it finds
    max_orphans: tuple[int, ...] = (10, 10, 1)
    odd_grants: tuple[float, ...] = (0.0, 0.0, 0.1)  # an expiry other than asked, or none
    blind: tuple[float, ...] = (0.0, 0.0, 1.0)  # of the schedules in which the vendor knows no key for a while
    later: tuple[int, ...] = (0, 0, 1)  # whether one replica is of a later version, whose records hold more
    false_refusals: tuple[float, ...] = (0.0, 0.0, 0.05)  # of changes that were done
    slow_store: tuple[int, ...] = (0, 0, 0, 7)  # seconds that each read of a path takes
    rounds: tuple[int, ...] = (0, 0, 0, 60, -60)  # seconds of which each expiry is made a multiple, up or (-) down
    hidden: tuple[float, ...] = (0.0, 0.0, 20.0)  # seconds in which a new key is in no list, and unknown when looked up
    odd_entries: tuple[int, ...] = (0, 0, 1)  # whether the list has an entry that cannot be read; now and then of ours
    mixed_up: tuple[float, ...] = (0.0, 0.0, 0.1)  # answers to creates that show another key
    differ: tuple[int, ...] = (0,)  # whether one replica has other parameters for the first target, for good
    pauses: tuple[int, ...] = (0,)  # until how many seconds after the start scheduled rotations are paused
    windows: tuple[int, ...] = (0,)  # how often a window opens, in seconds; 0: scheduled rotations need none
    consumers: tuple[int, ...] = (0,)  # whether keys have a cap, and consumers that use them
    replaces: tuple[int, ...] = (0,)  # whether a nearly spent key is replaced
    most_early: tuple[int, ...] = (1,)  # how often in a day
    extension: tuple[int, ...] = (0,)  # seconds by which a grace may follow use
    shows: tuple[int, ...] = (0,)  # where use is shown: in the list (1), in a look-up (2), in both (3)
    shows_limit: tuple[int, ...] = (0, 1)
    last_used: tuple[int, ...] = (0, 1)  # whether it is shown when a key was last used
    rate: tuple[float, ...] = (0.05, 0.1, 0.2, 0.5)  # calls a second
    begins: tuple[float, ...] = (0.0, 600.0)  # seconds until consumers begin, at most
    bursts: tuple[int, ...] = (0, 1)
    stuck: tuple[int, ...] = (0, 1)  # whether one consumer of each path uses a key as long as it works
    use_lag: tuple[float, ...] = (0.0, 0.0, 40.0)  # seconds by which the use that is shown is behind
    vanishes: tuple[int, ...] = (0, 1)  # whether counters start again, or are not shown for a while
    reuses: tuple[int, ...] = (0,)  # 1: a new key gets the id after the largest there is, 2: the first that is free


MIXED = Profile()
RACES = Profile(
    "races",  # many at work on one path, often interrupted; a short history
    targets=(1,),
    replicas=(2, 3),
    max_versions=(1, 2, 10),
    settle=(0,),
    unknown=(0.05, 0.12),
    stale=(0.0, 0.1),
    freeze=(0.05, 0.1),
    forced=(0.3, 0.5),
    hand=(0.0,),
    commands=(0.0,),
    outages=(0.0,),
    skew=(0.0,),
    wrong=(0.0,),
    hours=(0.0,),
    max_orphans=(10,),
    odd_grants=(0.0,),
    false_refusals=(0.0, 0.1),
    mixed_up=(0.0, 0.1),
)
ROLLBACKS = Profile(
    "rollbacks",  # a person who rolls back at the worst moments, and nothing that is stale or late
    strict=True,
    targets=(1,),
    replicas=(1, 2),
    max_versions=(10,),
    unknown=(0.0,),
    stale=(0.0,),
    freeze=(0.05, 0.1),
    slow=(0.1,),
    hand=(1.0,),
    deeds={"rollback": 1},
    commands=(0.0,),
    wrong=(0.0,),
    hours=(0.0,),
)
MEDDLING = Profile("meddling", targets=(1, 2), hand=(1.0,), commands=(1.0,))
EXTENDS = Profile(
    "extends",  # a person prolongs keys again and again while they are replaced
    targets=(1,),
    hand=(0.0,),
    commands=(1.0,),
    extends=(0.7,),
    changes=(0.0,),
)
STRANGE = Profile(
    "strange",  # for a while the vendor answers as another organisation would, or with an empty list
    targets=(2, 3),
    replicas=(1, 2),
    settle=(0, 30),
    unknown=(0.0,),
    stale=(0.0,),
    hand=(0.0, 1.0),
    deeds={"revoke at vendor": 3, "rollback": 1, "restore": 1},
    commands=(0.0,),
    outages=(0.0,),
    changes=(0.0,),
    blind=(1.0,),
)
CONTESTS = Profile(
    "contests",  # two replicas act, with different parameters for one path
    targets=(1,),
    replicas=(2,),
    settle=(0, 30),
    hand=(0.0,),
    commands=(0.0,),
    changes=(0.0,),
    hours=(0.0,),
    leading=(0,),
    differ=(1,),
)
WINDOWS = Profile(
    "windows",  # scheduled rotations wait for a window, also after outages and deaths
    targets=(1, 2),
    steps=(300, 500),
    forced=(0.0, 0.05),
    slow=(0.0,),
    freeze=(0.0,),
    queues=(0.0,),
    hand=(0.0, 0.0, 1.0),
    deeds={"rollback": 1},
    commands=(0.0,),
    outages=(0.0, 1.0),
    extends=(0.0,),
    skew=(0.0,),
    wrong=(0.0,),
    hours=(0.0,),
    changes=(0.0,),
    odd_grants=(0.0,),
    slow_store=(0,),
    rounds=(0,),  # a rounded end is the last resort of a process that has seen it
    windows=(120, 200, 300),
)
PAUSES = replace(
    WINDOWS,
    name="pauses",  # keys are extended; all are replaced when the pause ends, maybe when nothing else goes wrong again
    targets=(1,),
    max_versions=(2, 10),
    outages=(0.0,),
    blind=(0.0,),
    windows=(0, 0, 200),
    pauses=(1500, 2000),
)
BLIND_PAUSES = replace(
    PAUSES,
    name="blind-pauses",  # and the vendor does not know the keys that are to be extended
    targets=(2, 3),
    blind=(1.0,),
)
NO_EXPIRY_CHANGE = replace(
    RACES,
    name="no-expiry-change",  # the provider cannot change the expiry of a key
    traits=FIXED,
    stale=(0.0,),
    slow_store=(0,),
    hand=(0.0, 0.0, 1.0),
    commands=(0.0, 0.0, 1.0),
    max_orphans=(10, 10, 1),
    odd_grants=(0.0, 0.1),
    reuses=(0, 0, 1, 2),
)
NO_EXPIRY = Profile("no-expiry", traits=ENDLESS, reuses=(0, 0, 1, 2))  # keys never expire
USE = Profile(
    "use",  # keys have a cap, and consumers that use them
    hand=(0.0, 0.0, 1.0),
    deeds={"rollback": 1, "revoke at vendor": 1},
    commands=(0.0, 0.0, 1.0),
    steps=(160,),
    forced=(0.0, 0.1),
    consumers=(1,),
    replaces=(0, 1, 1),
    most_early=(1, 2, 4),
    extension=(0, 120, 300),
    shows=(0, 1, 2, 3),
)
USE_IN_WINDOWS = replace(USE, name="use-in-windows", windows=(200, 300), replaces=(1,))
STEADY = replace(
    USE,
    name="steady",  # and nothing goes wrong
    changes=(0.0,),
    adopts=(0,),
    wrong=(0.0,),
    hours=(0.0,),
    blind=(0.0,),
    odd_grants=(0.0,),
    replicas=(1,),
    targets=(1, 2),
    refused=(0.0,),
    unknown=(0.0,),
    stale=(0.0,),
    lagging=(0.0,),
    kill=(0.0,),
    freeze=(0.0,),
    slow=(0.0,),
    queues=(0.0,),
    forced=(0.0,),
    revoked=(0.0,),
    hand=(0.0,),
    commands=(0.0,),
    outages=(0.0,),
    skew=(0.0,),
    leading=(0,),
    false_refusals=(0.0,),
    slow_store=(0,),
    rounds=(0,),
    hidden=(0.0,),
    odd_entries=(0,),
    mixed_up=(0.0,),
    replaces=(0, 1, 1),
    max_versions=(10,),
    most_early=(20,),
    shows=(1, 2, 3),
    bursts=(0,),
    use_lag=(0.0,),
)
PROFILES = {
    profile.name: profile
    for profile in (
        *(MIXED, RACES, ROLLBACKS, MEDDLING, EXTENDS, STRANGE, CONTESTS, WINDOWS, PAUSES, BLIND_PAUSES),
        *(NO_EXPIRY_CHANGE, NO_EXPIRY, USE, USE_IN_WINDOWS, STEADY),
    )
}


@dataclass(frozen=True, slots=True)
class Settings:
    """One schedule's."""

    targets: int
    replicas: int
    workers: int
    max_versions: int
    settle: int
    steps: int
    refused: float
    unknown: float
    stale: float
    lagging: float
    kill: float
    freeze: float
    slow: float
    queues: float
    forced: float
    revoked: float
    hand: float
    commands: float
    extends: float
    outages: float
    skew: float
    leading: int
    wrong: float
    hours: float
    dated: int
    changes: float
    adopts: int
    max_orphans: int
    odd_grants: float
    blind: float
    later: int
    false_refusals: float
    slow_store: int
    rounds: int
    mixed_up: float
    survivors: int  # 1: the programs go on after the last fault; else new ones replace all
    hidden: float  # drawn last, so that older seeds stay what they were
    odd_entries: int
    differ: int
    reuses: int
    windows: int
    consumers: int
    replaces: int
    most_early: int
    extension: int
    shows: int
    shows_limit: int
    last_used: int
    rate: float
    begins: float
    bursts: int
    stuck: int
    use_lag: float
    vanishes: int
    pauses: int

    @classmethod
    def draw(cls, profile: Profile, rng: Random) -> "Settings":
        return cls(
            **{
                name: int(rng.random() < 0.5) if name == "survivors" else rng.choice(getattr(profile, name))
                for name in cls.__slots__
            }
        )

    @property
    def shown_after(self) -> float:
        """How long a new key is hidden: only as long as the youngest age to act on covers, by any clock."""
        return self.hidden if self.hidden + 2 * self.skew < self.settle else 0.0

    @property
    def is_calm(self) -> bool:
        """Whether nothing goes wrong, and consumers use keys at one rate."""
        faults = (self.refused, self.unknown, self.stale, self.lagging, self.kill, self.freeze, self.slow, self.queues)
        others = (self.outages, self.blind, self.bursts, self.false_refusals, self.slow_store, self.hand, self.leading)
        return not any((*faults, *others, self.odd_entries, self.skew, self.hidden))

    @property
    def grace(self) -> timedelta:
        return timedelta(seconds=GRACE)

    def __str__(self) -> str:
        return ", ".join(f"{name} {value}" for name in self.__slots__ if (value := getattr(self, name)))
