"""The metrics for Prometheus. Each `Metrics` has a registry of its own; nothing is counted globally.

Counters and histograms live here. Gauges that follow from the daemon's status are made from it at each scrape, so that
a removed target's series end with it. No key and no key id is ever a label.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import UTC, datetime
from itertools import product

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from rotator.core.orphans import Orphan, Outcome
from rotator.core.ports import NO_CREDENTIAL, Meter
from rotator.core.reasons import Reason
from rotator.telemetry.gauges import family, gauges
from rotator.telemetry.status import DaemonInfo, DaemonStatus

SUCCESS = "success"
FAILURE = "failure"
LOST = "lost"  # another writer was first, which is no failure
DROPPED = "dropped"  # a notification that is not sent again

ROTATION_REASONS = (
    Reason.FIRST,
    Reason.EMPTIED,
    Reason.DELETED,
    Reason.MISSING,
    Reason.EXPIRED,
    Reason.EXPIRING,
    Reason.REQUESTED,
    Reason.DRIFTED,
    Reason.MISDATED,
    Reason.ADOPTED,
    Reason.NEARLY_SPENT,
)
"""Why a key is created. These are counted from 0, so that a first failure is an increase."""

_REQUEST_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_ROTATION_SECONDS = (0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)


class Metrics:
    """All metrics of one process. Thread-safe."""

    content_type = CONTENT_TYPE_PLAIN_0_0_4

    def __init__(self, version: str) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # otherwise each counter has a second series
        self._registry = registry = CollectorRegistry()
        self._known: Callable[[], DaemonStatus] = _nothing
        self._each = False
        self._providers: Mapping[str, _Meter] = {}
        self._stores: Mapping[str, _Meter] = {}
        self._unknown: Mapping[str, int] = {}  # by provider: served keys
        self._reports_use: Mapping[str, bool] = {}  # by provider
        Gauge("rotator_build_info", "The version that runs.", ["version"], registry=registry).labels(version).set(1)
        self._reloaded = Gauge(
            "rotator_config_last_reload_successful",
            "0 if the last reload was refused and the previous configuration is still in force.",
            registry=registry,
        )
        self._reloaded.set(1)
        self._rotations = Counter(
            "rotator_rotations_total", "Rotations tried.", ["provider", "reason", "outcome"], registry=registry
        )
        self._rotation_seconds = Histogram(
            "rotator_rotation_duration_seconds",
            "How long rotations that succeeded took, waiting for the provider's budget included.",
            registry=registry,
            buckets=_ROTATION_SECONDS,
        )
        self._retirements = Counter(
            "rotator_retirements_total", "Superseded keys removed after their grace.", ["outcome"], registry=registry
        )
        for outcome in (SUCCESS, FAILURE):
            self._retirements.labels(outcome)
        self._orphans = Counter(
            "rotator_orphans_total",
            "Keys that no version of their path held, by what a sweep did with them.",
            ["outcome"],
            registry=registry,
        )
        for outcome in Outcome:
            if outcome is not Outcome.LEFT:
                self._orphans.labels(outcome.value)
        self._early_refused = Counter(
            "rotator_early_rotations_refused_total",
            "Keys that were nearly spent and not replaced for it, although `on_cap` is `replace`; each counts once.",
            registry=registry,
        )
        self._swept = Gauge(
            "rotator_last_sweep_success_timestamp_seconds",
            "When a sweep last saw all targets and completed all its work; 0: not since the start.",
            registry=registry,
        )
        self.notifications = Notifications(registry)
        self._provider_requests, self._provider_seconds = _requests(
            "provider", "by operation and HTTP status, or why there was none", registry
        )
        self._store_requests, self._store_seconds = _requests("store", "by operation and outcome", registry)
        ProcessCollector(registry=registry)

    def watch(self, known: Callable[[], DaemonStatus], *, each: bool) -> None:
        """Show the daemon's status at each scrape; `each`: with the series of single targets.

        `known` must neither wait nor raise.
        """
        self._known, self._each = known, each

    # --- counting --------------------------------------------------------------------------------------------------

    def provider_meter(self, provider: str) -> Meter:
        """Return the meter of one provider's requests. Its series start with its use, or with `keep_only`."""
        meter = self._providers.get(provider)
        if meter is None:
            meter = _Meter(provider, self._provider_requests, self._provider_seconds, refused=_refused_key)
            self._providers = {**self._providers, provider: meter}
        return meter

    def store_meter(self, store: str) -> Meter:
        """Return the meter of one store's requests. Its series start with its use, or with `keep_only`."""
        meter = self._stores.get(store)
        if meter is None:
            meter = _Meter(store, self._store_requests, self._store_seconds, refused=_refused_login)
            self._stores = {**self._stores, store: meter}
        return meter

    def keep_only(self, providers: Collection[str], stores: Collection[str]) -> None:
        """Show the health of these upstreams and no others. Counters of others stay, as counters must."""
        for provider, reason, outcome in product(providers, ROTATION_REASONS, (SUCCESS, FAILURE, LOST)):
            self._rotations.labels(provider, reason.value, outcome)
        self._providers = {name: meter for name, meter in self._providers.items() if name in providers}
        self._unknown = {name: number for name, number in self._unknown.items() if name in providers}
        self._reports_use = {name: shown for name, shown in self._reports_use.items() if name in providers}
        self._stores = {name: meter for name, meter in self._stores.items() if name in stores}
        for meter in (*self._providers.values(), *self._stores.values()):
            meter.show()

    def rotation(self, provider: str, reason: Reason, outcome: str, seconds: float) -> None:
        """Count a rotation; `outcome` is `SUCCESS`, `FAILURE` or `LOST`."""
        self._rotations.labels(provider, reason.value, outcome).inc()
        if outcome == SUCCESS:
            self._rotation_seconds.observe(seconds)

    def retirement(self, outcome: str) -> None:
        """Count the removal of a superseded key; `outcome` is `SUCCESS` or `FAILURE`."""
        self._retirements.labels(outcome).inc()

    def orphans(self, orphans: Iterable[Orphan]) -> None:
        """Count the orphans that a sweep changed, or tried to change."""
        for orphan in orphans:
            if orphan.outcome is not Outcome.LEFT:
                self._orphans.labels(orphan.outcome.value).inc()

    def unknown_served_keys(self, provider: str, number: int) -> None:
        """Set how many served keys are unknown to the provider, and left alone."""
        self._unknown = {**self._unknown, provider: number}

    def early_rotation_refused(self) -> None:
        """Count a key that is nearly spent, and is not replaced for it."""
        self._early_refused.inc()

    def reports_use(self, provider: str, *, shown: bool) -> None:
        """Set whether the provider shows what keys have used."""
        self._reports_use = {**self._reports_use, provider: shown}

    def swept(self, at: datetime) -> None:
        """Set when a sweep of all providers last completed all its work."""
        self._swept.set(at.timestamp())

    def reload(self, *, ok: bool) -> None:
        """Set whether the last reload was accepted."""
        self._reloaded.set(ok)

    def render(self) -> bytes:
        """Return all metrics in Prometheus' text format, whose content type is `content_type`."""
        known = self._known()
        info = known.daemon
        shown = [
            *gauges(known, each=self._each),
            family(
                "served_keys_unknown",
                "Served keys that a provider does not know, so many that none is replaced; 0 while there are fewer.",
                "provider",
                {name: float(number) if info.leads else 0.0 for name, number in self._unknown.items()},
            ),
            family(
                "provider_reports_use",
                "1 if the provider has shown what a key of a target has used, 0 if not. Absent before the first list.",
                "provider",
                {name: float(shown) for name, shown in self._reports_use.items()},
            ),
            *(
                family(
                    f"{kind}_up",
                    f"1 if the last request to a {kind} succeeded, 0 if not.",
                    kind,
                    {
                        name: float(meter.up and f"{kind} {name}" not in info.down)
                        for name, meter in meters.items()
                        if meter.shown
                    },
                )
                for kind, meters in (("provider", self._providers), ("store", self._stores))
            ),
        ]
        return generate_latest(self._registry) + "".join(shown).encode()


