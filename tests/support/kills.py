"""Break an installation at random: two daemons, Vault, the network and the provider, killed, frozen, cut, failing.

All chance comes from one seed, so that a run can be repeated within what threads and processes allow.
"""

import heapq
import itertools
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime

from rotator.simulator import Fault
from support.installation import Daemon, Installation
from support.proxy import MODES, Proxy
from support.vault import RaftVault

LONGEST = {"daemon": 6.0, "vault": 1.5, "network": 4.0, "provider": 2.5}
"""Seconds that something is frozen or away. A daemon's is longer than an observation may be old; Vault's is shorter
than what the witness allows for."""

KINDS = frozenset(
    {"kill", "freeze", "term", "hup", "usr1", "vault killed", "vault frozen", "vault sealed", "network", "outage"}
)
"""What has to have happened at least once; faults of single calls are besides."""

Undo = Callable[[], None]


class Chaos:
    """Two daemons of one installation, and what breaks them. `story` is what happened, for a test that fails."""

    def __init__(self, rotator: Installation, vault: RaftVault, network: Proxy, rng: random.Random) -> None:
        """`network` is between the daemons and Vault."""
        self.rotator, self.vault, self.network, self.rng = rotator, vault, network, rng
        self.story: list[str] = []
        self.done: Counter[str] = Counter()
        self.broken: list[str] = []
        self._started: list[Daemon] = []
        self._daemons: list[Daemon | None] = [None, None]
        for number in (0, 1):
            self._start(number)
        self._busy: set[str] = set()  # what is frozen or down now
        self._undo: list[tuple[float, int, str, Undo]] = []
        self._numbers = itertools.count()

    @property
    def kills(self) -> int:
        """How often a daemon was killed or frozen. Other faults, and those of Vault and the provider, do not count."""
        return self.done["kill"] + self.done["freeze"]

    def run(self, kills: int) -> None:
        """Break things until there were so many kills and every other kind; then undo all faults."""
        while self.kills < kills or not self.done.keys() >= KINDS:
            self._wait(self.rng.uniform(0.2, 1.8))
            self._fault()
            if "network" not in self._busy and self.rng.random() < 0.5:
                self._until_undone("network", self._spoil_network())
            self._break_one()
        while self._undo:
            self._wait(0.1)
        self.rotator.simulator.faults.clear()
        landed = self.rotator.simulator.faults.release()
        self._emit("fault", f"all cleared, {landed} late effects landed")

    def complaints(self) -> list[str]:
        """Return the events that no fault gives a daemon a reason to log."""
        never = ("unexpected_error", "target_foreign", "key_ownership_mismatch", "configuration_refused")
        return [str(event) for daemon in self._started for event in daemon.events() if event["event"] in never]

    def roll(self) -> None:
        """Restart both daemons as a rolling update does, one after the other."""
        for number in (0, 1):
            self._term(number)()

    # --- when --------------------------------------------------------------------------------------------------------

    def _wait(self, seconds: float) -> None:
        """Pass the time, and make well again what is due for it."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            due = self._undo[0][0] if self._undo else until
            if due <= time.monotonic():
                _, _, who, undo = heapq.heappop(self._undo)
                undo()
                self._busy.discard(who)
            else:
                time.sleep(min(left, due - time.monotonic()) if due > time.monotonic() else 0)
            for number, daemon in enumerate(self._daemons):
                if daemon and f"daemon {number}" not in self._busy and daemon.process.poll() is not None:
                    self.broken.append(f"daemon {number} ended unasked, with {daemon.process.returncode}")
                    self._daemons[number] = None

    def _break_one(self) -> None:
        """One thing that is well now, at random."""
        daemons = [number for number in (0, 1) if f"daemon {number}" not in self._busy and self._daemons[number]]
        choices: list[tuple[int, str, str, Callable[[], Undo | None]]] = []
        for number in daemons:
            who = f"daemon {number}"
            choices += [
                (6, "kill", who, lambda number=number: self._kill(number)),  # type: ignore[misc]
                (6, "freeze", who, lambda number=number: self._freeze(number)),  # type: ignore[misc]
                (1, "freeze", who, lambda number=number: self._freeze_and_kill(number)),  # type: ignore[misc]
                (2, "term", who, lambda number=number: self._term(number)),  # type: ignore[misc]
                (1, "hup", who, lambda number=number: self._signal(number, signal.SIGHUP)),  # type: ignore[misc]
                (2, "usr1", who, lambda number=number: self._signal(number, signal.SIGUSR1)),  # type: ignore[misc]
            ]
        if "vault" not in self._busy:
            choices += [
                (2, "vault killed", "vault", self._kill_vault),
                (2, "vault frozen", "vault", self._freeze_vault),
                (2, "vault sealed", "vault", self._seal_vault),
            ]
        if "provider" not in self._busy:
            choices.append((1, "outage", "provider", self._outage))
        if not choices:
            return
        weights = [weight if self.done[kind] else 5 * weight for weight, kind, _, _ in choices]
        _, _, who, breaks = self.rng.choices(choices, weights)[0]
        if undo := breaks():
            self._until_undone(who, undo)

    def _until_undone(self, who: str, undo: Undo) -> None:
        self._busy.add(who)
        # Mostly short: what is short falls between two steps of the same rotation.
        seconds = max(0.1, LONGEST[who.partition(" ")[0]] * self.rng.random() ** 2)
        heapq.heappush(self._undo, (time.monotonic() + seconds, next(self._numbers), who, undo))

    def _emit(self, kind: str, what: str) -> None:
        self.done[kind] += 1
        self.story.append(f"{datetime.now(UTC).time()} {what}")

    # --- the daemons -------------------------------------------------------------------------------------------------

    def _daemon(self, number: int) -> Daemon:
        daemon = self._daemons[number]
        assert daemon is not None
        return daemon

    def _start(self, number: int) -> None:
        self._daemons[number] = daemon = self.rotator.start()
        self._started.append(daemon)
        self.story.append(f"{datetime.now(UTC).time()} daemon {number} is started")

    def _kill(self, number: int) -> Undo:
        self._emit("kill", f"daemon {number} is killed")
        self._daemon(number).process.kill()
        self._daemon(number).process.wait()
        return lambda: self._start(number)

    def _freeze(self, number: int) -> Undo:
        self._emit("freeze", f"daemon {number} is frozen")
        daemon = self._daemon(number)
        daemon.signal(signal.SIGSTOP)

        def thaw() -> None:
            self.story.append(f"{datetime.now(UTC).time()} daemon {number} goes on")
            daemon.signal(signal.SIGCONT)

        return thaw

    def _freeze_and_kill(self, number: int) -> Undo:
        self._freeze(number)

        def end() -> None:
            self._kill(number)()

        return end

    def _term(self, number: int) -> Undo:
        self._emit("term", f"daemon {number} is asked to end")
        daemon = self._daemon(number)
        daemon.signal(signal.SIGTERM)

        def restart() -> None:
            status = daemon.end()  # within `drain`, or the test's own limit ends it
            ended_early = status == -signal.SIGTERM and not daemon.events("started")  # any program does
            if status not in (0, 1) and not ended_early:
                self.broken.append(f"daemon {number} ended with {status} when it was asked to")
            self._start(number)

        return restart

    def _signal(self, number: int, which: signal.Signals) -> None:
        self._emit(which.name[3:].lower(), f"daemon {number} gets {which.name}")
        daemon = self._daemon(number)
        if daemon.events("started"):  # before, either signal ends any program
            daemon.signal(which)

    # --- Vault and the provider -------------------------------------------------------------------------------------

    def _kill_vault(self) -> Undo:
        self._emit("vault killed", "Vault is killed")
        self.vault.kill()

        def restart() -> None:
            self.vault.start()
            self.vault.unseal()
            self.story.append(f"{datetime.now(UTC).time()} Vault is up again")

        return restart

    def _freeze_vault(self) -> Undo:
        self._emit("vault frozen", "Vault is frozen")
        self.vault.freeze()

        def thaw() -> None:
            self.vault.thaw()
            self.story.append(f"{datetime.now(UTC).time()} Vault goes on")

        return thaw

    def _seal_vault(self) -> Undo | None:
        with suppress(Exception):  # it may not yet be able to, just after a start
            self.vault.seal()
            self._emit("vault sealed", "Vault is sealed")

            def unseal() -> None:
                self.vault.unseal()
                self.story.append(f"{datetime.now(UTC).time()} Vault is unsealed")

            return unseal
        return None

    def _spoil_network(self) -> Undo:
        mode = self.rng.choice(MODES)
        self._emit("network", f"the network to Vault: {mode}")
        self.network.seconds = self.rng.uniform(0.1, 1.5) if mode == "delay" else 0.01
        self.network.mode = mode

        def repair() -> None:
            self.network.mode = "pass"
            self.story.append(f"{datetime.now(UTC).time()} the network to Vault works again")

        return repair

    def _outage(self) -> Undo:
        self._emit("outage", "the provider is down")
        self.rotator.simulator.stop()

        def back() -> None:
            self.rotator.simulator.start()
            self.story.append(f"{datetime.now(UTC).time()} the provider is back")

        return back

    def _fault(self) -> None:
        """Mostly, let one of the provider's next calls fail."""
        rng = self.rng
        if rng.random() < 0.3:
            return
        changing = ("create", "update", "delete")
        kind, operations = rng.choice(
            [
                ("refuse", ("*",)),
                ("rate_limit", ("*",)),
                ("html", ("*",)),
                ("drop_before", changing),
                ("drop_after", changing),
                ("drop_after", ("create",)),
                ("late", changing),
                ("late", ("create",)),
                ("fail", changing),
                ("slow", ("*",)),
                ("drip", ("*",)),
                ("truncate", ("create", "list")),
                ("garble", ("create", "list")),
                ("omit", ("create",)),
                ("lag", ("list",)),
                ("shift", ("list",)),
            ]
        )
        fault = Fault(
            kind,
            rng.choice(operations),
            skip=rng.randrange(3),
            seconds=rng.uniform(0.2, 2.0),
            retry_after=1,
            after=rng.randrange(1, 15),
            by=rng.choice((1, -1)),
        )
        self.rotator.simulator.faults.add(fault)
        self._emit("fault", f"the provider's next {fault.operation} but {fault.skip}: {fault.kind}")
