"""Combinations of the chart's values: a real API server accepts each strictly, and a restricted namespace its pods."""

import json
import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from support.chart import (
    CHART,
    ROOT,
    Manifest,
    Manifests,
    accepted,
    dry_run_pod,
    helm,
    mounted,
    pods_of,
    rendered,
    restricted_namespace,
)
from support.kube import KubeServer

from rotator.config.loader import load
from rotator.core.errors import ConfigurationError
from rotator.providers.registry import installed_types

MINIMAL = ROOT / "tests/data/values-minimal.yaml"
Values = Mapping[str, Any]

SAFE = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
AGENT = {"name": "agent", "image": "registry.test/agent", "securityContext": SAFE}
ALONE: Values = {"replicas": 1, "lease": {"enabled": False}}
EXISTING: Values = {"owner": "", "targets": {"billing-api": None}, "existingConfig": {"name": "ours"}}
RESPAN = {"type": "respan", "api_key": {"file": "/var/run/secrets/rotator/provider/api-key"}}
LITELLM = {"type": "http", "preset": "litellm", "base_url": "https://llm.test", "api_key": {"env": "LITELLM"}}
VAULT = {"type": "vault", "address": "https://vault.test"}
JWT = {"method": "jwt", "role": "rotator", "token_file": "/vault/token"}
MANY = {f"t{number}": {"path": f"apps/{number}"} for number in range(40)}
WEBHOOK = {"url": "https://hooks.test/", "secret": {"file": "/webhook/secret"}}
MORE_OBJECT = {
    "apiVersion": "v1",
    "kind": "ConfigMap",
    "metadata": {"name": "more", "namespace": "{{ .Release.Namespace }}"},
}
MORE_TEXT = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: more\n  namespace: {{ .Release.Namespace }}\n"
OPENSHIFT = {"podSecurityContext": {"runAsUser": None, "runAsGroup": None, "fsGroup": None}}

