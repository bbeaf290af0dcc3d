"""Every login method, on a real Vault and a real kube-apiserver: its errors, and its recovery."""

import base64
import json
import secrets
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import pytest
import trustme
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from support.installation import LEAST_RIGHTS, Daemon, Installation, on_vault
from support.kube import KubeServer, vault_kubernetes, vault_kubernetes_role
from support.leaks import RECORDER
from support.process import Process, free_ports, wait_until
from support.vault import NO_VAULT, VaultServer, find_vault

LOGGED_IN = 'rotator_store_requests_total{operation="login",outcome="200",store="store"}'
EXPIRY = 'rotator_store_token_expiry_timestamp_seconds{store="store"}'


def rotate_often(rotator: Installation, auth: dict[str, Any]) -> None:
    rotator.config["defaults"] = {"ttl": "60s", "renew_before": "59s", "grace_period": "1s"}
    rotator.config["stores"]["store"]["auth"] = auth
    rotator.environment.pop("VAULT_TOKEN", None)


def start(rotator: Installation) -> Daemon:
    """With a configuration file of its own: a command writes the installation's anew, and would have it read again."""
    file = rotator.folder / "daemon.json"
    file.write_text(json.dumps(rotator.config))
    return rotator.start("--config", str(file))


def published(daemon: Daemon, more: int) -> None:
    """Wait for so many more keys."""
    daemon.wait_for("key_published", len(daemon.events("key_published")) + more)


def complaints(daemon: Daemon) -> list[dict[str, Any]]:
    problems = [event for event in daemon.events() if event["level"] != "info"]
    return [event for event in problems if event["event"] != "configuration_warning"]


# --- a pod's ServiceAccount ------------------------------------------------------------------------------------------


class Pod:
    """A ServiceAccount, its token for Vault in a file, and a role at Vault that accepts it."""

    def __init__(self, folder: Path, vault: VaultServer, kube: KubeServer, hcl: str) -> None:
        self.vault, self.kube, self.hcl = vault, kube, hcl
        self.mount = vault_kubernetes(vault, kube)
        self.namespace = kube.namespace()
        self.file = folder / "vault.token"
        self.role = ""
        self.put_token()

    def put_token(self, service_account: str = "rotator", audience: str | None = "vault") -> None:
        self.file.write_text(self.kube.token_for(self.namespace, service_account, audience))

    def make_role(self, **parameters: object) -> None:
        wanted = {"audience": "vault", "token_ttl": "1h", **parameters}
        self.role = vault_kubernetes_role(self.vault, self.mount, self.namespace, "rotator", self.hcl, **wanted)

    @property
    def auth(self) -> dict[str, str]:
        return {"method": "kubernetes", "mount": self.mount, "role": self.role, "token_file": self.file.name}


@contextmanager
def in_a_pod(
    folder: Path, vault: VaultServer, kube: KubeServer, **parameters: object
) -> Iterator[tuple[Installation, Pod]]:
    with on_vault(folder, vault) as (rotator, paths):
        pod = Pod(folder, vault, kube, LEAST_RIGHTS.format(mount=paths.mount))
        pod.make_role(**parameters)
        rotate_often(rotator, pod.auth)
        yield rotator, pod


def test_the_daemon_and_every_command_log_in_as_the_pod(vault: VaultServer, kube: KubeServer, tmp_path: Path) -> None:
    with in_a_pod(tmp_path, vault, kube) as (rotator, _):
        rotator.run("check", "--online", status=0)
        rotator.run("rotate", "a", status=0)
        assert rotator.json("status")["targets"][0]["state"] in ("ok", "due")
        rotator.run("plan", status=0)
        rotator.run("sweep", "--dry-run", status=0)
        rotator.run("run", "--once", status=0)
        before = time.time()
        daemon = start(rotator)
        daemon.wait_for("key_published")
        expiry = daemon.metric(EXPIRY)
        assert expiry is not None
        assert before + 3590 < expiry < time.time() + 3610
        assert daemon.metric(LOGGED_IN) == 1
        assert daemon.stop() == 0
        assert complaints(daemon) == []


