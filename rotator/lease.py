"""A Kubernetes Lease, so that of several replicas one acts: acquired, renewed, lost, and released at a clean stop.

It saves work and decides nothing: that two replicas which both believe they lead break no promise, the store's
compare-and-set sees to. So there is no harm in a holder that is slow to notice; but it is made to stop before another
can begin.

- Whether another's lease has run out is judged by how long *this* process has seen it unchanged, never by the times
  that stand in it: clocks differ.
- A holder counts from the moment at which it *began* its last renewal that was taken, and stops at two thirds of the
  duration; the others wait for the whole of it, from when they saw that renewal, which is later.
- A renewal takes at most a third of the duration, reading and writing together, however slowly the answer drips in:
  one that fails leaves time for another.

Requests go to the API server over httpx: GET, POST and PUT of one object, whose `resourceVersion` makes them a
compare-and-set. The token and the certificates are read afresh for each, for both are replaced in a running pod.
"""

import socket
import ssl
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx

from rotator.deadline import Transport, Until
from rotator.errors import LeaseUnusable, RotatorError
from rotator.events import Event, Fields, Level, What
from rotator.logs import unexpected
from rotator.ports import Clock, Listener

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""Where a pod finds its namespace, its token and the API server's certificates."""


GROUP, REVIEWS = "coordination.k8s.io", "authorization.k8s.io"

LOOK_EVERY = 2.0
"""Seconds between two looks of a replica that waits, at most."""

RIGHTS = "The Role of the ServiceAccount needs get and update on this Lease, and create on leases."


@dataclass(frozen=True, slots=True)
class LeaseSettings:
    """Which Lease, as whom, and where. `duration` is in seconds."""

    api_server: str
    namespace: str
    name: str
    identity: str
    token_file: Path
    ca_file: Path
    duration: float


def settings_in_a_pod(
    environment: Mapping[str, str],
    *,
    name: str,
    duration: float,
    namespace: str | None,
    identity: str | None,
    api_server: str | None,
    token_file: Path | None,
    ca_file: Path | None,
) -> LeaseSettings:
    """What is left out is the pod's own. Raises `LeaseUnusable` where there is no pod to tell it."""
    host, port = environment.get("KUBERNETES_SERVICE_HOST"), environment.get("KUBERNETES_SERVICE_PORT", "443")
    if api_server is None and host:
        api_server = f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"
    if namespace is None:
        try:
            namespace = (SERVICE_ACCOUNT / "namespace").read_text().strip()
        except OSError:
            namespace = None
    if not api_server or not namespace:
        missing = "api_server" if not api_server else "namespace"
        raise LeaseUnusable(
            f"[lease].{missing} is not said, and there is no pod whose it could be",
            "Outside of a cluster leave [lease] out: without it this replica acts alone.",
        )
    return LeaseSettings(
        api_server,
        namespace,
        name,
        identity or environment.get("HOSTNAME") or socket.gethostname(),
        token_file or SERVICE_ACCOUNT / "token",
        ca_file or SERVICE_ACCOUNT / "ca.crt",
        duration,
    )


@dataclass(frozen=True, slots=True)
class _Seen:
    """Somebody's lease as this process saw it first, and when (monotonic)."""

    version: str
    at: float


class _Failed(RotatorError):
    """Nothing is known of the Lease."""


class _Refused(_Failed):
    """And that lasts until somebody mends the token, the certificates or the rights."""

    needs_a_person = True


class _Stopping(Exception):
    """It is being given back: nothing more is written."""


