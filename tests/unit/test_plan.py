"""The planner, by tables for every answer it can give, and by Hypothesis over any history at all."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.world import ALL, ENDLESS, FIXED, HOUR, OWNER, START, make_target

from rotator.core.expiry import TOLERANCE, KeyObservation
from rotator.core.keys import KeyName, ProviderKey, place_of
from rotator.core.observation import Observation, PathReading
from rotator.core.plan import Plan, Retire, Rotate, SetExpiry, plan
from rotator.core.reasons import Reason, State
from rotator.core.renewal import Renewal, due_at
from rotator.core.request import SCHEDULED, PassOptions, RotationRequest
from rotator.core.secrets import Secret
from rotator.core.superseded import to_confirm
from rotator.core.target import Target
from rotator.core.traits import Traits
from rotator.core.versions import RECORD_FIELD, History, Ownership, Record, Scope, Version, compose

PLACE = place_of(OWNER, "memory/apps/billing-api/respan")
SCOPE = Scope(OWNER, (PLACE,), PLACE, frozenset({OWNER}), frozenset({"search"}))
DELETED, FOREIGN, COPIED = "-", "?", "="
TTL, GRACE = 24 * HOUR, 4 * HOUR


def at(hours: float) -> datetime:
    return START + hours * HOUR


def record(letter: str, issued: float, version: int, target: Target) -> Record:
    """The record of the key "A", "B", …, which was issued for a version `issued` hours after START."""
    name = str(KeyName(OWNER, target.name, PLACE, version, letter.lower() * 8))
    secret = Secret(f"text of {letter}")
    return Record(
        OWNER, target.name, letter, name, at(issued), at(issued) + TTL, target.fingerprint, secret.fingerprint
    )


def observation(
    versions: Mapping[float, str],
    target: Target | None = None,
    first: int = 1,
    missing: int = 0,
    unseen: str = "",
    traits: Traits = ALL,
    **seen: Any,
) -> Observation:
    """A history: at which hour which key was written; `A+` has a foreign field beside it.

    The provider has shown every key with its recorded expiry, if keys expire there, but those in `unseen`; `A=None` is
    a key that is gone, `A=7` one that expires after seven hours. `missing`: versions of which nothing is known, at the
    end.
    """
    target = target or make_target()
    records: dict[str, Record] = {}
    known = []
    for number, (hour, holder) in enumerate(versions.items(), first):
        letter = holder[0]
        data: dict[str, Any] | None
        if letter == DELETED:
            data = None
        elif letter == FOREIGN:
            data = {"password": "x"}
        elif letter == COPIED:
            data = compose(target, replace(record("Z", hour, number, target), target="search"), Secret("text of Z"), {})
        else:
            made = records.setdefault(letter, record(letter, hour, number, target))
            data = compose(target, made, Secret(f"text of {letter}"), {"note": "x"} if "+" in holder else {})
        known.append(Version(number, at(hour), data))
    current = first - 1 + len(known) + missing
    vendor = {
        letter: KeyObservation(
            ProviderKey(letter, made.key_name, made.expires_at if traits.keys_expire else None), current
        )
        for letter, made in records.items()
        if letter not in unseen
    }
    for letter, expiry in seen.items():
        if expiry is None:
            vendor[letter] = KeyObservation(None, current)
        else:
            expires_at = None if expiry == "never" else at(expiry)
            vendor[letter] = KeyObservation(ProviderKey(letter, records[letter].key_name, expires_at), current)
    return Observation(PathReading(target, SCOPE, History(current, tuple(known), 0.0)), vendor, traits)


def reread(observed: Observation, **changes: Any) -> Observation:
    """The same, of another history, or by another target."""
    return replace(observed, reading=replace(observed.reading, **changes))


def seen_after(observed: Observation, letter: str, key: ProviderKey) -> Observation:
    """The same, after a look-up of this key alone."""
    seen = KeyObservation(key, observed.history.current_version)
    return replace(observed, shown={**observed.shown, letter: seen})


def named(observed: Observation, letter: str, name: str) -> Observation:
    """The same, but the provider knows this key under another name."""
    return seen_after(observed, letter, ProviderKey(letter, name, at(24)))


def described(made: Plan) -> list[str]:
    """The actions of a plan, in a form that a table can hold."""
    lines = []
    for action in made.actions:
        match action:
            case Rotate():
                lines.append(f"rotate after {action.base}: {action.reason}")
            case SetExpiry():
                hours = (action.until - START) / HOUR
                lines.append(f"{action.record.key_id} until {hours:g}: {action.reason}")
            case Retire():
                numbers = ",".join(str(version.number) for version in action.key.versions)
                lines.append(f"retire {action.key.key_id} of {numbers}: {action.reason}")
    return lines


def grace(observed: Observation, now: float = 3) -> dict[str, tuple[float, float]]:
    """For each superseded key: since when, and until when, in hours."""
    keys = plan(observed, at(now)).superseded
    return {key.key_id: ((key.since - START) / HOUR, (key.until - START) / HOUR) for key in keys}


# --- is a new key needed? ---

EMPTIED = replace(observation({}), is_emptied=True)


@pytest.mark.parametrize(
    ("observed", "now", "wanted", "state", "reason", "actions"),
    [
        (observation({}), 0, SCHEDULED, State.MISSING, Reason.FIRST, ["rotate after 0: first"]),
        (EMPTIED, 0, SCHEDULED, State.MISSING, Reason.EMPTIED, ["rotate after 0: emptied"]),
        (observation({}), 0, RotationRequest(rotate=True), State.MISSING, Reason.FIRST, ["rotate after 0: first"]),
        (observation({0: "A"}), 1, SCHEDULED, State.OK, Reason.FRESH, []),
        (observation({0: "A"}), 1, RotationRequest(revoke_now=True), State.OK, Reason.FRESH, []),
        (observation({0: "A"}), 1, RotationRequest(adopt=True), State.OK, Reason.FRESH, []),
        (observation({0: "-"}), 1, SCHEDULED, State.MISSING, Reason.DELETED, ["rotate after 1: deleted"]),
        (observation({0: "A", 1: "-"}), 1, SCHEDULED, State.MISSING, Reason.DELETED, ["rotate after 2: deleted"]),
        (observation({0: "A"}, missing=2), 1, SCHEDULED, State.MISSING, Reason.DELETED, ["rotate after 3: deleted"]),
        (observation({0: "A"}, A=None), 1, SCHEDULED, State.MISSING, Reason.MISSING, ["rotate after 1: missing"]),
        (observation({0: "A"}, A=1), 1, SCHEDULED, State.MISSING, Reason.MISSING, ["rotate after 1: missing"]),
        (observation({0: "A"}), 24, SCHEDULED, State.MISSING, Reason.EXPIRED, ["rotate after 1: expired"]),
        (observation({0: "A"}, A=None), 24, SCHEDULED, State.MISSING, Reason.EXPIRED, ["rotate after 1: expired"]),
        (observation({0: "A"}), 15.99, SCHEDULED, State.OK, Reason.FRESH, []),
        (observation({0: "A"}), 16, SCHEDULED, State.DUE, Reason.EXPIRING, ["rotate after 1: expiring"]),
        (
            observation({0: "A"}),
            1,
            RotationRequest(rotate=True),
            State.DUE,
            Reason.REQUESTED,
            ["rotate after 1: requested"],
        ),
        (
            observation({0: "A"}),
            16,
            RotationRequest(rotate=True),
            State.DUE,
            Reason.REQUESTED,
            ["rotate after 1: requested"],
        ),
        (observation({0: "A"}, first=41), 16, SCHEDULED, State.DUE, Reason.EXPIRING, ["rotate after 41: expiring"]),
    ],
)
def test_whether_a_new_key_is_needed(
    observed: Observation, now: float, wanted: RotationRequest, state: State, reason: Reason, actions: list[str]
) -> None:
    made = plan(observed, at(now), wanted)
    assert (made.state, made.reason, described(made)) == (state, reason, actions)


def test_a_plan_shows_which_key_is_served_and_when_it_will_be_replaced() -> None:
    made = plan(observation({0: "A"}), at(1))
    assert made.current is not None
    assert made.current.key_id == "A"
    assert made.renewal == Renewal(at(16))
    assert made.wake_at == at(16)


def test_an_observation_from_before_a_key_was_served_again_does_not_count() -> None:
    observed = observation({0: "A", 1: "B", 2: "A"}, A=None)
    before = replace(observed, shown={**observed.shown, "A": KeyObservation(None, 2)})
    assert plan(observed, at(2)).reason is Reason.MISSING
    assert plan(before, at(2)).reason is Reason.FRESH
    assert [wanted.key_id for wanted in to_confirm(before, at(2))] == ["A"]


# --- foreign versions ---


def foreign(ownership: Ownership) -> Observation:
    """The newest version is not ours; older ones hold keys that would have to be tidied away."""
    observed = observation({0: "A", 1: "B", 2: COPIED})
    data: dict[str, Any] = dict(observed.history.versions[2].data or {})
    ours = record("C", 2, 3, observed.target)
    changes: dict[Ownership, dict[str, Any]] = {
        Ownership.OTHER_TARGET: {},
        Ownership.NO_RECORD: {RECORD_FIELD: None},
        Ownership.OTHER_OWNER: {RECORD_FIELD: replace(ours, owner="staging").format()},
        Ownership.HAND_EDITED: {RECORD_FIELD: ours.format()},
    }
    newest = Version(3, at(2), data | changes[ownership])
    return reread(observed, history=History(3, (*observed.history.versions[:2], newest), 0.0))


FOREIGN_STANDINGS = [ownership for ownership in Ownership if ownership.foreign]


@pytest.mark.parametrize("ownership", FOREIGN_STANDINGS)
@pytest.mark.parametrize(
    "wanted", [SCHEDULED, RotationRequest(rotate=True), RotationRequest(rotate=True, revoke_now=True)]
)
def test_nothing_is_done_while_the_newest_version_is_not_ours(ownership: Ownership, wanted: RotationRequest) -> None:
    made = plan(foreign(ownership), at(300), wanted)
    assert (made.state, made.reason.value, made.actions) == (State.FOREIGN, ownership.value, ())
    assert to_confirm(foreign(ownership), at(3)) == ()


@pytest.mark.parametrize("ownership", FOREIGN_STANDINGS)
def test_a_foreign_version_is_replaced_when_a_person_asks(ownership: Ownership) -> None:
    observed = foreign(ownership)
    willing = reread(observed, target=replace(observed.target, adopt=True))
    for made in (plan(observed, at(2), RotationRequest(adopt=True)), plan(willing, at(2))):
        assert described(made) == ["rotate after 3: adopted"]
        assert made.state is State.FOREIGN


# --- drift ---


def drifted() -> Observation:
    observed = observation({0: "A"})
    return reread(observed, target=replace(observed.target, ttl=25 * HOUR))


def test_a_drifted_key_is_replaced_at_once_without_a_roll_out() -> None:
    assert described(plan(drifted(), at(1))) == ["rotate after 1: drifted"]


def test_a_drifted_key_is_replaced_when_its_turn_comes() -> None:
    before = plan(drifted(), at(1), options=PassOptions(roll_out_at=at(2)))
    assert (before.state, before.reason, before.actions) == (State.OK, Reason.DRIFTED, ())
    assert before.wake_at == before.next_rotation_at == at(2)
    assert described(plan(drifted(), at(2), options=PassOptions(roll_out_at=at(2)))) == ["rotate after 1: drifted"]


def test_a_roll_out_does_not_concern_a_key_that_is_as_configured() -> None:
    assert plan(observation({0: "A"}), at(1), options=PassOptions(roll_out_at=at(1))).actions == ()
    made = plan(observation({0: "A"}), at(1), options=PassOptions(roll_out_at=at(2)))
    assert (made.reason, made.wake_at, made.next_rotation_at) == (Reason.FRESH, at(16), at(16))


def test_an_expiring_key_does_not_wait_for_its_turn() -> None:
    before = plan(drifted(), at(1), options=PassOptions(roll_out_at=at(30)))
    assert before.reason is Reason.FRESH
    assert before.renewal is not None
    assert before.wake_at == before.next_rotation_at == before.renewal.due_at
    assert described(plan(drifted(), at(20), options=PassOptions(roll_out_at=at(30)))) == ["rotate after 1: expiring"]


# --- grace ---


@pytest.mark.parametrize(
    ("observed", "expected"),
    [
        (observation({0: "A"}), {}),
        (observation({0: "A", 1: "B"}), {"A": (1, 5)}),
        (observation({0: "A", 1: "B", 2: "C"}), {"A": (1, 5), "B": (2, 6)}),
        # A B A C: by hand A was served again, and its grace starts anew.
        (observation({0: "A", 1: "B", 2: "A", 3: "C"}), {"A": (3, 7), "B": (2, 6)}),
        (observation({0: "A", 1: "B", 2: "A"}), {"B": (2, 6)}),
        # One key in several versions: it is superseded when the last of them is.
        (observation({0: "A", 1: "A", 2: "A", 3: "B"}), {"A": (3, 7)}),
        (observation({0: "A", 1: "A", 2: "A"}), {}),
        (observation({0: "A", 1: "B", 2: "B"}), {"A": (1, 5)}),
        # A foreign version in between starts no grace: only ours count.
        (observation({0: "A", 1: FOREIGN, 2: "B"}), {"A": (2, 6)}),
        (observation({0: "A", 1: COPIED, 2: "B"}), {"A": (2, 6)}),
        (observation({0: "A", 1: FOREIGN, 2: "A"}), {}),
        # Neither is one that cannot be read: who knows which key was in it.
        (observation({0: "A", 1: DELETED, 2: "B"}), {"A": (2, 6)}),
        (observation({0: "A", 1: DELETED, 2: "A", 3: "B"}), {"A": (3, 7)}),
        (observation({0: DELETED, 1: "B"}), {}),
        # Histories that begin late.
        (observation({2: "C"}, first=9), {}),
        (observation({1: "B", 2: "C"}, first=8), {"B": (2, 6)}),
        # A key that ends before its grace does is not given more life than it had.
        (observation({0: "A", 23: "B"}), {"A": (23, 24)}),
        # The provider cut it short: its grace stands as it was.
        (observation({0: "A", 1: "B"}, A=2), {"A": (1, 5)}),
        # It is gone, so no application depends on it.
        (observation({0: "A", 1: "B"}, A=None), {}),
        # `extend` prolonged it past its record: its grace still counts, and bounds it.
        (observation({0: "A", 23: "B"}, A=25), {"A": (23, 25)}),
        (observation({0: "A", 23: "B"}, A=99), {"A": (23, 27)}),
        (observation({0: "A", 23: "B"}, A="never"), {"A": (23, 27)}),
    ],
)
def test_when_a_superseded_key_stops_working(observed: Observation, expected: dict[str, tuple[float, float]]) -> None:
    assert grace(observed) == expected


@pytest.mark.parametrize(
    ("observed", "now", "wanted", "actions"),
    [
        # To be shortened, once, to within a second.
        (observation({0: "A", 1: "B"}), 2, SCHEDULED, ["A until 5: superseded"]),
        (observation({0: "A", 1: "B"}, A="never"), 2, SCHEDULED, ["A until 5: superseded"]),
        (observation({0: "A", 1: "B"}, A=5), 2, SCHEDULED, []),
        (observation({0: "A", 1: "B"}, A=5 + 1 / 3600), 2, SCHEDULED, []),
        (observation({0: "A", 1: "B"}, A=5 + 2 / 3600), 2, SCHEDULED, ["A until 5: superseded"]),
        (observation({0: "A", 1: "B"}, A=4), 2, SCHEDULED, ["A until 5: superseded"]),  # its grace is kept
        (observation({0: "A", 23: "B"}), 23.5, SCHEDULED, []),
        # Gone or expired already: nothing can be set, but its versions go when the time comes.
        (observation({0: "A", 1: "B"}, A=None), 2, SCHEDULED, []),
        (observation({0: "A", 1: "B"}, A=1.5), 2, SCHEDULED, []),
        (observation({0: "A", 1: "B"}, A=None), 5, SCHEDULED, ["retire A of 1: grace-over"]),
        (observation({0: "A", 1: "B"}, A=1.5), 5, SCHEDULED, ["retire A of 1: grace-over"]),
        # To be removed.
        (observation({0: "A", 1: "B"}, A=5), 4.99, SCHEDULED, []),
        (observation({0: "A", 1: "B"}, A=5), 5, SCHEDULED, ["retire A of 1: grace-over"]),
        (observation({0: "A", 1: "A", 2: "B"}), 6, SCHEDULED, ["retire A of 1,2: grace-over"]),
        (
            observation({0: "A", 1: "B", 2: "C"}),
            6,
            SCHEDULED,
            ["retire A of 1: grace-over", "retire B of 2: grace-over"],
        ),
        # A version with a foreign field is kept: once its key is gone there is nothing left to do.
        (observation({0: "A+", 1: "B+"}), 5, SCHEDULED, ["retire A of 1: grace-over"]),
        (observation({0: "A+", 1: "B+"}, A=None), 5, SCHEDULED, []),
        (observation({0: "A+", 1: "A", 2: "B"}, A=None), 6, SCHEDULED, ["retire A of 1,2: grace-over"]),
        # Not looked up, so not known whose it is.
        (observation({0: "A", 1: "B"}, unseen="A"), 2, SCHEDULED, []),
        (observation({0: "A", 1: "B"}, unseen="A"), 99, RotationRequest(revoke_now=True), ["rotate after 2: expired"]),
        # Revoked because a person asked.
        (
            observation({0: "A", 1: "B"}),
            2,
            RotationRequest(revoke_now=True),
            [f"A until {2 + 1 / 60:g}: revoked", "retire A of 1: revoked"],
        ),
        (observation({0: "A", 1: "B"}, A=2 + 1 / 60), 2, RotationRequest(revoke_now=True), ["retire A of 1: revoked"]),
        (observation({0: "A", 1: "B"}, unseen="A"), 2, RotationRequest(revoke_now=True), []),
        (
            observation({0: "A", 1: "B"}),
            2,
            RotationRequest(rotate=True, revoke_now=True),
            ["rotate after 2: requested", f"A until {2 + 1 / 60:g}: revoked", "retire A of 1: revoked"],
        ),
        # First of all the new key.
        (observation({0: "A", 16: "B"}), 32, SCHEDULED, ["rotate after 2: expiring", "retire A of 1: grace-over"]),
        # A served key that is on its way out is restored; one that was extended is left.
        (observation({0: "A", 1: "B", 2: "A"}, A=5, B=6), 2, SCHEDULED, ["A until 24: restored"]),
        (observation({0: "A"}, A=5), 2, SCHEDULED, ["A until 24: restored"]),
        (observation({0: "A"}, A=24 - 1 / 3600), 2, SCHEDULED, []),
        (observation({0: "A"}, A=99), 2, SCHEDULED, []),
        (observation({0: "A"}, A="never"), 2, SCHEDULED, []),
        (
            observation({0: "A", 1: "B", 2: "A"}, A=5),
            4,
            RotationRequest(rotate=True),
            ["rotate after 3: requested", "A until 24: restored", "B until 6: superseded"],
        ),
    ],
)
def test_what_becomes_of_the_other_keys(
    observed: Observation, now: float, wanted: RotationRequest, actions: list[str]
) -> None:
    assert described(plan(observed, at(now), wanted)) == actions


@pytest.mark.parametrize("name", ["made-by-hand", str(KeyName(OWNER, "billing-api", "a" * 12, 1, "a" * 8))])
def test_a_key_that_was_made_for_another_path_is_left_alone_and_named(name: str) -> None:
    observed = named(observation({0: "A", 1: "B"}), "A", name)
    for now, wanted in ((2, SCHEDULED), (5, SCHEDULED), (2, RotationRequest(revoke_now=True))):
        made = plan(observed, at(now), wanted)
        assert made.actions == ()
        assert [left.key_id for left in made.untrusted] == ["A"]


def test_a_served_key_that_was_made_for_another_path_is_not_restored_but_replaced() -> None:
    """As after the path was moved, or copied: what is on its way out must not be waited for."""
    observed = observation({0: "A", 1: "B", 2: "A"}, B=6)
    stranger = seen_after(observed, "A", ProviderKey("A", "made-by-hand", at(5)))
    assert described(plan(stranger, at(2))) == ["rotate after 3: drifted"]
    assert plan(stranger, at(5)).reason is Reason.MISSING
    lives = seen_after(observed, "A", ProviderKey("A", "made-by-hand", at(24)))
    assert plan(lives, at(2)).actions == ()


def test_nothing_is_shortened_while_the_clocks_differ() -> None:
    """The store's clock decides since when a key is superseded: one that is hours behind would take its grace."""
    observed = observation({0: "A", 16: "B"})
    assert described(plan(observed, at(16))) == ["A until 20: superseded"]
    assert plan(replace(observed, clock_trusted=False), at(16)).actions == ()


