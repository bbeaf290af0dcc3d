"""Follows a page of the documentation as a reader would: its commands, in order, in a shell, with real servers.

kubectl, helm and vault are the real programs, and so are their servers. There is no kubelet and no controller:
`Kubelet` plays both with folders and processes. There is no container engine: `docker` only records its arguments.
"""

import json
import os
import re
import shlex
import subprocess
import sys
import textwrap
from base64 import b64decode
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread
from typing import Any

import httpx

from support.chart import ROOT, Manifest, container_of, pod_of
from support.forked import Forked
from support.installation import PROGRAM, Daemon
from support.kube import KubeServer
from support.leaks import RECORDER
from support.process import free_ports, wait_until
from support.vault import VaultServer, vault_program
from tools.build_servers import HELM, KUBECTL

NO_CLIENTS = "no kubectl or helm: put both on PATH, or install Go and run `make servers`"
FENCE = re.compile(r"(?ms)^( *)```(sh|yaml)\n(.*?)^\1```$")
SERVICE_ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"


@dataclass(frozen=True)
class Block:
    """A code block of a page."""

    language: str
    text: str

    @property
    def file(self) -> str:
        """The name of the file that the block shows, from the comment that is its first line."""
        named = re.match(r"# ([\w-]+\.yaml)\n", self.text)
        return named[1] if named else ""


def page(name: str) -> str:
    """Return the text of a page in docs/."""
    return (ROOT / "docs" / name).read_text()


def blocks(name: str) -> list[Block]:
    """Return the code blocks of a page, in order and without their indentation."""
    return [Block(found[2], textwrap.dedent(found[3])) for found in FENCE.finditer(page(name))]


