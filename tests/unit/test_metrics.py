"""The metrics, as Prometheus reads them: counted from 0, gone with their target, and without a key."""

import math
import re
import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from prometheus_client.parser import text_string_to_metric_families
from support.known import known, used, used_since
from support.world import HOUR, START, make_target

from rotator.core.errors import StoreUnavailable
from rotator.core.keys import ProviderKey
from rotator.core.orphans import Orphan, OrphanState, Outcome
from rotator.core.plan import Plan, Retire, Rotate
from rotator.core.reasons import Reason, State
from rotator.core.renewal import Renewal
from rotator.core.superseded import Superseded
from rotator.core.versions import Entry, Ownership, Record
from rotator.telemetry.metrics import FAILURE, LOST, ROTATION_REASONS, SUCCESS, Metrics
from rotator.telemetry.status import TargetStatus

PROMISED = {
    "rotator_build_info": ("gauge", {"version"}),
    "rotator_targets": ("gauge", {"state"}),
    "rotator_key_expiry_timestamp_seconds": ("gauge", {"target"}),
    "rotator_key_issued_timestamp_seconds": ("gauge", {"target"}),
    "rotator_next_rotation_timestamp_seconds": ("gauge", {"target"}),
    "rotator_key_use_ratio": ("gauge", {"target"}),
    "rotator_key_spent_timestamp_seconds": ("gauge", {"target"}),
    "rotator_early_rotations_refused_total": ("counter", set()),
    "rotator_provider_reports_use": ("gauge", {"provider"}),
    "rotator_superseded_keys": ("gauge", {"target"}),
    "rotator_superseded_keys_past_grace": ("gauge", set()),
    "rotator_superseded_keys_in_use": ("gauge", {"target"}),
    "rotator_superseded_key_in_use_expiry_timestamp_seconds": ("gauge", {"target"}),
    "rotator_earliest_key_expiry_timestamp_seconds": ("gauge", set()),
    "rotator_earliest_rotation_timestamp_seconds": ("gauge", set()),
    "rotator_min_renewal_margin_ratio": ("gauge", set()),
    "rotator_rotations_total": ("counter", {"provider", "reason", "outcome"}),
    "rotator_rotation_duration_seconds": ("histogram", set()),
    "rotator_retirements_total": ("counter", {"outcome"}),
    "rotator_notifications_total": ("counter", {"channel", "outcome"}),
    "rotator_provider_requests_total": ("counter", {"provider", "operation", "outcome"}),
    "rotator_provider_request_duration_seconds": ("histogram", {"provider"}),
    "rotator_provider_budget_used_ratio": ("gauge", {"provider"}),
    "rotator_store_requests_total": ("counter", {"store", "operation", "outcome"}),
    "rotator_store_request_duration_seconds": ("histogram", {"store"}),
    "rotator_store_token_expiry_timestamp_seconds": ("gauge", {"store"}),
    "rotator_orphans_total": ("counter", {"outcome"}),
    "rotator_served_keys_unknown": ("gauge", {"provider"}),
    "rotator_last_sweep_success_timestamp_seconds": ("gauge", set()),
    "rotator_provider_up": ("gauge", {"provider"}),
    "rotator_store_up": ("gauge", {"store"}),
    "rotator_clock_skew_seconds": ("gauge", {"upstream"}),
    "rotator_config_last_reload_successful": ("gauge", set()),
    "rotator_log_lines_dropped_total": ("counter", {"kind"}),
    "rotator_leader": ("gauge", set()),
    "rotator_keys_nearly_spent": ("gauge", set()),
    "rotator_earliest_superseded_key_in_use_expiry_timestamp_seconds": ("gauge", set()),
    "rotator_sweep_interval_seconds": ("gauge", set()),
    "process_cpu_seconds_total": ("counter", set()),
    "process_max_fds": ("gauge", set()),
    "process_open_fds": ("gauge", set()),
    "process_resident_memory_bytes": ("gauge", set()),
    "process_start_time_seconds": ("gauge", set()),
    "process_virtual_memory_bytes": ("gauge", set()),
}
NOW = START + HOUR
PAST, FUTURE = START, NOW + HOUR
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def scrape(metrics: Metrics) -> Samples:
    families = list(text_string_to_metric_families(metrics.render().decode()))
    samples = [sample for family in families for sample in family.samples]
    read = {(sample.name, frozenset(sample.labels.items())): sample.value for sample in samples}
    assert len(read) == len(samples), "two samples of one series"
    return read