def by_a_clock_behind(observed: Observation, hours: float) -> Observation:
    """The same path in a store whose clock is behind by so many hours."""
    versions = (replace(one, created_at=one.created_at - hours * HOUR) for one in observed.history.versions)
    return reread(observed, history=replace(observed.history, versions=tuple(versions)))


@pytest.mark.parametrize(("behind", "since"), [(0.1, 0.9), (0.2, 1), (5, 1), (24, 1), (30, -29), (-5, 6)])
def test_a_store_that_is_behind_takes_no_grace_though_a_proxy_dates_its_answers(behind: float, since: float) -> None:
    """The record shows when the next key was issued, so its version was not written hours before."""
    observed = by_a_clock_behind(observation({0: "A", 1: "B"}, traits=FIXED), behind)
    assert grace(observed, now=1)["A"] == pytest.approx((since, since + 4))
    retired = ["retire A of 1: grace-over"] if behind > 24 else []
    assert described(plan(observed, at(1))) == retired


def test_a_store_that_is_behind_takes_no_grace_from_a_key_that_a_rollback_replaced() -> None:
    observed = by_a_clock_behind(observation({0: "A", 2: "B", 3: "A"}, traits=FIXED), 8)
    assert grace(observed, now=3) == {"B": (2, 6)}, "it was issued then, and served a while"


