"""/metrics of a running daemon: every promised name with its labels, well formed, from the start."""

import resource
import time
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from support.installation import LEAST_RIGHTS, Daemon, installation, on_vault
from support.leaks import RECORDER
from support.prometheus import NO_PROMETHEUS, is_installed, promtool
from support.vault import VaultServer

from rotator.core.reasons import State
from rotator.telemetry.metrics import FAILURE, LOST, ROTATION_REASONS, SUCCESS

TARGET = {"target"}
PROMISED: dict[str, set[str] | None] = {  # the labels; None: only a Vault, a cap or a channel has it
    "key_expiry_timestamp_seconds": TARGET,
    "key_issued_timestamp_seconds": TARGET,
    "next_rotation_timestamp_seconds": TARGET,
    "superseded_keys": TARGET,
    "superseded_keys_past_grace": set(),
    "key_use_ratio": None,
    "key_spent_timestamp_seconds": None,
    "superseded_keys_in_use": None,
    "superseded_key_in_use_expiry_timestamp_seconds": None,
    "early_rotations_refused_total": set(),
    "notifications_total": None,
    "provider_reports_use": {"provider"},
    "rotations_total": {"provider", "reason", "outcome"},
    "rotation_duration_seconds": set(),
    "retirements_total": {"outcome"},
    "orphans_total": {"outcome"},
    "provider_requests_total": {"provider", "operation", "outcome"},
    "provider_request_duration_seconds": {"provider"},
    "provider_up": {"provider"},
    "provider_budget_used_ratio": {"provider"},
    "store_requests_total": None,
    "store_request_duration_seconds": None,
    "store_up": None,
    "store_token_expiry_timestamp_seconds": None,
    "earliest_key_expiry_timestamp_seconds": set(),
    "targets": {"state"},
    "leader": set(),
    "clock_skew_seconds": {"upstream"},
    "last_sweep_success_timestamp_seconds": set(),
    "config_last_reload_successful": set(),
    "log_lines_dropped_total": {"kind"},
    "served_keys_unknown": {"provider"},
    "build_info": {"version"},
    "keys_nearly_spent": set(),
    "earliest_superseded_key_in_use_expiry_timestamp_seconds": None,
    "sweep_interval_seconds": set(),
    "process_cpu_seconds_total": set(),
    "process_max_fds": set(),
    "process_open_fds": set(),
    "process_resident_memory_bytes": set(),
    "process_start_time_seconds": set(),
    "process_virtual_memory_bytes": set(),
}
AT_0 = {  # counters whose labels are known beforehand; nothing of this has happened yet
    *(f'retirements_total{{outcome="{outcome}"}}' for outcome in (SUCCESS, FAILURE)),
    *(f'orphans_total{{outcome="{outcome}"}}' for outcome in ("shortened", "removed", "held", "failed")),
    *(
        f'rotations_total{{outcome="{outcome}",provider="respan",reason="{reason}"}}'
        for outcome in (SUCCESS, FAILURE, LOST)
        for reason in ROTATION_REASONS
        if (reason, outcome) != ("first", SUCCESS)
    ),
}


pytestmark = pytest.mark.skipif(not is_installed(), reason=NO_PROMETHEUS)


def started(daemon: Daemon) -> str:
    """Its page, once it has made its first key and swept once."""
    daemon.wait_for("key_published")
    daemon.wait_for("sweep_completed")
    return daemon.get("/metrics").text


def test_a_new_daemon_has_every_promised_series(tmp_path: Path) -> None:
    with installation(tmp_path) as rotator:
        daemon = rotator.start()
        page = started(daemon)
    checked = promtool("check", "metrics", stdin=page)
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")

    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(page):
        name = family.name.removeprefix("rotator_") + ("_total" if family.type == "counter" else "")
        found[name] = set().union(*(sample.labels for sample in family.samples)) - {"le"}
    additional = {"earliest_rotation_timestamp_seconds": set[str](), "min_renewal_margin_ratio": set[str]()}
    assert found == {name: labels or set() for name, labels in PROMISED.items()} | additional

    lines = page.splitlines()
    assert [series for series in sorted(AT_0) if f"rotator_{series} 0.0" not in lines] == []
    assert 'rotator_rotations_total{outcome="success",provider="respan",reason="first"} 1.0' in lines
    assert 'rotator_provider_up{provider="respan"} 1.0' in lines
    assert "rotator_leader 1.0" in lines
    states = {line for line in lines if line.startswith("rotator_targets{")}
    assert states == {f'rotator_targets{{state="{state.value}"}} {float(state is State.OK)}' for state in State}
    for key in rotator.simulator.vendor.keys.values():
        assert key.id not in page
        assert key.name not in page


def test_the_process_is_shown_as_the_system_sees_it(tmp_path: Path) -> None:
    with installation(tmp_path) as rotator:
        before = time.time()
        page = started(rotator.start())
    families = text_string_to_metric_families(page)
    shown = {sample.name: sample.value for family in families for sample in family.samples}
    assert before - 2 <= shown["process_start_time_seconds"] <= time.time() + 2, "the system counts in ticks"
    assert 5 < shown["process_open_fds"] < shown["process_max_fds"] == resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    assert 10e6 < shown["process_resident_memory_bytes"] < shown["process_virtual_memory_bytes"]
    assert 0 < shown["process_cpu_seconds_total"] < 600


def test_a_vault_has_its_own(vault: VaultServer, tmp_path: Path) -> None:
    with on_vault(tmp_path, vault) as (rotator, paths):
        role_id, secret_id = vault.approle(LEAST_RIGHTS.format(mount=paths.mount))
        RECORDER.add_secret("an AppRole's secret id", secret_id)
        (tmp_path / "secret-id").write_text(secret_id)
        auth = {"method": "approle", "role_id": role_id, "secret_id_file": "secret-id"}
        rotator.config["stores"]["store"]["auth"] = auth
        lines = started(rotator.start()).splitlines()
    assert 'rotator_store_up{store="store"} 1.0' in lines
    host = vault.address.removeprefix("http://")
    for begin in (
        'rotator_store_requests_total{operation="write",outcome="200",store="store"} ',
        'rotator_store_request_duration_seconds_count{store="store"} ',
        'rotator_store_token_expiry_timestamp_seconds{store="store"} ',
        f'rotator_clock_skew_seconds{{upstream="{host}"}} ',
    ):
        assert [line for line in lines if line.startswith(begin)], begin


def test_without_series_of_targets_all_sums_are_there(tmp_path: Path) -> None:
    with installation(tmp_path) as rotator:
        rotator.config["http"]["target_metrics"] = False
        page = started(rotator.start())
    assert "target=" not in page
    sums = ("targets", "superseded_keys_past_grace", "earliest_key_expiry", "earliest_rotation", "min_renewal_margin")
    assert "\nrotator_keys_nearly_spent 0.0\n" in page
    for name in sums:
        assert f"\nrotator_{name}" in page, name
