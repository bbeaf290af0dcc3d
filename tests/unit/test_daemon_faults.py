"""How the daemon handles faults: unexpected ones in a reload, and logins that fail."""

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from support.recorded_events import RecordedEvents

from rotator.app.wiring import Installation
from rotator.core.errors import RotatorError, StoreCredentialRefused, StoreUnavailable
from rotator.core.events import EventType, Level
from rotator.daemon.main import Daemon
from rotator.daemon.signals import Signals
from rotator.runtime.clock import SystemClock
from rotator.telemetry.metrics import Metrics


class Rig:
    """One daemon that was assembled and does not run, and its events."""

    def __init__(self, folder: Path) -> None:
        self.events = RecordedEvents()
        self.metrics = Metrics("0")
        stores = {"file": {"type": "sqlite", "file": "store.db"}}
        providers = {"respan": {"type": "respan", "api_key": {"file": "key"}}}
        file = folder / "rotator.json"
        file.write_text(json.dumps({"owner": "prod", "providers": providers, "stores": stores}))
        self.daemon = Daemon(file, {}, SystemClock(), self.metrics, self.events.append, Signals())


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    made = Rig(tmp_path)
    yield made
    made.daemon._dispatcher.end()


def test_a_fault_while_reloading_leaves_the_old_configuration_in_use(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    before = rig.daemon._installation

    def fails(*_: object, **__: object) -> Installation:
        raise ValueError("Invalid IPv4 address")  # as httpx.InvalidURL

    with monkeypatch.context() as patched:
        patched.setattr("rotator.daemon.reload.Installation", fails)
        rig.daemon._reloader.request()
        rig.daemon._look_at_files()
    [refused] = rig.events.of(EventType.CONFIGURATION_REFUSED)
    assert refused.level is Level.ERROR
    assert refused.fields["problems"] == "ValueError: Invalid IPv4 address"
    assert [event.fields["where"] for event in rig.events.of(EventType.UNEXPECTED_ERROR)] == [
        "reading the configuration"
    ]
    assert rig.daemon._installation is before
    assert b"rotator_config_last_reload_successful 0.0" in rig.metrics.render()


def test_a_failed_login_is_reported_once_for_each_reason_and_when_it_works_again(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcome: list[RotatorError | None] = [None]
    down = SimpleNamespace(error=None)

    def keep_login() -> None:
        if outcome[0]:
            raise outcome[0]

    client = SimpleNamespace(circuit=down, tokens=SimpleNamespace(ends_at=None))
    vault = SimpleNamespace(keep_login=keep_login, client=client, token_expires_at=None)
    monkeypatch.setattr(rig.daemon, "_is_ready", lambda: True)
    monkeypatch.setattr(rig.daemon, "_installation", SimpleNamespace(vaults={"vault": vault}))
    gone, refused = StoreUnavailable("it does not answer"), StoreCredentialRefused("it is refused", "Look at the role.")
    for error in (None, gone, refused, gone, refused, None, None, gone):
        outcome[0] = error
        rig.daemon._keep_logins()
    logged = [(event.what, event.level, event.fields.get("error")) for event in rig.events]
    assert logged == [
        (EventType.LOGIN_FAILED, Level.WARNING, gone.message),
        (EventType.LOGIN_FAILED, Level.ERROR, refused.message),
        (EventType.LOGIN_RECOVERED, Level.INFO, None),
        (EventType.LOGIN_FAILED, Level.WARNING, gone.message),
    ]
    assert rig.events[1].fields["advice"] == "Look at the role."
    down.error, outcome[0] = refused, refused
    rig.daemon._keep_logins()
    assert len(rig.events) == len(logged), "the event about the store is enough"
