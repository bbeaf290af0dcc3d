"""What Prometheus is told. Each `Metrics` has a registry of its own; nothing is counted globally.

What events add up to is counted here. What can be asked for at any time (how targets stand, what a budget has left) is
asked for at each scrape, so that a removed target's series end with it. No key and no key id is ever a label.
"""

from collections import Counter as Counts
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import product

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.registry import Collector

from rotator.core.orphans import Orphan, Outcome
from rotator.core.plan import Plan, Reason, Retire, State
from rotator.core.ports import NO_CREDENTIAL, Meter
from rotator.core.superseded import Superseded
from rotator.core.versions import Record
from rotator.telemetry.status import TargetStatus, margin

SUCCESS = "success"
FAILURE = "failure"
LOST = "lost"  # another writer was first: nothing is wrong

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
)
"""Why a key is created: so that these are counted from 0, and a first failure is an increase."""

_REQUEST_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_ROTATION_SECONDS = (0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)


class Metrics:
    """All metrics of one process. Safe to be used by many threads."""

    content_type = CONTENT_TYPE_PLAIN_0_0_4

    def __init__(self, version: str) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # else each counter has a second series
        self._registry = registry = CollectorRegistry()
        self._asked = _Asked()
        registry.register(self._asked)
        Gauge("rotator_build_info", "The version that runs.", ["version"], registry=registry).labels(version).set(1)
        self._reloaded = Gauge(
            "rotator_config_last_reload_successful",
            "0 if the last reload was refused and the configuration before it is still in force.",
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
            "Keys that no version of their path held, by what a sweep did about them.",
            ["outcome"],
            registry=registry,
        )
        for outcome in Outcome:
            if outcome is not Outcome.LEFT:
                self._orphans.labels(outcome.value)
        self._swept = Gauge(
            "rotator_last_sweep_success_timestamp_seconds",
            "When a sweep last saw all targets and did all that was to be done; 0: not since the start.",
            registry=registry,
        )
        self._provider_requests = Counter(
            "rotator_provider_requests_total",
            "Requests to a provider, by what was asked and the HTTP status, or why there was none.",
            ["provider", "operation", "outcome"],
            registry=registry,
        )
        self._provider_seconds = Histogram(
            "rotator_provider_request_duration_seconds",
            "How long a provider took to answer.",
            ["provider"],
            registry=registry,
            buckets=_REQUEST_SECONDS,
        )
        self._store_requests = Counter(
            "rotator_store_requests_total",
            "Requests to a store, by what was asked and what came of it.",
            ["store", "operation", "outcome"],
            registry=registry,
        )
        self._store_seconds = Histogram(
            "rotator_store_request_duration_seconds",
            "How long a store took to answer.",
            ["store"],
            registry=registry,
            buckets=_REQUEST_SECONDS,
        )

    # --- what is asked for at each scrape --------------------------------------------------------------------------

    def watch(
        self,
        statuses: Callable[[], tuple[TargetStatus, ...]],
        now: Callable[[], datetime],
        leads: Callable[[], bool] = lambda: True,
        *,
        each: bool = True,
    ) -> None:
        """Tell how the targets stand: all together, and where this replica leads and `each` is set, each by itself.

        None of the callables may wait or raise; those watched before are let go.
        """
        self._asked.targets, self._asked.leads, self._asked.each = (statuses, now), leads, each

    def watch_budget(self, provider: str, used: Callable[[], float]) -> None:
        """Tell which share of its budget a provider was sent, between 0 and 1."""
        self._asked.budgets = {**self._asked.budgets, provider: used}

    def watch_token(self, store: str, expires_at: Callable[[], datetime | None]) -> None:
        """Tell when a store's token ends; None while there is none, or when it never does."""
        self._asked.tokens = {**self._asked.tokens, store: expires_at}

    def watch_upstreams(self, upstreams: Callable[[], Mapping[str, object]]) -> None:
        """Tell of those left alone for an error as down, too; by "provider NAME" and "store NAME", None is none."""
        self._asked.upstreams = upstreams

    def watch_log(self, dropped: Callable[[], Mapping[str, int]]) -> None:
        """Report how many lines the log lacks, by their kind."""
        self._asked.dropped = dropped

    def watch_skews(self, skews: Callable[[], Mapping[str, timedelta]]) -> None:
        """Tell how far the clock is ahead of each upstream's."""
        self._asked.skews = skews

    # --- what is counted -------------------------------------------------------------------------------------------

    def provider_meter(self, provider: str) -> Meter:
        """Who counts the requests of one provider, always the same; shown once it is used, or by `keep_only`."""
        meter = self._asked.providers.get(provider)
        if meter is None:
            meter = _Meter(provider, self._provider_requests, self._provider_seconds, refused=_refused_key)
            self._asked.providers = {**self._asked.providers, provider: meter}
        return meter

    def store_meter(self, store: str) -> Meter:
        """Who counts the requests of one store, always the same; shown once it is used, or by `keep_only`."""
        meter = self._asked.stores.get(store)
        if meter is None:
            meter = _Meter(store, self._store_requests, self._store_seconds, refused=_refused_login)
            self._asked.stores = {**self._asked.stores, store: meter}
        return meter

    def keep_only(self, providers: Collection[str], stores: Collection[str]) -> None:
        """Show how these are, counted from 0, and no others; what was counted of others stays, as counters must."""
        asked = self._asked
        for provider, reason, outcome in product(providers, ROTATION_REASONS, (SUCCESS, FAILURE, LOST)):
            self._rotations.labels(provider, reason.value, outcome)
        asked.providers = {name: meter for name, meter in asked.providers.items() if name in providers}
        asked.budgets = {name: used for name, used in asked.budgets.items() if name in providers}
        asked.unknown = {name: number for name, number in asked.unknown.items() if name in providers}
        asked.stores = {name: meter for name, meter in asked.stores.items() if name in stores}
        asked.tokens = {name: expires_at for name, expires_at in asked.tokens.items() if name in stores}
        for meter in (*asked.providers.values(), *asked.stores.values()):
            meter.show()

    def rotation(self, provider: str, reason: Reason, outcome: str, seconds: float) -> None:
        """A rotation was tried; `outcome` is `SUCCESS`, `FAILURE` or `LOST`."""
        self._rotations.labels(provider, reason.value, outcome).inc()
        if outcome == SUCCESS:
            self._rotation_seconds.observe(seconds)

    def retirement(self, outcome: str) -> None:
        """A superseded key's removal was tried; `outcome` is `SUCCESS` or `FAILURE`."""
        self._retirements.labels(outcome).inc()

    def orphans(self, orphans: Iterable[Orphan]) -> None:
        """A sweep found these, and did something about them, or tried to."""
        for orphan in orphans:
            if orphan.outcome is not Outcome.LEFT:
                self._orphans.labels(orphan.outcome.value).inc()

    def unknown_served_keys(self, provider: str, number: int) -> None:
        """A sweep found so many served keys that the provider does not know, and left them alone."""
        self._asked.unknown = {**self._asked.unknown, provider: number}

    def swept(self, at: datetime) -> None:
        """Every provider's keys were swept, and all was done that was to be done."""
        self._swept.set(at.timestamp())

    def reload(self, *, ok: bool) -> None:
        """The configuration was read again, and taken or refused."""
        self._reloaded.set(ok)

    def render(self) -> bytes:
        """All of it in Prometheus' text format, whose content type is `content_type`."""
        return generate_latest(self._registry)


