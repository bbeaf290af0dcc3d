"""The witness of the other tests sees every broken promise."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import pytest
from support.installation import Installation, VaultPaths
from support.leaks import RECORDER
from support.process import wait_until
from support.vault import VaultServer
from support.witness import Witness

from rotator.simulator import Options, Simulator
from rotator.simulator.vendor import Vendor, timestamp

GRACE = 3


class Watched(NamedTuple):
    """A target with two keys, of which one is in its grace, and its witness."""

    witness: Witness
    vendor: Vendor
    superseded: str
    current: str

    def sees(self, words: str) -> None:
        wait_until(lambda: any(words in line for line in self.witness.broken), words, 5)


@pytest.fixture
def watched(vault: VaultServer, tmp_path: Path) -> Iterator[Watched]:
    paths = VaultPaths(vault, vault.new_mount())
    with Simulator(options=Options(requests_per_minute=None)) as simulator:
        RECORDER.add_simulator(simulator)
        store = {"type": "vault", "address": vault.address, "mount": paths.mount}
        rotator = Installation(tmp_path, simulator, store, ("a",))
        rotator.environment["VAULT_TOKEN"] = paths.token()
        rotator.config["defaults"] |= {"grace_period": f"{GRACE}s"}
        served = {"a": "apps/a"}
        with Witness(vault, paths.mount, served, simulator, ttl=3600, grace=GRACE, in_flight=0.5) as witness:
            for number in (1, 2):
                rotator.run("rotate", "a", status=0)
                wait_until(lambda: len(witness.paths["a"].versions) == number, "the version to be seen")  # noqa: B023
            assert witness.broken == []
            assert witness.leftovers() == []
            first, second = simulator.vendor.keys
            yield Watched(witness, simulator.vendor, first, second)


def test_a_served_key_that_is_removed(watched: Watched) -> None:
    watched.vendor.delete(watched.current)
    watched.sees(f"a: 401 for key {watched.current}")
    watched.sees(f"a: key {watched.current}")


def test_a_superseded_key_that_is_removed_in_its_grace(watched: Watched) -> None:
    watched.vendor.delete(watched.superseded)
    watched.sees("is revoked")


def test_a_superseded_key_that_will_end_too_early(watched: Watched) -> None:
    soon = timestamp(datetime.now(UTC) + timedelta(seconds=0.5))
    watched.vendor.update(watched.superseded, {"expiry_date": soon})
    watched.sees("is shortened")


def test_a_key_that_lives_too_long(watched: Watched) -> None:
    late = timestamp(datetime.now(UTC) + timedelta(days=2))
    watched.vendor.update(watched.current, {"expiry_date": late})
    watched.sees("lives longer than its ttl")


def test_keys_that_are_left_over(watched: Watched) -> None:
    late = timestamp(datetime.now(UTC) + timedelta(hours=1))
    watched.vendor.create({"name": "orphan", "expiry_date": late})
    watched.vendor.update(watched.superseded, {"expiry_date": late})
    assert ["orphan" in line for line in watched.witness.leftovers()] == [True]
    time.sleep(GRACE + 1)
    assert len(watched.witness.leftovers()) == 2
    with pytest.raises(TimeoutError) as raised:
        watched.witness.wait_for_no_leftovers(0.1)
    assert "orphan" in raised.value.__notes__[0]
