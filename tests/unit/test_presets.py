"""Each preset: it loads with what its first lines name, and sends what the provider's reference has.

The answers are made up after the references that each preset names.
"""

import json
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import stamina
from support.canned import Reply
from support.clocks import FakeClock
from support.described import CREDENTIAL, answered, listed

import rotator
from rotator.config.loader import load
from rotator.core.keys import CreatedKey, ProviderKey
from rotator.core.secrets import Secret
from rotator.core.traits import Traits
from rotator.providers.http_provider import presets
from rotator.providers.registry import installed_types

CLOCK = FakeClock()
NOW = CLOCK.now()
EXPIRY = NOW + timedelta(hours=24)
WRITTEN = EXPIRY.strftime("%Y-%m-%dT%H:%M:%SZ")
UNIX = int(EXPIRY.timestamp())
NAME = "prod-eu.billing-ap.abcdefghijkl.12.mnopqrst"
TEXT = "made-up-key-text-0123456789"
CONTEXT = httpx.create_ssl_context(trust_env=False)
FOLDER = Path(rotator.__file__).parent / "providers" / "http_provider" / "presets"


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Retries without their waits, and certifi's certificates read once."""
    monkeypatch.setattr(httpx, "create_ssl_context", lambda **_: CONTEXT)
    with stamina.set_testing(True, attempts=3, cap=True):
        yield


@dataclass(frozen=True)
class Expected:
    """What a preset is to do with the key `a`."""

    options: dict[str, Any]  # beside preset, base_url and api_key
    key: dict[str, Any]  # all options of a target's key
    header: tuple[str, str]
    traits: Traits
    requests: dict[str, tuple[str, object]]  # by operation: "METHOD path", and the body
    replies: dict[str, Reply | list[Reply]]
    created: CreatedKey
    shown: ProviderKey = field(default_factory=lambda: ProviderKey("a", NAME, EXPIRY))
    after_update: ProviderKey | None = None


OPENAI = {"object": "list", "first_id": "a", "last_id": "a", "has_more": False}
BEARER = ("authorization", f"Bearer {CREDENTIAL}")

