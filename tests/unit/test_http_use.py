"""What a description and the presets read of a key's use."""

import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import stamina
from hypothesis import given
from hypothesis import strategies as st
from support.canned import Reply
from support.clocks import FakeClock
from support.described import CREDENTIAL, WHOLE, answered, changed, listed, made
from support.litellm import litellm
from support.openrouter import openrouter
from unit.test_http_description import configured

from rotator.config.loader import load
from rotator.core.keys import ProviderKey
from rotator.core.target import Cap
from rotator.core.use import CapUse, KeyUse
from rotator.providers.answers import MAX_COUNT, counted_down
from rotator.providers.http_provider.client import HttpProvider
from rotator.providers.registry import installed_types

CLOCK = FakeClock()
NOW = CLOCK.now()
USED_AT = NOW - timedelta(hours=1)
SOON = datetime.now(UTC) + timedelta(hours=1)
CONTEXT = httpx.create_ssl_context(trust_env=False)
USED = {"key.limit.is_cap": True, "answer.use": {"limit": {"used": ["u", "calls.used"], "limit": "calls.most"}}}
LEFT = {"key.limit.is_cap": True, "answer.use": {"limit": {"left": "left", "limit": "most"}}}


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Retries without their waits, and certifi's certificates read once."""
    monkeypatch.setattr(httpx, "create_ssl_context", lambda **_: CONTEXT)
    with stamina.set_testing(True, attempts=3, cap=True):
        yield


def use_of(description: Mapping[str, Any], entry: Mapping[str, Any]) -> KeyUse | None:
    """What the list and a look-up show, which is the same."""
    whole = {"id": "a", "name": "n", **entry}
    replies: dict[str, Reply | list[Reply]] = {
        "GET /keys": Reply(200, {"data": [whole]}),
        "GET /keys/a": Reply(200, whole),
    }
    with answered(replies, description, CLOCK) as (provider, _):
        assert provider.traits.reports_use == "list"
        [key], alone = listed(provider), provider.retrieve("a")
    assert key == ProviderKey("a", "n", None) == alone
    assert isinstance(key, ProviderKey)
    assert alone is not None
    assert key.use == alone.use
    return key.use


@pytest.mark.parametrize(
    ("entry", "use"),
    [
        ({"u": 3, "calls": {"used": 4, "most": 9}}, CapUse("limit", 3, 9)),
        ({"calls": {"used": 4, "most": 9}}, CapUse("limit", 4, 9)),
        ({"calls": {"used": 0, "most": None}}, CapUse("limit", 0, None)),
        ({"u": -1, "calls": {"used": 4, "most": 9}}, None),
        ({"calls": {"most": 9}}, None),
        ({"calls": "many"}, None),
        ({}, None),
    ],
)
def test_a_counter_and_its_limit_are_read_where_the_pointers_lead(entry: dict[str, Any], use: CapUse | None) -> None:
    assert use_of(changed(USED), entry) == (use and KeyUse((use,)))


@pytest.mark.parametrize(
    ("entry", "used"),
    [
        ({"most": 10, "left": 8.5}, 1.5),
        ({"most": 10, "left": 10}, 0),
        ({"most": 10, "left": 0}, 10),
        ({"most": 10, "left": -0.5}, 10.5),
        ({"most": 10, "left": 11}, None),  # less than none was used
        ({"most": None, "left": None}, None),
        ({"most": None, "left": 5}, None),
        ({"most": 10, "left": None}, None),
        ({"most": 10, "left": "5"}, None),
        ({"most": 10, "left": True}, None),
        ({"most": 10, "left": -1e300}, None),
        ({"most": "10", "left": 5}, None),
    ],
)
def test_what_is_left_of_a_limit_shows_what_is_used(entry: dict[str, Any], used: float | None) -> None:
    assert use_of(changed(LEFT), entry) == (None if used is None else KeyUse((CapUse("limit", used, 10),)))


@given(limit=st.integers() | st.floats() | st.none(), left=st.integers() | st.floats() | st.booleans() | st.text())
def test_a_count_down_is_a_count_or_nothing(limit: object, left: object) -> None:
    used = counted_down(limit, left)
    assert used is None or 0 <= used <= MAX_COUNT


def test_a_counter_of_what_is_used_goes_before_what_is_left() -> None:
    both = changed(LEFT | {"answer.use.limit.used": "used"})
    assert use_of(both, {"used": 3, "left": 8, "most": 10}) == KeyUse((CapUse("limit", 3, 10),))
    assert use_of(both, {"left": 8, "most": 10}) == KeyUse((CapUse("limit", 2, 10),))


