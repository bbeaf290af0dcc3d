"""A real consumer: Vault Agent renders the served key into a file, and an application calls with it, without pause."""

import re
import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import hvac
from support.agent import Application, vault_agent
from support.installation import Installation, VaultPaths, on_vault
from support.leaks import RECORDER
from support.process import wait_until
from support.vault import RaftVault, VaultServer

from rotator.simulator import Options, Simulator

GRACE = 8
"""Seconds: more than the agent needs to see a new key, even after an outage of Vault and with its own waits."""

READER = """
path "{mount}/data/apps/*" {{ capabilities = ["read"] }}
path "auth/token/lookup-self" {{ capabilities = ["read"] }}
path "auth/token/renew-self" {{ capabilities = ["update"] }}
"""


def test_the_snippet_for_hvac_works_as_documented(vault: VaultServer, tmp_path: Path) -> None:
    document = (Path(__file__).parents[2] / "docs/consumers.md").read_text()
    [snippet] = re.findall(r"^With hvac:\n\n```python\n(.*?)^```$", document, re.MULTILINE | re.DOTALL)
    passed = [0.0]
    names: dict[str, Any] = {"hvac": hvac, "time": SimpleNamespace(monotonic=lambda: passed[0])}
    exec(snippet, names)
    with on_vault(tmp_path, vault) as (rotator, paths):
        rotator.run("rotate", "a", status=0)
        reader = hvac.Client(vault.address, paths.token(READER))
        key = names["RespanKey"](reader, "apps/a", paths.mount)
        works = rotator.simulator.vendor.works
        first = key.get()
        assert works(first)
        rotator.run("rotate", "a", status=0)
        assert key.get() == first, "it is kept for five minutes"
        passed[0] += 301
        second = key.get()
        assert second != first
        assert works(second)
        rotator.run("rotate", "a", "--revoke-now", status=0)
        assert not works(key.get())
        assert works(key.get(refused=True))
        reader.adapter.close()


def test_no_call_is_refused_through_rotations_kills_and_outages(
    raft_vault: Callable[[], RaftVault], tmp_path: Path
) -> None:
    vault = raft_vault()
    RECORDER.add_secret("a Vault root token", vault.root_token)
    paths = VaultPaths(vault, vault.new_mount())
    with Simulator(options=Options(requests_per_minute=None)) as simulator:
        RECORDER.add_simulator(simulator)
        store = {"type": "vault", "address": vault.address, "mount": paths.mount, "timeout": "1s"}
        rotator = Installation(tmp_path, simulator, store, ("a",))
        rotator.environment["VAULT_TOKEN"] = paths.token()
        rotator.config["defaults"] = {"ttl": "60s", "renew_before": "57s", "grace_period": f"{GRACE}s"}
        rotator.config["daemon"] |= {"resync": "2s", "drain": "5s"}
        rotator.config["sweep"] = {"interval": "2s", "min_age": "1s", "max_orphans": 1000}
        (tmp_path / "agent").mkdir()
        try:
            daemons = [rotator.start(), rotator.start()]
            wait_until(lambda: paths.read("apps/a") is not None, "a key to be there")
            with (
                vault_agent(
                    tmp_path / "agent", vault.address, paths.token(READER), f"{paths.mount}/data/apps/a"
                ) as file,
                Application(file, simulator.url) as application,
            ):

                def wait_for_new_keys(count: int = 2) -> None:
                    seen = application.keys
                    wait_until(lambda: application.keys >= seen + count or bool(application.failure), "new keys", 45)

                wait_for_new_keys()
                daemons[0].process.kill()
                daemons[1].signal(signal.SIGUSR1)
                wait_for_new_keys()
                daemons[1].process.kill()  # no daemon is left
                time.sleep(2)
                daemons = [rotator.start(), rotator.start()]
                wait_for_new_keys()
                simulator.stop()
                time.sleep(3)
                simulator.start()
                wait_for_new_keys()
                vault.kill()
                time.sleep(2)
                vault.start()
                vault.unseal()
                wait_for_new_keys()
                assert [daemon.stop() for daemon in daemons] == [0, 0]
        finally:
            rotator.close()
    RECORDER.record("vault agent", (tmp_path / "agent" / "output.log").read_text())

    print(f"{application.statuses} calls, {application.unanswered} unanswered, {application.keys} keys")  # noqa: T201
    assert application.failure is None
    assert application.unanswered > 0
    assert set(application.statuses) == {200}
