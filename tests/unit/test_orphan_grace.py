"""Since when a path cannot have served an orphan: by Hypothesis, over any history, against the truth."""

from dataclasses import dataclass, field
from datetime import datetime

from hypothesis import given
from hypothesis import strategies as st
from simulation.world import RememberingStore
from support.clocks import FakeClock
from support.world import ENDLESS, HOUR, OWNER, START, make_target

from rotator.core.keys import KeyName, ProviderKey, place_of
from rotator.core.observation import Observation, PathReading
from rotator.core.orphans import Grace, OrphanState, orphans
from rotator.core.secrets import Secret
from rotator.core.versions import Record, Scope, compose

TARGET = make_target(grace_period=1 * HOUR)
PATH = TARGET.path
PLACE = place_of(OWNER, "memory/path")
SCOPE = Scope(OWNER, (PLACE,), PLACE, frozenset({OWNER}), frozenset())
DEEDS = ("rotate", "rotate", "rotate", "fence", "look", "look", "delete", "destroy", "restore", "empty")


@dataclass
class Path:
    """A path, and when it served each key last."""

    max_versions: int
    is_dated: bool
    is_restored: bool = False
    clock: FakeClock = field(default_factory=FakeClock)
    keys: list[ProviderKey] = field(default_factory=list)
    served_until: dict[str, datetime] = field(default_factory=dict)
    graces: dict[str, Grace] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.store = RememberingStore(self.clock, self.max_versions)

    @property
    def served(self) -> str:
        record = Record.parse((self.store.read(PATH) or {}).get("rotator"))
        return record.key_id if record else ""

    def do(self, deed: str, number: int) -> None:
        before = self.served
        self.clock.advance(HOUR)
        getattr(self, deed)(number)
        if before and self.served != before:
            self.served_until[before] = self.clock.now()

    def rotate(self, _: int) -> None:
        version = self.store.current_version(PATH) + 1
        key_id = f"key {len(self.keys)}"
        name, secret = str(KeyName(OWNER, TARGET.name, PLACE, version, "a" * 8)), Secret(f"text of {key_id}")
        now = self.clock.now()
        record = Record(OWNER, TARGET.name, key_id, name, now, now + HOUR, TARGET.fingerprint, secret.fingerprint)
        self.keys.append(ProviderKey(key_id, name, None, now if self.is_dated else None))
        self.store.put(PATH, **compose(TARGET, record, secret, {}))

    def fence(self, _: int) -> None:
        if data := self.store.read(PATH):
            self.store.put(PATH, **data)

    def delete(self, number: int) -> None:
        if numbers := [*self.store.versions(PATH)]:
            self.store.delete(PATH, numbers[number % len(numbers)])

    def destroy(self, number: int) -> None:
        if numbers := [*self.store.versions(PATH)]:
            self.store.destroy(PATH, numbers[number % len(numbers)])

    def empty(self, _: int) -> None:
        self.store.delete_metadata(PATH)

    def restore(self, number: int) -> None:
        if (moments := self.store.moments(PATH)) and not self.is_restored:
            self.is_restored = True  # once: a second snapshot may hide what the first one served again
            self.store.restore(PATH, moments[number % len(moments)])

    def look(self, _: int) -> None:
        """What a sweep finds and remembers."""
        reading = PathReading(TARGET, SCOPE, self.store.history(PATH, 0.0))
        observed = Observation(reading, {}, ENDLESS)
        found = orphans(observed, self.keys, self.clock.now(), lambda _: False, lambda key: self.graces.get(key.id))
        self.graces = {orphan.key.id: orphan.grace for orphan in found if orphan.grace}
        for orphan in found:
            last = self.served_until.get(orphan.key.id, START)
            if orphan.grace:
                assert last <= orphan.grace.since <= self.clock.now()
            assert orphan.state is not OrphanState.GRACE_OVER or last + TARGET.grace_period <= self.clock.now()


@given(
    st.lists(st.tuples(st.sampled_from(DEEDS), st.integers(0, 9)), max_size=30),
    st.sampled_from([1, 2, 3, 10]),
    st.booleans(),
)
def test_no_grace_of_an_orphan_begins_before_the_path_has_ceased_to_serve_it(
    deeds: list[tuple[str, int]], max_versions: int, is_dated: bool
) -> None:
    path = Path(max_versions, is_dated)
    for deed, number in deeds:
        path.do(deed, number)
    path.look(0)