class _Meter:
    """Counts one upstream's requests, and knows whether the last one was answered as it should be."""

    def __init__(
        self, name: str, requests: Counter, seconds_taken: Histogram, refused: Callable[[str, int], bool]
    ) -> None:
        self._name, self._requests, self._refused = name, requests, refused
        self._seconds_taken = seconds_taken
        self.up = True  # until it is known better
        self.shown = False  # a reload that is refused leaves no trace of what was built for it

    def show(self) -> None:
        """Have series from now on, and not at the first request only."""
        self._duration = self._seconds_taken.labels(self._name)
        self.shown = True

    def __call__(self, operation: str, outcome: str, seconds: float) -> None:
        if not self.shown:
            self.show()
        self._requests.labels(self._name, operation, outcome).inc()
        if outcome != NO_CREDENTIAL:
            self._duration.observe(seconds)
        if operation != "probe" and outcome != "unsendable":  # a new key's own refusal, perhaps elsewhere; nothing sent
            status = int(outcome) if outcome.isdecimal() else 0
            self.up = 0 < status < 500 and not self._refused(operation, status)


def _refused_key(operation: str, status: int) -> bool:
    """Anything but a list may be refused by itself; a list follows that."""
    return operation == "list" and status in (401, 403)


def _refused_login(operation: str, status: int) -> bool:
    """A policy may well refuse one path: that is no sign of a store that is down."""
    return operation in ("login", "renew") and status >= 400


