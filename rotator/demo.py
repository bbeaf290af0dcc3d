"""The demo: the parts of the daemon, with a simulated provider and short-lived keys.

The store is a SQLite file, or the Vault of the environment. An application calls the provider's gateway with the
served keys all the time, and counts the calls that fail. Nothing is left behind.
"""

import contextlib
import json
import secrets
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from http.client import HTTPException
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from rotator import __version__
from rotator.app.wiring import Installation
from rotator.config.loader import load
from rotator.core.errors import StoreError
from rotator.core.events import Event
from rotator.daemon.dispatcher import Dispatcher
from rotator.providers.registry import installed_types
from rotator.runtime.clock import SystemClock
from rotator.simulator import Options, Simulator
from rotator.telemetry.metrics import Metrics
from rotator.telemetry.status import status_model
from rotator.telemetry.status_json import StatusJson

SECONDS = 40.0
"""Long enough to see three keys of each target come and go."""

LIVES = {"ttl": "20s", "renew_before": "10s", "grace_period": "5s"}
CAPPED = {
    "ttl": "60s",
    "key": {"max_usage": 200},
    "on_cap": "replace",
    "replace_at": "50%",
    "pickup": "2s",
    "max_early_rotations": 24,
}
"""A key of such a target is replaced long before its expiry: ten calls a second, at most, use half of it in 10 seconds.

The other half gives a slow machine as much time again.
"""

TARGETS: Mapping[str, Mapping[str, object]] = {"billing-api": {}, "chat-frontend": {}, "batch-jobs": CAPPED}
REREAD = 1.0
"""Seconds after which the application reads the store again: well within the grace period."""


class Consumer:
    """An application: reads the key from the store every second, and calls the gateway with it all the time."""

    def __init__(self, installation: Installation, url: str) -> None:
        self.calls = self.failures = 0
        self._installation, self._url = installation, url
        self._stopped = threading.Event()
        self._counting = threading.Lock()
        self._threads = [threading.Thread(target=self._use, args=(name,)) for name in installation.targets]

    def start(self) -> None:
        """Start to call."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Stop calling, and wait for the last call."""
        self._stopped.set()
        for thread in self._threads:
            thread.join()

    def _use(self, name: str) -> None:
        target = self._installation.targets[name]
        key, read_at = None, 0.0
        while not self._stopped.wait(0.1):
            works = True
            try:
                if time.monotonic() - read_at > REREAD:
                    current = self._installation.stores[target.store].newest(target.path).current
                    key = current.data[target.key_field] if current and current.data else None
                    read_at = time.monotonic()
                works = key is None or self._works(key)
            except (StoreError, OSError, HTTPException):
                works = False
            with self._counting:
                self.calls += key is not None or not works
                self.failures += not works

    def _works(self, key: str) -> bool:
        request = urllib.request.Request(  # noqa: S310 - the simulator's own address
            f"{self._url}/api/chat/completions", b"{}", {"Authorization": f"Bearer {key}"}, method="POST"
        )
        try:
            with urllib.request.urlopen(request, timeout=5) as answer:  # noqa: S310 - as above
                return bool(answer.status == 200)
        except urllib.error.HTTPError as error:
            error.close()
            return False


class Screen:
    """Shows the status table, the calls of the application and the latest events. A `ports.Listener`."""

    def __init__(self, console: Console, table: Callable[[StatusJson, int], Table]) -> None:
        self._console, self._table = console, table
        self._events: deque[Text] = deque(maxlen=10)
        self._unprinted: deque[Text] = deque()

    def __call__(self, event: Event) -> None:
        """Keep the event."""
        why = event.fields.get("reason", event.fields.get("error", ""))
        what = f"{event.what.replace('_', ' ')} {event.fields.get('key_id', '')}"
        shown = f"{datetime.now().astimezone():%H:%M:%S}  {event.target:14} {what}"
        style = "dim" if event.level == "info" else "bold red"
        line = Text(f"{shown} ({why})" if why else shown, style=style, no_wrap=True, overflow="ellipsis")
        self._events.append(line)
        self._unprinted.append(line)

    def print_new(self) -> None:
        """Print the new events, if there is no terminal. One thread calls this, so no worker waits for the reader."""
        while self._unprinted:
            line = self._unprinted.popleft()
            if not self._console.is_terminal:
                self._console.print(line, soft_wrap=True)

    def draw(self, status: StatusJson, consumer: Consumer, left: float) -> Group:
        """Return the whole screen."""
        failures = Text(f"{consumer.failures} failed", style="bold red" if consumer.failures else "bold green")
        calls = Text.assemble(f"An application has called {consumer.calls} times with the served keys: ", failures)
        heading = Text(f"rotator {__version__} demo: keys that live {LIVES['ttl']}; {left:.0f} s left", style="bold")
        table = self._table(status, self._console.width)
        return Group(heading, Text(), table, Text(), calls, Text(), *self._events)