def test_nothing_is_tidied_while_the_path_holds_no_key() -> None:
    assert described(plan(observation({0: "A", 1: "B", 2: DELETED}), at(300))) == ["rotate after 3: deleted"]


# --- a provider that cannot set an expiry, or whose keys never expire ---

REVOKE = RotationRequest(revoke_now=True)


@pytest.mark.parametrize("traits", [FIXED, ENDLESS])
@pytest.mark.parametrize(
    ("versions", "now", "wanted", "actions"),
    [
        ({0: "A", 1: "B"}, 1, SCHEDULED, []),
        ({0: "A", 1: "B"}, 4.99, SCHEDULED, []),
        ({0: "A", 1: "B"}, 5, SCHEDULED, ["retire A of 1: grace-over"]),
        ({0: "A", 1: "B"}, 2, REVOKE, ["retire A of 1: revoked"]),
        ({0: "A", 1: "B", 2: "A"}, 4, SCHEDULED, []),
        ({0: "A", 1: "B", 2: "A"}, 6, SCHEDULED, ["retire B of 2: grace-over"]),
        ({0: "A", 16: "B"}, 32, SCHEDULED, ["rotate after 2: expiring", "retire A of 1: grace-over"]),
    ],
)
def test_without_an_expiry_to_set_a_superseded_key_is_deleted_after_its_grace_and_nothing_else_is_done(
    traits: Traits, versions: dict[float, str], now: float, wanted: RotationRequest, actions: list[str]
) -> None:
    assert described(plan(observation(versions, traits=traits), at(now), wanted)) == actions


