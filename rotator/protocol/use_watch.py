"""Looks up the use of served keys that may be spent before the provider's next list, or whose use the list lacks.

A look-up costs a request, so a watch takes a tenth of the provider's budget at most. The memory keeps what it learns,
and a pass over the target does what the plan demands.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from rotator.core.caps import CapState, cap_states, is_hot, is_nearly_spent
from rotator.core.errors import ProviderError, StoreError
from rotator.core.plan import Rotate, plan
from rotator.core.ports import Budget
from rotator.core.target import Target
from rotator.core.use import UseSeries
from rotator.core.versions import Record
from rotator.protocol.observer import Observer

SAMPLE = 3
"""Look-ups in a row that show no use: then the provider shows none, and the watch waits for the next list."""

WATCH_SHARE = 10
"""A watch uses at most a tenth of a provider's budget."""


@dataclass(frozen=True, slots=True)
class _Known:
    """What is remembered of a target's served key, and of its use."""

    observer: Observer
    target: Target
    record: Record
    use: Mapping[str, UseSeries]
    list_every: timedelta
    hot_every: timedelta

    @property
    def seen_at(self) -> datetime | None:
        """When an answer last showed how much of a cap the key has used."""
        series = self.use.get(self.record.key_id)
        return series.as_of if series and series.latest.caps else None

    def soonest(self) -> datetime:
        """Return when the key is spent at the present rate; if that is not in sight, when it expires."""
        return min(state.spent_at or self.record.expires_at for state in cap_states(self, self.record))


def _known(observer: Observer, target: Target) -> _Known | None:
    record, use = observer.memory.served(target), observer.memory.use(target)
    if record is None or not (target.caps.caps or record.key_id in use):
        return None
    return _Known(observer, target, record, use, observer.list_every, observer.hot_every)


def is_known_to_be_nearly_spent(observer: Observer, target: Target) -> bool:
    """Return whether the key that the path served at the last look is nearly spent, by what was shown of its use."""
    known = _known(observer, target)
    return known is not None and is_nearly_spent(known, known.record)


class UseWatch:
    """Watches the served keys of one provider's targets; one call at a time."""

    def __init__(self, groups: Sequence[tuple[Observer, Sequence[Target]]], budget: Budget, most: int) -> None:
        """`budget` is the watch's share of the provider's, and `most` how many requests a minute it allows."""
        self._groups, self._budget, self._most = groups, budget, most
        self._tried: dict[str, datetime] = {}  # by target: the last look-up of a key whose use was not known

    def look(self, stopping: Callable[[], bool]) -> tuple[Target, ...]:
        """Look up the keys that need it, the most urgent first. Return the targets that need a pass now.

        Raises no `RotatorError`: a look that fails is repeated by the next call, or made up for by the next list.
        """
        if not self._groups or self._groups[0][0].ports.provider.traits.reports_use == "no":
            return ()
        known = [*self._known()]
        hot = sorted((one for one in known if is_hot(one, one.record)), key=_Known.soonest)
        to_work = [one.target for one in hot[: self._most] if not stopping() and self._needs_work(one)]
        to_work += self._look_at_the_unknown(known, self._most - len(hot), stopping)
        return tuple(to_work)

    def shows_use(self) -> bool:
        """Return whether any answer has shown what a key of a target has used."""
        return any(observer.memory.use(target) for observer, targets in self._groups for target in targets)

    def states(self) -> Iterator[tuple[Target, Record, CapState]]:
        """Yield the served keys whose use is known, each with the cap that `cap_states` has first."""
        for one in self._known():
            if states := cap_states(one, one.record):
                yield one.target, one.record, states[0]

    def unknown(self) -> tuple[Target, ...]:
        """Return the targets with caps of which a look-up showed no use, and no list has since."""
        return tuple(
            one.target
            for one in self._known()
            if one.target.caps.caps and (tried := self._tried.get(one.target.name))
            if tried > one.record.issued_at and (one.seen_at is None or one.seen_at < tried)
        )

    def _known(self) -> Iterator[_Known]:
        for observer, targets in self._groups:
            yield from filter(None, (_known(observer, target) for target in targets))

    def _look_at_the_unknown(self, known: Sequence[_Known], most: int, stopping: Callable[[], bool]) -> list[Target]:
        """Look up keys with caps whose use no list has shown for a while: it may be shown there alone."""
        now, in_vain, to_work = self._now(), 0, []
        self._tried = {one.target.name: at for one in known if (at := self._tried.get(one.target.name))}
        stale = [one for one in known if one.target.caps.caps and self._is_stale(one, now)]
        for one in stale[: max(0, most)]:
            if stopping() or in_vain == SAMPLE:
                break
            self._tried[one.target.name] = now
            if self._needs_work(one):
                to_work.append(one.target)
            shown = any(series.latest.caps for series in one.observer.memory.use(one.target).values())
            in_vain = 0 if shown else in_vain + 1
        if in_vain == SAMPLE:
            self._tried |= {one.target.name: now for one in stale}
        return to_work

    def _is_stale(self, known: _Known, now: datetime) -> bool:
        looks = (self._tried.get(known.target.name), known.seen_at)
        return all(at is None or not timedelta(0) <= now - at < known.list_every for at in looks)

    def _needs_work(self, known: _Known) -> bool:
        """Look up a served key. Return whether its target needs a pass now."""
        observer, target = known.observer, known.target
        try:
            observation = observer.read_current(target)
            if observation.served is None:
                return False
            observation = observer.look_up(observation, observation.served, self._budget)
        except (StoreError, ProviderError):
            return False
        made = plan(observation, self._now())
        return made.is_nearly_spent or any(isinstance(action, Rotate) for action in made.actions)

    def _now(self) -> datetime:
        return self._groups[0][0].ports.clock.now()
