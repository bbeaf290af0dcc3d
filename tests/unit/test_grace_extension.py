"""Grace that follows use: when a superseded key gets a later end, when it is looked at, and that it ends."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.world import ALL, HOUR, OWNER, START, make_target

from rotator.core.expiry import TOLERANCE, Asked, KeyObservation
from rotator.core.keys import KeyName, ProviderKey, place_of
from rotator.core.observation import Observation, PathReading
from rotator.core.plan import Plan, Retire, SetExpiry, plan
from rotator.core.reasons import Reason
from rotator.core.request import RotationRequest
from rotator.core.secrets import Secret
from rotator.core.superseded import AGAIN, REACH, Superseded, superseded_keys, to_confirm
from rotator.core.target import Target
from rotator.core.use import CapUse, KeyUse, UseSeries, series_with
from rotator.core.versions import History, Record, Scope, Version, compose

PLACE = place_of(OWNER, "memory/apps/billing-api/respan")
SCOPE = Scope(OWNER, (PLACE,), PLACE, frozenset({OWNER}), frozenset())
MINUTE = timedelta(minutes=1)
TARGET = make_target(grace_extension=6 * HOUR, idle_after=HOUR)
"""A key is replaced two hours after START: its grace ends at 6, with the extension at 12; recorded expiry 24."""
REPLACED, OVER, BOUND, RECORDED = 2.0, 6.0, 12.0, 24.0
REACHED = OVER - 1 / REACH


def at(hours: float) -> datetime:
    return START + hours * HOUR


def record(letter: str, issued: float, version: int) -> Record:
    name = str(KeyName(OWNER, "billing-api", PLACE, version, letter.lower() * 8))
    secret, made_at = Secret(f"text of {letter}"), at(issued)
    return Record(
        OWNER, "billing-api", letter, name, made_at, made_at + 24 * HOUR, TARGET.fingerprint, secret.fingerprint
    )


def look(hours: float, used: float | None = None, last: float | None = None) -> KeyUse:
    """What an answer showed at that hour: a count, and the hour of the last use."""
    caps = () if used is None else (CapUse("max_usage", used),)
    return KeyUse(caps, None if last is None else at(last), as_of=at(hours))


def series(looks: Sequence[KeyUse], *, alone: bool | None = None) -> UseSeries | None:
    found: UseSeries | None = None
    for one in looks:
        found = series_with(found, one)
    return replace(found, is_shown_alone=alone).marked(at(REPLACED)) if found else None


def observed(
    looks: Sequence[KeyUse] = (),
    shown: float | None = OVER,
    target: Target = TARGET,
    *,
    alone: bool | None = None,
    looked_up: float | None = None,
    asked: float | None = None,
) -> Observation:
    """A path whose key A was replaced by B; `shown` is the hour of A's expiry at the provider, None: it is gone."""
    records = (record("A", 0, 1), record("B", REPLACED, 2))
    versions = tuple(
        Version(number, made.issued_at, compose(target, made, Secret(f"text of {made.key_id}"), {}))
        for number, made in enumerate(records, 1)
    )
    former = None if shown is None else ProviderKey("A", records[0].key_name, at(shown))
    was_asked = None if asked is None else Asked(at(asked), at(asked))
    seen = {
        "A": KeyObservation(former, 2, was_asked, None if looked_up is None else at(looked_up)),
        "B": KeyObservation(ProviderKey("B", records[1].key_name, records[1].expires_at), 2),
    }
    use = series(looks, alone=alone)
    reading = PathReading(target, SCOPE, History(2, versions, 0.0))
    return Observation(reading, seen, ALL, use={"A": use} if use else {})


def key_of(observation: Observation) -> Superseded:
    current = observation.current
    assert current is not None
    (key,) = superseded_keys(observation, current)
    return key


def until(observation: Observation) -> float:
    return (key_of(observation).until - START) / HOUR