def test_a_plan_wakes_at_the_end_of_a_grace_that_no_expiry_enforces() -> None:
    for traits in (FIXED, ENDLESS):
        made = plan(observation({0: "A", 1: "B"}, traits=traits), at(2))
        assert made.wake_at == made.superseded[0].until == made.superseded[0].works_until == at(5)


def test_a_superseded_key_whose_expiry_cannot_be_set_ends_with_its_own_if_that_is_first() -> None:
    made = plan(observation({0: "A", 23: "B"}, traits=FIXED), at(23))
    assert made.superseded[0].until == at(24)
    endless = plan(observation({0: "A", 23: "B"}, traits=ENDLESS), at(23))
    assert endless.superseded[0].until == at(27)


def test_a_served_key_that_expires_too_early_is_replaced_where_it_cannot_be_restored() -> None:
    cut = observation({0: "A"}, traits=FIXED, A=5)
    assert described(plan(cut, at(2))) == ["rotate after 1: drifted"]
    assert plan(cut, at(5)).reason is Reason.MISSING


@pytest.mark.parametrize(
    ("now", "state", "reason"),
    [
        (15.99, State.OK, Reason.FRESH),
        (16, State.DUE, Reason.EXPIRING),
        (24, State.DUE, Reason.EXPIRING),
        (999, State.DUE, Reason.EXPIRING),
    ],
)
def test_a_key_that_never_expires_is_replaced_by_its_age_and_works_until_then(
    now: float, state: State, reason: Reason
) -> None:
    made = plan(observation({0: "A"}, traits=ENDLESS), at(now))
    assert (made.state, made.reason) == (state, reason)
    assert made.next_rotation_at == at(16)


