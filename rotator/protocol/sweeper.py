"""Finds what a pass over one target cannot see: keys that no version holds, and served keys that are gone.

A sweep lists all keys of one provider, compares them with the paths of its targets (`comparison`), and then expires the
orphans (`orphan_cleanup`). It touches no key whose name is not that of a configured target's path, and no path that is
not ours.

- With more orphans than `max_orphans` none is touched: a mistake in what was seen is more likely than so many crashes.
- Where the provider does not know most served keys, none of them is replaced and no orphan is touched.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta

from rotator.core.errors import ProviderError, RotatorError, ServedKeysUnknown
from rotator.core.keys import OWNER_LETTERS, KeyName, ListedKey, ProviderKey, UnreadableKey
from rotator.core.orphans import Orphan, Outcome, by_place, reason_to_hold
from rotator.core.ports import Budget
from rotator.core.request import RotationRequest
from rotator.core.target import Target
from rotator.protocol.comparison import Comparison
from rotator.protocol.observer import Observer, list_keys
from rotator.protocol.orphan_cleanup import OrphanCleanup

PATIENCE = timedelta(hours=12)
"""How long a sweep waits for requests that the rotations leave over, before it goes ahead of keys that live longer."""


@dataclass(frozen=True, slots=True)
class SweepReport:
    """The result of a sweep over one provider's keys. `error`: why not all of it was done."""

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


class Sweeper:
    """Sweeps one provider's keys; one call at a time."""

    def __init__(
        self,
        provider: str,
        groups: Sequence[tuple[Observer, Sequence[Target]]],
        budget: Budget,
        min_age: timedelta,
        max_orphans: int,
    ) -> None:
        """`groups` are all targets of the provider by observer; `budget` is the sweep's share of the provider's."""
        self.provider = provider
        self._groups = groups
        self._max_orphans = max_orphans
        if groups:
            self._ports = replace(groups[0][0].ports, budget=budget)
            self._slugs = {owner[:OWNER_LETTERS] for owner in groups[0][0].owners}
            self._recognition = groups[0][0].recognition
            self._cleanup = OrphanCleanup(self._ports, min_age)
        self._has_compared = False

    def sweep(
        self,
        *,
        by: str = "schedule",
        dry_run: bool = False,
        max_orphans: int | None = None,
        stopping: Callable[[], bool] = lambda: False,
    ) -> SweepReport:
        """Compare everything, then clean up; a dry run ends before that. Raises no `RotatorError`.

        `max_orphans` replaces the configured one; `stopping` is asked before each target and each orphan.
        """
        if not self._groups:
            return SweepReport(self.provider)
        deadline = self._ports.clock.now() + PATIENCE
        try:
            listing = list_keys(self._ports, deadline)
        except ProviderError as error:
            self._remember_sweep(complete=False)
            return SweepReport(self.provider, error=error)
        report = self._compare(listing, stopping)
        self._remember_sweep(complete=not report.stopped)
        limit = self._max_orphans if max_orphans is None else max_orphans
        trusted = self._ports.clock.trusted()
        to_hold = report.error or reason_to_hold(report.orphans, limit, clock_trusted=trusted)
        if to_hold is not None:
            held = (replace(orphan, outcome=Outcome.HELD) if orphan.is_due else orphan for orphan in report.orphans)
            report = replace(report, orphans=tuple(held), error=to_hold)
        elif not dry_run:
            orphans, failed = self._cleanup.clean_up(
                self._targets(), report.orphans, RotationRequest(by=by), deadline, stopping
            )
            report = replace(report, orphans=orphans, failed={**report.failed, **failed})
        return replace(report, dry_run=dry_run)

    def _remember_sweep(self, *, complete: bool) -> None:
        for observer, _ in self._groups:
            observer.memory.swept(complete=complete)

    def _targets(self) -> Iterator[tuple[Observer, Target]]:
        for observer, targets in self._groups:
            for target in targets:
                yield observer, target

    def _compare(self, listing: Sequence[ListedKey], stopping: Callable[[], bool]) -> SweepReport:
        """Compare the list with every target's path.

        A target with an unreadable entry is reported as failed; the others are compared all the same.
        """
        keys = self._cleanup.keys_in(listing)
        unreadable = by_place(key for key in listing if isinstance(key, UnreadableKey))
        cleanup, is_first = self._cleanup, not self._has_compared
        comparison = Comparison(
            self._ports, keys, unreadable, cleanup.is_unsettled, cleanup.found_before, is_first=is_first
        )
        stopped = False
        for observer, target in self._targets():
            if stopped := stopping():
                break
            comparison.compare(observer, target)
        cleanup.remember(comparison.orphans)
        self._has_compared = self._has_compared or not stopped
        held = comparison.conclude(self._recognition, stopped=stopped)
        unmatched = comparison.unmatched()
        named = [(key, name) for key in unmatched if (name := KeyName.parse(key.name)) and name.owner in self._slugs]
        if stopped or not comparison.is_complete:
            named = []  # while a path could not be read, its keys are not known
        unclaimed = tuple(key for key, name in named if not name.may_be_cut)
        unknown = tuple(comparison.unknown) if held else ()
        return SweepReport(
            self.provider,
            listed=len(keys) + sum(map(len, unreadable.values())),
            orphans=tuple(comparison.orphans),
            unclaimed=unclaimed,
            unclear=tuple(key for key, name in named if name.may_be_cut),
            others=len(unmatched) - len(unclaimed) + len(unreadable.get("", ())),
            to_work=comparison.to_work,
            failed=comparison.failed,
            error=ServedKeysUnknown(self.provider, len(unknown), comparison.served) if held else None,
            stopped=stopped,
            unknown=unknown,
        )
