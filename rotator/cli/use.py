"""Reads what keys with caps have used, for `status` and `plan`: once, and with few requests.

A provider that fails makes use unknown. It does not make the command fail.
"""

import itertools
from collections.abc import Collection, Iterator
from contextlib import suppress
from functools import partial

from rotator.app.wiring import Installation
from rotator.core.errors import ProviderError, StoreError
from rotator.core.keys import ProviderKey
from rotator.core.observation import Observation
from rotator.core.orphans import by_place
from rotator.core.renewal import TIDYING
from rotator.core.target import Target
from rotator.protocol.observer import Observer
from rotator.protocol.use_watch import WATCH_SHARE


class UseReader:
    """Reads the use of these targets' keys. Any thread may call `read_list`, once a provider, and then `look_up`."""

    def __init__(self, installation: Installation, targets: Collection[Target]) -> None:
        traits = installation.configuration.traits
        self._installation = installation
        self._targets = {t.name: t for t in targets if t.caps.caps and traits[t.provider].reports_use != "no"}
        self.providers = frozenset(target.provider for target in self._targets.values())
        self._looked_up = {name: itertools.count() for name in self.providers}
        self.errors: dict[str, ProviderError] = {}  # by provider

    def read_list(self, provider: str) -> None:
        """Remember what the provider's list shows of the use of the targets' keys."""
        try:
            keys = by_place(self._listed(provider))
        except ProviderError as error:
            self.errors[provider] = error
            return
        targets = (target for target in self._targets.values() if target.provider == provider)
        for observer, some in self._installation.groups(targets):
            for target in some:
                with suppress(StoreError):  # reading the path reports it
                    for key in (key for place in observer.scope(target).places for key in keys.get(place, ())):
                        observer.memory.note_use(target, key, alone=False)

    def _listed(self, provider: str) -> Iterator[ProviderKey]:
        """Yield the list's keys. Of a list that needs more than half of a minute's requests, only those before that."""
        budget, clock = self._installation.budgets[provider], self._installation.clock
        pages = self._installation.providers[provider].pages(partial(budget.take, TIDYING))
        for page in itertools.islice(pages, max(1, budget.limit // 2)):
            yield from (key.seen_at(clock.now()) for key in page if isinstance(key, ProviderKey))

    def look_up(self, observer: Observer, observation: Observation) -> Observation:
        """Look up the served key if the list lacks its use. Not where that has taken a tenth of a minute's requests."""
        target, record = observation.target, observation.served
        if target.name not in self._targets or record is None or record.key_id in observation.use:
            return observation
        budget = self._installation.budgets[target.provider]
        if target.provider in self.errors or next(self._looked_up[target.provider]) >= budget.limit // WATCH_SHARE:
            return observation
        with suppress(ProviderError):
            return observer.look_up(observation, record, budget)
        return observation
