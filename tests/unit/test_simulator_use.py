"""The simulator's keys are used: what the gateway counts, what answers show of it, and how the two may differ."""

from datetime import timedelta
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from respan import RespanClient
from support.simulated import CHAT, KEYS, START, Vendor, vendor

from rotator.simulator import Refusal
from rotator.simulator.use import Counter

USE = {"key_usage", "last_used", "spending_in_period"}
POLICIES = "/api/limit-policies/"
HOUR = timedelta(hours=1)


def alone(v: Vendor, created: Any) -> Any:
    return v.client.get(v.at(created["id"])).json()


def listed(v: Vendor) -> Any:
    [entry] = v.client.get(KEYS).json()["results"]
    return entry


def policies(v: Vendor) -> list[Any]:
    return list(v.client.get(POLICIES).json()["results"])


# --- which answers show use ---


@pytest.mark.parametrize(
    ("use_shown", "on_create", "on_retrieve", "on_list"),
    [
        ("create", {"key_usage"}, set(), set()),
        ("none", set(), set(), set()),
        ("retrieve", {"key_usage"}, USE, set()),
        ("list", {"key_usage"}, set(), USE),
        ("everywhere", {"key_usage"} | USE, USE, USE),
    ],
)
def test_use_is_shown_in_the_chosen_answers_alone(
    use_shown: str, on_create: set[str], on_retrieve: set[str], on_list: set[str]
) -> None:
    with vendor(use_shown=use_shown) as v:
        created = v.create()
        assert v.chat(created["api_key"]) == 200
        updated = v.client.patch(v.at(created["id"]), json={"name": "b"}).json()
        assert created.keys() & USE <= on_create
        assert "key_usage" in created or not on_create
        assert [answer.keys() & USE for answer in (alone(v, created), updated)] == [on_retrieve, on_retrieve]
        assert listed(v).keys() & USE == on_list
        for answer in (alone(v, created), listed(v)):
            assert answer.get("key_usage", 1) == 1
            assert answer.get("spending_in_period", 0.01) == 0.01
            assert answer.get("last_used", "2026-03-01T12:00:00Z") == "2026-03-01T12:00:00Z"


def test_older_fields_hide_use_where_none_is_shown() -> None:
    with vendor(older_fields=True, use_shown="none") as v:
        assert v.create().keys() & USE == set()
        assert listed(v).keys() & USE == set()


@pytest.mark.parametrize(("never_used", "shown"), [("null", None), ("1970", "1970-01-01T00:00:00Z")])
def test_a_key_that_was_never_used(never_used: str, shown: str | None) -> None:
    with vendor(use_shown="everywhere", never_used=never_used) as v:
        created = v.create()
        assert alone(v, created)["last_used"] == shown
        v.chat(created["api_key"])
        assert alone(v, created)["last_used"] == "2026-03-01T12:00:00Z"


# --- counters that lag and start again ---


def test_shown_counters_lag_and_the_gateways_do_not() -> None:
    with vendor(use_shown="everywhere", use_lag_s=60, call_cost_usd=0.5) as v:
        created = v.create(max_usage=3)
        v.now += HOUR
        assert [v.chat(created["api_key"]) for _ in range(2)] == [200, 200]
        assert (alone(v, created)["key_usage"], alone(v, created)["last_used"]) == (0, None)
        v.now += timedelta(seconds=30)
        assert [v.chat(created["api_key"]) for _ in range(2)] == [200, 429]
        v.now += timedelta(seconds=30)
        assert (alone(v, created)["key_usage"], alone(v, created)["spending_in_period"]) == (2, 1.0)
        v.now += timedelta(seconds=30)
        assert (listed(v)["key_usage"], listed(v)["spending_in_period"]) == (3, 1.5)
        assert v.sim.vendor.keys[created["id"]].key_usage == 3


def test_counters_start_again_with_each_period() -> None:
    with vendor(use_shown="everywhere", use_period_s=3600, call_cost_usd=0.5) as v:
        created = v.create(spending_limit=1)
        assert [v.chat(created["api_key"]) for _ in range(3)] == [200, 200, 429]
        v.now += HOUR
        assert (alone(v, created)["key_usage"], alone(v, created)["spending_in_period"]) == (0, 0.0)
        assert alone(v, created)["last_used"] == "2026-03-01T12:00:00Z"
        assert v.chat(created["api_key"]) == 200
        assert alone(v, created)["key_usage"] == 1
        assert v.sim.vendor.keys[created["id"]].key_usage == 3


@given(
    calls=st.lists(st.integers(0, 7200), max_size=30).map(sorted),
    period=st.sampled_from([0, 60, 1000]),
    lag=st.sampled_from([0, 1, 90]),
)
def test_a_counter_forgets_no_call_that_may_be_seen(calls: list[int], period: int, lag: int) -> None:
    counter = Counter(START, timedelta(seconds=period), timedelta(seconds=lag))
    for number, second in enumerate(calls):
        counter.add(START + timedelta(seconds=second), 1, 0.25)
        for seen_at in (second, second - lag):
            begins = seen_at - seen_at % period if period else -1
            expected = [call for call in calls[: number + 1] if begins <= call <= seen_at]
            seen = counter.seen(START + timedelta(seconds=seen_at))
            if seen_at >= 0:
                assert (seen.calls, seen.usd) == (len(expected), len(expected) / 4)