def actions(made: Plan) -> list[str]:
    """The expiry that is requested, in hours, or that the key is retired; with the reason."""
    lines = []
    for action in made.actions:
        if isinstance(action, SetExpiry):
            lines.append(f"{(action.until - START) / HOUR:g} {action.reason}")
        elif isinstance(action, Retire):
            lines.append(f"retire {action.reason}")
    return lines


def decided(observation: Observation, now: float) -> list[str]:
    return actions(plan(observation, at(now)))


def is_looked_at(observation: Observation, now: float) -> bool:
    return "A" in [record.key_id for record in to_confirm(observation, at(now))]


# --- when it ends ----------------------------------------------------------------------------------------------------

ONE_LOOK = [look(5.5, used=7)]
IDLE = [look(3, used=7), look(5.75, used=7)]
GREW = [look(3, used=7), look(5.75, used=8)]


@pytest.mark.parametrize(
    ("observation", "ends"),
    [
        (observed([look(5.75, last=5.5)]), 6.5),
        (observed([look(5.75, used=7, last=5.5)]), 6.5),
        (observed([look(4, last=3.5)]), OVER),  # idle by the end of its grace
        (observed([look(11.75, last=11.5)], shown=11.9), BOUND),
        (observed(GREW), 6.75),  # used at 5.75 at the latest
        (observed(IDLE), OVER),
        (observed(ONE_LOOK), OVER),  # used while it was served, perhaps: that is not known
        (observed(), OVER),
        (observed([look(5.75, last=1.9)]), OVER),  # used while it was served, and not since
        (observed([look(5.75, last=-50 * 365 * 24)]), OVER),  # 1970
        (observed([look(5.75, last=900)]), OVER),  # in the future: unknown
        (observed([look(3, used=7), look(5.75, used=8, last=-50 * 365 * 24)]), 6.75),  # the count shows more
        (observed([look(3, used=7), look(5, used=9), look(5.75, used=1)]), 6.75),  # used once since a reset
        (observed([look(3, used=7), look(5.5, used=9), look(5.75, used=0)]), 6.5),  # that stays known after a reset
        (observed([look(3, used=7), look(5.5, used=9), look(5.75, last=1)]), 6.5),  # or when the counter vanishes
        (observed([look(5.75, last=5.5)], shown=None), OVER),  # gone
        (observed([look(5.75, last=5.5)], target=make_target(idle_after=HOUR)), OVER),  # nothing is to be extended
        (replace(observed([look(5.75, last=5.5)]), clock_trusted=False), OVER),
        # An earlier process has moved its expiry, and this one does not know the use yet:
        (observed(shown=7), 7),
        (observed(ONE_LOOK, shown=7), 7),
        (observed(shown=20), BOUND),
        (observed(shown=RECORDED), OVER),  # never shortened
        (observed([look(6.2, used=7), look(6.4, used=7)], shown=11), 7.2),  # not used since 6.2
        (observed([look(6.2, used=7), look(6.4, used=9)], shown=7), 7.4),
        (observed([look(6.2, last=5.6)], shown=11), 6.6),
    ],
)
def test_when_a_superseded_key_ends(observation: Observation, ends: float) -> None:
    assert until(observation) == pytest.approx(ends)


def test_a_grace_is_never_extended_past_the_recorded_expiry() -> None:
    target = replace(TARGET, grace_extension=100 * HOUR)
    assert at(RECORDED) - 5 * TOLERANCE < key_of(observed([look(23.9, last=23.8)], 23.9, target)).until < at(RECORDED)


def test_the_bound_stays_where_the_version_after_the_key_is_destroyed() -> None:
    """The key that it held was not used, and is gone while this one still lives."""
    before = observed([look(10, 90)], shown=11)
    newest, made = record("C", 9, 3), before.history.versions
    data = compose(TARGET, newest, Secret("text of C"), {})
    versions = (made[0], Version(2, made[1].created_at, None, destroyed=True), Version(3, newest.issued_at, data))
    after = replace(before, reading=PathReading(TARGET, SCOPE, History(3, versions, 0.0)))
    assert key_of(after).since == key_of(before).since
    assert key_of(after).latest == key_of(before).latest == at(BOUND)


