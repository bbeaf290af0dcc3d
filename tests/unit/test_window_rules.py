"""Windows, pauses and shares in a configuration: what is refused, with the gap named, and what is warned of."""

import re
import tomllib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import perf_counter
from typing import Any

import pytest

from rotator.config.loader import Configuration, load
from rotator.config.schema import TargetSettings
from rotator.config.values import format_duration, parse_duration
from rotator.config.windows import CronWindow
from rotator.core.errors import ConfigurationError
from rotator.providers.registry import installed_types

NOW = datetime(2026, 11, 29, 12, tzinfo=UTC)
HEAD = """
owner = "prod-eu"

[providers.respan]
type = "respan"
api_key = { env = "KEY" }
REQUESTS

[stores.vault]
type = "vault"
address = "https://vault.test:8200"

[defaults]
DEFAULTS

[targets.a]
path = "a"
"""
WORKING = 'windows = [{ cron = "0 9 * * 1-4", duration = "7h", timezone = "Europe/London" }]\n'
LONG = 'ttl = "14d"\nrenew_before = "6d"\ngrace_period = "1d"\n'

Loaded = Callable[..., Configuration]


@pytest.fixture
def loaded(tmp_path: Path) -> Loaded:
    def loaded(defaults: str = "", target: str = "", requests: str = "", now: datetime = NOW) -> Configuration:
        file = tmp_path / "rotator.toml"
        file.write_text(HEAD.replace("DEFAULTS", defaults).replace("REQUESTS", requests) + target)
        return load(file, {"KEY": "x", "VAULT_TOKEN": "x"}, installed_types(), now=now)

    return loaded


@pytest.fixture
def refused(loaded: Loaded) -> Callable[..., dict[str, str]]:
    def refused(*arguments: str, **more: Any) -> dict[str, str]:
        with pytest.raises(ConfigurationError) as caught:
            loaded(*arguments, **more)
        return {problem.key: problem.message for problem in caught.value.problems}

    return refused


def warned(configuration: Configuration) -> dict[str, str]:
    return {warning.key: warning.message for warning in configuration.warnings}


def test_windows_and_pauses_are_those_of_the_target_or_else_of_the_defaults(loaded: Loaded) -> None:
    pause = "pause_until = 2027-01-04T08:00:00Z\n"
    more = '[targets.b]\npath = "b"\nwindows = []\n[targets.c]\npath = "c"\npause_until = "2027-01-05T09:30:00+01:00"\n'
    read = loaded(WORKING + LONG + pause, more).targets
    assert read["a"].windows == (CronWindow("0 9 * * 1-4", timedelta(hours=7), "Europe/London"),)
    assert read["a"].pause_until == datetime(2027, 1, 4, 8, tzinfo=UTC) == read["b"].pause_until
    assert read["b"].windows == ()
    assert read["c"].pause_until == datetime(2027, 1, 5, 8, 30, tzinfo=UTC)


def test_the_default_zone_is_utc(loaded: Loaded) -> None:
    [one] = loaded(LONG + 'windows = [{ cron = "0 9 * * *", duration = "7h" }]').targets["a"].windows
    assert one == CronWindow("0 9 * * *", timedelta(hours=7), "UTC")


def test_a_share_is_one_of_the_targets_own_ttl(loaded: Loaded) -> None:
    more = '[targets.b]\npath = "b"\nttl = "9d"\ngrace_period = "2h"\n'
    read = loaded('renew_before = "33.333%"\ngrace_period = "10%"', more).targets
    assert (read["a"].renew_before, read["a"].grace_period) == (timedelta(seconds=28800), timedelta(seconds=8640))
    assert (read["b"].renew_before, read["b"].grace_period) == (timedelta(seconds=259197), timedelta(hours=2))


