"""Real Vault servers for the tests, and the few things that many tests ask of one.

It talks plain HTTP through httpx, not hvac, so that what checks the store shares no code with it.
"""

import os
import secrets
import shutil
import signal
import ssl
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Self

import httpx

from support.process import Process, free_ports, wait_until
from tools.build_servers import VAULT

ADDRESS_VARIABLE = VAULT.address_variable
TOKEN_VARIABLE = "ROTATOR_TEST_VAULT_TOKEN"
NO_VAULT = f"no Vault: set {ADDRESS_VARIABLE}, put vault on PATH, or install Go and run `make servers`"


def find_vault() -> Path | None:
    """Return the Vault program: on PATH, or else our own build."""
    if on_path := shutil.which("vault"):
        return Path(on_path)
    built = VAULT.folder / "vault"
    return built if built.exists() else None


def vault_program() -> Path:
    """Return the same. Raise FileNotFoundError if there is none."""
    if program := find_vault():
        return program
    raise FileNotFoundError(NO_VAULT)


class VaultServer:
    """A Vault that answers at `address`. Its helpers act as root, and raise httpx.HTTPStatusError when refused."""

    def __init__(self, address: str, root_token: str, ca_file: Path | None = None) -> None:
        self.address = address
        self.root_token = root_token
        self.ca_file = ca_file
        trust = ssl.create_default_context(cafile=ca_file) if ca_file else address.startswith("https:")
        self._client = httpx.Client(base_url=f"{address}/v1/", timeout=10, trust_env=False, verify=trust)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def request(self, method: str, path: str, json: object = None, token: str | None = None) -> httpx.Response:
        """Request `path` (after /v1/), as root unless `token` is given; return any answer, refusals too."""
        headers = {"X-Vault-Token": self.root_token if token is None else token}
        return self._client.request(method, path, json=json, headers=headers)

    def _data(self, method: str, path: str, json: object = None) -> Any:
        return self.request(method, path, json).raise_for_status().json()

    def new_mount(self, version: int = 2) -> str:
        """Return a KV mount that no other test uses."""
        mount = f"kv-{secrets.token_hex(4)}"
        self.request(
            "POST", f"sys/mounts/{mount}", {"type": "kv", "options": {"version": str(version)}}
        ).raise_for_status()
        if version == 2:  # it answers 400 until it is prepared
            wait_until(lambda: self.request("GET", f"{mount}/config").is_success, f"the mount {mount} to be usable")
        return mount

    def new_policy(self, hcl: str) -> str:
        """Return a policy that no other test uses."""
        name = f"test-{secrets.token_hex(4)}"
        self.request("PUT", f"sys/policies/acl/{name}", {"policy": hcl}).raise_for_status()
        return name

    def policy_token(self, hcl: str, **parameters: object) -> str:
        """Return a token with that policy alone, without `default`, and with these parameters, such as ttl="2s"."""
        wanted = {"policies": [self.new_policy(hcl)], "no_default_policy": True, "no_parent": True, **parameters}
        token: str = self._data("POST", "auth/token/create", wanted)["auth"]["client_token"]
        return token

    def approle(self, hcl: str, **parameters: object) -> tuple[str, str]:
        """Return role id and secret id of an AppRole with that policy and `default`, and with these parameters."""
        if "approle/" not in self._data("GET", "sys/auth")["data"]:
            self.request("POST", "sys/auth/approle", {"type": "approle"}).raise_for_status()
        policy = self.new_policy(hcl)
        role = f"auth/approle/role/{policy}"
        self.request("POST", role, {"token_policies": [policy], **parameters}).raise_for_status()
        role_id: str = self._data("GET", f"{role}/role-id")["data"]["role_id"]
        secret_id: str = self._data("POST", f"{role}/secret-id")["data"]["secret_id"]
        return role_id, secret_id