def test_a_key_that_never_expires_is_gone_only_when_the_provider_lacks_it() -> None:
    assert plan(observation({0: "A"}, traits=ENDLESS, A=None), at(1)).reason is Reason.MISSING
    assert plan(observation({0: "A"}, traits=ENDLESS, A=None), at(99)).reason is Reason.MISSING


def test_a_key_that_never_expires_waits_for_a_wrong_clock_however_long_that_takes() -> None:
    ahead = replace(observation({0: "A"}, traits=ENDLESS), clock_disputed_by=100 * HOUR)
    made = plan(ahead, at(300))
    assert (made.state, made.reason, made.actions) == (State.DUE, Reason.CLOCK, ())


@pytest.mark.parametrize("since", [17, 40])
def test_a_rollback_to_a_key_that_never_expires_is_held_for_half_of_the_time_that_a_due_key_has(since: float) -> None:
    held = observation({0: "A", since - 1: "B", since: "A"}, traits=ENDLESS)
    assert plan(held, at(since + 0.1)).reason is Reason.FRESH
    assert plan(held, at(since + 0.1)).renewal == Renewal(at(since + 4))
    assert plan(held, at(since + 4)).reason is Reason.EXPIRING


def test_an_expiry_to_set_without_one_that_keys_have_is_refused() -> None:
    with pytest.raises(ValueError, match="can_set_expiry must be False where keys_expire is"):
        Traits("Vendor", keys_expire=False)


