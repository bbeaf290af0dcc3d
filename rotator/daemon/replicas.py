"""Which replicas there are, by the EndpointSlices of their Service: to be shown, and for nothing else.

A Lease names its holder alone. Kubernetes knows the other pods, and whether they are ready.
"""

from collections.abc import Mapping
from typing import Any

from rotator.core.errors import KubernetesUnavailable
from rotator.core.ports import Clock
from rotator.runtime.kubernetes import Access, ApiServer, Right
from rotator.telemetry.status import Replica

GROUP = "discovery.k8s.io"

RIGHT = Right("list", GROUP, "endpointslices")

RIGHTS = "The Role of the ServiceAccount needs list on endpointslices, or leave [lease].service out."

SECONDS = 5.0
"""That a look may take."""


class Replicas:
    """What was last seen of the pods behind a Service. `look` is for one thread, the rest for any."""

    def __init__(self, access: Access, service: str, clock: Clock) -> None:
        slices = f"{GROUP}/v1/namespaces/{access.namespace}/endpointslices"
        self._path = f"{slices}?labelSelector=kubernetes.io/service-name={service}"
        what = f"the replicas behind the Service {access.namespace}/{service}"
        self._server = ApiServer(access, clock, what, RIGHTS, SECONDS)
        self.seen: tuple[Replica, ...] = ()  # by name
        self.error: KubernetesUnavailable | None = None  # why that may be old, or is nothing

    def look(self) -> None:
        """Ask once. Raises nothing of ours: whoever shows it shows the error, too."""
        self._server.begin()
        try:
            self.seen, self.error = self._server.ask("GET", self._path, None, _read) or (), None
        except KubernetesUnavailable as error:
            self.error = error


def _read(slices: Mapping[str, Any]) -> tuple[Replica, ...]:
    """One for each pod, which may be in a slice for each kind of address."""
    found: dict[str, Replica] = {}
    for piece in slices["items"]:
        for endpoint in piece["endpoints"] or ():
            conditions = endpoint.get("conditions") or {}
            name = (endpoint.get("targetRef") or {}).get("name") or endpoint["addresses"][0]
            # What is not said of readiness means yes, says the API; of a pod that is ending it means nothing.
            found[name] = Replica(name, conditions.get("ready") is not False, conditions.get("terminating") is True)
    return tuple(found[name] for name in sorted(found))
