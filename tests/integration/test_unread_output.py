"""An output that nothing reads, or that was closed, stops no work: real processes, and pipes of one page."""

import fcntl
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
from support.installation import PROGRAM, Installation, installation
from support.leaks import RECORDER
from support.process import free_ports, wait_until

PAGE = 4096
F_SETPIPE_SZ = 1031


@contextmanager
def unread(made: Installation, *arguments: str) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A process whose log goes to a pipe of one page that nothing reads, and the pipe's other end."""
    made.write()
    ours, its = os.pipe()
    fcntl.fcntl(its, F_SETPIPE_SZ, PAGE)
    environment = {"PATH": os.environ["PATH"], "ROTATOR_CONFIG": str(made.file), **made.environment}
    nothing = subprocess.DEVNULL
    running = subprocess.Popen([PROGRAM, *arguments], env=environment, stdin=nothing, stdout=nothing, stderr=its)
    os.close(its)
    try:
        yield running, ours
    finally:
        running.kill()
        running.wait()
        os.close(ours)


def read(pipe: int, until_end_of: subprocess.Popen[bytes]) -> str:
    """What comes out of the pipe until the process has ended."""
    text = b""
    while chunk := os.read(pipe, 65536):
        text += chunk
    assert until_end_of.wait(10) is not None
    return RECORDER.record("unread", text.decode())


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Installation]:
    with installation(tmp_path, targets=tuple(f"t{number:02}" for number in range(10))) as made:
        yield made


def live_fast(made: Installation) -> str:
    """Give the keys short lives, and return where the daemon will listen."""
    made.config["defaults"] = {"ttl": "12s", "renew_before": "10s", "grace_period": "1s"}
    listen, admin = (f"127.0.0.1:{port}" for port in free_ports(2))
    made.config["http"] = {"listen": listen, "admin": admin}
    return listen


def served_keys_work(made: Installation) -> bool:
    """Whether the newest key of each target is alive at the provider."""
    newest = {key.name.split(".")[1]: key for key in made.simulator.vendor.keys.values()}
    living = {name for name, key in newest.items() if key.alive(datetime.now(UTC))}
    return living == set(made.config["targets"])


def test_a_daemon_whose_log_is_not_read_rotates_on_and_ends_when_asked(made: Installation) -> None:
    listen = live_fast(made)
    with unread(made, "run", "--log-format", "json") as (running, _):
        wait_until(lambda: len(made.calls("create")) >= 60, "six keys a target, far beyond what the pipe takes", 60)
        assert served_keys_work(made)
        health = httpx.get(f"http://{listen}/healthz", trust_env=False, verify=False)
        assert health.status_code == 200
        running.send_signal(signal.SIGTERM)
        assert running.wait(10) == 0


def test_when_the_log_is_read_again_nothing_is_missing_from_it(made: Installation) -> None:
    live_fast(made)
    with unread(made, "run", "--log-format", "json") as (running, pipe):
        wait_until(lambda: len(made.calls("create")) >= 30, "more than the pipe takes", 40)
        running.send_signal(signal.SIGTERM)
        events = [json.loads(line)["event"] for line in read(pipe, running).splitlines()]
    assert events.count("key_created") == len(made.calls("create"))
    assert (events[0], events[-1]) == ("started", "stopped")


def test_a_command_writes_all_its_events_before_it_ends(made: Installation) -> None:
    with unread(made, "run", "--once", "--log-format", "json") as (running, pipe):
        wait_until(lambda: len(made.calls("create")) == 10, "every target is rotated")
        events = [json.loads(line)["event"] for line in read(pipe, running).splitlines()]
    assert events.count("key_published") == 10


def test_a_command_whose_log_is_not_read_ends_all_the_same(made: Installation) -> None:
    with unread(made, "run", "--once", "--log-format", "json") as (running, _):
        assert running.wait(20) == 0
    assert served_keys_work(made)


@pytest.mark.parametrize("redirection", ["> /dev/full", "| true", ">&-"])
def test_an_output_that_takes_nothing_does_not_stop_the_work_half_way(made: Installation, redirection: str) -> None:
    made.run("run", "--once", status=0)
    environment = {**os.environ, **made.environment, "ROTATOR": str(PROGRAM), "ROTATOR_CONFIG": str(made.file)}
    line = f"$ROTATOR extend --all --for 24h {redirection}; exit ${{PIPESTATUS[0]}}"
    shell = ["bash", "-c", line]
    done = subprocess.run(shell, env=environment, capture_output=True, text=True, timeout=60, check=False)
    RECORDER.record(line, done.stderr)
    assert done.returncode == 1
    assert len(made.calls("update")) == 10