@pytest.mark.parametrize("wrong", ["service account", "audience", "role", "mount", "token"])
def test_a_refused_login_is_reported_in_words(vault: VaultServer, kube: KubeServer, tmp_path: Path, wrong: str) -> None:
    with in_a_pod(tmp_path, vault, kube) as (rotator, pod):
        auth = rotator.config["stores"]["store"]["auth"]
        if wrong == "service account":
            pod.put_token("stranger")
        elif wrong == "audience":
            pod.put_token(audience="elsewhere")
        elif wrong == "role":
            auth["role"] = "no-such-role"
        elif wrong == "mount":
            auth["mount"] = "no-such-mount"
        else:
            pod.file.write_text("this-is-no-token")
        words = {
            "service account": "service account name not authorized",
            "audience": "invalid audience (aud) claim",
            "role": 'invalid role name "no-such-role"',
        }
        output = rotator.run("rotate", "a", status=3).stdout
        assert words.get(wrong, "permission denied") in output
        assert f"Vault refused the login at auth/{auth['mount']}/login" in output
        assert "the mount, the role, and whether its credentials are still valid" in output
        assert rotator.run("check", "--online").returncode != 0
        assert rotator.calls("create") == []


def test_logins_that_last_for_seconds_are_followed_by_others(
    vault: VaultServer, kube: KubeServer, tmp_path: Path
) -> None:
    with in_a_pod(tmp_path, vault, kube, token_ttl="1s", token_max_ttl="2s") as (rotator, _):
        daemon = start(rotator)
        wait_until(lambda: (daemon.metric(LOGGED_IN) or 0) >= 3, "three logins")
        assert (daemon.metric(EXPIRY) or 0) < time.time() + 3
        published(daemon, 1)
        assert daemon.stop() == 0
        assert complaints(daemon) == [], "a login expires in the normal course"


def test_a_role_that_is_gone_and_comes_back(vault: VaultServer, kube: KubeServer, tmp_path: Path) -> None:
    with in_a_pod(tmp_path, vault, kube, token_ttl="2s", token_max_ttl="2s") as (rotator, pod):
        daemon = start(rotator)
        daemon.wait_for("key_published")
        role = f"auth/{pod.mount}/role/{pod.role}"
        former = vault.request("GET", role).raise_for_status().json()["data"]
        vault.request("DELETE", role).raise_for_status()
        down = daemon.wait_for("upstream_down")
        assert f'invalid role name "{pod.role}"' in down["error"]
        assert down["level"] == "error"
        assert daemon.get("/readyz").status_code == 200
        assert daemon.metric('rotator_store_up{store="store"}') == 0

        vault.request("POST", role, former).raise_for_status()
        daemon.wait_for("upstream_up")
        published(daemon, 1)
        assert daemon.stop() == 0
        assert len(daemon.events("upstream_down")) == 1


def test_a_token_that_is_put_in_place_later(vault: VaultServer, kube: KubeServer, tmp_path: Path) -> None:
    """A token that was good once: its ServiceAccount is gone. Then another is mounted."""
    with in_a_pod(tmp_path, vault, kube) as (rotator, pod):
        pod.put_token("gone")
        kube.request("DELETE", f"/api/v1/namespaces/{pod.namespace}/serviceaccounts/gone").raise_for_status()
        daemon = start(rotator)
        daemon.wait_for("upstream_down")
        answer = daemon.get("/readyz")
        assert (answer.status_code, "StoreCredentialRefused" in answer.text) == (503, True)
        assert daemon.metric(EXPIRY) is None
        pod.put_token()
        daemon.wait_for("key_published")
        daemon.wait_for("upstream_up")
        assert daemon.get("/readyz").status_code == 200
        assert daemon.metric(EXPIRY) is not None
        assert daemon.stop() == 0


# --- the others: they work, their credential goes bad, and another replaces it -----------------------------------


class Way(Protocol):
    """One way to log in, set up at Vault."""

    vault: VaultServer
    auth: dict[str, Any]
    store: dict[str, Any]  # more options of the store

    def spoil(self) -> None:
        """Invalidate the credential and every token from it."""

    def repair(self) -> None:
        """Put a good credential where rotator reads it."""


def end_logins(vault: VaultServer, mount: str) -> None:
    vault.request("PUT", f"sys/leases/revoke-prefix/auth/{mount}/login").raise_for_status()


def enable(vault: VaultServer, kind: str) -> str:
    mount = f"{kind}-{secrets.token_hex(4)}"
    vault.request("POST", f"sys/auth/{mount}", {"type": kind}).raise_for_status()
    return mount


