"""Fixtures that several tests on real servers share."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import stamina
import support.kube as kubes
from support.canned import Asked, Reply, canned
from support.installation import Daemon, Installation, installation
from support.kube import KubeServer, OwnKubeServer
from support.process import wait_until
from support.vaultstore import OpenStore, opened_stores

from rotator.core.versions import Record
from rotator.runtime.clock import SystemClock
from rotator.simulator import Fault
from rotator.stores.sqlite import SqliteStore

SCRIPT = "<script>alert('\u202egnp.exe')</script>"


@pytest.fixture
def open_store() -> Iterator[OpenStore]:
    """Return a function that makes a `VaultStore` of an address, a mount and a login."""
    with opened_stores() as open_store:
        yield open_store


@pytest.fixture
def no_waiting() -> Iterator[None]:
    """Retries come at once, and as many as usual."""
    with stamina.set_testing(True, attempts=3):
        yield


@pytest.fixture(scope="session")
def own_kube() -> Iterator[OwnKubeServer]:
    """A real kube-apiserver, shared by all tests, that may be stopped and frozen: leave it running."""
    if not kubes.find_programs():
        pytest.skip(kubes.NO_KUBE)
    with kubes.own_kube() as server:
        yield server


@pytest.fixture(scope="session")
def kube(request: pytest.FixtureRequest) -> Iterator[KubeServer]:
    """A real kube-apiserver, shared by all tests: take a namespace of your own from it."""
    if running := kubes.running_kube():
        with running:
            yield running
    else:
        own: OwnKubeServer = request.getfixturevalue("own_kube")
        yield own


@pytest.fixture(scope="session")
def cluster(kube: KubeServer) -> KubeServer:
    """Return the apiserver with all that the chart may ask of one."""
    kube.install_crds()
    sandboxed = {"metadata": {"name": "sandboxed"}, "handler": "runsc"}  # of values-everything.yaml
    kube.request("POST", "/apis/node.k8s.io/v1/runtimeclasses", sandboxed)
    return kube


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[tuple[Installation, Daemon]]:
    """Yield a daemon with a target in every lasting state, one of them with a hostile provider."""

    def answer(asked: Asked) -> Reply:
        return Reply(422, {"detail": f"{SCRIPT} {asked.headers.get('authorization', '')}"})

    names = ("fresh", "rotated", "failing", "foreign", "hostile")
    with canned(answer) as vendor, installation(tmp_path, targets=names) as rotator:
        rotator.config["defaults"]["grace_period"] = "10m"
        rotator.config["providers"]["ill"] = {**rotator.config["providers"]["respan"], "base_url": vendor.address}
        for name, target in rotator.config["targets"].items():
            target["provider"] = "ill" if name == "hostile" else "respan"
        by_hand = SqliteStore(tmp_path / "store.db", SystemClock())
        by_hand.write("apps/foreign", {"api_key": "another team's"}, 0)
        rotator.run("rotate", "fresh", "rotated", "failing", status=0)
        rotator.run("rotate", "rotated", status=0)
        served = by_hand.history("apps/fresh").current
        assert served is not None
        assert served.data is not None
        record = Record.parse(served.data["rotator"])
        assert record is not None
        lines = str(served.data["rotator"]).replace(record.key_id, f"tk%3Cb%3E{SCRIPT.encode().hex()}%E2%80%AE")
        by_hand.write("apps/hostile", {**served.data, "rotator": lines.replace("target=fresh", "target=hostile")}, 0)
        # Drifted, so due at once, and always refused.
        for name in ("failing", "hostile"):
            rotator.config["targets"][name]["ttl"] = "2h"
        rotator.config["daemon"]["rollout"] = "1s"
        rotator.simulator.faults.add(Fault("refuse", "create", name=".failing.", status=422, times=None))
        daemon = rotator.start()
        for name in ("failing", "hostile"):
            daemon.wait_for("target_failed", target=name)
        daemon.wait_for("target_foreign", target="foreign")
        wait_until(lambda: daemon.metric('rotator_targets{state="ok"}') == 2, "two targets to be well")
        yield rotator, daemon
        assert daemon.stop() == 0