# --- spent keys ---


@pytest.mark.parametrize("spent_status", [429, 401])
def test_a_key_whose_calls_are_used_up_is_refused(spent_status: int) -> None:
    with vendor(spent_status=spent_status) as v:
        text = v.create(max_usage=2)["api_key"]
        assert [v.chat(text) for _ in range(3)] == [200, 200, spent_status]


def test_a_test_can_count_many_calls_as_one_and_set_what_they_cost() -> None:
    with vendor(use_shown="everywhere") as v:
        created = v.create(spending_limit=20, max_usage=1000)
        v.sim.vendor.use(created["api_key"], calls=400, usd=12.5)
        v.sim.vendor.use(created["api_key"], calls=100)
        assert (alone(v, created)["key_usage"], alone(v, created)["spending_in_period"]) == (500, 13.5)
        v.sim.vendor.use(created["api_key"], usd=6.5)
        with pytest.raises(Refusal, match="spending limit"):
            v.sim.vendor.use(created["api_key"], usd=0)
        assert v.sim.vendor.keys[created["id"]].key_usage == 501


# --- limit policies ---


@pytest.mark.parametrize(("limit_policies", "status"), [("off", 404), ("refused", 403), ("on", 200)])
def test_limit_policies_are_a_switch(limit_policies: str, status: int) -> None:
    with vendor(limit_policies=limit_policies) as v:
        assert v.client.get(POLICIES).status_code == status
        assert v.client.post(POLICIES, json={}).status_code == 405
        v.client.headers["Authorization"] = "Bearer wrong"
        assert v.client.get(POLICIES).status_code == 401


def test_a_keys_limits_are_kept_as_policies() -> None:
    with vendor(limit_policies="on", use_lag_s=60, page_size=1) as v:
        created = v.create(max_usage=5, spending_limit=2.5)
        v.create()
        v.sim.vendor.use(created["api_key"], calls=3, usd=1.25)
        first = v.client.get(POLICIES).json()
        assert (first["count"], first["next"]) == (1, f"{v.sim.url}{POLICIES}?page=2")
        v.now += timedelta(minutes=1)
        both = [policy for url in (POLICIES, first["next"]) for policy in v.client.get(url).json()["results"]]
        assert [
            (policy["metric"], policy["period"], policy["threshold_value"], policy["current_state"]["current_value"])
            for policy in both
        ] == [("request_count", None, 5, 3.0), ("cost", None, 2.5, 1.25)]
        assert {policy["scope_value"] for policy in both} == {created["id"]}
        v.client.delete(v.at(created["id"]))
        assert policies(v) == []


def test_a_spent_policy_refuses_calls_until_its_period_ends() -> None:
    with vendor(limit_policies="on", spent_status=401) as v:
        created = v.create(
            limit_policies=[
                {"max_value": 3, "metric": "request_count", "period": "hour"},
                {"max_value": 1, "metric": "cost", "period": "7200"},
            ]
        )
        assert [policy["current_state"]["current_value"] for policy in created["limit_policies"]] == [0, 0]
        text = created["api_key"]
        assert [v.chat(text) for _ in range(3)] == [200, 200, 429], "a cap of 3 allows two calls"
        state = policies(v)[0]["current_state"]
        assert state["current_value"] == 3
        assert (state["interval_start"], state["interval_end"]) == (START.timestamp(), START.timestamp() + 3600)
        v.now += HOUR
        v.sim.vendor.use(text, usd=1)
        assert v.chat(text) == 429
        v.now += HOUR
        assert v.chat(text) == 200


@pytest.mark.parametrize(
    "spec",
    [
        1,
        {},
        {"max_value": 1},
        {"max_value": 1, "period": None},
        {"max_value": 1, "period": "0"},
        {"max_value": 1, "period": "year"},
        {"max_value": 0, "period": "day"},
        {"max_value": True, "period": "day"},
        {"max_value": 1, "period": "day", "metric": "calls"},
    ],
)
def test_a_policy_that_cannot_be_read_is_refused_by_name(spec: object) -> None:
    with vendor(limit_policies="on") as v:
        answer = v.client.post(KEYS, json={"limit_policies": [spec]})
        assert (answer.status_code, list(answer.json()["errors"])) == (400, ["limit_policies"])
        assert v.sim.vendor.keys == {}


def test_the_vendors_sdk_reads_the_policies() -> None:
    with vendor(limit_policies="on") as v, httpx.Client(verify=False, trust_env=False) as transport:
        token = v.sim.organisation_key
        client = RespanClient(
            base_url=v.sim.url, authorization=f"Bearer {token}", respan_api_key=token, httpx_client=transport
        )
        created = client.temporary_api_keys.create_api_key(max_usage=5)
        assert v.client.post(CHAT, json={}, headers={"Authorization": f"Bearer {created.api_key}"}).is_success
        [policy] = client.limit_policies.list_limit_policies().results or []
        assert (policy.scope_value, policy.metric, policy.period) == (created.id, "request_count", None)
        assert policy.current_state is not None
        assert (policy.threshold_value, policy.current_state.current_value) == (5, 1)
