"""The shipped Vault policy is enough for every command, and nothing in it can be left out unnoticed."""

import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from io import BytesIO, TextIOWrapper
from pathlib import Path

import pytest
import typer.main
from support.installation import Installation, VaultPaths, on_vault
from support.kube import KubeServer, vault_kubernetes
from support.leaks import RECORDER
from support.vault import VaultServer, vault_program

from rotator.cli.main import app

DEPLOY = Path(__file__).resolve().parents[2] / "deploy/vault"
POLICY = (DEPLOY / "policy.hcl").read_text()
RULES = {
    path: set(re.findall(r"\w+", rights)) for path, rights in re.findall(r'^path "(.+)" \{.*\[(.*)\]', POLICY, re.M)
}
Made = tuple[Installation, VaultPaths]

WITHOUT_VAULT = {"demo", "simulate", "schema"}
COMMANDS = (
    ("check", "--online"),
    ("plan",),
    ("run", "--once"),
    ("rotate", "a"),
    ("rotate", "--all", "--revoke-now"),
    ("rotate", "a"),
    ("rollback", "a"),
    ("sweep", "--dry-run"),
    ("sweep",),
    ("extend", "--all", "--for", "48h"),
    ("status",),
    ("events",),
)

DATA, METADATA, DESTROY, CAPABILITIES = RULES
MISSING = {
    (DATA, "create"): ("rotate", "a"),
    (DATA, "read"): ("status",),
    (DATA, "update"): ("rotate", "a"),
    (METADATA, "read"): ("plan",),
    (DESTROY, "update"): ("rotate", "a", "--revoke-now"),
    (CAPABILITIES, "update"): ("check", "--online"),
}
"""What fails without each right."""


@pytest.fixture
def made(vault: VaultServer, tmp_path: Path) -> Iterator[Made]:
    with on_vault(tmp_path, vault, ("a",)) as (rotator, paths):
        rotator.config["defaults"]["grace_period"] = "10m"
        restrict(rotator, paths, POLICY)
        yield rotator, paths


def restrict(rotator: Installation, paths: VaultPaths, policy: str) -> None:
    """From now on it has a token with this policy alone, without `default`."""
    token = paths.vault.policy_token(policy.replace('"secret/', f'"{paths.mount}/'))
    RECORDER.add_secret("a Vault token", token)
    rotator.environment["VAULT_TOKEN"] = token


def without(path: str, right: str) -> str:
    """The shipped policy without this right; without the whole line if it gives no other."""
    kept = RULES[path] - {right}
    line = (
        f'path "{path}" {{ capabilities = [{", ".join(map(repr, sorted(kept)))}] }}'.replace("'", '"') if kept else ""
    )
    text, count = re.subn(rf'^path "{re.escape(path)}".*$', line, POLICY, flags=re.M)
    assert count == 1
    return text


