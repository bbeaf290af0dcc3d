"""The core's values: secrets that stay hidden, names, records, and how a target reads a version."""

import copy
import json
import pickle
import re
import string
import traceback
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.world import HOUR, OWNER, START, make_target

from rotator.core.keys import KeyName, place_of
from rotator.core.secrets import Secret
from rotator.core.target import Target
from rotator.core.times import hash_fraction, next_turn, timestamp
from rotator.core.versions import LONGEST, RECORD_FIELD, Entry, Ownership, Record, Scope, Version, compose, read_version

TEXT = "sk_live_abcdefgh"
SECRET = Secret(TEXT)
PLACE = place_of(OWNER, "memory/apps/billing-api/respan")
NAME = str(KeyName(OWNER, "billing-api", PLACE, 1, "a" * 8))
MOMENTS = st.datetimes(datetime(2000, 1, 1), datetime(2980, 1, 1), timezones=st.just(UTC)).map(  # noqa: DTZ001
    lambda moment: moment.replace(microsecond=0)
)


@st.composite
def records(draw: st.DrawFn) -> Record:
    owner, target, key_id, key_name, params, key = (draw(st.text(min_size=1, max_size=60)) for _ in range(6))
    issued_at, life = draw(MOMENTS), timedelta(seconds=draw(st.integers(0, int(LONGEST.total_seconds()))))
    return Record(owner, target, key_id, key_name, issued_at, issued_at + life, params, key)


def record(**changes: Any) -> Record:
    target = make_target()
    made = Record(OWNER, target.name, "tk_1", NAME, START, START + target.ttl, target.fingerprint, SECRET.fingerprint)
    return replace(made, **changes)


def scope(names: frozenset[str] = frozenset({"search"}), former: tuple[str, ...] = ()) -> Scope:
    places = tuple(place_of(owner, "memory/apps/billing-api/respan") for owner in (OWNER, *former))
    return Scope(OWNER, places, PLACE, frozenset({OWNER, *former}), names)


# --- secrets ---


@pytest.mark.parametrize(
    "show",
    [repr, str, "{}".format, "{!r}".format, "%s".__mod__, lambda secret: f"{secret}", lambda secret: f"{[secret]}"],
)
def test_a_secret_does_not_show_its_text(show: Any) -> None:
    assert TEXT not in show(SECRET)
    assert "hidden" in show(SECRET)


@pytest.mark.parametrize(
    "leak",
    [
        pickle.dumps,
        copy.copy,
        copy.deepcopy,
        json.dumps,
        vars,
        lambda secret: f"{secret:>40}",
        lambda secret: secret + "",
        "".join,
        lambda secret: secret[0],
    ],
)
def test_copying_a_secret_out_fails_without_showing_it(leak: Any) -> None:
    with pytest.raises(TypeError) as caught:
        leak(SECRET)
    assert TEXT not in "".join(traceback.format_exception(caught.value))


def test_a_secret_is_compared_by_its_text_and_only_with_secrets() -> None:
    assert Secret("a") == Secret("a")
    assert hash(Secret("a")) == hash(Secret("a"))
    assert Secret("a") != Secret("b")
    assert Secret("a") != "a"
    assert SECRET.reveal() == TEXT


def test_a_fingerprint_is_short_and_made_of_any_text() -> None:
    assert re.fullmatch("[0-9a-f]{16}", SECRET.fingerprint)
    # A store may hand out half a surrogate pair, which no encoding takes; its error would hold the whole text.
    assert Secret("\ud800").fingerprint != Secret("\ud801").fingerprint
    assert Secret("\ud800") != Secret("\ud801")


def test_a_versions_repr_hides_its_data() -> None:
    assert TEXT not in repr(Version(1, START, compose(make_target(), record(), SECRET, {})))


# --- times, fractions, parameters ---


def test_a_timestamp_is_in_utc_and_to_the_second() -> None:
    moment = datetime.fromisoformat("2026-03-01T13:00:00.999+01:00")
    assert timestamp(moment) == "2026-03-01T12:00:00Z"


@given(st.text())
def test_a_hash_fraction_is_always_the_same_and_below_one(text: str) -> None:
    assert 0 <= hash_fraction(text) < 1
    assert hash_fraction(text) == hash_fraction(text)


@given(st.text(), MOMENTS, st.timedeltas(timedelta(seconds=1), timedelta(days=400)))
def test_each_name_has_one_turn_in_each_stretch_whenever_one_asks(name: str, since: datetime, every: timedelta) -> None:
    turn = next_turn(name, since, every)
    earliest = since - every / 20
    assert earliest <= turn < earliest + every
    assert next_turn(name, turn + every / 20, every) == turn, "a restart that takes as long as this misses nothing"
    assert next_turn(name, turn + every / 20 + timedelta(microseconds=1), every) == turn + every