COMBINATIONS: dict[str, Values] = {
    "nothing more": {},
    # The image and the names.
    "a tag": {"image": {"tag": "1.2.3-rc.1"}},
    "a digest": {"image": {"digest": f"sha256:{'0' * 64}", "pullPolicy": "Always"}},
    "a registry with a port": {"image": {"repository": "registry.test:5000/team/rotator"}},
    "a registry of the platform": {"global": {"imageRegistry": "mirror.test/proxy"}},
    "secrets of the registry": {
        "imagePullSecrets": [{"name": "a"}],
        "global": {"imagePullSecrets": ["b", {"name": "a"}]},
    },
    "a name": {"nameOverride": "keys"},
    "a long name": {"fullnameOverride": "a" * 50, "podMonitor": {"enabled": True}},
    "two names": {"nameOverride": "keys", "fullnameOverride": "key-rotation", "serviceAccount": {"name": "keys"}},
    # Replicas and the Lease.
    "no replica": {"replicas": 0},
    "one replica": {"replicas": 1},
    "five replicas": {"replicas": 5, "lease": {"duration": "30s"}, "terminationGracePeriodSeconds": 120},
    "no Lease": ALONE,
    "no Lease and no notifications": {**ALONE, "notify": None},
    "no Lease, but ExternalSecrets": {**ALONE, "notify": {"external_secrets": {"namespaces": ["apps"]}}},
    "no Lease and no ServiceAccount": {**ALONE, "serviceAccount": {"create": False, "name": "default"}},
    "a strategy": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "50%", "maxUnavailable": 1}}},
    "Recreate": {"strategy": {"type": "Recreate"}},
    "a name of the Lease": {"lease": {"name": "ours", "duration": "10s"}},
    "no budget": {"podDisruptionBudget": {"enabled": False}},
    "no history": {"revisionHistoryLimit": 0},
    # The configuration.
    "parts": {"targets": MANY, "configParts": 3},
    "more parts than targets": {"configParts": 5},
    "no targets": {"targets": {"billing-api": None}},
    "one target removed": {"targets": {"billing-api": None, "search": {"path": "apps/search"}}},
    "options of a target": {
        "targets": {
            "search": {
                "path": "apps/search",
                "ttl": "12h",
                "renew_before": "25%",
                "grace_period": "1h",
                "windows": [{"cron": "0 */2 * * *", "duration": "1h", "timezone": "Europe/London"}],
                "key": {"max_usage": 1000, "is_test": True},
                "on_cap": "replace",
                "extra_fields": {"base_url": "https://api.respan.ai"},
                "former_paths": ["apps/old"],
            }
        }
    },
    "characters": {
        "targets": {"billing-api": {"extra_fields": {"note": "{{ x }} 'a' \"b\" \\ # : \x7f \x85 \ufeff | >"}}}
    },
    "large numbers": {
        "targets": {"billing-api": {"key": {"max_usage": 10_000_000, "rate_limit": 1_000_000}}},
        "vault": {"token": {"expirationSeconds": 31_536_000}},
        "terminationGracePeriodSeconds": 1_000_000,
        "revisionHistoryLimit": 1_000_000,
        "podSecurityContext": {"runAsUser": 1_000_650_000},
        "livenessProbe": {"periodSeconds": 1_000_000},
    },
    "defaults": {"config": {"defaults": {"ttl": "7d", "renew_before": "2d", "grace_period": "1d"}}},
    "the daemon": {"config": {"daemon": {"workers": 16, "resync": "5m", "jitter": "0%", "drain": "10s"}}},
    "the sweep": {"config": {"sweep": {"interval": "1h", "max_orphans": 0}, "former_owners": ["prod"]}},
    "totals alone": {"config": {"http": {"target_metrics": False}}},
    "IPv6": {"listen": "::", "vault": {"address": "https://[2001:db8::1]:8200"}},
    "a log in text": {"logFormat": "text", "logLevel": "debug"},
    "a webhook": {"notify": {"webhooks": {"chat": WEBHOOK}}},
    "ExternalSecrets of two namespaces": {"notify": {"external_secrets": {"namespaces": ["apps", "batch"]}}},
    "one's own ConfigMap": EXISTING,
    "one's own ConfigMaps": {**EXISTING, "existingConfig": {"name": "ours", "key": "r.toml", "targets": ["a", "b"]}},
    "one's own ConfigMap, without the Lease": {**EXISTING, **ALONE},
    # The provider and the Vault.
    "a provider's options": {"provider": {"options": {"timeout": "10s", "proxy": "http://proxy.test:3128"}}},
    "a preset": {
        "provider": {"name": "llm", "type": "http", "baseUrl": "https://llm.test", "options": {"preset": "litellm"}}
    },
    "a provider over http": {"provider": {"baseUrl": "http://llm.test", "options": {"allow_insecure": True}}},
    "a credential": {"provider": {"credential": {"secretName": "org.test", "key": "KEY_1"}}},
    "two providers": {
        "config": {"providers": {"respan": RESPAN, "llm": LITELLM}},
        "targets": {"billing-api": {"provider": "respan"}, "llm": {"path": "apps/llm", "provider": "llm"}},
        "env": [{"name": "LITELLM", "valueFrom": {"secretKeyRef": {"name": "litellm", "key": "key"}}}],
    },
    "a Vault over http": {"vault": {"address": "http://vault.vault.svc:8200", "allowInsecure": True}},
    "an agent on loopback": {"vault": {"address": "http://127.0.0.1:8200"}, "extraContainers": [AGENT]},
    "a namespace of Vault": {"vault": {"namespace": "teams/keys", "mount": "kv/apps", "auth": {"mount": "k8s/eu"}}},
    "an authority in a ConfigMap": {"vault": {"ca": {"configMap": "vault-ca"}}},
    "an authority in a Secret": {"vault": {"ca": {"secret": "vault-ca", "key": "bundle.pem"}}},
    "a token for another audience": {"vault": {"token": {"audience": "https://vault.test", "expirationSeconds": 600}}},
    "a token elsewhere": {
        "vault": {"token": {"mountPath": "/vault"}},
        "config": {"stores": {"kv": {**VAULT, "auth": JWT}}, "defaults": {"store": "kv"}},
    },
    "another login": {
        "vault": {"token": {"enabled": False}},
        "config": {"stores": {"vault": {**VAULT, "auth": {"method": "token_file", "token_file": "/sink/token"}}}},
        "extraVolumes": [{"name": "sink", "emptyDir": {"medium": "Memory"}}],
        "extraVolumeMounts": [{"name": "sink", "mountPath": "/sink", "readOnly": True}],
    },
    # Monitoring and the network.
    "monitoring": {"podMonitor": {"enabled": True, "interval": "1m30s"}, "prometheusRule": {"enabled": True}},
    "monitoring by a Service": {"serviceMonitor": {"enabled": True}, "prometheusRule": {"enabled": True}},
    "alerts for another scrape": {"prometheusRule": {"enabled": True, "selector": {"job": "ours"}}},
    "a dashboard": {"dashboard": {"enabled": True, "annotations": {"grafana_folder": "Keys"}}},
    "a ServiceMonitor": {
        "serviceMonitor": {"enabled": True, "relabelings": [{"targetLabel": "cluster", "replacement": "eu"}]},
        "dashboard": {"enabled": True, "annotations": {"grafana_folder": "Keys"}},
    },
    "alerts": {
        "podMonitor": {"enabled": True, "metricRelabelings": [{"action": "labeldrop", "regex": "pod"}]},
        "prometheusRule": {
            "enabled": True,
            "extraLabels": {"team": "platform"},
            "groups": {"caps": False},
            "thresholds": {"RotatorClockSkew": 10},
            "installationLabels": ["namespace", "job"],
        },
    },
    "labels of monitors that repeat others": {
        "commonLabels": {"release": "a", "team": "platform"},
        "podMonitor": {"enabled": True, "labels": {"release": "b"}},
        "prometheusRule": {"enabled": True, "labels": {"release": "b"}},
        "dashboard": {"enabled": True, "labels": {"team": "b"}},
    },
    "no Service": {"service": {"enabled": False}},
    "no policy": {"networkPolicy": {"enabled": False}},
    "a policy": {
        "networkPolicy": {
            "from": [{"podSelector": {}}],
            "egress": [{"ports": [{"port": 53, "protocol": "UDP"}, {"port": 443}]}, {"to": [{"podSelector": {}}]}],
        }
    },
    # Jobs.
    "no Job": {"rotateJob": {"enabled": False}},
    "a Job": {"rotateJob": {"arguments": ["billing-api", "--revoke-now"], "activeDeadlineSeconds": 60}},
    # Rights.
    "no rights": {"rbac": {"create": False}},
    "no rights and no ServiceAccount": {
        "rbac": {"create": False},
        "serviceAccount": {"create": False, "name": "default"},
    },
    "a ServiceAccount": {
        "serviceAccount": {"name": "keys", "annotations": {"eks.amazonaws.com/role-arn": "arn:aws:x"}}
    },
    # The pods.
    "labels": {
        "commonLabels": {"team": "platform", "cost": "42"},
        "podLabels": {"team": "keys", "azure.workload.identity/use": "true"},
    },
    "annotations": {
        "deploymentAnnotations": {"reloader.stakater.com/auto": "true"},
        "podAnnotations": {"sidecar.istio.io/inject": "false", "kubectl.kubernetes.io/default-container": "agent"},
        "service": {"annotations": {"a.test/b": "c"}},
    },
    "resources": {"resources": {"requests": {"cpu": 1, "memory": "1Gi"}, "limits": {"cpu": 2, "memory": "1Gi"}}},
    "no resources": {"resources": None},
    "OpenShift": OPENSHIFT,
    "another user": {"podSecurityContext": {"runAsUser": 1000, "fsGroup": 1000, "supplementalGroups": [2000]}},
    "variables": {
        "env": [{"name": "TZ", "value": "UTC"}],
        "envFrom": [{"secretRef": {"name": "more", "optional": True}}],
    },
    "more containers": {"extraContainers": [AGENT], "initContainers": [{**AGENT, "name": "before"}]},
    "a native sidecar": {"initContainers": [{**AGENT, "restartPolicy": "Always"}]},
    "where pods run": {
        "nodeSelector": {"kubernetes.io/os": "linux"},
        "tolerations": [{"operator": "Exists"}],
        "affinity": {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}},
        "priorityClassName": "system-cluster-critical",
        "topologySpreadConstraints": [{"topologyKey": "zone", "maxSkew": 2, "whenUnsatisfiable": "DoNotSchedule"}],
        "runtimeClassName": "sandboxed",
    },
    "DNS": {
        "dnsPolicy": "None",
        "dnsConfig": {
            "nameservers": ["10.0.0.10"],
            "searches": ["svc.test"],
            "options": [{"name": "ndots", "value": "1"}],
        },
        "hostAliases": [{"ip": "10.0.0.1", "hostnames": ["vault.test"]}],
    },
    "slow probes": {
        "livenessProbe": {"initialDelaySeconds": 10, "periodSeconds": 30, "terminationGracePeriodSeconds": 5},
        "readinessProbe": {"successThreshold": 2, "timeoutSeconds": 10},
        "startupProbe": {"failureThreshold": 600},
    },
    "volumes": {
        "extraVolumes": [{"name": "csi", "csi": {"driver": "secrets-store.csi.k8s.io", "readOnly": True}}],
        "extraVolumeMounts": [{"name": "csi", "mountPath": "/csi", "subPath": "a"}],
    },
    "objects": {"extraObjects": [MORE_OBJECT, {**MORE_OBJECT, "metadata": {"name": "most"}}]},
    "objects as text": {"extraObjects": [MORE_TEXT]},
}

