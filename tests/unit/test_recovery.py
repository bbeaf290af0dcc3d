"""After an outage: each down upstream is tried at least every 30 seconds, and waiting targets follow in turn."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import stamina
from support.assembly import assemble, respan
from support.canned import Asked, Canned, Reply, canned
from support.process import wait_until
from support.recorded_events import RecordedEvents
from support.vaultstore import empty

from rotator.core.events import EventType
from rotator.daemon.dispatcher import Dispatcher
from rotator.daemon.main import ASK_THE_DOWN
from rotator.runtime.clock import SystemClock
from rotator.telemetry.metrics import Metrics

SEALED = Reply(503, {"errors": ["Vault is sealed"]})
LOCKED_OUT = Reply(401, {"detail": "invalid"})
BOUND = 30.0
TARGETS = 12
PER_MINUTE = 61  # requests: one rotation every three seconds


class MovedClock(SystemClock):
    """A clock that a test moves."""

    passed = 0.0

    def monotonic(self) -> float:
        return 1000 + self.passed

    def _wall(self) -> datetime:
        return datetime(2030, 1, 1, tzinfo=UTC) + timedelta(seconds=self.passed)

    def sleep(self, seconds: float) -> None:
        self.passed += seconds


class Story:
    """A daemon's dispatcher and its jobs, with a Vault and a provider that may be down."""

    def __init__(self, vault: Canned, vendor: Canned, folder: Path) -> None:
        self.vault, self.vendor = vault, vendor
        (folder / "key").write_text("sk_live_made_up")
        settings = {
            "providers": {"respan": respan(vendor.address, requests_per_minute=PER_MINUTE)},
            "stores": {"vault": {"type": "vault", "address": vault.address, "mount": "kv"}},
            "targets": {f"t{number}": {"path": f"apps/{number}"} for number in range(TARGETS)},
        }
        self.clock, self.events = MovedClock(), RecordedEvents()
        environment = {"VAULT_TOKEN": "hvs.made-up"}
        self.installation = assemble(
            folder, settings, self.clock, Metrics("0"), self.events.append, environment=environment
        )
        self.dispatcher = Dispatcher(self.installation, Metrics("0"), self.events.append)

    def run(self, seconds: float, until: Callable[[], bool] = lambda: False) -> float:
        """Run the daemon's jobs for that time. Return after how many seconds `until` became true."""
        began = self.clock.passed
        while self.clock.passed - began < seconds and not until():
            if self.clock.passed % ASK_THE_DOWN == 0:
                self.dispatcher.ask_the_down()
            self.dispatcher.watch()
            self.dispatcher.tick()
            if self.dispatcher.under_way:
                wait_until(lambda: not self.dispatcher.under_way, "the passes to end")
            self.clock.passed += 1
        return self.clock.passed - began

    def failing(self) -> int:
        return sum(status.error is not None for status in self.dispatcher.statuses.snapshot())


@pytest.fixture
def story(tmp_path: Path) -> Iterator[Story]:
    def vendor(asked: Asked) -> Reply:
        return Reply(200, []) if asked.method == "GET" else Reply(422, {"detail": "no"})

    with stamina.set_testing(True, attempts=3), canned(unsealed) as vault, canned(vendor) as served:
        made = Story(vault, served, tmp_path)
        yield made
        made.dispatcher.end()
        made.installation.close()


def unsealed(asked: Asked) -> Reply:
    """An empty mount, to which nothing may be written."""
    if asked.path.endswith("sys/health"):
        return Reply(200, {"cluster_id": "c", "standby": False})
    mismatch = Reply(400, {"errors": ["check-and-set parameter did not match the current version"]})
    return mismatch if asked.method == "POST" else empty(asked)


def answering(reply: Reply) -> Callable[[Asked], Reply]:
    return lambda _: reply


@pytest.mark.parametrize("lasts", [20, 100, 900])
def test_a_vault_that_is_unsealed_is_used_within_30_seconds(story: Story, lasts: int) -> None:
    story.vault.answer = answering(SEALED)
    story.run(lasts)
    assert story.failing() == TARGETS
    assert len(story.events.of(EventType.UPSTREAM_DOWN)) == 1

    story.vault.answer = unsealed
    assert story.run(600, lambda: bool(story.events.of(EventType.UPSTREAM_UP))) <= BOUND + 1
    # The paths are empty, and so each wants a key, which the provider refuses.
    first = story.run(600, lambda: bool(story.vendor.paths("POST")))
    assert first <= 2


def test_a_sealed_vault_gets_few_requests(story: Story) -> None:
    story.vault.answer = answering(SEALED)
    story.run(300)
    story.vault.asked.clear()
    story.run(600)
    assert 600 / BOUND <= len(story.vault.asked) <= 2 * 600 / 20


def test_waiting_targets_follow_in_turn(story: Story) -> None:
    story.vault.answer = answering(SEALED)
    story.run(1800)
    story.vault.answer = unsealed
    story.run(600, lambda: bool(story.events.of(EventType.UPSTREAM_UP)))
    seen: list[int] = []
    for _ in range(40):
        story.run(1)
        seen.append(len({asked.path for asked in story.vault.asked if asked.method == "POST"}))
    assert seen[-1] == TARGETS, "all, long before their own next tries"
    # One every three seconds, and those whose own next try, at a random time, comes first: those may coincide.
    most = max(after - before for before, after in zip([0, *seen], seen, strict=False))
    assert most < TARGETS / 2, "one after the other, and not all at once"


def test_an_organisation_key_that_is_good_again_is_used_within_30_seconds(story: Story) -> None:
    served = story.vendor.answer
    story.vendor.answer = answering(LOCKED_OUT)
    story.run(900)
    assert story.failing() == TARGETS

    story.vendor.answer = served
    assert story.run(600, lambda: bool(story.events.of(EventType.UPSTREAM_UP))) <= BOUND + 1


def test_a_standby_asks_no_provider(story: Story) -> None:
    story.vendor.answer = answering(LOCKED_OUT)
    story.run(60)
    story.vendor.asked.clear()
    story.clock.passed += 600
    story.installation.ask_the_down(providers=False)
    assert story.vendor.asked == []
    story.installation.ask_the_down(providers=True)
    assert len(story.vendor.asked) == 1
