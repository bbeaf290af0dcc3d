"""One thing happens at a time: actors are threads that hand over a baton at every call of a port.

The thread with the baton runs; a generator seeded with the schedule's number decides who gets it next, and time
passes only here. So a schedule is the same each time it runs, whatever the machine does with its threads.
"""

import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import NamedTuple

from support.clocks import FakeClock

STUCK = 60.0
"""Real seconds after which an actor is taken to wait for something that is not a port: no schedule can resolve that."""


NEVER = float("inf")


class Killed(BaseException):
    """Thrown into an actor: its process is gone. Not an `Exception`, so that no code under test can survive it."""


class Over(BaseException):
    """Thrown into an actor: the schedule has ended."""


class Step(NamedTuple):
    """One line of a trace."""

    at: float
    actor: str
    operation: str
    subject: str
    what: str
    part_of: int  # the pass, sweep or deed that it belongs to
    is_shown: bool  # in a short trace: it changed something, or failed

    def __str__(self) -> str:
        return f"{self.at:9.2f}  {self.actor:10} {self.operation:20} {self.subject:22} {self.what}"


@dataclass(slots=True, eq=False)
class Actor:
    """A thread of a process. `rng` decides what befalls its calls, so that this does not depend on the other actors."""

    name: str
    rng: Random
    body: Callable[[], None]
    process: "Freezable"
    wake: float = 0.0
    calls: int = 0
    doomed: bool = False
    look: Callable[[], float] | None = None
    gate: threading.Lock = field(default_factory=threading.Lock)


@dataclass(slots=True, eq=False)
class Freezable:
    """What is killed and frozen as one."""

    name: str
    actors: list[Actor] = field(default_factory=list)
    frozen_until: float = 0.0
    leads: bool = True


@dataclass(slots=True, eq=False)
class Happening:
    """An actor that is no program: each step is done at once, and returns when the next is due."""

    name: str
    act: Callable[[], float]
    wake: float = 0.0


class Scheduler:
    """Gives out the baton, and lets time pass."""

    def __init__(self, seed: str, stuck: float = STUCK) -> None:
        self._stuck = stuck
        self.rng = Random(seed)
        self.clock = FakeClock()
        self.now = 0.0  # by that clock
        self.steps: list[Step] = []
        self.actors: list[Actor] = []
        self.happenings: list[Happening] = []
        self.ends: Callable[[], bool] = lambda: False
        self.crashed: Callable[[str], None] = lambda text: None
        self._main = Actor("main", Random(0), lambda: None, Freezable("main"), wake=NEVER)
        self.running = self._main
        self._over = False

    def note(
        self, actor: str, operation: str, subject: str, what: str, part_of: int = 0, *, is_shown: bool = True
    ) -> None:
        self.steps.append(Step(self.now, actor, operation, subject, what, part_of, is_shown))

    def add(self, process: Freezable, name: str, rng: Random, body: Callable[[], None]) -> None:
        actor = Actor(name, rng, body, process)
        actor.gate.acquire()
        process.actors.append(actor)
        self.actors.append(actor)

    def run(self) -> None:
        """Run until `ends` returns true. By then all threads have ended."""
        threads = [threading.Thread(target=self._live, args=(actor,), daemon=True) for actor in self.actors]
        for thread in threads:
            thread.start()
        self._main.gate.acquire()
        self._hand_over(self._main)
        self._over = True
        for actor, thread in zip(self.actors, threads, strict=True):
            actor.gate.release()
            thread.join()

    def pause(self, seconds: float = 0.0) -> None:
        """Called by the running actor: others may run now, and it goes on after so long at the earliest."""
        actor = self.running
        actor.wake = self.now + seconds
        self._hand_over(actor)
        if self._over:
            raise Over
        if actor.doomed:
            actor.doomed = False
            raise Killed

    def rest(self, seconds: float, look: Callable[[], float]) -> None:
        """Pause, and as often as `look` answers with more than no seconds, so long again.

        The thread with the baton checks this: a thread that would find nothing to do is not woken.
        """
        self.running.look = look
        self.pause(seconds)

    def kill(self, process: Freezable) -> None:
        """Each of the process's threads ends where it is, as soon as it gets the baton."""
        process.frozen_until = 0.0
        for actor in process.actors:
            actor.doomed, actor.wake = True, self.now

    def freeze(self, process: Freezable, seconds: float) -> None:
        process.frozen_until = self.now + seconds

    def _live(self, actor: Actor) -> None:
        actor.gate.acquire()
        try:
            if not self._over:
                actor.body()
        except Over:
            return
        except BaseException:
            self.crashed(traceback.format_exc())
            actor.wake = NEVER
            self._pass_on(self._main)

    def _hand_over(self, actor: Actor) -> None:
        chosen = self._choose(actor)
        if chosen is not actor:
            self._pass_on(chosen)
            if not actor.gate.acquire(timeout=self._stuck):
                raise RuntimeError(f"{self.running.name} waits for something that is not a port")

    def _pass_on(self, chosen: Actor) -> None:
        self.running = chosen
        chosen.gate.release()

    def _choose(self, last: Actor) -> Actor:
        rng = self.rng
        while not self.ends():
            is_ready = last.wake <= self.now and last.process.frozen_until <= self.now
            ready, next_at = ([], self.now) if is_ready else self._ready()
            if not (is_ready or ready):
                self._advance(next_at)
                continue
            keeps = rng.random() < 0.5  # runs of steps by one actor find as much as a mixture
            if is_ready and keeps:
                chosen: Actor | Happening = last
            else:
                ready = ready or self._ready()[0]
                chosen = ready[int(rng.random() * len(ready))]
            if isinstance(chosen, Happening):
                chosen.wake = chosen.act()
                continue
            self.running = last = chosen
            if chosen.look is None or chosen.doomed or not (more := chosen.look()):
                chosen.look = None
                return chosen
            chosen.wake = self.now + more
        return self._main

    def _ready(self) -> tuple[list[Actor | Happening], float]:
        """Return who is ready, and when the first of the others will be."""
        now, ready, next_at = self.now, list[Actor | Happening](), NEVER
        for actor in self.actors:
            at, frozen_until = actor.wake, actor.process.frozen_until
            if frozen_until > at:
                at = frozen_until
            if at <= now:
                ready.append(actor)
            elif at < next_at:
                next_at = at
        for happening in self.happenings:
            at = happening.wake
            if at <= now:
                ready.append(happening)
            elif at < next_at:
                next_at = at
        return ready, next_at

    def _advance(self, to: float) -> None:
        """Let the time pass until the next is ready."""
        self.clock.sleep(max(to - self.now, 1e-6))
        self.now = self.clock.monotonic()