PRIVILEGED: dict[str, Values] = {
    "privileged": {"securityContext": {"privileged": True, "allowPrivilegeEscalation": True, "capabilities": None}},
    "root": {"podSecurityContext": {"runAsNonRoot": False, "runAsUser": 0}},
    "no seccomp profile": {"podSecurityContext": {"seccompProfile": None}},
    "a container without a security context": {"extraContainers": [{"name": "agent", "image": "registry.test/agent"}]},
    "a volume of the host": {"extraVolumes": [{"name": "host", "hostPath": {"path": "/"}}]},
}
"""What a namespace that enforces `restricted` refuses."""


UNDERSTOOD: dict[str, Manifest] = {}
"""What the API server has understood, by a manifest without its namespace: a combination changes few of them."""

ALLOWED: set[str] = set()
"""The pods that a restricted namespace has allowed, as JSON."""


def problems(kube: KubeServer, values: Values, folder: Path) -> list[str]:
    """Return why the API server, a restricted namespace or rotator refuses what Helm renders."""
    namespace = restricted_namespace(kube)
    folder.mkdir()
    (folder / "values.json").write_text(json.dumps(values))
    try:
        manifests = rendered(namespace, MINIMAL, folder / "values.json")
    except AssertionError as error:
        return [str(error)]
    made: Manifests = {}
    found = []
    for manifest in manifests:
        text = manifest.replace(namespace, "")
        try:
            one = UNDERSTOOD.get(text) or UNDERSTOOD.setdefault(text, accepted(kube, namespace, manifest))
        except AssertionError as error:
            found.append(str(error))
        else:
            made[f"{one['kind']}/{one['metadata']['name']}"] = one
    for name, pod in pods_of(made):
        text = json.dumps(pod["spec"])
        if text in ALLOWED:
            continue
        answer = dry_run_pod(kube, namespace, pod)
        if answer.is_success:
            ALLOWED.add(text)
        else:
            found.append(f"{name}: {answer.json()['message']}")
    (folder / "etc").mkdir()
    try:
        if not found and "existingConfig" not in values:
            load(mounted(made, folder / "etc"), {"LITELLM": "x"}, installed_types())
    except ConfigurationError as error:
        found.append(str(error))
    return found


