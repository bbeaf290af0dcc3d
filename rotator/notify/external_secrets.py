"""External Secrets: annotates what reads a target, so that it is refreshed in seconds and not within the hour.

Labels show which ExternalSecrets those are. rotator reads no secret there, and restarts nothing.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar
from urllib.parse import quote

from rotator.core.errors import KubernetesUnavailable, LeaseUnusable, NotificationFailed, NotificationRefused
from rotator.core.ports import Clock
from rotator.notify.notification import Notification
from rotator.runtime.kubernetes import Access, ApiServer, Conflict, Right

GROUP = "external-secrets.io"
ANNOTATION = "external-secrets.io/force-sync"
LABEL = "rotator/target"

TIMEOUT = 15.0
"""Seconds for all requests about one target in one namespace."""

PAGE = 100
"""ExternalSecrets in one answer, which has a bound."""

RIGHTS = (Right("list", GROUP, "externalsecrets"), Right("patch", GROUP, "externalsecrets"))


@dataclass(frozen=True, slots=True)
class ExternalSecretsSender:
    """Annotates the ExternalSecrets with the label of a target. `access` returns the API server for a namespace."""

    types: ClassVar[Collection[str]] = ("key.published",)

    namespaces: Sequence[str]
    access: Callable[[str], Access]
    clock: Clock

    def send(self, notification: Notification) -> None:
        """Annotate them in each namespace. Raises the first `NotificationFailed`, after all were tried."""
        failures = []
        for namespace in self.namespaces:
            try:
                self._annotate(namespace, notification)
            except NotificationFailed as error:
                failures.append(error)
        if failures:
            raise failures[0]

    def missing_rights(self, namespace: str) -> list[Right]:
        """Return the rights that are missing in a namespace. Raises `NotificationFailed`."""
        with self._server(namespace) as server:
            _collection(server, namespace)
            return [right for right in RIGHTS if not server.allows(right)]

    def _annotate(self, namespace: str, notification: Notification) -> None:
        """Annotate them in a namespace. Raises `NotificationFailed`, after all were tried: a policy may refuse one."""
        change = {"metadata": {"annotations": {ANNOTATION: notification.id}}}
        failure = None
        with self._server(namespace) as server:
            collection = _collection(server, namespace)
            for name in _to_annotate(server, collection, notification):
                try:
                    server.ask("PATCH", f"{collection}/{quote(name, safe='')}", change, lambda _: True)
                except KubernetesUnavailable as error:
                    failure = type(error)(f"{error.message}: {name}", error.advice)
            if failure is not None:
                raise failure

    @contextmanager
    def _server(self, namespace: str) -> Iterator[ApiServer]:
        """Yield the API server, with the time for some requests. Its errors become `NotificationFailed`."""
        try:
            server = ApiServer(
                self.access(namespace),
                self.clock,
                f"the ExternalSecrets in {namespace}",
                rights_advice(namespace),
                TIMEOUT,
                meanwhile="Until then External Secrets refreshes as it is configured to.",
            )
            server.begin()
            yield server
        except LeaseUnusable as error:
            raise NotificationRefused(
                error.message,
                "[notify.external_secrets] asks the API server that [lease] names, else the pod's. Outside of a "
                "cluster leave it out.",
            ) from None
        except KubernetesUnavailable as error:
            kind = NotificationRefused if error.needs_a_person else NotificationFailed
            raise kind(error.message, error.advice) from None
        except Conflict:
            raise NotificationFailed(f"an ExternalSecret in {namespace} was written at the same time") from None


def rights_advice(namespace: str) -> str:
    """Return what to do where a right is missing."""
    return (
        f"rotator's ServiceAccount needs list and patch on externalsecrets in the namespace {namespace}. The chart "
        "grants both where notify.external_secrets names the namespace."
    )


def _collection(server: ApiServer, namespace: str) -> str:
    """Return where the ExternalSecrets of a namespace are. Raises `NotificationFailed` where there is no such kind."""
    version = server.ask("GET", GROUP, None, _preferred)
    if version is None:
        raise NotificationFailed(
            "the cluster has no ExternalSecrets",
            "Install External Secrets, or remove [notify.external_secrets]. Nothing else depends on it.",
        )
    return f"{GROUP}/{version}/namespaces/{namespace}/externalsecrets"


def _preferred(group: dict[str, Any]) -> str:
    version: str = group["preferredVersion"]["version"]
    return version


def _to_annotate(server: ApiServer, collection: str, notification: Notification) -> Iterator[str]:
    """Yield the names of those with the target's label, without those that a former try or leader has annotated."""
    selector = quote(f"{LABEL}={notification.facts['target']}", safe="")
    path = f"{collection}?labelSelector={selector}&limit={PAGE}"
    following: str | None = ""
    while following is not None:
        page = server.ask("GET", path + following, None, _page)
        found, following = page or ({}, None)
        yield from (name for name, value in found.items() if value != notification.id)


def _page(answer: dict[str, Any]) -> tuple[dict[str, str | None], str | None]:
    """Return the annotation of each ExternalSecret on a page, by name, and how to ask for the next page."""
    found = [item["metadata"] for item in answer["items"]]
    following = answer.get("metadata", {}).get("continue")
    return (
        {one["name"]: one.get("annotations", {}).get(ANNOTATION) for one in found},
        f"&continue={quote(following, safe='')}" if following else None,
    )
