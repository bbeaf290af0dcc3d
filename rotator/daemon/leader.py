"""Holds a Kubernetes Lease, so that one of several replicas acts. Released at a clean stop.

The Lease only saves work. The store's compare-and-set protects the promises, even if two replicas believe that they
lead. All the same a holder stops before another replica can start:

- Another replica's lease has expired when *this* process has seen it unchanged for its duration. The times in the
  Lease do not count, because clocks differ.
- A holder leads for two thirds of the duration, counted from the *start* of its last successful renewal. The others
  wait for the whole duration, counted from when they saw that renewal, which is later.
- A renewal takes at most a third of the duration, however slowly the answer arrives. So a failed one can be retried.

The requests are GET, POST and PUT of one object, whose `resourceVersion` makes a write a compare-and-set.
"""

import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

from rotator.core.errors import KubernetesUnavailable
from rotator.core.events import Event, EventType, Fields, Level
from rotator.core.ports import Clock, Listener
from rotator.core.versions import LONGEST_TEXT
from rotator.daemon.notices import Notices
from rotator.runtime.kubernetes import ApiServer, Conflict, LeaseSettings, Right
from rotator.runtime.threads import start
from rotator.telemetry.logging import unexpected

GROUP = "coordination.k8s.io"

LOOK_EVERY = 2.0
"""The longest time between two attempts of a standby, in seconds."""

STUCK = 120.0
"""Seconds without an attempt after which the thread is stuck. Resolving a name may take long, and has no time-out."""

RIGHTS = "The Role of the ServiceAccount needs get and update on this Lease, and create on leases."


def rights(name: str) -> tuple[Right, ...]:
    """Return the rights that keeping this Lease needs."""
    return Right("get", GROUP, "leases", name), Right("update", GROUP, "leases", name), Right("create", GROUP, "leases")


LEFT = "rotator/health"
"""The annotation with what a leader leaves to its successor."""

MOST = 256 * 1024
"""Bytes of all annotations. With more, Kubernetes would refuse the renewal, and no replica would lead."""


class Handover(Protocol):
    """What a leader leaves to its successor. Only the thread of the Lease calls it. Its methods return at once."""

    def resume(self, text: str) -> None:
        """Begin with the text that the last leader left; empty if it left none."""

    def text(self) -> str:
        """Return what a successor would need now, at most 128 KiB; empty if it needs nothing."""

    def written(self) -> None:
        """Learn that the last text is stored, and that this process leads."""


@dataclass(frozen=True, slots=True)
class _Seen:
    """A version of another replica's lease, and when this process first saw it (monotonic)."""

    version: str
    at: float


class _Stopping(Exception):
    """The Lease is being released, so nothing else may be written."""


