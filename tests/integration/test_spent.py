"""A key that is spent is never called ok: every output of a daemon and of commands shows it within one sweep."""

import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from rich.text import Text
from support.installation import Daemon, Installation, installation
from support.pages import read_page, rows
from support.process import wait_until
from support.prometheus import NO_PROMETHEUS, RULES, impatient, is_installed, prometheus
from support.receiver import SECRET, receiving

LIMIT = 5
SWEEP = 2.0
"""Seconds between sweeps."""

SLOW = 10.0
"""Seconds that a busy machine may take for the sweep, and the pass after it."""


@pytest.fixture
def running(tmp_path: Path) -> Iterator[tuple[Installation, Daemon]]:
    """A daemon with two targets whose keys may make five calls; it looks at paths so rarely that only a sweep helps."""
    with installation(tmp_path, targets=("busy", "idle"), use_shown="list", spent_status=401) as made:
        made.config["defaults"]["key"] = {"max_usage": LIMIT}
        made.config["sweep"] = {"interval": f"{SWEEP:g}s", "min_age": "1s"}
        made.config["daemon"]["resync"] = "1h"
        daemon = made.start()
        for _ in ("busy", "idle"):
            daemon.wait_for("key_published", 2)
        yield made, daemon


def call(made: Installation, text: str) -> int:
    """Make one call as an application does, and return the status of the answer."""
    answer = httpx.post(
        f"{made.simulator.url}/api/chat/completions",
        headers={"Authorization": f"Bearer {text}"},
        json={"model": "m", "messages": [{"role": "user", "content": "hello"}]},
        trust_env=False,
        verify=False,
    )
    return answer.status_code


def test_a_spent_key_is_spent_within_one_sweep_everywhere(running: tuple[Installation, Daemon]) -> None:
    made, daemon = running
    url = daemon.url(admin=True)
    ids = {target["name"]: target["key_id"] for target in daemon.get("/status.json", admin=True).json()["targets"]}
    text = made.simulator.vendor.text_of(ids["busy"])

    calls = 0
    while call(made, text) < 400:
        calls += 1
    refused_at = time.monotonic()
    assert calls == LIMIT

    wait_until(lambda: daemon.metric('rotator_targets{state="spent"}') == 1, "the target to be spent", SWEEP + SLOW)
    assert time.monotonic() - refused_at < SWEEP + SLOW

    # The daemon.
    targets = {target["name"]: target for target in daemon.get("/status.json", admin=True).json()["targets"]}
    assert {name: target["state"] for name, target in targets.items()} == {"busy": "spent", "idle": "ok"}
    assert (targets["busy"]["use"]["ratio"], targets["busy"]["use"]["cap"]) == (1.0, "max_usage")
    assert (targets["busy"]["reason"], targets["idle"]["use"]["ratio"]) == ("spent", 0.0)
    page = read_page(daemon.get("/?refresh=off", admin=True).text)
    row = rows(page)["busy"]
    assert row["State"].startswith("spent ")
    assert "max_usage is spent: seen" in row["Lifetime"]
    assert page.one("title").text.startswith("1 unhealthy")
    assert daemon.metric('rotator_key_use_ratio{target="busy"}') == 1
    assert daemon.metric('rotator_key_use_ratio{target="idle"}') == 0
    spent_at = daemon.metric('rotator_key_spent_timestamp_seconds{target="busy"}')
    assert spent_at is not None
    assert abs(time.time() - spent_at) < SWEEP + 3 * SLOW
    assert daemon.metric('rotator_provider_reports_use{provider="respan"}') == 1
    [event] = daemon.events("key_spent")
    assert (event["target"], event["key_id"], event["level"]) == ("busy", ids["busy"], "error")

    # The commands: of the daemon, and of the stores.
    for options in (["--url", url], []):
        lines = made.run("status", *options, status=4).stdout.splitlines()
        assert [line.split("\t")[:2] for line in lines] == [["busy", "spent"], ["idle", "ok"]]
        assert lines[0].split("\t")[7].startswith("max_usage spent, seen at ")
        assert made.json("status", *options, status=4)["targets"][0]["state"] == "spent"
        shown = Text.from_ansi(made.at_a_terminal("status", *options)).plain.splitlines()
        assert any(line.startswith("busy: max_usage spent, seen at ") for line in shown)
    assert "busy: max_usage spent, seen at " in made.run("plan", status=0).stdout

    # A person's way out.
    made.run("rotate", "busy", status=0)
    wait_until(lambda: daemon.metric('rotator_targets{state="spent"}') == 0, "the new key to be shown", 70)
    assert made.run("status", status=0).stdout.split("\t")[1] == "ok"


