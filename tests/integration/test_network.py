"""Slow, cut and half-open connections to Vault and the provider: every wait is bounded, and no thread is stuck.

Every daemon here has two targets, one of them on the other side of a spoilt network: the other one must not notice.
All cases of a test run at once, for they mostly wait.
"""

import re
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
from support.installation import LEAST_RIGHTS, Daemon, Installation, VaultPaths
from support.leaks import RECORDER
from support.process import wait_until
from support.proxy import MODES, Proxy
from support.vault import VaultServer

from rotator.simulator import Options, Simulator

FAULT = 12.0
"""Seconds: longer than the provider's adapter waits for any part of an answer."""

STORE_TIMEOUT = 1.0
DRAIN = 3.0
RECOVERY = 45.0
"""Seconds: after two or three failures the next try is up to twenty seconds away."""

START = 90.0
"""Seconds: all daemons start at once."""

SECONDS = {"delay": 0.4, "drip": 0.2}
"""A delay with which Vault still answers in time; a drip at which the shortest answer takes half a minute."""


@dataclass
class KeyObservation:
    """What was seen of one daemon."""

    broken: list[str] = field(default_factory=list)
    threads: list[int] = field(default_factory=list)


def threads(daemon: Daemon) -> int:
    """How many threads the process has."""
    found = re.search(r"^Threads:\s+(\d+)$", Path(f"/proc/{daemon.process.pid}/status").read_text(), re.MULTILINE)
    assert found
    return int(found[1])


def look(daemon: Daemon, seen: KeyObservation, seconds: float) -> None:
    """Watch a daemon for a while: it must answer, and report that it is healthy."""
    url = daemon.url() + "/healthz"
    until = time.monotonic() + seconds
    with httpx.Client(timeout=2, trust_env=False, verify=False) as client:
        while time.monotonic() < until:
            try:
                status = client.get(url).status_code
            except httpx.TransportError as error:
                seen.broken.append(f"/healthz: {type(error).__name__}")
            else:
                if status != httpx.codes.OK:
                    seen.broken.append(f"/healthz: {status}")
            seen.threads.append(threads(daemon))
            time.sleep(0.2)


def published(daemon: Daemon, target: str) -> int:
    """Return how often the target got a new key."""
    return len(daemon.events("key_published", target=target))


@dataclass
class Scene:
    """A daemon whose target `sick` is behind a proxy, and whose target `well` is not."""

    rotator: Installation
    proxy: Proxy
    paths: VaultPaths

    def play(self, mode: str) -> list[str]:
        """Start, spoil the network, repair it, spoil it again and stop; return what was wrong."""
        seen = KeyObservation()
        daemon = self.rotator.start()
        for target in ("sick", "well"):
            wait_until(lambda: published(daemon, target) >= 2, f"{target} to be kept", START)  # noqa: B023
        look(daemon, seen, 3)
        usual = max(seen.threads)

        self.proxy.seconds = SECONDS.get(mode, 0)
        self.proxy.mode = mode
        before = published(daemon, "well")
        look(daemon, seen, FAULT)
        if published(daemon, "well") - before < FAULT / 5:  # it is due every three seconds
            seen.broken.append(f"the other target got {published(daemon, 'well') - before} keys in {FAULT} s")

        self.proxy.mode = "pass"
        repaired_at = datetime.now(UTC).isoformat()
        try:
            wait_until(
                lambda: any(e["timestamp"] > repaired_at for e in daemon.events("key_published", target="sick")),
                "the target to recover",
                RECOVERY,
            )
        except TimeoutError as error:
            seen.broken += [str(error), *map(str, daemon.events())]
        look(daemon, seen, 2)
        # What is under way at a time may differ, but nothing is left behind by each call that failed.
        if max(seen.threads) > usual + self.rotator.config["daemon"]["workers"]:
            seen.broken.append(f"threads: {seen.threads}")

        self.proxy.mode = mode
        daemon.signal(signal.SIGUSR1)
        time.sleep(0.5)
        asked_at = time.monotonic()
        status = daemon.stop()
        if status not in (0, 1) or time.monotonic() - asked_at > DRAIN + 2:
            seen.broken.append(f"asked to end, it ended with {status} after {time.monotonic() - asked_at:.1f} s")
        if daemon.events("unexpected_error"):
            seen.broken += [str(event) for event in daemon.events("unexpected_error")]
        return seen.broken


