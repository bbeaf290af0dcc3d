"""The types of providers: the built-in ones, and those of installed plugins.

A plugin is a distribution with an entry point in the group `rotator.providers`: its name is the value of `type`, and
its object a `ProviderType`.
"""

from collections.abc import Iterable
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

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
        flaw = f"the name {plugin.name} is taken" if plugin.name in usable else ""
        try:
            loaded = None if flaw else plugin.load()
        except Exception as error:
            loaded, flaw = None, f"{type(error).__name__}: {error}"
        if isinstance(loaded, ProviderType) and loaded.name == plugin.name:
            usable[plugin.name] = loaded
            continue
        if isinstance(loaded, ProviderType):
            flaw = f'its settings have the type "{loaded.name}", and its entry point is named "{plugin.name}"'
        source = f"{plugin.value} of {plugin.dist.name} {plugin.dist.version}" if plugin.dist else plugin.value
        broken[plugin.name] = f"the plugin {plugin.name} ({source}) cannot be used: {flaw or 'it is no ProviderType'}"
    return ProviderTypes(usable, broken)
