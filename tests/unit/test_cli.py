"""The command line by itself, in this process: what it takes, what it says, and the status that it ends with."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support.inprocess import restored
from support.installation import Installation, installation
from support.leaks import RECORDER

from rotator import cli

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