def _requests(kind: str, counted: str, registry: CollectorRegistry) -> tuple[Counter, Histogram]:
    """Return what counts the requests to upstreams of a kind, and their durations."""
    labels = [kind, "operation", "outcome"]
    return Counter(
        f"rotator_{kind}_requests_total", f"Requests to a {kind}, {counted}.", labels, registry=registry
    ), Histogram(
        f"rotator_{kind}_request_duration_seconds",
        f"How long a {kind} took to answer.",
        [kind],
        registry=registry,
        buckets=_REQUEST_SECONDS,
    )


def _nothing() -> DaemonStatus:
    """Return the status before there is a daemon."""
    return DaemonStatus("", datetime.now(UTC), (), (), DaemonInfo("", "", leads=True, holder=""))


class Notifications:
    """Counts the notifications of each channel."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._counter = Counter(
            "rotator_notifications_total",
            "Attempts to notify a channel that succeeded or failed, and notifications that were dropped.",
            ["channel", "outcome"],
            registry=registry,
        )

    def start(self, channels: Iterable[str]) -> None:
        """Count these channels from 0, so that a first failure is an increase."""
        for channel, outcome in product(channels, (SUCCESS, FAILURE, DROPPED)):
            self._counter.labels(channel, outcome)

    def count(self, channel: str, outcome: str, number: int = 1) -> None:
        """Count notifications; `outcome` is `SUCCESS`, `FAILURE` or `DROPPED`."""
        self._counter.labels(channel, outcome).inc(number)


class _Meter:
    """Counts one upstream's requests, and keeps whether the last one succeeded."""

    def __init__(
        self, name: str, requests: Counter, seconds_taken: Histogram, refused: Callable[[str, int], bool]
    ) -> None:
        self._name, self._requests, self._refused = name, requests, refused
        self._seconds_taken = seconds_taken
        self.up = True  # until a request fails
        self.shown = False  # a refused reload must leave no series of what was built for it

    def show(self) -> None:
        """Start the series now, before the first request."""
        self._duration = self._seconds_taken.labels(self._name)
        self.shown = True

    def __call__(self, operation: str, outcome: str, seconds: float) -> None:
        if not self.shown:
            self.show()
        self._requests.labels(self._name, operation, outcome).inc()
        if outcome != NO_CREDENTIAL:
            self._duration.observe(seconds)
        if operation != "probe" and outcome != "unsendable":  # a new key's own refusal; not sent
            status = int(outcome) if outcome.isdecimal() else 0
            self.up = 0 < status < 500 and not self._refused(operation, status)


def _refused_key(operation: str, status: int) -> bool:
    """Return whether the provider refuses the credential. Only a list shows it: other refusals may concern one key."""
    return operation == "list" and status in (401, 403)


def _refused_login(operation: str, status: int) -> bool:
    """Return whether the store refuses the login. A policy that refuses a path does not mean that the store is down."""
    return operation in ("login", "renew") and status >= 400