@pytest.mark.parametrize("share", ["0%", "100%", "0.0%", "-5%", "33 %", "33,3%", "%", "1e1%"])
def test_a_share_that_is_none_is_refused(refused: Callable[..., dict[str, str]], share: str) -> None:
    [message] = refused(f'renew_before = "{share}"').values()
    assert message.startswith("is not a share of ttl")


def test_shares_have_to_fit_like_durations(refused: Callable[..., dict[str, str]]) -> None:
    assert "renew_before" in refused('renew_before = "98%"\ngrace_period = "2h"')["defaults.renew_before"]
    assert "must not be longer" in refused('renew_before = "20%"\ngrace_period = "30%"')["defaults.grace_period"]


@pytest.mark.parametrize(
    ("zone", "gap"),
    [
        ("UTC", "none is open for 3d17h, from Thu 2026-12-03 16:00 (UTC) to Mon 2026-12-07 09:00 (UTC)"),
        # The night in which the clocks go back makes one of the gaps an hour longer.
        (
            "Europe/London",
            "none is open for 3d18h, from Thu 2027-10-28 16:00 (Europe/London) to Mon 2027-11-01 09:00 (Europe/London)",
        ),
        ("Asia/Kolkata", "none is open for 3d17h, from Thu 2026-12-03 16:00 (Asia/Kolkata) to Mon 2026-12-07 09:00"),
    ],
)
def test_the_longest_gap_must_fit_and_the_refusal_names_it(
    loaded: Loaded, refused: Callable[..., dict[str, str]], zone: str, gap: str
) -> None:
    windows = WORKING.replace("Europe/London", zone)
    short = 'ttl = "14d"\nrenew_before = "89h"\ngrace_period = "1d"\n'
    message = refused(windows + short)["defaults.windows"]
    assert gap in message
    enough = message.partition("at least ")[2].strip('"')
    loaded(windows + short.replace("89h", enough))
    assert "defaults.windows" in refused(windows + short.replace("89h", "118h39m"))


def test_a_target_that_renews_later_than_the_others_is_named(refused: Callable[..., dict[str, str]]) -> None:
    more = '[targets.b]\npath = "b"\nrenew_before = "2d"\n'
    assert [*refused(WORKING + LONG, more)] == ["targets.b.renew_before"]


@pytest.mark.parametrize(("cron", "gap"), [("0 0 29 2 *", "1460d"), ("0 0 * 2 1#5", "10226d")])
def test_a_window_that_opens_once_in_many_years_leaves_a_gap(
    refused: Callable[..., dict[str, str]], cron: str, gap: str
) -> None:
    windows = f'windows = [{{ cron = "{cron}", duration = "1d" }}]\n'
    assert f"none is open for {gap}" in refused(windows + LONG)["defaults.windows"]


@pytest.mark.parametrize(
    ("cron", "ttl"),
    [
        ("0 9 * * 1-4", "14d"),
        ("0 9 * * 1#5", "366d"),
        ("0 9 * * 1L", "90d"),
        ("0 9 31 * *", "366d"),
        ("0 9 1 1 *", "1000d"),
        ("0 9 29 2 *", "3000d"),
    ],
)
def test_time_that_passes_changes_neither_what_is_refused_nor_what_is_accepted(
    loaded: Loaded, refused: Callable[..., dict[str, str]], cron: str, ttl: str
) -> None:
    """A restart years later must not find fault with a configuration that rotator has been running with."""
    windows = f'windows = [{{ cron = "{cron}", duration = "3h", timezone = "Europe/London" }}]\nttl = "{ttl}"\n'
    needs = refused(windows + 'renew_before = "1d"\ngrace_period = "1d"')["defaults.windows"]
    enough = needs.rpartition('at least "')[2].strip('"')
    less = format_duration(parse_duration(enough) - timedelta(hours=2))
    for year in range(2026, 2056):
        for month in (1, 3, 8):
            now = datetime(year, month, 2, tzinfo=UTC)
            loaded(windows + f'renew_before = "{enough}"\ngrace_period = "1d"', now=now)
            assert "defaults.windows" in refused(windows + f'renew_before = "{less}"\ngrace_period = "1d"', now=now)


