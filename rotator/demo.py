"""The demo: everything real but the vendor and the length of the lives.

The engine, the planner, the reconciler and the adapters are those of the daemon; the vendor is the simulator, the store
a SQLite file (or the Vault of the environment). A small consumer calls the vendor's gateway with the served key all the
while, and counts what is refused. Nothing is left behind.
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
from rotator.core.events import Event, EventType
from rotator.daemon.dispatcher import Dispatcher
from rotator.runtime.clock import SystemClock
from rotator.simulator import Options, Simulator
from rotator.telemetry.metrics import Metrics
from rotator.telemetry.status import TargetStatus

SECONDS = 40.0
"""Long enough to see a key born, published, superseded, shortened and removed, three times over."""

TARGETS = ("billing-api", "chat-frontend", "batch-jobs")
LIVES = {"ttl": "20s", "renew_before": "10s", "grace_period": "5s"}
REREAD = 1.0
"""Seconds after which the consumer reads the store again: well within the grace period, as an application should."""

WORDS = {
    EventType.KEY_CREATED: ("green", "created"),
    EventType.KEY_PUBLISHED: ("bold green", "published"),
    EventType.KEY_SHORTENED: ("yellow", "superseded: it ends when its grace does"),
    EventType.VERSIONS_DESTROYED: ("red", "its version is destroyed in the store"),
    EventType.KEY_DELETED: ("red", "removed at the provider"),
}


class Consumer:
    """An application: reads the key where it is kept, now and then, and calls with it all the time."""

    def __init__(self, installation: Installation, url: str) -> None:
        self.calls = self.failures = 0
        self._installation, self._url = installation, url
        self._stopped = threading.Event()
        self._counting = threading.Lock()
        self._threads = [threading.Thread(target=self._use, args=(name,)) for name in installation.targets]

    def start(self) -> None:
        """Begin to call."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Stop calling, and wait until the last call is answered."""
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
            with urllib.request.urlopen(request, timeout=5) as answer:  # noqa: S310
                return bool(answer.status == 200)
        except urllib.error.HTTPError as error:
            error.close()
            return False


