"""The tables under [notify]: what they mean, and what is refused there."""

import copy
import json
import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rotator.config.loader import Configuration, load
from rotator.config.notify_settings import EVERY_TYPE
from rotator.core.errors import ConfigurationError
from rotator.providers.registry import installed_types

ENVIRONMENT = {"RESPAN_API_KEY": "sk_live_do-not-show", "HOOK": "whsec_do-not-show"}
URL = "https://hooks.example/rotator"
HOOK = {"url": URL, "secret": {"env": "HOOK"}}
BASE = {
    "owner": "prod-eu",
    "providers": {"respan": {"type": "respan", "api_key": {"env": "RESPAN_API_KEY"}}},
    "stores": {"file": {"type": "sqlite", "file": "store.db"}},
    "targets": {"a": {"path": "apps/a"}},
}

Read = Callable[[object], Configuration]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    def read(notify: object) -> Configuration:
        file = tmp_path / "rotator.json"
        file.write_text(json.dumps({**BASE, "notify": notify}))
        return load(file, ENVIRONMENT, installed_types())

    return read


def hook(**changes: object) -> dict[str, Any]:
    return {"webhooks": {"chat": {**copy.deepcopy(HOOK), **changes}}}


def refused(read: Read, notify: object) -> dict[str, str]:
    with pytest.raises(ConfigurationError) as caught:
        read(notify)
    assert "do-not-show" not in str(caught.value)
    return {problem.key: problem.message for problem in caught.value.problems}


def test_without_the_table_nothing_is_notified(read: Read) -> None:
    assert (read({}).notify.webhooks, read({}).notify.external_secrets) == ({}, None)


def test_a_webhook_gets_every_event_by_default(read: Read) -> None:
    assert read(hook()).notify.webhooks["chat"].events == EVERY_TYPE
    assert read(hook(events=["key.spent"])).notify.webhooks["chat"].events == ("key.spent",)


@pytest.mark.parametrize("url", [URL, URL + "/", "http://127.0.0.1:8080/x", "http://[::1]/", "https://hooks.example"])
def test_a_url_stays_as_it_is_with_or_without_a_slash_at_its_end(read: Read, url: str) -> None:
    assert read(hook(url=url)).notify.webhooks["chat"].url == url


@pytest.mark.parametrize(
    ("change", "key", "message"),
    [
        ({"url": "http://hooks.example/"}, "url", "must begin with https://: http:// is for loopback hosts only"),
        ({"url": "http://10.0.0.1/"}, "url", "must begin with https://: http:// is for loopback hosts only"),
        ({"url": "https://me:do-not-show@hooks.example"}, "url", "must not hold a user name or a password"),
        ({"url": "https://hooks.example/?token=do-not-show"}, "url", "must not have a query or a fragment"),
        ({"url": "ftp://hooks.example"}, "url", 'must begin with "https://"'),
        ({"url": ""}, "url", "must not be empty"),
        ({"events": []}, "events", "must not be empty. The notifications that it gets. All if left out."),
        ({"events": ["key.gone"]}, "events[0]", 'must be "key.published"'),
        ({"events": "key.published"}, "events", "must be a list"),
        ({"secret": "whsec_do-not-show"}, "secret", "must not stand in the configuration itself"),
        ({"former_secret": "whsec_do-not-show"}, "former_secret", "must not stand in the configuration itself"),
        ({"secret": {}}, "secret", "must have exactly one of file"),
        ({"secret": {"env": "UNSET"}}, "secret.env", "names $UNSET, which is not set in the environment"),
        ({"former_secret": {"env": "UNSET"}}, "former_secret.env", "names $UNSET"),
        ({"secret": {"vault": "secret/hooks#a"}}, "secret.vault", "needs exactly one store of type vault"),
        ({"secrets": {}}, "secrets", 'is not a known option here; did you mean "secret"?'),
    ],
)
def test_webhooks_that_are_refused(read: Read, change: dict[str, object], key: str, message: str) -> None:
    [(at, why)] = refused(read, hook(**change)).items()
    assert at == f"notify.webhooks.chat.{key}"
    assert why.startswith(message)


@pytest.mark.parametrize("missing", ["url", "secret"])
def test_url_and_secret_are_required(read: Read, missing: str) -> None:
    notify = hook()
    del notify["webhooks"]["chat"][missing]
    assert refused(read, notify)[f"notify.webhooks.chat.{missing}"].startswith("is required")


@pytest.mark.parametrize(
    ("table", "key", "message"),
    [
        ({}, "namespaces", "is required"),
        ({"namespaces": []}, "namespaces", "must not be empty"),
        ({"namespaces": ["a/b"]}, "namespaces[0]", "must have the form"),
        ({"namespaces": "apps"}, "namespaces", "must be a list"),
        ({"namespaces": ["apps"], "api_server": "https://x"}, "api_server", "is not a known option"),
    ],
)
def test_external_secrets_that_are_refused(read: Read, table: dict[str, object], key: str, message: str) -> None:
    [(at, why)] = refused(read, {"external_secrets": table}).items()
    assert at == f"notify.external_secrets.{key}"
    assert why.startswith(message)


def test_the_documented_tables_load(read: Read) -> None:
    blocks = re.findall(r"(?ms)^```toml\n(.*?)^```$", (Path(__file__).parents[2] / "docs/consumers.md").read_text())
    tables = [read(tomllib.loads(block)["notify"]).notify for block in blocks]
    assert [(set(one.webhooks), one.external_secrets is not None) for one in tables] == [
        (set(), True),
        ({"chat"}, False),
    ]


def test_a_name_that_is_no_name_and_a_table_that_is_unknown_are_refused(read: Read) -> None:
    assert list(refused(read, {"webhooks": {"a b": HOOK}})) == ['notify.webhooks."a b"']
    assert list(refused(read, {"webhook": {}})) == ["notify.webhook"]
