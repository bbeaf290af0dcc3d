"""`check --provider-contract`: what it asks before, what it shows, and that the key is gone afterwards."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.installation import Installation, installation

from rotator.core.keys import KeyName
from rotator.simulator import Fault
from rotator.testing.contract import CHECKS, Outcome, Result
from rotator.testing.trial import Trial


@pytest.fixture
def made(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Installation]:
    with installation(tmp_path, page_size=2, **getattr(request, "param", {})) as made:
        yield made
        vendor = made.simulator.vendor
        assert not [key for key in vendor.keys.values() if key.alive(vendor.now())]


HOLD = ("check", "--provider-contract", "respan", "--yes")


def outcomes(ended: subprocess.CompletedProcess[str]) -> list[str]:
    return [check["outcome"] for check in json.loads(ended.stdout)["checks"]]


def test_a_provider_that_keeps_the_contract(made: Installation) -> None:
    made.config["defaults"]["key"] = {"rate_limit": 5}
    ended = made.run(*HOLD, status=0)
    lines = ended.stdout.splitlines()
    assert lines[0] == "kept: The traits can be used."
    assert lines[-1] == f"respan: {len(lines) - 1} checks kept"
    assert all(line.startswith("kept: ") for line in lines[:-1])
    [key] = made.simulator.vendor.keys.values()
    assert key.rate_limit == 5
    name = KeyName.parse(key.name)
    assert name is not None
    assert (name.owner, name.target, len(key.name)) == ("contract", "check-only", 50)
    assert key.text not in ended.stdout + ended.stderr


def test_without_yes_it_prints_what_it_would_do_and_does_nothing(made: Installation) -> None:
    ended = made.run("check", "--provider-contract", "respan", status=2)
    assert "creates one key at respan (http://127.0.0.1:" in ended.stderr
    assert "works for 2 h at most" in ended.stderr, "the contract asks for twice the first lifetime"
    assert "Add --yes" in ended.stderr
    assert made.simulator.journal == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--provider-contract", "other", "--yes"), '--provider-contract must name a provider: "respan"'),
        (("--yes",), "--yes belongs to --provider-contract"),
        (("--provider-contract", "respan", "--online", "--yes"), "--online does not go with that"),
    ],
)
def test_what_is_refused(made: Installation, arguments: tuple[str, ...], message: str) -> None:
    assert message in made.run("check", *arguments, status=2).stderr
    assert made.simulator.journal == []


@pytest.mark.parametrize("made", [{"expiry_shift_s": 3600}], indirect=True)
def test_a_broken_contract_ends_with_1_and_the_key_is_removed(made: Installation) -> None:
    ended = made.run(*HOLD, "--json", status=1)
    shown = json.loads(ended.stdout)
    broken = [check for check in shown["checks"] if check["outcome"] == "broken"]
    assert broken[0]["check"].startswith("create() returns the id")
    assert "create shows the expiry" in broken[0]["error"]
    assert (shown["provider"], shown["left_behind"]) == ("respan", [])


def test_an_error_after_the_create_is_shown_and_the_key_is_removed(made: Installation) -> None:
    made.simulator.faults.add(Fault("refuse", "update", times=None))
    ended = made.run(*HOLD, "--json", status=1)
    assert len(outcomes(ended)) > len(CHECKS) // 2
    assert "unknown" in outcomes(ended)
    assert "kept" in outcomes(ended)


def test_a_lost_create_is_shown_and_its_key_is_removed_by_its_name(made: Installation) -> None:
    made.simulator.faults.add(Fault("drop_after", "create"))
    ended = made.run(*HOLD, status=1)
    assert "unknown: create() returns the id, the text, the name and the requested expiry of a new key." in ended.stdout
    assert "whether it was done is not known" in ended.stdout
    assert len(made.simulator.vendor.keys) == 1


def test_a_refused_credential_ends_with_3(made: Installation) -> None:
    (made.folder / "organisation-key").write_text("wrong")
    made.config["providers"]["respan"]["api_key"] = {"file": "organisation-key"}
    ended = made.run(*HOLD, "--json", status=3)
    assert outcomes(ended)[-1] == "unknown"
    assert "refused the management credential" in json.loads(ended.stdout)["checks"][-1]["error"]


def test_an_interrupted_command_removes_its_key(made: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    def hold(trial: Trial) -> Iterator[Result]:
        if trial.key.id:
            raise KeyboardInterrupt
        yield Result("never", Outcome.KEPT)

    monkeypatch.setattr("rotator.cli.commands.contract.hold", hold)
    made.run(*HOLD, status=130)
    assert len(made.simulator.vendor.keys) == 1


def test_a_key_that_cannot_be_removed_is_named(made: Installation) -> None:
    made.simulator.faults.add(Fault("refuse", "delete", times=None))
    ended = made.run(*HOLD, status=1)
    [key] = made.simulator.vendor.keys.values()
    assert f"left behind: the key with the name {key.name} (id {key.id}): delete it at the provider" in ended.stdout
    made.simulator.vendor.delete(key.id)
