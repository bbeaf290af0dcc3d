"""Consumers that go on with an old key: real processes against a simulated provider that shows the use of its keys."""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest
from support.installation import Daemon, Installation, installation
from support.process import wait_until

GRACE, EXTENSION, IDLE = 8, 20, 16
"""Seconds. An extension may be a quarter of `IDLE` late before the key ends: a busy machine needs that long."""


@contextmanager
def calling(rotator: Installation, text: str) -> Iterator[list[float]]:
    """Call with a key all the time; yield the times (monotonic) of the calls that it answered."""
    answered: list[float] = []
    done = Event()

    def call() -> None:
        while not done.wait(0.2):
            if rotator.simulator.vendor.works(text):
                rotator.simulator.vendor.use(text)
                answered.append(time.monotonic())

    thread = Thread(target=call)
    thread.start()
    try:
        yield answered
    finally:
        done.set()
        thread.join()


def target(daemon: Daemon) -> dict[str, Any]:
    (shown,) = daemon.get("/status.json", admin=True).json()["targets"]
    return dict(shown)


def configured(rotator: Installation) -> None:
    grace = {"grace_period": f"{GRACE}s", "grace_extension": f"{EXTENSION}s", "idle_after": f"{IDLE}s"}
    rotator.config["defaults"] = {"ttl": "1h", "renew_before": "20m", **grace}
    rotator.config["daemon"]["resync"] = "1s"


@pytest.mark.parametrize("restarts", [False, True])
def test_a_used_key_lives_past_its_grace_and_not_past_the_bound(tmp_path: Path, *, restarts: bool) -> None:
    with installation(tmp_path, use_shown="retrieve") as rotator:
        configured(rotator)
        daemon = rotator.start()
        key_id = daemon.wait_for("key_published")["key_id"]
        with calling(rotator, rotator.simulator.vendor.text_of(key_id)) as answered:
            daemon.signal(signal.SIGUSR1)
            daemon.wait_for("key_published", 2)
            replaced_at = time.monotonic()
            extended = daemon.wait_for("key_extended", key_id=key_id)
            assert (extended["reason"], "last_used_at" in extended) == ("in-use", True)
            metric = 'rotator_superseded_keys_in_use{target="a"}'
            wait_until(lambda: daemon.metric(metric) == 1, "the metric to count it")
            of_all = "rotator_earliest_superseded_key_in_use_expiry_timestamp_seconds"
            assert abs((daemon.metric(of_all) or 0) - time.time()) < 60
            if restarts:
                assert daemon.stop() == 0
                daemon = rotator.start()
            wait_until(lambda: any(key["last_used_at"] for key in target(daemon)["superseded"]), "its last use")
            retired = daemon.wait_for("key_retired_in_use", key_id=key_id)
            assert retired["level"] == "warning"
            assert [pickup["key_id"] for pickup in target(daemon)["pickups"]] == [key_id]
        lived = answered[-1] - replaced_at
        assert GRACE + 2 < lived < GRACE + EXTENSION + 2


def test_a_key_that_falls_idle_ends_soon_after(tmp_path: Path) -> None:
    with installation(tmp_path, use_shown="everywhere") as rotator:
        configured(rotator)
        daemon = rotator.start()
        key_id = daemon.wait_for("key_published")["key_id"]
        with calling(rotator, rotator.simulator.vendor.text_of(key_id)) as answered:
            daemon.signal(signal.SIGUSR1)
            daemon.wait_for("key_extended", key_id=key_id)
        daemon.wait_for("key_deleted", key_id=key_id)
        assert time.monotonic() - answered[-1] < IDLE + 3
        assert daemon.events("key_retired_in_use") == []


def test_check_suggests_a_grace_from_the_last_use_of_a_superseded_key(tmp_path: Path) -> None:
    with installation(tmp_path, use_shown="list") as rotator:
        rotator.config["defaults"]["grace_period"] = "10m"
        rotator.run("run", "--once", status=0)
        key_id = rotator.json("status")["targets"][0]["key_id"]
        rotator.run("rotate", "a", status=0)
        assert rotator.json("check", "--online")["pickups"] == []
        time.sleep(1.1)
        rotator.simulator.vendor.use(rotator.simulator.vendor.text_of(key_id))
        [pickup] = rotator.json("check", "--online")["pickups"]
        assert (pickup["target"], pickup["key_id"], pickup["grace_period"]) == ("a", key_id, "10m")
        assert 1 <= pickup["seconds"] < 60
        assert pickup["suggested_grace_period"] == "2h", "no shorter one, of which check would warn"
        assert f"pickup: a: {key_id} was used until" in rotator.run("check", "--online", status=0).stdout
