"""The model store and the model vendor of a schedule: the ones of `support.world`, with a memory of their past."""

import itertools
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from support.clocks import FakeClock
from support.world import START, IssuedKey, MemoryStore, MemoryVendor, StoredVersion

from rotator.core.errors import ProviderRequestRefused
from rotator.core.keys import ProviderKey
from rotator.core.versions import History, Version


class RememberingStore(MemoryStore):
    """Can also answer as of an earlier moment, as a leader does that was frozen and does not know that it is none."""

    def __init__(self, clock: FakeClock, max_versions: int) -> None:
        super().__init__(clock, max_versions)
        self._time = clock
        self._past: dict[str, list[tuple[float, int, tuple[Version, ...]]]] = {}

    def now(self) -> datetime:
        return self._time.now()

    def monotonic(self) -> float:
        return self._time.monotonic()

    def changed(self, path: str) -> None:
        """Remember how the path is now."""
        shown = tuple(
            Version(v.number, v.created_at, None if v.deleted or v.destroyed else v.data, v.destroyed)
            for _, v in sorted(self.versions(path).items())
        )
        self._past.setdefault(path, [(0.0, 0, ())]).append((self._time.monotonic(), self.current_version(path), shown))

    def history_at(self, path: str, moment: float, observed_at: float) -> History:
        past = self._past.get(path) or [(0.0, 0, ())]
        _, number, versions = past[max(0, bisect_right(past, moment, key=lambda entry: entry[0]) - 1)]
        return History(number, versions, observed_at)

    def restore(self, path: str, moment: float) -> int:
        """The path as it was then, as from a snapshot; returns its current version, 0 when there was none.

        A version that was deleted then is destroyed now: no copy is left.
        """
        history = self.history_at(path, moment, 0.0)
        self.delete_metadata(path)
        if history.current_version:
            self._counters[path] = history.current_version
            self._versions[path] = {
                v.number: StoredVersion(v.number, v.created_at, dict(v.data or {}), destroyed=v.data is None)
                for v in history.versions
            }
            self.changed(path)
        return history.current_version

    def moments(self, path: str) -> list[float]:
        """When the path changed."""
        return [at for at, _, _ in self._past.get(path, [])]

    def write(self, path: str, data: Mapping[str, Any], cas: int) -> Version:
        version = super().write(path, data, cas)
        self.changed(path)
        return version

    def delete(self, path: str, *numbers: int) -> None:
        super().delete(path, *numbers)
        self.changed(path)

    def undelete(self, path: str, *numbers: int) -> None:
        super().undelete(path, *numbers)
        self.changed(path)

    def destroy(self, path: str, *numbers: int) -> None:
        super().destroy(path, *numbers)
        self.changed(path)

    def delete_metadata(self, path: str) -> None:
        super().delete_metadata(path)
        self.changed(path)


RESTS = 400.0
"""Seconds after which the id of a removed key is given again: a process that was about to end that key as well would
end the later one. No request can name one of the two."""


def shown_id(key_id: str) -> str:
    """Return the id by which the vendor and all programs know a key; a key removed before may have had it."""
    return key_id.rstrip("'")


class LaggingVendor(MemoryVendor):
    """Its list may be behind: keys just made are not in it yet, keys just removed still are.

    Where it uses ids again, the truth tells a later key from the earlier one by an apostrophe.
    """

    def __init__(self, clock: FakeClock) -> None:
        super().__init__(clock)
        self._time = clock
        self._removed: dict[str, float] = {}
        self._texts: dict[object, IssuedKey] = {}
        self.elsewhere: set[str] = (
            set()
        )  # keys of another organisation: not listed, and whatever is asked of them is refused
        self.rounds = 0  # seconds, see `Profile.rounds`
        self.reuses = 0  # which id of a removed key is given again, see `Profile.reuses`
        self._resting: dict[str, float] = {}  # ids that are not given again yet, and until when

    def issue(self, name: str, expires_at: datetime | None, granted: datetime | None = None) -> IssuedKey:
        now = self._time.monotonic()
        kept = (key for key in self.keys.values() if not key.revoked or self._resting.get(key.id, 0.0) > now)
        taken = {int(shown_id(key.id)[3:]) for key in kept}
        key = super().issue(name, expires_at, granted)
        self._texts[key.text] = key
        if self.reuses:
            made_at = self.made.pop(key.id)
            del self.keys[key.id]
            first = max(taken, default=0) + 1 if self.reuses == 1 else 1
            number = next(number for number in itertools.count(first) if number not in taken)
            key.id = f"tk_{number:04}"
            while key.id in self.keys:
                key.id += "'"
            self.keys[key.id], self.made[key.id] = key, made_at
        return key

    def latest(self, key_id: str) -> str:
        """Return the id, for the truth, of the last key that was made under a shown id."""
        while f"{key_id}'" in self.keys:
            key_id += "'"
        return key_id

    def namesakes(self, key: IssuedKey) -> list[IssuedKey]:
        """Return the other keys that have, or had, the shown id of this one."""
        return [other for other in self.keys.values() if shown_id(other.id) == shown_id(key.id) and other is not key]

    def unrevoked(self, key_id: str) -> IssuedKey | None:
        if key_id in self.elsewhere:
            raise ProviderRequestRefused(f"403 for {key_id}, and a list works")
        return super().unrevoked(key_id)

    def kept(self, asked: datetime) -> datetime:
        """What becomes of this expiry here."""
        if not self.rounds:
            return asked
        unit = timedelta(seconds=abs(self.rounds))
        return asked - (asked - START) % unit if self.rounds < 0 else asked + (START - asked) % unit

    def made_at(self, key: IssuedKey) -> float:
        """When it was made."""
        return self.made[key.id]

    def revoke(self, key_id: str) -> None:
        if key_id in self.keys and not self.keys[key_id].revoked:
            self._removed[key_id] = self._time.monotonic()
            self._resting[key_id] = self._time.monotonic() + RESTS
        super().revoke(key_id)

    def free(self, key_id: str) -> None:
        """Let the next key have the id of this one, which no process was ending when it was removed."""
        self._resting.pop(key_id, None)

    def removed_since(self, then: float) -> set[str]:
        """The keys that were removed since."""
        return {key_id for key_id, at in self._removed.items() if at >= then}

    def by_text(self, text: object) -> IssuedKey | None:
        return self._texts.get(text)

    def listed(self, behind: float, *, dated: bool) -> Sequence[ProviderKey]:
        """What was there so many seconds ago; `dated`: with the times of creation."""
        then = self._time.monotonic() - behind
        return [
            ProviderKey(
                shown_id(key.id),
                key.name,
                key.expires_at,
                START + timedelta(seconds=self.made[key.id]) if dated else None,
            )
            for key in self.keys.values()
            if key.id not in self.elsewhere
            and self.age(key) >= self.shown_after
            and self.made[key.id] <= then
            and (not key.revoked or self._removed[key.id] > then)
        ]