PRESETS: dict[str, Expected] = {
    "litellm": Expected(
        options={},
        key={
            "max_budget": 5,
            "budget_duration": "30d",
            "rpm_limit": 60,
            "tpm_limit": 1000,
            "max_parallel_requests": 2,
            "models": ["m1", "m2"],
            "team_id": "t",
        },
        header=BEARER,
        traits=Traits("LiteLLM", reports_use="list", key_pattern="(?<![A-Za-z0-9])sk-[A-Za-z0-9_-]{16,}"),
        requests={
            "create": (
                "POST /key/generate",
                {
                    "key_alias": NAME,
                    "duration": "86400s",
                    "max_budget": 5.0,
                    "budget_duration": "30d",
                    "rpm_limit": 60,
                    "tpm_limit": 1000,
                    "max_parallel_requests": 2,
                    "models": ["m1", "m2"],
                    "team_id": "t",
                },
            ),
            "list": ("GET /key/list?page=1&size=100&return_full_object=true", None),
            "retrieve": ("GET /key/info?key=a", None),
            "update": ("POST /key/update", {"key": "a", "duration": "86400s"}),
            "delete": ("POST /key/delete", {"keys": ["a"]}),
        },
        replies={
            "POST /key/generate": Reply(
                200, {"key": TEXT, "token": "a", "token_id": "a", "key_alias": NAME, "expires": WRITTEN}
            ),
            "GET /key/list?page=1&size=100&return_full_object=true": Reply(
                200,
                {
                    "keys": [{"token": "a", "key_alias": NAME, "expires": WRITTEN, "api_key": None}],
                    "total_count": 1,
                    "current_page": 1,
                    "total_pages": 1,
                },
            ),
            "GET /key/info?key=a": [
                Reply(200, {"key": "a", "info": {"key_alias": NAME, "expires": WRITTEN, "status": "active"}}),
                Reply(200, {"key": "a", "info": {"key_alias": NAME, "expires": WRITTEN, "status": "deleted"}}),
            ],
            "POST /key/update": Reply(200, {"key": "a", "token": "a", "key_alias": NAME, "expires": WRITTEN}),
            "POST /key/delete": [Reply(200, {"deleted_keys": ["a"]}), Reply(404, {"error": {"message": "No keys"}})],
        },
        created=CreatedKey("a", NAME, Secret(TEXT), EXPIRY),
        after_update=ProviderKey("a", NAME, EXPIRY),
    ),
    "openrouter": Expected(
        options={},
        key={"limit": 5, "limit_reset": "daily", "include_byok_in_limit": True},
        header=BEARER,
        traits=Traits("OpenRouter", can_set_expiry=False, reports_use="list", key_pattern="sk-or-v1-[0-9a-f]{64}"),
        requests={
            "create": (
                "POST /keys",
                {
                    "name": NAME,
                    "expires_at": WRITTEN,
                    "limit": 5.0,
                    "limit_reset": "daily",
                    "include_byok_in_limit": True,
                },
            ),
            "list": ("GET /keys?offset=0&include_disabled=true", None),
            "retrieve": ("GET /keys/a", None),
            "delete": ("DELETE /keys/a", None),
        },
        replies={
            "POST /keys": Reply(201, {"data": {"hash": "a", "name": NAME, "expires_at": WRITTEN}, "key": TEXT}),
            "GET /keys?offset=0&include_disabled=true": Reply(
                200, {"data": [{"hash": "a", "name": NAME, "expires_at": WRITTEN, "label": "sk-or-v1-0e6...1c96"}]}
            ),
            "GET /keys?offset=1&include_disabled=true": Reply(200, {"data": []}),
            "GET /keys/a": [
                Reply(200, {"data": {"hash": "a", "name": NAME, "expires_at": WRITTEN}}),
                Reply(404, {"error": {"code": 404, "message": "Key not found"}}),
            ],
            "DELETE /keys/a": [Reply(200, {"deleted": True}), Reply(404, {"error": {"code": 404}})],
        },
        created=CreatedKey("a", NAME, Secret(TEXT), EXPIRY),
    ),
    "openai-service-account": Expected(
        options={"variables": {"project": "proj_x"}},
        key={},
        header=BEARER,
        traits=Traits(
            "OpenAI", can_set_expiry=False, keys_expire=False, key_pattern="(?<![A-Za-z0-9])sk-[A-Za-z0-9_-]{20,}"
        ),
        requests={
            "create": (
                "POST /organization/projects/proj_x/service_accounts",
                {"name": NAME},
            ),
            "list": ("GET /organization/projects/proj_x/service_accounts?limit=100", None),
            "retrieve": ("GET /organization/projects/proj_x/service_accounts/a", None),
            "delete": ("DELETE /organization/projects/proj_x/service_accounts/a", None),
        },
        replies={
            "POST /organization/projects/proj_x/service_accounts": Reply(
                200,
                {
                    "id": "a",
                    "name": NAME,
                    "role": "member",
                    "created_at": 1711471533,
                    "api_key": {"id": "key_1", "name": "Secret Key", "value": TEXT, "expires_at": None},
                },
            ),
            "GET /organization/projects/proj_x/service_accounts?limit=100": Reply(
                200, {**OPENAI, "data": [{"id": "a", "name": NAME, "created_at": 1711471533}]}
            ),
            "GET /organization/projects/proj_x/service_accounts/a": [
                Reply(200, {"id": "a", "name": NAME, "created_at": 1711471533}),
                Reply(404, {"error": {"message": "No such service account"}}),
            ],
            "DELETE /organization/projects/proj_x/service_accounts/a": [
                Reply(200, {"id": "a", "deleted": True}),
                Reply(404, {"error": {"message": "No such service account"}}),
            ],
        },
        created=CreatedKey("a", NAME, Secret(TEXT), None),
        shown=ProviderKey("a", NAME, None),
    ),
    "openai-admin": Expected(
        options={},
        key={},
        header=BEARER,
        traits=Traits(
            "OpenAI",
            can_set_expiry=False,
            reports_use="list",
            key_pattern="(?<![A-Za-z0-9])sk-[A-Za-z0-9_-]{20,}",
        ),
        requests={
            "create": ("POST /organization/admin_api_keys", {"name": NAME, "expires_in_seconds": 86400}),
            "list": ("GET /organization/admin_api_keys?limit=100", None),
            "retrieve": ("GET /organization/admin_api_keys/a", None),
            "delete": ("DELETE /organization/admin_api_keys/a", None),
        },
        replies={
            "POST /organization/admin_api_keys": Reply(
                200, {"id": "a", "name": NAME, "value": TEXT, "redacted_value": "sk-admin...def", "expires_at": UNIX}
            ),
            "GET /organization/admin_api_keys?limit=100": Reply(
                200, {**OPENAI, "data": [{"id": "a", "name": NAME, "expires_at": UNIX}]}
            ),
            "GET /organization/admin_api_keys/a": [
                Reply(200, {"id": "a", "name": NAME, "expires_at": UNIX}),
                Reply(404, {"error": {"message": "No such key"}}),
            ],
            "DELETE /organization/admin_api_keys/a": [Reply(200, {"id": "a", "deleted": True}), Reply(404, {})],
        },
        created=CreatedKey("a", NAME, Secret(TEXT), EXPIRY),
    ),
    "portkey": Expected(
        options={"variables": {"workspace": "ws-x"}},
        key={
            "scopes": ["completions.write"],
            "credit_limit": 10,
            "periodic_reset": "monthly",
            "requests_per_minute": 100,
        },
        header=("x-portkey-api-key", CREDENTIAL),
        traits=Traits("Portkey"),
        requests={
            "create": (
                "POST /api-keys/workspace/service",
                {
                    "name": NAME,
                    "expires_at": WRITTEN,
                    "workspace_id": "ws-x",
                    "scopes": ["completions.write"],
                    "usage_limits": {"type": "cost", "credit_limit": 10.0, "periodic_reset": "monthly"},
                    "rate_limits": [{"type": "requests", "unit": "rpm", "value": 100}],
                },
            ),
            "list": ("GET /api-keys?workspace_id=ws-x&current_page=0&page_size=100", None),
            "retrieve": ("GET /api-keys/a", None),
            "update": ("PUT /api-keys/a", {"expires_at": WRITTEN}),
            "delete": ("DELETE /api-keys/a", None),
        },
        replies={
            "POST /api-keys/workspace/service": Reply(200, {"id": "a", "key": TEXT, "object": "api-key"}),
            "GET /api-keys?workspace_id=ws-x&current_page=0&page_size=100": Reply(
                200,
                {
                    "object": "list",
                    "total": 1,
                    "data": [{"id": "a", "key": "Xk***S4", "name": NAME, "expires_at": WRITTEN}],
                },
            ),
            "GET /api-keys?workspace_id=ws-x&current_page=1&page_size=100": Reply(
                200, {"object": "list", "total": 1, "data": []}
            ),
            "GET /api-keys/a": [
                Reply(200, {"id": "a", "key": "Xk***S4", "name": NAME, "expires_at": WRITTEN}),
                Reply(404, {}),
            ],
            "PUT /api-keys/a": Reply(200, {}),
            "DELETE /api-keys/a": [Reply(200, {}), Reply(404, {})],
        },
        created=CreatedKey("a", "", Secret(TEXT), None),
        after_update=ProviderKey("a", "", None),
    ),
    "fireworks": Expected(
        options={"variables": {"account": "acc", "user": "usr"}},
        key={},
        header=BEARER,
        traits=Traits("Fireworks", can_set_expiry=False),
        requests={
            "create": (
                "POST /v1/accounts/acc/users/usr/apiKeys",
                {"apiKey": {"displayName": NAME, "expireTime": WRITTEN}},
            ),
            "list": ("GET /v1/accounts/acc/users/usr/apiKeys?pageSize=100", None),
            "retrieve": ("GET /v1/accounts/acc/users/usr/apiKeys?pageSize=100", None),
            "delete": ("POST /v1/accounts/acc/users/usr/apiKeys:delete", {"keyId": "a"}),
        },
        replies={
            "POST /v1/accounts/acc/users/usr/apiKeys": Reply(
                200, {"keyId": "a", "displayName": NAME, "key": TEXT, "expireTime": WRITTEN, "prefix": "fw_"}
            ),
            "GET /v1/accounts/acc/users/usr/apiKeys?pageSize=100": [
                *[
                    Reply(
                        200,
                        {
                            "apiKeys": [{"keyId": "a", "displayName": NAME, "expireTime": WRITTEN}],
                            "nextPageToken": "",
                            "totalSize": 1,
                        },
                    )
                ]
                * 2,
                Reply(200, {"apiKeys": [], "nextPageToken": ""}),
            ],
            "POST /v1/accounts/acc/users/usr/apiKeys:delete": [Reply(200, {}), Reply(404, {"code": 5})],
        },
        created=CreatedKey("a", NAME, Secret(TEXT), EXPIRY),
    ),
    "jupyterhub": Expected(
        options={"variables": {"user": "billing-api"}},
        key={"scopes": ["access:servers!user"], "roles": ["user"]},
        header=("authorization", f"token {CREDENTIAL}"),
        traits=Traits("JupyterHub", can_set_expiry=False, reports_use="list", keys_per_page=1000),
        requests={
            "create": (
                "POST /hub/api/users/billing-api/tokens",
                {"note": NAME, "expires_in": 86400, "scopes": ["access:servers!user"], "roles": ["user"]},
            ),
            "list": ("GET /hub/api/users/billing-api/tokens", None),
            "retrieve": ("GET /hub/api/users/billing-api/tokens/a", None),
            "delete": ("DELETE /hub/api/users/billing-api/tokens/a", None),
        },
        replies={
            "POST /hub/api/users/billing-api/tokens": Reply(
                201, {"user": "billing-api", "id": "a", "note": NAME, "expires_at": WRITTEN, "token": TEXT}
            ),
            "GET /hub/api/users/billing-api/tokens": Reply(
                200, {"api_tokens": [{"id": "a", "note": NAME, "expires_at": WRITTEN}]}
            ),
            "GET /hub/api/users/billing-api/tokens/a": [
                Reply(200, {"id": "a", "note": NAME, "expires_at": WRITTEN}),
                Reply(404, {"status": 404, "message": "No such token a for user billing-api"}),
            ],
            "DELETE /hub/api/users/billing-api/tokens/a": [Reply(204), Reply(404, {"status": 404})],
        },
        created=CreatedKey("a", NAME, Secret(TEXT), EXPIRY),
    ),
    "vault-token": Expected(
        options={"variables": {"role": "rotated"}},
        key={"policies": ["app"], "no_default_policy": True, "num_uses": 5},
        header=("x-vault-token", CREDENTIAL),
        traits=Traits("Vault tokens", can_set_expiry=False, key_pattern="hvs[.][A-Za-z0-9_-]{24,}", keys_per_page=1),
        requests={
            "create": (
                "POST /v1/auth/token/create/rotated",
                {
                    "ttl": "86400s",
                    "explicit_max_ttl": "86400s",
                    "renewable": False,
                    "meta": {"name": NAME},
                    "policies": ["app"],
                    "no_default_policy": True,
                    "num_uses": 5,
                },
            ),
            "list": ("LIST /v1/auth/token/accessors", None),
            "retrieve": ("POST /v1/auth/token/lookup-accessor", {"accessor": "a"}),
            "delete": ("POST /v1/auth/token/revoke-accessor", {"accessor": "a"}),
        },
        replies={
            "POST /v1/auth/token/create/rotated": Reply(
                200,
                {
                    "auth": {
                        "client_token": TEXT,
                        "accessor": "a",
                        "metadata": {"name": NAME},
                        "lease_duration": 86400,
                    },
                    "data": None,
                },
            ),
            "LIST /v1/auth/token/accessors": Reply(200, {"data": {"keys": ["a"]}}),
            "POST /v1/auth/token/lookup-accessor": [
                *[
                    Reply(
                        200,
                        {
                            "data": {
                                "accessor": "a",
                                "id": "",
                                "meta": {"name": NAME},
                                "expire_time": WRITTEN.replace("Z", ".000000001Z"),
                                "creation_time": 1795942108,
                            }
                        },
                    )
                ]
                * 2,
                Reply(400, {"errors": ["1 error occurred:\n\t* invalid accessor\n\n"]}),
            ],
            "POST /v1/auth/token/revoke-accessor": [
                Reply(204),
                Reply(200, {"warnings": ["No token found with this accessor"]}),
            ],
        },
        created=CreatedKey("a", NAME, Secret(TEXT), EXPIRY),
    ),
}


