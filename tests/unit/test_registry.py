"""Which types of providers there are: the built-in ones, and those that installed plugins bring."""

import inspect
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, Literal

import pytest

from rotator.app.adapters import Adapters
from rotator.config.json_schema import json_schema
from rotator.config.loader import Configuration, load
from rotator.config.provider_settings import KeyOptions, ProviderSettings
from rotator.config.provider_type import ConnectedProvider, ProviderContext, ProviderType, ProviderTypes
from rotator.core.errors import ConfigurationError, ProviderUnavailable
from rotator.core.traits import Traits
from rotator.providers.registry import GROUP, with_plugins
from rotator.runtime.clock import SystemClock
from rotator.runtime.rate_limit import SlidingWindow
from rotator.telemetry.metrics import Metrics

CONFIGURATION = """
owner = "prod"
[providers.gateway]
type = "{type}"
base_url = "https://gateway.test"
api_key = {{ file = "/run/secrets/gateway" }}
[stores.db]
type = "sqlite"
file = "keys.db"
[targets.a]
path = "a"
key = {key}
"""


class AcmeSettings(ProviderSettings):
    type: Literal["acme"]
    region: str = "eu"
    """Where the keys are."""


class AcmeKey(KeyOptions):
    quota: int | None = None
    models: tuple[str, ...] = ()


def never_made(settings: ProviderSettings, context: ProviderContext) -> ConnectedProvider:
    raise AssertionError("loading a configuration makes no provider")


ACME = ProviderType(AcmeSettings, lambda settings: Traits(f"Acme {settings.region}"), never_made, AcmeKey)
NAMELESS = ProviderType(AcmeSettings, lambda _: Traits("Acme", names_keys=False), never_made)
NOT_A_TYPE = AcmeSettings


class WithoutSchema(AcmeSettings):
    region: Callable[[], str] = str  # type: ignore[assignment]


NO_SCHEMA = ProviderType(WithoutSchema, lambda _: Traits("Acme"), never_made)
NO_LITERAL = ProviderType(ProviderSettings, lambda _: Traits("Acme"), never_made)


class OtherSettings(ProviderSettings):
    type: Literal["other"]


OTHER = ProviderType(OtherSettings, lambda _: Traits("Other"), never_made)


def plugin(name: str, value: str) -> EntryPoint:
    return EntryPoint(name, value, GROUP)


def loaded(tmp_path: Path, *plugins: EntryPoint, kind: str = "acme", key: str = "{}") -> Configuration:
    file = tmp_path / "rotator.toml"
    file.write_text(CONFIGURATION.format(type=kind, key=key))
    return load(file, {}, with_plugins([EntryPoint("other", "test_registry:OTHER", GROUP), *plugins]))


def refused(tmp_path: Path, *plugins: EntryPoint, kind: str = "acme", key: str = "{}") -> dict[str, str]:
    with pytest.raises(ConfigurationError) as caught:
        loaded(tmp_path, *plugins, kind=kind, key=key)
    return {problem.key: problem.message for problem in caught.value.problems}


def test_a_plugins_type_has_its_own_options_and_traits(tmp_path: Path) -> None:
    configuration = loaded(tmp_path, plugin("acme", "test_registry:ACME"), key='{ quota = 5, models = ["small"] }')

    assert isinstance(configuration.providers["gateway"], AcmeSettings)
    assert configuration.traits["gateway"].label == "Acme eu"
    assert configuration.targets["a"].parameters == {"quota": 5, "models": ("small",)}


def test_the_schema_includes_the_types_of_plugins() -> None:
    schema = json_schema(with_plugins([plugin("acme", "test_registry:ACME")]))

    types = schema["properties"]["providers"]["patternProperties"]
    assert "#/$defs/AcmeSettings" in str(types)
    region = schema["$defs"]["AcmeSettings"]["properties"]["region"]
    assert region == {"description": "Where the keys are.", "default": "eu", "type": "string"}
    assert {"$ref": "#/$defs/AcmeKey"} in schema["$defs"]["TargetSettings"]["properties"]["key"]["anyOf"]


def test_the_schema_needs_no_source_and_no_other_class_of_the_same_name() -> None:
    space: dict[str, Any] = {
        "__name__": "acme_without_source",
        "ProviderSettings": ProviderSettings,
        "Literal": Literal,
    }
    exec(inspect.getsource(AcmeSettings), space)
    other = ProviderType(space["AcmeSettings"], lambda _: Traits("Acme"), never_made)
    types = ProviderTypes({**with_plugins([]).usable, "acme": other}, {})

    region = json_schema(types)["$defs"]["AcmeSettings"]["properties"]["region"]
    assert region == {"default": "eu", "type": "string"}


def test_an_unknown_type_is_refused_with_those_that_exist(tmp_path: Path) -> None:
    message = refused(tmp_path, plugin("acme", "test_registry:ACME"), kind="acne")["providers.gateway.type"]

    assert message.startswith("must be ")
    assert '"respan"' in message
    assert '"acme"' in message


