"""What versions and the provider's list show of the past: by tables, and by Hypothesis over any history at all."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.world import HOUR, OWNER, START, make_target

from rotator.core.keys import KeyName, ListedKey, ProviderKey, UnreadableKey, place_of
from rotator.core.observation import PathReading
from rotator.core.past_events import KeyList, PastEvent, PastEventType, is_cut_off, past_events
from rotator.core.secrets import Secret
from rotator.core.versions import History, Record, Scope, Version, compose

PLACE = place_of(OWNER, "memory/apps/billing-api/respan")
SCOPE = Scope(OWNER, (PLACE,), PLACE, frozenset({OWNER}), frozenset({"search"}))
TARGET = make_target()  # a ttl of 24 hours, and a grace period of 4
WHY = {"A": "first", "B": "requested"}
DELETED, DESTROYED, FOREIGN, COPIED, EDITED = "-", "x", "?", "=", "!"


def at(hours: float) -> datetime:
    return START + hours * HOUR


def name(letter: str, version: int) -> str:
    return str(KeyName(OWNER, TARGET.name, PLACE, version, letter.lower() * 8))


def record(letter: str, hour: float, version: int) -> Record:
    key = Secret(f"text of {letter}").fingerprint
    key_name, why = name(letter, version), WHY.get(letter, "expiring")
    return Record(
        OWNER, TARGET.name, letter, key_name, at(hour), at(hour) + TARGET.ttl, TARGET.fingerprint, key, why=why
    )


def version_of(number: int, hour: float, text: str, made: dict[str, Record]) -> Version:
    letter, mark = text[0], text[1:]
    if letter in (DELETED, DESTROYED):
        return Version(number, at(hour), None, letter == DESTROYED, at(float(mark)) if mark else None)
    if letter == FOREIGN:
        return Version(number, at(hour), {"password": "x"})
    if letter == COPIED:
        copied = replace(record("Z", hour, number), target="search")
        return Version(number, at(hour), compose(TARGET, copied, Secret("text of Z"), {}))
    known = made.setdefault(letter, record(letter, hour, int(mark) if mark.isdigit() else number))
    data = compose(TARGET, known, Secret(f"text of {letter}"), {"note": "x"} if mark == "+" else {})
    return Version(number, at(hour), {**data, TARGET.key_field: "x"} if mark == EDITED else data)


def path(versions: Mapping[float, str], first: int = 1) -> PathReading:
    """A path: at which hour which key was written.

    `A3`: the name of the key has the version 3; `A+`: beside a foreign field; `A!`: the key was overwritten by hand;
    `-5`: deleted at the hour 5.
    """
    made: dict[str, Record] = {}
    known = tuple(version_of(number, hour, text, made) for number, (hour, text) in enumerate(versions.items(), first))
    return PathReading(TARGET, SCOPE, History(known[-1].number if known else 0, known, 0.0))


def key(letter: str, version: int = 1, made: float | None = 0.0, expires: float = 99.0, **changes: Any) -> ProviderKey:
    created_at = None if made is None else at(made)
    return replace(ProviderKey(letter, name(letter, version), at(expires), created_at), **changes)


def lines(events: tuple[PastEvent, ...]) -> list[str]:
    """The events in a form that a table can hold."""
    found = []
    for event in events:
        hour = f"{'' if event.is_exact else '>='}{(event.at - START) / HOUR:g}"
        about = [str(part) for part in (event.version, event.key_id, event.reason) if part]
        found.append(" ".join([hour, event.what.value, *about]))
    return found


@pytest.mark.parametrize(
    ("versions", "shown"),
    [
        ({}, []),
        ({0: "A"}, ["0 published 1 A first"]),
        ({0: "A", 16: "B"}, ["0 published 1 A first", "16 superseded 1 A requested", "16 published 2 B requested"]),
        # a fence repeats the same data and is no event; the key it repeats was served all the time
        ({0: "A", 1: "A"}, ["0 published 1 A first"]),
        (
            {0: "A", 1: "A", 2: "C"},
            ["0 published 1 A first", "2 superseded 2 A expiring", "2 published 3 C expiring"],
        ),
        ({0: "A", 1: "A+"}, ["0 published 1 A first", "1 edited 2 A"]),
        (
            {0: "A", 2: "B", 3: "A"},
            [
                "0 published 1 A first",
                "2 superseded 1 A requested",
                "2 published 2 B requested",
                "3 superseded 2 B rolled-back",
                "3 rolled-back 3 A",
            ],
        ),
        # restored by hand after another writer: the key is served again
        ({0: "A", 2: "?", 3: "A"}, ["0 published 1 A first", "2 foreign-write 2 no-record", "3 rolled-back 3 A"]),
        ({0: "A", 2: "="}, ["0 published 1 A first", "2 foreign-write 2 other-target"]),
        ({0: "A", 2: "A!"}, ["0 published 1 A first", "2 foreign-write 2 hand-edited"]),
        ({0: "A", 2: "-5"}, ["0 published 1 A first", "2 written 2", "5 deleted 2"]),
        ({0: "A", 2: "-"}, ["0 published 1 A first", "2 written 2", ">=2 deleted 2"]),
        # what a destroyed version held is not known; its grace shows when it was destroyed at the earliest
        ({0: "x", 2: "B"}, ["0 written 1", "2 published 2 B requested", ">=6 destroyed 1 grace-over"]),
        ({0: "x", 17: "B"}, ["0 written 1", "17 published 2 B requested", ">=17 destroyed 1"]),  # within its grace
        ({0: "A", 2: "x"}, ["0 published 1 A first", "2 written 2", ">=2 destroyed 2"]),
        ({0: "x3", 2: "B"}, ["0 written 1", "2 published 2 B requested", "3 deleted 1", ">=6 destroyed 1 grace-over"]),
        # a version that the store deletes later is readable until then
        ({0: "A", 2: "-99"}, ["0 published 1 A first", "2 written 2", ">=2 deleted 2"]),
        # a key that was made for an earlier version, of which nothing is known
        ({0: "A", 2: "B1"}, ["0 published 1 A first", "2 superseded 1 A rolled-back", "2 rolled-back 2 B"]),
        ({0: "x", 2: "B1"}, ["0 written 1", "2 written 2 B", ">=6 destroyed 1 grace-over"]),
        ({0: "A7"}, ["0 written 1 A"]),
    ],
)
def test_what_the_versions_show(versions: Mapping[float, str], shown: list[str]) -> None:
    assert lines(past_events(path(versions), None, at(20))) == shown


A_AND_B = {0: "A", 16: "B"}


@pytest.mark.parametrize(
    ("versions", "keys", "known_by", "shown"),
    [
        (A_AND_B, [key("A"), key("B", 2)], 19, []),
        (A_AND_B, [key("A")], 19, [">=16 removed 2 B"]),
        (A_AND_B, [key("B", 2)], 19, [">=0 removed 1 A"]),
        (A_AND_B, [], 19, [">=0 removed 1 A", ">=16 removed 2 B"]),
        # the list is older than the version, or too young to show the key
        (A_AND_B, [key("A")], 15, []),
        # an entry that cannot be read may be the key
        (A_AND_B, [key("A"), UnreadableKey("", "", "no id")], 19, []),
        (A_AND_B, [key("A"), UnreadableKey("B", "", "no expiry")], 19, []),
        # its grace is over: rotator deletes the key then
        ({0: "A", 15: "B"}, [key("B", 2)], 19, []),
        (A_AND_B, [key("A"), key("B", 2), key("C", 3, made=17)], 19, ["17 orphaned 3 C orphan"]),
        (A_AND_B, [key("A"), key("B", 2), key("C", 3, made=17)], 16.5, []),
        (A_AND_B, [key("A"), key("B", 2), key("C", 3, made=None)], 19, []),
        (A_AND_B, [key("A"), key("B", 2), key("C", 3, made=1, expires=18)], 19, []),
        (A_AND_B, [key("A"), key("B", 2), key("C", made=17, name="a person's key")], 19, []),
        ({}, [key("C", 3, made=17)], 19, ["17 orphaned 3 C orphan"]),
    ],
)
def test_what_the_list_shows(
    versions: Mapping[float, str], keys: list[ListedKey], known_by: float, shown: list[str]
) -> None:
    reading = path(versions)
    found = past_events(reading, KeyList.of(keys, at(known_by)), at(19.5))
    of_versions = past_events(reading, None, at(19.5))
    assert lines(tuple(event for event in found if event not in of_versions)) == shown


def test_a_key_that_has_expired_was_not_removed() -> None:
    assert lines(past_events(path({0: "A"}), KeyList.of([], at(29)), at(30))) == ["0 published 1 A first"]


@pytest.mark.parametrize(("first", "hour", "cut_off"), [(1, 5, False), (2, 5, True), (2, 3, False)])
def test_a_history_that_begins_late_is_noticed(first: int, hour: float, cut_off: bool) -> None:
    assert is_cut_off(path({hour: "A"}, first), at(4)) == cut_off


def test_an_absent_path_is_not_cut_off() -> None:
    assert not is_cut_off(path({}), at(4))


TEXTS = st.sampled_from(["A", "B", "C", "A+", "B!", "A2", "C1", DELETED, "-3", DESTROYED, "x2", FOREIGN, COPIED])


@st.composite
def paths(draw: st.DrawFn) -> PathReading:
    texts = draw(st.lists(TEXTS, max_size=8))
    return path(dict(enumerate(texts)), draw(st.integers(1, 4)))


KEYS = st.lists(
    st.one_of(
        st.builds(key, st.sampled_from("ABCD"), st.integers(1, 9), st.none() | st.floats(0, 30), st.floats(0, 60)),
        st.just(UnreadableKey("", "", "no id")),
    ),
    max_size=5,
)


@given(paths(), KEYS, st.floats(0, 30), st.floats(8, 40))
def test_every_version_is_accounted_for(reading: PathReading, keys: list[ListedKey], known: float, now: float) -> None:
    found = past_events(reading, KeyList.of(keys, at(known)), at(now))
    assert [event.at for event in found] == sorted(event.at for event in found)
    assert "text of" not in repr(found)
    writes = {what for what in PastEventType if what.value in "published rolled-back edited foreign-write written"}
    written = [event.version for event in found if event.what in writes]
    assert len(written) == len(set(written)), "a version is shown once"
    entries = {entry.number: entry for entry in reading.entries}
    for number in entries.keys() - set(written):  # what is not shown repeats the version before
        before = reading.history.versions[[*entries].index(number) - 1]
        assert before.number == number - 1
        assert before.data == next(v.data for v in reading.history.versions if v.number == number)
    published = [event.key_id for event in found if event.what is PastEventType.PUBLISHED]
    assert len(published) == len(set(published)), "no key is new twice"


@given(paths(), st.floats(8, 40))
def test_a_fence_changes_nothing_of_what_is_shown(reading: PathReading, now: float) -> None:
    versions = reading.history.versions
    if not versions or versions[-1].data is None or reading.entries[-1].record is None:
        return
    fence = replace(versions[-1], number=versions[-1].number + 1, created_at=at(7.5))
    fenced = replace(reading, history=History(fence.number, (*versions, fence), 0.0))
    plain = past_events(reading, None, at(now))
    assert past_events(fenced, None, at(now)) == plain