def test_the_policy_is_enough_for_every_command(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    rotator, paths = made
    known = set(getattr(typer.main.get_command(app), "commands", ()))
    assert known == {command for command, *_ in COMMANDS} | {"find"} | WITHOUT_VAULT
    for command in COMMANDS:
        rotator.run(*command, status=0)
    key = (paths.read("apps/a") or {})["api_key"]
    monkeypatch.setattr(sys, "stdin", TextIOWrapper(BytesIO(f"{key}\n".encode())))
    rotator.run("find", status=0)
    paths.put("apps/a", {"api_key": "theirs"})
    rotator.run("rotate", "a", "--adopt", status=0)

    rotator.config["defaults"]["grace_period"] = "1s"
    rotator.config["targets"]["new"] = {"path": "apps/new"}
    daemon = rotator.start()
    daemon.wait_for("key_published", target="new")
    daemon.wait_for("sweep_completed")
    assert daemon.stop() == 0
    assert not daemon.events(level="error")


def test_every_right_of_the_policy_is_tried_below() -> None:
    assert {(path, right) for path, rights in RULES.items() for right in rights} == set(MISSING)


@pytest.mark.parametrize(("path", "right"), MISSING)
def test_without_a_right_a_command_fails_and_names_it(made: Made, path: str, right: str) -> None:
    rotator, paths = made
    if right != "create":
        rotator.run("run", "--once", status=0)
    restrict(rotator, paths, without(path, right))
    asked = path.replace("secret/", f"{paths.mount}/").replace("*", "a")

    failed, check = rotator.run(*MISSING[path, right]), rotator.run("check", "--online")

    assert failed.returncode in (1, 3, 4)
    denied = re.search(rf"Vault's policy denies (.+) on {asked} ", failed.stdout + failed.stderr)
    assert denied, failed
    assert f"`{right}`" in denied[1]
    assert check.returncode in (1, 3)
    assert re.search(rf"{asked}.*`{right}`|`{right}` on {asked}", check.stdout), check.stdout


@pytest.mark.parametrize("path", RULES)
def test_without_a_line_the_check_shows_the_line_to_add(made: Made, path: str) -> None:
    rotator, paths = made
    restrict(rotator, paths, re.sub(rf'^path "{re.escape(path)}".*$', "", POLICY, flags=re.M))
    output = rotator.run("check", "--online").stdout
    line = next(line for line in POLICY.splitlines() if line.startswith(f'path "{path}"'))
    assert line.replace("secret/", f"{paths.mount}/").replace("*", "a") in output


def test_the_line_for_an_organisation_key_in_vault_is_what_it_takes(made: Made) -> None:
    rotator, paths = made
    [line] = re.findall(r'^# (path "secret/data/respan/org".*)$', POLICY, re.M)
    paths.put("respan/org", {"api_key": rotator.environment.pop("RESPAN_API_KEY")})
    reference = f"{paths.mount}/respan/org#api_key"
    rotator.config["providers"]["respan"]["api_key"] = {"vault": reference}
    refused = rotator.run("check", "--online", status=3).stdout
    assert f"`read` on {paths.mount}/data/respan/org" in refused
    assert rotator.run("rotate", "a").returncode == 3
    assert rotator.calls() == []
    restrict(rotator, paths, f"{POLICY}\n{line}\n")
    rotator.run("check", "--online", status=0)
    rotator.run("rotate", "a", status=0)


def set_up(vault: VaultServer, mount: str, home: Path, **more: str) -> subprocess.CompletedProcess[str]:
    """Run the script, as root unless another token is given. The role is named as the mount is."""
    environment = {
        "PATH": f"{vault_program().parent}:{os.environ['PATH']}",
        "HOME": str(home),
        "VAULT_ADDR": vault.address,
        "VAULT_TOKEN": vault.root_token,
        "MOUNT": mount,
        "ROLE": mount,
        **more,
    }
    script = DEPLOY / "setup.sh"
    return subprocess.run([script], env=environment, check=False, capture_output=True, text=True, timeout=60)


def test_the_script_lets_a_service_account_log_in(
    made: Made, vault: VaultServer, kube: KubeServer, tmp_path: Path
) -> None:
    rotator, paths = made
    mount, namespace = vault_kubernetes(vault, kube), kube.namespace()
    policy = tmp_path / "policy.hcl"
    policy.write_text(POLICY.replace('"secret/', f'"{paths.mount}/'))
    less = "".join(
        f'path "{path}" {{ capabilities = ["create", "update"] }}\n'
        for path in (f"sys/policies/acl/{mount}", f"auth/{mount}/role/{mount}")
    )
    may_not_look = vault.policy_token(less)  # whether it is enabled: that takes sudo
    RECORDER.add_secret("a Vault token", may_not_look)
    for token in (vault.root_token, vault.root_token, may_not_look):
        set_up(vault, mount, tmp_path, VAULT_TOKEN=token, NAMESPACE=namespace, POLICY=str(policy)).check_returncode()

    jwt = tmp_path / "token"
    auth = {"method": "kubernetes", "mount": mount, "role": mount, "token_file": str(jwt)}
    rotator.config["stores"]["store"]["auth"] = auth
    del rotator.environment["VAULT_TOKEN"]

    jwt.write_text(kube.token_for(namespace, "rotator", "vault"))
    rotator.run("check", "--online", status=0)
    rotator.run("rotate", "a", status=0)
    for service_account, audience in (("rotator", None), ("stranger", "vault")):
        jwt.write_text(kube.token_for(namespace, service_account, audience))
        refused = rotator.run("check", "--online", status=3)
        assert f"Vault refused the login at auth/{mount}/login" in refused.stdout


def test_the_units_commands_make_the_login_that_its_configuration_names(
    made: Made, vault: VaultServer, tmp_path: Path
) -> None:
    rotator, paths = made
    (tmp_path / "policy.hcl").write_text(POLICY.replace('"secret/', f'"{paths.mount}/'))
    commands = re.findall(r"^#   (vault .*)$", (DEPLOY.parent / "systemd/rotator.service").read_text(), re.M)
    assert len(commands) == 5
    mount, others = f"approle-{os.urandom(4).hex()}", "\n".join(commands)
    for text, here in (
        ("deploy/vault/policy.hcl", "policy.hcl"),
        ("auth enable approle", f"auth enable -path={mount} approle"),
        ("auth/approle/", f"auth/{mount}/"),
        ("policy write rotator ", f"policy write {mount} "),
        ("token_policies=rotator ", f"token_policies={mount} "),
    ):
        assert text in others
        others = others.replace(text, here)
    environment = {"PATH": f"{vault_program().parent}:{os.environ['PATH']}", "HOME": str(tmp_path)}
    environment |= {"VAULT_ADDR": vault.address, "VAULT_TOKEN": vault.root_token}
    subprocess.run(
        ["/bin/sh", "-ec", others], env=environment, cwd=tmp_path, check=True, capture_output=True, timeout=60
    )
    RECORDER.add_secret("an AppRole's secret id", (tmp_path / "vault-secret-id").read_text().strip())

    auth = tomllib.loads((DEPLOY.parent / "systemd/rotator.toml").read_text())["stores"]["vault"]["auth"]
    rotator.config["stores"]["store"]["auth"] = auth | {
        "mount": mount,
        "secret_id_file": str(tmp_path / "vault-secret-id"),
    }
    del rotator.environment["VAULT_TOKEN"]
    rotator.run("check", "--online", status=0)
    rotator.run("rotate", "a", status=0)


def test_the_script_enables_and_configures_kubernetes_auth_where_it_is_not(
    vault: VaultServer, kube: KubeServer, tmp_path: Path
) -> None:
    mount = f"k8s-{os.urandom(4).hex()}"
    reviewer = tmp_path / "reviewer.jwt"
    reviewer.write_text(kube.token_for("vault", "reviewer"))
    kube.bind_cluster_role("system:auth-delegator", "vault", "reviewer")
    namespace = kube.namespace()
    cluster = {"KUBERNETES_HOST": kube.address, "KUBERNETES_CA": str(kube.ca_file), "REVIEWER_TOKEN": str(reviewer)}
    for _ in range(2):
        set_up(vault, mount, tmp_path, NAMESPACE=namespace, **cluster).check_returncode()

    jwt = kube.token_for(namespace, "rotator", "vault")
    answer = vault.request("POST", f"auth/{mount}/login", {"role": mount, "jwt": jwt}, token="")
    auth = answer.raise_for_status().json()["auth"]
    RECORDER.add_secret("a Vault token", auth["client_token"])
    assert auth["lease_duration"] == 3600
    assert set(auth["policies"]) == {"default", mount}


def test_the_script_leaves_the_mount_of_another_cluster_alone(
    vault: VaultServer, kube: KubeServer, tmp_path: Path
) -> None:
    mount = vault_kubernetes(vault, kube)
    before = vault.request("GET", f"auth/{mount}/config").raise_for_status().json()["data"]
    done = set_up(vault, mount, tmp_path, KUBERNETES_HOST="https://another-cluster.test:6443")
    assert done.returncode == 1
    assert f"auth/{mount} serves the cluster at {kube.address}, so nothing was changed there" in done.stderr
    assert vault.request("GET", f"auth/{mount}/config").raise_for_status().json()["data"] == before