class Lease:
    """Tries to lead, on a thread of its own, from `start` to `stop`. `leads` is a `ports.Leadership`."""

    def __init__(
        self,
        settings: LeaseSettings,
        clock: Clock,
        emit: Listener,
        handover: Handover,
        changed: Callable[[bool], None] = lambda _: None,
    ) -> None:
        """The thread calls `changed` when this process starts to lead, and when it stops leading."""
        self._handover = handover
        self._settings = settings
        self.identity = settings.identity
        self._clock = clock
        self._emit = emit
        self._changed = changed
        self._where = f"{settings.access.namespace}/{settings.name}"
        self._server = ApiServer(
            settings.access,
            clock,
            f"the Lease {self._where}",
            RIGHTS,
            settings.duration / 3,
            meanwhile="No replica leads while none can renew the Lease.",
        )
        self._until = float("-inf")  # monotonic; this process leads before that
        self._led = False  # as last reported
        self._seen: _Seen | None = None
        self._notices = Notices(emit)
        self._stopping = threading.Event()
        self._tried: float | None = None  # the last attempt (monotonic); None before the start
        self._thread = threading.Thread(target=self._run, name="lease", daemon=True)
        self._holder, self._looked = "", float("-inf")  # the leader at the last read, and its time (monotonic)

    def leads(self) -> bool:
        """Return whether this process may act now."""
        return self._clock.monotonic() < self._until and not self._stopping.is_set()

    @property
    def holder(self) -> str:
        """Return the leader; empty if there is none, or if the last answer is too old."""
        if self._holder == self.identity:
            return self._holder if self.leads() else ""
        return self._holder if self._clock.monotonic() - self._looked < self._settings.duration else ""

    def start(self) -> None:
        """Start to try. Raises `RotatorError` if the machine has no thread left."""
        self._tried = self._clock.monotonic()
        start(self._thread)

    def problems(self) -> Iterator[str]:
        """Yield why the Lease is no longer kept, between start and stop."""
        if self._tried is None or self._stopping.is_set():
            return
        silent = self._clock.monotonic() - self._tried
        if not self._thread.is_alive():
            yield "the thread that keeps the Lease has ended"
        elif silent > max(STUCK, 4 * self._settings.duration):
            yield f"the last attempt at the Lease was {silent:.0f} s ago"

    def stop(self) -> None:
        """Release the Lease, so that no other replica has to wait. Call this when no work is under way."""
        self._stopping.set()
        self._thread.join(timeout=self._settings.duration / 3)  # as long as an attempt takes: a pod must end in time
        # Twice, because a late request of the thread may win once. The thread sends no other.
        for _ in range(2):
            try:
                self._release()
            except Conflict:
                continue
            except KubernetesUnavailable:
                pass  # it expires
            return

    def _release(self) -> None:
        """Clear the holder if it is this process, even one that no longer leads: the others wait for the holder."""
        self._server.begin()
        held = self._get()
        if held is not None and _holder(held) == self.identity:
            self._put(held, {"holderIdentity": "", "leaseDurationSeconds": 1})

    # --- on its own thread -------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._stopping.is_set():
            began = self._tried = self._clock.monotonic()
            try:
                self.attempt()
            except Exception as error:  # if the thread ended, this replica would never lead again
                self._emit(unexpected("keeping the Lease", error))
            pause = self._pause()
            self._stopping.wait(max(pause - (self._clock.monotonic() - began), pause / 4))

    def _pause(self) -> float:
        """Return the seconds from one attempt to the next.

        A holder renews three times before it would have to stop. A standby finds a released Lease within two seconds,
        whatever its duration. Each upgrade is without a leader for that long.
        """
        return self._settings.duration / 5 if self.leads() else min(self._settings.duration / 8, LOOK_EVERY)

    def attempt(self) -> None:
        """Try once to acquire or renew the Lease. Raises nothing."""
        try:
            self._acquire_or_renew()
        except Conflict:
            self._seen = None  # another replica wrote meanwhile: read again
        except _Stopping:
            return
        except KubernetesUnavailable as error:
            fields: Fields = {"error": str(error), "advice": error.advice, "leads": self.leads()}
            self._notices.report(Event(EventType.LEASE_FAILED, "", Level.of(error), fields), trouble=str(error))
        else:
            self._notices.resolve(Event(EventType.LEASE_RECOVERED, fields=self._about()))
        if self.leads() is not self._led:
            self._led = not self._led
            self._emit(
                Event(EventType.LEADERSHIP_ACQUIRED if self._led else EventType.LEADERSHIP_LOST, fields=self._about())
            )
            self._changed(self._led)

    def _about(self) -> Fields:
        return {"lease": self._where, "holder": self.holder}

    def _acquire_or_renew(self) -> None:
        me, now = self.identity, self._clock.monotonic()
        self._server.begin()
        held = self._get()
        if held is None:
            self._resume({})
            self._write(None, self._spec(transitions=0))
        else:
            self._holder, self._looked = _holder(held), now
            if self._holder not in ("", me) and not self._has_expired(held):
                self._until = float("-inf")
                return
            self._resume(held["metadata"])
            mine = self._holder == me
            transitions = int(held["spec"].get("leaseTransitions") or 0)
            spec = self._spec(transitions if mine else transitions + 1)
            if mine:
                spec["acquireTime"] = held["spec"].get("acquireTime") or spec["acquireTime"]
            self._write(held, spec)
        self._holder = me
        self._until = now + self._settings.duration * 2 / 3
        self._handover.written()
        took = self._clock.monotonic() - now
        if not self.leads() and not self._stopping.is_set():  # this process or its DNS was slow
            raise KubernetesUnavailable(
                f"it took {took:.0f} s to renew the Lease {self._where}, "
                f"which is held for {self._settings.duration * 2 / 3:.0f} s",
                "No replica leads until the next attempt. Is this machine overloaded, or its DNS slow?",
            )

    def _resume(self, metadata: Mapping[str, Any]) -> None:
        """Begin where the last leader has ended, unless this process has led since."""
        if self._clock.monotonic() >= self._until:
            self._handover.resume(str(_annotations(metadata).get(LEFT, "")))

    def _write(self, held: Mapping[str, Any] | None, spec: Mapping[str, Any]) -> None:
        """Write the Lease. Raises `_Stopping` if `stop` has begun, because it may not have waited for this thread."""
        if self._stopping.is_set():
            raise _Stopping
        if held is None:
            self._ask("POST", "", {"metadata": self._metadata({"name": self._settings.name}), "spec": dict(spec)})
        else:
            self._put(held, spec)

    def _has_expired(self, held: Mapping[str, Any]) -> bool:
        now, version = self._clock.monotonic(), str(held["metadata"]["resourceVersion"])
        if self._seen is None or self._seen.version != version:
            self._seen = _Seen(version, now)
        duration = max(float(held["spec"].get("leaseDurationSeconds") or 0), self._settings.duration)
        return now - self._seen.at >= duration

    def _spec(self, transitions: int) -> dict[str, Any]:
        now = self._clock.now().astimezone(UTC)
        return {
            "holderIdentity": self.identity,
            "leaseDurationSeconds": max(1, round(self._settings.duration)),
            "acquireTime": _micro(now),
            "renewTime": _micro(now),
            "leaseTransitions": transitions,
        }

    # --- requests ----------------------------------------------------------------------------------------------------

    def _get(self) -> dict[str, Any] | None:
        return self._ask("GET", self._settings.name)

    def _put(self, held: Mapping[str, Any], changes: Mapping[str, Any]) -> None:
        body = {"metadata": self._metadata(held["metadata"]), "spec": {**held["spec"], **changes}}
        self._ask("PUT", self._settings.name, body)

    def _metadata(self, held: Mapping[str, Any]) -> dict[str, Any]:
        """Return the metadata with what this leader leaves to its successor, if the others' annotations allow it."""
        others = {name: text for name, text in _annotations(held).items() if name != LEFT}
        annotations = {**others, LEFT: self._handover.text()}
        fits = sum(len(f"{name}{text}".encode()) for name, text in annotations.items()) <= MOST
        return {**held, "annotations": annotations if annotations[LEFT] and fits else others}

    def _ask(self, method: str, name: str, body: dict[str, Any] | None = None) -> dict[str, Any] | None:
        """Return the Lease that the API server answers, or None. Raises `Conflict` or `KubernetesUnavailable`."""
        leases = f"{GROUP}/v1/namespaces/{self._settings.access.namespace}/leases"
        if body is not None:
            body = {"apiVersion": f"{GROUP}/v1", "kind": "Lease", **body}
        return self._server.ask(method, f"{leases}/{name}" if name else leases, body, _understood)


def _understood(found: dict[str, Any]) -> dict[str, Any]:
    """Return the answer if it is a Lease. Raises KeyError or TypeError if it is not."""
    found["spec"], found["metadata"]["resourceVersion"]
    return found


def _annotations(metadata: Mapping[str, Any]) -> dict[str, Any]:
    return dict(metadata.get("annotations") or {})


def _holder(held: Mapping[str, Any]) -> str:
    return str(held["spec"].get("holderIdentity") or "")[:LONGEST_TEXT]


def _micro(moment: datetime) -> str:
    """Return Kubernetes' MicroTime."""
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