# --- what must be looked up ---


@pytest.mark.parametrize(
    ("observed", "wanted"),
    [
        (observation({}), ""),
        (observation({0: "A"}, unseen="A"), ""),  # it was made for this version, so it has not been shortened
        (observation({0: "A"}, unseen="A", first=41), ""),
        (observation({0: "A", 1: "B"}, unseen="AB"), "A"),
        (observation({0: "A", 1: "B", 2: "C"}, unseen="AC"), "A"),
        (observation({0: "A", 1: "B", 2: "C"}, unseen="ABC"), "AB"),
        (observation({0: "A", 1: "B"}, A=None), ""),
        (observation({0: "A", 1: "A"}, unseen="A"), "A"),  # served under another number than it was made for
        (observation({0: "A", 1: "A"}), ""),
        (observation({0: "A", 1: "B", 2: "A"}, unseen="AB"), "AB"),
        (observation({0: "A", 1: "B", 2: DELETED}, unseen="AB"), ""),
        (observation({0: "A", 1: "B"}, missing=1, unseen="AB"), ""),
        (observation({0: "A", 1: FOREIGN}, unseen="A"), ""),
    ],
)
def test_which_keys_must_be_looked_up(observed: Observation, wanted: str) -> None:
    assert "".join(needed.key_id for needed in to_confirm(observed, at(3))) == wanted


