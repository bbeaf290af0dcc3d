"""A provider that misbehaves while a key is created, as `rotate` shows it, with a real Vault: no key is left behind."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.installation import Installation, VaultPaths, installation, on_vault
from support.leaks import RECORDER
from support.vault import VaultServer

from rotator.simulator import Fault

Made = tuple[Installation, VaultPaths]


@pytest.fixture
def made(vault: VaultServer, tmp_path: Path) -> Iterator[Made]:
    with on_vault(tmp_path, vault) as it:
        yield it


@pytest.mark.parametrize(
    ("fault", "status"),
    [
        (Fault("html", "create"), 1),
        (Fault("refuse", "create", status=401), 1),
        (Fault("refuse", "create", status=403), 1),
        (Fault("omit", "create", fields=("id",)), 1),
        (Fault("omit", "create", fields=("api_key",)), 1),
        (Fault("drop_after", "create"), 1),
        (Fault("truncate", "create"), 1),
        (Fault("fail", "create"), 1),
        *((Fault("fail", "create", status=status), 1) for status in (303, 307, 308, 400, 403, 404, 409, 422)),
    ],
    ids=lambda value: f"{value.kind}-{'-'.join(value.fields)}-{value.status}" if isinstance(value, Fault) else "",
)
def test_a_failed_create_leaves_no_key_behind(made: Made, fault: Fault, status: int) -> None:
    rotator, paths = made
    rotator.simulator.faults.add(fault)
    result = rotator.run("rotate", "a", status=status)
    assert "a: failed: " in result.stdout
    assert paths.read("apps/a") is None
    assert len(rotator.calls("create")) == 1
    assert [key for key in rotator.simulator.vendor.keys.values() if key.revoked_at is None] == []
    rotator.run("rotate", "a", status=0)
    assert rotator.simulator.vendor.works((paths.read("apps/a") or {})["api_key"])


def test_a_daemon_removes_a_key_that_was_made_and_answered_with_a_redirect(made: Made) -> None:
    rotator, _ = made
    rotator.simulator.faults.add(Fault("fail", "create", status=307))
    daemon = rotator.start()
    removed = daemon.wait_for("key_deleted", reason="unpublished")
    [key] = rotator.simulator.vendor.keys.values()
    assert (removed["key_id"], key.revoked_at is None) == (key.id, False)
    assert daemon.stop() == 0


def test_a_refused_organisation_key_ends_with_3(made: Made) -> None:
    rotator, paths = made
    RECORDER.add_secret("an organisation key", "sk_live_wrong_and_long_enough")
    result = rotator.run("rotate", "a", status=3, RESPAN_API_KEY="sk_live_wrong_and_long_enough")
    assert "management credential" in result.stdout
    assert paths.read("apps/a") is None


def test_a_list_that_is_empty_for_every_caller_has_no_key_replaced(tmp_path: Path) -> None:
    with installation(tmp_path, strangers_list="empty") as rotator:
        rotator.run("rotate", "a", status=0)
        output = rotator.run("sweep", status=1, RESPAN_API_KEY="sk_live_wrong_and_long_enough").stdout
        assert "a: not swept: Respan refused to look up a key (401" in output
        assert "the list needs no key" in " ".join(output.split())
        assert len(rotator.calls("create")) == 1
        assert rotator.json("status")["targets"][0]["state"] == "ok"
