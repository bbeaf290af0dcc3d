"""A configuration is read, or refused with everything malformed, or else with every broken rule, at file and key."""

import inspect
import json
import os
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rotator.config import loader as config
from rotator.config.files import Watch
from rotator.config.json_schema import json_schema
from rotator.config.loader import Configuration
from rotator.config.provider_type import ProviderTypes
from rotator.config.schema import AppRoleAuth, SqliteSettings, TokenAuth, VaultSettings
from rotator.core.errors import ConfigurationError
from rotator.core.events import Event, EventType
from rotator.core.target import Target
from rotator.core.times import hash_fraction
from rotator.daemon.main import Daemon
from rotator.daemon.signals import Signals
from rotator.providers.http_provider import tables
from rotator.providers.registry import installed_types
from rotator.runtime.clock import SystemClock
from rotator.telemetry.metrics import Metrics

TOP = Path(__file__).parents[2]
SECRET = "sk_live_do-not-show-this"
ENVIRONMENT = {"RESPAN_API_KEY": SECRET, "VAULT_TOKEN": SECRET}
MINIMAL = """
owner = "prod-eu"

[providers.respan]
type = "respan"
api_key = { env = "RESPAN_API_KEY" }

[stores.vault]
type = "vault"
address = "https://vault.test:8200"
auth = { method = "token" }

[targets.billing-api]
path = "apps/billing/respan"
"""

Data = dict[str, Any]


def set_at(data: Data, key: str, value: object) -> None:
    *parents, last = key.split(".")
    for parent in parents:
        data = data.setdefault(parent, {})
    data[last] = value


def minimal(**changes: object) -> Data:
    """Return the minimal configuration with changes; two underscores in a keyword stand for a dot."""
    data = tomllib.loads(MINIMAL)
    for key, value in changes.items():
        set_at(data, key.replace("__", ".").replace("billing_api", "billing-api"), value)
    return data


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., Configuration]:
    def load(content: str | Data, environment: Mapping[str, str] = ENVIRONMENT) -> Configuration:
        file = tmp_path / ("rotator.toml" if isinstance(content, str) else "rotator.json")
        file.write_text(content if isinstance(content, str) else json.dumps(content))
        return config.load(file, environment, installed_types())

    return load


@pytest.fixture
def refused(load: Callable[..., Configuration]) -> Callable[..., dict[str, str]]:
    """Load what must be refused, and return the message for each key."""

    def refused(content: str | Data, environment: Mapping[str, str] = ENVIRONMENT) -> dict[str, str]:
        with pytest.raises(ConfigurationError) as caught:
            load(content, environment)
        assert SECRET not in str(caught.value)
        return {problem.key: problem.message for problem in caught.value.problems}

    return refused


def warned(configuration: Configuration) -> dict[str, str]:
    return {warning.key: warning.message for warning in configuration.warnings}


# --- the options -----------------------------------------------------------------------------------------------------


def test_the_defaults(load: Callable[..., Configuration]) -> None:
    read = load(MINIMAL)

    assert (read.owner, read.former_owners, read.lease, read.warnings) == ("prod-eu", (), None, ())
    provider = read.providers["respan"]
    assert (provider.base_url, provider.requests_per_minute) == ("https://api.respan.ai", 60)
    store = read.stores["vault"]
    assert isinstance(store, VaultSettings)
    assert (store.mount, store.namespace, store.ca_file, store.auth) == ("secret", "", None, TokenAuth(method="token"))
    assert (str(read.http.listen), str(read.http.admin)) == ("0.0.0.0:9465", "127.0.0.1:9466")
    assert (read.daemon.workers, read.daemon.jitter, read.daemon.drain) == (8, 0.05, timedelta(seconds=25))
    assert (read.daemon.resync, read.daemon.rollout) == (timedelta(minutes=10), timedelta(hours=1))
    assert (read.sweep.interval, read.sweep.min_age) == (timedelta(minutes=15), timedelta(minutes=5))
    assert read.sweep.max_orphans == 10
    assert read.targets["billing-api"] == Target(
        name="billing-api",
        path="apps/billing/respan",
        provider="respan",
        store="vault",
        key_field="api_key",
        extra_fields={},
        parameters={},
        ttl=timedelta(hours=24),
        renew_before=timedelta(hours=8),
        grace_period=timedelta(hours=4),
        jitter=timedelta(hours=8) * 0.05 * hash_fraction("billing-api"),
        adopt=False,
    )


def test_a_min_age_shorter_than_a_publish_warns(load: Callable[..., Configuration]) -> None:
    assert load(MINIMAL + '[sweep]\nmin_age = "30s"\n').warnings == ()
    [warning] = load(MINIMAL + '[sweep]\nmin_age = "29s"\n').warnings
    assert warning.key == "sweep.min_age"
    assert "shorter than a publish may take (30s)" in warning.message


def test_an_empty_lease_table_turns_leader_election_on(load: Callable[..., Configuration]) -> None:
    lease = load(MINIMAL + "[lease]\n").lease

    assert lease is not None
    assert (lease.name, lease.duration, lease.namespace) == ("rotator", timedelta(seconds=15), None)


def test_a_target_overrides_the_defaults_entry_by_entry(load: Callable[..., Configuration]) -> None:
    read = load(
        minimal(
            defaults={
                "ttl": "12h",
                "renew_before": "6h",
                "key_field": "token",
                "extra_fields": {"region": "eu", "tier": "a"},
                "key": {"rate_limit": 5, "spending_limit": 9},
            },
            targets__billing_api__ttl="48h",
            targets__billing_api__extra_fields={"tier": "b"},
            targets__billing_api__key={"rate_limit": 7},
            targets__billing_api__adopt=True,
        )
    )

    target = read.targets["billing-api"]
    assert (target.ttl, target.renew_before) == (timedelta(hours=48), timedelta(hours=6))
    assert (target.key_field, target.extra_fields) == ("token", {"region": "eu", "tier": "b"})
    assert target.parameters == {"rate_limit": 7, "spending_limit": 9.0}
    assert target.adopt


def test_a_target_that_repeats_a_builtin_default_still_overrides_defaults(load: Callable[..., Configuration]) -> None:
    read = load(minimal(defaults={"ttl": "48h"}, targets__billing_api__ttl="24h"))

    assert read.targets["billing-api"].ttl == timedelta(hours=24)


def test_file_names_are_relative_to_the_main_file(load: Callable[..., Configuration], tmp_path: Path) -> None:
    approle = {"method": "approle", "role_id": "r", "secret_id_file": "ids/secret"}
    read = load(
        minimal(
            providers__respan__api_key={"file": "org-key"},
            stores__vault__auth=approle,
            stores__vault__ca_file="/etc/ca.pem",
            stores__local={"type": "sqlite", "file": "keys.sqlite"},
            defaults={"store": "vault"},
        )
    )

    assert read.providers["respan"].api_key.file == tmp_path / "org-key"
    vault, local = read.stores["vault"], read.stores["local"]
    assert isinstance(vault, VaultSettings)
    assert isinstance(vault.auth, AppRoleAuth)
    assert isinstance(local, SqliteSettings)
    assert (vault.auth.secret_id_file, vault.ca_file) == (tmp_path / "ids/secret", Path("/etc/ca.pem"))
    assert local.file == tmp_path / "keys.sqlite"


def test_a_key_may_be_a_field_in_vault(load: Callable[..., Configuration]) -> None:
    reference = load(minimal(providers__respan__api_key={"vault": "secret/respan/org#api_key"})).providers["respan"]

    assert reference.api_key.vault is not None
    assert (reference.api_key.vault.mount, reference.api_key.vault.path) == ("secret", "respan/org")
    assert reference.api_key.vault.field == "api_key"


@pytest.mark.parametrize("address", ["127.0.0.1:0", "localhost:80", "[::1]:9466"])
def test_listen_addresses(load: Callable[..., Configuration], address: str) -> None:
    read = load(minimal(http__admin=address))

    assert str(read.http.admin) == address
    assert read.warnings == ()


def test_json_means_what_toml_means(load: Callable[..., Configuration]) -> None:
    text = (TOP / "config.example.toml").read_text()
    from_toml, from_json = load(text), load(tomllib.loads(text))

    for name in Configuration.__slots__:
        if name not in ("file", "warnings"):
            assert getattr(from_toml, name) == getattr(from_json, name)
    assert [problem.key for problem in from_toml.warnings] == [problem.key for problem in from_json.warnings]