def series(name: str, **labels: str) -> tuple[str, frozenset[tuple[str, str]]]:
    return f"rotator_{name}", frozenset(labels.items())


def labelled(samples: Samples, label: str, value: str) -> set[str]:
    return {name for name, labels in samples if (label, value) in labels}


def record(key_id: str, expires_at: datetime = START + 24 * HOUR) -> Record:
    return Record("prod-eu", "billing-api", key_id, f"name-of-{key_id}", START, expires_at, "p", "f")


def superseded(key_id: str, until: datetime, *foreign: frozenset[str]) -> Superseded:
    """A key in as many versions as there are sets of foreign fields; one plain version without."""
    entries = tuple(
        Entry(number, START, Ownership.OURS, record(key_id), True, fields)
        for number, fields in enumerate(foreign or (frozenset(),), 1)
    )
    return Superseded(record(key_id), entries, START, until)


def in_use(key_id: str, until: datetime, last_used_at: datetime) -> Superseded:
    return replace(superseded(key_id, until), use=used_since(START, 40, last_used_at))


def status(name: str, plan: Plan | None, *, failed: bool = False) -> TargetStatus:
    return TargetStatus(make_target(name), plan, StoreUnavailable("no") if failed else None)


def served(**more: object) -> Plan:
    plan = Plan(State.OK, Reason.FRESH, current=record("served-id"), renewal=Renewal(START + 16 * HOUR))
    return replace(plan, **more)  # type: ignore[arg-type]


def of(*statuses: TargetStatus) -> Samples:
    metrics = Metrics("1.2.3")
    metrics.watch(lambda: known(*statuses, at=NOW), each=True)
    return scrape(metrics)


def busy() -> Metrics:
    """Return metrics with at least one sample of everything."""
    metrics = Metrics("1.2.3")
    all_of_it = known(
        status("a", served(use=used(50.0, NOW), superseded=(in_use("k", FUTURE, NOW),))),
        at=NOW,
        budgets={"respan": 0.25},
        logins={"vault": NOW},
        skews={"api.respan.ai": timedelta(seconds=-3)},
        log_lines_dropped={"audit": 0, "other": 1},
    )
    metrics.watch(lambda: all_of_it, each=True)
    metrics.provider_meter("respan")("create", "201", 0.2)
    metrics.store_meter("vault")("write", "200", 0.01)
    metrics.rotation("respan", Reason.EXPIRING, SUCCESS, 1.5)
    metrics.retirement(SUCCESS)
    metrics.notifications.start(["webhooks.chat"])
    metrics.unknown_served_keys("respan", 3)
    metrics.reports_use("respan", shown=True)
    metrics.reload(ok=True)
    return metrics


def test_every_promised_metric_is_there_with_its_type_and_labels_and_no_other() -> None:
    types: dict[str, str] = {}
    labels: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(busy().render().decode()):
        name = family.name + ("_total" if family.type == "counter" else "")
        types[name] = family.type
        labels[name] = set().union(*(sample.labels for sample in family.samples)) - {"le"}
    assert {name: (types[name], labels[name]) for name in types} == PROMISED


def test_each_has_one_help_and_one_type_before_its_samples() -> None:
    lines = busy().render().decode().splitlines()
    helped = [line.split()[2] for line in lines if line.startswith("# HELP")]
    assert sorted(helped) == sorted(PROMISED)
    assert [line.split()[2] for line in lines if line.startswith("# TYPE")] == helped
    for line in (line for line in lines if line.startswith("# HELP")):
        assert line.endswith("."), line
    current = ""
    for line in lines:
        if line.startswith("#"):
            current = line.split()[2]
        else:
            assert line.startswith(current), f"{line} stands under {current}"


def test_names_follow_prometheus_conventions() -> None:
    for name, (kind, _) in PROMISED.items():
        assert name.endswith("_total") is (kind == "counter")
        assert not name.endswith(("_created", "_count", "_sum", "_bucket"))


def test_counters_have_no_second_series() -> None:
    assert b"_created" not in busy().render()


def test_two_sets_of_metrics_share_nothing() -> None:
    one, other = Metrics("1"), Metrics("1")
    one.retirement(FAILURE)
    assert scrape(other)[series("retirements_total", outcome="failure")] == 0
    assert scrape(one)[series("retirements_total", outcome="failure")] == 1