class AppRole:
    def __init__(self, vault: VaultServer, folder: Path, hcl: str) -> None:
        self.vault = vault
        self.store: dict[str, Any] = {}
        self.file = folder / "secret-id"
        self.mount, policy = enable(vault, "approle"), vault.new_policy(hcl)
        self.role = f"auth/{self.mount}/role/rotator"
        vault.request("POST", self.role, {"token_policies": [policy], "token_ttl": "1h"}).raise_for_status()
        role_id = vault.request("GET", f"{self.role}/role-id").json()["data"]["role_id"]
        self.auth = {
            "method": "approle",
            "mount": self.mount,
            "role_id": role_id,
            "secret_id_file": self.file.name,
        }
        self.repair()

    def spoil(self) -> None:
        secret_id = self.file.read_text()
        self.vault.request("POST", f"{self.role}/secret-id/destroy", {"secret_id": secret_id}).raise_for_status()
        end_logins(self.vault, self.mount)

    def repair(self) -> None:
        secret_id = self.vault.request("POST", f"{self.role}/secret-id").json()["data"]["secret_id"]
        RECORDER.add_secret("an AppRole's secret id", secret_id)
        self.file.write_text(secret_id)


class Jwt:
    def __init__(self, vault: VaultServer, folder: Path, hcl: str) -> None:
        self.vault = vault
        self.store: dict[str, Any] = {}
        self.file = folder / "jwt"
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.mount, policy = enable(vault, "jwt"), vault.new_policy(hcl)
        public = self.key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        vault.request(
            "POST", f"auth/{self.mount}/config", {"jwt_validation_pubkeys": [public.decode()]}
        ).raise_for_status()
        role = {
            "role_type": "jwt",
            "user_claim": "sub",
            "bound_audiences": ["vault"],
            "clock_skew_leeway": -1,
            "expiration_leeway": -1,
            "token_policies": [policy],
            "token_ttl": "1h",
        }
        vault.request("POST", f"auth/{self.mount}/role/rotator", role).raise_for_status()
        self.auth = {"method": "jwt", "mount": self.mount, "role": "rotator", "token_file": self.file.name}
        self.repair()

    def _put(self, seconds: float) -> None:
        claims = {"sub": "rotator", "aud": "vault", "iat": int(time.time()) - 60, "exp": int(time.time() + seconds)}
        parts = [_base64(json.dumps(part).encode()) for part in ({"alg": "ES256", "typ": "JWT"}, claims)]
        r, s = decode_dss_signature(self.key.sign(".".join(parts).encode(), ec.ECDSA(hashes.SHA256())))
        token = ".".join([*parts, _base64(r.to_bytes(32, "big") + s.to_bytes(32, "big"))])
        RECORDER.add_secret("a JWT", token)
        self.file.write_text(token)

    def spoil(self) -> None:
        self._put(-10)
        end_logins(self.vault, self.mount)

    def repair(self) -> None:
        self._put(600)


def _base64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


class TokenFile:
    def __init__(self, vault: VaultServer, folder: Path, hcl: str) -> None:
        self.vault = vault
        self.store: dict[str, Any] = {}
        self.hcl, self.file = hcl, folder / "token"
        self.auth = {"method": "token_file", "token_file": self.file.name}
        self.repair()

    def spoil(self) -> None:
        self.vault.request("POST", "auth/token/revoke", {"token": self.file.read_text()}).raise_for_status()

    def repair(self) -> None:
        rights = 'path "auth/token/lookup-self" { capabilities = ["read"] }'
        token = self.vault.policy_token(f"{self.hcl}\n{rights}", ttl="1h")
        RECORDER.add_secret("a Vault token", token)
        self.file.write_text(token)


class Cert:
    """Vault trusts one authority, then another; the certificate in the files is of the first, then of the other."""

    def __init__(self, vault: "TlsVault", folder: Path, hcl: str) -> None:
        self.vault, self.folder = vault, folder
        self.store = {"address": vault.tls_address, "ca_file": str(vault.ca_file)}
        self.mount, self.policy = enable(vault, "cert"), vault.new_policy(hcl)
        self.auth = {
            "method": "cert",
            "mount": self.mount,
            "role": "rotator",
            "cert_file": "client.crt",
            "key_file": "client.key",
        }
        self.authority = trustme.CA()
        self._trust()
        self.repair()

    def _trust(self) -> None:
        role = {
            "certificate": self.authority.cert_pem.bytes().decode(),
            "token_policies": [self.policy],
            "token_ttl": "1h",
        }
        self.vault.request("POST", f"auth/{self.mount}/certs/rotator", role).raise_for_status()

    def spoil(self) -> None:
        self.authority = trustme.CA()
        self._trust()
        end_logins(self.vault, self.mount)

    def repair(self) -> None:
        issued = self.authority.issue_cert("rotator.test", common_name="rotator")
        issued.private_key_pem.write_to_path(self.folder / "client.key")
        issued.cert_chain_pems[0].write_to_path(self.folder / "client.crt")


