"""What all commands share, and what they do after a failure. The store is a SQLite file."""

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.installation import PROGRAM, Installation, Result, installation
from support.leaks import RECORDER
from support.process import free_ports, wait_until

from rotator.simulator import Fault


@pytest.fixture
def rotator(tmp_path: Path) -> Iterator[Installation]:
    with installation(tmp_path, targets=("a", "b")) as made:
        yield made


def logged(result: Result) -> list[dict[str, Any]]:
    """Return what a command wrote to its log."""
    return [json.loads(line) for line in result.stderr.splitlines() if line.startswith("{")]


# --- extend ----------------------------------------------------------------------------------------------------------


def test_extend_does_not_count_a_removed_key(rotator: Installation) -> None:
    rotator.run("rotate", "--all", status=0)
    gone = rotator.json("status")["targets"][0]["key_id"]
    rotator.simulator.faults.add(Fault("refuse", "update", name=".a.", status=404))
    result = rotator.run("extend", "--all", "--for", "2h", status=1).stdout
    assert f"a: the key {gone} could not be extended: the provider no longer has it" in result
    assert "`rotator rotate a`" in result
    assert result.count("works until") == 1


def test_extend_needs_a_vault_token_to_be_set_and_no_more(rotator: Installation) -> None:
    rotator.run("rotate", "a", status=0)
    [port] = free_ports(1)
    rotator.config["stores"]["store"] = {"type": "vault", "address": f"http://127.0.0.1:{port}"}
    extend = ("extend", "a", "--for", "2h")
    assert "$VAULT_TOKEN, which is not set" in rotator.run(*extend, status=2).stderr
    assert "works until" in rotator.run(*extend, status=0, VAULT_TOKEN="any").stdout


def test_extend_starts_with_what_expires_first_and_reports_each_at_once(rotator: Installation) -> None:
    rotator.config["stores"]["other"] = {"type": "sqlite", "file": "other.db"}
    for name, store, ttl in (("a", "store", "3h"), ("b", "other", "1h"), ("c", "store", "2h")):
        rotator.config["targets"][name] = {"path": f"apps/{name}", "store": store, "ttl": ttl}
    rotator.run("rotate", "--all", status=0)
    lists = len(rotator.calls("list"))
    result = rotator.run("extend", "--all", "--for", "5h", status=0).stdout
    assert [line[0] for line in result.splitlines()] == ["b", "c", "a"]
    extended = [call.key_name or "" for call in rotator.calls("update")]
    assert [name.split(".")[1] for name in extended] == ["b", "c", "a"]
    assert len(rotator.calls("list")) == lists + 1, "one provider, one list, however many stores"


@pytest.mark.parametrize("arguments", [("rollback", "a"), ("extend", "a", "--for", "9h"), ("rotate", "a")])
def test_the_reason_is_in_the_log(rotator: Installation, arguments: tuple[str, ...]) -> None:
    rotator.config["defaults"]["grace_period"] = "10m"
    rotator.run("rotate", "a", status=0)
    rotator.run("rotate", "a", status=0)
    result = rotator.run(*arguments, "--reason", "because I can", status=0)
    events = [event for event in logged(result) if event["event"].startswith("key_")]
    assert events
    assert {(event["by"], event["comment"]) for event in events} == {("command", "because I can")}
    if arguments[0] == "extend":
        assert {event["reason"] for event in events} == {"extended"}


# --- an output that accepts nothing -----------------------------------------------------------------------------------


def at_a_shell(rotator: Installation, line: str) -> tuple[int, str]:
    """Run a shell's line with $ROTATOR as the command; return the command's exit status and its errors."""
    rotator.write()
    environment = {**os.environ, **rotator.environment, "ROTATOR": str(PROGRAM), "ROTATOR_CONFIG": str(rotator.file)}
    command = ["bash", "-c", f"{line}; exit ${{PIPESTATUS[0]}}"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    RECORDER.record(f"{line}: stdout", done.stdout)
    return done.returncode, RECORDER.record(f"{line}: stderr", done.stderr)


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("$ROTATOR schema > /dev/full", "rotator: standard output cannot be written: No space left on device\n"),
        ("$ROTATOR status >&-", "rotator: standard output cannot be written: Bad file descriptor\n"),
        ("$ROTATOR --help > /dev/full", "rotator: standard output cannot be written: No space left on device\n"),
        ("$ROTATOR schema | true", ""),
        ("$ROTATOR status 2>&- >&-", ""),
        ("$ROTATOR demo | true", ""),
    ],
)
def test_an_output_that_accepts_nothing_ends_with_1_and_a_sentence(
    rotator: Installation, line: str, complaint: str
) -> None:
    assert at_a_shell(rotator, line) == (1, complaint)


# --- stopped half-way ------------------------------------------------------------------------------------------------


def stopped(rotator: Installation, number: signal.Signals, operation: str, *arguments: str) -> tuple[int, str, str]:
    """Return the exit status and output of a command that gets a signal at this call to the provider."""
    rotator.write()
    environment = {**os.environ, **rotator.environment, "ROTATOR_CONFIG": str(rotator.file)}
    command = [str(PROGRAM), *arguments]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, text=True) as running:
        wait_until(lambda: len(rotator.calls(operation)) == 1, operation)
        running.send_signal(number)
        out, err = running.communicate(timeout=30)
    for name, text in (("stdout", out), ("stderr", err)):
        RECORDER.record(f"{' '.join(arguments)}: {name}", text)
    assert "Traceback" not in err
    return running.returncode, out, err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_command_finishes_its_present_work(rotator: Installation, number: signal.Signals) -> None:
    rotator.config["daemon"]["workers"] = 1
    rotator.simulator.faults.add(Fault("slow", "create", seconds=0.5, times=None))
    status, out, err = stopped(rotator, number, "create", "rotate", "--all")
    assert status == 128 + number
    assert out.startswith("a: rotated (first): key ")
    assert out.endswith("stopped: 1 of 2 targets done; the others are unchanged\n")
    assert "rotator: stopped. Work under way was finished, and nothing new was started." in err
    states = [target["state"] for target in rotator.json("status", status=4)["targets"]]
    assert states == ["ok", "missing"]
    assert len(rotator.simulator.vendor.keys) == 1


def test_a_stopped_command_prints_json_of_what_was_done(rotator: Installation) -> None:
    rotator.config["daemon"]["workers"] = 1
    rotator.simulator.faults.add(Fault("slow", "create", seconds=0.5, times=None))
    status, out, _ = stopped(rotator, signal.SIGINT, "create", "rotate", "--all", "--json")
    shown = json.loads(out)
    assert (status, shown["stopped"]) == (130, True)
    assert [(target["name"], target["outcome"]) for target in shown["targets"]] == [("a", "rotated")]


def test_a_stopped_read_ends_at_once(rotator: Installation) -> None:
    rotator.simulator.faults.add(Fault("slow", "list", seconds=0.5, times=None))
    status, out, _ = stopped(rotator, signal.SIGTERM, "list", "check", "--online")
    assert (status, out) == (143, "")
