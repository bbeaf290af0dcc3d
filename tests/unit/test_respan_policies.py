"""Limit policies of Respan: which of them show a key's use, and that no trouble with them ends a list."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.canned import Asked, Reply, canned
from unit.test_respan import EXPIRY as EXPIRES_AT
from unit.test_respan import Noted, listed, provider_at, rigged
from unit.test_respan import _quick as _quick  # a fixture of every test

from rotator.core.errors import ProviderCredentialRefused
from rotator.core.keys import ProviderKey, UnreadableKey
from rotator.core.use import CapUse, KeyUse
from rotator.providers.respan.client import LIST_PATH, MAX_POLICY_PAGES, POLICIES_PATH
from rotator.providers.respan.responses import policy_use, with_policies
from rotator.simulator import Fault

POLICY: dict[str, Any] = {
    "id": "p",
    "scope": "API Key",
    "scope_value": "a",
    "compose": [],
    "metric": "cost",
    "period": None,
    "is_active": True,
    "rules": [{"severity": "soft", "trigger": {}}, {"severity": "hard", "trigger": {}}],
    "threshold_value": 20.0,
    "current_state": {"current_value": 12.5, "interval_start": None, "interval_end": None},
}
SPENT = ("a", CapUse("spending_limit", 12.5, 20))


@pytest.mark.parametrize(
    ("changes", "shown"),
    [
        ({}, SPENT),
        ({"compose": ["api_key_id"]}, SPENT),
        ({"compose": None}, SPENT),
        ({"metric": "request_count"}, ("a", CapUse("max_usage", 12.5, 20))),
        ({"rules": [{"severity": "soft"}]}, ("a", CapUse("spending_limit", 12.5))),
        ({"rules": [{"severity": "hard", "is_active": False}]}, ("a", CapUse("spending_limit", 12.5))),
        ({"rules": None}, ("a", CapUse("spending_limit", 12.5))),
        ({"threshold_value": "20"}, ("a", CapUse("spending_limit", 12.5))),
        ({"threshold_value": 0}, ("a", CapUse("spending_limit", 12.5))),
        # no use of one key in its whole life
        ({"period": "day"}, None),
        ({"period": "3600"}, None),
        ({"is_active": False}, None),
        ({"metric": "token_count"}, None),
        ({"metric": None}, None),
        ({"compose": ["organization_id"]}, None),
        ({"compose": ["api_key_id", "model"], "scope_value": '["a", "m"]'}, None),
        ({"scope_value": None}, None),
        ({"scope_value": ""}, None),
        ({"scope_value": 5}, None),
        ({"current_state": None}, None),
        ({"current_state": []}, None),
        *(({"current_state": {"current_value": bad}}, None) for bad in (None, -1, "7", True, 10**400, float("nan"))),
    ],
)
def test_a_policy_shows_the_use_of_one_key_in_its_whole_life_or_nothing(
    changes: dict[str, Any], shown: tuple[str, CapUse] | None
) -> None:
    assert policy_use(POLICY | changes) == shown


def test_a_policy_that_lacks_its_period_shows_nothing() -> None:
    assert policy_use({name: value for name, value in POLICY.items() if name != "period"}) is None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
)


@given(entry=JSON | st.dictionaries(st.sampled_from(list(POLICY)), JSON).map(lambda changes: POLICY | changes))
def test_any_policy_can_be_read(entry: object) -> None:
    shown = policy_use(entry)
    assert shown is None or shown[1].used >= 0


def test_the_use_that_a_key_shows_itself_goes_before_that_of_its_policies() -> None:
    shown = {"a": {"spending_limit": CapUse("spending_limit", 9, 20), "max_usage": CapUse("max_usage", 3, 5)}}
    own = KeyUse((CapUse("spending_limit", 8, 20),))
    key = ProviderKey("a", "n", None, use=own)
    merged = with_policies(key, shown)
    assert isinstance(merged, ProviderKey)
    assert merged.use == KeyUse((CapUse("spending_limit", 8, 20), CapUse("max_usage", 3, 5)))
    assert with_policies(ProviderKey("b", "n", None, use=own), shown).use == own  # type: ignore[union-attr]
    unreadable = UnreadableKey("a", "n", "x")
    assert with_policies(unreadable, shown) is unreadable


@pytest.mark.parametrize("shape", ["uuid", "tk", "tmpkey", "prefix"])
def test_the_list_shows_what_policies_count_for_each_key(shape: str) -> None:
    with rigged(limit_policies="on", id_shape=shape, page_size=2) as rig:
        provider = rig.another(limit_policies=True)
        used = provider.create("used", {"max_usage": 5, "spending_limit": 2.5}, EXPIRES_AT).id
        fresh = provider.create("fresh", {"max_usage": 7}, EXPIRES_AT).id
        rig.sim.vendor.use(rig.sim.vendor.text_of(used), calls=3, usd=1.25)
        asked = 0

        def before() -> None:
            nonlocal asked
            asked += 1

        sent = len(rig.sim.journal)
        keys = {key.id: key for page in provider.pages(before) for key in page}
        assert asked == len(rig.sim.journal) - sent == 4
        assert keys[used].use == KeyUse((CapUse("max_usage", 3, 5), CapUse("spending_limit", 1.25, 2.5)))  # type: ignore[union-attr]
        assert keys[fresh].use == KeyUse((CapUse("max_usage", 0, 7),))  # type: ignore[union-attr]
        assert keys[rig.key_id].use is None  # type: ignore[union-attr]


def test_policies_are_read_on_request_only() -> None:
    with rigged(limit_policies="on") as rig:
        assert [key.use for key in listed(rig.provider) if isinstance(key, ProviderKey)] == [None]
        assert [call.operation for call in rig.sim.journal][-1:] == ["list"]
        assert "policies" not in {call.operation for call in rig.sim.journal}


@pytest.mark.parametrize("policies", ["off", "refused"])
def test_a_list_needs_no_policies(policies: str) -> None:
    with rigged(limit_policies=policies) as rig:
        provider = rig.another(limit_policies=True)
        assert [key.id for key in listed(provider)] == [rig.key_id]
        assert provider.error is None


@pytest.mark.parametrize("kind", ["refuse", "rate_limit", "html", "drop_before", "garble", "truncate", "fail"])
def test_no_trouble_with_policies_ends_a_list(kind: str) -> None:
    with rigged(limit_policies="on") as rig:
        provider = rig.another(limit_policies=True)
        rig.sim.faults.add(Fault(kind, "policies", times=None))
        assert [key.id for key in listed(provider)] == [rig.key_id]


def answering(policies: Callable[[str], Reply]) -> Callable[[Asked], Reply]:
    def answer(asked: Asked) -> Reply:
        if asked.path.startswith(POLICIES_PATH):
            return policies(asked.path)
        assert asked.path == LIST_PATH
        return Reply(200, [{"id": "a", "name": "n", "expiry_date": EXPIRES_AT.isoformat()}])

    return answer


@pytest.mark.parametrize(
    ("reply", "requests"),
    [
        (lambda path: Reply(200, {"results": [POLICY], "next": path}), 2),  # the same page over and over
        (lambda path: Reply(200, {"results": [POLICY | {"id": path}], "next": path}), MAX_POLICY_PAGES),
        (lambda _: Reply(200, {"results": [POLICY], "next": None}), 1),
        (lambda _: Reply(200, [POLICY]), 1),
        (lambda _: Reply(200, {"results": "none"}), 1),
        (lambda _: Reply(200, {"results": [None, 5, POLICY], "next": "http://elsewhere.test/"}), 2),
    ],
)
def test_the_pages_of_policies_end(reply: Callable[[str], Reply], requests: int) -> None:
    with canned(answering(reply)) as server, provider_at(server.address, Noted(), limit_policies=True) as provider:
        listed(provider)
        paths = [asked.path for asked in server.asked]
    assert len(paths) == requests + 1
    assert paths[:2] == [LIST_PATH, f"{POLICIES_PATH}?page=1&page_size=100"]


def test_of_several_policies_the_least_limit_counts() -> None:
    several = [POLICY | {"rules": None}, POLICY, POLICY | {"threshold_value": 15.0}, POLICY | {"threshold_value": 30.0}]
    reply = Reply(200, {"results": several, "next": None})
    with (
        canned(answering(lambda _: reply)) as server,
        provider_at(server.address, Noted(), limit_policies=True) as provider,
    ):
        [key] = listed(provider)
    assert isinstance(key, ProviderKey)
    assert key.use == KeyUse((CapUse("spending_limit", 12.5, 15),))


def test_a_refused_credential_is_reported_by_the_list() -> None:
    with rigged(limit_policies="on") as rig:
        provider = rig.another(limit_policies=True)
        rig.sim.vendor.organisation_keys.clear()
        with pytest.raises(ProviderCredentialRefused):
            listed(provider)
        assert rig.calls("policies") == []