def test_the_example_loads_and_names_every_option() -> None:
    """But those of descriptions, which are in docs/providers.md."""
    file = TOP / "config.example.toml"
    text = file.read_text()

    assert text.startswith("#:schema ./config.schema.json\n")
    warnings = config.load(file, {"RESPAN_API_KEY": SECRET}, installed_types()).warnings
    assert [warning.key for warning in warnings] == ["targets.billing-api.key.spending_limit"], "a cap is per key"
    described = {table.__name__ for table in vars(tables).values() if inspect.isclass(table)}
    for name, table in json_schema(installed_types())["$defs"].items():
        for option in table["properties"] if name not in {*described, "HttpProviderSettings"} else ():
            assert f"{option} =" in text or re.search(rf"^\[.*\.{option}[.\]]", text, re.MULTILINE), option


def test_the_example_shows_each_default_as_it_is() -> None:
    """Each value is the default, or a comment marks it as an example or describes what applies if it is left out."""
    schema = json_schema(installed_types())
    of_table = {
        "": schema,
        "providers.respan": schema["$defs"]["RespanSettings"],
        "stores.vault": schema["$defs"]["VaultSettings"],
        "defaults": schema["$defs"]["Changeable"],
        **{name: schema["$defs"][f"{name.title()}Settings"] for name in ("http", "daemon", "sweep", "lease")},
    }
    table, compared = "", 0
    for line in (TOP / "config.example.toml").read_text().splitlines():
        setting, _, comment = line.partition("  # ")
        if header := re.match(r"\[(.+)\]", setting):
            table = header[1] if not comment.startswith("example") else "an example"
        if not (option := re.match(r"(\w+) = ", setting)) or table == "an example":
            continue
        options = of_table[table]["properties"][option[1]]
        default = options.get("default", options.get("const"))
        [value] = tomllib.loads(setting).values()
        if comment.startswith("example") or (default is None and "if left out" in comment):
            assert default in (None, {}, []) or value != default, line
        else:
            assert value == default, line
            compared += 1
    assert compared > 25


def test_the_checked_in_schema_is_current() -> None:
    checked_in = (TOP / "config.schema.json").read_text()

    assert checked_in == json.dumps(json_schema(installed_types()), indent=2, ensure_ascii=False) + "\n", (
        "run `rotator schema > config.schema.json`"
    )


def test_the_schema_requires_what_the_loader_requires() -> None:
    schema = json_schema(installed_types())

    assert schema["required"] == ["owner", "providers", "stores"]
    assert "address" not in schema["$defs"]["VaultSettings"]["required"]  # it may come from $VAULT_ADDR
    assert "null" not in json.dumps(schema)


def test_the_schema_describes_each_option_in_sentences() -> None:
    schema = json_schema(installed_types())
    tables = {name: table["properties"] for name, table in schema["$defs"].items()} | {"": schema["properties"]}
    for name, options in tables.items():
        for option, described in options.items():
            if option != "method" and option not in ("http", "daemon", "sweep"):  # its table is described
                assert re.fullmatch(r"[A-Z$\W].*[.]", described["description"]), f"{name}.{option}"
            assert "\n" not in described.get("description", "")


# --- the environment -------------------------------------------------------------------------------------------------

VAULT_ENVIRONMENT = {
    **ENVIRONMENT,
    "VAULT_ADDR": "https://env.test/",
    "VAULT_NAMESPACE": "team-a/",
    "VAULT_CACERT": "ca.pem",
    "VAULT_TLS_SERVER_NAME": "vault.env.test",
    "VAULT_CLIENT_TIMEOUT": "7",
}


def test_vaults_variables_set_what_the_file_leaves_out(load: Callable[..., Configuration]) -> None:
    store = load(MINIMAL.replace("address", "# address"), VAULT_ENVIRONMENT).stores["vault"]

    assert isinstance(store, VaultSettings)
    assert (store.address, store.namespace, store.server_name) == ("https://env.test", "team-a", "vault.env.test")
    assert (store.ca_file, store.timeout) == (Path("ca.pem").absolute(), timedelta(seconds=7))


def test_the_file_overrides_vaults_variables(load: Callable[..., Configuration]) -> None:
    store = load(minimal(stores__vault__namespace="", stores__vault__timeout="3s"), VAULT_ENVIRONMENT).stores["vault"]

    assert isinstance(store, VaultSettings)
    assert (store.address, store.namespace) == ("https://vault.test:8200", "")
    assert store.timeout == timedelta(seconds=3)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("7", 7), ("1500ms", 2), ("1m30s", 90), ("1.5h", 5400), ("60s", 60), ("100us", 1), ("1h", 3600)],
)
def test_a_timeout_variable_may_be_a_go_duration(load: Callable[..., Configuration], value: str, seconds: int) -> None:
    store = load(MINIMAL, {**ENVIRONMENT, "VAULT_CLIENT_TIMEOUT": value}).stores["vault"]

    assert isinstance(store, VaultSettings)
    assert store.timeout == timedelta(seconds=seconds)


def test_a_bad_variable_is_named(refused: Callable[..., dict[str, str]]) -> None:
    environment = {**VAULT_ENVIRONMENT, "VAULT_ADDR": f"https://u:{SECRET}@env.test", "VAULT_CLIENT_TIMEOUT": "soon"}

    problems = refused(MINIMAL.replace("address", "# address"), environment)

    assert problems == {
        "stores.vault.address": "$VAULT_ADDR must not hold a user name or a password",
        "stores.vault.timeout": '$VAULT_CLIENT_TIMEOUT is not a duration: write "90s", "15m", "24h", "7d" or "1h30m"',
    }


def test_credentials_that_the_environment_must_hold(refused: Callable[..., dict[str, str]]) -> None:
    assert refused(MINIMAL.replace("address", "# address"), {}) == {
        "stores.vault.address": "is required. The URL of Vault, without /v1; http:// for loopback hosts only. "
        "$VAULT_ADDR if left out."
    }
    assert refused(MINIMAL, {}) == {
        "providers.respan.api_key.env": "names $RESPAN_API_KEY, which is not set in the environment",
        "stores.vault.auth.method": 'method "token" takes the token from $VAULT_TOKEN, '
        "which is not set in the environment",
    }
    assert refused(MINIMAL, {"RESPAN_API_KEY": SECRET}) == {
        "stores.vault.auth.method": 'method "token" takes the token from $VAULT_TOKEN, '
        "which is not set in the environment"
    }


def test_an_address_variable_with_a_version_is_refused(refused: Callable[..., dict[str, str]]) -> None:
    environment = {**VAULT_ENVIRONMENT, "VAULT_ADDR": "https://vault.test:8200/v1"}
    problem = refused(MINIMAL.replace("address", "# address"), environment)["stores.vault.address"]
    assert problem.startswith('$VAULT_ADDR must not end with "/v1"')


@pytest.mark.parametrize(
    ("env", "is_shown"),
    [
        ("RESPAN_API_KEY", True),
        ("_K8S_SECRET_V2", True),
        ("ORGANISATION_KEY_1", True),
        ("lower_case", False),
        ("sk_live_4f9d2c7b8a16", False),
        ("AKIAIOSFODNN7EXAMPLE", False),
        ("SK_LIVE_4F9D2C7B8A16", False),
        ("MFRGGZDFMZTWQ2LKNNWG23TPOBYXE43U", False),
        ("A-B", False),
    ],
)
def test_an_unset_variable_is_named_unless_it_may_be_the_key_itself(
    refused: Callable[..., dict[str, str]], env: str, is_shown: bool
) -> None:
    data = minimal(providers__respan__api_key={"env": env})
    problem = refused(data, {"VAULT_TOKEN": SECRET})["providers.respan.api_key.env"]
    assert problem == f"names {f'${env}' if is_shown else 'a variable'}, which is not set in the environment"


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("owner: prod\ntargets:\n", "it looks like YAML, which rotator does not read"),
        ("# ours\n\n---\nowner: prod\n", "it looks like YAML, which rotator does not read"),
        ('"owner": prod', "it looks like YAML, which rotator does not read"),
        ('{"owner": "prod"}', "it looks like JSON: give the file a name that ends in .json"),
        ("owner = prod\n", ""),
        ("[targets.a]\nb: 3", ""),
    ],
)
def test_a_file_in_another_language_than_its_name_promises_gets_advice(
    refused: Callable[..., dict[str, str]], text: str, advice: str
) -> None:
    _, _, named = refused(text)[""].partition("; ")
    assert named.startswith(advice)
    assert bool(named) is bool(advice)


