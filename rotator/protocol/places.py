"""Finds the locations whose keys belong to a target: that of its path, and its former ones.

A key's name holds the place that it was made for. The configuration names the former place of a mount, cluster or path
that moved, so that keys made there stay ours. A former location that two targets claim is neither's: they would expire
each other's keys.
"""

from collections import Counter
from collections.abc import Iterable, Sequence

from rotator.core.errors import StoreError
from rotator.core.ports import Store
from rotator.core.target import Target


def locations(target: Target, store: Store) -> tuple[str, tuple[str, ...]]:
    """Return the target's present location and its former ones. Raises what `Store.location` raises."""
    present = store.location(target.path)
    former = [*store.former_locations(target.path)]
    for path in target.former_paths:
        former += [store.location(path), *store.former_locations(path)]
    return present, tuple(location for location in dict.fromkeys(former) if location != present)


class Claims:
    """The locations of all configured targets. Safe for many threads.

    The configuration is checked when it is loaded, but only the store knows which cluster is behind an address.
    """

    def __init__(self, targets: Iterable[tuple[Target, Store]] = ()) -> None:
        self._targets = tuple(targets)
        self._counted: Counter[str] | None = None

    def undisputed(self, former: Sequence[str]) -> tuple[str, ...] | None:
        """Return those of a target's former locations that no other target claims.

        None while a store does not answer, so that this is not known.
        """
        if not former:
            return ()
        if self._counted is None:
            counted: Counter[str] = Counter()
            try:
                for target, store in self._targets:
                    present, before = locations(target, store)
                    counted.update((present, *before))
            except StoreError:
                return None
            self._counted = counted
        return tuple(location for location in former if self._counted[location] <= 1)