def test_no_later_expiry_than_the_bound_is_requested_of_a_provider_that_seems_to_round() -> None:
    target = replace(TARGET, grace_extension=6 * HOUR + 30 * MINUTE)
    bound = BOUND + 0.5
    observation = observed([look(12, 90, 11.9)], shown=12, target=target)
    made = plan(observation, at(11.95))
    requests = [action.asked.request for action in made.actions if isinstance(action, SetExpiry)]
    assert requests
    assert max(requests) <= at(bound)


def test_use_from_before_a_key_was_replaced_extends_no_short_grace() -> None:
    target = replace(TARGET, grace_period=30 * MINUTE)
    assert until(observed([look(2.1, last=1.9)], 2.5, target)) == 2.5
    assert until(observed([look(2.1, last=2.05)], 2.5, target)) == 3.05


def test_an_expiry_that_the_provider_rounded_up_is_not_taken_for_an_extension() -> None:
    target = replace(TARGET, grace_period=4 * HOUR - 30 * timedelta(seconds=1))
    assert key_of(observed(shown=OVER, target=target)).until == at(OVER) - timedelta(seconds=30)
    assert until(observed(shown=OVER + 0.5, target=target)) == OVER + 0.5


def test_a_revoked_key_ends_now_in_every_output() -> None:
    observation = observed([look(5.75, last=5.7)])
    assert observation.current is not None
    revoked = RotationRequest(revoke_now=True, by="command")
    (key,) = superseded_keys(observation, observation.current, revoked, at(5.75))
    assert (key.until, key.is_extended) == (at(5.75), False)


def test_a_revoked_key_ends_at_once_however_much_it_is_used() -> None:
    made = plan(observed([look(5.75, last=5.7)]), at(5.75), RotationRequest(revoke_now=True, by="command"))
    assert [line.split()[-1] for line in actions(made)] == [Reason.REVOKED, Reason.REVOKED]


# --- when that is requested ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("observation", "now", "expected"),
    [
        (observed([look(2.1, last=2.05)], shown=RECORDED), 2.1, ["6 superseded"]),
        (observed([look(5.7, last=5.7)]), 5.7, []),  # not within reach
        (observed([look(5.8, last=5.8)]), 5.8, ["6.8 in-use"]),
        (observed([look(5.8, last=5.8)], shown=RECORDED), 5.8, ["6.8 in-use"]),
        (observed([look(6.2, last=6.2)], shown=6.8), 6.2, []),  # extended, and the end is not within reach
        (observed([look(6.6, last=6.6)], shown=6.8), 6.6, ["7.6 in-use"]),
        (observed([look(6.6, last=6.6)], shown=11), 6.6, ["7.6 in-use"]),  # shortened again
        (observed(IDLE), 5.8, []),
        (observed(IDLE), 6, ["retire grace-over"]),
        (observed([look(6.6, last=6.5)], shown=7.4), 7.4, []),  # until 7.5, and it has ended: it is not revived
        (observed([look(6.6, last=6.5)], shown=7.4, asked=7.4), 7.4, []),
        (observed([look(6.6, last=6.5)], shown=7.4), 7.5, ["retire grace-over"]),
        (observed([look(11.9, last=11.9)], shown=BOUND), 11.9, []),
        (observed([look(11.9, last=11.9)], shown=BOUND), BOUND, ["retire grace-over"]),
        (observed(shown=7), 6.5, []),  # neither cut without a look, nor extended
        (observed(shown=7), 7, ["retire grace-over"]),
        (observed(shown=20), 6.5, ["12 in-use"]),
    ],
)
def test_what_is_requested_of_the_provider(observation: Observation, now: float, expected: list[str]) -> None:
    assert decided(observation, now) == expected


def test_a_short_grace_is_set_first_and_extended_when_its_end_is_within_reach() -> None:
    target = replace(TARGET, grace_period=30 * MINUTE)
    looks = [look(2.1, last=2.05)]
    assert decided(observed(looks, RECORDED, target), 2.1) == ["2.5 superseded"]
    assert decided(observed(looks, 2.5, target), 2.2) == []
    assert decided(observed(looks, 2.5, target), 2.3) == ["3.05 in-use"]