@dataclass(eq=False)  # the registry finds its collectors by identity
class _Asked(Collector):
    """Makes its series anew at each scrape."""

    targets: tuple[Callable[[], tuple[TargetStatus, ...]], Callable[[], datetime]] | None = None
    budgets: Mapping[str, Callable[[], float]] = field(default_factory=dict)
    tokens: Mapping[str, Callable[[], datetime | None]] = field(default_factory=dict)
    providers: Mapping[str, "_Meter"] = field(default_factory=dict)
    stores: Mapping[str, "_Meter"] = field(default_factory=dict)
    unknown: Mapping[str, int] = field(default_factory=dict)
    skews: Callable[[], Mapping[str, timedelta]] = dict
    upstreams: Callable[[], Mapping[str, object]] = dict
    leads: Callable[[], bool] = lambda: True
    each: bool = True
    dropped: Callable[[], Mapping[str, int]] = dict

    def collect(self) -> Iterable[GaugeMetricFamily | CounterMetricFamily]:
        leads, upstreams = self.leads(), self.upstreams()
        yield GaugeMetricFamily("rotator_leader", "1 if this replica acts, 0 if it stands by.", value=float(leads))
        if self.targets is not None:
            statuses, now = self.targets
            yield from _of_targets(statuses(), now(), each=leads and self.each)
        yield _gauge(
            "provider_budget_used_ratio",
            "The share of a provider's requests for the last minute that was sent.",
            "provider",
            {name: used() for name, used in self.budgets.items()},
        )
        yield _gauge(
            "served_keys_unknown",
            "Served keys that a provider does not know, so many that none is replaced; 0 while there are fewer.",
            "provider",
            {name: float(number) if leads else 0.0 for name, number in self.unknown.items()},
        )
        yield _gauge(
            "store_token_expiry_timestamp_seconds",
            "When the token for a store ends, unless it is renewed.",
            "store",
            {name: _seconds(expires_at()) for name, expires_at in self.tokens.items()},
        )
        yield _gauge(
            "provider_up",
            "1 if the last request to a provider was answered as it should be, 0 if not.",
            "provider",
            {
                name: float(meter.up and not upstreams.get(f"provider {name}"))
                for name, meter in self.providers.items()
                if meter.shown
            },
        )
        yield _gauge(
            "store_up",
            "1 if the last request to a store was answered as it should be, 0 if not.",
            "store",
            {
                name: float(meter.up and not upstreams.get(f"store {name}"))
                for name, meter in self.stores.items()
                if meter.shown
            },
        )
        yield _gauge(
            "clock_skew_seconds",
            "How far this machine's clock is ahead of an upstream's, by the upstream's answers.",
            "upstream",
            {upstream: skew.total_seconds() for upstream, skew in self.skews().items()},
        )
        lines = CounterMetricFamily(
            "rotator_log_lines_dropped", "Log lines that were not written: nothing read the log.", labels=["kind"]
        )
        for kind, number in self.dropped().items():
            lines.add_metric([kind], number)
        yield lines


