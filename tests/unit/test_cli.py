"""The command line in this process: its options, its messages and its exit statuses."""

import json
import re
import resource
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from io import BytesIO, TextIOWrapper
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from support.canned import Reply, canned
from support.inprocess import restored
from support.installation import Installation, installation
from support.leaks import RECORDER
from support.process import free_ports, wait_until

from rotator.cli import main as cli
from rotator.cli import progress
from rotator.cli.context import Session
from rotator.core.target import Target
from rotator.core.times import timestamp
from rotator.core.versions import History
from rotator.protocol.reconciler import Report
from rotator.runtime.clock import SystemClock
from rotator.runtime.redact import HIDDEN
from rotator.simulator import Fault, Options, described, with_switches
from rotator.stores.sqlite import SqliteStore

COMMANDS = sorted(
    str(command.name or command.callback.__name__) for command in cli.app.registered_commands if command.callback
)


@dataclass(frozen=True)
class Ended:
    """The output of a command, and its exit status."""

    status: int
    out: str
    err: str

    def json(self) -> Any:
        return json.loads(self.out)


Invoke = Callable[..., Ended]


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Installation]:
    with installation(tmp_path, targets=("a", "b")) as made:
        yield made


@pytest.fixture
def invoke(made: Installation, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Invoke]:
    """Runs a command on the installation `made`, in this process."""
    for name, value in {**made.environment, "ROTATOR_CONFIG": str(made.file)}.items():
        monkeypatch.setenv(name, value)

    def invoke(*arguments: str, **environment: str) -> Ended:
        made.write()
        with monkeypatch.context() as patched:
            for name, value in environment.items():
                patched.setenv(name, value)
            with pytest.raises(SystemExit) as ended:
                cli.execute(arguments)
        output = capsys.readouterr()
        for name, text in (("stdout", output.out), ("stderr", output.err)):
            RECORDER.record(f"{' '.join(arguments)}: {name}", text)
        return Ended(int(ended.value.code or 0), output.out, output.err)

    with restored(monkeypatch):
        yield invoke


# --- what every command takes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_takes_the_common_options(invoke: Invoke, command: str) -> None:
    shown = invoke(command, "--config", "a.toml", "--log-format", "json", "--log-level", "INFO", "--help")
    assert shown.status == 0
    assert f"Example: rotator {command}" in shown.out
    for option in ("--config", "--log-format", "--log-level"):
        assert option in shown.out


def test_the_help_is_for_people(invoke: Invoke) -> None:
    for command in ("", *COMMANDS):
        shown = invoke(*command.split(), "--help", COLUMNS="80").out
        assert "TARGET...]..." not in shown
        assert "{" not in shown
        for python in ("<str>", "<int", "list[", "<path>", "None"):
            assert python not in shown, command
        assert "..." not in shown.split("Commands:")[-1] or command, "each command's line fits"
    for command in ("rotate", "extend", "rollback"):
        assert "TARGET is" in invoke(command, "--help").out


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script_and_completes(invoke: Invoke, shell: str) -> None:
    script = invoke(_ROTATOR_COMPLETE=f"source_{shell}")
    assert (script.status, "_ROTATOR_COMPLETE=complete_" in script.out) == (0, True), script
    words = {"COMP_WORDS": "rotator ro", "COMP_CWORD": "1", "_TYPER_COMPLETE_ARGS": "rotator ro"}
    found = invoke(_ROTATOR_COMPLETE=f"complete_{shell}", _TYPER_COMPLETE_FISH_ACTION="get-args", **words)
    assert (found.status, "rotate" in found.out, "sweep" in found.out) == (0, True, False)


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (("rotate", "--all"), 2),
        (("extend", "--all", "--for", "24h"), 2),
        (("events",), 2),
        (("status",), 0),
        (("plan",), 0),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_no_target_is_no_silent_success(
    made: Installation, invoke: Invoke, arguments: tuple[str, ...], status: int
) -> None:
    made.config["targets"] = {}
    ended = invoke(*arguments)
    assert (ended.status, ended.out) == (status, "")
    assert f"no target is configured in {made.file}" in ended.err


def test_a_revocation_that_failed_is_not_taken_for_done(made: Installation, invoke: Invoke) -> None:
    invoke("rotate", "a")
    made.simulator.faults.add(Fault("refuse", "delete", status=403, times=1))
    first, again = invoke("rotate", "a", "--revoke-now"), invoke("rotate", "a", "--revoke-now")
    assert (first.status, "not every old key is revoked" in first.err) == (1, True)
    assert (again.status, "not every old key is revoked" in again.err) == (0, False)


def test_an_option_overrides_the_environment(invoke: Invoke, tmp_path: Path) -> None:
    first, second = str(tmp_path / "first"), str(tmp_path / "second")
    assert f"{first}: does not exist" in invoke("plan", ROTATOR_CONFIG=first).err
    assert f"{second}: does not exist" in invoke("plan", "--config", second, ROTATOR_CONFIG=first).err