@contextmanager
def scene(folder: Path, vault: VaultServer, side: str) -> Iterator[Scene]:
    """An installation with two providers and two stores, of which one `side` is behind a proxy for the sick target."""
    paths = VaultPaths(vault, vault.new_mount())
    options = Options(requests_per_minute=None)
    with (
        Simulator(options=options) as simulator,
        Simulator(options=options, organisation_key=simulator.organisation_key) as other,
        Proxy(vault.address if side == "store" else other.url) as proxy,
    ):
        RECORDER.add_simulator(simulator)
        RECORDER.add_simulator(other)
        store = {"type": "vault", "address": vault.address, "mount": paths.mount, "timeout": f"{STORE_TIMEOUT:g}s"}
        rotator = Installation(folder, simulator, store, ("sick", "well"))
        rotator.environment["VAULT_TOKEN"] = paths.token()
        config = rotator.config
        config["providers"]["proxied"] = config["providers"]["respan"] | {"base_url": proxy.url}
        config["stores"]["proxied"] = store | {"address": proxy.url}
        config["targets"]["well"] |= {"provider": "respan", "store": "store"}
        config["targets"]["sick"] |= {"provider": "respan", "store": "store"} | {side: "proxied"}
        config["defaults"] = {"ttl": "60s", "renew_before": "57s", "grace_period": "1s"}
        config["daemon"] |= {"workers": 4, "drain": f"{DRAIN:g}s", "resync": "5s"}
        try:
            yield Scene(rotator, proxy, paths)
        finally:
            rotator.close()


CASES = [(side, mode) for side in ("store", "provider") for mode in MODES]


@pytest.mark.timeout(240)
def test_a_spoilt_network_delays_nothing_else_and_stops_in_time(vault: VaultServer, tmp_path: Path) -> None:
    def play(case: tuple[str, str]) -> list[str]:
        side, mode = case
        folder = tmp_path / f"{side}-{mode}"
        folder.mkdir()
        with scene(folder, vault, side) as made:
            broken = made.play(mode)
        # An exchange may take twice the time of one read of Vault's. The provider's whole call may take longer than the
        # fault lasts: a drip, in which no single read is long, ends when it is repaired. The rest is this machine's.
        longest = 2 * STORE_TIMEOUT + 1 if side == "store" else FAULT + 3 * (mode == "drip")
        if max(made.proxy.waits) > longest:
            broken.append(f"waited {max(made.proxy.waits):.1f} s for an answer")
        return [f"{side}, {mode}: {line}" for line in broken]

    with ThreadPoolExecutor(len(CASES)) as together:
        broken = [line for lines in together.map(play, CASES) for line in lines]
    if broken:
        pytest.fail("\n".join(broken), pytrace=False)


def test_one_of_two_providers_that_hangs_delays_neither_store(vault: VaultServer, tmp_path: Path) -> None:
    """Two providers and two stores are four lanes; the two of the hanging provider have more targets than threads."""
    with scene(tmp_path, vault, "provider") as made:
        config = made.rotator.config
        config["stores"]["other"] = config["stores"]["store"] | {"mount": made.paths.vault.new_mount()}
        other = VaultPaths(vault, config["stores"]["other"]["mount"])
        both = made.paths.vault.policy_token(
            LEAST_RIGHTS.format(mount=made.paths.mount) + LEAST_RIGHTS.format(mount=other.mount)
        )
        RECORDER.add_secret("a Vault token for both mounts", both)
        made.rotator.environment["VAULT_TOKEN"] = both
        targets = config["targets"]
        del config["stores"]["proxied"]
        for name in ("sick", "well"):
            targets[f"{name}-elsewhere"] = targets[name] | {"store": "other"}
        for number in range(6):
            for name in ("sick", "sick-elsewhere"):
                targets[f"{name}-{number}"] = targets[name] | {"path": f"apps/{name}-{number}"}
        daemon = made.rotator.start()
        for target in targets:
            daemon.wait_for("key_published", target=target)
        made.proxy.mode = "hang"
        well = ("well", "well-elsewhere")
        before = {target: published(daemon, target) for target in well}
        seen = KeyObservation()
        look(daemon, seen, 30)
        assert seen.broken == []
        got = {target: published(daemon, target) - before[target] for target in well}
        assert min(got.values()) >= 5, got


def test_a_provider_that_hangs_does_not_take_all_workers(vault: VaultServer, tmp_path: Path) -> None:
    with scene(tmp_path, vault, "provider") as made:
        targets = made.rotator.config["targets"]
        for number in range(8):
            targets[f"sick-{number}"] = targets["sick"] | {"path": f"apps/sick-{number}"}
        daemon = made.rotator.start()
        for target in targets:
            daemon.wait_for("key_published", target=target)
        made.proxy.mode = "hang"
        before = published(daemon, "well")
        seen = KeyObservation()
        look(daemon, seen, 30)
        assert seen.broken == []
        assert published(daemon, "well") - before >= 5
