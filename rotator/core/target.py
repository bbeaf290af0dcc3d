"""A target as configured."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache

from rotator.core.windows import Windows

KeyParameter = int | float | bool | str | tuple[str, ...]

KeyParameters = Mapping[str, KeyParameter]
"""What a key may do, in the provider's own terms. The provider's default applies to what is left out."""


@dataclass(frozen=True, slots=True)
class Cap:
    """A limit of each key: what it may use until it stops working."""

    option: str  # of `key`
    limit: float
    unit: str = ""  # for messages: "USD", "calls"
    is_seen: bool = True  # else no answer of the provider shows how much of it is used


@dataclass(frozen=True, slots=True)
class CapPolicy:
    """The caps of a target's keys, and what becomes of a key whose cap is nearly spent."""

    caps: tuple[Cap, ...] = ()
    replaces: bool = False  # else it is only reported
    replace_at: float = 0.8  # the share of a cap at which a key counts as nearly spent
    pickup: timedelta = timedelta(minutes=15)  # the time until the last consumer uses a new key
    max_early_rotations: int = 4  # in 24 hours


NO_CAPS = CapPolicy()


@dataclass(frozen=True, slots=True)
class Target:
    """One path that always holds one live key."""

    name: str
    path: str
    provider: str
    store: str
    key_field: str
    extra_fields: Mapping[str, str]
    parameters: KeyParameters
    ttl: timedelta
    renew_before: timedelta
    grace_period: timedelta
    jitter: timedelta  # a key is replaced this much earlier than `renew_before` demands; from a hash of the name
    adopt: bool = False
    caps: CapPolicy = NO_CAPS
    grace_extension: timedelta = timedelta(0)  # how much longer a superseded key may live while it is used
    idle_after: timedelta = timedelta(minutes=30)  # so long after its last use, a superseded key counts as unused
    windows: Windows = ()  # when scheduled rotations may begin; at any time if there are none
    pause_until: datetime | None = None  # scheduled rotations wait until then
    former_paths: tuple[str, ...] = ()  # where it was before, in the same store: keys made for these are its own

    @property
    def lead(self) -> timedelta:
        """How long before its expiry a key of this target is replaced, jitter included."""
        return self.renew_before + self.jitter

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the parameters as requested: a provider's plan may limit, or round, its answer."""
        return _fingerprint_of(tuple(self.parameters.items()), self.ttl)


@lru_cache(maxsize=1000)
def _fingerprint_of(parameters: tuple[tuple[str, KeyParameter], ...], ttl: timedelta) -> str:
    asked = {**dict(parameters), "ttl": int(ttl.total_seconds())}
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:16]
