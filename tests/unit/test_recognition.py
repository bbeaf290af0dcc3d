"""Served keys that a provider does not know: one is replaced at once, most of them only when a person asks."""

from collections.abc import Iterable
from dataclasses import replace
from math import inf

import pytest
from support.sweeps import sweeper_of
from support.world import (
    HOUR,
    OWNER,
    START,
    MemoryVendor,
    VendorClient,
    World,
    make_target,
    refuse,
    unknown,
)

from rotator.core.errors import ServedKeysUnknown, StoreUnavailable
from rotator.core.events import EventType
from rotator.core.orphans import Outcome
from rotator.core.reasons import Reason, State
from rotator.core.request import RotationRequest
from rotator.core.target import Target
from rotator.protocol.recognition import Recognition, is_most
from rotator.protocol.reconciler import Reconciler
from rotator.protocol.sweeper import SweepReport


def running(targets: int = 20) -> tuple[World, Reconciler]:
    """A world whose targets all have a key."""
    world = World(*(make_target(f"t{number:02}") for number in range(targets)))
    reconciler = world.reconciler()
    for target in world.targets:
        assert reconciler.reconcile(target).rotated
    return world, reconciler


def sweep(world: World, reconciler: Reconciler) -> SweepReport:
    return sweeper_of(reconciler, world.targets).sweep()


def work(reconciler: Reconciler, targets: Iterable[Target], request: RotationRequest | None = None) -> list[str]:
    """Make one pass over each target; return the names of those that got a new key."""
    reports = [reconciler.reconcile(target, request or RotationRequest()) for target in targets]
    return [report.target.name for report in reports if report.rotated]


def in_another_organisation(world: World) -> Reconciler:
    """A process with another organisation's management credential, which lists none of our keys."""
    other = MemoryVendor(world.clock)
    for number in range(21):  # its ids are counted as well: no live key there has the id of ours
        key = other.issue("another team's", START + 1000 * HOUR)
        if number < 20:
            other.revoke(key.id)
    observer = world.reconciler().observer
    observer.ports = replace(observer.ports, provider=VendorClient(other, world.wire, "a"))
    return Reconciler(observer)


class Blind:
    """For as long as it is on, the list is empty, and each key is unknown."""

    def __init__(self, world: World) -> None:
        self.on = True
        world.at(lambda call: self.on and call.operation == "provider.page", lambda _: (), times=inf)
        world.at(lambda call: self.on and call.operation == "provider.retrieve", lambda _: None, times=inf)


def test_with_another_organisations_credential_no_key_is_replaced() -> None:
    world, _ = running()
    reconciler = in_another_organisation(world)
    before = {target.name: world.served(target) for target in world.targets}
    since = len(world.wire.journal)
    for _ in range(3):
        swept = sweep(world, reconciler)
        assert isinstance(swept.error, ServedKeysUnknown)
        assert "20 of 20" in swept.error.message
        assert "rotator rotate --all" in swept.error.advice
        assert (swept.to_work, swept.unknown) == ((), world.targets)
        assert work(reconciler, world.targets) == []
    assert {target.name: world.served(target) for target in world.targets} == before
    assert world.calls("provider.retrieve", since) == ["provider.retrieve"] * 9, "a sample is enough"


def test_a_list_that_was_empty_for_a_while_replaces_nothing_then_or_later() -> None:
    world, reconciler = running()
    before = len(world.vendor.keys)
    blind = Blind(world)
    for _ in range(3):
        assert isinstance(sweep(world, reconciler).error, ServedKeysUnknown)
        assert work(reconciler, world.targets) == []
    blind.on = False
    for _ in range(2):
        swept = sweep(world, reconciler)
        assert (swept.error, swept.to_work, swept.unknown) == (None, (), ())
        assert work(reconciler, world.targets) == []
    assert len(world.vendor.keys) == before, "answers from that time do not count afterwards"