def test_the_turns_are_spread() -> None:
    since, every = datetime(2026, 1, 1, tzinfo=UTC), timedelta(hours=1)
    turns = sorted((next_turn(f"t{number}", since, every) - since) / every for number in range(1000))
    assert all(abs(turn + 0.05 - number / 1000) < 0.05 for number, turn in enumerate(turns))


def test_a_target_fingerprint_changes_with_what_is_asked_of_a_key_and_with_nothing_else() -> None:
    target = make_target()
    same = [
        replace(target, path="elsewhere"),
        replace(target, key_field="token"),
        replace(target, grace_period=HOUR),
        replace(target, renew_before=HOUR),
    ]
    others = [
        replace(target, ttl=HOUR),
        replace(target, parameters={}),
        replace(target, parameters={"rate_limit": 101}),
        replace(target, parameters={"rate_limit": 100, "is_test": False}),
    ]
    assert {other.fingerprint for other in same} == {target.fingerprint}
    assert len({other.fingerprint for other in [target, *others]}) == 5


# --- names ---


@given(
    st.from_regex("[a-z0-9-]{1,80}", fullmatch=True),
    st.from_regex("[a-z0-9][a-z0-9-]{0,62}", fullmatch=True),
    st.integers(1, 99_999_999),
)
def test_a_name_fits_the_providers_column_and_is_read_back(owner: str, target: str, version: int) -> None:
    name = str(KeyName(owner, target, place_of(owner, "x"), version, "234567ab"))
    assert len(name) <= 50
    assert KeyName.parse(name) == KeyName(owner[:8], target[:10], place_of(owner, "x"), version, "234567ab")


def test_the_longest_name_is_fifty_characters() -> None:
    assert len(str(KeyName("o" * 80, "t" * 63, PLACE, 99_999_999, "a" * 8))) == 50


@pytest.mark.parametrize(
    "name",
    [
        "",
        NAME + "\n",
        " " + NAME,
        NAME + ".x",
        NAME.upper(),
        NAME.replace(".1.", ".0."),
        NAME.replace(".1.", ".01."),
        NAME.replace(".1.", ".-1."),
        NAME.replace(".1.", ".1234567890."),
        NAME.replace(".1.", ".\u0661."),
        NAME.replace(PLACE, PLACE[1:]),
        NAME.replace(PLACE, PLACE[:-1] + "1"),
        NAME[:-1],
        NAME[:-1] + "1",
        NAME.replace(OWNER, ""),
        NAME.replace(OWNER, OWNER + "xx"),
        NAME.replace("billing-ap", "billing-apiii"),
        NAME.replace("billing-ap", ""),
    ],
)
def test_a_name_that_is_not_exactly_ours_is_not_read(name: str) -> None:
    assert KeyName.parse(NAME) is not None
    assert KeyName.parse(name) is None
    assert not scope().owns(name)


@given(st.text())
def test_no_text_makes_the_name_parser_raise(text: str) -> None:
    assert KeyName.parse(text) is None


def test_only_the_place_decides_whose_a_key_is() -> None:
    elsewhere = place_of(OWNER, "memory/apps/other/respan")
    former = place_of("old", "memory/apps/billing-api/respan")
    assert scope().owns(str(KeyName("x", "y", PLACE, 7, "b" * 8)))
    assert not scope().owns(str(KeyName(OWNER, "billing-api", elsewhere, 1, "b" * 8)))
    assert not scope().owns(str(KeyName(OWNER, "billing-api", former, 1, "b" * 8)))
    assert scope(former=("old",)).owns(str(KeyName("old", "billing-api", former, 1, "b" * 8)))


@given(st.lists(st.tuples(st.text(string.ascii_lowercase + "/-", max_size=9), st.text(max_size=9)), unique=True))
def test_places_are_distinct(places: list[tuple[str, str]]) -> None:
    assert len({place_of(owner, location) for owner, location in places}) == len(places)
    assert all(re.fullmatch("[a-z2-7]{12}", place_of(*place)) for place in places)


# --- records ---


@given(records())
def test_a_record_is_read_back_as_it_was_written(record: Record) -> None:
    text = record.format()
    assert Record.parse(text) == record
    assert re.fullmatch("[A-Za-z0-9._:%=,-]+", text)  # as it stands, in a shell and in an `env` template