def _of_targets(statuses: tuple[TargetStatus, ...], now: datetime, *, each: bool) -> Iterable[GaugeMetricFamily]:
    """Of all together; and of `each` target four series, which are most of what a scrape costs."""
    plans = {status.target.name: status.plan for status in statuses if status.plan}
    served = {name: plan.current for name, plan in plans.items() if plan.current}
    left = {name: _not_removed(plan, now) for name, plan in plans.items()}
    states = Counts(status.state for status in statuses)
    yield _gauge("targets", "Targets in each state.", "state", {state.value: states[state] for state in State})
    if each:
        yield from _of_each(plans, served, left)
    yield GaugeMetricFamily(
        "rotator_superseded_keys_past_grace",
        "Keys that were to be removed by now, of all targets.",
        value=sum(key.until <= now for keys in left.values() for key in keys),
    )
    yield _first(
        "earliest_key_expiry_timestamp_seconds",
        "When the first of all served keys stops working.",
        (record.expires_at for record in served.values()),
    )
    yield _first(
        "earliest_rotation_timestamp_seconds",
        "When the first of all served keys is replaced.",
        (plan.next_rotation_at for plan in plans.values() if plan.next_rotation_at),
    )
    yield GaugeMetricFamily(
        "rotator_min_renewal_margin_ratio",
        "The least share of the time between its due date and its end that a served key has left; over 1: none is due.",
        value=min(
            (margin(record.expires_at, plans[name].next_rotation_at, now) for name, record in served.items()),
            default=None,
        ),
    )


def _first(name: str, told: str, moments: Iterable[datetime]) -> GaugeMetricFamily:
    first = min(moments, default=None)
    return GaugeMetricFamily(f"rotator_{name}", told, value=_seconds(first))


def _of_each(
    plans: Mapping[str, Plan], served: Mapping[str, Record], left: Mapping[str, list[Superseded]]
) -> Iterable[GaugeMetricFamily]:
    yield _gauge(
        "key_expiry_timestamp_seconds",
        "When the served key stops working.",
        "target",
        {name: record.expires_at.timestamp() for name, record in served.items()},
    )
    yield _gauge(
        "key_issued_timestamp_seconds",
        "When the served key was created.",
        "target",
        {name: record.issued_at.timestamp() for name, record in served.items()},
    )
    yield _gauge(
        "next_rotation_timestamp_seconds",
        "When the served key is replaced, for whatever reason comes first.",
        "target",
        {name: _seconds(plan.next_rotation_at) for name, plan in plans.items()},
    )
    yield _gauge(
        "superseded_keys",
        "Keys that were replaced and are not removed yet.",
        "target",
        {name: len(keys) for name, keys in left.items()},
    )


def _not_removed(plan: Plan, now: datetime) -> list[Superseded]:
    """The superseded keys that still work, or are still to be removed.

    Not those that are gone and only held by versions that somebody else's fields keep. One that has another place's
    name is not ours to remove, and counts for as long as it works.
    """
    unenforced = plan.unenforced(now)
    to_retire = {action.key.key_id for action in plan.actions if isinstance(action, Retire)}
    return [
        key
        for key in plan.superseded
        if key in unenforced
        or (
            key.other_name is None
            and (
                key.until > now
                or key.key_id in to_retire
                or not all(version.foreign_fields for version in key.versions)
            )
        )
    ]


def _gauge(name: str, told: str, label: str, values: Mapping[str, float | None]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(f"rotator_{name}", told, labels=[label])
    for of, value in values.items():
        if value is not None:
            family.add_metric([of], value)
    return family


def _seconds(moment: datetime | None) -> float | None:
    return moment.timestamp() if moment else None