def test_each_combination_of_values_is_accepted(cluster: KubeServer, tmp_path: Path) -> None:
    assert len(COMBINATIONS) > 70

    def tried(numbered: tuple[int, Values]) -> list[str]:
        return problems(cluster, numbered[1], tmp_path / str(numbered[0]))

    with ThreadPoolExecutor(4) as pool:
        found = dict(zip(COMBINATIONS, pool.map(tried, enumerate(COMBINATIONS.values())), strict=True))
    assert {name: refusals for name, refusals in found.items() if refusals} == {}


@pytest.mark.parametrize("values", PRIVILEGED.values(), ids=PRIVILEGED)
def test_a_pod_that_is_not_restricted_is_refused(cluster: KubeServer, values: Values, tmp_path: Path) -> None:
    """So that the test above means something."""
    found = problems(cluster, values, tmp_path / "one")
    assert found != []
    assert [refusal for refusal in found if "violates PodSecurity" not in refusal] == []


def test_null_is_nothing_or_refused_in_words() -> None:
    """Helm removes such a value, its default too."""
    names = [
        *re.findall(r"^(\w+):", (CHART / "values.yaml").read_text(), re.MULTILINE),
        "vault.auth",
        "provider.options",
    ]

    def refusal(name: str) -> str:
        try:
            rendered("default", MINIMAL, f"{name}=null")
        except AssertionError as error:
            return str(error)
        return ""

    with ThreadPoolExecutor(4) as pool:
        refusals = {name: text for name, text in zip(names, pool.map(refusal, names), strict=True) if text}
    in_words = r"missing property|owner: give this installation a name"
    assert {name: text for name, text in refusals.items() if not re.search(in_words, text)} == {}
    assert {"vault", "vault.auth", "image", "owner"} <= set(refusals)
    assert not {"targets", "config", "notify", "podLabels", "livenessProbe", "provider.options"} & set(refusals)


def test_the_chart_can_be_part_of_another(tmp_path: Path) -> None:
    """`global` comes from the chart that contains it."""
    (tmp_path / "charts").mkdir()
    (tmp_path / "charts/rotator").symlink_to(CHART)
    (tmp_path / "Chart.yaml").write_text("apiVersion: v2\nname: platform\nversion: 1.0.0\n")
    own = {"image": {"repository": "rotator"}, "owner": "prod", "vault": {"address": "https://vault.test"}}
    values = {"rotator": own, "global": {"imageRegistry": "mirror.test", "storageClass": "of another chart"}}
    (tmp_path / "values.yaml").write_text(json.dumps(values))
    text = helm("template", "platform", tmp_path)
    assert 'image: "mirror.test/rotator:' in text
    assert "\n  name: platform-rotator\n" in text