def test_counters_start_at_0() -> None:
    metrics = Metrics("1.2.3")
    metrics.provider_meter("respan")
    metrics.keep_only(["respan"], [])
    samples = scrape(metrics)
    assert samples[series("provider_up", provider="respan")] == 1
    assert samples[series("provider_request_duration_seconds_count", provider="respan")] == 0
    for outcome in (SUCCESS, FAILURE):
        assert samples[series("retirements_total", outcome=outcome)] == 0
    for reason in (
        "first",
        "emptied",
        "deleted",
        "missing",
        "expired",
        "expiring",
        "requested",
        "drifted",
        "misdated",
        "adopted",
    ):
        for outcome in (SUCCESS, FAILURE, LOST):
            assert samples[series("rotations_total", provider="respan", reason=reason, outcome=outcome)] == 0


NO_ROTATION = {
    *(Reason(ownership.value) for ownership in Ownership if ownership.foreign),  # the path is left alone
    *(Reason.UNRECOGNISED, Reason.CLOCK, Reason.CONTESTED),  # a new key waits
    *(Reason.PICKUP, Reason.CAP_TOO_SMALL, Reason.EARLY_EXHAUSTED),
    *(Reason.SPENT, Reason.IN_USE, Reason.WINDOW, Reason.PAUSED),
    *(
        Reason.SUPERSEDED,
        Reason.IN_USE,
        Reason.RESTORED,
        Reason.GRACE_OVER,
        Reason.REVOKED,
        Reason.ORPHAN,
    ),  # of another action
    Reason.FRESH,
}


def test_every_reason_is_counted_or_creates_no_key() -> None:
    assert {*ROTATION_REASONS} == {*Reason} - NO_ROTATION


def test_what_is_constant() -> None:
    samples = scrape(Metrics("1.2.3"))
    assert samples[series("build_info", version="1.2.3")] == 1
    assert samples[series("leader")] == 1
    assert samples[series("config_last_reload_successful")] == 1


def test_rotations_are_counted_and_only_successes_timed() -> None:
    metrics = Metrics("1")
    for outcome in (SUCCESS, FAILURE, LOST):
        metrics.rotation("respan", Reason.EXPIRING, outcome, 1.5)
    samples = scrape(metrics)
    for outcome in (SUCCESS, FAILURE, LOST):
        assert samples[series("rotations_total", provider="respan", reason="expiring", outcome=outcome)] == 1
    assert samples[series("rotation_duration_seconds_count")] == 1
    assert samples[series("rotation_duration_seconds_sum")] == 1.5


def test_a_reload_succeeds_or_fails() -> None:
    metrics = Metrics("1")
    metrics.reload(ok=False)
    assert scrape(metrics)[series("config_last_reload_successful")] == 0
    metrics.reload(ok=True)
    assert scrape(metrics)[series("config_last_reload_successful")] == 1


def test_meters_count_and_time_requests() -> None:
    metrics = Metrics("1")
    provider, store = metrics.provider_meter("respan"), metrics.store_meter("vault")
    provider("create", "timeout", 3.0)
    metrics.provider_meter("respan")("create", "timeout", 1.0)  # as after a reload: it goes on counting
    store("write", "200", 0.5)
    samples = scrape(metrics)
    assert samples[series("provider_requests_total", provider="respan", operation="create", outcome="timeout")] == 2
    assert samples[series("provider_request_duration_seconds_sum", provider="respan")] == 4
    assert samples[series("store_requests_total", store="vault", operation="write", outcome="200")] == 1
    assert samples[series("store_request_duration_seconds_count", store="vault")] == 1


@pytest.mark.parametrize(
    ("operation", "outcome", "up"),
    [
        ("create", "201", True),
        ("list", "429", True),
        ("retrieve", "404", True),
        ("list", "401", False),
        ("create", "403", True),  # a list follows that
        ("list", "403", False),
        ("list", "502", False),
        ("create", "timeout", False),
        ("probe", "401", True),  # of the new key, by the service that accepts it
        ("probe", "timeout", True),
    ],
)
def test_a_provider_is_up_by_its_last_answer(operation: str, outcome: str, up: bool) -> None:
    metrics = Metrics("1")
    meter = metrics.provider_meter("respan")
    for call, expected in ((("list", "200"), True), ((operation, outcome), up), (("list", "200"), True)):
        meter(*call, 0.1)
        assert scrape(metrics)[series("provider_up", provider="respan")] == expected


