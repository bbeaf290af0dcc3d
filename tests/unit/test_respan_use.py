"""What Respan's answers show of a key's use, and what in them is no counter."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.clocks import FakeClock
from unit.test_respan import EXPIRY, answering, listed, response, rigged
from unit.test_respan import _quick as _quick  # a fixture of every test

from rotator.core.keys import ProviderKey
from rotator.core.use import CapUse, KeyUse
from rotator.providers.answers import MAX_AHEAD, MAX_COUNT, cap_use, counted, key_use
from rotator.providers.respan.responses import listed_key

CLOCK = FakeClock()
NOW = CLOCK.now()
USED_AT = NOW - timedelta(hours=1)
ENTRY: dict[str, Any] = {
    "id": "a",
    "name": "n",
    "key_usage": 7,
    "max_usage": 50,
    "spending_in_period": 1.25,
    "spending_limit": 20,
    "last_used": USED_AT.isoformat(),
}
USE = KeyUse((CapUse("max_usage", 7, 50), CapUse("spending_limit", 1.25, 20)), USED_AT)

BAD_COUNTERS: list[object] = [
    -1,
    -0.5,
    10**400,
    1e300,
    "7",
    "many",
    "",
    None,
    float("nan"),
    float("inf"),
    True,
    False,
    [],
    {"value": 7},
]
BAD_TIMES: list[object] = [
    "1970-01-01T00:00:00Z",
    0,
    None,
    "",
    "never",
    "yesterday",
    True,
    float("nan"),
    10**400,
    [],
    (NOW + MAX_AHEAD + timedelta(seconds=1)).isoformat(),
    "9999-12-31T23:59:59-08:00",
]


def use_of(entry: object) -> KeyUse | None:
    """What the list and a look-up show, which is the same."""
    with answering(response(200, [entry]), clock=CLOCK) as (provider, _, _):
        [key] = listed(provider)
    with answering(response(200, entry), clock=CLOCK) as (provider, _, _):
        alone = provider.retrieve("a")
    assert key == ProviderKey("a", "n", None) == alone
    assert isinstance(key, ProviderKey)
    assert alone is not None
    assert key.use == alone.use
    return key.use


def test_every_answer_that_shows_use_is_read() -> None:
    assert use_of(ENTRY) == USE
    with answering(response(200, ENTRY), clock=CLOCK) as (provider, _, _):
        changed = provider.set_expiry("a", EXPIRY)
    assert changed is not None
    assert changed.use == USE


def test_use_that_is_not_shown_is_unknown() -> None:
    assert use_of({"id": "a", "name": "n", "max_usage": 50, "spending_limit": 20}) is None


@pytest.mark.parametrize(
    ("shown", "cap"),
    [("key_usage", "max_usage"), ("spending_in_period", "spending_limit")],
)
def test_a_provider_may_show_one_counter_alone(shown: str, cap: str) -> None:
    use = use_of({"id": "a", "name": "n", shown: 7, cap: 50})
    assert use == KeyUse((CapUse(cap, 7, 50),))


@pytest.mark.parametrize("bad", BAD_COUNTERS, ids=lambda value: repr(value)[:20])
@pytest.mark.parametrize("counter", ["key_usage", "spending_in_period"])
def test_what_is_no_counter_is_unknown_and_no_flaw_of_the_key(counter: str, bad: object) -> None:
    [other] = [cap for cap in USE.caps if (cap.cap == "max_usage") != (counter == "key_usage")]
    assert use_of(ENTRY | {counter: bad}) == KeyUse((other,), USED_AT)


@pytest.mark.parametrize("bad", [*BAD_COUNTERS, 0], ids=lambda value: repr(value)[:20])
@pytest.mark.parametrize("cap", ["max_usage", "spending_limit"])
def test_what_is_no_limit_is_none_that_is_shown(cap: str, bad: object) -> None:
    use = use_of(ENTRY | {cap: bad})
    assert use is not None
    assert (use.used(cap), use.limit(cap)) == (USE.used(cap), None)


@pytest.mark.parametrize("bad", BAD_TIMES, ids=lambda value: repr(value)[:20])
def test_a_last_use_in_1970_or_in_the_future_is_unknown(bad: object) -> None:
    assert use_of(ENTRY | {"last_used": bad}) == KeyUse(USE.caps)
    assert use_of({"id": "a", "name": "n", "last_used": bad}) is None


@pytest.mark.parametrize("ahead", [timedelta(0), timedelta(seconds=1), MAX_AHEAD])
def test_a_last_use_that_is_ahead_by_no_more_than_clocks_are_is_now(ahead: timedelta) -> None:
    assert use_of({"id": "a", "name": "n", "last_used": (NOW + ahead).isoformat()}) == KeyUse((), NOW)


def test_a_number_is_a_time_too() -> None:
    assert use_of({"id": "a", "name": "n", "last_used": USED_AT.timestamp()}) == KeyUse((), USED_AT)


@pytest.mark.parametrize("never_used", ["null", "1970"])
@pytest.mark.parametrize(
    ("use_shown", "in_list", "alone"),
    [
        ("create", False, False),
        ("none", False, False),
        ("retrieve", False, True),
        ("list", True, False),
        ("everywhere", True, True),
    ],
)
def test_use_is_taken_from_each_answer_of_the_provider_that_has_it(
    use_shown: str, never_used: str, in_list: bool, alone: bool
) -> None:
    with rigged(use_shown=use_shown, never_used=never_used, call_cost_usd=0.5) as rig:
        key_id = rig.provider.create("capped", {"max_usage": 5, "spending_limit": 2.5}, EXPIRY).id

        def shown() -> list[KeyUse | None]:
            [listed_key] = [key for key in listed(rig.provider) if key.id == key_id]
            found = rig.provider.retrieve(key_id)
            assert isinstance(listed_key, ProviderKey)
            assert found is not None
            return [listed_key.use, found.use]

        unused = KeyUse((CapUse("max_usage", 0, 5), CapUse("spending_limit", 0, 2.5)))
        assert shown() == [unused if in_list else None, unused if alone else None]
        rig.sim.vendor.use(rig.sim.vendor.text_of(key_id), calls=3)
        used = KeyUse(
            (CapUse("max_usage", 3, 5), CapUse("spending_limit", 1.5, 2.5)), rig.sim.vendor.keys[key_id].last_used
        )
        assert shown() == [used if in_list else None, used if alone else None]


NUMBERS = st.integers() | st.floats()
JSON = st.none() | st.booleans() | NUMBERS | st.text(max_size=30) | st.lists(NUMBERS, max_size=2)


@given(used=JSON, limit=JSON, last_used=JSON)
def test_whatever_stands_there_is_a_sane_use_or_none(used: object, limit: object, last_used: object) -> None:
    use = key_use([cap_use("c", used, limit)], last_used, NOW)
    if use is None:
        return
    assert use.caps or use.last_used_at
    for cap in use.caps:
        assert 0 <= cap.used <= MAX_COUNT
        assert cap.used == used
        assert cap.limit is None or 0 < cap.limit <= MAX_COUNT
    assert use.last_used_at is None or datetime(2000, 1, 1, tzinfo=UTC) <= use.last_used_at <= NOW


@given(value=st.text(max_size=30) | st.booleans() | st.none())
def test_only_a_number_is_counted(value: object) -> None:
    assert counted(value) is None


@given(entry=st.dictionaries(st.sampled_from(list(ENTRY)), JSON))
def test_no_counter_makes_a_key_unreadable(entry: dict[str, object]) -> None:
    assert listed_key(entry | {"id": "a", "name": "n"}, NOW) == ProviderKey("a", "n", None)
