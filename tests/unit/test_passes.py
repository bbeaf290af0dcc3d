"""A pass over a target, as the daemon and the commands make it: counted, reported, and never the end of the others."""

import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.assembly import assemble, respan
from support.process import wait_until
from support.recorded_events import RecordedEvents

from rotator.app.passes import in_threads, work_on
from rotator.app.wiring import Installation
from rotator.core.errors import (
    ProviderCredentialRefused,
    ProviderRequestRefused,
    RotatorError,
    StoreCredentialRefused,
    StoreOutcomeUnknown,
)
from rotator.core.events import EventType, Level
from rotator.core.request import RotationRequest
from rotator.core.target import Target
from rotator.core.versions import Version
from rotator.daemon.dispatcher import Dispatcher
from rotator.protocol.reconciler import Reconciler, Report
from rotator.runtime.breaker import FIRST_WAIT
from rotator.runtime.clock import SystemClock
from rotator.simulator import Fault, Options, Simulator
from rotator.telemetry.metrics import Metrics


class Rig:
    """An installation on the simulator and a file, whose events are kept."""

    def __init__(self, folder: Path, simulator: Simulator) -> None:
        self.folder, self.simulator = folder, simulator
        self.events = RecordedEvents()
        self.metrics = Metrics("0")
        self.key_file = folder / "key"
        self.key_file.write_text(simulator.organisation_key + "\n")
        self.settings: dict[str, Any] = {
            "providers": {"respan": respan(simulator.url)},
            "targets": {name: {"path": f"apps/{name}"} for name in ("good", "bad", "well")},
        }
        self.installation = self.assemble()

    def assemble(self) -> Installation:
        """Return an installation with the settings as they are now."""
        return assemble(self.folder, self.settings, SystemClock(), self.metrics, self.events.append)

    def target(self, name: str) -> Target:
        return self.installation.targets[name]


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    with Simulator(options=Options(requests_per_minute=None)) as simulator:
        made = Rig(tmp_path, simulator)
        yield made
        made.installation.close()


