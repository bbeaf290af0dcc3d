"""Decides whether a served key that the provider does not know counts as gone. No I/O.

One key that was deleted by hand is replaced at once. But if a provider does not know most served keys, rotator more
likely sees the wrong thing: the credential belongs to another account, or the list is empty or filtered. Then none
is replaced until a person decides.

A sweep compares the whole list with all paths, and so decides for every pass until the next sweep.
"""

import threading
from collections.abc import Collection


def is_most(unknown: int, served: int) -> bool:
    """Return whether this many unknown keys are too many to count as gone: more than half, and at least two."""
    return unknown > 1 and 2 * unknown > served


class Recognition:
    """What the last sweep proved about one provider. Safe for many threads.

    A pass may find a served key gone that the last sweep knew. That is believed of one key only: the next such key
    waits for the next sweep.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held = False
        self._gone: frozenset[str] = frozenset()
        self._first = ""

    def compared(self, gone: Collection[str], unknown: Collection[str], served: int, *, complete: bool) -> bool:
        """Take a sweep's result; return whether the `unknown` targets are left alone.

        The provider does not know the served key of either kind of target. It knows another key of the `gone` ones, so
        it recognises their paths. A comparison that is not `complete` does not lift what an earlier one decided, and
        may lack the target that a pass found gone since then: that one counts too.
        """
        with self._lock:
            unproven = {*unknown} if complete or not unknown or not self._first else {*unknown, self._first}
            self._held = is_most(len(unproven), served) or (self._held and not complete)
            self._gone = frozenset(gone if self._held else {*gone, *unknown})
            self._first = next(iter(unknown), "")
            return self._held

    def believes(self, target: str) -> bool:
        """Return whether this target's served key, which the provider does not know, counts as gone."""
        with self._lock:
            if target in self._gone or self._held:
                return target in self._gone
            self._first = self._first or target
            return self._first == target
