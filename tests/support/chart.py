"""The Helm chart: rendered by Helm, understood by a real API server, and mounted as the kubelet does it.

There is no YAML parser here: what Helm renders goes to the API server as it is, and comes back as JSON.
"""

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from support.kube import KubeServer
from support.process import GO, wait_until
from tools.build_servers import HELM, Server

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "deploy/helm/rotator"

NAMESPACED = {
    "CronJob": "/apis/batch/v1/namespaces/{}/cronjobs",
    "ConfigMap": "/api/v1/namespaces/{}/configmaps",
    "Deployment": "/apis/apps/v1/namespaces/{}/deployments",
    "Job": "/apis/batch/v1/namespaces/{}/jobs",
    "NetworkPolicy": "/apis/networking.k8s.io/v1/namespaces/{}/networkpolicies",
    "Pod": "/api/v1/namespaces/{}/pods",
    "PodDisruptionBudget": "/apis/policy/v1/namespaces/{}/poddisruptionbudgets",
    "PodMonitor": "/apis/monitoring.coreos.com/v1/namespaces/{}/podmonitors",
    "PrometheusRule": "/apis/monitoring.coreos.com/v1/namespaces/{}/prometheusrules",
    "Role": "/apis/rbac.authorization.k8s.io/v1/namespaces/{}/roles",
    "RoleBinding": "/apis/rbac.authorization.k8s.io/v1/namespaces/{}/rolebindings",
    "Service": "/api/v1/namespaces/{}/services",
    "ServiceAccount": "/api/v1/namespaces/{}/serviceaccounts",
    "ServiceMonitor": "/apis/monitoring.coreos.com/v1/namespaces/{}/servicemonitors",
}
Manifest = dict[str, Any]
Manifests = dict[str, Manifest]


