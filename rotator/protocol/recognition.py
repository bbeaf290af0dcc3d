"""Whether a provider is believed when it does not know a served key.

One key that somebody deleted is replaced at once. But where a provider does not know most of the served keys, what we
see is more likely wrong: the management credential of another organisation, or a list that is empty or filtered. Then
none is replaced until a person decides.

No I/O. A sweep compares the whole list with all paths, and so decides for every pass until the next one.
"""

import threading
from collections.abc import Collection


def is_most(unknown: int, served: int) -> bool:
    """Return whether so many served keys are too many to be believed gone: more than half, and at least two."""
    return unknown > 1 and 2 * unknown > served


class Recognition:
    """What the last sweep proved of one provider. Safe to be used by many threads.

    A pass that finds a served key gone which the last sweep knew is believed once, and not where that sweep believed it
    of another one: the next such key waits for the next sweep.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held = False
        self._gone: frozenset[str] = frozenset()
        self._first = ""

    def compared(self, gone: Collection[str], unknown: Collection[str], served: int, *, complete: bool) -> bool:
        """Take a sweep's result; return whether the `unknown` ones are left alone.

        Both are targets whose served key the provider does not know. Of those that are `gone` it knows another key, so
        it recognises their paths. A comparison that is not `complete` does not end what another one began.
        """
        with self._lock:
            self._held = is_most(len(unknown), served) or (self._held and not complete)
            self._gone = frozenset(gone if self._held else {*gone, *unknown})
            self._first = next(iter(unknown), "")
            return self._held

    def believes(self, target: str) -> bool:
        """Return whether this target's served key counts as gone, which the provider says of it."""
        with self._lock:
            if target in self._gone or self._held:
                return target in self._gone
            self._first = self._first or target
            return self._first == target