def test_vault_skip_verify_is_ignored_with_a_warning(load: Callable[..., Configuration]) -> None:
    assert warned(load(MINIMAL, {**ENVIRONMENT, "VAULT_SKIP_VERIFY": "1"})) == {
        "": "rotator ignores $VAULT_SKIP_VERIFY and verifies certificates: set ca_file instead"
    }


def test_a_proxy_of_the_environment_is_ignored_with_a_warning(load: Callable[..., Configuration]) -> None:
    for variable in ("HTTPS_PROXY", "https_proxy"):
        environment = {**ENVIRONMENT, variable: f"http://u:{SECRET}@proxy.test:3128"}
        assert warned(load(MINIMAL, environment)) == {
            "providers.respan.proxy": f"${variable} is set, and rotator does not use it: requests go to the provider "
            "directly. Set proxy if they must go through a proxy, and proxy_credentials if it wants any"
        }
        assert warned(load(minimal(providers__respan__proxy="http://proxy.test:3128"), environment)) == {}
        assert warned(load(minimal(providers__respan__base_url="http://localhost:8000"), environment)) == {}
        second = {"type": "respan", "api_key": {"env": "RESPAN_API_KEY"}}
        several = minimal(providers__second=second, defaults__provider="second")
        assert list(warned(load(several, environment))) == ["providers.respan.proxy"]
    assert warned(load(MINIMAL, {**ENVIRONMENT, "HTTPS_PROXY": ""})) == {}


def test_a_proxy_and_where_its_credentials_are(load: Callable[..., Configuration], tmp_path: Path) -> None:
    options = {"providers__respan__proxy": "http://Proxy.test:80/", "providers__respan__ca_file": "edge.pem"}
    provider = load(minimal(**options, providers__respan__proxy_credentials={"file": "edge"})).providers["respan"]
    assert (provider.proxy, provider.ca_file) == ("http://proxy.test", tmp_path / "edge.pem")
    assert provider.proxy_credentials is not None
    assert provider.proxy_credentials.file == tmp_path / "edge"


def test_credentials_for_no_proxy_are_refused(refused: Callable[..., dict[str, str]]) -> None:
    assert refused(minimal(providers__respan__proxy_credentials={"env": "EDGE_PASSWORD"})) == {
        "providers.respan.proxy_credentials.env": "names $EDGE_PASSWORD, which is not set in the environment",
        "providers.respan.proxy_credentials": "needs proxy, which is not set",
    }


# --- refused ---------------------------------------------------------------------------------------------------------

