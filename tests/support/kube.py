"""A real kube-apiserver, and the few things that many tests ask of one. There is no controller and no kubelet.

It talks plain HTTP through httpx, so that what checks rotator's use of Kubernetes shares no code with it.
"""

import os
import secrets
import shutil
import signal
import ssl
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import httpx
import trustme

from support.leaks import RECORDER
from support.process import Process, free_ports, wait_until
from support.vault import VaultServer
from tools.build_servers import KUBE_APISERVER, PROMETHEUS_OPERATOR_CRDS, Server

ADDRESS_VARIABLE = KUBE_APISERVER.address_variable
TOKEN_VARIABLE = "ROTATOR_TEST_KUBE_TOKEN"
CA_VARIABLE = "ROTATOR_TEST_KUBE_CA"
NO_KUBE = (
    f"no kube-apiserver: set {ADDRESS_VARIABLE}, {TOKEN_VARIABLE} and {CA_VARIABLE}; "
    "or have etcd on PATH, and either kube-apiserver too or Go and `make servers`"
)
CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
RBAC = "/apis/rbac.authorization.k8s.io/v1"
DAY = 86_400


class KubeServer:
    """A kube-apiserver that answers at `address`, with a certificate of the authority in `ca_file`.

    Its helpers act as `token`, an administrator, and raise httpx.HTTPStatusError when refused.
    """

    def __init__(self, address: str, token: str, ca_file: Path) -> None:
        self.address = address
        self.token = token
        self.ca_file = ca_file
        trust = ssl.create_default_context(cafile=ca_file)
        self._client = httpx.Client(base_url=address, timeout=10, trust_env=False, verify=trust)
        RECORDER.add_secret("a Kubernetes administrator's token", token)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def request(
        self,
        method: str,
        path: str,
        json: object = None,
        token: str | None = None,
        *,
        yaml: str | None = None,
        params: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        """Request `path`, as administrator unless `token` is given; return any answer, refusals too."""
        headers = {"Authorization": f"Bearer {self.token if token is None else token}"}
        if yaml is not None:
            headers["Content-Type"] = "application/yaml"
        return self._client.request(method, path, json=json, content=yaml, params=params, headers=headers)

    def _data(self, method: str, path: str, json: object = None) -> Any:
        return self.request(method, path, json).raise_for_status().json()

    def _create(self, path: str, name: str, **fields: object) -> None:
        """Create an object in a collection, unless it is there."""
        answer = self.request("POST", path, {"metadata": {"name": name}, **fields})
        if answer.status_code != httpx.codes.CONFLICT:
            answer.raise_for_status()

    def namespace(self, name: str | None = None) -> str:
        """Return the namespace of that name, created if it is missing, or else one that no other test uses."""
        name = name or f"test-{secrets.token_hex(4)}"
        self._create("/api/v1/namespaces", name)
        return name

    def token_for(self, namespace: str, service_account: str, audience: str | None = None, seconds: int = 600) -> str:
        """A token of a ServiceAccount, which is made if it is missing, as is its namespace; 600 seconds are the least.

        Without an audience it is for the apiserver itself.
        """
        accounts = f"/api/v1/namespaces/{self.namespace(namespace)}/serviceaccounts"
        self._create(accounts, service_account)
        wanted = {"audiences": [audience] if audience else [], "expirationSeconds": seconds}
        token: str = self._data("POST", f"{accounts}/{service_account}/token", {"spec": wanted})["status"]["token"]
        RECORDER.add_secret("a ServiceAccount's token", token)
        return token

    def role(self, namespace: str, *rules: Mapping[str, Sequence[str]]) -> str:
        """Create a Role with these rules (apiGroups, resources, verbs, …); return its name."""
        name = f"test-{secrets.token_hex(4)}"
        self._create(f"{RBAC}/namespaces/{namespace}/roles", name, rules=rules)
        return name

    def bind(self, namespace: str, role: str, service_account: str, *, home: str | None = None) -> None:
        """Give a ServiceAccount of the namespace `home`, or else of this one, what a Role of this one allows."""
        self._bind(f"{RBAC}/namespaces/{namespace}", "Role", role, home or namespace, service_account, namespace)

    def bind_cluster_role(self, cluster_role: str, namespace: str, service_account: str) -> None:
        """Give a ServiceAccount what a ClusterRole allows, everywhere."""
        self._bind(RBAC, "ClusterRole", cluster_role, namespace, service_account)

    def _bind(
        self, path: str, kind: str, role: str, namespace: str, service_account: str, where: str | None = None
    ) -> None:
        self._create(
            f"{path}/{kind.lower()}bindings",
            f"test-{secrets.token_hex(4)}",
            roleRef={"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": role},
            subjects=[{"kind": "ServiceAccount", "namespace": namespace, "name": service_account}],
        )
        # It takes effect a moment later: wait until the role's first rule applies.
        rule = self._data("GET", f"{path}/{kind.lower()}s/{role}")["rules"][0]
        wanted: dict[str, object] = {"user": f"system:serviceaccount:{namespace}:{service_account}"}
        if "nonResourceURLs" in rule:
            wanted["nonResourceAttributes"] = {"path": rule["nonResourceURLs"][0], "verb": rule["verbs"][0]}
        else:
            resource, _, subresource = rule["resources"][0].partition("/")
            wanted["resourceAttributes"] = {
                "namespace": where or namespace,
                "group": rule["apiGroups"][0],
                "resource": resource,
                "subresource": subresource,
                "name": rule.get("resourceNames", [""])[0],
                "verb": rule["verbs"][0],
            }

        def applies() -> bool:
            review = self._data("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", {"spec": wanted})
            allowed: bool = review["status"]["allowed"]
            return allowed

        wait_until(applies, f"{kind} {role} to be in force")

    def dry_run(self, manifest: Mapping[str, Any], namespace: str = "default") -> httpx.Response:
        """Return the server's answer to this manifest, refusals too, without creating anything.

        A manifest that names no namespace is meant for `namespace`. Whichever it is, it must exist.
        """
        params = {"dryRun": "All", "fieldValidation": "Strict"}
        return self.request("POST", self._collection(manifest, namespace), manifest, params=params)

    def _collection(self, manifest: Mapping[str, Any], namespace: str) -> str:
        """Return where objects of this kind are created. Raise LookupError if the server knows no such kind."""
        version, kind = manifest["apiVersion"], manifest["kind"]
        group = f"/apis/{version}" if "/" in version else f"/api/{version}"
        for resource in self._data("GET", group)["resources"]:
            if resource["kind"] == kind and "/" not in resource["name"]:
                namespace = manifest["metadata"].get("namespace", namespace)
                within = f"/namespaces/{namespace}" if resource["namespaced"] else ""
                return f"{group}{within}/{resource['name']}"
        raise LookupError(f"there is no {kind} in {version}")

    def install_crds(self, crds: Server = PROMETHEUS_OPERATOR_CRDS, group: str = "monitoring.coreos.com") -> None:
        """Install custom resources: those of prometheus-operator (PodMonitor, PrometheusRule), or others."""
        for file in crds.programs:
            answer = self.request("POST", CRDS, yaml=(crds.folder / file.file).read_text())
            if answer.status_code != httpx.codes.CONFLICT:
                answer.raise_for_status()

        def known() -> bool:
            answer = self.request("GET", f"/apis/{group}/v1")
            return answer.is_success and len(answer.json()["resources"]) >= len(crds.programs)

        wait_until(known, "the custom resources to be served")

    def remove_crd(self, name: str) -> None:
        """Remove a custom resource with its objects, if it is there."""
        self.request("DELETE", f"{CRDS}/{name}")
        group = name.partition(".")[2]
        wait_until(lambda: not self.request("GET", f"/apis/{group}").is_success, f"{name} to be gone")


class OwnKubeServer(KubeServer):
    """An apiserver of our own, with an etcd that keeps running while it is stopped; made by `own_kube`."""

    def __init__(self, etcd: Path, apiserver: Path, folder: Path) -> None:
        port, etcd_port, peer_port = free_ports(3)
        authority = trustme.CA()
        certificate, accounts = (authority.issue_cert("127.0.0.1", key_type=trustme.KeyType.RSA) for _ in range(2))
        for name, pem in {
            "ca.crt": authority.cert_pem,
            "tls.crt": certificate.cert_chain_pems[0],
            "tls.key": certificate.private_key_pem,
            "accounts.key": accounts.private_key_pem,  # tokens are signed with it
        }.items():
            pem.write_to_path(folder / name)
        token = secrets.token_hex(16)
        (folder / "tokens.csv").write_text(f'{token},admin,admin-uid,"system:masters"\n')
        super().__init__(f"https://127.0.0.1:{port}", token, folder / "ca.crt")

        self._folder = folder
        self._etcd_address = f"http://127.0.0.1:{etcd_port}"
        self._etcd = self._process(
            "etcd",
            [
                f"{etcd}",
                f"--data-dir={folder}/data",
                "--unsafe-no-fsync",
                f"--listen-client-urls={self._etcd_address}",
                f"--advertise-client-urls={self._etcd_address}",
                f"--listen-peer-urls=http://127.0.0.1:{peer_port}",
            ],
        )
        self._apiserver = self._process(
            "kube-apiserver",
            [
                f"{apiserver}",
                f"--etcd-servers={self._etcd_address}",
                "--bind-address=127.0.0.1",
                "--advertise-address=127.0.0.1",
                f"--secure-port={port}",
                f"--cert-dir={folder}/certs",
                f"--tls-cert-file={folder}/tls.crt",
                f"--tls-private-key-file={folder}/tls.key",
                f"--token-auth-file={folder}/tokens.csv",
                "--allow-privileged=true",  # as each distribution sets it: Pod Security refuses instead
                "--authorization-mode=RBAC",
                "--service-account-issuer=https://kubernetes.default.svc",
                f"--service-account-key-file={folder}/accounts.key",
                f"--service-account-signing-key-file={folder}/accounts.key",
                "--service-cluster-ip-range=10.0.0.0/24",
                "--endpoint-reconciler-type=none",
            ],
        )

    def _process(self, name: str, command: list[str]) -> Process:
        (self._folder / name).mkdir()
        return Process(command, self._folder / name)

    def __enter__(self) -> Self:
        self._etcd.start(lambda: httpx.get(f"{self._etcd_address}/health", trust_env=False, verify=False).is_success)
        try:
            self.start()
        except BaseException:
            self._etcd.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._apiserver.stop()  # before etcd, without which it does not stop
        self._etcd.stop()
        for name in ("etcd", "kube-apiserver"):
            RECORDER.record(name, (self._folder / name / "output.log").read_text())
        super().__exit__()

    def start(self) -> None:
        """Start it at the same address with its data."""
        self._apiserver.start(lambda: self.request("GET", "/readyz").is_success)

    def stop(self) -> None:
        """Stop it, and wait for its end."""
        self._apiserver.stop()

    def freeze(self) -> None:
        """Freeze it: the kernel accepts connections, and nothing is answered."""
        self._apiserver.signal(signal.SIGSTOP)
        wait_until(self._stands_still, "kube-apiserver to stand still")  # its threads stop one after the other

    def _stands_still(self) -> bool:
        try:
            self._client.get("/livez", timeout=0.1)
        except httpx.TimeoutException:
            return True
        return False

    def thaw(self) -> None:
        """Thaw it, with all that was sent to it meanwhile."""
        self._apiserver.signal(signal.SIGCONT)


def find_programs() -> tuple[Path, Path] | None:
    """Return the programs etcd and kube-apiserver, if both exist."""
    etcd, apiserver = shutil.which("etcd"), KUBE_APISERVER.find()
    return (Path(etcd), apiserver) if etcd and apiserver else None


def running_kube() -> KubeServer | None:
    """Return the running server that the environment names, if it does."""
    if address := os.environ.get(ADDRESS_VARIABLE):
        return KubeServer(address.rstrip("/"), os.environ[TOKEN_VARIABLE], Path(os.environ[CA_VARIABLE]))
    return None


@contextmanager
def own_kube() -> Iterator[OwnKubeServer]:
    """Yield an apiserver of our own, new and empty. Raise FileNotFoundError if there is no program."""
    if (programs := find_programs()) is None:
        raise FileNotFoundError(NO_KUBE)
    with tempfile.TemporaryDirectory(prefix="kube-") as folder, OwnKubeServer(*programs, Path(folder)) as server:
        yield server


def vault_kubernetes(vault: VaultServer, kube: KubeServer) -> str:
    """Mount Vault's Kubernetes auth method for this apiserver; return its mount, as in `auth/MOUNT/login`."""
    mount = f"kubernetes-{secrets.token_hex(4)}"
    reviewer = kube.token_for("vault", "reviewer", seconds=DAY)
    kube.bind_cluster_role("system:auth-delegator", "vault", "reviewer")
    vault.request("POST", f"sys/auth/{mount}", {"type": "kubernetes"}).raise_for_status()
    config = {
        "kubernetes_host": kube.address,
        "kubernetes_ca_cert": kube.ca_file.read_text(),
        "token_reviewer_jwt": reviewer,
        "disable_local_ca_jwt": True,
    }
    vault.request("POST", f"auth/{mount}/config", config).raise_for_status()
    return mount


def vault_kubernetes_role(
    vault: VaultServer, mount: str, namespace: str, service_account: str, hcl: str, **parameters: object
) -> str:
    """Create a role of that method for this ServiceAccount, with that policy and these parameters; return its name."""
    policy = vault.new_policy(hcl)
    wanted = {
        "bound_service_account_names": [service_account],
        "bound_service_account_namespaces": [namespace],
        "token_policies": [policy],
        **parameters,
    }
    vault.request("POST", f"auth/{mount}/role/{policy}", wanted).raise_for_status()
    return policy


class MountedConfigMap:
    """A folder as the kubelet mounts a ConfigMap or projected volume: a link changes all files at once."""

    def __init__(self, folder: Path, files: Mapping[str, str]) -> None:
        """`files`: the content of each by its name, which may contain folders."""
        self.folder = folder
        folder.mkdir(parents=True)
        self.write(files)

    def write(self, files: Mapping[str, str]) -> None:
        """Replace all files by these."""
        data, fresh = self.folder / "..data", self.folder / f"..{secrets.token_hex(4)}"
        former = data.resolve() if data.exists() else None
        for name, text in files.items():
            (fresh / name).parent.mkdir(parents=True, exist_ok=True)
            (fresh / name).write_text(text)
        link = self.folder / "..data_tmp"
        link.symlink_to(fresh.name)
        link.rename(data)
        shown = {Path(name).parts[0] for name in files}
        for name in shown:
            if not (self.folder / name).is_symlink():
                (self.folder / name).symlink_to(Path("..data") / name)
        for entry in self.folder.iterdir():
            if not entry.name.startswith("..") and entry.name not in shown:
                entry.unlink()
        if former:
            shutil.rmtree(former)