@pytest.mark.parametrize(
    ("unknown", "served", "held"),
    [
        (0, 0, False),
        (1, 1, False),
        (1, 2, False),
        (2, 2, True),
        (1, 3, False),
        (2, 3, True),
        (2, 4, False),
        (3, 4, True),
        (10, 20, False),
        (11, 20, True),
    ],
)
def test_a_few_deleted_keys_are_replaced_and_most_are_not(unknown: int, served: int, held: bool) -> None:
    assert is_most(unknown, served) is held
    if not served:
        return
    world, reconciler = running(served)
    gone = [key.id for target in world.targets[:unknown] if (key := world.served(target))]
    for key_id in gone:
        world.vendor.revoke(key_id)
    swept = sweep(world, reconciler)
    names = [target.name for target in world.targets[:unknown]]
    assert [target.name for target in swept.to_work] == ([] if held else names)
    assert isinstance(swept.error, ServedKeysUnknown) is held
    assert work(reconciler, world.targets) == ([] if held else names)
    assert sweep(world, reconciler).error is None or held
    assert not world.broken


def test_a_person_can_have_all_keys_replaced() -> None:
    world, reconciler = running()
    for key in [*world.vendor.keys.values()]:
        world.vendor.revoke(key.id)
    sweep(world, reconciler)
    report = reconciler.reconcile(world.targets[0], RotationRequest(rotate=True, by="command"))
    assert (report.rotated, report.attempted) == (True, Reason.REQUESTED)
    assert isinstance(sweep(world, reconciler).error, ServedKeysUnknown), "19 of 20 still are"
    assert len(work(reconciler, world.targets, RotationRequest(rotate=True, by="command"))) == 20
    swept = sweep(world, reconciler)
    assert (swept.error, swept.to_work) == (None, ())


def test_until_a_person_decides_a_target_fails_with_the_reason_and_its_key_is_renewed_when_due() -> None:
    world, reconciler = running()
    Blind(world)
    sweep(world, reconciler)
    report = reconciler.reconcile(world.target)
    assert report.plan
    assert (report.plan.state, report.plan.reason, report.plan.actions) == (State.FAILING, Reason.UNRECOGNISED, ())
    world.clock.advance(17 * HOUR)
    assert len(work(reconciler, world.targets)) == 20, "else the applications would be without a key"
    assert {event.fields["reason"] for event in world.events.of(EventType.KEY_PUBLISHED)[20:]} == {Reason.EXPIRING}


def fenced(world: World) -> None:
    """Each path repeats its data, so that a restarted process looks each key up."""
    for target in world.targets:
        world.store.patch(target.path)


def test_without_a_sweep_a_pass_is_believed_once() -> None:
    """As in `rotator run --once`, which has no list to compare with."""
    world, _ = running(5)
    fenced(world)
    Blind(world)
    reconciler = world.reconciler("other")
    assert work(reconciler, world.targets) == ["t00"]
    assert work(reconciler, world.targets[1:]) == []
    assert isinstance(sweep(world, reconciler).error, ServedKeysUnknown)
    assert work(reconciler, world.targets[1:]) == []


def test_a_restored_snapshot_is_repaired_because_the_provider_knows_the_paths() -> None:
    world, reconciler = running(6)
    assert len(work(reconciler, world.targets, RotationRequest(rotate=True))) == 6
    for target in world.targets:
        assert world.store.rollback(target.path, 1)
    for number in range(1, 7):
        world.vendor.revoke(f"tk_{number:04}")
    swept = sweep(world, world.reconciler("other"))
    assert (swept.error, swept.to_work) == (None, world.targets)


def test_while_most_are_unknown_no_orphan_is_ended() -> None:
    world, reconciler = running(4)
    lonely = world.vendor.issue(
        f"{OWNER}.t00.{reconciler.observer.scope(world.target).place}.1.aaaaaaaa", START + 24 * HOUR
    )
    world.clock.advance(HOUR)
    sweeper = sweeper_of(reconciler, world.targets)
    sweeper.sweep(dry_run=True)
    world.clock.advance(HOUR)
    for target in world.targets:
        if key := world.served(target):
            world.vendor.revoke(key.id)
    swept = sweeper.sweep()
    assert isinstance(swept.error, ServedKeysUnknown)
    assert [(orphan.key, orphan.outcome) for orphan in swept.orphans] == [(lonely.seen(), Outcome.HELD)]
    assert world.vendor.alive(lonely)