AT_PROXY = "must not hold a user name or a password: name where they are in proxy_credentials"
TARGET = "targets.billing-api"
NOT_A_DURATION = 'is not a duration: write "90s", "15m", "24h", "7d" or "1h30m"'
REFUSED = [
    # caps
    (f"{TARGET}.on_cap", "refill", f"{TARGET}.on_cap", 'must be "report" or "replace"'),
    (
        f"{TARGET}.on_cap",
        "replace",
        f"{TARGET}.on_cap",
        '"replace" needs a cap in key: without one no key is ever nearly spent',
    ),
    (
        "defaults.on_cap",
        "replace",
        "defaults.on_cap",
        '"replace" needs a cap in key: without one no key is ever nearly spent',
    ),
    (f"{TARGET}.replace_at", "0%", f"{TARGET}.replace_at", 'is not a percentage over "0%" and up to "100%"'),
    (f"{TARGET}.replace_at", 0.8, f"{TARGET}.replace_at", 'is not a percentage over "0%" and up to "100%"'),
    (f"{TARGET}.max_early_rotations", 25, f"{TARGET}.max_early_rotations", "must be at most 24"),
    (f"{TARGET}.max_early_rotations", 0, f"{TARGET}.max_early_rotations", "must be at least 1"),
    (f"{TARGET}.pickup", "0s", f"{TARGET}.pickup", "must be longer than 0s"),
    (f"{TARGET}.grace_extension", "1", f"{TARGET}.grace_extension", 'write a unit: "1s", "1m", "1h" or "1d"'),
    # the shape
    ("owner", 3, "owner", "must be a string in quotes"),
    ("owner", "Prod EU", "owner", "must have the form [a-z0-9-]{1,63}"),
    ("ownr", "x", "ownr", 'is not a known option here; did you mean "owner"?'),
    ("former_owners", "x", "former_owners", "must be a list"),
    ("former_owners", ["x", "Y"], "former_owners[1]", "must have the form [a-z0-9-]{1,63}"),
    ("daemon", 1, "daemon", "must be a table"),
    ("daemon.workers", 0, "daemon.workers", "must be at least 1"),
    ("daemon.workers", "8", "daemon.workers", "must be a whole number"),
    ("daemon.workers", True, "daemon.workers", "must be a whole number"),
    ("daemon.reysnc", "1h", "daemon.reysnc", 'is not a known option here; did you mean "resync"?'),
    ("daemon.zzz", "1h", "daemon.zzz", "is not a known option here"),
    ("sweep.max_orphans", -1, "sweep.max_orphans", "must be at least 0"),
    ("targets", [], "targets", "must be a table"),
    ("stores.type", "vault", "stores.type", "must be a table: write [stores.NAME] above its options"),
    ("targets.path", "apps/a", "targets.path", "must be a table: write [targets.NAME] above its options"),
    ("targets.Billing", {"path": "x"}, "targets.Billing", "must have the form [a-z0-9][a-z0-9-]{0,62}"),
    ("targets.a b", {"path": "x"}, 'targets."a b"', "must have the form [a-z0-9][a-z0-9-]{0,62}"),
    ("defaults.adopt", True, "defaults.adopt", "is not a known option here"),
    ("defaults.path", "x", "defaults.path", "is not a known option here"),
    (f"{TARGET}.extra_fields", {"n": 1}, f"{TARGET}.extra_fields.n", "must be a string in quotes"),
    (f"{TARGET}.adopt", "yes", f"{TARGET}.adopt", "must be true or false"),
    (f"{TARGET}.fields", {"a": "b"}, f"{TARGET}.fields", 'is not a known option here; did you mean "extra_fields"?'),
    (f"{TARGET}.field", "token", f"{TARGET}.field", 'is not a known option here; did you mean "key_field"?'),
    # providers
    ("providers.respan.proxy", f"http://u:{SECRET}@proxy.test", "providers.respan.proxy", AT_PROXY),
    ("providers.respan.proxy", "proxy.test:3128", "providers.respan.proxy", 'must begin with "http://" or "https://"'),
    ("providers.respan.proxy", "socks5://p.test", "providers.respan.proxy", 'must begin with "http://" or "https://"'),
    ("providers.respan.proxy", "http://proxy.test/a", "providers.respan.proxy", "must not have a path"),
    (
        "providers.respan.proxy_credentials",
        f"u:{SECRET}",
        "providers.respan.proxy_credentials",
        'must not stand in the configuration itself: write where it is, as { file = "..." } or { env = "..." }',
    ),
    (
        "providers.respan.proxy_credentials",
        {},
        "providers.respan.proxy_credentials",
        'must have exactly one of file = "..." and env = "..."',
    ),
    ("providers", {}, "providers", "must not be empty. The services that issue keys: at least one [providers.NAME]."),
    ("providers.respan.type", "openai", "providers.respan.type", 'must be "respan" or "http"'),
    ("providers.respan.requests_per_minute", 0, "providers.respan.requests_per_minute", "must be at least 1"),
    (
        "providers.respan.api_key",
        SECRET,
        "providers.respan.api_key",
        'must not stand in the configuration itself: write where it is, as { file = "..." } or { env = "..." }',
    ),
    ("providers.respan.api_key", 3, "providers.respan.api_key", "must be a table"),
    (
        "providers.respan.api_key",
        {},
        "providers.respan.api_key",
        'must have exactly one of file = "...", env = "..." and vault = "mount/path#field"',
    ),
    (
        "providers.respan.api_key",
        {"file": "a", "env": SECRET},
        "providers.respan.api_key",
        'must have exactly one of file = "...", env = "..." and vault = "mount/path#field"',
    ),
    (
        "providers.respan.api_key",
        {"vault": SECRET},
        "providers.respan.api_key.vault",
        'must be written "mount/path#field"',
    ),
    (
        "providers.respan.base_url",
        "http://api.respan.ai",
        "providers.respan.base_url",
        "must begin with https://: http:// is for loopback hosts only",
    ),
    (
        "providers.respan.base_url",
        "http://127.0.0.1.evil.test",
        "providers.respan.base_url",
        "must begin with https://: http:// is for loopback hosts only",
    ),
    # stores
    (
        "stores",
        {},
        "stores",
        "must not be empty. Where keys are kept: at least one [stores.NAME]. There is no implicit store.",
    ),
    (
        "stores",
        {"my store": {"type": "sqlite", "file": "x"}},
        'stores."my store"',
        "must have the form [A-Za-z0-9][A-Za-z0-9_-]{0,62}",
    ),
    ("stores.vault", {}, "stores.vault.type", 'is required: "sqlite" or "vault"'),
    ("stores.vault.type", "valut", "stores.vault.type", 'must be "sqlite" or "vault"'),
    ("stores.vault.adress", "x", "stores.vault.adress", 'is not a known option here; did you mean "address"?'),
    ("stores.vault.address", "vault:8200", "stores.vault.address", 'must begin with "https://"'),
    ("stores.vault.address", "unix:///run/v", "stores.vault.address", 'must begin with "https://"'),
    ("stores.vault.address", "https://", "stores.vault.address", "is not a URL with a host"),
    ("stores.vault.address", "https://[::1", "stores.vault.address", "is not a URL"),
    ("stores.vault.address", "https://v:99999", "stores.vault.address", "is not a URL"),
    ("stores.vault.address", "https://10.0.0.256", "stores.vault.address", "is not a URL with a host"),
    ("stores.vault.address", "https://xn--a", "stores.vault.address", "is not a URL with a host"),
    ("stores.vault.address", "https://a b", "stores.vault.address", "is not a URL with a host"),
    (
        "stores.vault.address",
        f"https://u:{SECRET}@v",
        "stores.vault.address",
        "must not hold a user name or a password",
    ),
    ("stores.vault.address", f"https://v?t={SECRET}", "stores.vault.address", "must not have a query or a fragment"),
    (
        "stores.vault.address",
        "http://vault.test",
        "stores.vault.address",
        "must begin with https://: http:// is for loopback hosts only",
    ),
    ("stores.vault.mount", "secret/", "stores.vault.mount", "must not begin or end with a slash"),
    (
        "stores.vault.namespace",
        "a//b",
        "stores.vault.namespace",
        "must not contain two slashes in a row: Vault would turn it into another path",
    ),
    ("stores.vault.auth.role", "r", "stores.vault.auth.role", "is not a known option here"),
    (
        "stores.vault.auth",
        {},
        "stores.vault.auth.method",
        'is required: "approle", "cert", "jwt", "kubernetes", "token" or "token_file"',
    ),
    (
        "stores.vault.auth",
        {"method": "aprole"},
        "stores.vault.auth.method",
        'must be "approle", "cert", "jwt", "kubernetes", "token" or "token_file"',
    ),
    (
        "stores.vault.auth",
        {"method": "token_file"},
        "stores.vault.auth.token_file",
        "is required. The file that holds the token, relative to the configuration file. rotator reads it again when "
        "the token ends.",
    ),
    # the daemon
    ("http.listen", "9465", "http.listen", 'is not an address: write "host:port", an IPv6 address in brackets'),
    ("http.listen", "::1:80", "http.listen", 'is not an address: write "host:port", an IPv6 address in brackets'),
    ("http.listen", "[::x]:80", "http.listen", 'is not an address: write "host:port", an IPv6 address in brackets'),
    ("http.listen", "a:65536", "http.listen", "its port must be at most 65535"),
    ("daemon.jitter", "51%", "daemon.jitter", 'is not a percentage from "0%" to "50%"'),
    ("daemon.jitter", 0.05, "daemon.jitter", 'is not a percentage from "0%" to "50%"'),
    ("lease.name", "A_b", "lease.name", "must have the form [a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"),
    (
        "lease.api_server",
        "http://kubernetes.default",
        "lease.api_server",
        "must begin with https://: http:// is for loopback hosts only",
    ),
    # durations
    (f"{TARGET}.ttl", 90, f"{TARGET}.ttl", 'write a unit: "90s", "90m", "90h" or "90d"'),
    (f"{TARGET}.ttl", "90", f"{TARGET}.ttl", 'write a unit: "90s", "90m", "90h" or "90d"'),
    (f"{TARGET}.ttl", "1.5h", f"{TARGET}.ttl", NOT_A_DURATION),
    (f"{TARGET}.ttl", "-5m", f"{TARGET}.ttl", NOT_A_DURATION),
    (f"{TARGET}.ttl", "30m1h", f"{TARGET}.ttl", NOT_A_DURATION),
    (f"{TARGET}.ttl", "٣h", f"{TARGET}.ttl", NOT_A_DURATION),
    (f"{TARGET}.ttl", "0h0s", f"{TARGET}.ttl", "must be longer than 0s"),
    (f"{TARGET}.ttl", "99999d", f"{TARGET}.ttl", "must be at most 3650d"),
    (f"{TARGET}.ttl", "", f"{TARGET}.ttl", "must not be empty"),
    (f"{TARGET}.ttl", True, f"{TARGET}.ttl", NOT_A_DURATION),
    (f"{TARGET}.ttl", ["1h"], f"{TARGET}.ttl", "must be a string in quotes"),
    # paths
    (f"{TARGET}.path", "", f"{TARGET}.path", "must not be empty"),
    (f"{TARGET}.path", "/a", f"{TARGET}.path", "must not begin or end with a slash"),
    (f"{TARGET}.path", "a/", f"{TARGET}.path", "must not begin or end with a slash"),
    (f"{TARGET}.path", "a\nb", f"{TARGET}.path", "must not contain control characters"),
    (
        f"{TARGET}.path",
        "a//b",
        f"{TARGET}.path",
        "must not contain two slashes in a row: Vault would turn it into another path",
    ),
    (
        f"{TARGET}.path",
        "a/../b",
        f"{TARGET}.path",
        'must not contain "." or ".." as a segment: Vault would turn it into another path',
    ),
    # keys
    (f"{TARGET}.key", {"rate_limit": 0}, f"{TARGET}.key.rate_limit", "must be at least 1"),
    (f"{TARGET}.key", {"spending_limit": 0}, f"{TARGET}.key.spending_limit", "must be more than 0"),
    (f"{TARGET}.key", {"max_usage": 0}, f"{TARGET}.key.max_usage", "must be -1 (unlimited) or at least 1"),
    (
        f"{TARGET}.key",
        {"ttl": 0},
        f"{TARGET}.key.ttl",
        "is not an option of a key of Respan: it has rate_limit, spending_limit, max_usage, is_test",
    ),
    # what needs several tables
    (f"{TARGET}.provider", "other", f"{TARGET}.provider", 'must be "respan"'),
    ("defaults.store", "other", "defaults.store", 'must be "vault"'),
    (
        "stores.second",
        {"type": "sqlite", "file": "x"},
        f"{TARGET}.store",
        'is required, because there are several: "second" or "vault"',
    ),
    (
        f"{TARGET}.ttl",
        "1h",
        f"{TARGET}.ttl",
        'renew_before (8h by default) must be shorter than ttl (1h); set renew_before = "20m" and '
        'grace_period = "10m", for example',
    ),
    (
        f"{TARGET}.ttl",
        "5s",
        f"{TARGET}.ttl",
        'renew_before (8h by default) must be shorter than ttl (5s); set renew_before = "2s" and grace_period = "1s", '
        "for example",
    ),
    (
        f"{TARGET}.renew_before",
        "1d",
        f"{TARGET}.renew_before",
        'renew_before (1d) must be shorter than ttl (1d); set renew_before = "8h" and grace_period = "4h", for example',
    ),
    (
        "defaults.renew_before",
        "25h",
        "defaults.renew_before",
        'renew_before (1d1h) must be shorter than ttl (1d); set renew_before = "8h" and grace_period = "4h", '
        "for example",
    ),
    (
        "stores.vault.address",
        "https://vault.test:8200/v1/",
        "stores.vault.address",
        'must not end with "/v1": rotator adds that to each request',
    ),
    (
        f"{TARGET}.renew_before",
        "23h",
        f"{TARGET}.renew_before",
        "renew_before (23h) and its largest jitter (1h9m, [daemon].jitter) together must be shorter than ttl (1d): "
        "a fresh key would be due at once",
    ),
    (
        f"{TARGET}.grace_period",
        "8h1s",
        f"{TARGET}.grace_period",
        "grace_period (8h1s) must not be longer than renew_before (8h): "
        "a replaced key would expire before its grace is over",
    ),
    (f"{TARGET}.key_field", "rotator", f"{TARGET}.key_field", 'must not be "rotator": rotator writes its record there'),
    (
        f"{TARGET}.extra_fields",
        {"rotator": SECRET},
        f"{TARGET}.extra_fields",
        'must not hold "rotator": rotator writes its record there',
    ),
    (
        f"{TARGET}.extra_fields",
        {"api_key": SECRET},
        f"{TARGET}.extra_fields",
        'must not hold "api_key": rotator writes the key there',
    ),
]