def test_a_served_key_whose_name_is_not_ours_is_looked_up() -> None:
    observed = observation({0: "A"}, unseen="A")
    made = replace(record("A", 0, 1, observed.target), key_name="renamed")
    version = Version(1, at(0), compose(observed.target, made, Secret("text of A"), {}))
    assert to_confirm(reread(observed, history=History(1, (version,), 0.0)), at(3)) == (made,)


# --- when a key is due ---


def test_a_key_is_due_before_its_end_by_lead() -> None:
    target = make_target(jitter=timedelta(minutes=10))
    assert due_at(record("A", 0, 1, target), target) == at(16) - timedelta(minutes=10)


@pytest.mark.parametrize(("life", "due"), [(24, 16), (48, 40), (12, 8), (1, 2 / 3), (0, 0), (-1, -1)])
def test_a_key_with_another_life_than_asked_for_is_due_at_the_same_share_of_it(life: float, due: float) -> None:
    target = make_target()
    made = replace(record("A", 0, 1, target), expires_at=at(life))
    assert due_at(made, target) == at(due)


@st.composite
def targets(draw: st.DrawFn) -> Target:
    """Any times that the configuration lets through."""
    seconds = st.integers(1, 90 * 86_400)
    ttl = draw(seconds.filter(lambda life: life > 2))
    lead = draw(st.integers(0, ttl - 1))
    jitter = draw(st.integers(0, lead))
    return make_target(
        ttl=timedelta(seconds=ttl),
        renew_before=timedelta(seconds=lead - jitter),
        jitter=timedelta(seconds=jitter),
        grace_period=timedelta(seconds=draw(st.integers(0, ttl))),
    )


@given(targets(), st.integers(60, 2 * 90 * 86_400))
def test_a_fresh_key_is_never_due_at_once_however_short_its_life(target: Target, life: int) -> None:
    made = replace(record("A", 0, 1, target), expires_at=at(0) + timedelta(seconds=life))
    due = due_at(made, target)
    assert made.issued_at < due <= made.expires_at
    share = min(1.0, life / target.ttl.total_seconds())
    # At least as large a part of its life is used as of the life that was asked for.
    assert (due - made.issued_at).total_seconds() >= share * (target.ttl - target.lead).total_seconds() - 0.001


@given(targets())
def test_jitter_makes_a_key_due_earlier_and_never_later(target: Target) -> None:
    without = replace(target, jitter=timedelta(0))
    made = record("A", 0, 1, target)
    assert due_at(made, target) <= due_at(made, without)


# --- any history at all ---

HOURS = st.integers(0, 160).map(lambda quarters: quarters / 4)


@st.composite
def observations(draw: st.DrawFn) -> Observation:
    holders = draw(st.lists(st.sampled_from(["A", "B", "C", "D", "A+", "B+", "-", "?", "="]), max_size=7))
    times = sorted(draw(st.lists(HOURS, min_size=len(holders), max_size=len(holders), unique=True)))
    target = make_target(grace_period=draw(st.sampled_from([0, 1, 4, 30])) * HOUR)
    traits = draw(st.sampled_from([ALL, ALL, FIXED, ENDLESS]))
    observed = observation(
        dict(zip(times, holders, strict=True)),
        target,
        draw(st.integers(1, 4)),
        draw(st.sampled_from([0, 0, 0, 1])),
        traits=traits,
    )
    numbers = st.integers(0, observed.history.current_version)
    for letter in draw(st.sets(st.sampled_from("ABCD"))):
        if letter not in observed.shown:
            continue
        shown = observed.shown[letter].key
        assert shown is not None
        expires_at = draw(st.none() | HOURS.map(at) | st.just(shown.expires_at)) if traits.keys_expire else None
        name = draw(st.sampled_from([shown.name, shown.name, "made-by-hand"]))
        key = draw(st.sampled_from([None, ProviderKey(letter, name, expires_at)]))
        seen = draw(st.none() | st.builds(KeyObservation, st.just(key), numbers))
        vendor = {other: known for other, known in observed.shown.items() if other != letter}
        observed = replace(observed, shown=vendor | ({letter: seen} if seen else {}))
    drift = draw(st.booleans())
    return reread(observed, target=replace(target, ttl=25 * HOUR)) if drift else observed


ORDERS = st.builds(RotationRequest, rotate=st.booleans(), revoke_now=st.booleans(), adopt=st.booleans())
ROLL_OUTS = st.none() | HOURS.map(at)