def test_a_comparison_that_is_not_complete_decides_nothing_about_the_rest() -> None:
    world, reconciler = running(4)
    Blind(world)
    assert isinstance(sweep(world, reconciler).error, ServedKeysUnknown)
    broken = refuse(StoreUnavailable("no answer"))
    world.at(lambda call: call.operation == "store.history" and "t03" not in call.subject, broken, times=inf)
    swept = sweep(world, reconciler)
    assert set(swept.failed) == {"t00", "t01", "t02"}
    assert swept.to_work == ()
    assert work(reconciler, world.targets[3:]) == []


@pytest.mark.parametrize("answer", ["ended", "refused"])
def test_other_answers_about_all_keys(answer: str) -> None:
    """An expiry in the past counts as gone. A refusal proves nothing, and is reported."""
    world, reconciler = running(4)
    sweep(world, reconciler)
    if answer == "ended":
        for key in world.vendor.keys.values():
            key.expires_at = world.clock.now() - HOUR
        assert isinstance(sweep(world, reconciler).error, ServedKeysUnknown)
    else:
        world.at("provider.page", lambda _: (), times=inf)
        world.at("provider.retrieve", refuse(unknown("provider.create")), times=inf)
        assert len(sweep(world, reconciler).failed) == 4
    assert work(reconciler, world.targets) == []


def test_a_key_is_looked_up_before_it_counts_as_unknown() -> None:
    world, reconciler = running(4)
    world.at("provider.page", lambda _: (), times=inf)
    swept = sweep(world, reconciler)
    assert (swept.error, swept.to_work, swept.unknown) == (None, (), ())


def test_one_that_was_cut_short_and_is_not_listed_is_restored() -> None:
    world, reconciler = running(4)
    world.at("provider.page", lambda _: (), times=inf)
    key = world.served()
    assert key
    key.expires_at = world.clock.now() + HOUR
    assert sweep(world, reconciler).to_work == (world.target,)
    reconciler.reconcile(world.target)
    assert key.expires_at == key.granted


def test_what_was_decided_holds_until_the_next_comparison() -> None:
    recognition = Recognition()
    assert recognition.believes("a")
    assert recognition.believes("a")
    assert not recognition.believes("b")
    assert recognition.compared((), ("a", "b"), 3, complete=True)
    assert not recognition.believes("a")
    assert recognition.compared(("c",), ("a",), 3, complete=False)
    assert recognition.believes("c")
    assert not recognition.believes("a")
    assert not recognition.compared((), ("a",), 3, complete=True)
    assert recognition.believes("a")
    assert not recognition.believes("d")
    assert not recognition.compared((), (), 3, complete=True)
    assert recognition.believes("d")


def test_a_list_from_before_the_credential_changed_proves_nothing_of_the_keys_that_it_lacks() -> None:
    """Found by the simulation: half of the list was read before the change, and every look-up made after it."""
    world, reconciler = running(4)
    assert len(work(reconciler, world.targets, RotationRequest(rotate=True))) == 4
    before = [key.seen() for key in [*world.vendor.keys.values()][:4]]
    pages = iter([before, ()])
    world.at("provider.page", lambda _: next(pages, ()), times=inf)
    world.at("provider.retrieve", lambda _: None, times=inf)
    assert isinstance(sweep(world, reconciler).error, ServedKeysUnknown)
    assert work(reconciler, world.targets) == []


def test_a_comparison_that_lacks_a_target_counts_what_a_pass_found_gone() -> None:
    """`python -m simulation 65 --profile blind-pauses`."""
    recognition = Recognition()
    assert recognition.believes("a")
    assert recognition.compared((), ("b",), 1, complete=False)
    assert not recognition.believes("b")
    assert not recognition.compared((), ("b",), 2, complete=True)
    assert recognition.believes("b")
    assert not recognition.compared((), ("a",), 30, complete=False)