def test_where_the_provider_rounds_up_no_request_is_repeated_and_the_key_still_ends() -> None:
    whole_hours = observed([look(6.7, last=6.6)], shown=8, asked=6.8)
    assert decided(whole_hours, 6.7) == ["7.6 in-use"]
    asked = observed([look(6.7, last=6.6)], shown=8, asked=7.6)
    assert decided(asked, 6.7) == []
    assert decided(asked, 7.6) == [], "it works still, so its use is looked at before"
    looked_at = observed([look(6.7, last=6.6), look(7.55, last=6.6)], shown=8, asked=7.6)
    assert decided(looked_at, 7.6) == ["retire grace-over"]


# --- when it is looked at --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("observation", "now", "expected"),
    [
        (observed([look(4.9, last=4.9)]), 4.99, False),
        (observed([look(4.9, last=4.9)]), 5, True),
        (observed([look(5, last=4.9)]), REACHED - 0.01, False),
        (observed([look(5, last=4.9)]), REACHED, True),
        (observed([look(REACHED, last=4.9)]), REACHED, False),
        (observed([look(REACHED, last=4.9)]), OVER - 1 / REACH / AGAIN, True),
        (observed([look(5.95, last=4.9)]), 5.99, False),
        (observed([look(5, used=4)], alone=False), 5.9, False),  # only the list shows its use
        (observed(), 5.9, True),  # only the list has shown the key
        (observed(looked_up=5.8), 5.9, False),  # a look-up has shown the key, and not its use
        (observed(looked_up=5.8), 5.95, True),
        (
            observed([look(5, last=4.9)], shown=RECORDED),
            7,
            True,
        ),  # it outlived its grace, and is not cut without a look
        (observed([look(5, last=4.9)], shown=6), 7, False),  # it has ended
        (observed([look(5, last=4.9)], shown=RECORDED), BOUND, False),
        (observed([look(11.2, last=11.1)], shown=BOUND), 11.9, False),  # it cannot be extended further
        (observed([look(5, last=4.9)], target=make_target()), 5.9, False),
        (replace(observed([look(5, last=4.9)]), clock_trusted=False), 5.9, False),
    ],
)
def test_when_the_use_of_a_superseded_key_is_looked_up(observation: Observation, now: float, expected: bool) -> None:
    assert is_looked_at(observation, now) is expected


def test_a_key_that_outlived_its_grace_is_kept_while_its_use_cannot_be_looked_up() -> None:
    unshown = observed([look(5, last=4.9)], shown=RECORDED)
    assert decided(unshown, 7) == []
    assert decided(observed([look(7, last=4.9)], shown=RECORDED), 7) == ["retire grace-over"]
    assert decided(unshown, BOUND) == ["retire grace-over"], "and not past the bound"


def test_a_plan_wakes_when_the_use_is_to_be_looked_at() -> None:
    assert plan(observed([look(4, last=3.9)]), at(4)).wake_at == at(OVER - 1)
    assert plan(observed([look(5, last=3.9)]), at(5)).wake_at == at(REACHED)
    assert plan(observed([look(REACHED, last=3.9)]), at(REACHED)).wake_at == at(OVER - 1 / REACH / AGAIN)
    assert plan(observed([look(6.2, last=6.2)], shown=6.8), at(6.2)).wake_at == at(6.8 - 1 / REACH)


# --- what it has used ------------------------------------------------------------------------------------------------


def test_calls_count_from_the_first_look_after_the_key_was_replaced() -> None:
    key = key_of(observed([look(1, used=100), look(2.1, used=120), look(4, used=150), look(5, used=160, last=4.9)]))
    assert key.used_since == (CapUse("max_usage", 40),)
    assert key.last_used_at == at(4.9)
    assert key.is_used(HOUR, at(5.8))
    assert not key.is_used(HOUR, at(5.9))