@pytest.mark.parametrize(
    ("value", "flaw"),
    [
        ("no_such_module_anywhere:ACME", "ModuleNotFoundError: No module named 'no_such_module_anywhere'"),
        ("test_registry:NO_SUCH_NAME", "AttributeError: module 'test_registry' has no attribute 'NO_SUCH_NAME'"),
        ("test_registry:NOT_A_TYPE", "it is no ProviderType"),
        ("test_registry:NO_LITERAL", 'the field type of its settings is no Literal["acme"]'),
        ("exits_when_imported:ACME", "SystemExit: 3"),
        (
            "test_registry:NO_SCHEMA",
            "PydanticInvalidForJsonSchema: Cannot generate a JsonSchema for",
        ),
    ],
)
def test_a_broken_plugin_is_named_where_it_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str, flaw: str
) -> None:
    (tmp_path / "exits_when_imported.py").write_text("raise SystemExit(3)")
    monkeypatch.syspath_prepend(tmp_path)
    broken = plugin("acme", value)

    [(key, message)] = refused(tmp_path, broken).items()
    assert key == "providers.gateway.type"
    assert message.startswith(f"the plugin acme ({value}) cannot be used: {flaw}")


def test_a_broken_plugin_does_not_disturb_the_other_types(tmp_path: Path) -> None:
    broken = plugin("acme", "no_such_module_anywhere:ACME")

    assert loaded(tmp_path, broken, kind="respan").traits["gateway"].label == "Respan"


def test_a_plugin_whose_entry_point_has_another_name_than_its_type_is_refused(tmp_path: Path) -> None:
    message = refused(tmp_path, plugin("acmee", "test_registry:ACME"), kind="acmee")["providers.gateway.type"]

    assert 'its settings have the type "acme", and its entry point is named "acmee"' in message


def test_a_plugin_does_not_replace_a_built_in_type(tmp_path: Path) -> None:
    types = with_plugins([plugin("respan", "test_registry:ACME")])

    assert types.usable["respan"] is with_plugins([]).usable["respan"]
    assert "the name respan is taken" in types.broken["respan"]


def test_a_provider_without_names_is_refused(tmp_path: Path) -> None:
    messages = refused(tmp_path, plugin("acme", "test_registry:NAMELESS"))

    assert messages["providers.gateway.type"].startswith("Acme keeps no name of 50 characters with a key")


@pytest.mark.parametrize(
    ("key", "option", "message"),
    [
        ("{ quota = 'many' }", "quota", "must be a whole number"),
        ("{ rate_limit = 5 }", "rate_limit", "is not an option of a key of Acme eu: it has quota, models"),
        ("{ quota = { a = 1 } }", "quota", "must be a text, a number, true, false, or a list of texts"),
    ],
)
def test_the_provider_checks_the_options_of_its_keys(tmp_path: Path, key: str, option: str, message: str) -> None:
    assert refused(tmp_path, plugin("acme", "test_registry:ACME"), key=key) == {f"targets.a.key.{option}": message}


FULL = Traits("Acme", reports_use="list", key_pattern="acme-[0-9]+")


@pytest.mark.parametrize(
    ("traits", "limits"),
    [
        (FULL, []),
        (replace(FULL, can_set_expiry=False), ["Acme cannot change the expiry", "Acme's keys cannot be extended"]),
        (
            replace(FULL, can_set_expiry=False, keys_expire=False),
            ["Acme's keys never expire", "Acme's keys cannot be extended"],
        ),
        (replace(FULL, reports_use="no"), ["rotator sees no use of Acme's keys"]),
        (replace(FULL, documents_use=False), ["Acme does not document where it shows the use of its keys"]),
        (replace(FULL, reports_use="no", documents_use=False), ["rotator sees no use of Acme's keys"]),
        (replace(FULL, key_pattern=None), ["Acme's keys have no pattern"]),
    ],
)
def test_each_missing_trait_weakens_a_promise_in_one_sentence(traits: Traits, limits: list[str]) -> None:
    assert len(traits.limits) == len(limits)
    for sentence, begins in zip(traits.limits, limits, strict=True):
        assert sentence.startswith(begins)


def raising(*_: object) -> Traits:
    raise LookupError("no such region")


@pytest.mark.parametrize(
    ("traits", "flaw"),
    [
        (raising, "LookupError: no such region"),
        (lambda _: Traits("Acme", keys_expire=False), "ValueError: can_set_expiry must be False"),
        (lambda _: Traits("Acme", key_pattern=".*"), "its key_pattern finds the empty text"),
        (lambda _: Traits("Acme", key_pattern="(("), "its key_pattern is not a regular expression"),
        (lambda _: Traits("Acme", key_pattern="(x+)+y"), "its key_pattern may try too many ways to match"),
    ],
)
def test_a_plugin_with_unusable_traits_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, traits: Callable[[ProviderSettings], Traits], flaw: str
) -> None:
    monkeypatch.setattr("test_registry.UNUSABLE", replace(ACME, traits=traits), raising=False)

    problems = refused(tmp_path, plugin("acme", "test_registry:UNUSABLE"))

    assert list(problems) == ["providers.gateway.type"]
    assert problems["providers.gateway.type"].startswith(f"this type of provider cannot be used: {flaw}")


def test_a_plugin_that_cannot_make_its_provider_is_an_error_with_its_name(tmp_path: Path) -> None:
    configuration = loaded(tmp_path, plugin("acme", "test_registry:ACME"))
    clock = SystemClock()
    adapters = Adapters({}, clock, Metrics("0"), 1, {})

    budget, traits = SlidingWindow(60, clock), configuration.traits["gateway"]

    provider = adapters.provider(ACME, configuration.providers["gateway"], "gateway", budget, traits)
    with pytest.raises(ProviderUnavailable) as caught:
        provider.ready()

    assert 'providers of type "acme" cannot make providers.gateway: AssertionError' in caught.value.message
    assert provider.error is caught.value
