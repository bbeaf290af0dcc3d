"""How many requests the targets need of each provider, against what its rate limit allows. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from math import ceil

from rotator.config.schema import FileSettings
from rotator.core.renewal import period_of
from rotator.core.superseded import requests_to_extend
from rotator.core.target import Target
from rotator.core.traits import Traits
from rotator.runtime.rate_limit import REQUESTS_PER_ROTATION, SWEEP_SHARE, WINDOW


@dataclass(frozen=True, slots=True)
class ProviderLoad:
    """What a provider's targets need of its rate limit, in requests a minute."""

    provider: str
    targets: int
    requests_per_minute: int
    rotations: float
    sweeps: float
    extensions: float  # while each superseded key is used until its extended grace ends
    traits: Traits

    @property
    def needed(self) -> float:
        """Return what rotations, sweeps and extensions need together."""
        return self.rotations + self.sweeps + self.extensions

    @property
    def allowed(self) -> float:
        """Return what rotator sends at most: a little less than the limit, because requests travel unequally fast."""
        return self.requests_per_minute * 60 / WINDOW

    @property
    def share(self) -> float:
        """Return the needed share of what is allowed; 1.0 is all of it."""
        return self.needed / self.allowed

    @property
    def need(self) -> str:
        """Return the two numbers for a sentence."""
        return f"{_shown(self.needed)} of {_shown(self.allowed)} requests a minute"

    @property
    def parts(self) -> str:
        """Return how `needed` comes about."""
        requests = "create, shorten, delete" if self.traits.can_set_expiry else "create, look up, delete"
        extensions = f"; {_shown(self.extensions)} to extend graces" if self.extensions else ""
        return (
            f"{_shown(self.rotations)} for rotations, each of {REQUESTS_PER_ROTATION} ({requests}); "
            f"{_shown(self.sweeps)} for sweeps{extensions}"
        )

    def __str__(self) -> str:
        needs = "1 target needs" if self.targets == 1 else f"{self.targets} targets need"
        return f"{self.provider}: {needs} {self.need} ({self.share:.0%}): {self.parts}"


def _shown(requests: float) -> str:
    return f"{requests:,.0f}" if requests >= 100 else f"{requests:.3g}"


def provider_loads(
    settings: FileSettings, targets: Mapping[str, Target], traits: Mapping[str, Traits]
) -> tuple[ProviderLoad, ...]:
    """Return the load of each provider.

    A key is replaced `lead` before its expiry, so a rotation takes place once in the rest of its ttl. After each, two
    keys live for a grace period. A sweep lists all keys, within its share of the rate limit.
    """
    rotations, keys = dict.fromkeys(settings.providers, 0.0), dict.fromkeys(settings.providers, 0.0)
    extensions = dict.fromkeys(settings.providers, 0.0)
    counts = dict.fromkeys(settings.providers, 0)
    for target in targets.values():
        period = period_of(target)
        rotations[target.provider] += REQUESTS_PER_ROTATION * (timedelta(minutes=1) / period)
        extensions[target.provider] += requests_to_extend(target) * (timedelta(minutes=1) / period)
        keys[target.provider] += 1 + (target.grace_period + target.grace_extension) / period
        counts[target.provider] += 1
    interval = settings.sweep.interval / timedelta(minutes=1)
    return tuple(
        ProviderLoad(
            name,
            counts[name],
            provider.requests_per_minute,
            rotations[name],
            min(
                ceil(keys[name] / traits[name].keys_per_page) / interval,
                max(1, provider.requests_per_minute // SWEEP_SHARE),
            ),
            extensions[name],
            traits[name],
        )
        for name, provider in settings.providers.items()
    )