@pytest.mark.parametrize(("changed", "value", "key", "message"), REFUSED, ids=[f"{r[0]}={r[1]!r}" for r in REFUSED])
def test_refused(refused: Callable[..., dict[str, str]], changed: str, value: object, key: str, message: str) -> None:
    data = minimal()
    set_at(data, changed, value)

    assert refused(data) == {key: message}


@pytest.mark.parametrize(
    "second",
    [
        {"path": "apps/billing/respan", "store": "vault"},
        {"path": "apps/billing/respan", "store": "same"},
        {"path": "billing/respan", "store": "deeper"},
    ],
)
def test_two_targets_on_one_path(refused: Callable[..., dict[str, str]], second: Data) -> None:
    same = {**minimal()["stores"]["vault"], "address": "HTTPS://VAULT.test:8200/"}
    data = minimal(
        stores__same=same,
        stores__deeper={**same, "mount": "secret/apps"},
        targets__billing_api__store="vault",
        targets__other=second,
    )

    problems = refused(data)

    assert list(problems) == ["targets.other.path"]
    assert 'is the path of the target "billing-api" too' in problems["targets.other.path"]


def test_the_same_path_elsewhere_is_another_path(load: Callable[..., Configuration]) -> None:
    vault = minimal()["stores"]["vault"]
    data = minimal(defaults={"store": "vault"})
    for name, change in {
        "mount": {"mount": "kv"},
        "space": {"namespace": "b"},
        "host": {"address": "https://b"},
    }.items():
        data["stores"][name] = {**vault, **change}
        data["targets"][f"in-{name}"] = {"path": "apps/billing/respan", "store": name}

    assert len(load(data).targets) == 4


def test_former_places(load: Callable[..., Configuration]) -> None:
    former = [{"mount": "kv"}, {"cluster_id": "c-1", "namespace": ""}]
    read = load(
        minimal(stores__vault__former_locations=former, targets__billing_api__former_paths=["apps/old", "apps/older"])
    )

    vault = read.stores["vault"]
    assert isinstance(vault, VaultSettings)
    assert [(one.cluster_id, one.namespace, one.mount) for one in vault.former_locations] == [
        (None, None, "kv"),
        ("c-1", "", None),
    ]
    assert read.targets["billing-api"].former_paths == ("apps/old", "apps/older")


FORMER_PATHS, FORMER_LOCATIONS = "targets.billing-api.former_paths", "stores.vault.former_locations"
OLD = {"path": "apps/old"}


@pytest.mark.parametrize(
    ("changes", "key", "message"),
    [
        ({FORMER_PATHS: ["a//b"]}, f"{FORMER_PATHS}[0]", "must not contain two slashes in a row"),
        ({FORMER_PATHS: ["a", "b", "a"]}, FORMER_PATHS, 'lists "a" twice'),
        ({FORMER_PATHS: ["apps/billing/respan"]}, FORMER_PATHS, 'lists "apps/billing/respan", which is the path now'),
        ({FORMER_PATHS: ["apps/old"], "targets.other": OLD}, FORMER_PATHS, 'the path of the target "other" too'),
        (
            {FORMER_PATHS: ["apps/old"], "targets.other": {"path": "apps/new", "former_paths": ["apps/old"]}},
            "targets.other.former_paths",
            'the path of the target "billing-api" too',
        ),
        ({FORMER_LOCATIONS: [{}]}, f"{FORMER_LOCATIONS}[0]", "is where the store is now"),
        ({FORMER_LOCATIONS: [{"mount": "secret"}]}, f"{FORMER_LOCATIONS}[0]", "is where the store is now"),
        ({FORMER_LOCATIONS: [{"mount": "a"}, {"mount": "a"}]}, f"{FORMER_LOCATIONS}[1]", "is listed twice"),
        ({FORMER_LOCATIONS: [{"mount": "a/"}]}, f"{FORMER_LOCATIONS}[0].mount", "must not begin or end with a slash"),
    ],
)
def test_former_places_that_are_refused(
    refused: Callable[..., dict[str, str]], changes: Data, key: str, message: str
) -> None:
    data = minimal()
    for changed, value in changes.items():
        set_at(data, changed, value)
    problems = refused(data)

    assert list(problems) == [key]
    assert message in problems[key]


def test_a_former_location_that_another_store_uses_is_refused(refused: Callable[..., dict[str, str]]) -> None:
    vault = minimal()["stores"]["vault"]
    data = minimal(stores__old={**vault, "mount": "kv"}, targets__billing_api__store="vault")
    data["stores"]["vault"]["former_locations"] = [{"mount": "kv"}]
    data["targets"]["other"] = {"path": "apps/billing/respan", "store": "old"}
    problems = refused(data)

    assert list(problems) == [FORMER_LOCATIONS]
    assert 'the path of the target "other" too' in problems[FORMER_LOCATIONS]


def test_a_key_in_vault_needs_exactly_one_vault_store(refused: Callable[..., dict[str, str]]) -> None:
    data = minimal(
        providers__respan__api_key={"vault": "secret/org#key"}, stores={"vault": {"type": "sqlite", "file": "x"}}
    )

    assert refused(data) == {
        "providers.respan.api_key.vault": "needs exactly one store of type vault to be read from, and there are 0"
    }


def test_everything_malformed_at_once_and_then_everything_inconsistent_at_once(
    refused: Callable[..., dict[str, str]],
) -> None:
    malformed: Data = {
        "owner": SECRET.upper(),
        "providers.respan.api_key": SECRET,
        "stores.vault.mount": "/",
        "http.listen": "here",
        "daemon.jitter": "lots",
        "defaults.grase_period": "1h",
        "targets.billing-api.ttl": 90,
        "targets.malformed": {"path": "/", "extra_fields": {"rotator": "x", "y": 1}},
    }
    explicit = {"ttl": "1h", "renew_before": "2h", "grace_period": "3h", "key_field": "rotator", "store": "vualt"}
    inconsistent = minimal(
        providers__second={"type": "respan", "api_key": {"env": "NOT_THERE"}},
        targets__explicit={"path": "a", "provider": "second", **explicit},
        targets__hanging={"path": "b", "provider": "second", "renew_before": "23h", "grace_period": "1h"},
        targets__late={"path": "c", "provider": "second", "ttl": "2h"},
        targets__lost={"path": "d", "provider": "third"},
        targets__same={"path": "b", "provider": "second", "extra_fields": {"rotator": "x"}},
    )
    both = json.loads(json.dumps(inconsistent))
    for key, value in malformed.items():
        set_at(both, key, value)

    assert sorted(refused(both, {"RESPAN_API_KEY": SECRET})) == sorted(
        {*malformed, "targets.malformed.path", "targets.malformed.extra_fields.y"} - {"targets.malformed"}
    )
    assert sorted(refused(inconsistent, {"RESPAN_API_KEY": SECRET})) == [
        "providers.second.api_key.env",
        "stores.vault.auth.method",  # there is no $VAULT_TOKEN
        "targets.billing-api.provider",
        "targets.explicit.grace_period",
        "targets.explicit.key_field",
        "targets.explicit.renew_before",
        "targets.explicit.store",
        "targets.hanging.renew_before",
        "targets.late.ttl",
        "targets.lost.provider",
        "targets.same.extra_fields",
        "targets.same.path",
    ]


