"""docs/migration.md, followed with real Vaults: from a static key, to another place, and back."""

import re
import tomllib
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.chart import written
from support.installation import LEAST_RIGHTS, Installation, VaultPaths, installation
from support.process import wait_until
from support.vault import NO_VAULT, VaultServer, find_vault, own_dev_vault
from support.walkthrough import Shell, blocks, page

from rotator.config.loader import load
from rotator.providers.registry import installed_types
from rotator.simulator import Key

PATH = "apps/billing/respan"
STATIC = "a-static-key-that-never-expires"


@dataclass(frozen=True)
class Team:
    """A person with a shell, an installation and a Vault; the page's `rotator` is that of the installation."""

    shell: Shell
    rotator: Installation
    paths: VaultPaths
    stack: ExitStack

    def follow(self, words: str, typed: str = "") -> str:
        """Run the one block of the page that has these words."""
        [block] = [block for block in blocks("migration.md") if words in block.text]
        self.rotator.write()
        return self.shell.follow(block, typed)

    def served(self, path: str = PATH) -> str:
        return str((self.paths.read(path) or {})["api_key"])

    def key(self, path: str = PATH) -> Key:
        """Return the provider's view of the served key."""
        key = self.rotator.simulator.vendor.key_of(self.served(path))
        assert key
        return self.now(key)

    def now(self, key: Key) -> Key:
        return self.rotator.simulator.vendor.keys[key.id]

    def is_shortened(self, key: Key) -> bool:
        """Whether a key works, and ends earlier than it did."""
        before, now = key.expiry_date, self.now(key)
        return bool(before and now.expiry_date and now.expiry_date < before and now.revoked_at is None)

    def other_vault(self) -> VaultPaths:
        """Start another Vault, which the shell knows as the new one."""
        vault = self.stack.enter_context(own_dev_vault())
        self.shell.environment |= {"NEW_VAULT_ADDR": vault.address, "NEW_VAULT_TOKEN": vault.root_token}
        return VaultPaths(vault, "secret")

    def move_to(self, paths: VaultPaths) -> "Team":
        """Configure the other Vault, as step 4 does, but for the former place."""
        self.rotator.config["stores"]["store"] |= store(self.rotator.folder, paths.vault)
        return Team(self.shell, self.rotator, paths, self.stack)


def store(folder: Path, vault: VaultServer) -> dict[str, object]:
    """Return the store's options; the file has a token of the least rights."""
    token = folder / "vault-token"
    token.write_text(VaultPaths(vault, "secret").token(LEAST_RIGHTS))
    auth = {"method": "token_file", "token_file": str(token)}
    return {"type": "vault", "address": vault.address, "mount": "secret", "auth": auth}


@pytest.fixture
def team(tmp_path: Path) -> Iterator[Team]:
    if not find_vault():
        pytest.skip(NO_VAULT)
    with ExitStack() as stack:
        vault = stack.enter_context(own_dev_vault())
        rotator = stack.enter_context(installation(tmp_path, store(tmp_path, vault), ("billing-api",)))
        rotator.config["targets"]["billing-api"]["path"] = PATH
        rotator.config["defaults"]["grace_period"] = "15m"
        rotator.config["sweep"] = {"min_age": "1s"}
        shell = Shell(tmp_path, {"VAULT_ADDR": vault.address, "VAULT_TOKEN": vault.root_token})
        shell.environment |= {"ROTATOR_CONFIG": str(rotator.file), **rotator.environment}
        yield Team(shell, rotator, VaultPaths(vault, "secret"), stack)


def test_from_a_static_key(team: Team) -> None:
    rotator = team.rotator
    team.paths.put(PATH, {"api_key": STATIC, "url": "https://api.example"})
    [shown] = rotator.json("status", status=4)["targets"]
    assert shown["state"] == "foreign"
    assert "billing-api" in rotator.run("plan", "--exit-code", status=0).stdout
    assert team.served() == STATIC

    assert "revoke the one that was here at the provider" in team.follow("--adopt")
    assert team.key().expiry_date
    assert (team.paths.read(PATH) or {})["url"] == "https://api.example"
    adopted = team.key()
    team.shell.run(re.findall(r"`(vault kv rollback .*?)`", page("migration.md"))[0])
    assert team.served() == STATIC
    rotator.run("run", "--once", status=1)
    assert team.served() == STATIC
    assert team.now(adopted) == adopted, "a key of a foreign path is not touched"
    team.follow("--adopt")

    team.follow("vault kv destroy")
    assert team.paths.versions(PATH)["1"]["destroyed"]
    assert rotator.run("run", "--once", status=0).stdout.startswith("0 rotated, 1 unchanged")
    assert not rotator.calls("delete")


