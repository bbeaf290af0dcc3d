"""The command line by itself, in this process: what it takes, what it says, and the status that it ends with."""

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support.inprocess import restored
from support.installation import Installation, installation
from support.leaks import RECORDER

from rotator import cli, output
from rotator.model import History
from rotator.simulator import Fault
from rotator.stores.sqlite import SqliteStore

COMMANDS = sorted(
    str(command.name or command.callback.__name__) for command in cli.app.registered_commands if command.callback
)


@dataclass(frozen=True)
class Ended:
    """What a command said, and the status that it ended with."""

    status: int
    out: str
    err: str

    def json(self) -> Any:
        return json.loads(self.out)


Invoke = Callable[..., Ended]


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Installation]:
    with installation(tmp_path, targets=("a", "b")) as made:
        yield made


@pytest.fixture
def invoke(made: Installation, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Invoke]:
    """Runs a command on the installation `made`, in this process."""
    for name, value in {**made.environment, "ROTATOR_CONFIG": str(made.file)}.items():
        monkeypatch.setenv(name, value)

    def invoke(*arguments: str, **environment: str) -> Ended:
        made.write()
        with monkeypatch.context() as patched:
            for name, value in environment.items():
                patched.setenv(name, value)
            with pytest.raises(SystemExit) as ended:
                cli.execute(arguments)
        said = capsys.readouterr()
        for name, text in (("stdout", said.out), ("stderr", said.err)):
            RECORDER.record(f"{' '.join(arguments)}: {name}", text)
        return Ended(int(ended.value.code or 0), said.out, said.err)

    with restored(monkeypatch):
        yield invoke


# --- what every command takes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_takes_the_common_options_before_and_after_its_name(invoke: Invoke, command: str) -> None:
    common = ("--config", "a.toml", "--log-format", "json", "--log-level", "INFO")
    for arguments in ((*common, command, "--help"), (command, *common, "--help")):
        shown = invoke(*arguments)
        assert shown.status == 0
        assert f"Example: rotator {command}" in shown.out
        for option in ("--config", "--log-format", "--log-level"):
            assert option in shown.out


def test_what_is_said_later_wins_and_the_environment_comes_last(invoke: Invoke, tmp_path: Path) -> None:
    first, second = str(tmp_path / "first"), str(tmp_path / "second")
    assert f"{first}: there is no such file" in invoke("--config", first, "plan").err
    assert f"{second}: there is no such file" in invoke("--config", first, "plan", "--config", second).err
    assert f"{first}: there is no such file" in invoke("plan", ROTATOR_CONFIG=first).err
    assert f"{second}: there is no such file" in invoke("--config", second, "plan", ROTATOR_CONFIG=first).err


def test_a_level_may_be_written_as_one_likes(invoke: Invoke) -> None:
    assert "key_created" in invoke("rotate", "a", ROTATOR_LOG_LEVEL="INFO", ROTATOR_LOG_FORMAT="Json").err
    assert "key_created" not in invoke("rotate", "a", "--log-level", "ERROR", ROTATOR_LOG_LEVEL="INFO").err
    refused = invoke("plan", ROTATOR_LOG_LEVEL="loud")
    assert refused.status == 2
    assert "'loud' is none of debug, info, warning, error" in refused.err


# --- long work -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "operation", "said"),
    [
        ("sweep", "list", "sweeping: 0 of 2 done"),
        ("extend --all --for 48h", "list", "listing the keys for targets: 0 of 2 done"),
        ("extend --all --for 48h", "update", "extending: 0 of 2 done"),
        ("rotate --all", "create", "rotating: 0 of 2 done"),
    ],
)
def test_long_work_tells_how_far_it_is(
    invoke: Invoke, made: Installation, monkeypatch: pytest.MonkeyPatch, command: str, operation: str, said: str
) -> None:
    invoke("rotate", "--all")
    made.simulator.faults.add(Fault("slow", operation, seconds=0.3, times=None))
    monkeypatch.setattr(output, "LINE_EVERY", 0.05)
    ended = invoke(*command.split())
    assert (ended.status, said in ended.err) == (0, True), ended


@pytest.mark.parametrize("command", ["plan", "status", "check --online"])
def test_long_looks_tell_how_far_they_are(
    invoke: Invoke, made: Installation, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setattr(output, "LINE_EVERY", 0.02)
    newest = SqliteStore.newest

    def slow(store: SqliteStore, path: str) -> History:
        threading.Event().wait(0.1)
        return newest(store, path)

    monkeypatch.setattr(SqliteStore, "newest", slow)
    history = SqliteStore.history
    monkeypatch.setattr(SqliteStore, "history", lambda store, path: slow(store, path) and history(store, path))
    assert "of 2 done" in invoke(*command.split()).err