class TlsVault(VaultServer):
    """One that has a second address, for TLS."""

    tls_address: str
    ca_file: Path


@pytest.fixture(scope="module")
def tls_vault(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TlsVault]:
    if (program := find_vault()) is None:
        pytest.skip(NO_VAULT)
    folder = tmp_path_factory.mktemp("tls-vault")
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    authority.cert_pem.write_to_path(folder / "ca.crt")
    issued.private_key_pem.write_to_path(folder / "tls.key")
    issued.cert_chain_pems[0].write_to_path(folder / "tls.crt")
    port, tls_port = free_ports(2)
    (folder / "tls.hcl").write_text(
        f"""
        listener "tcp" {{
          address       = "127.0.0.1:{tls_port}"
          tls_cert_file = "{folder}/tls.crt"
          tls_key_file  = "{folder}/tls.key"
        }}
        """
    )
    command = [str(program), "server", "-dev", "-dev-no-store-token", "-dev-root-token-id=root"]
    command += [f"-dev-listen-address=127.0.0.1:{port}", f"-config={folder}/tls.hcl"]
    process = Process(command, folder)
    with TlsVault(f"http://127.0.0.1:{port}", "root") as server:
        server.tls_address, server.ca_file = f"https://127.0.0.1:{tls_port}", folder / "ca.crt"
        try:
            process.start(lambda: server.request("GET", "secret/config").is_success)
            yield server
        finally:
            process.stop()


@pytest.mark.parametrize("kind", [AppRole, Jwt, TokenFile, Cert], ids=lambda of: of.__name__)
def test_a_login_goes_bad_and_recovers(request: pytest.FixtureRequest, tmp_path: Path, kind: type) -> None:
    vault: VaultServer = request.getfixturevalue("tls_vault" if kind is Cert else "vault")
    with on_vault(tmp_path, vault) as (rotator, paths):
        way: Way = kind(vault, tmp_path, LEAST_RIGHTS.format(mount=paths.mount))
        rotate_often(rotator, way.auth)
        rotator.config["stores"]["store"] |= way.store
        rotator.config["daemon"]["workers"] = 1  # and so one connection to Vault, which is kept
        rotator.run("rotate", "a", status=0)
        daemon = start(rotator)
        published(daemon, 1)
        expiry = daemon.metric(EXPIRY)
        assert expiry is not None
        assert time.time() + 3500 < expiry

        way.spoil()
        down = daemon.wait_for("upstream_down")
        assert down["upstream"] == "store store"
        assert "refused the login" in down["error"] or "invalid token" in down["error"]
        assert daemon.get("/readyz").status_code == 200
        assert down["error"] in rotator.run("rotate", "a", status=3).stdout

        way.repair()
        rotator.run("rotate", "a", status=0)
        daemon.signal(signal.SIGUSR1)  # it would recover unasked, too; a person does not wait for the next try
        wait_until(lambda: bool(daemon.events("upstream_up")), "Vault to be up again", 12)
        published(daemon, 1)
        assert daemon.stop() == 0


def test_commands_and_a_clean_stop_leave_no_token_behind(vault: VaultServer, tmp_path: Path) -> None:
    """A token that a login got lives for 32 days by default; enough of them bring a Vault down."""

    def logins() -> int:
        leases = vault.request("LIST", f"sys/leases/lookup/auth/{way.mount}/login")
        return len(leases.json()["data"]["keys"]) if leases.is_success else 0

    with on_vault(tmp_path, vault) as (rotator, paths):
        way = AppRole(vault, tmp_path, LEAST_RIGHTS.format(mount=paths.mount))
        rotate_often(rotator, way.auth)
        for command in (("check", "--online"), ("rotate", "a"), ("status",), ("run", "--once")):
            rotator.run(*command, status=0)
            assert logins() == 0, command
        daemon = start(rotator)
        published(daemon, 1)
        assert logins() == 1, "it is known how to find them"
        assert daemon.stop() == 0
        assert logins() == 0
        assert complaints(daemon) == []