def test_with_adopt_every_key_of_a_person_is_overwritten(team: Team) -> None:
    """So the page has it removed, and warns on the way back."""
    team.rotator.config["targets"]["billing-api"]["adopt"] = True
    for _ in range(2):
        team.paths.put(PATH, {"api_key": STATIC})
        team.rotator.run("run", "--once", status=0)
        assert team.key().expiry_date


def test_to_another_cluster(team: Team, tmp_path: Path) -> None:
    """A second installation of the same configuration replaces no key, and carries on alone."""
    team.rotator.run("run", "--once", status=0)
    first = team.key()
    folder = tmp_path / "new-cluster"
    folder.mkdir()
    second = Installation(folder, team.rotator.simulator, store(folder, team.paths.vault), ("billing-api",))
    second.config |= {name: team.rotator.config[name] for name in ("targets", "defaults", "sweep")}
    for rotator in (second, team.rotator, second):
        assert rotator.run("run", "--once", status=0).stdout.startswith("0 rotated, 1 unchanged")
    assert [target["state"] for target in second.json("status")["targets"]] == ["ok"]
    second.run("rotate", "billing-api", status=0)
    assert team.key() != first
    assert team.is_shortened(first)


def test_to_another_vault(team: Team) -> None:
    rotator = team.rotator
    rotator.run("run", "--once", status=0)
    superseded = team.key()
    rotator.run("rotate", "billing-api", status=0)
    served, superseded = team.key(), team.now(superseded)
    printed = rotator.run("check", "--online", status=0).stdout
    assert "after a move, add: former_locations = [{" in printed
    [former] = re.findall(r"after a move, add: (.*)", printed)
    new = team.other_vault()
    team.follow("NEW_VAULT_ADDR")
    team = team.move_to(new)

    assert "is not enforced" in rotator.run("rotate", "billing-api", status=1).stdout, "the former place is needed"
    assert team.now(served) == served
    served = team.key()
    rotator.config["stores"]["store"] |= tomllib.loads(former)
    assert rotator.run("run", "--once", status=0).stdout.startswith("0 rotated, 1 unchanged")
    assert [target["state"] for target in rotator.json("status")["targets"]] == ["ok"]
    # Its version was not copied.
    assert "1 orphan" in rotator.run("sweep", status=0).stdout
    assert team.now(superseded).revoked_at is None, "it works one more grace period"
    rotator.run("rotate", "billing-api", status=0)
    assert team.is_shortened(served)


def test_the_chart_takes_the_documented_former_place(tmp_path: Path) -> None:
    [values] = [block for block in blocks("migration.md") if "formerLocations" in block.text]
    [minimal] = [block for block in blocks("kubernetes.md") if block.file == "my-values.yaml"]
    for name, block in (("minimal", minimal), ("values", values)):
        (tmp_path / f"{name}.yaml").write_text(block.text)
    file = written(tmp_path / "written", tmp_path / "minimal.yaml", f"--values={tmp_path}/values.yaml")
    configuration = load(file, {}, installed_types())
    [vault] = configuration.stores.values()
    assert vault.type == "vault"
    assert str(vault.address) == "https://new-vault.vault.svc:8200"
    assert [(one.cluster_id, one.mount) for one in vault.former_locations] == [("5f0c…", "secret")]


@pytest.mark.parametrize("copied", [True, False])
def test_to_another_path(team: Team, copied: bool) -> None:
    rotator, new = team.rotator, "apps/billing/keys/respan"
    rotator.run("run", "--once", status=0)
    served = team.key()
    if copied:
        team.paths.put(new, team.paths.read(PATH) or {})
    [values] = [block for block in blocks("migration.md") if "former_paths" in block.text]
    assert f"path: {new}, former_paths: [{PATH}]" in values.text
    rotator.config["targets"]["billing-api"] |= {"path": new, "former_paths": [PATH]}
    rotator.run("run", "--once", status=0)
    if copied:
        assert team.key(new) == served
        rotator.run("rotate", "billing-api", status=0)
    assert team.key(new) != served
    wait_until(
        lambda: bool(rotator.run("sweep", status=0)) and team.is_shortened(served), "the old key to be shortened"
    )


def test_back_to_a_static_key(team: Team) -> None:
    rotator = team.rotator
    rotator.run("run", "--once", status=0)
    last = team.key()
    team.follow("read -rs KEY", f"{STATIC}\n")
    assert team.paths.read(PATH) == {"api_key": STATIC}
    assert "target_foreign" in rotator.run("run", "--once", status=1).stderr
    rotator.config["targets"] = {"search": {"path": "apps/search/respan"}}
    rotator.run("run", "--once", status=0)
    assert "1" in rotator.run("sweep", "--dry-run", status=0).stdout
    assert team.served() == STATIC
    assert team.now(last) == last, "it ends with its own expiry"
