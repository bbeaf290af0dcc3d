"""The JSON Schema's patterns accept what rotator accepts, and refuse what a pattern can refuse."""

import re
from collections.abc import Callable
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rotator.config import patterns, values
from rotator.config.json_schema import json_schema
from rotator.config.values import format_duration
from rotator.core.versions import LONGEST
from rotator.providers.registry import installed_types

Parse = Callable[[object], object]

DURATIONS = ("90s", "1h30m", "0h30m", "05m", "3650d", "87600h", "5256000m", "315360000s", "2999d", "3d4h5m6s")
NO_DURATIONS = ("", "0s", "0d0h", "5", "5x", "1m1h", "3651d", "9999d", "-1h", "1.5h", "100000h")
SHARES = ("33%", "0.5%", "99.999%", "05%")
NO_SHARES = ("0%", "0.0%", "100.5%", "33.3333%", "33 %", "%")
ADDRESSES = ("0.0.0.0:0", "[::]:9465", "localhost:65535", "host-1.test:00080")
NO_ADDRESSES = ("9465", ":9465", "host:99999", "host:65536", "::1:9465", "host:", "a b:1", "http://host:1")
URLS = ("https://vault.test", "http://[::1]:8200/", "https://V-1.test:443/a/b%20c", "https://vault.test:")
NO_URLS = ("vault:8200", "https://", "https://a.test:99999", "https://me@a.test", "https://a.test/?q", "ftp://a.test")
PATHS = ("a", "a/b", ".a/..b/...")
NO_PATHS = ("", "/a", "a/", "a//b", "a/../b", ".")
CASES: list[tuple[str, Parse, tuple[str, ...], tuple[str, ...]]] = [
    ("DaemonSettings.resync", values.parse_duration, DURATIONS, NO_DURATIONS),
    ("Changeable.ttl", values.parse_duration, DURATIONS, NO_DURATIONS),
    ("Changeable.grace_period", values.parse_duration_or_share, DURATIONS + SHARES, NO_DURATIONS + NO_SHARES),
    ("Changeable.grace_extension", values.parse_extension, ("0s", *DURATIONS), ("", "5x", "9999d")),
    ("Changeable.replace_at", values.parse_share, ("100%", *SHARES), ("101%", *NO_SHARES)),
    ("DaemonSettings.jitter", values.parse_percentage, ("0%", "50%", "50.0%", "49.999%"), ("60%", "50.1%", "5", "99%")),
    ("HttpSettings.listen", values.parse_address, ADDRESSES, NO_ADDRESSES),
    ("VaultSettings.address", values.parse_url, URLS, NO_URLS),
    ("WebhookSettings.url", values.parse_url, URLS, NO_URLS),
    ("VaultSettings.mount", values.parse_path, PATHS, NO_PATHS),
]


def accepted(option: str, text: str) -> bool:
    """Return whether the JSON Schema accepts a text for an option, written Table.option."""
    table, name = option.split(".")
    described = json_schema(installed_types())["$defs"][table]["properties"][name]
    wanted = [described, *described.get("allOf", [])]
    return len(text) >= described.get("minLength", 0) and all(re.search(one["pattern"], text) for one in wanted)


@pytest.mark.parametrize(("option", "parse", "good", "bad"), CASES, ids=[case[0] for case in CASES])
def test_a_pattern_and_the_parser_agree(option: str, parse: Parse, good: tuple[str, ...], bad: tuple[str, ...]) -> None:
    for text in good:
        parse(text)
        assert accepted(option, text), text
    for text in bad:
        assert not accepted(option, text), text
        with pytest.raises(ValueError, match=r"."):
            parse(text)


@given(st.timedeltas(timedelta(seconds=1), LONGEST))
def test_each_duration_fits_the_pattern(duration: timedelta) -> None:
    text = format_duration(duration)
    if text != "0s":
        assert values.parse_duration(text) <= LONGEST
        assert re.search(patterns.DURATION, text)


@given(st.integers(0, 99_999))
def test_each_port_fits_the_pattern(port: int) -> None:
    assert bool(re.search(patterns.ADDRESS, f"host:{port}")) == (port <= 65535)


def test_a_table_of_names_refuses_other_names() -> None:
    schema = json_schema(installed_types())
    for name in ("providers", "stores", "targets"):
        assert schema["properties"][name]["additionalProperties"] is False, name
    assert schema["$defs"]["NotifySettings"]["properties"]["webhooks"]["additionalProperties"] is False


def test_statuses_have_a_range() -> None:
    accept = json_schema(installed_types())["$defs"]["ProbeSettings"]["properties"]["accept"]["items"]
    assert (accept["minimum"], accept["maximum"]) == (200, 599)


def test_the_name_of_a_part_may_be_referred_to() -> None:
    schema = json_schema(installed_types())
    for option, table in (("provider", "providers"), ("store", "stores")):
        reference = schema["$defs"]["TargetSettings"]["properties"][option]["pattern"]
        assert [reference] == list(schema["properties"][table]["patternProperties"])
