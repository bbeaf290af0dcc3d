"""The types of providers: the built-in ones, and those of installed plugins.

A plugin is a distribution with an entry point in the group `rotator.providers`: its name is the value of `type`, and
its object a `ProviderType`.
"""

from collections.abc import Container, Iterable
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Literal, get_args, get_origin

from rotator.config.provider_type import ProviderType, ProviderTypes
from rotator.providers.http_provider.settings import HTTP
from rotator.providers.respan.settings import RESPAN

GROUP = "rotator.providers"

BUILT_IN = (RESPAN, HTTP)


@cache
def installed_types() -> ProviderTypes:
    """Return all types. A plugin that cannot be loaded is among the broken ones; the others work all the same."""
    return with_plugins(entry_points(group=GROUP))


def with_plugins(plugins: Iterable[EntryPoint]) -> ProviderTypes:
    """Return the built-in types and those of these plugins."""
    usable: dict[str, ProviderType[Any]] = {one.name: one for one in BUILT_IN}
    broken: dict[str, str] = {}
    for plugin in plugins:
        try:
            usable[plugin.name] = _loaded(plugin, usable)
        except (Exception, SystemExit) as error:
            flaw = str(error) if isinstance(error, _Unusable) else f"{type(error).__name__}: {error}"
            source = f"{plugin.value} of {plugin.dist.name} {plugin.dist.version}" if plugin.dist else plugin.value
            broken[plugin.name] = f"the plugin {plugin.name} ({source}) cannot be used: {flaw}"
    return ProviderTypes(usable, broken)


class _Unusable(Exception):
    """What an entry point names cannot be a type; the text is the reason."""


def _loaded(plugin: EntryPoint, taken: Container[str]) -> ProviderType[Any]:
    if plugin.name in taken:
        raise _Unusable(f"the name {plugin.name} is taken")
    loaded = plugin.load()
    if not isinstance(loaded, ProviderType):
        raise _Unusable("it is no ProviderType")
    annotation = loaded.settings.model_fields["type"].annotation
    if get_origin(annotation) is not Literal or len(get_args(annotation)) != 1:
        raise _Unusable(f'the field type of its settings is no Literal["{plugin.name}"]')
    if loaded.name != plugin.name:
        raise _Unusable(f'its settings have the type "{loaded.name}", and its entry point is named "{plugin.name}"')
    for model in (loaded.settings, loaded.fixed_key_model):
        model.model_json_schema()  # it is part of the schema of each configuration
    return loaded