@pytest.mark.parametrize(
    ("operation", "outcome", "up"),
    [
        ("read", "404", True),
        ("preflight", "400", True),
        ("read", "403", True),
        ("login", "400", False),
        ("renew", "403", False),
        ("read", "503", False),
        ("write", "connection", False),
        ("write", "unsendable", True),
    ],
)
def test_a_store_is_up_by_its_last_answer(operation: str, outcome: str, up: bool) -> None:
    metrics = Metrics("1")
    meter = metrics.store_meter("vault")
    meter(operation, outcome, 0.1)
    assert scrape(metrics)[series("store_up", store="vault")] == up


def test_an_upstream_that_is_left_alone_is_not_up_whatever_was_answered_last() -> None:
    """As with an organisation key that cannot be read: then nothing is sent."""
    metrics = Metrics("1")
    metrics.provider_meter("respan")("list", "200", 0.1)
    metrics.store_meter("vault")("read", "200", 0.1)
    metrics.watch(lambda: known(at=NOW, down={"provider respan": StoreUnavailable("no")}), each=True)
    samples = scrape(metrics)
    assert samples[series("provider_up", provider="respan")] == 0
    assert samples[series("store_up", store="vault")] == 1


def test_a_removed_upstream_has_no_series_that_could_raise_an_alert() -> None:
    metrics = Metrics("1")
    for name in ("old", "new"):
        metrics.provider_meter(name)("list", "401", 0.1)
        metrics.store_meter(f"{name}-store")("read", "503", 0.1)
    metrics.keep_only(["old", "new"], ["old-store", "new-store"])
    before = {name for name, _ in scrape(metrics)}
    metrics.keep_only(["new"], ["new-store"])
    samples = scrape(metrics)
    stale = {name for name, labels in samples if ("provider", "old") in labels or ("store", "old-store") in labels}
    assert stale == {name for name in stale if re.search("_requests|_duration_|_rotations_", name)}, "counters stay"
    assert {name for name, _ in samples} == before


def test_an_upstream_that_is_known_keeps_its_meter() -> None:
    """What its last answer was is as true after a reload."""
    metrics = Metrics("1")
    metrics.provider_meter("respan")("list", "401", 0.1)
    metrics.provider_meter("respan")
    assert scrape(metrics)[series("provider_up", provider="respan")] == 0


def test_what_a_sweep_did_about_orphans_is_counted_and_when_all_was_done() -> None:
    metrics = Metrics("1")
    key = ProviderKey("id", "name", NOW)
    found = [Orphan(make_target(), key, OrphanState.TO_SHORTEN, False, outcome) for outcome in Outcome]
    metrics.orphans([*found, found[-1]])
    metrics.swept(NOW)
    samples = scrape(metrics)
    counted = {outcome: samples.get(series("orphans_total", outcome=outcome.value)) for outcome in Outcome}
    assert counted == {
        Outcome.LEFT: None,  # nothing was to be done
        Outcome.SHORTENED: 1,
        Outcome.REMOVED: 1,
        Outcome.HELD: 1,
        Outcome.FAILED: 2,
    }
    assert samples[series("last_sweep_success_timestamp_seconds")] == NOW.timestamp()


def test_budgets_and_tokens_are_asked_for_at_each_scrape() -> None:
    metrics = Metrics("1")
    used, ends = [0.25, 0.5], [None, NOW]
    metrics.watch(
        lambda: known(at=NOW, budgets={"respan": used.pop(0)}, logins={"vault": ends.pop(0)}),
        each=True,
    )
    first, second = scrape(metrics), scrape(metrics)
    assert [s[series("provider_budget_used_ratio", provider="respan")] for s in (first, second)] == [0.25, 0.5]
    token = series("store_token_expiry_timestamp_seconds", store="vault")
    assert token not in first  # 0 would look like one that ended long ago
    assert second[token] == NOW.timestamp()


def test_a_targets_times_come_from_its_plan() -> None:
    samples = of(status("a", served()))
    assert samples[series("key_expiry_timestamp_seconds", target="a")] == (START + 24 * HOUR).timestamp()
    assert samples[series("key_issued_timestamp_seconds", target="a")] == START.timestamp()
    assert samples[series("next_rotation_timestamp_seconds", target="a")] == (START + 16 * HOUR).timestamp()
    assert samples[series("superseded_keys", target="a")] == 0