class Pod:
    """A pod of a Deployment: its volumes are folders under `root`, and its container is a process of this machine."""

    def __init__(self, kube: KubeServer, deployment: Manifest, root: Path, provider: str) -> None:
        self._kube, self._deployment, self.root, self._provider = kube, deployment, root, provider
        self.namespace = deployment["metadata"]["namespace"]
        self._spec = pod_of(deployment)["spec"]
        self._ports = dict(zip(("9465", "9466"), free_ports(2), strict=True))
        self.daemon: Daemon | None = None

    def mount(self) -> None:
        """Write all volumes as the kubelet does. Raise httpx.HTTPStatusError for a source that is missing."""
        volumes = {volume["name"]: volume for volume in self._spec["volumes"]}
        for mount in container_of(pod_of(self._deployment))["volumeMounts"]:
            for path, text in self._files(volumes[mount["name"]]):
                file = self.root / mount["mountPath"].lstrip("/") / path
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(self._adapted(text) if file.suffix == ".json" else text)

    def _files(self, volume: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        for source in volume["projected"]["sources"] if "projected" in volume else [volume]:
            if token := source.get("serviceAccountToken"):
                account = self._spec["serviceAccountName"]
                yield token["path"], self._kube.token_for(self.namespace, account, token.get("audience"))
            elif downward := source.get("downwardAPI"):
                [item] = downward["items"]
                assert item["fieldRef"]["fieldPath"] == "metadata.namespace"
                yield item["path"], self.namespace
            else:
                data = self._data(source)
                items = (source.get("configMap") or source["secret"]).get("items")
                for item in items or [{"key": key, "path": key} for key in data]:
                    yield item["path"], data[item["key"]]

    def _data(self, source: Mapping[str, Any]) -> dict[str, str]:
        if found := source.get("configMap"):
            return dict(self._get(f"configmaps/{found['name']}")["data"])
        encoded = self._get(f"secrets/{source['secret']['secretName']}")["data"]
        return {key: b64decode(text).decode() for key, text in encoded.items()}

    def _get(self, name: str) -> Any:
        return self._kube.request("GET", f"/api/v1/namespaces/{self.namespace}/{name}").raise_for_status().json()

    def _adapted(self, text: str) -> str:
        """Return a file of the configuration, with what a pod has and this machine has not replaced."""
        config = json.loads(text)
        if "lease" in config:
            folder = self.root / SERVICE_ACCOUNT.lstrip("/")
            config["lease"] |= {"token_file": str(folder / "token"), "ca_file": str(folder / "ca.crt")}
            config["lease"] |= {"namespace": self.namespace, "identity": self.root.name}
        text = json.dumps(config).replace("https://api.respan.ai", self._provider)
        return self._here(text.replace("/var/run/secrets/rotator/", f"{self.root}/var/run/secrets/rotator/"))

    def _here(self, text: str) -> str:
        for port, free in self._ports.items():
            text = re.sub(rf"(0\.0\.0\.0|127\.0\.0\.1):{port}", f"127.0.0.1:{free}", text)
        return text

    @property
    def environment(self) -> dict[str, str]:
        """The variables of the container."""
        host, _, port = self._kube.address.removeprefix("https://").partition(":")
        given = {one["name"]: one["value"] for one in container_of(pod_of(self._deployment))["env"]}
        given["ROTATOR_CONFIG"] = f"{self.root}{given['ROTATOR_CONFIG']}"
        given["ROTATOR_URL"] = self._here(given["ROTATOR_URL"])
        return given | {
            "PATH": f"{PROGRAM.parent}:{os.environ['PATH']}",
            "HOME": str(self.root),
            "KUBERNETES_SERVICE_HOST": host,
            "KUBERNETES_SERVICE_PORT": port,
        }

    def start(self) -> None:
        """Start the container."""
        out, err = self.root / "stdout", self.root / "stderr"
        with out.open("wb") as stdout, err.open("wb") as stderr:
            arguments = container_of(pod_of(self._deployment))["args"]
            running = Forked("rotator", arguments, self.environment, stdout, stderr)
        self.daemon = Daemon(running, err, out)

    def is_ready(self) -> bool:
        """Ask the readiness probe."""
        address = self._here("http://127.0.0.1:9465/readyz")
        return httpx.get(address, trust_env=False, timeout=5, verify=False).is_success

    def script(self) -> str:
        """Return a shell script that runs its arguments as `kubectl exec` would in this pod."""
        assert self.daemon
        given = " ".join(f"{name}={shlex.quote(value)}" for name, value in self.environment.items())
        signal = f"s/kill -\\([A-Z0-9]*\\) 1$/kill -\\1 {self.daemon.process.pid}/"
        return textwrap.dedent(
            f"""\
            #!/bin/sh
            if [ "$1" = sh ]; then set -- sh -c "$(echo "$3" | sed '{signal}')"; fi
            exec env -i {given} "$@"
            """
        )


class Kubelet:
    """The controllers and the kubelet, for the Deployment `rotator` in the namespace of the same name."""

    def __init__(self, kube: KubeServer, folder: Path, provider: str) -> None:
        self._kube, self._folder, self._provider = kube, folder, provider
        self._collection = "/apis/apps/v1/namespaces/rotator/deployments/rotator"
        self._stop, self._thread = Event(), Thread(target=self._run)
        self.pods: list[Pod] = []
        self.missing: list[str] = []

    def __enter__(self) -> "Kubelet":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        for pod in self.pods:
            if pod.daemon:
                pod.daemon.close()

    def publish_certificates(self) -> None:
        """Create the ConfigMap that every namespace has in a cluster, once the namespace exists."""
        config_map = {"metadata": {"name": "kube-root-ca.crt"}, "data": {"ca.crt": self._kube.ca_file.read_text()}}
        self._kube.request("POST", "/api/v1/namespaces/rotator/configmaps", config_map)

    def _run(self) -> None:
        while not self._stop.wait(0.1):
            deployment = self._kube.request("GET", self._collection)
            if deployment.is_success and not self.pods:
                self._start(deployment.json())
            elif not deployment.is_success and self.pods and self.pods[0].daemon:
                for pod in self.pods:
                    assert pod.daemon
                    pod.daemon.stop()

    def _start(self, deployment: Manifest) -> None:
        pods = []
        for number in range(deployment["spec"]["replicas"]):
            pod = Pod(self._kube, deployment, self._folder / f"rotator-{number}", self._provider)
            try:
                pod.mount()
            except httpx.HTTPStatusError as error:  # the kubelet tries again, too
                self.missing.append(error.response.json()["message"])
                return
            pods.append(pod)
        for pod in pods:
            pod.start()
            self.pods.append(pod)
            (pod.root / "exec").write_text(pod.script())
            self._publish(pod, deployment)
        for pod in pods:
            wait_until(pod.is_ready, "the pod to be ready")
        count = len(pods)
        status = {f"{kind}eplicas": count for kind in ("r", "readyR", "updatedR", "availableR")}
        generation = {"observedGeneration": deployment["metadata"]["generation"]}
        body = {**deployment, "status": {**status, **generation}}
        self._kube.request("PUT", f"{self._collection}/status", body).raise_for_status()

    def _publish(self, pod: Pod, deployment: Manifest) -> None:
        """Create the pod's object, which `kubectl get pods` and `describe` show."""
        template = pod_of(deployment)
        metadata = {"name": pod.root.name, "labels": template["metadata"]["labels"]}
        manifest = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}
        self._kube.request("POST", "/api/v1/namespaces/rotator/pods", manifest).raise_for_status()