def test_a_mistake_in_the_defaults_is_reported_once(refused: Callable[..., dict[str, str]]) -> None:
    data = minimal(defaults={"ttl": "4h"})
    data["targets"].update({f"t{number}": {"path": f"p/{number}"} for number in range(20)})

    assert refused(data) == {
        "defaults.ttl": "renew_before (8h by default) must be shorter than ttl (4h); "
        'set renew_before = "1h20m" and grace_period = "40m", for example'
    }


def test_a_malformed_default_is_reported_without_its_consequences(refused: Callable[..., dict[str, str]]) -> None:
    assert list(refused(minimal(defaults={"ttl": 4}, targets__billing_api__renew_before="23h"))) == ["defaults.ttl"]
    assert list(refused(minimal(stores__vault__mount="/"))) == ["stores.vault.mount"]


@pytest.mark.parametrize("section", ["targets", "stores", "providers"])
def test_a_bad_name_with_another_mistake_hides_no_other_table(
    refused: Callable[..., dict[str, str]], section: str
) -> None:
    data = minimal(
        targets__other={"path": "apps/billing/respan/", "ttl": "1.5h"},
        stores__file={"type": "sqlite", "file": ""},
        providers__second={"type": "respan", "api_key": {}},
    )
    table = next(iter(data[section].values()))
    data[section]["My.App"] = {**table, "grace": "1h", "base": "x"}

    assert sorted(refused(data)) == sorted(
        [
            f'{section}."My.App"',
            f'{section}."My.App".base',
            f'{section}."My.App".grace',
            "providers.second.api_key",
            "stores.file.file",
            "targets.other.path",
            "targets.other.ttl",
        ]
    )


@pytest.mark.parametrize("broken", ["address", "namespace", "mount", "type"])
def test_a_shared_path_is_refused_once_its_store_is_well_formed(
    refused: Callable[..., dict[str, str]], broken: str
) -> None:
    data = minimal(targets__other={"path": "apps/billing/respan"})
    good = data["stores"]["vault"].copy()
    data["stores"]["vault"][broken] = 5

    assert list(refused(data)) == [f"stores.vault.{broken}"]
    data["stores"]["vault"] = good
    assert list(refused(data)) == ["targets.other.path"]


def test_a_target_of_an_unknown_store_hides_no_shared_path(refused: Callable[..., dict[str, str]]) -> None:
    data = minimal(targets__lost={"path": "apps/billing/respan", "store": "vualt"})
    data["targets"]["other"] = {"path": "apps/billing/respan"}

    assert sorted(refused(data)) == ["targets.lost.store", "targets.other.path"]


def test_no_value_is_ever_shown(load: Callable[..., Configuration], refused: Callable[..., dict[str, str]]) -> None:
    def leaves(data: Data, place: tuple[str, ...] = ()) -> Iterator[str]:
        for key, value in data.items():
            yield ".".join((*place, key))
            if isinstance(value, dict):
                yield from leaves(value, (*place, key))

    example = tomllib.loads((TOP / "config.example.toml").read_text())
    example["providers"]["respan"]["api_key"] = {"env": "RESPAN_API_KEY", "extra": 1}
    for key in leaves(example):
        for value in (f"{SECRET}\n", [SECRET], {"ttl": SECRET, "x": {"y": SECRET}}):
            data = json.loads(json.dumps(example))
            set_at(data, key, value)
            refused(data)  # looks for the secret in the messages
        set_at(data, key, SECRET)  # often well-formed, so that the rules see it
        try:
            shown = str(load(data).warnings)
        except ConfigurationError as error:
            shown = str(error)
        assert SECRET not in shown


# --- warned of -------------------------------------------------------------------------------------------------------

WARNED = [
    ("targets", {}, "targets", "no target is configured, so rotator replaces no key"),
    (
        "http.admin",
        "0.0.0.0:1",
        "http.admin",
        "is not a loopback address: the network can read the status page, with paths and key ids",
    ),
    (
        f"{TARGET}.path",
        "data/apps",
        f"{TARGET}.path",
        'begins with "data/", which belongs to the API and not to the path. Write "apps", unless that is what you want',
    ),
    *(
        (
            f"{TARGET}.path",
            path,
            f"{TARGET}.path",
            f'begins with "secret/", the mount of the store: rotator would write to "secret/{path}". Write "apps/x", '
            "unless that is what you want",
        )
        for path in ("secret/apps/x", "secret/data/apps/x")
    ),
    (
        "providers.respan.api_key",
        {"vault": "secret/data/org#key"},
        "providers.respan.api_key.vault",
        'has "data/" after its mount, which belongs to the API and not to the path: probably leave it out',
    ),
    (
        "defaults.grace_period",
        "1h59m",
        "defaults.grace_period",
        "1h59m is short: External Secrets refreshes hourly by default, Vault Agent every 5 minutes",
    ),
    (
        f"{TARGET}.key",
        {"max_usage": 5},
        f"{TARGET}.key.max_usage",
        "5 calls is per key: about 45 keys a month",
    ),
    (
        "defaults.key",
        {"max_usage": 5},
        "defaults.key.max_usage",
        "5 calls is per key: about 45 keys a month",
    ),
    (
        "lease.identity",
        "rotator-0",
        "lease.identity",
        "replicas that share this file would all lead: leave it out, and each uses the name of its pod",
    ),
    (
        "lease.duration",
        "9s",
        "lease.duration",
        "9s is short: replicas would take turns whenever the API server is slow",
    ),
    (
        "stores.vault.allow_insecure",
        True,
        "stores.vault.allow_insecure",
        "credentials and keys may be sent unencrypted",
    ),
]


@pytest.mark.parametrize(("changed", "value", "key", "message"), WARNED, ids=[f"{w[0]}={w[1]!r}" for w in WARNED])
def test_warned(load: Callable[..., Configuration], changed: str, value: object, key: str, message: str) -> None:
    data = minimal()
    set_at(data, changed, value)

    assert warned(load(data)) == {key: message}


@pytest.mark.parametrize("url", ["http://127.0.0.9:1", "http://localhost", "http://[::1]:8200", "https://v/prefix"])
def test_loopback_may_be_unencrypted(load: Callable[..., Configuration], url: str) -> None:
    assert warned(load(minimal(stores__vault__address=url, providers__respan__base_url=url))) == {}


def test_insecure_elsewhere_only_if_allowed(load: Callable[..., Configuration]) -> None:
    read = load(minimal(providers__respan__base_url="http://proxy.test", providers__respan__allow_insecure=True))

    assert list(warned(read)) == ["providers.respan.allow_insecure"]


def test_an_extension_past_the_expiry_of_a_replaced_key_is_warned_of(load: Callable[..., Configuration]) -> None:
    assert load(minimal(defaults__grace_extension="4h")).warnings == ()
    [message] = warned(load(minimal(defaults__grace_extension="5h"))).values()
    assert message == (
        "5h is longer than what is left of a replaced key after its grace: it expires 8h (renew_before) after it was "
        "replaced"
    )


@pytest.mark.parametrize("on_cap", ["report", "replace"])
def test_a_pickup_that_is_longer_than_the_grace_is_warned_of_where_keys_are_replaced_early(
    load: Callable[..., Configuration], on_cap: str
) -> None:
    target = {"path": "p/a", "key": {"max_usage": 5}, "on_cap": on_cap, "pickup": "5h"}
    warnings = warned(load(minimal(targets={"a": target}, stores__vault__address="https://v:8200")))
    message = "5h is longer than grace_period (4h): the replaced key ends before all consumers use the new one"
    assert warnings.get("targets.a.pickup") == (message if on_cap == "replace" else None)


@pytest.mark.parametrize(("idle_after", "is_warned"), [("29m", True), ("30m", False)])
def test_use_that_is_looked_at_too_rarely_for_an_extension_is_warned_of(
    load: Callable[..., Configuration], idle_after: str, *, is_warned: bool
) -> None:
    target = {"path": "p/a", "grace_extension": "1h", "idle_after": idle_after}
    warnings = warned(load(minimal(targets={"a": target}, stores__vault__address="https://v:8200")))
    message = (
        "29m is less than two sweeps (15m apart): if the provider shows use in its list alone, no grace is extended"
    )
    assert warnings.get("targets.a.idle_after") == (message if is_warned else None)