def helm(
    *arguments: str | Path, status: int = 0, access: Mapping[str, str] | None = None, version: Server = HELM
) -> str:
    """Run Helm, which must exit with this status, and return its output; `access` has the variables for a cluster."""
    program = version.find()
    if program is None:
        pytest.skip(f"no Helm: put {version.name} on PATH, or install Go and run `make servers`")
    with tempfile.TemporaryDirectory(prefix="helm-") as home:
        done = subprocess.run(
            [str(argument) for argument in (program, *arguments)],
            env={"PATH": os.environ["PATH"], "HOME": home, **GO, **(access or {})},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == status, done.stderr
    return done.stderr if status else done.stdout


def rendered(namespace: str, values: Path, *changes: str | Path) -> list[str]:
    """Return the chart's manifests with these values, as YAML; a change is a setting or a later file of values."""
    changed = [f"--values={change}" if isinstance(change, Path) else f"--set={change}" for change in changes]
    text = helm("template", "rotator", CHART, f"--namespace={namespace}", f"--values={values}", *changed)
    return [part for part in re.split(r"^---$", text, flags=re.MULTILINE) if "\nkind: " in part]


def accepted(kube: KubeServer, namespace: str, manifest: str, *, really: bool = False) -> Manifest:
    """Return a manifest as the API server understands it; with `really` the server keeps it."""
    [kind] = re.findall(r"^kind: (\w+)$", manifest, re.MULTILINE)
    if "-external-secrets\n" in manifest:  # the rights where the ExternalSecrets are
        namespace = kube.namespace(re.findall(r"^  namespace: (\S+)$", manifest, re.MULTILINE)[0])
    if kind == "Pod":  # which a server refuses without its ServiceAccount
        kube.token_for(namespace, *re.findall(r"^  serviceAccountName: (\S+)$", manifest, re.MULTILINE))
    params = {"fieldValidation": "Strict", **({} if really else {"dryRun": "All"})}
    answer = kube.request("POST", NAMESPACED[kind].format(namespace), yaml=manifest, params=params)
    assert answer.is_success, (answer.text, manifest)
    made: Manifest = answer.json()
    assert made["kind"] == kind
    assert made["metadata"]["namespace"] == namespace
    return made


def pod_of(deployment: Manifest) -> Manifest:
    pod: Manifest = deployment["spec"]["template"]
    return pod


def container_of(pod: Manifest) -> Manifest:
    [container] = [container for container in pod["spec"]["containers"] if container["name"] == "rotator"]
    return dict(container)


def mounted(manifests: Manifests, folder: Path) -> Path:
    """Write the configuration as the kubelet mounts it, replacing an older one; return the main file."""
    [deployment] = [made for name, made in manifests.items() if name.startswith("Deployment/")]
    [volume] = [volume for volume in pod_of(deployment)["spec"]["volumes"] if volume["name"] == "config"]
    data = Path(tempfile.mkdtemp(prefix="..", dir=folder))
    for source in volume["projected"]["sources"]:
        content = manifests[f"ConfigMap/{source['configMap']['name']}"]["data"]
        for item in source["configMap"].get("items") or [{"key": key, "path": key} for key in content]:
            file = data / item["path"]
            file.parent.mkdir(exist_ok=True)
            file.write_text(content[item["key"]])
    (folder / "..data_tmp").symlink_to(data.name)
    (folder / "..data_tmp").replace(folder / "..data")
    for name in {path.name for path in data.iterdir()} - {path.name for path in folder.iterdir()}:
        (folder / name).symlink_to(f"..data/{name}")
    return folder / "rotator.json"


def install_rights(kube: KubeServer, namespace: str, manifests: list[str]) -> str:
    """Create the chart's ServiceAccount, Role and RoleBinding; return a token once the role is in force."""
    for manifest in manifests:
        if re.search(r"^kind: (ServiceAccount|Role|RoleBinding)$", manifest, re.MULTILINE):
            accepted(kube, namespace, manifest, really=True)
    token = kube.token_for(namespace, "rotator")
    path = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases/rotator"
    wait_until(lambda: kube.request("GET", path, token=token).status_code == 404, "the role to be in force")
    return token


def volume_of(kube: KubeServer, namespace: str, manifests: list[str]) -> Manifests:
    """Return the sources of the daemon's volume, ConfigMaps and Deployment, as the API server understands them."""
    needed = [text for text in manifests if re.search(r"^kind: (ConfigMap|Deployment)$", text, re.MULTILINE)]
    found = [accepted(kube, namespace, manifest) for manifest in needed]
    return {f"{manifest['kind']}/{manifest['metadata']['name']}": manifest for manifest in found}


def pods_of(manifests: Manifests) -> list[tuple[str, Manifest]]:
    """Return the pods that these manifests make, each with the name of its manifest."""
    found = []
    for name, manifest in manifests.items():
        if manifest["kind"] == "Deployment":
            found.append((name, pod_of(manifest)))
        elif manifest["kind"] == "CronJob":
            found.append((name, manifest["spec"]["jobTemplate"]["spec"]["template"]))
        elif manifest["kind"] == "Pod":
            found.append((name, manifest))
    return found


def restricted_namespace(kube: KubeServer) -> str:
    """Return a new namespace that takes pods of the strictest Pod Security Standard alone."""
    namespace = kube.namespace()
    path = f"/api/v1/namespaces/{namespace}"
    found = kube.request("GET", path).json()
    found["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] = "restricted"
    kube.request("PUT", path, found).raise_for_status()
    return namespace


def dry_run_pod(kube: KubeServer, namespace: str, pod: Manifest) -> httpx.Response:
    """Return the server's answer to a pod, whose ServiceAccount it needs."""
    kube.token_for(namespace, pod["spec"]["serviceAccountName"])
    return kube.dry_run(
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, "spec": pod["spec"]}, namespace
    )


def written(folder: Path, values: Path, *arguments: str) -> Path:
    """Return the main file of what the script beside the chart makes of what Helm renders."""
    text = helm("template", "rotator", CHART, f"--values={values}", *arguments, "--show-only=templates/config.yaml")
    script = ROOT / "deploy/helm/write_configuration.py"
    subprocess.run([sys.executable, script, folder], input=text, text=True, check=True, timeout=60)
    return folder / "rotator.json"