def test_calls_are_unknown_until_there_were_two_looks_since_and_after_a_reset() -> None:
    assert key_of(observed([look(1, used=100)])).used_since == ()
    assert key_of(observed([look(2.1, used=120)])).used_since == (), "the calls before this look are unknown"
    assert key_of(observed([look(2.1, used=120), look(4, used=3)])).used_since == ()
    assert key_of(observed([look(2.1, used=120), look(4, last=3)])).used_since == ()


def test_calls_count_anew_when_a_key_was_served_again_and_replaced_again() -> None:
    use = series([look(2.1, used=120), look(4, used=150), look(8.1, used=190), look(9, used=195)])
    assert use is not None
    assert use.used_since == (CapUse("max_usage", 75),)
    assert use.marked(at(8)).used_since == (CapUse("max_usage", 5),)


# --- whatever happens ------------------------------------------------------------------------------------------------

HOURS = st.floats(0, 30).map(lambda hours: round(hours * 60) / 60)


@st.composite
def observations(draw: st.DrawFn) -> Observation:
    """Any looks, any expiry that the provider shows, any policy."""
    target = replace(
        TARGET,
        grace_period=draw(st.sampled_from([0.1, 1, 4, 30])) * HOUR,
        grace_extension=draw(st.sampled_from([0, 0.5, 6, 100])) * HOUR,
        idle_after=draw(st.sampled_from([0.1, 1, 8])) * HOUR,
    )
    looks = []
    for hours in sorted(draw(st.lists(HOURS, max_size=8, unique=True))):
        used = draw(st.none() | st.integers(0, 5))
        last = draw(st.none() | HOURS)
        if used is not None or last is not None:
            looks.append(look(hours, used, last))
    return observed(
        looks,
        draw(st.none() | HOURS),
        target,
        alone=draw(st.sampled_from([None, True, False])),
        looked_up=draw(st.none() | HOURS),
    )


def is_shown_in_use(observation: Observation) -> bool:
    """Whether any look shows a use since the key was replaced."""
    use = observation.use.get("A")
    return use is not None and use.used_at is not None and use.used_at > at(REPLACED)


@given(observations(), HOURS)
def test_whatever_is_shown_an_extended_key_ends(observation: Observation, now: float) -> None:
    """At the end of its grace or of the extension, and never later than recorded; and it is extended only for use."""
    target, key = observation.target, key_of(observation)
    over_at = min(at(RECORDED), at(REPLACED) + target.grace_period)
    bound = min(at(RECORDED), at(REPLACED) + target.grace_period + target.grace_extension)
    seen = observation.shown["A"].key
    shown = seen.expires_at if seen else None
    assert over_at <= key.until <= max(over_at, bound, shown or over_at) or (shown and shown > at(RECORDED))
    made = plan(observation, at(now))
    for action in made.actions:
        if isinstance(action, SetExpiry) and action.record.key_id == "A":
            assert action.until >= min(over_at, at(RECORDED)), "no grace is cut short"
            if action.reason is Reason.IN_USE:
                assert action.until <= bound
            if shown and shown < action.until and action.reason is Reason.IN_USE:
                assert is_shown_in_use(observation), "no extension without use"
        if isinstance(action, Retire):
            assert at(now) >= over_at
    retires = any(isinstance(action, Retire) for action in made.actions)
    if seen and at(now) >= max(key.until, bound) and shown and not shown <= at(now):
        assert retires, "it ends"
    if shown is not None and not retires and not is_shown_in_use(observation) and shown > at(now):
        kept = max([shown, *(action.until for action in made.actions if isinstance(action, SetExpiry))])
        assert kept <= max(shown, over_at), "what is not known to be used is not extended"


@given(observations(), HOURS, st.floats(0, 1))
def test_nothing_changes_before_the_wake_time(observation: Observation, now: float, part: float) -> None:
    """Neither what is done nor what is looked up."""
    made = plan(observation, at(now))
    wake_at = made.wake_at or at(40)
    then = at(now) + part * (wake_at - at(now))
    if then < wake_at:
        assert actions(plan(observation, then)) == actions(made)
        assert to_confirm(observation, then) == to_confirm(observation, at(now))