@pytest.mark.parametrize(("year", "named"), [(2026, 2027), (2027, 2028), (2050, 2026)])
def test_the_next_of_the_longest_gaps_is_named(refused: Callable[..., dict[str, str]], year: int, named: int) -> None:
    short = 'ttl = "14d"\nrenew_before = "89h"\ngrace_period = "1d"\n'
    now = datetime(year, 11, 1, 1, tzinfo=UTC)
    assert f"from Thu {named}-10-2" in refused(WORKING + short, now=now)["defaults.windows"]


def test_a_gap_that_leaves_less_than_the_grace_is_warned_of(loaded: Loaded) -> None:
    """By default a key is replaced 8 hours before its expiry, and works for 4 more: a window may open 4 hours late."""
    nights = 'windows = [{ cron = "0 6 * * *", duration = "18h" }]\n'
    assert warned(loaded(nights)) == {
        "defaults.windows": "a replaced key may expire before its grace is over: no window is open for 6h, from Mon "
        "2026-11-30 00:00 (UTC) to Mon 2026-11-30 06:00 (UTC), which leaves 2h of renew_before (8h) for a grace_period "
        'of 4h. Add a window, set grace_period to at most "2h", or set renew_before to at least "10h"'
    }
    for enough in (
        nights + 'grace_period = "2h"',
        nights + 'renew_before = "10h"',
        nights.replace("0 6", "0 4").replace("18h", "20h"),
    ):
        assert warned(loaded(enough)) == {}
    mixed = loaded(LONG + nights, '[targets.b]\npath = "b"\ngrace_period = "6d"')
    assert [*warned(mixed)] == ["targets.b.grace_period"]


def test_the_grace_of_a_key_without_an_expiry_needs_no_time_before_it(tmp_path: Path) -> None:
    nights = 'windows = [{ cron = "0 6 * * *", duration = "18h" }]'
    endless = HEAD.replace(
        '"respan"', '"http"\npreset = "openai-service-account"\nvariables = { project = "p" }'
    ).replace("REQUESTS", "")
    (file := tmp_path / "rotator.toml").write_text(endless.replace("DEFAULTS", nights))
    assert warned(load(file, {"KEY": "x", "VAULT_TOKEN": "x"}, installed_types(), now=NOW)) == {}


def test_several_windows_close_each_others_gaps(loaded: Loaded) -> None:
    nightly = 'windows = [{ cron = "0 20 * * *", duration = "6h" }, { cron = "0 6 * * *", duration = "10h" }]\n'
    assert loaded(nightly).warnings == ()


def test_the_rate_limit_must_work_off_the_targets_within_the_windows(
    loaded: Loaded, refused: Callable[..., dict[str, str]]
) -> None:
    nightly = 'windows = [{ cron = "0 3 * * *", duration = "1h" }]\nttl = "3d"\nrenew_before = "32h"\n'
    many = "".join(f'[targets.t{number}]\npath = "t{number}"\n' for number in range(1999))
    message = refused(nightly, many)["defaults.windows"]
    # 2,000 targets, of which one night has 24 of 40 hours' worth, at 3 requests each, with 60 a minute.
    assert message.startswith("2000 targets of respan need about 1h1m at 60 requests a minute, and a window is open")
    assert "for 1h, from Mon 2026-11-30 03:00 (UTC) to Mon 2026-11-30 04:00 (UTC)" in message
    loaded(nightly, many, "requests_per_minute = 90")
    loaded(nightly.replace("1h", "2h"), many)


def many(prefix: str, number: int, windows: str) -> str:
    """Return that many targets with these windows."""
    tables = (f'[targets.{prefix}{one}]\npath = "{prefix}{one}"\nwindows = [{windows}]\n' for one in range(number))
    return "".join(tables)


