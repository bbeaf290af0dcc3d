"""Looks at a target: reads its path, and looks up the keys at the provider that a plan needs to know more of.

Looking changes nothing outside this process. It uses the provider's budget, and fills the memory.
"""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta

from rotator.core.keys import ListedKey, UnreadableKey, place_of
from rotator.core.observation import Observation, PathReading
from rotator.core.ports import Budget, Ports
from rotator.core.renewal import TIDYING
from rotator.core.superseded import to_confirm
from rotator.core.target import Target
from rotator.core.versions import History, Record, Scope
from rotator.protocol.memory import Memory
from rotator.protocol.places import Claims, locations
from rotator.protocol.recognition import Recognition

MAX_AGE = 5.0
"""Seconds (monotonic) for which the answer of a read may be acted on where no compare-and-set protects the action."""

MAX_READ = 30.0
"""Seconds (monotonic) that a read may have taken for that: what it shows may be as old as the read was long."""


class Observer:
    """Looks at the targets of one provider and one store. Safe for many threads."""

    def __init__(
        self,
        owner: str,
        former_owners: frozenset[str],
        names: frozenset[str],
        ports: Ports,
        memory: Memory | None = None,
        min_age: timedelta = timedelta(0),
        recognition: Recognition | None = None,
        claims: Claims | None = None,
        list_every: timedelta = timedelta(minutes=15),
        hot_every: timedelta | None = None,
    ) -> None:
        """`names` are all configured targets, whatever their store, and `claims` their locations.

        `recognition` is the provider's. A provider may not show a key yet that is younger than `min_age`. `list_every`
        and `hot_every` are how often use is looked at: in the list, and alone where it may be spent before the next.
        """
        self.owner = owner
        self.owners = frozenset({owner}) | former_owners
        self._names = names
        self.ports = ports
        self.memory = memory or Memory()
        self.recognition = recognition or Recognition()
        self._claims = claims or Claims()
        self.min_age = min_age
        self.list_every, self.hot_every = list_every, hot_every or list_every
        self._scopes: dict[str, Scope] = {}

    def scope(self, target: Target) -> Scope:
        """Return which names and records are this target's own. Raises what `Store.location` raises."""
        if known := self._scopes.get(target.name):
            return known
        present, former = locations(target, self.ports.store)
        undisputed = self._claims.undisputed(former)
        owners = (self.owner, *sorted(self.owners - {self.owner}))
        places = [place_of(owner, location) for location in (present, *(undisputed or ())) for owner in owners]
        scope = Scope(
            owner=self.owner,
            places=tuple(dict.fromkeys(places)),
            place=places[0],
            owners=self.owners,
            names=self._names,
        )
        if undisputed is not None:  # else the next look asks again
            self._scopes[target.name] = scope
        return scope

    def observe(self, target: Target) -> Observation:
        """Read the whole history. Of the provider's keys, use what this process remembers. Raises `StoreError`."""
        observation = self._observed(target, self.ports.store.history, whole=True)
        self.memory.note_whole(observation)
        return observation

    def read_current(self, target: Target) -> Observation:
        """Read the newest version alone where it shows as much as the whole history; else read that too.

        Raises `StoreError`.
        """
        if not self.memory.newest_may_suffice(target):
            return self.observe(target)
        observation = self._observed(target, self.ports.store.newest, whole=False)
        return observation if self.memory.newest_suffices(observation, self.ports.clock.now()) else self.observe(target)

    def _observed(self, target: Target, read: Callable[[str], History], *, whole: bool) -> Observation:
        reading = PathReading(target, self.scope(target), read(target.path))
        answered_at, traits = self.ports.clock.monotonic(), self.ports.provider.traits
        observation = self._with_clock(Observation(reading, {}, traits, answered_at=answered_at))
        self.memory.settle(observation, whole=whole)
        shown = self.memory.recall(observation)
        is_emptied, made = self.memory.is_emptied(target), self.memory.made(observation)
        return replace(
            observation,
            shown=shown,
            is_emptied=is_emptied,
            made=made,
            use=self.memory.use(target),
            list_every=self.list_every,
            hot_every=self.hot_every,
        )

    def confirm(self, observation: Observation) -> Observation:
        """Look up at the provider what the plan needs to know of it. Raises `ProviderError`."""
        for record in to_confirm(observation, self.ports.clock.now()):
            observation = self.look_up(observation, record, self.ports.budget)
        return self.with_belief(self._with_clock(observation))

    def _with_clock(self, observation: Observation) -> Observation:
        """Add what is known of the clock now: each answer may have shown another time."""
        clock = self.ports.clock
        return replace(
            observation,
            clock_trusted=clock.trusted(),
            clock_ahead=clock.may_be_ahead(),
            clock_disputed_by=clock.disputed_by(),
        )

    def with_belief(self, observation: Observation) -> Observation:
        """Add whether the provider is believed, where it does not know the served key."""
        if not observation.is_gone(self.ports.clock.now()):
            return observation
        return replace(observation, gone_is_believed=self.recognition.believes(observation.target.name))

    def look_up(self, observation: Observation, record: Record, budget: Budget) -> Observation:
        """Look up one key at the provider, whatever is known of it. Raises `ProviderError`.

        A missing key that is so young that the provider may not show it yet proves nothing.
        """
        is_served = observation.served_id == record.key_id
        self.ports.provider.ready()
        budget.take(record.expires_at if is_served else self._ends_at(observation, record))
        asked_at = self.ports.clock.now()  # the answer may be used much later
        found = self.ports.provider.retrieve(record.key_id)
        if found is None and self._may_be_hidden(observation, record, asked_at):
            return observation
        if found is not None and not observation.is_another(found):
            found = found.seen_at(self.ports.clock.now())
            observation = replace(observation, use=self.memory.note_use(observation.target, found, alone=True))
        return self.memory.note(observation, record.key_id, found, looked_up_at=asked_at)

    def _ends_at(self, observation: Observation, record: Record) -> datetime:
        """Return by when a superseded key must be looked up, because its use decides whether it ends."""
        key = observation.key_of(record) if observation.target.grace_extension else None
        return key.expires_at if key and key.expires_at else TIDYING

    def _may_be_hidden(self, observation: Observation, record: Record, now: datetime) -> bool:
        """Return whether the key is that young. A process that was stopped while it created one publishes it late."""
        held = (entry.created_at for entry in observation.entries if entry.key_id == record.key_id)
        held_since = min(held, default=record.issued_at)  # no version of this target holds a copied record
        return record.is_younger(self.min_age, now) or now - held_since < self.min_age

    def is_too_old(self, observation: Observation) -> bool:
        """Return whether the observation is too old for an action that no compare-and-set protects.

        The answer of a slow read is used at once or not at all. Should the path have been rolled back to a key while it
        was read, that key still has its grace, and the next sweep restores it.
        """
        took = observation.answered_at - observation.history.observed_at
        return took > MAX_READ or self.ports.clock.monotonic() - observation.answered_at > MAX_AGE


def list_keys(ports: Ports, deadline: datetime = TIDYING) -> tuple[ListedKey, ...]:
    """Return the provider's whole list. Raises `ProviderError`: then it proves nothing."""
    pages = ports.provider.pages(before=lambda: ports.budget.take(deadline))
    found: list[ListedKey] = []
    for page in pages:
        now = ports.clock.now()
        found += [key if isinstance(key, UnreadableKey) else key.seen_at(now) for key in page]
    return tuple(found)