class Screen:
    """What is shown: the targets and the latest events. A `ports.Listener`."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._events: deque[Text] = deque(maxlen=10)
        self._unprinted: deque[Text] = deque()

    def __call__(self, event: Event) -> None:
        """Keep the event."""
        style, words = WORDS.get(event.what, ("bold red" if event.level != "info" else "dim", event.what.value))
        why = event.fields.get("reason", event.fields.get("error", ""))
        key = _short(str(event.fields.get("key_id", "")))
        shown = f"{datetime.now().astimezone():%H:%M:%S}  {event.target:14} {key:12} {words}"
        line = Text(f"{shown} ({why})" if why else shown, style=style, no_wrap=True, overflow="ellipsis")
        self._events.append(line)
        self._unprinted.append(line)

    def print_new(self) -> None:
        """Where there is no terminal, print what came since: no worker waits for the reader."""
        while self._unprinted:
            line = self._unprinted.popleft()
            if not self._console.is_terminal:
                self._console.print(line, soft_wrap=True)

    def draw(self, statuses: tuple[TargetStatus, ...], consumer: Consumer, now: datetime, left: float) -> Group:
        """All of it, as it stands now."""
        table = Table(box=None, pad_edge=False, header_style="bold", expand=False)
        for column in ("target", "state", "served key", "life", "next rotation", "superseded"):
            table.add_column(column, no_wrap=True)
        for status in statuses:
            plan = status.plan
            if plan is None or plan.current is None or plan.next_rotation_at is None:
                table.add_row(status.target.name, status.state.value, "-", "", "", "")
                continue
            superseded = ", ".join(f"{_short(key.key_id)} for {_seconds(key.until, now)}" for key in plan.superseded)
            table.add_row(
                status.target.name,
                Text(status.state.value, style="green" if status.state == "ok" else "yellow"),
                _short(plan.current.key_id),
                _bar(plan.current.issued_at, plan.next_rotation_at, plan.current.expires_at, now),
                f"in {_seconds(plan.next_rotation_at, now)}",
                Text(superseded, style="yellow"),
            )
        failures = Text(f"{consumer.failures} failed", style="bold red" if consumer.failures else "bold green")
        calls = Text.assemble(f"An application has called {consumer.calls} times with the served keys: ", failures)
        heading = Text(f"rotator {__version__} demo: keys that live 20 s; {left:.0f} s left", style="bold")
        return Group(heading, Text(), table, Text(), calls, Text(), *self._events)


def _short(key_id: str) -> str:
    return key_id[:10]


def _seconds(until: datetime, now: datetime) -> str:
    return f"{max(0.0, (until - now).total_seconds()):.0f} s"


def _bar(born: datetime, renewed: datetime, ends: datetime, now: datetime) -> Text:
    """A life: what is gone, what is left until the renewal, and the reserve after it."""
    width = 20
    life = (ends - born).total_seconds()
    gone = round(width * min(1.0, max(0.0, (now - born).total_seconds() / life)))
    due = round(width * (renewed - born).total_seconds() / life)
    cells = [("━", "dim" if cell < gone else "green" if cell < due else "yellow") for cell in range(width)]
    return Text.assemble(*cells)


def show(
    *,
    vault: bool,
    environment: Mapping[str, str],
    console: Console | None = None,
    is_lost: Callable[[], bool] = lambda: False,
) -> int:
    """Run the demo; return the exit status: 0 when no call was refused, and all was seen.

    `is_lost` tells whether the output has no reader left, which ends the demo.

    Raises what loading a configuration and a first look at the store raise.
    """
    console = console or Console()
    with (
        tempfile.TemporaryDirectory(prefix="rotator-demo-") as name,
        Simulator(options=Options(requests_per_minute=None, id_shape="tk")) as simulator,
    ):
        clock, screen = SystemClock(), Screen(console)
        file, environment = _configuration(Path(name), simulator, environment, vault=vault)
        metrics = Metrics(__version__)
        installation = Installation(load(file, environment), environment, clock, metrics, screen)
        with contextlib.closing(installation):
            for target in installation.targets.values():
                installation.stores[target.store].newest(target.path)  # a store that cannot be used is told at once
            engine = Dispatcher(installation, metrics, screen)
            consumer, stopped = Consumer(installation, simulator.url), False
            try:
                consumer.start()
                _watch(console, screen, engine, consumer, clock, is_lost)
            except KeyboardInterrupt:
                stopped = True
                console.print("stopped")
            finally:
                consumer.stop()
                engine.end()
                left = list(_forget(installation))
                screen.print_new()
    for line in (
        f"\nThe application called {consumer.calls} times and was refused {consumer.failures} times.",
        *left,
        f"{'' if left else 'Nothing is left behind. '}Your own Vault next: README.md, Your own Vault in ten minutes.",
    ):
        console.print(line, markup=False, soft_wrap=True)
    return 1 if consumer.failures or left or not (consumer.calls or stopped) else 0


def _forget(installation: Installation) -> Iterator[str]:
    """Remove each target's path from a Vault; what of it could not be, in a sentence each."""
    for target in installation.targets.values():
        if (vault := installation.vaults.get(target.store)) is not None:
            try:
                vault.forget(target.path)
            except StoreError as error:
                yield f"{vault.mount}/{target.path} is left in Vault: {error.message}"


def _configuration(
    folder: Path, simulator: Simulator, environment: Mapping[str, str], *, vault: bool
) -> tuple[Path, Mapping[str, str]]:
    """A configuration like anybody's, but for the short lives."""
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
        "defaults": LIVES,
        "targets": {name: {"path": f"{root}/{name}/respan"} for name in TARGETS},
    }
    file = folder / "rotator.json"
    file.write_text(json.dumps(settings))
    return file, {**environment, "RESPAN_API_KEY": simulator.organisation_key}


def _watch(
    console: Console,
    screen: Screen,
    engine: Dispatcher,
    consumer: Consumer,
    clock: SystemClock,
    is_lost: Callable[[], bool],
) -> None:
    """Let the engine work, and show it, until the time is over."""
    ends = clock.monotonic() + SECONDS
    with Live(console=console, auto_refresh=False) if console.is_terminal else contextlib.nullcontext() as live:
        while (left := ends - clock.monotonic()) > 0:
            engine.tick()
            screen.print_new()
            if is_lost():  # the reader has seen enough
                return
            if live is not None:
                live.update(screen.draw(engine.board.snapshot(), consumer, clock.now(), left), refresh=True)
            clock.sleep(0.25)