MONTHLY = 'ttl = "30d"\nrenew_before = "10d"\ngrace_period = "1d"\n'
"""A day and a window of an hour have a twentieth of the targets, at six requests a minute 118 of them."""


def test_windows_that_are_open_at_the_same_time_share_the_rate_limit(
    loaded: Loaded, refused: Callable[..., dict[str, str]]
) -> None:
    """105 keys that have waited for a week, and 20 that have for a day."""
    mondays = many("m", 300, '{ cron = "0 9 * * 1", duration = "1h" }')
    daily = many("d", 400, '{ cron = "0 9 * * *", duration = "1h" }')
    slow = "requests_per_minute = 6"
    loaded(MONTHLY, mondays, slow)
    loaded(MONTHLY, daily, slow)
    message = refused(MONTHLY, mondays + daily, slow)["targets.m0.windows"]
    assert message.startswith("700 targets of respan need about 1h4m at 6 requests a minute, and a window is open for")
    assert "from Mon 2026-11-30 09:00 (UTC) to Mon 2026-11-30 10:00 (UTC)" in message
    loaded(MONTHLY, mondays + daily, "requests_per_minute = 7")


def test_a_window_must_do_by_itself_although_another_is_open_for_longer(
    loaded: Loaded, refused: Callable[..., dict[str, str]]
) -> None:
    slow = "requests_per_minute = 6"
    other = many("o", 1, '{ cron = "0 * * * *", duration = "1h" }')
    mondays = '{ cron = "0 9 * * 1", duration = "1h" }'
    loaded(MONTHLY, many("m", 300, mondays) + other, slow)
    message = refused(MONTHLY, many("m", 400, mondays) + other, slow)["targets.m0.windows"]
    assert message.startswith(
        "400 targets of respan need about 1h12m at 6 requests a minute, and a window is open for 1h,"
    )


def test_a_key_counts_in_its_own_windows_only(loaded: Loaded, refused: Callable[..., dict[str, str]]) -> None:
    """In the ten minutes of Saturday night, no key rotates that waits for Monday."""
    working = many("w", 2000, '{ cron = "0 9 * * 1-5", duration = "7h" }')
    nightly = '{ cron = "0 3 * * 6", duration = "10m" }'
    slow = "requests_per_minute = 6"
    loaded(MONTHLY, working + many("n", 40, nightly), slow)
    message = refused(MONTHLY, working + many("n", 80, nightly), slow)["targets.n0.windows"]
    assert message.startswith(
        "80 targets of respan need about 15m at 6 requests a minute, and a window is open for 10m"
    )


def test_windows_that_overlap_are_compared_in_whole(loaded: Loaded) -> None:
    """Also where the comparison begins and ends, at the opening of the second one."""
    windows = 'windows = [{ cron = "0 20 * * *", duration = "3h" }, { cron = "0 22 * * *", duration = "5h" }]\n'
    more = "".join(f'[targets.t{number}]\npath = "t{number}"\n' for number in range(469))
    loaded(windows + 'ttl = "4d"\nrenew_before = "1d"\n', more, "requests_per_minute = 2")


def test_a_ttl_that_is_too_short_for_the_windows_is_named(
    loaded: Loaded, refused: Callable[..., dict[str, str]]
) -> None:
    """As with the default of 24 hours, and windows in working hours."""
    message = refused(WORKING)["defaults.windows"]
    assert message.endswith('or set renew_before to at least "5d", and ttl to more than that, such as "10d"')
    loaded(WORKING + 'ttl = "10d"\nrenew_before = "5d"')