@pytest.mark.parametrize("leads", [True, False])
def test_unknown_served_keys_are_reported_by_the_leader_for_configured_providers(
    leads: bool,
) -> None:
    metrics = Metrics("1")
    metrics.watch(lambda: known(at=NOW, leads=leads), each=True)
    metrics.unknown_served_keys("respan", 3)
    assert scrape(metrics)[series("served_keys_unknown", provider="respan")] == (3 if leads else 0)
    metrics.keep_only((), ())
    assert series("served_keys_unknown", provider="respan") not in scrape(metrics)


def test_states_are_counted_0_included() -> None:
    samples = of(
        status("a", served()),
        status("b", served(), failed=True),
        status("c", None),
        status("d", Plan(State.FOREIGN, Reason.NO_RECORD)),
    )
    counts = {state: samples[series("targets", state=state.value)] for state in State}
    expected: Mapping[State, int] = {State.OK: 1, State.FAILING: 1, State.UNKNOWN: 1, State.FOREIGN: 1}
    assert counts == {state: expected.get(state, 0) for state in State}


@pytest.mark.parametrize("plan", [None, Plan(State.MISSING, Reason.FIRST), Plan(State.FOREIGN, Reason.NO_RECORD)])
def test_what_is_not_known_is_not_there(plan: Plan | None) -> None:
    samples = of(status("a", plan))
    assert labelled(samples, "target", "a") == ({"rotator_superseded_keys"} if plan else set())
    assert series("earliest_key_expiry_timestamp_seconds") not in samples
    assert series("earliest_rotation_timestamp_seconds") not in samples
    assert series("min_renewal_margin_ratio") not in samples


def test_the_earliest_expiry_is_that_of_all_served_keys() -> None:
    sooner = served(current=record("x", START + 2 * HOUR))
    samples = of(status("a", served()), status("b", sooner), status("c", None))
    assert samples[series("earliest_key_expiry_timestamp_seconds")] == (START + 2 * HOUR).timestamp()


def test_the_earliest_rotation_counts_failing_targets() -> None:
    """In an outage a due target is failing: only the clock shows that it is due."""
    overdue = served(renewal=Renewal(START))
    samples = of(status("a", served()), status("b", overdue, failed=True), status("c", None))
    assert samples[series("earliest_rotation_timestamp_seconds")] == START.timestamp()
    assert samples[series("targets", state="failing")] == 1
    assert samples[series("targets", state="due")] == 0


@pytest.mark.parametrize(
    ("expires", "due", "ratio"),
    [
        (24, 17, 23 / 7),
        (3, 1, 1),
        (2, 0, 0.5),
        (1, -1, 0),
        (0, -2, -0.5),
        (2, 2, math.inf),
        (0, 0, -math.inf),
        (0, 0.5, -math.inf),
    ],
    ids=["fresh", "due now", "half is gone", "ends now", "ended", "due at its end", "due then, ended", "rolled back"],
)
def test_the_least_margin_is_a_share_of_the_time_between_due_and_expiry(
    expires: float, due: float, ratio: float
) -> None:
    plan = served(current=record("x", START + expires * HOUR), renewal=Renewal(START + due * HOUR))
    assert of(status("a", plan))[series("min_renewal_margin_ratio")] == pytest.approx(ratio)


def test_the_least_margin_need_not_be_that_of_the_key_that_expires_first() -> None:
    """A short life has few hours left, and much of its own length. A standby reports it as well."""
    short = served(current=record("x", START + 2 * HOUR), renewal=Renewal(START + 1.5 * HOUR))
    late = served(current=record("y", START + 4 * HOUR), renewal=Renewal(START - 6 * HOUR))
    metrics = Metrics("1")
    statuses = (status("a", short), status("b", late), status("c", None))
    metrics.watch(lambda: known(*statuses, at=NOW, leads=False), each=False)
    assert scrape(metrics)[series("min_renewal_margin_ratio")] == pytest.approx(0.3)