@pytest.mark.parametrize("number", [1, 2, 1000])
def test_targets_with_a_cap_alike_share_a_warning(load: Callable[..., Configuration], number: int) -> None:
    targets = {f"t{each}": {"path": f"p/{each}", "key": {"max_usage": 5}} for each in range(number)}
    targets["other"] = {"path": "p/other", "key": {"max_usage": 6}, "ttl": "60d"}
    others = {1: "", 2: " (and 1 like it)", 1000: " (and 999 like it)"}[number]
    assert warned(load(minimal(targets=targets, stores__vault__address="https://v:8200"))) == {
        "targets.t0.key.max_usage": f"5 calls is per key: about 45 keys a month{others}",
        "targets.other.key.max_usage": "6 calls is per key: about 1 key a month",
    }


def test_a_rate_limit_that_the_targets_need_all_of_warns(load: Callable[..., Configuration]) -> None:
    data = minimal(defaults={"ttl": "2h", "renew_before": "1h", "grace_period": "1h"}, daemon__jitter="0%", targets={})
    data["targets"] = {f"t{number}": {"path": f"p/{number}"} for number in range(1149)}
    enough = warned(load(data))
    data["targets"] |= {f"more{number}": {"path": f"more/{number}"} for number in range(3)}
    too_many = warned(load(data))

    # With the superseded keys there are 2,300: a sweep reads 23 pages each quarter of an hour. Of the provider's sixty
    # requests a minute rotator sends 59.02, because requests travel unequally fast.
    assert enough["providers.respan.requests_per_minute"] == (
        "60 is close to too few: 1149 targets need 59 of 59 requests a minute "
        "(57.4 for rotations, each of 3 (create, shorten, delete); 1.53 for sweeps), 100% of them; "
        "retries, look-ups and manual rotations take more"
    )
    assert too_many["providers.respan.requests_per_minute"] == (
        "60 is too few: 1152 targets need 59.2 of 59 requests a minute "
        "(57.6 for rotations, each of 3 (create, shorten, delete); 1.6 for sweeps), so keys will be late; "
        "lengthen ttl or shorten renew_before"
    )


def test_a_sweep_takes_its_share_of_the_rate_limit_at_most(load: Callable[..., Configuration]) -> None:
    data = minimal(targets={f"t{number}": {"path": f"p/{number}"} for number in range(17_000)})
    [loaded] = load(data).loads
    assert (round(loaded.rotations, 1), loaded.sweeps) == (53.8, 12)
    assert "60 is too few: 17000 targets" in warned(load(data))["providers.respan.requests_per_minute"]
    [loaded] = load({**data, "sweep": {"interval": "1h"}}).loads
    assert loaded.sweeps == pytest.approx(215 / 60, rel=0.05)


def test_the_load_of_each_provider(load: Callable[..., Configuration]) -> None:
    data = minimal(
        daemon__jitter="0%",
        providers__second={"type": "respan", "api_key": {"env": "RESPAN_API_KEY"}, "requests_per_minute": 1},
        defaults={"provider": "respan"},
    )
    data["targets"] |= {f"t{number}": {"path": f"p/{number}"} for number in range(10_000)}
    first, second = load(data).loads

    assert str(first) == (
        "respan: 10001 targets need 39.7 of 59 requests a minute (67%): "
        "31.3 for rotations, each of 3 (create, shorten, delete); 8.4 for sweeps"
    )
    assert (second.provider, second.targets, second.needed, second.share) == ("second", 0, 0.0, 0.0)
    assert load(data).warnings == ()


def test_the_load_counts_the_requests_of_graces_that_are_extended_to_their_bounds(
    load: Callable[..., Configuration],
) -> None:
    """Three looks, and for each 22.5 minutes of two hours a look and a later expiry."""
    data = minimal(daemon__jitter="0%", defaults={"grace_extension": "2h"})
    data["targets"] = {f"t{number}": {"path": f"p/{number}"} for number in range(960)}
    [loaded] = load(data).loads
    assert loaded.extensions == pytest.approx(3 + 2 * 120 / 22.5)
    assert loaded.needed == loaded.rotations + loaded.sweeps + loaded.extensions
    assert str(loaded).endswith("; 13.7 to extend graces")


