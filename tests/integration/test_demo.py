"""The demo, with lives that are shorter still: everything is seen once, nothing is refused, nothing is left behind."""

import io
import tempfile
from pathlib import Path

import pytest
from rich.console import Console
from rich.text import Text
from support.vault import VaultServer

from rotator import demo

SEEN = ("created (first)", "published (expiring)", "superseded", "is destroyed in the store", "removed at the provider")


@pytest.fixture(autouse=True)
def _hasty(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(demo, "LIVES", {"ttl": "6s", "renew_before": "4s", "grace_period": "2s"})
    monkeypatch.setattr(demo, "SECONDS", 6.0)
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