class Shell:
    """A folder with a clone's documents, and a shell in it; `replaced` is what this machine has in place of names."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self.folder, self.programs, self.home = folder / "clone", folder / "bin", folder / "home"
        for made in (self.folder, self.programs, self.home):
            made.mkdir()
        for name in ("deploy", "docs"):
            (self.folder / name).symlink_to(ROOT / name)
        for name, program in {"vault": vault_program(), "rotator": PROGRAM, "python3": Path(sys.executable)}.items():
            (self.programs / name).symlink_to(program)
        self.environment = {
            "PATH": f"{self.programs}:{os.environ['PATH']}",
            "HOME": str(self.home),
            "TMPDIR": str(self.home),
            **environment,
        }
        self.replaced: dict[str, str] = {}

    def follow(self, block: Block, typed: str = "") -> str:
        """Do what a block shows: write its file, or run its commands; return their output."""
        text = block.text
        for shown, here in self.replaced.items():
            text = text.replace(shown, here)
        if block.language == "yaml":
            assert block.file, text
            (self.folder / block.file).write_text(text)
            return ""
        return self.run(text, typed)

    def run(self, commands: str, typed: str = "", status: int = 0) -> str:
        """Run commands as typed, with this on their standard input; return the output."""
        done = subprocess.run(
            ["bash", "-eu", "-o", "pipefail", "-c", commands],
            cwd=self.folder,
            env=self.environment,
            input=typed,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == status, (commands, done.stdout, done.stderr)
        RECORDER.record(commands.splitlines()[0], done.stderr)
        return done.stdout + done.stderr


class Reader(Shell):
    """A person with the rights of an administrator of a cluster and of a Vault."""

    def __init__(self, kube: KubeServer, vault: VaultServer, folder: Path) -> None:
        access = {"VAULT_ADDR": vault.address, "VAULT_TOKEN": vault.root_token, "VAULT_CACERT": str(vault.ca_file)}
        super().__init__(folder, access)
        self.environment["KUBECONFIG"] = str(self.home / "config")
        kubectl, helm = KUBECTL.find(), HELM.find()
        assert kubectl
        assert helm
        (self.programs / "helm").symlink_to(helm)
        self._write("docker", f'#!/bin/sh\necho "$@" >> {folder}/docker\n')
        self._write("kubectl", KUBECTL_SHIM.format(kubectl=kubectl, pods=folder / "pods"))
        cluster = {"server": kube.address, "certificate-authority": str(kube.ca_file)}
        here = {"cluster": "here", "user": "admin"}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "here", "cluster": cluster}],
            "users": [{"name": "admin", "user": {"token": kube.token}}],
            "contexts": [{"name": "here", "context": here}],
            "current-context": "here",
        }
        (self.home / "config").write_text(json.dumps(config))

    def _write(self, name: str, text: str) -> None:
        program = self.programs / name
        program.write_text(text)
        program.chmod(0o755)


KUBECTL_SHIM = """\
#!/bin/bash
# The real kubectl, except for what a kubelet answers. For a Deployment, `exec` takes its first pod.
if [[ " $* " == *" exec "* ]]; then
  pod=pod/rotator-0
  while [ "$1" != -- ]; do case "$1" in pod/*) pod="$1" ;; esac; shift; done
  shift
  exec sh "{pods}/${{pod#pod/}}/exec" "$@"
elif [[ " $* " == *" logs "* ]]; then
  exec cat {pods}/*/stderr
fi
exec {kubectl} "$@"
"""