@pytest.fixture
def _faulty(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bug of rotator at one target."""
    reconcile = Reconciler.reconcile

    def faulty(self: Reconciler, target: Target, *more: object) -> Report:
        if target.name == "bad":
            raise TypeError("a fault")
        return reconcile(self, target, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(Reconciler, "reconcile", faulty)


@pytest.mark.usefixtures("_faulty")
def test_a_fault_of_ours_at_one_target_does_not_hold_up_the_others(rig: Rig) -> None:
    reports = {
        report.target.name: report
        for report in in_threads(
            rig.installation.configuration.daemon.workers,
            rig.installation.targets.values(),
            lambda target: work_on(rig.installation, rig.metrics, target),
        )
    }
    assert reports["good"].rotated
    assert reports["well"].rotated
    assert isinstance(reports["bad"].error, RotatorError)
    (event,) = rig.events.of(EventType.UNEXPECTED_ERROR)
    assert (event.target, event.level) == ("bad", Level.ERROR)
    assert "TypeError" in str(event.fields["traceback"])


@pytest.mark.usefixtures("_faulty")
def test_the_daemon_retries_a_target_after_a_fault(rig: Rig) -> None:
    dispatcher = Dispatcher(rig.installation, rig.metrics, rig.events.append)
    dispatcher.tick()

    def states() -> dict[str, str]:
        return {status.target.name: status.state.value for status in dispatcher.statuses.snapshot()}

    wait_until(lambda: states() == {"good": "ok", "bad": "unknown", "well": "ok"}, "the others' keys")
    assert dispatcher.end()
    (failed,) = rig.events.of(EventType.TARGET_FAILED)
    assert failed.target == "bad"
    assert "retry_at" in failed.fields


@pytest.mark.parametrize("operation", ["create", "update", "delete"])
def test_a_target_that_the_provider_refuses_is_named_and_the_others_are_rotated(rig: Rig, operation: str) -> None:
    """As when its limits are forbidden, or the organisation key has no right to delete."""
    dispatcher = Dispatcher(rig.installation, rig.metrics, rig.events.append)
    rig.simulator.faults.add(Fault("refuse", operation, name=".bad.", status=403, times=None))
    passes = 1 if operation == "create" else 2  # the second one has a key to supersede
    for _ in range(passes):
        reports = {
            report.target.name: report
            for report in in_threads(
                rig.installation.configuration.daemon.workers,
                rig.installation.targets.values(),
                lambda target: work_on(
                    rig.installation, rig.metrics, target, RotationRequest(rotate=True, revoke_now=True)
                ),
            )
        }
    assert isinstance(reports["bad"].error, ProviderRequestRefused)
    assert [name for name, report in reports.items() if report.error] == ["bad"]
    assert reports["good"].rotated
    assert reports["well"].rotated
    assert rig.installation.upstreams()["provider respan"] is None
    dispatcher.watch()
    assert rig.events.of(EventType.UPSTREAM_DOWN) == []


def test_a_pass_is_counted(rig: Rig) -> None:
    work_on(rig.installation, rig.metrics, rig.target("good"))
    work_on(rig.installation, rig.metrics, rig.target("good"))  # nothing to do: nothing to count
    work_on(rig.installation, rig.metrics, rig.target("good"), RotationRequest(rotate=True, revoke_now=True))
    shown = rig.metrics.render().decode()
    assert 'rotator_rotations_total{outcome="success",provider="respan",reason="first"} 1.0' in shown
    assert 'rotator_rotations_total{outcome="success",provider="respan",reason="requested"} 1.0' in shown
    assert 'rotator_retirements_total{outcome="success"} 1.0' in shown


@pytest.mark.parametrize("content", ["", "  \n", None])
def test_the_error_for_a_missing_organisation_key_names_its_file(rig: Rig, content: str | None) -> None:
    if content is None:
        rig.key_file.unlink()
    else:
        rig.key_file.write_text(content)
    report = work_on(rig.installation, rig.metrics, rig.target("good"))
    assert isinstance(report.error, ProviderCredentialRefused)
    assert str(rig.key_file) in report.error.message
    assert "providers.respan.api_key" in report.error.message
    assert rig.simulator.journal == []
    shown = rig.metrics.render().decode()
    assert 'rotator_provider_requests_total{operation="create",outcome="credential",provider="respan"} 1.0' in shown
    assert 'rotator_provider_request_duration_seconds_count{provider="respan"} 0.0' in shown, "nothing was sent"
    assert 'rotator_provider_up{provider="respan"} 0.0' in shown


@pytest.mark.parametrize("content", ["", "a\x00b", None])
def test_a_missing_secret_id_counts_as_a_failed_login(rig: Rig, content: str | None) -> None:
    secret_id = rig.folder / "secret-id"
    if content is not None:
        secret_id.write_text(content)
    auth = {"method": "approle", "role_id": "r", "secret_id_file": "secret-id"}
    rig.settings["stores"] = {"vault": {"type": "vault", "address": "http://127.0.0.1:9", "auth": auth}}
    installation = rig.assemble()
    with pytest.raises(StoreCredentialRefused):
        installation.vaults["vault"].keep_login()
    installation.close()
    shown = rig.metrics.render().decode()
    assert 'rotator_store_requests_total{operation="login",outcome="credential",store="vault"} 1.0' in shown
    assert 'rotator_store_up{store="vault"} 0.0' in shown


def test_a_replaced_organisation_key_is_found_after_a_refusal(rig: Rig) -> None:
    assert work_on(rig.installation, rig.metrics, rig.target("good")).rotated
    rig.simulator.vendor.organisation_keys = {"sk_live_another_one_that_is_made_up"}
    refused = work_on(rig.installation, rig.metrics, rig.target("well"))
    assert isinstance(refused.error, ProviderCredentialRefused)
    rig.key_file.write_text("sk_live_another_one_that_is_made_up")
    rig.installation.clock.sleep(FIRST_WAIT)  # a second: until then nothing is sent
    assert work_on(rig.installation, rig.metrics, rig.target("well")).rotated


def test_a_successor_takes_over_the_budgets_and_observations(rig: Rig) -> None:
    work_on(rig.installation, rig.metrics, rig.target("good"))
    before = rig.installation
    after = Installation(before.configuration, {}, before.clock, rig.metrics, rig.events.append, before)
    after.take_over()
    after.look_again()
    assert after.budgets == before.budgets
    calls = len(rig.simulator.journal)
    work_on(after, rig.metrics, rig.target("good"), RotationRequest(rotate=True))
    # Created and shortened; the old key did not have to be looked up.
    assert [call.operation for call in rig.simulator.journal[calls:]] == ["create", "update"]
    after.close()


def test_a_successor_forgets_observations_of_removed_targets(rig: Rig) -> None:
    before = rig.installation
    for name in ("good", "well"):
        for request in (RotationRequest(rotate=True), RotationRequest(rotate=True)):
            work_on(before, rig.metrics, rig.target(name), request)
    assert before.observer(rig.target("good")).memory.seen.keys() == {"good", "well"}
    configuration = replace(before.configuration, targets={"good": rig.target("good")})
    after = Installation(configuration, {}, before.clock, rig.metrics, rig.events.append, before)
    after.take_over()
    after.look_again()
    assert after.observer(rig.target("good")).memory.seen.keys() == {"good"}
    after.close()


def test_a_successor_writes_the_pending_key(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    def unanswered(path: str, data: object, cas: int) -> Version:
        raise StoreOutcomeUnknown("no answer")

    before = rig.installation
    with monkeypatch.context() as closed:
        closed.setattr("rotator.protocol.publish.WAITS", (0.0,))
        closed.setattr(before.stores["file"], "write", unanswered)
        for name in ("good", "well"):
            assert isinstance(work_on(before, rig.metrics, rig.target(name)).error, StoreOutcomeUnknown)
    good, well = rig.target("good"), rig.target("well")
    configuration = replace(before.configuration, targets={"good": good})
    after = Installation(configuration, {}, before.clock, rig.metrics, rig.events.append, before)
    after.take_over()
    after.look_again()
    assert after.observer(good).memory.pending.keys() == {"good"}, "the other key would be lost"
    assert work_on(after, rig.metrics, good).rotated
    assert [call.operation for call in rig.simulator.journal] == ["create", "create", "retrieve"]
    assert well.name not in after.targets
    after.close()


def test_a_successor_reads_the_organisation_key_again(rig: Rig) -> None:
    work_on(rig.installation, rig.metrics, rig.target("good"))
    rig.simulator.vendor.organisation_keys = {"sk_live_another_one_that_is_made_up"}
    rig.key_file.write_text("sk_live_another_one_that_is_made_up")
    before = rig.installation
    after = Installation(before.configuration, {}, before.clock, rig.metrics, rig.events.append, before)
    after.take_over()
    after.look_again()
    calls = len(rig.simulator.journal)
    assert work_on(after, rig.metrics, rig.target("well")).rotated
    assert [call.status for call in rig.simulator.journal[calls:]] == [201]  # no refusal was needed to find it
    after.close()


def test_the_random_part_of_a_name_is_not_predictable(rig: Rig) -> None:
    ports = rig.installation.observer(rig.target("good")).ports
    assert isinstance(ports.rng, random.SystemRandom)