def test_a_removed_targets_series_end_and_a_watch_takes_the_place_of_the_one_before() -> None:
    metrics = Metrics("1")
    statuses = [status("a", served()), status("b", served())]
    metrics.watch(lambda: known(*statuses, at=NOW), each=True)
    assert len(labelled(scrape(metrics), "target", "b")) == 4
    del statuses[1]
    assert labelled(scrape(metrics), "target", "b") == set()
    metrics.watch(lambda: known(status("c", served()), at=NOW), each=True)
    assert labelled(scrape(metrics), "target", "a") == set()
    assert len(labelled(scrape(metrics), "target", "c")) == 4


@pytest.mark.parametrize(("leads", "each"), [(False, True), (True, False), (False, False)])
def test_without_leadership_or_target_metrics_there_are_sums_and_no_series_of_a_target(leads: bool, each: bool) -> None:
    metrics = Metrics("1")
    metrics.watch(lambda: known(status("a", served()), at=NOW, leads=leads), each=each)
    samples = scrape(metrics)
    assert labelled(samples, "target", "a") == set()
    assert samples[series("leader")] == leads
    assert samples[series("targets", state="ok")] == 1
    assert samples[series("earliest_key_expiry_timestamp_seconds")] == (START + 24 * HOUR).timestamp()


def test_ten_thousand_targets_cost_little_and_less_on_a_standby() -> None:
    plan = served(superseded=(superseded("k", FUTURE),))
    statuses = tuple(status(f"target-{number:05}", plan) for number in range(10_000))

    def cost(leads: bool) -> float:
        metrics = Metrics("1")
        metrics.watch(lambda: known(*statuses, at=NOW, leads=leads), each=True)
        began = time.thread_time()
        page = metrics.render()
        took = time.thread_time() - began
        assert page.count(b'target="') == (40_000 if leads else 0)
        return took

    pairs = [(cost(True), cost(False)) for _ in range(7)]
    leading, standing_by = (min(costs) for costs in zip(*pairs, strict=True))
    assert leading < 1.5  # about 0.12 s where nothing else runs
    assert standing_by < leading / 2


# --- superseded keys -------------------------------------------------------------------------------------------------

FIELD = frozenset({"another-teams"})


def superseded_of(plan: Plan) -> tuple[float, float]:
    samples = of(status("a", plan))
    return samples[series("superseded_keys", target="a")], samples[series("superseded_keys_past_grace")]


def test_keys_in_grace_are_not_past_it() -> None:
    assert superseded_of(served(superseded=(superseded("k", FUTURE), superseded("l", PAST)))) == (2, 1)


def test_grace_is_past_from_its_very_end() -> None:
    assert superseded_of(served(superseded=(superseded("k", NOW),))) == (1, 1)


def test_a_removed_key_in_a_version_with_foreign_fields_is_not_past_its_grace() -> None:
    assert superseded_of(served(superseded=(superseded("k", PAST, FIELD),))) == (0, 0)
    assert superseded_of(served(superseded=(superseded("k", PAST, FIELD, frozenset()),))) == (1, 1)


def test_a_working_key_in_a_version_with_foreign_fields_is_past_its_grace() -> None:
    key = superseded("k", PAST, FIELD)
    plan = served(superseded=(key,), actions=(Rotate(Reason.EXPIRING, 1), Retire(Reason.GRACE_OVER, key)))
    assert superseded_of(plan) == (1, 1)


@pytest.mark.parametrize(
    ("until", "works_until", "counted"), [(FUTURE, FUTURE, (1, 0)), (PAST, FUTURE, (1, 1)), (PAST, PAST, (0, 0))]
)
def test_a_key_that_has_another_place_s_name_counts_while_it_works(
    until: datetime, works_until: datetime, counted: tuple[float, float]
) -> None:
    key = replace(superseded("k", until), shown=works_until, other_name="made-by-hand")
    assert superseded_of(served(superseded=(key,), untrusted=(key.record,))) == counted


def test_a_key_that_never_expires_and_has_another_place_s_name_counts() -> None:
    key = replace(superseded("k", PAST), is_endless=True, other_name="made-by-hand")
    assert superseded_of(served(superseded=(key,))) == (1, 1)


