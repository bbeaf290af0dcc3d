"""Keys that may have been made in vain: one list, and no pass, finds all of them, and they are removed."""

from collections.abc import Callable
from datetime import timedelta
from math import inf

import pytest
from support.world import HOUR, START, Call, IssuedKey, World, lost, make_target, meanwhile, refusals, refuse, unknown

from rotator.core.errors import (
    ProviderCredentialRefused,
    ProviderOutcomeUnknown,
    ProviderRateLimited,
    ProviderRequestRefused,
    ProviderUnavailable,
)
from rotator.core.events import EventType
from rotator.core.keys import CreatedKey, UnreadableKey
from rotator.core.request import RotationRequest
from rotator.core.secrets import Secret
from rotator.protocol.reconciler import Reconciler
from rotator.protocol.rotation import UNPUBLISHED
from rotator.protocol.strays import PATIENCE, REST, RETRY, StrayKeys

FORCED = RotationRequest(rotate=True, by="tester", comment="why not")
NOT_CONFIRMED = [
    unknown("provider.create"),
    *(
        error
        for error in refusals("provider.create")
        if isinstance(error, ProviderRequestRefused | ProviderRateLimited)
    ),
]


def made_in_vain(world: World, targets: int = 1) -> Reconciler:
    """A process whose creates for these targets were done and not answered."""
    a = world.reconciler()
    world.at("provider.create", lost(unknown("provider.create")), times=targets)
    for target in world.targets[:targets]:
        assert isinstance(a.reconcile(target).error, ProviderOutcomeUnknown)
    return a


def strays_of(world: World) -> StrayKeys:
    return world.strays[0]


def left_behind(world: World) -> list[object]:
    return [event.fields["key_name"] for event in world.events.of(EventType.KEY_NOT_REMOVED)]


