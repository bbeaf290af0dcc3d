"""The descriptions that rotator ships, as data. Each names the document and the date that it was written from."""

import tomllib
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from typing import Any

from rotator.config.values import quoted


@cache
def names() -> Sequence[str]:
    """Return the names of all presets."""
    return sorted(file.name.removesuffix(".toml") for file in resources.files(__name__).iterdir() if _is_one(file.name))


def known(name: str) -> str:
    """Return the name. Raises ValueError if there is no such preset."""
    if name not in names():
        raise ValueError(f"must be {quoted(names())}")
    return name


def merged(data: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the options, and those of their preset that they do not set. Tables are merged, all else is replaced."""
    name = data.get("preset")
    return _merged(_preset(name), data) if isinstance(name, str) and name in names() else data


def _is_one(file: str) -> bool:
    return file.endswith(".toml")


@cache
def _preset(name: str) -> Mapping[str, Any]:
    return tomllib.loads(resources.files(__name__).joinpath(f"{name}.toml").read_text("utf-8"))


def _merged(preset: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    both = {**preset, **own}
    for name in preset.keys() & own.keys() - {"paging"}:  # one kind of paging has no options of another
        if isinstance(preset[name], dict) and isinstance(own[name], dict):
            both[name] = _merged(preset[name], own[name])
    return both