def test_superseded_keys_that_are_in_use_and_when_the_first_of_them_ends() -> None:
    lately, long_ago = NOW - timedelta(minutes=29), NOW - timedelta(minutes=31)
    keys = (in_use("k", FUTURE, lately), in_use("l", FUTURE + HOUR, lately), in_use("m", PAST, long_ago))
    samples = of(status("a", served(superseded=keys)), status("b", served(superseded=keys[2:])), status("c", served()))
    assert samples[series("superseded_keys_in_use", target="a")] == 2
    assert samples[series("superseded_keys_in_use", target="b")] == 0
    assert samples[series("superseded_key_in_use_expiry_timestamp_seconds", target="a")] == FUTURE.timestamp()
    assert labelled(samples, "target", "b").isdisjoint({"rotator_superseded_key_in_use_expiry_timestamp_seconds"})
    unknown = of(status("a", served(superseded=(superseded("k", FUTURE),))))
    assert "rotator_superseded_keys_in_use" not in labelled(unknown, "target", "a"), "unknown use is not none"


@pytest.mark.parametrize(("leads", "each"), [(True, True), (True, False), (False, True)])
def test_sums_show_what_alerts_need_where_no_target_has_a_series(leads: bool, each: bool) -> None:
    lately = NOW - timedelta(minutes=1)
    statuses = (
        status("a", served(use=used(40.0, NOW), is_nearly_spent=True)),
        status("b", served(use=used(50.0, NOW), is_nearly_spent=True)),  # spent, which is another alert
        status("c", served(use=used(30.0, NOW), superseded=(in_use("k", FUTURE + HOUR, lately),))),
        status("d", served(superseded=(in_use("k", FUTURE, lately), in_use("l", PAST, lately - HOUR)))),
        status("e", None),
    )
    metrics = Metrics("1")
    metrics.watch(lambda: known(*statuses, at=NOW, leads=leads, sweep_interval=HOUR / 4), each=each)
    samples = scrape(metrics)
    assert samples[series("keys_nearly_spent")] == 1
    assert samples[series("earliest_superseded_key_in_use_expiry_timestamp_seconds")] == FUTURE.timestamp()
    assert samples[series("sweep_interval_seconds")] == 900


def test_no_superseded_key_in_use_has_no_expiry() -> None:
    samples = of(status("a", served(superseded=(superseded("k", FUTURE),))))
    assert series("earliest_superseded_key_in_use_expiry_timestamp_seconds") not in samples


def test_nothing_of_a_key_is_shown() -> None:
    text = busy().render().decode()
    for planted in ("served-id", "name-of-", make_target("a").path):
        assert planted not in text


def test_the_content_type_is_the_text_formats() -> None:
    assert Metrics.content_type == "text/plain; version=0.0.4; charset=utf-8"


# --- caps ------------------------------------------------------------------------------------------------------------


def test_the_use_of_a_cap_is_shown_while_it_is_known() -> None:
    burning, idle = used(40.0, NOW, rate=10 / 3600), used(10.0, NOW)
    plans = {
        "burning": served(use=burning),
        "idle": served(use=idle),
        "spent": served(use=used(70.0, NOW, reached_at=START), state=State.SPENT),
        "unknown": served(),
    }
    metrics = Metrics("1")
    metrics.watch(lambda: known(*(status(name, plan) for name, plan in plans.items()), at=NOW), each=True)
    samples = scrape(metrics)
    ratios = {name: samples.get(series("key_use_ratio", target=name)) for name in plans}
    assert ratios == {"burning": 0.8, "idle": 0.2, "spent": 1.4, "unknown": None}
    spent_at = {name: samples.get(series("key_spent_timestamp_seconds", target=name)) for name in plans}
    assert spent_at == {
        "burning": (NOW + HOUR).timestamp(),
        "idle": None,
        "spent": START.timestamp(),
        "unknown": None,
    }
    assert samples[series("targets", state="spent")] == 1


def test_whether_a_provider_shows_use_is_absent_until_it_is_known() -> None:
    metrics = Metrics("1")
    metrics.keep_only(["respan", "other"], [])
    assert not labelled(scrape(metrics), "provider", "other") & {"rotator_provider_reports_use"}
    metrics.reports_use("respan", shown=True)
    metrics.reports_use("other", shown=False)
    samples = scrape(metrics)
    assert samples[series("provider_reports_use", provider="respan")] == 1
    assert samples[series("provider_reports_use", provider="other")] == 0
    metrics.keep_only(["respan"], [])
    assert series("provider_reports_use", provider="other") not in scrape(metrics)


def test_refused_early_rotations_count_from_0() -> None:
    metrics = Metrics("1")
    assert scrape(metrics)[series("early_rotations_refused_total")] == 0
    metrics.early_rotation_refused()
    assert scrape(metrics)[series("early_rotations_refused_total")] == 1
