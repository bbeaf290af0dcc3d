"""What the daemon makes of faults that nobody foresaw: in a job, and in a reload."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from rotator.assembly import Installation
from rotator.clock import SystemClock
from rotator.daemon import Daemon
from rotator.events import Event, Level, What
from rotator.metrics import Metrics


class Rig:
    """One daemon that was assembled and does not run, and what it told."""

    def __init__(self, folder: Path) -> None:
        self.events: list[Event] = []
        self.metrics = Metrics("0")
        stores = {"file": {"type": "sqlite", "file": "store.db"}}
        providers = {"respan": {"type": "respan", "api_key": {"file": "key"}}}
        file = folder / "rotator.json"
        file.write_text(json.dumps({"owner": "prod", "providers": providers, "stores": stores}))
        self.daemon = Daemon(file, {}, SystemClock(), self.metrics, self.events.append)

    def told(self, what: What) -> list[Event]:
        return [event for event in self.events if event.what is what]


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    made = Rig(tmp_path)
    yield made
    made.daemon._engine.end()


def test_a_fault_in_a_job_is_told_and_ends_nothing(rig: Rig) -> None:
    def fails() -> None:
        raise ZeroDivisionError("oh")

    rig.daemon._do("sweep", fails)
    [told] = rig.told(What.UNEXPECTED_ERROR)
    assert told.level is Level.ERROR
    assert (told.fields["where"], told.fields["error"]) == ("the job sweep", "ZeroDivisionError: oh")
    assert "in fails" in str(told.fields["traceback"])


def test_a_fault_while_reloading_leaves_the_old_configuration_in_use(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    before = rig.daemon._installation

    def fails(*_: object, **__: object) -> Installation:
        raise ValueError("Invalid IPv4 address")  # as httpx.InvalidURL

    with monkeypatch.context() as patched:
        patched.setattr("rotator.daemon.Installation", fails)
        rig.daemon._reload()
    [refused] = rig.told(What.CONFIGURATION_REFUSED)
    assert refused.level is Level.ERROR
    assert refused.fields["problems"] == "ValueError: Invalid IPv4 address"
    assert [told.fields["where"] for told in rig.told(What.UNEXPECTED_ERROR)] == ["reading the configuration"]
    assert rig.daemon._installation is before
    assert b"rotator_config_last_reload_successful 0.0" in rig.metrics.render()
