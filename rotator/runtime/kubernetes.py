"""Requests to a Kubernetes API server over httpx, each of which ends in time: as whom, and what the answers amount to.

The token and the certificates are read afresh for each
request, for both are replaced in a running pod.
"""

import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx

from rotator.core.errors import KubernetesRefused, KubernetesUnavailable, LeaseUnusable
from rotator.core.ports import Clock
from rotator.core.secrets import Secret
from rotator.runtime import files
from rotator.runtime.http import Deadline, Transport
from rotator.runtime.redact import quoted, register

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""Where a pod finds its namespace, its token and the API server's certificates."""

REVIEWS = "authorization.k8s.io"

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Access:
    """Which API server, as whom, and the namespace that all is in."""

    api_server: str
    namespace: str
    token_file: Path
    ca_file: Path


@dataclass(frozen=True, slots=True)
class Right:
    """What a Role has to allow; without a name it is for all objects of the kind."""

    verb: str
    group: str
    resource: str
    name: str = ""

    def __str__(self) -> str:
        return f"{self.verb} {self.resource}{self.name and f'/{self.name}'}"


class Conflict(Exception):
    """Somebody else wrote it first."""


def access_in_a_pod(
    environment: Mapping[str, str],
    *,
    namespace: str | None,
    api_server: str | None,
    token_file: Path | None,
    ca_file: Path | None,
) -> Access:
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
    return Access(api_server, namespace, token_file or SERVICE_ACCOUNT / "token", ca_file or SERVICE_ACCOUNT / "ca.crt")


class ApiServer:
    """Asks one. Errors speak of `what`; whoever is refused is told of `rights`."""

    def __init__(self, access: Access, clock: Clock, what: str, rights: str, seconds: float) -> None:
        """`seconds`: that what is asked after a `begin` may take altogether, and one read of an answer half of."""
        self._access, self._clock = access, clock
        self._what, self._rights = what, rights
        self._seconds = seconds
        self._by = Deadline(clock)

    def begin(self) -> None:
        """The time for what this thread asks next is running from now on."""
        self._by.monotonic = self._clock.monotonic() + self._seconds

    def ask(
        self, method: str, path: str, body: Mapping[str, Any] | None, understand: Callable[[dict[str, Any]], T]
    ) -> T | None:
        """What `understand` makes of the answer; None when there is no such object to GET.

        Raises `Conflict`, or a `KubernetesUnavailable`.
        """
        answer = self._send(method, path, body)
        if answer.status_code == httpx.codes.NOT_FOUND and method == "GET":
            return None
        if answer.status_code == httpx.codes.CONFLICT:
            raise Conflict
        if answer.status_code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
            raise KubernetesRefused(
                f"the API server refuses to {method} {self._what} ({answer.status_code})", self._rights
            )
        try:
            return understand(answer.raise_for_status().json())
        except (httpx.HTTPStatusError, AttributeError, KeyError, TypeError, ValueError):
            pass
        raise KubernetesUnavailable(
            f"the API server {self._access.api_server} answered {answer.status_code} about {self._what}"
        )

    def allows(self, right: Right) -> bool:
        """Whether this replica has it. Raises a `KubernetesUnavailable`."""
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
        raise KubernetesRefused(f"the token file {file} for {self._what} {why}", "It is read afresh at each try.")

    def _send(self, method: str, path: str, body: Mapping[str, Any] | None) -> httpx.Response:
        """Whatever the API server answers. Raises a `KubernetesUnavailable` when it does not."""
        access = self._access
        failure: KubernetesUnavailable
        token = self._token()
        try:
            context = (
                ssl.create_default_context(cafile=str(access.ca_file))
                if access.api_server.startswith("https:")
                else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            )
            transport = Transport(context, 1, self._by)
            with httpx.Client(transport=transport, trust_env=False, timeout=self._seconds / 2) as client:
                return client.request(
                    method,
                    f"{access.api_server.rstrip('/')}/apis/{path}",
                    json=body,
                    headers={"Authorization": f"Bearer {token.reveal()}", "User-Agent": "rotator"},
                )
        except OSError as error:  # `ssl` names no file
            why = error.strerror or quoted(str(error))
            failure = KubernetesRefused(f"the certificates in {access.ca_file} for {self._what} cannot be used: {why}")
        except (httpx.HTTPError, ValueError) as error:
            failure = KubernetesUnavailable(
                f"the API server {access.api_server} does not answer about {self._what} ({_why(error)})",
                "This heals when the API server is back; while nobody renews the Lease nobody leads.",
            )
        raise failure


def _why(error: BaseException) -> str:
    """The kind of error; and what TLS has against the other side, if that is it."""
    _, mark, why = str(error).partition("certificate verify failed")
    return f"{type(error).__name__}{mark and quoted(f': {mark}{why}')}"


@dataclass(frozen=True, slots=True)
class LeaseSettings:
    """Which Lease, and what this replica is called in it. `duration` is in seconds."""

    access: Access
    name: str
    identity: str
    duration: float
