"""The metrics: counted as it happens, or read from the board when somebody scrapes. No key and no key id in a label."""

from collections import Counter as Tally
from collections.abc import Callable, Iterator
from datetime import datetime

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

from rotator.plan import Reason, State
from rotator.ports import Meter
from rotator.status import TargetStatus

disable_created_metrics()  # type: ignore[no-untyped-call]

Statuses = Callable[[], tuple[TargetStatus, ...]]


class Metrics:
    """One registry of our own, without the process-wide one. Safe to be used by many threads."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self, version: str) -> None:
        self._registry = registry = CollectorRegistry()
        Gauge("rotator_build_info", "Which version runs; always 1.", ["version"], registry=registry).labels(
            version
        ).set(1)
        self._rotations = Counter(
            "rotator_rotations", "Rotations that were tried.", ["provider", "reason", "outcome"], registry=registry
        )
        self._duration = Histogram(
            "rotator_rotation_duration_seconds",
            "How long a pass with a rotation took, in seconds.",
            buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
            registry=registry,
        )
        self._retirements = Counter(
            "rotator_retirements", "Superseded keys that were removed, or could not be.", ["outcome"], registry=registry
        )
        for outcome in ("success", "failure"):
            self._retirements.labels(outcome)
        self._requests = {
            "provider": Counter(
                "rotator_provider_requests",
                "Requests to the provider.",
                ["provider", "method", "status"],
                registry=registry,
            ),
            "store": Counter(
                "rotator_store_requests", "Requests to the store.", ["store", "operation", "outcome"], registry=registry
            ),
        }
        self._request_durations = {
            kind: Histogram(
                f"rotator_{kind}_request_duration_seconds",
                f"How long requests to the {kind} took, in seconds.",
                [kind],
                registry=registry,
            )
            for kind in ("provider", "store")
        }
        self._budget = Gauge(
            "rotator_provider_budget_used_ratio",
            "The share of the last minute's requests that the provider's limit allows.",
            ["provider"],
            registry=registry,
        )
        self._token = Gauge(
            "rotator_store_token_expiry_timestamp_seconds",
            "When the login to the store ends; 0 when it does not, or there is none yet.",
            ["store"],
            registry=registry,
        )
        self._reloaded = Gauge(
            "rotator_config_last_reload_successful", "1 when the last configuration was taken.", registry=registry
        )
        self._reloaded.set(1)
        leader = Gauge("rotator_leader", "1 when this replica acts.", registry=registry)
        leader.set(1)

    def provider_meter(self, name: str) -> Meter:
        """Counts the requests to one provider."""
        return self._meter("provider", name)

    def store_meter(self, name: str) -> Meter:
        """Counts the requests to one store."""
        return self._meter("store", name)

    def _meter(self, kind: str, name: str) -> Meter:
        requests, duration = self._requests[kind], self._request_durations[kind].labels(name)

        def count(operation: str, outcome: str, seconds: float) -> None:
            requests.labels(name, operation, outcome).inc()
            duration.observe(seconds)

        return count

    def rotation(self, provider: str, reason: str, outcome: str, seconds: float) -> None:
        """Count a rotation that was tried: `outcome` is success, lost (another writer was first) or failure."""
        self._rotations.labels(provider, reason, outcome).inc()
        self._duration.observe(seconds)

    def expect_rotations(self, provider: str) -> None:
        """Let the counters of a configured provider start at 0, so that the first failure is a change."""
        for reason in (Reason.FIRST, Reason.EXPIRING, Reason.EXPIRED, Reason.REQUESTED, Reason.DRIFTED, Reason.MISSING):
            for outcome in ("success", "failure"):
                self._rotations.labels(provider, reason.value, outcome)

    def retirement(self, outcome: str) -> None:
        """Count a superseded key that was removed ("success"), or could not be ("failure")."""
        self._retirements.labels(outcome).inc()

    def reload(self, *, ok: bool) -> None:
        """Note whether the last configuration was taken."""
        self._reloaded.set(1 if ok else 0)

    def watch(self, statuses: Statuses, now: Callable[[], datetime]) -> None:
        """Read the targets' series from the board at each scrape."""
        self._registry.register(_Targets(statuses, now))

    def watch_budget(self, provider: str, used: Callable[[], float]) -> None:
        """Read how much of a provider's budget is used at each scrape."""
        self._budget.labels(provider).set_function(used)

    def watch_token(self, store: str, expires_at: Callable[[], datetime | None]) -> None:
        """Read when a store's login ends at each scrape."""
        self._token.labels(store).set_function(lambda: moment.timestamp() if (moment := expires_at()) else 0.0)

    def render(self) -> bytes:
        """All of it, as Prometheus reads it."""
        return generate_latest(self._registry)


class _Targets(Collector):
    """The series of each target, made anew at each scrape: those of a removed target are simply not there."""

    def __init__(self, statuses: Statuses, now: Callable[[], datetime]) -> None:
        self._statuses, self._now = statuses, now

    def describe(self) -> Iterator[Metric]:
        return iter(())

    def collect(self) -> Iterator[Metric]:
        statuses, now = self._statuses(), self._now()
        expiry = _gauge("key_expiry_timestamp_seconds", "When the served key stops working.", "target")
        issued = _gauge("key_issued_timestamp_seconds", "When the served key was created.", "target")
        due = _gauge("next_rotation_timestamp_seconds", "When the served key is due for replacement.", "target")
        superseded = _gauge("superseded_keys", "Keys that were replaced and are not removed yet.", "target")
        past_grace, ends = 0, []
        for status in statuses:
            if status.plan is None:
                continue
            name, current = [status.target.name], status.plan.current
            superseded.add_metric(name, len(status.plan.superseded))
            past_grace += sum(key.until <= now for key in status.plan.superseded)
            if current is not None:
                ends.append(current.expires_at.timestamp())
                expiry.add_metric(name, ends[-1])
                issued.add_metric(name, current.issued_at.timestamp())
            if status.plan.renew_at is not None:
                due.add_metric(name, status.plan.renew_at.timestamp())
        states = _gauge("targets", "Configured targets by state.", "state")
        tally = Tally(status.state for status in statuses)
        for state in State:
            states.add_metric([state.value], tally[state])
        late = _gauge("superseded_keys_past_grace", "Superseded keys that should have been removed by now.")
        late.add_metric([], past_grace)
        first = _gauge("earliest_key_expiry_timestamp_seconds", "When the first of all served keys stops working.")
        if ends:
            first.add_metric([], min(ends))
        yield from (expiry, issued, due, superseded, states, late, first)


def _gauge(name: str, description: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"rotator_{name}", description, labels=labels)