def test_a_record_is_readable() -> None:
    assert record().format() == (
        f"v=1,owner=prod-eu,target=billing-api,key_id=tk_1,key_name={NAME},issued_at=2026-03-01T12:00:00Z,"
        f"expires_at=2026-03-02T12:00:00Z,params={make_target().fingerprint},key={SECRET.fingerprint}"
    )


@given(st.one_of(st.text(), st.binary(), st.integers(), st.none(), st.lists(st.text())))
def test_no_garbage_makes_the_record_parser_raise(garbage: object) -> None:
    assert Record.parse(garbage) is None


@given(records(), st.data())
def test_no_damaged_record_makes_the_parser_raise(record: Record, data: st.DataObject) -> None:
    text = record.format()
    at = data.draw(st.integers(0, len(text)))
    cut = data.draw(st.integers(0, 5))
    damaged = text[:at] + data.draw(st.text("=,%v1Z0-9", max_size=4)) + text[at + cut :]
    read = Record.parse(damaged)
    assert read is None or isinstance(read.expires_at, datetime)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("v=1", "v=2"),
        ("v=1,", ""),
        ("owner=prod-eu,", ""),
        ("owner=prod-eu", "owner="),
        ("key_id=tk_1", "key_id="),  # looked up at the vendor, it would name the whole list
        ("key_id=tk_1", "key_id=" + "t" * 301),  # each page and each log line would search it for secrets
        ("v=1", "v=1,surplus=" + "s" * 8192),
        ("key_id=tk_1", "key_id=tk_1,v=2"),
        ("key_id=tk_1", "key_id=tk_\ud800"),
        ("issued_at=2026-03-01T12:00:00Z", "issued_at=soon"),
        ("issued_at=2026-03-01T12:00:00Z", "issued_at=2026-03-01T12:00:00"),
        ("expires_at=2026-03-02T12:00:00Z", "expires_at=2026-03-02T12:00:00-11:00"),
        ("expires_at=2026-03-02T12:00:00Z", "expires_at=9999-12-31T23:59:59-12:00"),
        ("issued_at=2026-03-01T12:00:00Z", "issued_at=0001-01-01T00:00:00Z"),  # no time can be taken off it
        ("issued_at=2026-03-01T12:00:00Z", "issued_at=9999-12-31T23:59:59Z"),  # nor added to that
        ("expires_at=2026-03-02T12:00:00Z", "expires_at=9999-12-31T23:59:59Z"),
        (
            "expires_at=2026-03-02T12:00:00Z",
            "expires_at=2036-03-01T12:00:00Z",
        ),  # ten years are the longest that is configured
    ],
)
def test_a_record_that_we_cannot_have_written_is_not_read(old: str, new: str) -> None:
    text = record().format()
    assert old in text
    assert Record.parse(text.replace(old, new)) is None


@pytest.mark.parametrize("new", ["mood=calm", "mood=calm,pickup=15m", "mood=", "mood", "mood=a%20b", ""])
@pytest.mark.parametrize("position", range(10))
def test_a_record_with_fields_of_a_later_version_is_read_and_keeps_them(new: str, position: int) -> None:
    parts = record().format().split(",")
    later = ",".join([*parts[:position], new, *parts[position:]])
    read = Record.parse(later)
    assert read == record(unknown=tuple(new.split(",")))
    assert Record.parse(read.format()) == read
    assert sorted(read.format().split(",")) == sorted(later.split(",")), "it repeats every field"


@given(st.permutations([*record().format().split(","), "mood=calm"]))
def test_the_order_of_a_records_fields_does_not_matter(parts: list[str]) -> None:
    assert Record.parse(",".join(parts)) == record(unknown=("mood=calm",))


# --- reading a version ---


def read(data: dict[str, Any] | None, target: Target | None = None, in_scope: Scope | None = None) -> Entry:
    return read_version(Version(3, START, data), target or make_target(), in_scope or scope())


def written(**changes: Any) -> dict[str, Any]:
    return compose(make_target(), record(**changes), SECRET, {})


def test_our_own_version() -> None:
    entry = read(written())
    assert entry == Entry(3, START, Ownership.OURS, record(), as_configured=True, foreign_fields=frozenset())
    assert entry.key_id == "tk_1"
    assert not entry.ownership.foreign
    assert TEXT not in repr(entry)