def preset(name: str) -> dict[str, Any]:
    return {"type": "http", "preset": name, "api_key": {"env": "ACME_KEY"}, **PRESETS[name].options}


def parameters(folder: Path, name: str, key: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a target asks for, as the configuration reads it."""
    file = folder / "rotator.json"
    address = {"base_url": "https://provider.test"}
    whole = {
        "owner": "prod",
        "providers": {"acme": address | preset(name)},
        "stores": {"db": {"type": "sqlite", "file": "keys.db"}},
        "targets": {"a": {"path": "a", "key": key}},
    }
    file.write_text(json.dumps(whole))
    configuration = load(file, {"ACME_KEY": CREDENTIAL}, installed_types())
    assert configuration.traits["acme"] == PRESETS[name].traits
    return configuration.targets["a"].parameters


def test_every_preset_is_tested() -> None:
    assert PRESETS.keys() == set(presets.names()) == {file.stem for file in FOLDER.glob("*.toml")}


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_sends_what_the_reference_has(tmp_path: Path, name: str) -> None:
    expected = PRESETS[name]
    asked = parameters(tmp_path, name, expected.key)
    with answered(expected.replies, preset(name), FakeClock()) as (provider, server):

        def requests() -> list[tuple[str, object]]:
            sent = [
                (f"{asked.method} {asked.path}", json.loads(asked.body) if asked.body else None)
                for asked in server.asked
            ]
            assert {asked.headers[expected.header[0]] for asked in server.asked} == {expected.header[1]}
            server.asked.clear()
            return sent

        assert provider.create(NAME, asked, EXPIRY) == expected.created
        assert requests() == [expected.requests["create"]]
        assert listed(provider) == [expected.shown]
        assert requests()[0] == expected.requests["list"]
        assert provider.retrieve("a") == expected.shown
        assert requests() == [expected.requests["retrieve"]]
        if expected.traits.can_set_expiry:
            assert provider.set_expiry("a", EXPIRY) == expected.after_update
            assert requests() == [expected.requests["update"]]
        provider.delete("a")
        provider.delete("a")
        assert requests() == [expected.requests["delete"]] * 2
        assert provider.retrieve("a") is None


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_sends_no_option_that_a_target_leaves_out(tmp_path: Path, name: str) -> None:
    expected = PRESETS[name]
    with answered(expected.replies, preset(name), FakeClock()) as (provider, server):
        provider.create(NAME, parameters(tmp_path, name, {}), EXPIRY)
        body = json.loads(server.asked[0].body)
    full = expected.requests["create"][1]
    assert isinstance(full, dict)
    assert body.items() <= full.items()
    assert full.keys() - body.keys() == _fields_of_options(name)


def _fields_of_options(name: str) -> set[str]:
    """The fields of a create that hold an option of the key."""
    data = tomllib.loads((FOLDER / f"{name}.toml").read_text())
    return {field for field, value in data["create"]["body"].items() if "{param:" in json.dumps(value)}


@pytest.mark.parametrize("name", PRESETS)
def test_the_documents_have_what_a_preset_needs_and_can_do(name: str) -> None:
    text = (FOLDER.parents[3] / "docs" / "providers.md").read_text()
    [row] = [line for line in text.splitlines() if line.startswith(f"| `{name}` |")]
    _, _, needed, expiry, change, use, *_ = (cell.strip() for cell in row.split("|"))
    traits = PRESETS[name].traits
    assert (expiry == "yes", change == "yes") == (traits.keys_expire, traits.can_set_expiry)
    answer = tomllib.loads((FOLDER / f"{name}.toml").read_text())["answer"]
    assert set(re.findall("`(.+?)`", use)) == answer.get("use", {}).keys()
    assert ("last use" in use, use == "no") == ("last_used_at" in answer, traits.reports_use == "no")
    assert set(re.findall(r"variables\.(\w+)", needed)) == PRESETS[name].options.get("variables", {}).keys()
    has_address = "base_url" in tomllib.loads((FOLDER / f"{name}.toml").read_text())
    assert ("base_url" in needed) is not has_address


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_names_its_source_and_the_date(name: str) -> None:
    head = (FOLDER / f"{name}.toml").read_text().partition("\n\n")[0]
    assert "November 2026" in head
    assert "ried against" in head  # whether or not


def test_an_option_of_a_preset_is_overridden_alone() -> None:
    own = {
        "label": "Ours",
        "create": {"body": {"workspace_id": "w"}},
        "list": {"query": {"workspace_id": "w"}},
        "key": {"limit": {"maximum": 10}},
    }
    replies: dict[str, Reply | list[Reply]] = {
        "POST /keys": Reply(201, {"data": {"hash": "a"}, "key": TEXT}),
        "GET /keys?offset=0&include_disabled=true&workspace_id=w": Reply(200, {"data": []}),
    }
    with answered(replies, preset("openrouter") | own, FakeClock()) as (provider, server):
        assert provider.traits.label == "Ours"
        provider.create(NAME, {}, EXPIRY)
        assert json.loads(server.asked[0].body) == {"name": NAME, "expires_at": WRITTEN, "workspace_id": "w"}
        assert listed(provider) == []


def test_an_expiry_that_no_list_shows_may_be_sent_all_the_same() -> None:
    own = {
        "create": {"body": {"expires_in_seconds": "{ttl_seconds:int}"}},
        "answer": {"expires_at": "api_key.expires_at"},
    }
    path = "POST /organization/projects/proj_x/service_accounts"
    reply = Reply(200, {"id": "a", "name": NAME, "api_key": {"value": TEXT, "expires_at": UNIX}})
    with answered({path: reply}, preset("openai-service-account") | own, FakeClock()) as (provider, server):
        assert provider.traits.keys_expire
        assert provider.create(NAME, {}, EXPIRY) == CreatedKey("a", NAME, Secret(TEXT), EXPIRY)
        assert json.loads(server.asked[0].body) == {"name": NAME, "expires_in_seconds": 86400}


def test_another_kind_of_paging_replaces_that_of_a_preset() -> None:
    own = {"list": {"paging": {"by": "none"}, "query": {"offset": 0}}}
    replies: dict[str, Reply | list[Reply]] = {
        "GET /keys?offset=0&include_disabled=true": Reply(200, {"data": [{"hash": "a"}]}),
    }
    with answered(replies, preset("openrouter") | own) as (provider, server):
        assert listed(provider) == [ProviderKey("a", "", None)]
        assert len(server.asked) == 1


def test_the_presets_are_in_the_wheel(tmp_path: Path) -> None:
    top = FOLDER.parents[3]
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=top,
        check=True,
        capture_output=True,
    )
    [wheel] = tmp_path.glob("*.whl")
    held = {Path(name).name for name in zipfile.ZipFile(wheel).namelist() if "/presets/" in name}
    assert held >= {f"{name}.toml" for name in PRESETS}