@pytest.mark.parametrize("error", NOT_CONFIRMED, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("others", [0, 1, 2, 3])
def test_a_key_whose_create_was_not_confirmed_is_found_by_its_name_and_removed(error: Exception, others: int) -> None:
    """An answer without an id or a text is one of these, and so is a redirect or any other status but a success."""
    world = World()
    a = world.reconciler()
    assert a.reconcile(world.target).rotated
    for number in range(others):
        world.vendor.issue(f"another-team-{number}", None)
    world.at("provider.create", lost(error))
    since = len(world.wire.journal)
    assert a.reconcile(world.target, FORCED).error is error
    assert world.calls("provider.", since) == ["provider.create"], "never repeated blindly, and no list in a pass"
    world.remove_strays()
    assert [key.id for key in world.vendor.keys.values() if key.revoked] == [f"tk_{others + 2:04}"]
    [event] = world.events.of(EventType.KEY_DELETED)
    assert (event.fields["reason"], event.fields["by"], event.fields["comment"]) == (UNPUBLISHED, "tester", "why not")
    assert world.broken == []


@pytest.mark.parametrize("error", [ProviderUnavailable("nothing was sent"), ProviderCredentialRefused("a list, too")])
def test_a_key_that_was_certainly_not_made_is_not_looked_for(error: Exception) -> None:
    world = World()
    world.at("provider.create", refuse(error))
    assert world.reconciler().reconcile(world.target).error is error
    assert not strays_of(world).due
    world.remove_strays()
    assert world.calls("provider.page") == []


def test_one_list_looks_for_all_names_and_no_further_than_to_the_last_of_them() -> None:
    world = World(*(make_target(f"target-{number}") for number in range(8)))
    made_in_vain(world, 8)
    for number in range(40):
        world.vendor.issue(f"made by hand {number}", world.clock.now() + HOUR)
    world.remove_strays()
    assert [key.revoked for key in world.vendor.keys.values()] == [*[True] * 8, *[False] * 40]
    assert world.calls("provider.") == [*["provider.create"] * 8, *["provider.page"] * 4, *["provider.delete"] * 8]
    assert not strays_of(world).waiting
    assert len(world.calls("budget.take")) == len(world.calls("provider."))


def test_a_name_that_comes_while_a_list_is_read_is_looked_for_by_the_next_one() -> None:
    world = World(make_target("alpha"), make_target("beta"))
    a = made_in_vain(world)
    for number in range(4):
        world.vendor.issue(f"made by hand {number}", world.clock.now() + HOUR)
    strays = strays_of(world)
    first, beta = list(strays.waiting), world.targets[1]
    del world.vendor.keys[next(iter(world.vendor.keys))]
    world.at("provider.create", refuse(unknown("provider.create")))
    world.at("provider.page", meanwhile(lambda: a.reconcile(beta)))
    strays.remove()
    [name] = strays.waiting
    assert name not in first
    strays.remove()
    assert not strays.waiting


def test_a_create_that_was_not_done_leaves_nothing_to_remove() -> None:
    world = World()
    world.at("provider.create", refuse(unknown("provider.create")))
    a = world.reconciler()
    assert isinstance(a.reconcile(world.target).error, ProviderOutcomeUnknown)
    world.remove_strays(at_last=True)
    assert (world.calls("provider.delete"), left_behind(world)) == ([], [])
    assert not strays_of(world).waiting
    assert a.reconcile(world.target).rotated


@pytest.mark.parametrize("error", refusals("provider.page"), ids=lambda error: type(error).__name__)
def test_a_name_waits_for_a_list_that_works(error: Exception) -> None:
    world = World()
    made_in_vain(world)
    strays = strays_of(world)
    world.at("provider.page", refuse(error))
    assert strays.due
    strays.remove()
    assert (strays.due, left_behind(world)) == (False, [])
    world.clock.advance(timedelta(seconds=RETRY))
    assert strays.due
    strays.remove()
    assert world.vendor.living() == []
    assert not strays.waiting


@pytest.mark.parametrize("how", ["at last", "after long"])
def test_a_stray_that_cannot_be_looked_for_is_reported(how: str) -> None:
    world = World()
    made_in_vain(world)
    [stray] = world.vendor.living()
    world.at("provider.page", refuse(ProviderUnavailable("down")), times=inf)
    if how == "after long":
        world.remove_strays()
        assert left_behind(world) == []
        world.clock.advance(timedelta(seconds=PATIENCE + 1))
    world.remove_strays(at_last=how == "at last")
    assert left_behind(world) == [stray.name]
    assert not strays_of(world).waiting


def test_strays_found_before_a_list_failed_are_removed() -> None:
    world = World(make_target("alpha"), make_target("beta"))
    a = made_in_vain(world)
    world.vendor.issue("made by hand", None)
    world.at("provider.create", lost(unknown("provider.create")))
    a.reconcile(world.targets[1])
    world.at(lambda call: call.operation == "provider.page" and "provider.page" in world.calls()[:-1], refuse_last)
    world.remove_strays()
    assert [key.revoked for key in world.vendor.keys.values()] == [True, False, False]
    assert len(strays_of(world).waiting) == 1


def refuse_last(call: Call) -> None:
    raise ProviderUnavailable("the second page")


def test_a_known_refusal_of_the_organisation_key_costs_no_list() -> None:
    world = World()
    made_in_vain(world)
    world.vendor.refusal = ProviderCredentialRefused("401")
    world.remove_strays()
    assert world.calls("provider.page") == []
    assert strays_of(world).waiting


def test_a_key_that_the_provider_shows_late_is_looked_for_at_once_and_when_it_is_shown() -> None:
    world = World()
    ports = world.ports("a")
    strays = StrayKeys(ports.provider, ports.budget, world.clock, world.events.append, {}, timedelta(minutes=5))
    world.vendor.shown_after = 250.0
    key = world.vendor.issue("a", None)
    strays.look_for(world.target, "a", FORCED)
    strays.remove()
    world.clock.advance(timedelta(seconds=299))
    assert (strays.due, key.revoked) == (False, False)
    world.clock.advance(timedelta(seconds=1))
    assert strays.due
    strays.remove()
    assert (key.revoked, strays.waiting) == (True, {})


def test_a_new_key_that_lost_and_is_not_shown_yet_is_removed_when_it_is() -> None:
    world = World()
    a, b = world.reconciler(), world.reconciler("b")
    world.at(
        lambda call: (call.operation, call.actor) == ("store.write", "a"), meanwhile(lambda: b.reconcile(world.target))
    )
    world.vendor.shown_after = 20.0
    a.reconcile(world.target)
    assert len(world.vendor.living()) == 2
    world.clock.advance(timedelta(seconds=20))
    world.remove_strays()
    assert world.vendor.living() == [world.served()]


def test_lists_are_some_time_apart() -> None:
    world = World(make_target("alpha"), make_target("beta"))
    a = made_in_vain(world)
    strays = strays_of(world)
    strays.remove()
    world.at("provider.create", lost(unknown("provider.create")))
    a.reconcile(world.targets[1])
    assert (bool(strays.waiting), strays.due) == (True, False)
    world.clock.advance(timedelta(seconds=REST))
    assert strays.due


@pytest.mark.parametrize("with_id", [True, False])
def test_a_stray_that_cannot_be_read_is_removed_by_its_id_or_reported(with_id: bool) -> None:
    world = World()
    made_in_vain(world)
    [stray] = world.vendor.living()
    world.vendor.unreadable[stray.id] = UnreadableKey(stray.id if with_id else "", stray.name, "whose id is 5")
    world.remove_strays()
    assert stray.revoked is with_id
    assert left_behind(world) == [stray.name][with_id:]


def test_a_stray_that_cannot_be_deleted_is_reported() -> None:
    world = World()
    made_in_vain(world)
    world.at("provider.delete", refuse(ProviderRequestRefused("no right to delete")))
    world.remove_strays()
    assert left_behind(world) == [key.name for key in world.vendor.living()]
    assert not strays_of(world).waiting


def test_a_served_key_is_not_removed_though_the_list_shows_the_name_at_it() -> None:
    """As with a provider that answers a create by renaming the key that exists."""
    world = World()
    a = world.reconciler()
    assert a.reconcile(world.target).rotated
    served = world.served()
    assert served

    def renamed(call: Call) -> CreatedKey:
        served.name = call.subject
        created: CreatedKey = a_view(served)
        return created

    world.at("provider.create", renamed)
    assert isinstance(a.reconcile(world.target, FORCED).error, ProviderOutcomeUnknown)
    world.remove_strays()
    assert world.vendor.alive(served)
    assert left_behind(world) == [served.name]


def a_view(key: IssuedKey) -> CreatedKey:
    return CreatedKey(key.id, key.name, Secret(key.text), key.expires_at)


@pytest.mark.parametrize("act", ["lost", "another"])
def test_a_key_that_lost_is_deleted_only_if_it_is_shown_to_be_that_key(act: str) -> None:
    """Another replica was first; and the create was answered with the id of the key that it has published."""
    world = World()
    a, b = world.reconciler(), world.reconciler("b")
    assert a.reconcile(world.target).rotated
    elsewhere: Callable[[], object] = lambda: b.reconcile(world.target, FORCED)  # noqa: E731

    def created(call: Call) -> CreatedKey:
        answer: CreatedKey = call.effect()
        elsewhere()
        served = world.served()
        assert served
        return answer if act == "lost" else CreatedKey(served.id, answer.name, answer.secret, answer.expires_at)

    world.at(lambda call: (call.operation, call.actor) == ("provider.create", "a"), created)
    a.reconcile(world.target, FORCED)
    assert world.events.of(EventType.PUBLISH_CONFLICT)
    world.remove_strays()
    served = world.served()
    assert served
    assert world.vendor.alive(served)
    assert [key.revoked for key in world.vendor.keys.values()] == [False, True, False]
    assert served.expires_at == START + 24 * HOUR
    assert world.broken == []