# --- the files -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.toml", b"a = 1\nb = \n", "is not TOML: Invalid value (at line 2, column 5)"),
        ("a.toml", b"a = '" + SECRET.encode(), 'is not TOML: Expected "\'" (at end of document)'),
        ("a.toml", b"a = 1\na = 2\n", "is not TOML: Cannot overwrite a value (at line 2, column 6)"),
        ("a.toml", b"a = 1\nb = '\xff'\n", "is not UTF-8 (line 2)"),
        ("a.toml", b"a = " + b"[" * 5000, "is nested too deeply"),
        ("a.toml", b"#" * (2**24 + 1), "is larger than 16 MiB"),
        (
            "a.json",
            b'{"a": 1,\nb}',
            "is not JSON: Expecting property name enclosed in double quotes (at line 2, column 1)",
        ),
        ("a.json", b'{"a": NaN}', "cannot be read: NaN is not a number in JSON"),
        ("a.json", b'{"a": -Infinity}', "cannot be read: -Infinity is not a number in JSON"),
        ("a.json", b"[]", "must be a JSON object"),
        ("a.json", b"[" * 100_000, "is nested too deeply"),
    ],
)
def test_unreadable_content(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    file = tmp_path / name
    file.write_bytes(content)

    with pytest.raises(ConfigurationError) as caught:
        config.load(file, ENVIRONMENT, installed_types())

    assert str(caught.value) == f"{file}: {message}"


@pytest.mark.parametrize(
    ("content", "key", "message"),
    [
        ('{"targets": {"a": {"ttl": "1h", "ttl": "2h"}}}', "targets.a.ttl", "is set twice in the same object"),
        ('{"lease": null}', "lease", "must not be null: leave the option out"),
        ('{"include": ["a", null]}', "include[1]", "must not be null: leave the option out"),
        ('{"owner": "\\ud800"}', "owner", "must not contain half of a surrogate pair"),
        ('{"\\ud800": 1}', '"\\ud800"', "must not contain half of a surrogate pair"),
    ],
)
def test_json_that_toml_does_not_allow(tmp_path: Path, content: str, key: str, message: str) -> None:
    file = tmp_path / "a.JSON"
    file.write_text(content)

    with pytest.raises(ConfigurationError) as caught:
        config.load(file, ENVIRONMENT, installed_types())

    assert str(caught.value) == f"{file}: {key}: {message}"


def test_a_main_file_that_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    for file, message in (
        (tmp_path / "loop", "cannot be read: Too many levels of symbolic links"),
        (tmp_path / "absent.toml", "does not exist: name the configuration file with --config or $ROTATOR_CONFIG"),
        (tmp_path, "is a folder, not a file"),
        (tmp_path / "a\0b", "cannot be read: it is not a possible file name"),
        (tmp_path / ("x" * 300), "cannot be read: File name too long"),
    ):
        with pytest.raises(ConfigurationError) as caught:
            config.load(file, ENVIRONMENT, installed_types())
        assert str(caught.value) == f"{file}: {message}"


def test_unreadable_included_files_are_reported_with_everything_malformed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "targets.d"
    folder.mkdir()
    (folder / "gone.toml").symlink_to("nowhere")
    (folder / "latin.toml").write_bytes('[targets.a]\npath = "é"'.encode("latin-1"))
    (folder / "locked.toml").touch()
    (folder / "well.toml").write_text('[targets.b]\npath = "/"')
    file = tmp_path / "rotator.toml"
    file.write_text('include = ["targets.d/*"]\n' + MINIMAL)
    opened = os.open

    def locked(path: Any, *arguments: Any) -> int:
        if Path(path).name == "locked.toml":  # no file mode stops root, and tests may run as root
            raise PermissionError(13, "Permission denied")
        return opened(path, *arguments)

    monkeypatch.setattr(os, "open", locked)
    with pytest.raises(ConfigurationError) as caught:
        config.load(file, ENVIRONMENT, installed_types())

    assert [(Path(problem.file).name, problem.key, problem.message) for problem in caught.value.problems] == [
        ("gone.toml", "", "is a link to a file that does not exist"),
        ("latin.toml", "", "is not UTF-8 (line 2)"),
        ("locked.toml", "", "cannot be read: Permission denied"),
        ("well.toml", "targets.b.path", caught.value.problems[-1].message),
    ]


def test_a_byte_order_mark_is_accepted(load: Callable[..., Configuration]) -> None:
    assert load("\ufeff" + MINIMAL).owner == "prod-eu"


@pytest.fixture
def mounted(tmp_path: Path) -> Path:
    """A folder as Kubernetes mounts a ConfigMap: `a.toml` links to `..data/a.toml`, and `..data` to a dated folder."""
    folder = tmp_path / "targets.d"
    dated = folder / "..2026_01_01"
    dated.mkdir(parents=True)
    (dated / "b.toml").write_text('targets.b.path = "b"')
    (dated / "a.json").write_text('{"targets": {"a": {"path": "a"}}}')
    (folder / "..data").symlink_to(dated.name)
    for name in ("a.json", "b.toml"):
        (folder / name).symlink_to(f"..data/{name}")
    (folder / ".hidden.toml").write_text("nonsense")
    (folder / "folder").mkdir()
    return folder


INCLUDING = 'include = ["targets.d/*", "targets.d/b.toml"]\n' + MINIMAL


def test_includes(load: Callable[..., Configuration], mounted: Path) -> None:
    assert list(load(INCLUDING).targets) == ["billing-api", "a", "b"]


def test_a_pattern_skips_the_main_file(load: Callable[..., Configuration]) -> None:
    assert warned(load('include = ["*.toml"]\n' + MINIMAL)) == {"include[0]": "matches no file"}


def test_a_problem_of_an_included_target_names_its_file(load: Callable[..., Configuration], mounted: Path) -> None:
    (mounted / "c.toml").write_text('targets.c = { path = "c/", ttl = "1h" }\ntargets.b = { path = "elsewhere" }\n')
    (mounted / "d.toml").write_text('targets.d = { path = "d", ttl = "1h" }\ntargets.e = { path = "a" }')

    def refused() -> list[str]:
        with pytest.raises(ConfigurationError) as caught:
            load(INCLUDING)
        return [str(problem).replace(f"{mounted.parent}/", "") for problem in caught.value.problems]

    assert refused() == [
        "targets.d/c.toml: targets.b: is already in targets.d/b.toml",
        "targets.d/c.toml: targets.c.path: must not begin or end with a slash",
    ]
    (mounted / "c.toml").write_text('targets.c = { path = "c", ttl = "1h" }')
    too_long = (
        'ttl: renew_before (8h by default) must be shorter than ttl (1h); set renew_before = "20m" and '
        'grace_period = "10m", for example'
    )
    assert refused() == [
        f"targets.d/c.toml: targets.c.{too_long}",
        f"targets.d/d.toml: targets.d.{too_long}",
        'targets.d/d.toml: targets.e.path: is the path of the target "a" too (targets.d/a.json): '
        "they would replace each other's keys, so give each a path of its own",
    ]


def test_an_included_file_holds_targets_only(load: Callable[..., Configuration], mounted: Path) -> None:
    (mounted / "c.toml").write_text(
        f'include = ["more"]\nproviders.p.api_key = "{SECRET}"\ntargets.c.path = "c"\n[stores.s]\n'
    )
    (mounted / "d.toml").write_text("targets = 3")
    (mounted / "e.toml").write_text("targets =")

    with pytest.raises(ConfigurationError) as caught:
        load(INCLUDING)

    main = mounted.parent / "rotator.toml"
    only = f"an included file holds [targets.*] only: credentials, addresses and all else stay in {main}"
    assert {(Path(problem.file).name, problem.key, problem.message) for problem in caught.value.problems} == {
        ("c.toml", "include", only),
        ("c.toml", "providers", only),
        ("c.toml", "stores", only),
        ("d.toml", "targets", "must be a table"),
        ("e.toml", "", "is not TOML: Invalid value (at end of document)"),
    }


def test_an_include_that_matches_nothing(
    load: Callable[..., Configuration], refused: Callable[..., dict[str, str]]
) -> None:
    assert refused('include = ["none.d/*"]\n' + MINIMAL)["include[0]"].endswith(
        "none.d does not exist: create it, or leave the pattern out"
    )
    assert refused('include = ["none.toml"]\n' + MINIMAL) == {"include[0]": "matches no file"}
    assert refused('include = "targets.d/*"\n' + MINIMAL) == {"include": "must be a list"}
    assert refused('include = ["\\u0000"]\n' + MINIMAL) == {"include[0]": "must not contain control characters"}


# --- anything at all -------------------------------------------------------------------------------------------------

EXAMPLE = tomllib.loads((TOP / "config.example.toml").read_text())
WORDS = st.sampled_from(
    sorted({option for table in json_schema(installed_types())["$defs"].values() for option in table["properties"]})
)
VALUES = st.recursive(
    st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(max_size=20)
    | st.sampled_from(
        ["vault", "sqlite", "respan", "token", "approle", "1h", "8h", "0.0.0.0:1", "https://v", "a/b", "5%"]
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS | st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


def places(data: Data) -> Iterator[tuple[Data, str]]:
    for key, value in data.items():
        yield data, key
        if isinstance(value, dict):
            yield from places(value)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300, deadline=None)
@given(data=st.data())
def test_anything_is_a_configuration_or_a_configuration_error(tmp_path: Path, data: st.DataObject) -> None:
    content = json.loads(json.dumps(EXAMPLE))
    for _ in range(data.draw(st.integers(0, 3))):
        table, key = data.draw(st.sampled_from(list(places(content))))
        if data.draw(st.booleans()):
            table[data.draw(WORDS | st.just(key) | st.text(max_size=5))] = data.draw(VALUES)
        else:
            del table[key]
    file = tmp_path / "any.json"
    file.write_text(json.dumps(content))

    try:
        assert config.load(file, ENVIRONMENT, installed_types()).file == file
    except ConfigurationError as error:
        assert error.problems  # noqa: PT017 - either is right


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(content=st.dictionaries(WORDS | st.text(max_size=8), VALUES, max_size=6))
def test_any_dictionary_without_what_is_required_is_refused(tmp_path: Path, content: Data) -> None:
    file = tmp_path / "any.json"
    file.write_text(json.dumps({**content, "owner": 3}))

    with pytest.raises(ConfigurationError):
        config.load(file, ENVIRONMENT, installed_types())


# --- whether the files have changed ----------------------------------------------------------------------------------


def test_the_present_includes_are_watched_even_if_the_file_was_refused(tmp_path: Path) -> None:
    main, included = tmp_path / "rotator.json", tmp_path / "more" / "targets.json"
    included.parent.mkdir()
    included.write_text("{")
    main.write_text("{}")
    watch = Watch(main)
    seen = [watch.look()]

    def is_new() -> bool:
        seen.append(watch.look())
        return seen[-1] not in seen[:-1]

    assert not is_new()
    main.write_text('{"include": ["more/*"]}')
    assert is_new()
    assert not is_new()
    included.write_text("{}")
    assert is_new()
    (included.parent / "another.json").write_text("{}")
    assert is_new()
    main.write_text("no more json")
    assert is_new()
    main.unlink()
    assert is_new()
    assert not is_new()


def test_a_change_while_the_daemon_starts_is_read_afterwards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The daemon notes the state of the files before it reads them, at the start too."""
    main = tmp_path / "rotator.json"
    main.write_text(config_of("a"))
    read = config.load

    def changed_meanwhile(
        file: Path, environment: Mapping[str, str], types: ProviderTypes, in_use: None
    ) -> Configuration:
        found = read(file, environment, types, in_use)
        main.write_text(config_of("another"))
        return found

    monkeypatch.setattr("rotator.daemon.reload.load", changed_meanwhile)
    events: list[Event] = []
    daemon = Daemon(main, {}, SystemClock(), Metrics("0"), events.append, Signals())
    assert daemon._dispatcher.installation.configuration.owner == "a"
    daemon._look_at_files()
    assert EventType.CONFIGURATION_LOADED in [event.what for event in events]
    assert daemon._dispatcher.installation.configuration.owner == "another"
    daemon._dispatcher.end()


def config_of(owner: str) -> str:
    stores = {"file": {"type": "sqlite", "file": "store.db"}}
    return json.dumps(
        {"owner": owner, "providers": {"r": {"type": "respan", "api_key": {"file": "key"}}}, "stores": stores}
    )