@given(observations(), HOURS.map(at), ORDERS, ROLL_OUTS)
def test_whatever_the_history_no_rule_is_broken(
    observed: Observation, now: datetime, wanted: RotationRequest, roll_out_at: datetime | None
) -> None:
    made = plan(observed, now, wanted, PassOptions(roll_out_at=roll_out_at))
    assert made == plan(observed, now, wanted, PassOptions(roll_out_at=roll_out_at))

    current = observed.current
    served = current.key_id if current else None
    if current and current.ownership.foreign:
        assert all(isinstance(action, Rotate) and action.reason is Reason.ADOPTED for action in made.actions)
    assert observed.traits.can_set_expiry or not any(isinstance(action, SetExpiry) for action in made.actions)
    assert observed.traits.keys_expire or made.reason is not Reason.EXPIRED
    for action in made.actions:
        if isinstance(action, Rotate):
            assert action is made.actions[0]
            assert action.base == observed.history.current_version
            continue
        touched = action.record if isinstance(action, SetExpiry) else action.key.record
        seen = observed.shown[touched.key_id]
        assert seen.key is None or SCOPE.owns(seen.key.name)
        if isinstance(action, Retire):
            assert touched.key_id != served
            assert action.key.until <= now
            assert observed.history.current_version not in [version.number for version in action.key.versions]
        elif touched.key_id == served:
            assert action.until == touched.expires_at
            assert seen.key is not None
            assert seen.key.expires_at is not None
            assert action.until > seen.key.expires_at
        else:
            assert action.until > now

    for key in made.superseded:
        assert key.key_id != served
        later = [entry.created_at for entry in observed.entries if entry.number > key.versions[-1].number]
        assert key.since in later
        shown = observed.shown.get(key.key_id)
        end = shown.key.expires_at if shown and shown.key else key.record.expires_at
        if not wanted.revoke_now and (end is None or key.until < end):
            assert key.until >= min(key.record.expires_at, key.since + observed.target.grace_period)
    assert {left.key_id for left in made.untrusted}.isdisjoint(
        action.key.key_id for action in made.actions if isinstance(action, Retire)
    )
    assert (made.state is State.OK) == (
        made.reason is Reason.FRESH or (made.renewal is not None and made.renewal.is_rolled_out_first)
    )


@given(observations(), HOURS.map(at), ORDERS, ROLL_OUTS, st.floats(0, 1))
def test_nothing_changes_before_a_plans_wake_time(
    observed: Observation, now: datetime, wanted: RotationRequest, roll_out_at: datetime | None, share: float
) -> None:
    wanted = replace(wanted, revoke_now=False)  # a revoked key's end is counted from now
    made = plan(observed, now, wanted, PassOptions(roll_out_at=roll_out_at))
    assert made.wake_at is None or made.wake_at > now
    then = now + share * ((made.wake_at or now + 100 * HOUR) - now)
    if then == made.wake_at:
        then = now
    later = plan(observed, then, wanted, PassOptions(roll_out_at=roll_out_at))
    assert (later.state, later.reason, described(later)) == (made.state, made.reason, described(made))


@given(observations(), HOURS.map(at))
def test_a_plan_that_was_carried_out_has_nothing_left_to_do(observed: Observation, now: datetime) -> None:
    """Only the keys' changes are fed back: each action succeeds."""
    for _ in range(2):
        for action in plan(observed, now).actions:
            if isinstance(action, SetExpiry):
                before = observed.shown[action.record.key_id].key
                assert before is not None
                observed = seen_after(observed, before.id, replace(before, expires_at=action.until))
    assert not [action for action in plan(observed, now).actions if isinstance(action, SetExpiry)]


def test_expiries_within_the_tolerance_are_the_same() -> None:
    assert timedelta(seconds=1) == TOLERANCE


# --- a rollback is held (docs/decisions/0005) ------------------------------------------------------------------------


def test_a_key_that_a_person_rolled_back_to_is_not_due_at_once() -> None:
    # A was due at hour 16 and replaced by B; at hour 17 a person rolls back to A, which would be due at once.
    held = observation({0: "A", 16: "B", 17: "A"})
    made = plan(held, at(17.1))
    assert (made.state, made.reason) == (State.OK, Reason.FRESH)
    assert made.renewal == Renewal(at(17) + (at(24) - at(17)) / 2)
    assert plan(held, at(21)).reason is Reason.EXPIRING


def test_nor_replaced_for_drift_before_that() -> None:
    drifted = make_target(extra_fields={"base_url": "https://elsewhere.example"})
    held = observation({0: "A", 16: "B", 17: "A"}, drifted)
    held = reread(held, target=replace(drifted, extra_fields={"base_url": "https://api.example"}))
    assert plan(held, at(17.1)).reason is Reason.FRESH


def test_a_fence_holds_nothing() -> None:
    assert plan(observation({0: "A", 17: "A"}), at(17.1)).reason is Reason.EXPIRING


def test_a_fence_after_a_rollback_does_not_end_its_hold() -> None:
    # A was due at hour 16 and replaced; at hour 17 a person rolls back to it, and at hour 18 a sweep fences the path.
    fenced = observation({0: "A", 16: "B", 17: "A", 18: "A"})
    made = plan(fenced, at(18.1))
    assert made.reason is Reason.FRESH
    assert made.renewal == Renewal(at(17) + (at(24) - at(17)) / 2)
