"""A rotator as its users have it: a configuration file, a simulated provider, a store, and the command in a process.

`leaks.RECORDER` gets all output, which the end of the session searches for secrets.
"""

import json
import os
import pty
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import httpx

from rotator.simulator import Call, Options, Simulator
from support.forked import Forked
from support.inprocess import run_command
from support.leaks import RECORDER
from support.process import wait_until
from support.vault import VaultServer

PROGRAM = Path(sys.executable).parent / "rotator"
LIMIT = 60.0
"""Seconds that a command may take."""

LEAST_RIGHTS = """
path "{mount}/data/*" {{ capabilities = ["create", "read", "update"] }}
path "{mount}/metadata/*" {{ capabilities = ["read"] }}
path "{mount}/destroy/*" {{ capabilities = ["update"] }}
path "sys/capabilities-self" {{ capabilities = ["update"] }}
"""

Result = subprocess.CompletedProcess[str]


class Daemon:
    """A running `rotator run`."""

    def __init__(self, running: subprocess.Popen[bytes] | Forked, stderr: Path, stdout: Path) -> None:
        self.process = running
        self._stderr, self._stdout = stderr, stdout
        self._lines: list[dict[str, Any]] = []
        self._read = 0  # bytes of standard error, which `_lines` holds
        self._reading = threading.Lock()

    def events(self, event: str = "", **fields: object) -> list[dict[str, Any]]:
        """Return the log lines so far with this event and these fields."""
        with self._reading, self._stderr.open("rb") as stderr:
            stderr.seek(self._read)
            whole = stderr.read().rpartition(b"\n")[0]
            if whole:
                self._lines += [json.loads(line) for line in whole.split(b"\n")]
                self._read += len(whole) + 1
        wanted = {"event": event, **fields} if event else fields
        return [line for line in self._lines if wanted.items() <= line.items()]

    def wait_for(self, event: str, count: int = 1, **fields: object) -> dict[str, Any]:
        """Wait for and return the `count`th log line with this event and these fields."""
        wait_until(
            lambda: len(self.events(event, **fields)) >= count or self.process.poll() is not None,
            f"{event} number {count} {fields}; there is {self.events()}",
        )
        return self.events(event, **fields)[count - 1]

    def get(self, path: str, *, admin: bool = False) -> httpx.Response:
        """Get a page of the daemon."""
        answer = httpx.get(self.url(admin=admin) + path, trust_env=False, timeout=10, verify=False)
        RECORDER.record(f"page {path}", f"{answer.headers}\n{answer.text}")
        return answer

    def url(self, *, admin: bool = False) -> str:
        """Return the address that it listens on."""
        return f"http://{self.wait_for('started')['admin' if admin else 'listen']}"

    def metric(self, series: str) -> float | None:
        """Return the value of a series such as 'rotator_targets{state="ok"}'; None when there is none."""
        lines = self.get("/metrics").text.splitlines()
        values = [float(line.rpartition(" ")[2]) for line in lines if line.rpartition(" ")[0] == series]
        return values[0] if values else None

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    def end(self) -> int:
        """Wait until it exits, and return its status."""
        return self.process.wait(LIMIT)

    def stop(self) -> int:
        """Stop it, and return its exit status."""
        self.signal(signal.SIGTERM)
        return self.end()

    def close(self) -> None:
        """Kill it if it still runs, and record its output."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        RECORDER.record("run: stderr", self._stderr.read_text())
        RECORDER.record("run: stdout", self._stdout.read_text())


class BareInstallation:
    """One configuration and what it needs, with providers of any type; `config` is written anew before each process."""

    def __init__(
        self,
        folder: Path,
        providers: Mapping[str, Mapping[str, Any]],
        store: Mapping[str, Any],
        targets: Sequence[str],
    ) -> None:
        self.folder = folder
        self.file = folder / "rotator.json"
        self.environment: dict[str, str] = {}
        self.program = [str(PROGRAM)]
        self.config: dict[str, Any] = {
            "owner": "prod-eu",
            "providers": {name: dict(provider) for name, provider in providers.items()},
            "stores": {"store": dict(store)},
            "http": {"listen": "127.0.0.1:0", "admin": "127.0.0.1:0"},
            "daemon": {"jitter": "0%"},
            "defaults": {"ttl": "1h", "renew_before": "20m", "grace_period": "1s"},
            "targets": {name: {"path": f"apps/{name}"} for name in targets},
        }
        self._daemons: list[Daemon] = []

    def write(self, text: str | None = None) -> None:
        """Write the configuration, or this text instead; a daemon that reads it meanwhile reads the old one or this."""
        beside = self.file.with_suffix(f".{threading.get_ident()}")  # tests run commands beside each other
        beside.write_text(json.dumps(self.config) if text is None else text)
        beside.replace(self.file)

    def _environment(self, more: Mapping[str, str]) -> dict[str, str]:
        # Nothing of the developer's own: no proxies, no VAULT_* variables, no ~/.vault-token.
        base = {"PATH": os.environ["PATH"], "HOME": str(self.folder), "ROTATOR_CONFIG": str(self.file)}
        return {**base, **self.environment, **more}

    def run(self, *arguments: str, status: int | None = None, **environment: str) -> Result:
        """Run one command to its end; with `status`, that is what it must end with.

        In the main thread it runs in this process: to start one takes half a second of CPU. Others handle no signals.
        """
        self.write()
        run = run_command if threading.current_thread() is threading.main_thread() else self._run_process
        result = run(arguments, self._environment(environment))
        for name, text in (("stdout", result.stdout), ("stderr", result.stderr)):
            RECORDER.record(f"{' '.join(arguments)}: {name}", text)
        assert "Traceback" not in result.stderr, result.stderr
        assert status is None or result.returncode == status, (result.returncode, result.stdout, result.stderr)
        return result

    def _run_process(self, arguments: Sequence[str], environment: Mapping[str, str]) -> Result:
        with tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
            running = Forked("rotator", arguments, environment, stdout, stderr)
            try:
                running.wait(LIMIT)
            finally:
                running.kill()
            output = []
            for file in (stdout, stderr):
                file.seek(0)
                output.append(file.read().decode())
        return subprocess.CompletedProcess([*arguments], running.wait(), *output)

    def at_a_terminal(self, *arguments: str, prompt: str = "", typed: str = "") -> str:
        """Return what a command shows on a terminal of 200 columns. When it shows the prompt, type this."""
        self.write()
        ours, its = pty.openpty()
        environment = self._environment({"COLUMNS": "200", "TERM": "xterm-256color"})
        with subprocess.Popen([*self.program, *arguments], env=environment, stdin=its, stdout=its, stderr=its):
            os.close(its)
            shown = b""
            with suppress(OSError):  # on Linux: the other end is closed
                while read := os.read(ours, 65536):
                    shown += read
                    if typed and prompt.encode() in shown:
                        os.write(ours, typed.encode())
                        typed = ""
        os.close(ours)
        RECORDER.record(f"{' '.join(arguments)}: terminal", shown.decode())
        return shown.decode().replace("\r", "")

    def json(self, *arguments: str, status: int | None = 0) -> Any:
        """Return what a command prints with --json."""
        return json.loads(self.run(*arguments, "--json", status=status).stdout)

    def start(self, *arguments: str) -> Daemon:
        """Start the daemon. It stops with the installation at the latest."""
        self.write()
        number = len(self._daemons)
        out, err = self.folder / f"stdout.{number}", self.folder / f"stderr.{number}"
        with out.open("wb") as stdout, err.open("wb") as stderr:
            running = self._running(["run", *arguments], stdout, stderr)
        daemon = Daemon(running, err, out)
        self._daemons.append(daemon)
        return daemon

    def _running(
        self, arguments: Sequence[str], stdout: IO[bytes], stderr: IO[bytes]
    ) -> subprocess.Popen[bytes] | Forked:
        environment = self._environment({})
        if self.program == [str(PROGRAM)] and "PYTHONPATH" not in environment:
            return Forked("rotator", arguments, environment, stdout, stderr)
        if self.program[:-1] == [sys.executable, "-m"]:
            return Forked(self.program[-1], arguments, environment, stdout, stderr)
        command = [*self.program, *arguments]
        return subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr)

    def close(self) -> None:
        """End all daemons."""
        for daemon in self._daemons:
            daemon.close()


class Installation(BareInstallation):
    """One whose provider is a simulated Respan."""

    def __init__(self, folder: Path, simulator: Simulator, store: Mapping[str, Any], targets: tuple[str, ...]) -> None:
        respan = {
            "type": "respan",
            "base_url": simulator.url,
            "api_key": {"env": "RESPAN_API_KEY"},
            "requests_per_minute": 100_000,
        }
        super().__init__(folder, {"respan": respan}, store, targets)
        self.simulator = simulator
        self.environment["RESPAN_API_KEY"] = simulator.organisation_key

    def calls(self, *operations: str) -> list[Call]:
        """Return the calls to the provider so far."""
        return [call for call in self.simulator.journal if not operations or call.operation in operations]


@contextmanager
def installation(
    folder: Path, store: Mapping[str, Any] | None = None, targets: tuple[str, ...] = ("a",), **options: Any
) -> Iterator[Installation]:
    """Yield an installation with a SQLite file (or this store) and a simulated provider with these options."""
    with Simulator(options=Options(**{"requests_per_minute": None, **options})) as simulator:
        RECORDER.add_simulator(simulator)
        made = Installation(folder, simulator, store or {"type": "sqlite", "file": "store.db"}, targets)
        try:
            yield made
        finally:
            made.close()


class VaultPaths:
    """A mount of one installation, as root: what a person does there by hand, and what applications read."""

    def __init__(self, vault: VaultServer, mount: str) -> None:
        self.vault, self.mount = vault, mount

    def read(self, path: str) -> dict[str, Any] | None:
        """Return the data of the newest version."""
        answer = self.vault.request("GET", f"{self.mount}/data/{path}")
        return dict(answer.json()["data"]["data"]) if answer.is_success else None

    def versions(self, path: str) -> dict[str, dict[str, Any]]:
        """Return the metadata of the versions, by number."""
        return dict(self.metadata(path)["versions"])

    def metadata(self, path: str) -> dict[str, Any]:
        """Return all the metadata."""
        return dict(self.vault.request("GET", f"{self.mount}/metadata/{path}").raise_for_status().json()["data"])

    def put(self, path: str, data: Mapping[str, Any]) -> None:
        """Write as `vault kv put` does."""
        self.vault.request("POST", f"{self.mount}/data/{path}", {"data": data}).raise_for_status()

    def token(self, hcl: str = LEAST_RIGHTS, **parameters: object) -> str:
        """Return a token with this policy, in which {mount} is replaced; `parameters` as in auth/token/create."""
        token = self.vault.policy_token(hcl.format(mount=self.mount), **parameters)
        RECORDER.add_secret("a Vault token", token)
        return token


@contextmanager
def on_vault(
    folder: Path, vault: VaultServer, targets: tuple[str, ...] = ("a",), **options: Any
) -> Iterator[tuple[Installation, VaultPaths]]:
    """Yield an installation on a Vault mount of its own, with a token of the least rights."""
    paths = VaultPaths(vault, vault.new_mount())
    store = {"type": "vault", "address": vault.address, "mount": paths.mount}
    with installation(folder, store, targets, **options) as made:
        made.environment["VAULT_TOKEN"] = paths.token()
        yield made, paths