class RaftVault(VaultServer):
    """A Vault with storage that survives, to be sealed, stopped, killed and frozen; made by `raft_vault`.

    A single one, or one of several; made by `raft_cluster` then, which gives each a name of its own as `node`.
    """

    def __init__(self, program: Path, folder: Path, node: str = "only") -> None:
        port, cluster_port = free_ports(2)
        super().__init__(f"http://127.0.0.1:{port}", root_token="")
        storage = folder / "raft"
        storage.mkdir()
        config = folder / "vault.hcl"
        config.write_text(
            f"""
            disable_mlock = true
            api_addr      = "{self.address}"
            cluster_addr  = "http://127.0.0.1:{cluster_port}"
            listener "tcp" {{
              address         = "127.0.0.1:{port}"
              cluster_address = "127.0.0.1:{cluster_port}"
              tls_disable     = true
            }}
            storage "raft" {{
              path                   = "{storage}"
              node_id                = "{node}"
              performance_multiplier = 1  # elect a leader in one second, not in five
              autopilot_reconcile_interval = "200ms"  # who has joined may vote at once, not after ten seconds
              autopilot_update_interval    = "200ms"
            }}
            """
        )
        self._process = Process([str(program), "server", f"-config={config}"], folder)
        self._unseal_key = ""

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        super().__exit__()

    def initialise(self) -> None:
        """Initialise the storage, once. The server must be running, and stays sealed."""
        answer = self._data("PUT", "sys/init", {"secret_shares": 1, "secret_threshold": 1})
        self.root_token, self._unseal_key = answer["root_token"], answer["keys"][0]

    def join(self, leader: "RaftVault") -> None:
        """Become a standby of this one, and unsealed, in a moment; the server must be started, and its storage new."""
        self.root_token, self._unseal_key = leader.root_token, leader._unseal_key
        self.request("POST", "sys/storage/raft/join", {"leader_api_addr": leader.address}).raise_for_status()
        self.request("PUT", "sys/unseal", {"key": self._unseal_key}).raise_for_status()

    @property
    def health(self) -> int:
        """Return the status of sys/health: 200 for the active node, 429 for a standby, 503 for a sealed one."""
        return self.request("GET", "sys/health").status_code

    def start(self) -> None:
        """Start it sealed, at the same address, with its storage."""
        self._process.start(lambda: self.request("GET", "sys/seal-status").is_success)

    def stop(self) -> None:
        """Stop it, and wait for its end."""
        self._process.stop()

    def kill(self) -> None:
        """Kill it, as a crash would."""
        self._process.kill()

    def freeze(self) -> None:
        """Freeze it: the kernel accepts connections, and nothing is answered."""
        self._process.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Thaw it, with all that was sent to it meanwhile."""
        self._process.signal(signal.SIGCONT)

    def seal(self) -> None:
        """Seal it: from now on it answers everything with 503."""
        self.request("PUT", "sys/seal").raise_for_status()

    def unseal(self) -> None:
        """Unseal it, and wait until it is active."""
        self.request("PUT", "sys/unseal", {"key": self._unseal_key}).raise_for_status()
        wait_until(lambda: self.health == httpx.codes.OK, "Vault to become active")


@contextmanager
def dev_vault() -> Iterator[VaultServer]:
    """Yield the running Vault that the environment names, or one of our own in memory, which stops with this context.

    Raises FileNotFoundError if there is neither. Kubernetes auth can be enabled in it.
    """
    if address := os.environ.get(ADDRESS_VARIABLE):
        with VaultServer(address.rstrip("/"), os.environ[TOKEN_VARIABLE]) as server:
            yield server
        return
    with own_dev_vault() as server:
        yield server


@contextmanager
def own_dev_vault(*, tls: bool = False) -> Iterator[VaultServer]:
    """Yield a new Vault in memory, which stops with this context; with `tls` it has a certificate of its own authority.

    Raises FileNotFoundError if there is no program. Kubernetes auth can be enabled in it.
    """
    program = vault_program()
    with tempfile.TemporaryDirectory(prefix="vault-") as folder:
        [port] = free_ports(1)
        command = [str(program), "server", "-dev", "-dev-no-store-token", "-dev-root-token-id=root"]
        command.append(f"-dev-listen-address=127.0.0.1:{port}")
        if tls:
            command += ["-dev-tls", f"-dev-tls-cert-dir={folder}"]
        if (plugins := program.parent / "plugins").is_dir():  # our build; a release has the plugin built in
            command.append(f"-dev-plugin-dir={plugins}")
        process = Process(command, Path(folder))
        authority = Path(folder) / "vault-ca.pem"

        def answers() -> bool:
            """Whether it has made its certificates and mounted secret/, which a dev server does last."""
            with suppress(FileNotFoundError, ssl.SSLError), opened() as server:
                return server.request("GET", "secret/config").is_success
            return False

        def opened() -> VaultServer:
            return VaultServer(f"http{'s' * tls}://127.0.0.1:{port}", "root", authority if tls else None)

        try:
            process.start(answers)
            with opened() as server:
                yield server
        finally:
            process.stop()


@contextmanager
def raft_vault(folder: Path) -> Iterator[RaftVault]:
    """Yield a Vault with its storage in `folder`, unsealed. Raise FileNotFoundError if there is no program."""
    with RaftVault(vault_program(), folder) as server:
        server.start()
        server.initialise()
        server.unseal()
        yield server


@contextmanager
def raft_cluster(folder: Path) -> Iterator[list[RaftVault]]:
    """Yield a cluster of three Vaults, the active one first. Raise FileNotFoundError if there is no program."""
    with ExitStack() as stack:
        nodes = []
        for node in ("first", "second", "third"):
            (folder / node).mkdir()
            nodes.append(stack.enter_context(RaftVault(vault_program(), folder / node, node)))
            nodes[-1].start()
        leader, *standbys = nodes
        leader.initialise()
        leader.unseal()
        autopilot = {"server_stabilization_time": "200ms"}
        leader.request("POST", "sys/storage/raft/autopilot/configuration", autopilot).raise_for_status()
        for standby in standbys:
            standby.join(leader)

        def all_vote() -> bool:
            configuration = leader.request("GET", "sys/storage/raft/configuration").raise_for_status().json()
            servers = configuration["data"]["config"]["servers"]
            return [server["voter"] for server in servers] == [True] * len(nodes)

        wait_until(all_vote, "all three to vote")
        wait_until(lambda: all(standby.health == httpx.codes.TOO_MANY_REQUESTS for standby in standbys), "two standbys")
        yield nodes