@pytest.mark.parametrize(
    ("environment", "unset"),
    [
        ({}, "$VAULT_ADDR and $VAULT_TOKEN"),
        ({"VAULT_ADDR": "http://127.0.0.1:1"}, "$VAULT_TOKEN"),
        ({"VAULT_TOKEN": "x"}, "$VAULT_ADDR"),
    ],
)
def test_a_demo_on_a_vault_names_the_variables_that_it_needs(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], unset: str
) -> None:
    for name in ("VAULT_ADDR", "VAULT_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    ended = invoke("demo", "--vault", **environment)
    assert ended.status == 2
    assert ended.err.endswith(f"--vault needs {unset} in the environment\n")


def test_a_level_may_be_written_in_capitals(invoke: Invoke) -> None:
    assert "key_created" in invoke("rotate", "a", ROTATOR_LOG_LEVEL="INFO", ROTATOR_LOG_FORMAT="Json").err
    assert "key_created" not in invoke("rotate", "a", "--log-level", "ERROR", ROTATOR_LOG_LEVEL="INFO").err
    refused = invoke("plan", ROTATOR_LOG_LEVEL="loud")
    assert refused.status == 2
    assert "'loud' is not one of 'debug', 'info', 'warning', 'error'" in refused.err


# --- start-up --------------------------------------------------------------------------------------------------------

HEAVY = {"apscheduler", "httpx", "hvac", "prometheus_client", "pydantic", "requests", "rich", "stamina", "structlog"}


@pytest.mark.parametrize(
    ("arguments", "unwanted"),
    [
        ("--version", HEAVY),
        ("--help", HEAVY),
        ("rotate --help", HEAVY - {"pydantic"}),  # Typer reads a command's options with it
        ("schema", HEAVY - {"pydantic", "rich", "structlog"}),  # pydantic makes it, and logging needs structlog
        ("run --once", {"apscheduler"}),
    ],
)
def test_a_command_imports_only_what_it_needs(arguments: str, unwanted: set[str], tmp_path: Path) -> None:
    code = """
import atexit, sys
atexit.register(lambda: print(*sys.modules, file=sys.stderr))
from rotator.__main__ import main
main()
"""
    command = [sys.executable, "-c", code, *arguments.split()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd=tmp_path)
    imported = set(done.stderr.splitlines()[-1].split())
    assert "typer" in imported
    assert imported & unwanted == set()


# --- long work -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "operation", "line"),
    [
        ("sweep", "list", "sweeping: 0 of 2 done"),
        ("extend --all --for 48h", "list", "listing the keys for targets: 0 of 2 done"),
        ("extend --all --for 48h", "update", "extending: 0 of 2 done"),
        ("rotate --all", "create", "rotating: 0 of 2 done"),
    ],
)
def test_long_work_shows_its_progress(
    invoke: Invoke, made: Installation, monkeypatch: pytest.MonkeyPatch, command: str, operation: str, line: str
) -> None:
    invoke("rotate", "--all")
    made.simulator.faults.add(Fault("slow", operation, seconds=0.3, times=None))
    monkeypatch.setattr(progress, "LINE_EVERY", 0.05)
    ended = invoke(*command.split())
    assert (ended.status, line in ended.err) == (0, True), ended