def test_every_window_that_is_none_is_named_at_once(refused: Callable[..., dict[str, str]]) -> None:
    windows = """windows = [
      { cron = "0 9 * * mondays", duration = "7h" },
      { cron = "0 9 30 2 *", duration = "7h", timezone = "Europe/Londn" },
      { cron = "0 9 * * 1-4", duration = "5m", zone = "UTC" },
      { cron = "0 9 * * 1-4" },
    ]"""
    found = refused(windows)
    expected = {
        "defaults.windows[0].cron": "is not a cron expression: its day of week is wrong",
        "defaults.windows[1].cron": "is not a cron expression: its day of month is wrong",
        "defaults.windows[1].timezone": 'is not a time zone: write a name such as "Europe/London"',
        "defaults.windows[2].duration": "must be at least 10m",
        "defaults.windows[2].zone": 'is not a known option here; did you mean "timezone"?',
        "defaults.windows[3].duration": "is required",
    }
    assert found.keys() == expected.keys()
    for key, message in expected.items():
        assert found[key].startswith(message)


def test_a_pause_needs_a_provider_that_can_extend_a_key(tmp_path: Path, refused: Callable[..., dict[str, str]]) -> None:
    other = (
        '[providers.other]\ntype = "http"\npreset = "openrouter"\napi_key = { env = "KEY" }\n'
        '[targets.b]\npath = "b"\nprovider = "other"\npause_until = 2027-01-04T08:00:00Z\n'
    )
    found = refused('provider = "respan"', other)
    assert "cannot change the expiry of a key" in found["targets.b.pause_until"]


@pytest.mark.parametrize(
    ("pause", "message"),
    [
        ("2027-01-04T08:00:00", "is not a time with its offset"),
        ("2027-01-04", "is not a time with its offset"),
        ("08:00:00", "is not a time with its offset"),
        ('"next week"', "is not a time with its offset"),
        ("7", "is not a time with its offset"),
        ('"2027-02-30T08:00:00Z"', "is not a possible time"),
        ('"0001-01-01T00:00:00+10:00"', "is not a possible time"),
        ("2030-01-04T08:00:00Z", "is more than a year ahead"),
    ],
)
def test_a_pause_that_is_none_or_too_long_is_refused(
    refused: Callable[..., dict[str, str]], pause: str, message: str
) -> None:
    assert refused(f"pause_until = {pause}")["defaults.pause_until"].startswith(message)


def test_a_pause_that_has_passed_is_warned_of(loaded: Loaded) -> None:
    pause = "pause_until = 2026-11-29T12:00:00Z"
    message = "2026-11-29T12:00:00Z has passed, so it has no effect: remove it"
    assert warned(loaded(pause)) == {"defaults.pause_until": message}
    assert warned(loaded(pause, now=NOW - timedelta(seconds=1))) == {}


def test_ten_thousand_targets_with_windows_load_almost_as_fast_as_without(tmp_path: Path, loaded: Loaded) -> None:
    many = "".join(f'[targets.t{number}]\npath = "t{number}"\n' for number in range(9999))
    limit = "requests_per_minute = 6000"
    began = perf_counter()
    loaded(LONG, many, limit)
    without = perf_counter() - began
    loaded(WORKING + LONG, many, limit)
    assert perf_counter() - began - without < 3 * without + 3


BLOCKS = re.findall(r"```toml\n(.*?)```", (Path(__file__).parents[2] / "docs/windows.md").read_text(), re.DOTALL)


@pytest.mark.parametrize("block", BLOCKS)
def test_the_examples_of_the_documentation_load_in_any_season(loaded: Loaded, block: str) -> None:
    defaults = block.removeprefix("[defaults]\n")
    for month in (1, 4, 7, 10):
        assert warned(loaded(defaults, now=datetime(2026, month, 10, tzinfo=UTC))) == {}


def test_the_documentation_has_each_kind_of_example() -> None:
    assert [("windows" in block, "pause_until" in block) for block in BLOCKS] == [
        (True, False),
        (True, False),
        (False, True),
    ]


def test_the_options_of_a_window_are_those_of_the_design() -> None:
    windows = tomllib.loads(WORKING)["windows"]
    [read] = TargetSettings.model_validate({"path": "a", "windows": windows}).windows
    assert (read.cron, read.duration, read.timezone) == ("0 9 * * 1-4", timedelta(hours=7), "Europe/London")
