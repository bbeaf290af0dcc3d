"""Whatever goes wrong at the vendor, no key and no organisation key stands in metrics, pages, JSON or log.

A real daemon meets every fault that the simulator knows, at every operation, while it is scraped and looked at.
"""

import signal
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from support.canned import Reply, canned
from support.installation import Daemon, Installation, installation
from support.leaks import Recorder, spellings
from support.process import wait_until

from rotator.simulator import Fault
from rotator.simulator.faults import KINDS, LIST_KINDS

OPERATIONS = ("create", "list", "retrieve", "update", "delete")
TARGETS = ("a", "b", "c")
PAGES = (("/metrics", False), ("/readyz", False), ("/", True), ("/status.json", True), ("/?q=a&state=failing", True))


@pytest.fixture
def rotator(tmp_path: Path) -> Iterator[Installation]:
    with installation(tmp_path, targets=TARGETS, page_size=2) as made:
        made.config["defaults"] = {"ttl": "60s", "renew_before": "30s", "grace_period": "1s"}
        made.config["sweep"] = {"every": "1s", "settle": "1s", "max_removals": 1000}
        yield made


def lose_a_key(rotator: Installation) -> None:
    """Leave one at the vendor that no version holds: a sweep looks it up, shortens it, and removes it."""
    vendor = rotator.simulator.vendor
    ours = [key.name for key in list(vendor.keys.values()) if key.name.startswith("prod-eu.")]
    name = ".".join([*ours[0].split(".")[:3], "1", "lonelyaa"])
    vendor.create({"name": name, "expiry_date": (datetime.now(UTC) + timedelta(days=1)).isoformat()})


def look(daemon: Daemon, recorder: Recorder) -> None:
    for page, admin in PAGES:
        recorder.record(page, daemon.get(page, admin=admin).text)


def everything_goes_wrong(rotator: Installation, daemon: Daemon, recorder: Recorder, elsewhere: str) -> set[str]:
    """Each kind of fault once at each operation, all operations of a kind at once. Returns those that never came."""
    faults = rotator.simulator.faults
    missing = set()
    for kind in sorted(KINDS):
        faults.clear()
        for operation in ("list",) if kind in LIST_KINDS else OPERATIONS:
            skip = int(kind == "shift")
            fault = Fault(kind, operation, skip=skip, seconds=0.1, retry_after=1, location=elsewhere, after=1)
            faults.add(fault)
        ends = time.monotonic() + 15
        while waiting := {f"{kind} {rule.operation}" for rule, seen in faults.rules() if seen <= rule.skip}:
            if time.monotonic() > ends:
                missing |= waiting
                break
            lose_a_key(rotator)
            daemon.signal(signal.SIGUSR1)
            look(daemon, recorder)
            time.sleep(0.2)
        faults.release()
    faults.clear()
    return missing


@pytest.mark.timeout(300)
def test_no_key_is_shown_whatever_goes_wrong(rotator: Installation) -> None:
    recorder = Recorder()
    recorder.add_simulator(rotator.simulator)
    daemon = rotator.start("--log-level", "debug")
    for name in TARGETS:
        daemon.wait_for("key_published", target=name)
    with canned(lambda _: Reply(200, {"detail": "somebody else"})) as other:
        assert everything_goes_wrong(rotator, daemon, recorder, other.address) == set()
        assert other.asked == [], "nor is it sent elsewhere"
    daemon.signal(signal.SIGUSR1)
    wait_until(lambda: daemon.metric('rotator_targets{state="ok"}') == len(TARGETS), "all to be well again")
    look(daemon, recorder)
    assert daemon.stop() == 0
    recorder.record("log", rotator.folder.joinpath("stderr.0").read_text())

    keys = rotator.simulator.vendor.keys.values()
    assert len(keys) > 2 * len(KINDS)
    for secret in (next(iter(keys)).text, [*keys][-1].text, rotator.simulator.organisation_key):
        for spelling in spellings(secret):
            planted = Recorder()
            planted.add_simulator(rotator.simulator)
            planted.record("page", recorder.said[-1][1] + spelling)
            assert planted.scan(), "it would be found"
    assert recorder.scan() == []