@pytest.mark.parametrize("command", ["plan", "status", "check --online"])
def test_long_looks_show_their_progress(
    invoke: Invoke, made: Installation, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setattr(progress, "LINE_EVERY", 0.02)
    newest = SqliteStore.newest

    def slow(store: SqliteStore, path: str) -> History:
        threading.Event().wait(0.1)
        return newest(store, path)

    monkeypatch.setattr(SqliteStore, "newest", slow)
    history = SqliteStore.history
    monkeypatch.setattr(SqliteStore, "history", lambda store, path: slow(store, path) and history(store, path))
    assert "of 2 done" in invoke(*command.split()).err


@pytest.mark.parametrize(("hard", "limit"), [(resource.RLIM_INFINITY, 1), (4096, 1), (1, 1), (0, 0)])
def test_no_core_is_dumped_to_a_file_or_to_a_program(monkeypatch: pytest.MonkeyPatch, hard: int, limit: int) -> None:
    """Linux pipes a dump to the program of `core_pattern` under each limit but 1."""
    limits: list[tuple[int, tuple[int, int]]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (0, hard))
    monkeypatch.setattr(resource, "setrlimit", lambda *new: limits.append(new))
    monkeypatch.setattr(cli, "execute", lambda: None)
    cli.main()
    assert limits == [(resource.RLIMIT_CORE, (limit, limit))]


# --- JSON is JSON, whatever goes wrong -------------------------------------------------------------------------------


def test_json_also_when_the_configuration_cannot_be_used(invoke: Invoke, made: Installation) -> None:
    made.config["defaults"]["grase_period"] = "1h"
    for command in ("check", "plan", "status", "sweep", "rotate --all"):
        ended = invoke(*command.split(), "--json")
        assert (ended.status, ended.json()) == (
            2,
            {
                "problems": [
                    {
                        "file": str(made.file),
                        "key": "defaults.grase_period",
                        "message": 'is not a known option here; did you mean "grace_period"?',
                    }
                ]
            },
        )


def test_a_token_that_stands_where_an_option_belongs_is_hidden(invoke: Invoke, made: Installation) -> None:
    token = "hvs." + "NotARealToken0" * 2
    made.config["defaults"][token] = "1h"
    for command in ("check", "check --json"):
        ended = invoke(*command.split())
        assert ended.status == 2
        assert token not in ended.out + ended.err
        assert "defaults." in ended.out + ended.err


def test_json_also_when_the_store_or_the_provider_is_away(invoke: Invoke, made: Installation) -> None:
    away = {"type": "vault", "address": f"http://127.0.0.1:{free_ports(1)[0]}", "timeout": "1s"}
    made.config["stores"]["store"] = away
    for command in ("status", "plan", "sweep", "rotate --all", "check --online"):
        ended = invoke(*command.split(), "--json", VAULT_TOKEN="hvs.made-up-for-a-vault-that-is-not-there")
        assert ended.status == 3, (command, ended)
        shown = ended.json()
        if command == "check --online":
            assert [finding["where"] for finding in shown["findings"]] == ["stores.store"]
        else:
            assert [target["state"] for target in shown["targets"]] == ([] if command == "sweep" else ["unknown"] * 2)
    made.simulator.stop()
    made.config["stores"]["store"] = {"type": "sqlite", "file": "store.db"}
    for command in ("sweep", "rotate --all"):
        ended = invoke(*command.split(), "--json")
        assert (ended.status, "targets" in ended.json()) == (3, True)


def test_check_online_reads_the_whole_list_as_a_sweep_does(invoke: Invoke, made: Installation) -> None:
    faults = made.simulator.faults
    faults.add(Fault("foreign_next", "list", location="https://vendor.example/api/temporary-keys/?page=1&turn=2"))
    assert invoke("check", "--online").status == 0
    assert len(made.calls("list")) == 2
    faults.add(Fault("foreign_next", "list", location="https://vendor.example/other-keys/?page=2"))
    ended = invoke("check", "--online", "--json")
    assert ended.status == 3
    [finding] = ended.json()["findings"]
    assert finding["where"] == "providers.respan"
    assert "continues at another address" in finding["message"]
    assert "correct the proxy" in finding["advice"]


def test_a_store_that_cannot_be_opened_ends_with_3(invoke: Invoke, made: Installation) -> None:
    made.config["stores"]["store"]["file"] = "no-such-folder/store.db"
    for command in ("plan", "check --online", "rotate --all"):
        ended = invoke(*command.split(), "--json")
        assert ended.status == 3
        assert ended.json()["error"].endswith("cannot be opened: No such file or directory")
        assert "cannot be opened" in ended.err


def test_a_pattern_names_each_target_that_it_matches(invoke: Invoke, made: Installation) -> None:
    ended = invoke("rotate", "[a-z]", "a")
    assert ended.status == 0
    assert "[a-z] matches 2 targets: a, b\n" in ended.err
    assert [line[0] for line in ended.out.splitlines() if not line.startswith(" ")] == ["a", "b"]
    assert "a* matches 1 target: a\n" in invoke("extend", "a*", "--for", "2h").err
    ended = invoke("events", "?", "b*")
    assert ("? matches 2 targets: a, b\n" in ended.err, "b* matches 1 target: b\n" in ended.err) == (True, True)
    assert {line.split("\t")[1] for line in ended.out.splitlines()} == {"a", "b"}
    ended = invoke("rotate", "z*")
    assert (ended.status, ended.out) == (2, "")
    assert "matches 'z*'" in ended.err


def test_status_and_plan_show_the_window_of_the_next_rotation(invoke: Invoke, made: Installation) -> None:
    window = {"cron": "30 2 * * *", "duration": "1h", "timezone": "Asia/Kolkata"}
    made.config["defaults"].update(windows=[window], ttl="9d", renew_before="3d")
    made.config["targets"]["b"].update(windows=[])
    invoke("run", "--once")
    shown = {target["name"]: target for target in invoke("status", "--json").json()["targets"]}
    at = datetime.fromisoformat(shown["a"]["next_rotation_at"]).astimezone(ZoneInfo("Asia/Kolkata"))
    assert "02:30" <= f"{at:%H:%M}" < "03:30"
    assert shown["a"]["window"] == f"{at:%a %Y-%m-%d %H:%M} (Asia/Kolkata)"
    assert shown["b"]["window"] is None
    line = f"a: nothing to do; next rotation at {shown['a']['next_rotation_at']}, {shown['a']['window']}"
    assert line in invoke("plan").out.splitlines()


def test_a_due_key_waits_for_its_window_and_is_replaced_while_one_is_open(invoke: Invoke, made: Installation) -> None:
    """Two seconds after it was made the key is due."""
    opens = (datetime.now(UTC) + timedelta(hours=5)).hour
    made.config["targets"] = {"a": {"path": "apps/a", "windows": [{"cron": f"0 {opens} * * *", "duration": "1h"}]}}
    made.config["defaults"].update(ttl=f"{3 * 86_400 + 2}s", renew_before="3d")
    invoke("run", "--once")

    def reason() -> object:
        return invoke("plan", "--json").json()["targets"][0]["reason"]

    wait_until(lambda: reason() == "window", "the key to be due", 10)
    assert "1 unchanged" in invoke("run", "--once").out
    assert invoke("plan", "--exit-code").status == 0
    made.config["targets"]["a"]["windows"] = [{"cron": "0 * * * *", "duration": "1h"}]
    assert invoke("plan", "--exit-code").status == 4
    assert "1 rotated" in invoke("run", "--once").out


def test_a_pause_outlasts_restarts_and_heals_when_it_is_removed(invoke: Invoke, made: Installation) -> None:
    """Each command is a process that remembers nothing. Its key was made for three seconds."""
    later = (datetime.now(UTC) + timedelta(hours=3)).replace(microsecond=0)
    made.config["targets"] = {"a": {"path": "apps/a", "pause_until": later.isoformat()}}
    made.config["defaults"].update(ttl="3s", renew_before="2s", grace_period="2s")
    first = invoke("run", "--once").err  # on a busy machine the key is due before this run ends
    wait_until(lambda: "key_extended" in first or "key_extended" in invoke("run", "--once").err, "a longer life", 10)
    threading.Event().wait(3)
    assert "1 unchanged" in invoke("run", "--once").out
    [shown] = invoke("status", "--json").json()["targets"]
    assert (shown["state"], shown["reason"]) == ("ok", "paused")
    ends = made.simulator.vendor.keys[shown["key_id"]].expiry_date
    assert ends is not None
    assert shown["expires_at"] == timestamp(ends) >= timestamp(later + timedelta(seconds=2))
    del made.config["targets"]["a"]["pause_until"]
    assert "1 rotated" in invoke("run", "--once").out


def test_a_key_that_a_former_pause_extended_waits_for_its_window(invoke: Invoke, made: Installation) -> None:
    now = datetime.now(UTC)
    made.config["targets"] = {"a": {"path": "apps/a", "pause_until": (now + timedelta(hours=9)).isoformat()}}
    made.config["defaults"].update(ttl="5s", renew_before="4s", grace_period="2s")
    invoke("run", "--once")
    wait_until(lambda: "key_extended" in invoke("run", "--once").err, "the key to be extended", 30)
    threading.Event().wait(5)
    window = {"cron": f"0 {(now + timedelta(hours=5)).hour} * * *", "duration": "1h"}
    made.config["targets"] = {"a": {"path": "apps/a", "windows": [window]}}
    made.config["defaults"].update(ttl="9d", renew_before="3d")
    [shown] = invoke("status", "--json").json()["targets"]
    assert (shown["state"], shown["reason"]) == ("ok", "window")
    assert "1 unchanged" in invoke("run", "--once").out


def test_of_many_matches_the_first_are_named(invoke: Invoke, made: Installation) -> None:
    made.config["targets"] = {f"t{number:02}": {"path": f"apps/t{number:02}"} for number in range(25)}
    assert "t* matches 25 targets: t00, t01, " in (shown := invoke("extend", "t*", "--for", "2h").err)
    assert "t19, ...\n" in shown


def test_check_shows_when_windows_open_and_pauses_end(invoke: Invoke, made: Installation) -> None:
    window = {"cron": "0 * * * *", "duration": "30m", "timezone": "Europe/London"}
    later = (datetime.now(UTC) + timedelta(days=2)).replace(microsecond=0)
    made.config["defaults"].update(windows=[window], ttl="9d", renew_before="3d")
    made.config["targets"]["b"].update(windows=[], pause_until=later.isoformat())
    lines = invoke("check").out.splitlines()
    [line] = [line for line in lines if line.startswith("window: ")]
    when = r"(opens|open until) \w{3} [0-9: -]+ \(Europe/London\)"
    assert re.fullmatch(rf'window: 1 target: "0 \* \* \* \*" for 30m \(Europe/London\): {when}', line)
    assert f"pause: 1 target until {timestamp(later)}" in lines
    shown = invoke("check", "--json").json()
    assert [(one["windows"], one["targets"]) for one in shown["windows"]] == [([window], 1)]
    assert shown["paused"] == {timestamp(later): 1}


def test_the_zone_that_a_window_has_by_default_is_printed(invoke: Invoke, made: Installation) -> None:
    made.config["defaults"].update(windows=[{"cron": "0 * * * *", "duration": "30m"}], ttl="9d", renew_before="3d")
    [line] = [line for line in invoke("check").out.splitlines() if line.startswith("window: ")]
    assert line.startswith('window: 2 targets: "0 * * * *" for 30m (UTC): ')
    assert line.endswith(" (UTC)")
    invoke("run", "--once")
    assert invoke("plan").out.count(" (UTC)\n") == 2
    assert {target["window"][-6:] for target in invoke("status", "--json").json()["targets"]} == {" (UTC)"}


def test_check_looks_at_the_configuration_only(invoke: Invoke, made: Installation) -> None:
    ended = invoke("check", "--json")
    assert ended.status == 0
    assert ended.json()["problems"] == []
    assert [warning["key"] for warning in ended.json()["warnings"]] == ["defaults.grace_period"]
    assert ended.json()["budgets"] == [
        {
            "provider": "respan",
            "targets": 2,
            "requests_per_minute": 100_000,
            "rotations": 0.15,
            "sweeps": 0.067,
            "extensions": 0.0,
            "needed": 0.217,
            "share": 0.0,
        }
    ]
    [limit] = ended.json()["limits"]["respan"]
    assert limit.startswith("Respan does not document where it shows the use of its keys")
    shown = invoke("check").out
    assert f"limit: respan: {limit}\n" in shown
    assert (
        "budget: respan: 2 targets need 0.217 of 98,361 requests a minute (0%): 0.15 for rotations, each of 3 (create, "
        in shown
    )
    assert not (made.folder / "store.db").exists()
    assert made.calls() == []


def test_plan_in_json_shows_each_action_as_an_object(invoke: Invoke, made: Installation) -> None:
    made.config["defaults"]["grace_period"] = "20m"
    invoke("rotate", "a")
    first = invoke("status", "--json").json()["targets"][0]["key_id"]
    made.simulator.faults.add(Fault("refuse", "update"))
    invoke("rotate", "a")
    shown = {target["name"]: target for target in invoke("plan", "--json").json()["targets"]}
    assert shown["b"]["actions"] == [{"action": "rotate", "reason": "first"}]
    [action] = shown["a"]["actions"]
    until = shown["a"]["superseded"][0]["until"]
    assert action == {"action": "shorten", "reason": "superseded", "key_id": first, "until": until}
    made.config["defaults"]["grace_period"] = "1s"
    [action] = {t["name"]: t for t in invoke("plan", "--json").json()["targets"]}["a"]["actions"]
    assert action["action"] in ("shorten", "remove")  # within a second of the rotation it is to be shortened first
    assert (action["key_id"], "advice" in shown["a"]) == (first, False)


# --- a daemon elsewhere ----------------------------------------------------------------------------------------------

TARGET: dict[str, Any] = {
    "name": "a",
    "state": "ok",
    "path": "apps/a",
    "key_id": "tk_1",
    "issued_at": "2026-03-01T12:00:00Z",
    "expires_at": "2026-03-02T12:00:00Z",
    "next_rotation_at": "2026-03-02T04:00:00Z",
    "window": None,
    "reason": "fresh",
    "superseded": [],
    "use": None,
    "caps": [],
    "pickups": [],
    "last_error": None,
    "looked_at": "2026-03-01T12:59:00Z",
}
DAEMON: dict[str, Any] = {
    "version": "9.0.0",
    "replica": None,
    "leads": True,
    "holder": None,
    "budgets_used": {},
    "logins_end": {},
    "down": {},
    "clock_trusted": True,
}
ANSWER = {"owner": "o", "at": "2026-03-01T13:00:00Z", "targets": [TARGET], "daemon": DAEMON, "events": []}


@pytest.mark.parametrize(
    "answer",
    [
        "[]",
        "null",
        "<html>",
        "[" * 100_000,
        {**ANSWER, "targets": 5},
        {**ANSWER, "targets": [{}]},
        {**ANSWER, "targets": [{**TARGET, "superseded": [5]}]},
        {**ANSWER, "events": {}},
        {**ANSWER, "daemon": {}},
    ],
    ids=lambda answer: repr(answer)[:20],
)
def test_an_answer_that_is_no_rotators_ends_with_3(invoke: Invoke, answer: object) -> None:
    with canned(lambda _: Reply(200, answer)) as server:
        ended = invoke("status", "--url", server.address)
    assert (ended.status, ended.out) == (3, "")
    assert "no daemon answers" in ended.err or "is not rotator, or its version is not compatible" in ended.err
    assert "Traceback" not in ended.err


def test_the_port_of_the_metrics_is_named_as_that(invoke: Invoke) -> None:
    with canned(lambda _: Reply(404, {})) as server:
        ended = invoke("status", "--url", server.address)
    assert (ended.status, ended.out) == (3, "")
    assert "(404 for /status.json): is it the port of the metrics?" in ended.err
    assert "[http].admin" in ended.err


# --- informing a daemon ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "command",
    ["rotate a", "rotate --all --json", "rollback a", "extend a --for 48h", "sweep", "find --revoke-now"],
)
def test_a_command_that_changed_something_has_the_daemon_look(
    invoke: Invoke, made: Installation, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    made.config["defaults"] = {**made.config.get("defaults", {}), "grace_period": "10m"}
    invoke("rotate", "--all")
    invoke("rotate", "--all")
    store = SqliteStore(made.folder / "store.db", SystemClock())
    version = store.newest("apps/a").current
    assert version is not None
    assert version.data is not None
    monkeypatch.setattr(sys, "stdin", TextIOWrapper(BytesIO(str(version.data["api_key"]).encode())))
    if command == "sweep":
        made.config["sweep"] = {"min_age": "1s"}
        time.sleep(1.5)  # until the key is old enough that its absence proves something
        made.simulator.vendor.delete(key_id_of(made, str(version.data["api_key"])))
    with canned(lambda _: Reply(202, "soon")) as server:
        ended = invoke(*command.split(), "--url", server.address)
        assert (ended.status, "was not informed" in ended.err) == (0, False), ended.err
        assert [(asked.method, asked.path, asked.body) for asked in server.asked] == [("POST", "/look", b"")]
        assert "origin" not in server.asked[0].headers
        assert server.asked[0].headers.get("content-length", "0") == "0"


def key_id_of(made: Installation, text: str) -> str:
    key = made.simulator.vendor.key_of(text)
    assert key is not None
    return key.id


@pytest.mark.parametrize("command", ["sweep --dry-run", "sweep", "rotate c", "rollback a"])
def test_a_command_that_changed_nothing_informs_no_daemon(invoke: Invoke, command: str) -> None:
    invoke("rotate", "--all")
    with canned(lambda _: Reply(202, "soon")) as server:
        invoke(*command.split(), ROTATOR_URL=server.address)
        assert server.asked == []


@pytest.mark.parametrize("answer", [Reply(404, {}), Reply(500, "broken"), Reply(302, "", {"location": "/"})])
def test_a_daemon_that_cannot_be_informed_is_named_and_fails_nothing(invoke: Invoke, answer: Reply) -> None:
    with canned(lambda _: answer) as server:
        ended = invoke("rotate", "a", "--json", ROTATOR_URL=server.address)
    assert (ended.status, ended.json()["targets"][0]["outcome"]) == (0, "rotated")
    [line] = [line for line in ended.err.splitlines() if line.startswith("rotator: ")]
    assert line.endswith(
        f"was not informed, so it shows the change within its [daemon].resync: it answered {answer.status}"
    )


@pytest.mark.parametrize(
    "url", ["127.0.0.1:1", "http://127.0.0.1:1/", "http://[", "ftp://localhost", "http://a..b", "x y"]
)
def test_an_address_without_a_daemon_fails_nothing(invoke: Invoke, url: str) -> None:
    ended = invoke("rotate", "a", "--url", url)
    assert ended.status == 0
    assert len([line for line in ended.err.splitlines() if "was not informed" in line]) == 1
    assert "Traceback" not in ended.err


@pytest.mark.parametrize("command", ["rotate a", "status"])
def test_credentials_in_the_address_of_a_daemon_are_not_printed(invoke: Invoke, command: str) -> None:
    ended = invoke(*command.split(), "--url", "http://me:hunter-22@127.0.0.1:1")
    assert "the daemon at http://127.0.0.1:1" in ended.err or "answers at http://127.0.0.1:1" in ended.err
    assert "hunter" not in ended.out + ended.err


def test_a_daemon_that_never_answers_is_waited_for_shortly(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rotator.cli.remote._SECONDS_TO_INFORM", 0.3)
    with canned(lambda _: Reply(202, "x" * 500, drips=True)) as server:
        ended = invoke("rotate", "a", "--url", server.address)
    assert ended.status == 0
    assert "no answer in time" in ended.err or "was not informed" not in ended.err


def test_a_lost_create_that_was_found_and_removed_is_reported(invoke: Invoke, made: Installation) -> None:
    made.simulator.faults.add(Fault("drop_after", "create"))
    ended = invoke("rotate", "a")
    assert ended.status == 1
    [key] = made.simulator.vendor.keys.values()
    assert f"a: the unused key {key.id} was found and deleted" in ended.err


def test_a_429_is_reported_as_one(invoke: Invoke, made: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "LINE_EVERY", 0.1)
    made.simulator.faults.add(Fault("rate_limit", "create", retry_after=1))
    ended = invoke("rotate", "a")
    assert ended.status == 0
    assert "respan answered 429 (too many requests): waiting for 1 s" in ended.err
    assert "waiting for the rate limit" not in ended.err


def test_an_older_daemon_shows_no_use_and_no_look(invoke: Invoke) -> None:
    new = ("use", "caps", "looked_at")
    older = {**ANSWER, "targets": [{name: value for name, value in TARGET.items() if name not in new}]}
    with canned(lambda _: Reply(200, older)) as server:
        shown = invoke("status", "--url", server.address, "--json")
    assert (shown.status, shown.json()["targets"]) == (0, [{**TARGET, "looked_at": None}])


def test_a_newer_daemons_state_is_shown_as_unknown_and_the_scheme_may_be_left_out(invoke: Invoke) -> None:
    newer = {**ANSWER, "news": 1, "targets": [{**TARGET, "state": "pondering", "mood": "calm"}]}
    with canned(lambda _: Reply(200, newer)) as server:
        ended = invoke("status", "--url", server.address.removeprefix("http://"))
        assert ended.status == 4
        assert ended.out.startswith("a\tunknown\ttk_1\t")
        shown = invoke("status", "--url", server.address, "--json").json()
        target = {**TARGET, "state": "unknown", "mood": "calm"}
        assert shown == {**newer, "targets": [target], "daemon": shown["daemon"]}
        assert shown["daemon"] == {**DAEMON, "logins_failing": [], "configuration_refused": None}


def test_an_answer_that_drips_or_does_not_end_is_given_up(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rotator.cli.remote._SECONDS", 0.3)
    with canned(lambda _: Reply(200, ANSWER, drips=True)) as server:
        ended = invoke("status", "--url", server.address)
    assert (ended.status, ended.out) == (3, "")
    assert re.search(r"no daemon answers at \S+: \w+", ended.err), "and why"
    monkeypatch.setattr("rotator.cli.remote._MAX_BODY", 100)
    monkeypatch.setattr("rotator.cli.remote._SECONDS", 30.0)
    with canned(lambda _: Reply(200, ANSWER)) as server:
        ended = invoke("status", "--url", server.address)
    assert (ended.status, ended.out) == (3, "")
    assert "more than 100 bytes" in ended.err


# --- the simulator's switches ----------------------------------------------------------------------------------------


def test_the_help_lists_every_switch_of_the_simulator(invoke: Invoke) -> None:
    shown = invoke("simulate", "--help").out.split()
    assert [switch for switch in described() if switch not in shown] == []


def test_each_switch_can_be_set_to_each_of_its_values() -> None:
    for line in described():
        name, _, values = line.partition("=")
        for value in values.split("|"):
            changed = with_switches(Options(), [f"{name}={value.replace('NUMBER', '7')}"])
            assert str(getattr(changed, name)).lower().removesuffix(".0") == value.replace("NUMBER", "7")


@pytest.mark.parametrize(
    ("switch", "message"),
    [
        ("list_shape=tree", "--set: list_shape must be page|array, not 'tree'"),
        ("page_size=many", "--set: page_size must be NUMBER, not 'many'"),
        ("page_size=0", "--set: page_size must be at least 1"),
        ("older_fields=1", "--set: older_fields must be true|false, not '1'"),
        ("list_shapes=page", "--set: 'list_shapes=page' is not a switch: write NAME=VALUE, with one of list_shape,"),
        ("slash", "--set: 'slash' is not a switch"),
    ],
)
def test_a_switch_that_is_none_is_refused(invoke: Invoke, switch: str, message: str) -> None:
    ended = invoke("simulate", "--port", "0", "--set", switch)
    assert (ended.status, message in ended.err) == (2, True), ended


def test_a_port_that_is_taken_is_named(invoke: Invoke, made: Installation) -> None:
    port = made.simulator.url.rpartition(":")[2]
    ended = invoke("simulate", "--port", port)
    assert (ended.status, ended.err.splitlines()[0]) == (
        1,
        f"rotator: the simulator cannot listen on port {port}: Address already in use",
    )


@pytest.mark.parametrize(("limit", "first"), [(5, "b"), (6, "a")])
def test_where_the_budget_makes_it_long_the_key_that_ends_first_is_replaced_first(
    made: Installation, invoke: Invoke, monkeypatch: pytest.MonkeyPatch, limit: int, first: str
) -> None:
    made.config["targets"]["a"] |= {"ttl": "48h"}
    assert invoke("run", "--once").status == 0
    made.config["providers"]["respan"]["requests_per_minute"] = limit
    made.config["daemon"] = {"workers": 1}
    begun: list[str] = []

    def work_on(_: object, __: object, target: Target, ___: object) -> Report:
        begun.append(target.name)
        return Report(target, None)

    monkeypatch.setattr("rotator.cli.context.work_on", work_on)
    assert invoke("run", "--once").status == 0
    assert begun[0] == first
    assert len(begun) == 2


@pytest.mark.parametrize(
    ("arguments", "share"), [(("--all",), 50), (("--all", "--revoke-now"), 100), (("a", "b"), 100)]
)
def test_a_long_rotation_leaves_a_daemon_its_part_of_the_budget(
    made: Installation, invoke: Invoke, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], share: int
) -> None:
    made.config["providers"]["respan"]["requests_per_minute"] = 100
    limits: list[int] = []

    def work(self: Session, *_: object) -> list[Report]:
        limits.extend(budget.limit for budget in self.installation.budgets.values())
        return []

    monkeypatch.setattr(Session, "work", work)
    assert invoke("rotate", *arguments).status == 0
    assert limits == [share]


# --- what a program reads --------------------------------------------------------------------------------------------


def test_the_schema_is_printed_as_it_is(invoke: Invoke) -> None:
    checked_in = Path(cli.__file__).parents[2] / "config.schema.json"
    assert invoke("schema").out == checked_in.read_text()


def test_in_json_a_path_that_looks_like_a_token_is_whole(made: Installation, invoke: Invoke) -> None:
    path = "apps/hvs.CAESIJlWh2vPq0nA4/a1b2c3d4.Zx9-_kQpR7tUvWxYz0123456789abcdef"
    made.config["targets"]["a"]["path"] = path
    for arguments in (("plan",), ("rotate", "a"), ("status",), ("sweep",), ("sweep", "--dry-run")):
        shown = invoke(*arguments, "--json").json()
        assert [target["path"] for target in shown["targets"] if target["name"] == "a"] in ([path], []), arguments
        assert shown["targets"] or arguments[0] == "sweep"


def test_in_json_a_failure_is_searched_and_still_json(made: Installation, invoke: Invoke) -> None:
    made.config["stores"]["store"]["file"] = "no-such-folder/sk_live_0123456789abcdef.db"
    shown = invoke("status", "--json")
    assert shown.status == 3
    assert "sk_live_0123" not in shown.out
    assert HIDDEN in shown.json()["error"]


# --- a clock that is off ---------------------------------------------------------------------------------------------


@pytest.fixture
def five_minutes_ahead(monkeypatch: pytest.MonkeyPatch) -> timedelta:
    """So far ahead is this machine from now on."""
    by = timedelta(minutes=5)

    class Ahead(SystemClock):
        def _wall(self) -> datetime:
            return super()._wall() + by

    monkeypatch.setattr("rotator.cli.context.SystemClock", Ahead)
    return by


def test_check_online_has_a_finding_for_a_clock_that_is_off(invoke: Invoke, five_minutes_ahead: timedelta) -> None:
    ended = invoke("check", "--online", "--json")
    [finding] = json.loads(ended.out)["findings"]
    assert (ended.status, finding["where"]) == (1, "clock")
    assert "+300 s to 127.0.0.1" in finding["message"] or "+299 s to 127.0.0.1" in finding["message"]


@pytest.mark.parametrize("command", [("run", "--once"), ("rotate", "a"), ("plan",), ("sweep",), ("rollback", "a")])
def test_a_command_reports_a_clock_that_is_off(
    invoke: Invoke, request: pytest.FixtureRequest, command: tuple[str, ...]
) -> None:
    assert invoke("run", "--once").status == 0
    assert invoke("rotate", "a").status == 0
    request.getfixturevalue("five_minutes_ahead")
    assert "clock_skew_detected" in invoke(*command).err


def test_extend_counts_by_the_providers_time(
    invoke: Invoke, made: Installation, request: pytest.FixtureRequest
) -> None:
    assert invoke("run", "--once").status == 0
    request.getfixturevalue("five_minutes_ahead")
    now = datetime.now(UTC)
    assert invoke("extend", "a", "--for", "48h").status == 0
    ends = max(key.expiry_date for key in made.simulator.vendor.keys.values() if key.expiry_date)
    assert abs(ends - now - timedelta(hours=48)) < timedelta(seconds=10)


# --- keys that have another place's name -----------------------------------------------------------------------------


def test_a_key_that_was_renamed_at_the_provider_is_named_by_every_command(invoke: Invoke, made: Installation) -> None:
    assert invoke("run", "--once").status == 0
    [key] = [key for key in made.simulator.vendor.keys.values() if key.name.split(".")[1] == "a"]
    key = made.simulator.vendor.update(key.id, {"name": "renamed"})

    checked = invoke("check", "--online", "--json")
    assert checked.status == 1
    assert [finding["where"] for finding in checked.json()["findings"]] == ["targets.a"]
    swept = invoke("sweep")
    assert swept.status == 1
    assert f"the served key {key.id} has the name renamed" in swept.out
    extended = invoke("extend", "--all", "--for", "48h")
    assert extended.status == 1
    assert "a: not extended: " in extended.out
    rotated = invoke("rotate", "a", "--json")
    assert rotated.status == 1
    [shown] = rotated.json()["targets"]
    assert key.expiry_date is not None
    old: dict[str, Any] = {
        "key_id": key.id,
        "until": timestamp(key.expiry_date),
        "last_used_at": None,
        "used_since": [],
    }
    assert (shown["state"], shown["superseded"]) == ("failing", [old])
    assert f"the grace of an old key of {shown['path']} is not enforced" in shown["last_error"]


def test_status_from_the_store_does_not_promise_an_end_of_grace_after_a_move(
    invoke: Invoke, made: Installation
) -> None:
    assert invoke("run", "--once").status == 0
    store = made.folder / "store.db"
    with closing(sqlite3.connect(store)) as database, database:
        database.execute("UPDATE store SET id = 'another'")
    assert invoke("rotate", "a").status == 1
    ended = invoke("status")
    assert ended.status == 4
    assert "is not enforced" in ended.out