def test_a_webhook_is_notified_of_a_key_that_is_nearly_spent_and_of_one_that_is_spent(tmp_path: Path) -> None:
    with receiving() as receiver, installation(tmp_path, use_shown="list", spent_status=401) as made:
        made.environment["HOOK"] = SECRET
        made.config["notify"] = {"webhooks": {"chat": {"url": receiver.url, "secret": {"env": "HOOK"}}}}
        made.config["defaults"]["key"] = {"max_usage": LIMIT}
        made.config["sweep"] = {"interval": f"{SWEEP:g}s", "min_age": "1s"}
        daemon = made.start()
        key_id = daemon.wait_for("key_published")["key_id"]
        text = made.simulator.vendor.text_of(key_id)
        for calls, kind in ((LIMIT - 1, "key.nearly_spent"), (1, "key.spent")):
            assert [call(made, text) for _ in range(calls)] == [200] * calls
            wait_until(lambda kind=kind: receiver.bodies(kind) != [], kind)  # type: ignore[misc]
        [spent] = receiver.bodies("key.spent")
        about = {name: spent["data"][name] for name in ("target", "key_id", "cap", "used", "limit")}
        assert about == {"target": "a", "key_id": key_id, "cap": "max_usage", "used": LIMIT, "limit": LIMIT}
        assert daemon.stop() == 0


@pytest.mark.parametrize("shown", ["list", "retrieve"])
@pytest.mark.parametrize("on_cap", ["report", "replace"])
def test_run_once_reports_a_spent_key_or_replaces_it(tmp_path: Path, on_cap: str, shown: str) -> None:
    with installation(tmp_path, targets=("busy", "idle"), use_shown=shown) as made:
        made.config["defaults"] |= {"key": {"max_usage": LIMIT}, "on_cap": on_cap, "pickup": "1s"}
        made.run("run", "--once", status=0)
        for _ in range(LIMIT):
            assert call(made, made.simulator.vendor.text_of(served(made, "busy"))) == 200
        spent, idle = served(made, "busy"), served(made, "idle")
        time.sleep(1.1)

        done = made.run("run", "--once", status=0)

        assert (served(made, "busy") == spent) == (on_cap == "report")
        assert served(made, "idle") == idle
        rotated = 1 if on_cap == "replace" else 0
        assert done.stdout.startswith(f"{rotated} rotated, {2 - rotated} unchanged")
        assert ('"event": "key_spent"' in done.stderr) == (on_cap == "report")


def served(made: Installation, name: str) -> str:
    """Return the id of the key that a target serves."""
    shown = made.json("status", status=None)["targets"]
    return str(next(target["key_id"] for target in shown if target["name"] == name))


@pytest.mark.skipif(not is_installed(), reason=NO_PROMETHEUS)
def test_an_alert_fires_until_the_spent_key_is_replaced(running: tuple[Installation, Daemon]) -> None:
    made, daemon = running
    with prometheus({"rotator": [daemon.url().removeprefix("http://")]}, impatient(RULES.read_text(), 1)) as seen:
        wait_until(lambda: bool(seen.query('rotator_key_use_ratio{target="busy"} == 0')), "the use of the key")
        targets = daemon.get("/status.json", admin=True).json()["targets"]
        made.simulator.vendor.use(made.simulator.vendor.text_of(targets[0]["key_id"]), calls=LIMIT)
        seen.wait_for("RotatorServedKeySpent")
        assert "RotatorKeyNearlySpent" not in seen.firing()
        made.run("rotate", "busy", status=0)
        seen.wait_for_end("RotatorServedKeySpent", seconds=70)


@pytest.mark.skipif(not is_installed(), reason=NO_PROMETHEUS)
def test_without_series_of_targets_an_alert_counts_the_keys_that_are_nearly_spent(tmp_path: Path) -> None:
    with installation(tmp_path, targets=("busy", "idle"), use_shown="list") as made:
        made.config["defaults"]["key"] = {"max_usage": LIMIT}
        made.config["sweep"] = {"interval": f"{SWEEP:g}s", "min_age": "1s"}
        made.config["http"]["target_metrics"] = False
        daemon = made.start()
        text = made.simulator.vendor.text_of(daemon.wait_for("key_published", target="busy")["key_id"])
        with prometheus({"rotator": [daemon.url().removeprefix("http://")]}, impatient(RULES.read_text(), 1)) as seen:
            made.simulator.vendor.use(text, calls=LIMIT - 1)
            seen.wait_for("RotatorKeyNearlySpent")
            [near] = seen.firing()["RotatorKeyNearlySpent"]
            assert near["annotations"]["summary"] == "1 key(s) of rotator have used most of a cap"
            made.simulator.vendor.use(text)
            seen.wait_for("RotatorServedKeySpent")
            seen.wait_for_end("RotatorKeyNearlySpent")
            assert seen.query('{__name__=~"rotator_.+", target!=""}') == []