class Lease:
    """Keeps trying to lead, on a thread of its own between `start` and `stop`; `leads` is a `ports.Leadership`."""

    def __init__(
        self, settings: LeaseSettings, clock: Clock, tell: Listener, changed: Callable[[bool], None] = lambda _: None
    ) -> None:
        """`changed` is called, on that thread, whenever this process begins or ends to lead."""
        self._settings = settings
        self._clock = clock
        self._tell = tell
        self._changed = changed
        self._by = Until(clock)
        self._until = float("-inf")  # monotonic; this process leads before that
        self._led = False  # and that was told
        self._seen: _Seen | None = None
        self._failures: set[str] = set()  # what was told, since it last worked
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="lease", daemon=True)
        self.holder = ""  # who led at the last look

    def leads(self) -> bool:
        """Whether this process may act now."""
        return self._clock.monotonic() < self._until and not self._stopping.is_set()

    def start(self) -> None:
        """Begin to try for it."""
        self._thread.start()

    def stop(self) -> None:
        """Give it back, so that another need not wait. To be called when nothing is under way any more."""
        self._stopping.set()
        self._thread.join(timeout=self._settings.duration / 3)  # as long as a try takes: a pod is not given for ever
        # Twice: if the thread did not end in time, what it had sent may come in between; it sends nothing more.
        for _ in range(2):
            try:
                self._release()
            except _Conflict:
                continue
            except _Failed:
                pass  # then it runs out by itself
            return

    def _release(self) -> None:
        """Whether this process still leads does not matter: the others wait for as long as it is named."""
        self._by.monotonic = self._clock.monotonic() + self._settings.duration / 3
        held = self._get()
        if held is not None and _holder(held) == self._settings.identity:
            self._put(held, {"holderIdentity": "", "leaseDurationSeconds": 1})

    def missing_rights(self) -> list[str]:
        """The rights that it takes and this process lacks, for `check`; changes nothing. Raises `LeaseUnusable`."""
        settings, missing = self._settings, []
        for verb, name in (("get", settings.name), ("update", settings.name), ("create", "")):
            wanted = {"group": GROUP, "resource": "leases", "namespace": settings.namespace, "verb": verb, "name": name}
            review = {"apiVersion": f"{REVIEWS}/v1", "kind": "SelfSubjectAccessReview"}
            body = {**review, "spec": {"resourceAttributes": wanted}}
            self._by.monotonic = self._clock.monotonic() + settings.duration
            failure = f"the API server {settings.api_server} does not say whether the Lease may be kept"
            try:
                answer = self._send("POST", f"{REVIEWS}/v1/selfsubjectaccessreviews", body)
                failure += f" (it answered {answer.status_code})"
                allowed = answer.raise_for_status().json()["status"]["allowed"]
            except _Failed as error:
                raise LeaseUnusable(str(error), error.advice) from None
            except (httpx.HTTPStatusError, ValueError, KeyError, TypeError):
                raise LeaseUnusable(failure, "Look at the token, and at the address of the API server.") from None
            if not allowed:
                missing.append(f"{verb} on the Lease {name}" if name else f"{verb} on leases")
        return missing

    # --- on its own thread -------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._stopping.is_set():
            began = self._clock.monotonic()
            try:
                self.attempt()
            except Exception as error:  # a thread that ends would never lead again, and nobody would know why
                self._tell(unexpected("keeping the Lease", error))
            pause = self._pause()
            self._stopping.wait(max(pause - (self._clock.monotonic() - began), pause / 4))

    def _pause(self) -> float:
        """Seconds from one try to the next.

        A holder renews three times before it would have to stop. Whoever waits finds one that was given back within
        two seconds, however long it is held: at each upgrade nobody leads for that long.
        """
        return self._settings.duration / 5 if self.leads() else min(self._settings.duration / 8, LOOK_EVERY)

    def attempt(self) -> None:
        """Try once to get or to keep it. Raises nothing."""
        try:
            self._acquire_or_renew()
        except _Conflict:
            self._seen = None  # somebody wrote in between: look again
        except _Stopping:
            return
        except _Failed as error:
            if str(error) not in self._failures:
                fields: Fields = {"error": str(error), "advice": error.advice, "leads": self.leads()}
                self._tell(Event(What.LEASE_FAILED, "", Level.of(error), fields))
            self._failures.add(str(error))
        else:
            if self._failures:
                self._tell(Event(What.LEASE_RECOVERED, fields=self._about()))
            self._failures.clear()
        if self.leads() is not self._led:
            self._led = not self._led
            self._tell(Event(What.LEADING if self._led else What.STANDING_BY, fields=self._about()))
            self._changed(self._led)

    def _about(self) -> Fields:
        return {"lease": f"{self._settings.namespace}/{self._settings.name}", "holder": self.holder}

    def _acquire_or_renew(self) -> None:
        me, now = self._settings.identity, self._clock.monotonic()
        self._by.monotonic = now + self._settings.duration / 3
        held = self._get()
        if held is None:
            self._write(None, self._spec(transitions=0))
        else:
            self.holder = _holder(held)
            if self.holder not in ("", me) and not self._has_run_out(held):
                self._until = float("-inf")
                return
            mine = self.holder == me
            transitions = int(held["spec"].get("leaseTransitions") or 0)
            spec = self._spec(transitions if mine else transitions + 1)
            if mine:
                spec["acquireTime"] = held["spec"].get("acquireTime") or spec["acquireTime"]
            self._write(held, spec)
        self.holder = me
        self._until = now + self._settings.duration * 2 / 3
        took = self._clock.monotonic() - now
        if not self.leads() and not self._stopping.is_set():  # this process stood still, or its name service did
            raise _Failed(
                f"it took {took:.0f} s to renew the Lease {self._settings.namespace}/{self._settings.name}, "
                f"which is held for {self._settings.duration * 2 / 3:.0f} s",
                "Nobody leads until the next try. Is this machine overloaded, or its DNS slow?",
            )

    def _write(self, held: Mapping[str, Any] | None, spec: Mapping[str, Any]) -> None:
        """Take or keep it, unless `stop` has begun, which may not have waited for this thread."""
        if self._stopping.is_set():
            raise _Stopping
        if held is None:
            self._ask("POST", "", {"metadata": {"name": self._settings.name}, "spec": dict(spec)})
        else:
            self._put(held, spec)

    def _has_run_out(self, held: Mapping[str, Any]) -> bool:
        now, version = self._clock.monotonic(), str(held["metadata"]["resourceVersion"])
        if self._seen is None or self._seen.version != version:
            self._seen = _Seen(version, now)
        duration = max(float(held["spec"].get("leaseDurationSeconds") or 0), self._settings.duration)
        return now - self._seen.at >= duration

    def _spec(self, transitions: int) -> dict[str, Any]:
        now = self._clock.now().astimezone(UTC)
        return {
            "holderIdentity": self._settings.identity,
            "leaseDurationSeconds": max(1, round(self._settings.duration)),
            "acquireTime": _micro(now),
            "renewTime": _micro(now),
            "leaseTransitions": transitions,
        }

    # --- requests ----------------------------------------------------------------------------------------------------

    def _get(self) -> dict[str, Any] | None:
        return self._ask("GET", self._settings.name)

    def _put(self, held: Mapping[str, Any], changes: Mapping[str, Any]) -> None:
        self._ask("PUT", self._settings.name, {"metadata": held["metadata"], "spec": {**held["spec"], **changes}})

    def _token(self, what: str) -> str:
        file, why = self._settings.token_file, "holds no token"
        try:
            token = file.read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            token, why = "", f"cannot be read: {getattr(error, 'strerror', 'it is no text')}"
        if token.isascii() and token.isprintable() and token:
            return token
        raise _Refused(f"the token file {file} for {what} {why}", "It is read afresh at each try.")

    def _send(self, method: str, path: str, body: dict[str, Any] | None) -> httpx.Response:
        """Whatever the API server answers. Raises `_Failed` when it does not."""
        settings, what = self._settings, f"the Lease {self._settings.namespace}/{self._settings.name}"
        failure: _Failed | None = None
        token = self._token(what)
        try:
            context = (
                ssl.create_default_context(cafile=str(settings.ca_file))
                if settings.api_server.startswith("https:")
                else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            )
            transport = Transport(context, 1, self._by)
            with httpx.Client(transport=transport, trust_env=False, timeout=settings.duration / 6) as client:
                return client.request(
                    method,
                    f"{settings.api_server.rstrip('/')}/apis/{path}",
                    json=body,
                    headers={"Authorization": f"Bearer {token}", "User-Agent": "rotator"},
                )
        except OSError as error:  # `ssl` names no file
            failure = _Refused(
                f"the certificates in {settings.ca_file} for {what} cannot be used: {error.strerror or error}"
            )
        except (httpx.HTTPError, ValueError) as error:
            failure = _Failed(
                f"the API server {settings.api_server} does not answer about {what} ({_why(error)})",
                "While nobody renews the Lease nobody leads; this heals when the API server is back.",
            )
        raise failure

    def _ask(self, method: str, name: str, body: dict[str, Any] | None = None) -> dict[str, Any] | None:
        """The object; None when there is none. Raises `_Conflict` or `_Failed`."""
        settings = self._settings
        leases = f"{GROUP}/v1/namespaces/{settings.namespace}/leases"
        what = f"the Lease {settings.namespace}/{settings.name}"
        if body is not None:
            body = {"apiVersion": f"{GROUP}/v1", "kind": "Lease", **body}
        answer = self._send(method, f"{leases}/{name}" if name else leases, body)
        if answer.status_code == httpx.codes.NOT_FOUND and method == "GET":
            return None
        if answer.status_code == httpx.codes.CONFLICT:
            raise _Conflict
        if answer.status_code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
            raise _Refused(f"the API server refuses to {method} {what} ({answer.status_code})", RIGHTS)
        try:
            found: dict[str, Any] = answer.raise_for_status().json()
            found["spec"], found["metadata"]["resourceVersion"]
        except (httpx.HTTPStatusError, ValueError, KeyError, TypeError):
            pass
        else:
            return found
        raise _Failed(f"the API server {settings.api_server} answered {answer.status_code} about {what}")


class _Conflict(Exception):
    """Somebody else wrote it first."""


def _why(error: BaseException) -> str:
    """The kind of error; and what TLS has against the other side, if that is it."""
    _, mark, why = str(error).partition("certificate verify failed")
    return f"{type(error).__name__}{mark and f': {mark}{why}'}"


def _holder(held: Mapping[str, Any]) -> str:
    return str(held["spec"].get("holderIdentity") or "")


def _micro(moment: datetime) -> str:
    """Kubernetes' MicroTime."""
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