def show(
    *,
    vault: bool,
    environment: Mapping[str, str],
    table: Callable[[StatusJson, int], Table],
    console: Console | None = None,
) -> int:
    """Run the demo. Return the exit status: 0 if no call of the application failed and nothing is left behind.

    `table` makes the status table for a number of columns. Raises `RotatorError` if the store cannot be used.
    """
    console = console or Console()
    with (
        tempfile.TemporaryDirectory(prefix="rotator-demo-") as name,
        Simulator(options=Options(requests_per_minute=None, id_shape="tk", use_shown="retrieve")) as simulator,
    ):
        clock, screen = SystemClock(), Screen(console, table)
        file, environment = _configuration(Path(name), simulator, environment, vault=vault)
        metrics = Metrics(__version__)
        installation = Installation(load(file, environment, installed_types()), environment, clock, metrics, screen)
        with contextlib.closing(installation):
            for target in installation.targets.values():
                installation.stores[target.store].newest(target.path)  # fail now if the store cannot be used
            dispatcher = Dispatcher(installation, metrics, screen)
            consumer, stopped = Consumer(installation, simulator.url), False
            try:
                consumer.start()
                _watch(console, screen, dispatcher, consumer, clock)
            except KeyboardInterrupt:
                stopped = True
                console.print("stopped")
            finally:
                consumer.stop()
                dispatcher.end()
                left = list(_forget(installation))
                screen.print_new()
    for line in (
        f"\nThe application called {consumer.calls} times and was refused {consumer.failures} times.",
        *left,
        f"{'' if left else 'Nothing is left behind. '}Your own Vault next: docs/try.md, Your own Vault in ten minutes.",
    ):
        console.print(line, markup=False, soft_wrap=True)
    return 1 if consumer.failures or left or not (consumer.calls or stopped) else 0


def _forget(installation: Installation) -> Iterator[str]:
    """Remove each target's path from Vault. Yield a message for each that could not be removed."""
    for target in installation.targets.values():
        if (vault := installation.vaults.get(target.store)) is not None:
            try:
                vault.forget(target.path)
            except StoreError as error:
                yield f"{vault.mount}/{target.path} is left in Vault: {error.message}"


def _configuration(
    folder: Path, simulator: Simulator, environment: Mapping[str, str], *, vault: bool
) -> tuple[Path, Mapping[str, str]]:
    """Write an ordinary configuration with short lives. Return its file and the environment that it needs."""
    root = f"rotator-demo-{secrets.token_hex(4)}"
    store = {"type": "vault", "auth": {"method": "token"}} if vault else {"type": "sqlite", "file": "demo.db"}
    settings = {
        "owner": "demo",
        "providers": {
            "respan": {
                "type": "respan",
                "base_url": simulator.url,
                "api_key": {"env": "RESPAN_API_KEY"},
                "requests_per_minute": 6000,  # lives this short would take more than the usual 60
            }
        },
        "stores": {"demo": store},
        "daemon": {"resync": "5s", "drain": "10s"},
        "sweep": {"interval": "1s"},  # no sweep runs: so often is the use of a key with a cap looked up
        "defaults": LIVES,
        "targets": {name: {"path": f"{root}/{name}/respan", **options} for name, options in TARGETS.items()},
    }
    file = folder / "rotator.json"
    file.write_text(json.dumps(settings))
    return file, {**environment, "RESPAN_API_KEY": simulator.organisation_key}


def _watch(console: Console, screen: Screen, dispatcher: Dispatcher, consumer: Consumer, clock: SystemClock) -> None:
    """Rotate, and show it, until the time is up."""
    ends = clock.monotonic() + SECONDS
    with Live(console=console, auto_refresh=False) if console.is_terminal else contextlib.nullcontext() as live:
        while (left := ends - clock.monotonic()) > 0:
            dispatcher.watch_use()
            dispatcher.tick()
            screen.print_new()
            if live is not None:
                status = status_model("demo", clock.now(), dispatcher.statuses.snapshot())
                live.update(screen.draw(status, consumer, left), refresh=True)
            clock.sleep(0.25)