@pytest.mark.parametrize(
    ("data", "ownership"),
    [
        (None, Ownership.UNREADABLE),
        ({}, Ownership.NO_RECORD),
        ({"password": "x"}, Ownership.NO_RECORD),
        ({"api_key": "by `kv put`"}, Ownership.NO_RECORD),
        ({"api_key": TEXT, RECORD_FIELD: "nonsense"}, Ownership.NO_RECORD),
        ({"api_key": TEXT, RECORD_FIELD: 7}, Ownership.NO_RECORD),
        ({"api_key": TEXT, RECORD_FIELD: {"v": 1}}, Ownership.NO_RECORD),
        (written(owner="staging"), Ownership.OTHER_OWNER),
        (written(target="search"), Ownership.OTHER_TARGET),
        (written() | {"api_key": "by `kv patch`"}, Ownership.HAND_EDITED),
        (written() | {"api_key": None}, Ownership.HAND_EDITED),
        (written() | {"api_key": [TEXT]}, Ownership.HAND_EDITED),
        (written() | {"api_key": "\ud800"}, Ownership.HAND_EDITED),
        ({RECORD_FIELD: record().format()}, Ownership.HAND_EDITED),
        # The key was moved to another field, and something else was put into its own.
        (written() | {"api_key": "other", "copy": TEXT}, Ownership.HAND_EDITED),
    ],
)
def test_a_version_that_is_not_ours(data: dict[str, Any] | None, ownership: Ownership) -> None:
    entry = read(data)
    assert entry.ownership is ownership
    assert entry.ownership.foreign is (ownership is not Ownership.UNREADABLE)
    assert entry.record is None
    assert entry.key_id is None


def test_a_version_of_a_later_version_of_rotator_is_ours() -> None:
    later = written() | {RECORD_FIELD: f"mood=calm,{record().format()},use=0.9"}
    entry = read(later)
    assert (entry.ownership, entry.as_configured) == (Ownership.OURS, True)
    assert entry.key_id == "tk_1"


def test_a_target_that_was_renamed_knows_its_key() -> None:
    assert read(written(target="billing")).ownership is Ownership.OURS
    assert read(written(target="billing")).as_configured


def test_a_copy_differs_from_a_rename_in_that_its_target_is_configured() -> None:
    copied = written(target="search")
    assert read(copied).ownership is Ownership.OTHER_TARGET
    assert read(copied, in_scope=scope(names=frozenset())).ownership is Ownership.OURS


def test_a_former_owners_version_is_ours() -> None:
    assert read(written(owner="old")).ownership is Ownership.OTHER_OWNER
    assert read(written(owner="old"), in_scope=scope(former=("old",))).ownership is Ownership.OURS


def test_a_renamed_field_is_found_by_its_fingerprint_and_counts_as_drift() -> None:
    entry = read(written(), replace(make_target(), key_field="token"))
    assert entry.ownership is Ownership.OURS
    assert not entry.as_configured
    assert entry.foreign_fields == frozenset()  # the old field is the key's: it is not carried over


@pytest.mark.parametrize(
    ("target", "drifted"),
    [
        (make_target(), False),
        (make_target(grace_period=HOUR), False),
        (make_target(extra_fields={}), False),
        (make_target(ttl=48 * HOUR), True),
        (make_target(parameters={"rate_limit": 5}), True),
        (make_target(extra_fields={"base_url": "https://elsewhere"}), True),
        (make_target(extra_fields={"base_url": "https://api.respan.ai", "region": "eu"}), True),
        (make_target(key_field="token"), True),
    ],
)
def test_a_version_drifts_with_the_configuration(target: Target, drifted: bool) -> None:
    assert read(written(), target).as_configured is not drifted


def test_foreign_fields_are_those_that_are_not_configured() -> None:
    data = written() | {"note": "keep me", "n": 1}
    assert read(data).foreign_fields == {"note", "n"}
    assert read(data, replace(make_target(), extra_fields={})).foreign_fields == {"note", "n", "base_url"}
    assert read({"api_key": "x", "password": "y"}).foreign_fields == {"password"}


@given(st.dictionaries(st.sampled_from(["api_key", RECORD_FIELD, "note"]), st.text() | st.integers() | st.none()))
def test_no_data_makes_a_version_unreadable_to_us(data: dict[str, Any]) -> None:
    assert read(data).ownership.foreign


def test_a_composed_version_puts_ours_over_what_is_carried() -> None:
    target = make_target()
    carried = {"note": "kept", "base_url": "old", "api_key": "old", RECORD_FIELD: "old"}
    assert compose(target, record(), SECRET, carried) == {
        "note": "kept",
        "base_url": "https://api.respan.ai",
        "api_key": TEXT,
        RECORD_FIELD: record().format(),
    }


def test_lead_includes_the_jitter() -> None:
    assert make_target(jitter=timedelta(minutes=7)).lead == 8 * HOUR + timedelta(minutes=7)
