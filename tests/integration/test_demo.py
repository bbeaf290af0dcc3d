"""The demo, with lives that are shorter still: everything is seen once, nothing is refused, nothing is left behind."""

import io
import os
import signal
import subprocess
import tempfile
from http.client import BadStatusLine, RemoteDisconnected
from pathlib import Path

import pytest
from rich.console import Console
from rich.text import Text
from support.installation import PROGRAM
from support.process import wait_until
from support.vault import VaultServer

from rotator import demo
from rotator.errors import StorePermissionDenied, StoreUnavailable
from rotator.stores.vault import VaultStore

SEEN = ("created (first)", "published (expiring)", "superseded", "is destroyed in the store", "removed at the provider")


@pytest.fixture(autouse=True)
def _hasty(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Renewed every two seconds; a slow machine has eight more before a key has no longer to live than its grace."""
    monkeypatch.setattr(demo, "LIVES", {"ttl": "12s", "renew_before": "10s", "grace_period": "2s"})
    monkeypatch.setattr(demo, "SECONDS", 7.0)
    monkeypatch.setattr(demo, "REREAD", 0.2)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


@pytest.mark.parametrize("terminal", [False, True])
def test_it_shows_all_that_happens_to_a_key(tmp_path: Path, terminal: bool) -> None:
    console = Console(file=io.StringIO(), force_terminal=terminal, width=100, height=40)
    assert demo.show(vault=False, environment={}, console=console) == 0
    assert isinstance(console.file, io.StringIO)
    shown = Text.from_ansi(console.file.getvalue()).plain
    for words in SEEN:
        assert words in shown
    assert "refused 0 times" in shown
    assert "rotator check --online" in shown
    assert list(tmp_path.iterdir()) == []


def test_with_a_vault_nothing_is_left_there_either(vault: VaultServer) -> None:
    before = vault.request("LIST", "secret/metadata/").json()
    console = Console(file=io.StringIO(), width=100)
    environment = {"VAULT_ADDR": vault.address, "VAULT_TOKEN": vault.root_token}
    assert demo.show(vault=True, environment=environment, console=console) == 0
    assert vault.request("LIST", "secret/metadata/").json() == before


def test_it_cleans_up_when_it_is_told_to_end(tmp_path: Path) -> None:
    shown = tmp_path / "stdout"
    (tmp_path / "temporary").mkdir()
    environment = {"PATH": os.environ["PATH"], "TMPDIR": str(tmp_path / "temporary")}
    with shown.open("w") as stdout:
        running = subprocess.Popen([PROGRAM, "demo"], stdout=stdout, stderr=stdout, env=environment)
    try:
        wait_until(lambda: "published" in shown.read_text(), "a key to be published")
        assert list((tmp_path / "temporary").iterdir())
        running.send_signal(signal.SIGTERM)
        assert running.wait(20) in (0, 1), shown.read_text()  # 1: the application had not called yet
    finally:
        running.kill()
        running.wait()
    assert "stopped" in shown.read_text()
    assert "Nothing is left behind" in shown.read_text()
    assert list((tmp_path / "temporary").iterdir()) == []


def test_what_cannot_be_removed_is_told_and_keeps_nothing_else_from_it(
    vault: VaultServer, monkeypatch: pytest.MonkeyPatch
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
    console = Console(file=io.StringIO(), width=200)
    environment = {"VAULT_ADDR": vault.address, "VAULT_TOKEN": vault.root_token}
    assert demo.show(vault=True, environment=environment, console=console) == 1
    assert isinstance(console.file, io.StringIO)
    shown = console.file.getvalue()
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
def test_a_consumer_counts_whatever_goes_wrong(tmp_path: Path, error: Exception) -> None:
    console = Console(file=io.StringIO(), width=100)
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
        assert demo.show(vault=False, environment={}, console=console) == 1
    assert isinstance(console.file, io.StringIO)
    assert "was refused 1 times" in console.file.getvalue()
