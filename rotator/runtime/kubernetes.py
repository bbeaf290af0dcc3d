"""Requests to a Kubernetes API server within a deadline: the identity, and what the answers mean.

The token and the certificates are read for each request, since both are replaced in a running pod.
"""

import json
import ssl
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from rotator.core.errors import KubernetesRefused, KubernetesUnavailable, LeaseUnusable
from rotator.core.ports import Clock
from rotator.core.secrets import Secret
from rotator.runtime import files
from rotator.runtime.http import HttpClient, Response
from rotator.runtime.redact import quoted, register

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""Where a pod finds its namespace, its token and the API server's certificates."""

REVIEWS = "authorization.k8s.io"

MAX_BODY = 2**20  # bytes of an answer

_MERGE = {"Content-Type": "application/merge-patch+json"}

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Access:
    """Which API server, with which identity, and the namespace of all objects."""

    api_server: str
    namespace: str
    token_file: Path
    ca_file: Path


@dataclass(frozen=True, slots=True)
class Right:
    """What a Role must allow; without a name, for all objects of the kind."""

    verb: str
    group: str
    resource: str
    name: str = ""

    def __str__(self) -> str:
        return f"{self.verb} {self.resource}{self.name and f'/{self.name}'}"


class Conflict(Exception):
    """Another writer was first."""


def access_in_a_pod(
    environment: Mapping[str, str],
    *,
    namespace: str | None,
    api_server: str | None,
    token_file: Path | None,
    ca_file: Path | None,
) -> Access:
    """Return the access, completed from the pod. Raises `LeaseUnusable` outside of a pod."""
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
            f"[lease].{missing} is not set, and rotator is not running in a pod",
            "Outside of a cluster leave [lease] out: without it this replica acts alone.",
        )
    return Access(api_server, namespace, token_file or SERVICE_ACCOUNT / "token", ca_file or SERVICE_ACCOUNT / "ca.crt")


class ApiServer:
    """Sends requests to an API server. Errors name `what`; the advice after a refusal is `rights`."""

    def __init__(
        self, access: Access, clock: Clock, what: str, rights: str, seconds: float, *, meanwhile: str = ""
    ) -> None:
        """`seconds` bound all requests after a `begin` together, and half of that each read of an answer.

        `meanwhile` is what does not happen without answers.
        """
        self._access, self._clock = access, clock
        self._what, self._rights, self._meanwhile = what, rights, meanwhile
        self._seconds = seconds
        self._by = threading.local()  # a stop may send requests while the thread that keeps the Lease does

    def begin(self) -> None:
        """Start the time for the next requests of this thread."""
        self._by.monotonic = self._clock.monotonic() + self._seconds

    def ask(
        self, method: str, path: str, body: Mapping[str, Any] | None, understand: Callable[[dict[str, Any]], T]
    ) -> T | None:
        """Return what `understand` makes of the answer. None: there is no such object to GET.

        Raises `Conflict`, or a `KubernetesUnavailable`.
        """
        answer = self._send(method, path, body)
        if answer.status == 404 and method == "GET":
            return None
        if answer.status == 409:
            raise Conflict
        if answer.status in (401, 403):
            raise KubernetesRefused(f"the API server refuses to {method} {self._what} ({answer.status})", self._rights)
        if answer.is_success:
            with suppress(AttributeError, KeyError, TypeError, ValueError, RecursionError):
                return understand(json.loads(answer.body or b""))
        raise KubernetesUnavailable(
            f"the API server {self._access.api_server} answered {answer.status} about {self._what}{_reason(answer)}"
        )

    def allows(self, right: Right) -> bool:
        """Return whether this replica has it. Raises a `KubernetesUnavailable`."""
        wanted = {
            "namespace": self._access.namespace,
            "verb": right.verb,
            "group": right.group,
            "resource": right.resource,
            "name": right.name,
        }
        review = {"apiVersion": f"{REVIEWS}/v1", "kind": "SelfSubjectAccessReview"}
        body = {**review, "spec": {"resourceAttributes": wanted}}
        path = f"{REVIEWS}/v1/selfsubjectaccessreviews"
        return self.ask("POST", path, body, lambda answer: answer["status"]["allowed"] is True) or False

    def _token(self) -> Secret:
        file, why = self._access.token_file, "holds no token"
        try:
            token = files.read(file).decode().strip()
        except (OSError, UnicodeDecodeError) as error:
            token, why = "", f"cannot be read: {getattr(error, 'strerror', 'it is no text')}"
        if token.isascii() and token.isprintable() and token:
            return register(Secret(token))
        raise KubernetesRefused(f"the token file {file} for {self._what} {why}", "Each try reads it again.")

    def _send(self, method: str, path: str, body: Mapping[str, Any] | None) -> Response:
        """Return the answer, whatever its status. Raises a `KubernetesUnavailable` when there is none."""
        access, token = self._access, self._token()
        client = HttpClient(self._clock, timeout=self._seconds / 2, context=self._context())
        try:
            answer = client.send(
                method,
                f"{access.api_server.rstrip('/')}/apis/{path}",
                by=self._by.monotonic,
                max_body=MAX_BODY,
                headers={"Authorization": f"Bearer {token.reveal()}", **(_MERGE if method == "PATCH" else {})},
                body=body,
            )
        finally:
            client.close()
        if isinstance(answer, Response) and answer.body is not None:
            return answer
        why = answer.flaw if isinstance(answer, Response) else quoted(answer.reason)
        raise KubernetesUnavailable(
            f"the API server {access.api_server} does not answer about {self._what} ({why})",
            f"Nothing to do if the API server comes back. {self._meanwhile}".rstrip(),
        )

    def _context(self) -> ssl.SSLContext:
        ca_file = self._access.ca_file
        if not self._access.api_server.startswith("https:"):
            return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        try:
            return ssl.create_default_context(cafile=str(ca_file))
        except OSError as error:  # `ssl` names no file
            why = error.strerror or quoted(str(error))
        raise KubernetesRefused(f"the certificates in {ca_file} for {self._what} cannot be used: {why}")


def _reason(answer: Response) -> str:
    """Return why the API server refuses a request. The reasons of an outage differ too much for a log."""
    with suppress(AttributeError, KeyError, TypeError, ValueError, RecursionError):
        return f" ({quoted(json.loads(answer.body or b'')['message'])})" if answer.status in (400, 404, 422) else ""
    return ""


@dataclass(frozen=True, slots=True)
class LeaseSettings:
    """Which Lease, and what this replica is called in it. `duration` is in seconds."""

    access: Access
    name: str
    identity: str
    duration: float