def test_a_last_use_alone_is_use_too() -> None:
    description = changed({"answer.last_used_at": ["used.at", "seen"]})
    assert use_of(description, {"seen": USED_AT.timestamp()}) == KeyUse((), USED_AT)
    assert use_of(description, {"used": {"at": USED_AT.isoformat()}, "seen": 0}) == KeyUse((), USED_AT)
    assert use_of(description, {"used": {"at": None}}) is None


def test_a_description_without_use_shows_none() -> None:
    with made("http://127.0.0.1:1", WHOLE) as provider:
        assert provider.traits.reports_use == "no"


def test_a_cap_of_a_description_has_its_unit(tmp_path: Path) -> None:
    file = tmp_path / "rotator.json"
    for unit, shown in (({"key.limit.unit": "calls"}, "calls"), ({}, "")):
        description = changed({"key.limit.is_cap": True, **unit})
        file.write_text(json.dumps(configured(description, {"limit": 5})))
        target = load(file, {"ACME_KEY": CREDENTIAL}, installed_types()).targets["a"]
        assert target.caps.caps == (Cap("limit", 5.0, shown, is_seen=False),)


# --- presets ---------------------------------------------------------------------------------------------------------


def preset(name: str, **options: Any) -> dict[str, Any]:
    return {"type": "http", "preset": name, "api_key": {"env": "ACME_KEY"}, **options}


def shown(provider: HttpProvider, key_id: str) -> KeyUse | None:
    """What the list and a look-up show of a key's use, which is the same."""
    [key] = [key for key in listed(provider) if key.id == key_id]
    alone = provider.retrieve(key_id)
    assert isinstance(key, ProviderKey)
    assert alone is not None
    assert key.use == alone.use
    return key.use


def test_openrouter_shows_what_is_left_of_a_limit() -> None:
    with (
        openrouter() as sim,
        made(sim.address, preset("openrouter"), credential=sim.management_key) as provider,
    ):
        capped = provider.create("capped", {"limit": 5.0, "limit_reset": "daily"}, SOON).id
        free = provider.create("free", {}, SOON).id
        assert shown(provider, capped) == KeyUse((CapUse("limit", 0, 5),))
        assert shown(provider, free) is None
        sim.spend(capped, 3.5)
        sim.spend(free, 100)
        use = shown(provider, capped)
        assert use is not None
        assert use.caps == (CapUse("limit", 3.5, 5),)
        assert use.last_used_at == sim.keys[capped].last_used_at.replace(  # type: ignore[union-attr]
            microsecond=use.last_used_at.microsecond  # type: ignore[union-attr]
        )
        assert (unlimited := shown(provider, free)) is not None
        assert unlimited.caps == ()


def test_litellm_shows_the_spend_of_a_budget() -> None:
    with litellm() as sim, made(sim.address, preset("litellm"), credential=sim.master_key) as provider:
        capped = provider.create("capped", {"max_budget": 5.0}, SOON).id
        free = provider.create("free", {}, SOON).id
        assert shown(provider, capped) == KeyUse((CapUse("max_budget", 0, 5),))
        sim.spend(capped, 5.25)
        [key] = [key for key in sim.keys if key.token == capped]
        assert shown(provider, capped) == KeyUse((CapUse("max_budget", 5.25, 5),), key.last_active)
        assert shown(provider, free) == KeyUse((CapUse("max_budget", 0),))
        assert sim.flaws == []


@pytest.mark.parametrize(
    ("name", "options", "path", "page", "field", "time"),
    [
        ("openai-admin", {}, "/organization/admin_api_keys", "data", "last_used_at", int(USED_AT.timestamp())),
        (
            "jupyterhub",
            {"variables": {"user": "u"}},
            "/hub/api/users/u/tokens",
            "api_tokens",
            "last_activity",
            USED_AT.isoformat(),
        ),
    ],
)
def test_a_preset_may_show_the_last_use_alone(
    name: str, options: dict[str, Any], path: str, page: str, field: str, time: object
) -> None:
    for value, use in ((time, KeyUse((), USED_AT)), (None, None)):
        entry = {"id": "a", "name": "n", "note": "n", field: value}
        replies: dict[str, Reply | list[Reply]] = {
            f"GET {path}?limit=100": Reply(200, {page: [entry], "has_more": False}),
            f"GET {path}": Reply(200, {page: [entry]}),
            f"GET {path}/a": Reply(200, entry),
        }
        with answered(replies, preset(name, **options), CLOCK) as (provider, _):
            assert shown(provider, "a") == use
