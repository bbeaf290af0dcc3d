"""The demo, with even shorter lives: it shows everything once, no call is refused, and nothing is left behind."""

import io
import os
import re
import signal
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from http.client import BadStatusLine, RemoteDisconnected
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from rich.text import Text
from support.installation import PROGRAM
from support.leaks import RECORDER
from support.process import free_ports, wait_until
from support.vault import VaultServer

from rotator import demo
from rotator.cli.status_table import status_table
from rotator.core.errors import StorePermissionDenied, StoreUnavailable
from rotator.simulator import Simulator
from rotator.stores.vault.store import VaultStore

RunDemo = Callable[..., str]

DEMO_RIGHTS = """
path "secret/data/rotator-demo-*"     { capabilities = ["create", "read", "update"] }
path "secret/metadata/rotator-demo-*" { capabilities = ["read", "delete"] }
path "secret/destroy/rotator-demo-*"  { capabilities = ["update"] }
"""
SEEN = (
    "key created tk_",
    "key published tk_",
    "(expiring)",
    "(nearly-spent)",
    "key shortened",
    "versions destroyed",
    "key deleted",
)


@pytest.fixture(autouse=True)
def _hasty(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Renewed every two seconds; a slow machine has eight more before a key has no longer to live than its grace.

    A key with a cap is nearly spent after two seconds, at ten calls a second, and spent after ten.
    """
    monkeypatch.setattr(demo, "LIVES", {"ttl": "12s", "renew_before": "10s", "grace_period": "2s"})
    monkeypatch.setitem(demo.CAPPED, "key", {"max_usage": 100})
    monkeypatch.setitem(demo.CAPPED, "replace_at", "20%")
    monkeypatch.setattr(demo, "SECONDS", 7.0)
    monkeypatch.setattr(demo, "REREAD", 0.2)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


@pytest.fixture
def run_demo(monkeypatch: pytest.MonkeyPatch) -> RunDemo:
    """Run the demo. The end of the session searches its output for keys and tokens."""

    def recorded(**options: Any) -> Simulator:
        made = Simulator(**options)
        RECORDER.add_simulator(made)
        return made

    monkeypatch.setattr(demo, "Simulator", recorded)

    def run(status: int, *, terminal: bool = False, vault: Mapping[str, str] | None = None) -> str:
        console = Console(file=io.StringIO(), force_terminal=terminal, width=80, height=40)
        ended = demo.show(vault=vault is not None, environment=vault or {}, table=status_table, console=console)
        assert isinstance(console.file, io.StringIO)
        shown = RECORDER.record("demo: console", Text.from_ansi(console.file.getvalue()).plain)
        assert ended == status, shown
        return shown

    return run


@pytest.mark.parametrize("terminal", [False, True])
def test_it_shows_the_whole_life_of_a_key(tmp_path: Path, run_demo: RunDemo, terminal: bool) -> None:
    shown = run_demo(0, terminal=terminal)
    for words in SEEN:
        assert words in shown
    assert "refused 0 times" in shown
    assert "docs/try.md, Your own Vault in ten minutes" in shown
    assert bool(re.search(r"batch-jobs .* \d+% +ok", shown)) == terminal, "the table shows how much of the cap is used"
    assert list(tmp_path.iterdir()) == []


def test_in_a_pipe_no_line_is_broken_or_cut(run_demo: RunDemo) -> None:
    lines = run_demo(0).splitlines()
    published = [line for line in lines if "published" in line]
    assert published
    assert [line for line in published if not line.endswith(("(first)", "(expiring)", "(nearly-spent)"))] == []
    assert "Nothing is left behind. Your own Vault next: docs/try.md, Your own Vault in ten minutes." in lines


def of(vault: VaultServer, token: str) -> Mapping[str, str]:
    RECORDER.add_secret("a Vault token", token)
    return {"VAULT_ADDR": vault.address, "VAULT_TOKEN": token}


def test_with_a_vault_nothing_is_left_there_and_few_rights_are_enough(vault: VaultServer, run_demo: RunDemo) -> None:
    before = vault.request("LIST", "secret/metadata/").json()
    run_demo(0, vault=of(vault, vault.policy_token(DEMO_RIGHTS)))
    assert vault.request("LIST", "secret/metadata/").json() == before


def test_the_rights_are_documented() -> None:
    page = (Path(demo.__file__).parents[1] / "docs/try.md").read_text()
    assert all(line in page for line in DEMO_RIGHTS.strip().splitlines())


def test_a_vault_that_is_out_of_reach_is_reported_at_once(run_demo: RunDemo, tmp_path: Path) -> None:
    [port] = free_ports(1)
    with pytest.raises(StoreUnavailable, match="Connection refused"):
        run_demo(0, vault={"VAULT_ADDR": f"http://127.0.0.1:{port}", "VAULT_TOKEN": "hvs.made-up"})
    assert list(tmp_path.iterdir()) == []


def test_it_cleans_up_when_a_signal_stops_it(tmp_path: Path) -> None:
    shown = tmp_path / "stdout"
    (tmp_path / "temporary").mkdir()
    environment = {"PATH": os.environ["PATH"], "TMPDIR": str(tmp_path / "temporary")}
    with shown.open("w") as stdout:
        running = subprocess.Popen([PROGRAM, "demo"], stdout=stdout, stderr=stdout, env=environment)
    try:
        wait_until(lambda: "published" in shown.read_text(), "a key to be published")
        assert list((tmp_path / "temporary").iterdir())
        running.send_signal(signal.SIGTERM)
        assert running.wait(20) == 0, shown.read_text()
    finally:
        running.kill()
        running.wait()
    RECORDER.record("demo: stdout and stderr", shown.read_text())
    assert "stopped" in shown.read_text()
    assert "Nothing is left behind" in shown.read_text()
    assert list((tmp_path / "temporary").iterdir()) == []


def test_what_cannot_be_removed_is_reported_and_the_rest_is_removed(
    vault: VaultServer, run_demo: RunDemo, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = vault.request("LIST", "secret/metadata/").json()
    monkeypatch.setattr(demo, "SECONDS", 1.0)
    forget = VaultStore.forget
    refused: list[str] = []

    def once_refused(store: VaultStore, path: str) -> None:
        if not refused:
            refused.append(path)
            raise StorePermissionDenied("Vault's policy denies `delete`")
        forget(store, path)

    monkeypatch.setattr(VaultStore, "forget", once_refused)
    shown = run_demo(1, vault=of(vault, vault.root_token))
    [path] = refused
    assert f"secret/{path} is left in Vault: Vault's policy denies `delete`" in shown
    assert "Nothing is left behind" not in shown
    folder = path.split("/")[0]
    assert vault.request("LIST", f"secret/metadata/{folder}/").json()["data"]["keys"] == [f"{path.split('/')[1]}/"]
    vault.request("DELETE", f"secret/metadata/{path}").raise_for_status()
    assert vault.request("LIST", "secret/metadata/").json() == before


@pytest.mark.parametrize(
    "error", [StoreUnavailable("away"), TimeoutError(), RemoteDisconnected("gone"), BadStatusLine("?")]
)
def test_a_consumer_counts_whatever_goes_wrong(run_demo: RunDemo, error: Exception) -> None:
    works = demo.Consumer._works
    with pytest.MonkeyPatch.context() as patched:
        failed: list[str] = []

        def fails_once(consumer: demo.Consumer, key: str) -> bool:
            if not failed:
                failed.append(key)
                raise error
            return works(consumer, key)

        patched.setattr(demo.Consumer, "_works", fails_once)
        patched.setattr(demo, "SECONDS", 1.5)
        assert "was refused 1 times" in run_demo(1)
