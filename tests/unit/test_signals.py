"""Which command lines start a daemon, and what its signals do from its first moment on."""

import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from support.process import wait_until

from rotator.daemon.signals import starts_daemon

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("line", ["run", "run --config /etc/rotator.toml", "run --log-format json --log-level debug"])
def test_this_starts_a_daemon(line: str) -> None:
    assert starts_daemon(line.split())


@pytest.mark.parametrize("line", ["", "rotate run", "rotate --reason run", "run --once", "status", "check --online"])
def test_this_does_not(line: str) -> None:
    assert not starts_daemon(line.split())


def test_the_program_imports_nothing_heavy_before_it_handles_signals() -> None:
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"] == {
        "rotator": "rotator.__main__:main"
    }
    code = "import sys, rotator.__main__; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    assert "rotator.daemon.signals" in loaded.split()
    heavy = {
        "typer",
        "pydantic",
        "httpx",
        "hvac",
        "apscheduler",
        "rotator.cli.main",
        "rotator.daemon.main",
        "rotator.core.errors",
    }
    assert not heavy & set(loaded.split())


class Process:
    """A process that runs this code after it installed its signal handlers."""

    def __init__(self, code: str) -> None:
        begin = "import signal, sys, threading, time\nfrom rotator.daemon.signals import SIGNALS as it\nit.handle()\n"
        self.running = subprocess.Popen(
            [sys.executable, "-c", f"{begin}{code}"], stdout=subprocess.PIPE, text=True, cwd=ROOT
        )

    def line(self) -> str:
        assert self.running.stdout is not None
        return self.running.stdout.readline().strip()

    def send(self, number: signal.Signals) -> None:
        """Send a signal once the process waits: one just before a wait does not end it."""
        stat = Path(f"/proc/{self.running.pid}/stat")
        wait_until(lambda: stat.read_text().rpartition(")")[2].split()[0] == "S", "the process to wait", 20)
        self.running.send_signal(number)

    def end(self, *numbers: signal.Signals) -> int:
        with self.running:
            for number in numbers:
                self.send(number)
            return self.running.wait(20)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_process_that_is_starting_ends_at_once_and_well(number: signal.Signals) -> None:
    starting = Process("print('there', flush=True)\nwhile True: time.sleep(0.05)")
    assert starting.line() == "there"
    assert starting.end(signal.SIGHUP, signal.SIGUSR1, number) == 0


def test_what_comes_early_is_received_later() -> None:
    starting = Process(
        "print('there', flush=True)\n"
        "while it.received.qsize() < 2: time.sleep(0.01)\n"
        "it.started(lambda: 60.0)\n"
        "print(*sorted(it.received.get() for _ in range(2)), flush=True)\n"
        "print(it.received.get(), flush=True)"
    )
    assert starting.line() == "there"
    for number in (signal.SIGHUP, signal.SIGUSR1):
        starting.send(number)
    assert starting.line() == f"{int(signal.SIGHUP)} {int(signal.SIGUSR1)}"
    starting.send(signal.SIGTERM)
    assert starting.line() == str(int(signal.SIGTERM))
    assert starting.end() == 0, "the code that received the signal decides"


@pytest.mark.parametrize("waits", ["threading.Event().wait()", "a = threading.Lock(); a.acquire(); a.acquire()"])
def test_a_main_thread_that_hangs_is_ended_after_a_while(waits: str) -> None:
    hanging = Process(f"it.started(lambda: 0.3)\nprint('there', flush=True)\n{waits}")
    assert hanging.line() == "there"
    assert hanging.end(signal.SIGTERM) == 1


def test_a_second_time_it_ends_at_once() -> None:
    code = ("it.started(lambda: 60.0)", "print('there', flush=True)", "it.received.get()", "print('got', flush=True)")
    hanging = Process("\n".join([*code, "time.sleep(60)"]))
    assert hanging.line() == "there"
    hanging.send(signal.SIGTERM)
    assert hanging.line() == "got"
    assert hanging.end(signal.SIGTERM) == 1
