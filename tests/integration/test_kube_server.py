"""The real kube-apiserver behaves as the other tests assume."""

import copy
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from support.kube import KubeServer, OwnKubeServer, vault_kubernetes, vault_kubernetes_role
from support.vault import VaultServer

LEASES = {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["get", "create"]}
CRON_JOB: dict[str, Any] = {
    "apiVersion": "batch/v1",
    "kind": "CronJob",
    "metadata": {"name": "sweep"},
    "spec": {
        "schedule": "@daily",
        "jobTemplate": {
            "spec": {
                "template": {
                    "spec": {"restartPolicy": "Never", "containers": [{"name": "rotator", "image": "rotator:1"}]}
                }
            }
        },
    },
}


def leases(namespace: str) -> str:
    return f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"


def lease(holder: str) -> dict[str, Any]:
    return {"metadata": {"name": "leader"}, "spec": {"holderIdentity": holder}}


def test_a_lease_is_not_overwritten_by_who_read_an_older_one(kube: KubeServer) -> None:
    path = leases(kube.namespace())
    first = kube.request("POST", path, lease("a")).raise_for_status().json()
    again = kube.request("POST", path, lease("b"))
    second = copy.deepcopy(first)
    second["spec"]["holderIdentity"] = "b"
    kube.request("PUT", f"{path}/leader", second).raise_for_status()

    stale = kube.request("PUT", f"{path}/leader", first)

    assert [again.status_code, again.json()["reason"]] == [409, "AlreadyExists"]
    assert [stale.status_code, stale.json()["reason"]] == [409, "Conflict"]
    assert kube.request("GET", f"{path}/leader").json()["spec"]["holderIdentity"] == "b"


def test_a_service_account_may_do_what_its_role_allows_and_nothing_else(kube: KubeServer) -> None:
    mine, other = kube.namespace(), kube.namespace()
    token = kube.token_for(mine, "rotator")
    assert kube.request("POST", leases(mine), lease("a"), token).status_code == 403

    kube.bind(mine, kube.role(mine, LEASES), "rotator")
    kube.bind_cluster_role("system:monitoring", mine, "rotator")

    assert kube.request("POST", leases(mine), lease("a"), token).status_code == 201
    assert kube.request("DELETE", f"{leases(mine)}/leader", token=token).status_code == 403
    assert kube.request("POST", leases(other), lease("a"), token).status_code == 403
    assert kube.request("GET", "/metrics", token=token).status_code == 200
    assert kube.request("GET", leases(mine), token="no-such-token").status_code == 401


def test_a_token_is_for_its_audience_alone(kube: KubeServer) -> None:
    namespace = kube.namespace()

    for audience, status in ((None, 200), ("vault", 401)):
        token = kube.token_for(namespace, "rotator", audience)
        assert kube.request("GET", "/apis", token=token).status_code == status


def test_a_dry_run_refuses_a_misspelt_field_and_makes_nothing(kube: KubeServer) -> None:
    namespace = kube.namespace()
    misspelt = copy.deepcopy(CRON_JOB)
    misspelt["spec"]["concurencyPolicy"] = "Forbid"

    refused, accepted = kube.dry_run(misspelt, namespace), kube.dry_run(CRON_JOB, namespace)

    assert refused.status_code == 400
    assert 'unknown field "spec.concurencyPolicy"' in refused.json()["message"]
    assert accepted.status_code == 201
    assert kube.request("GET", f"/apis/batch/v1/namespaces/{namespace}/cronjobs").json()["items"] == []
    with pytest.raises(LookupError, match="no CronJobs in batch/v1"):
        kube.dry_run({**CRON_JOB, "kind": "CronJobs"})


def test_a_dry_run_knows_the_resources_of_prometheus_operator(kube: KubeServer) -> None:
    kube.install_crds()
    kube.install_crds()
    monitor = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PodMonitor",
        "metadata": {"name": "rotator"},
        "spec": {"selector": {}, "podMetricsEndpoints": [{"port": "metrics"}]},
    }
    rule = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "rotator"},
        "spec": {"groups": [{"name": "rotator", "rules": [{"alert": "Down", "expr": "up == 0", "fro": "5m"}]}]},
    }

    assert kube.dry_run(monitor).status_code == 201
    refused = kube.dry_run(rule)
    assert refused.status_code == 400
    assert 'unknown field "spec.groups[0].rules[0].fro"' in refused.json()["message"]


def test_a_service_account_logs_in_to_vault(kube: KubeServer, vault: VaultServer) -> None:
    mount, namespace, kv = vault_kubernetes(vault, kube), kube.namespace(), vault.new_mount()
    role = vault_kubernetes_role(
        vault, mount, namespace, "rotator", f'path "{kv}/data/*" {{ capabilities = ["create"] }}', token_ttl="60s"
    )

    def login(service_account: str) -> httpx.Response:
        jwt = kube.token_for(namespace, service_account)
        return vault.request("POST", f"auth/{mount}/login", {"role": role, "jwt": jwt}, token="")

    answer, refused = login("rotator"), login("stranger")

    auth = answer.raise_for_status().json()["auth"]
    assert auth["lease_duration"] == 60
    assert auth["metadata"]["service_account_name"] == "rotator"
    assert vault.request("POST", f"{kv}/data/app", {"data": {}}, auth["client_token"]).status_code == 200
    assert refused.status_code == 403


def test_what_was_written_survives_the_end_of_the_server(own_kube: OwnKubeServer) -> None:
    path = leases(own_kube.namespace())
    own_kube.request("POST", path, lease("a")).raise_for_status()

    own_kube.stop()
    with pytest.raises(httpx.ConnectError):
        own_kube.request("GET", path)
    own_kube.start()

    assert own_kube.request("GET", f"{path}/leader").json()["spec"]["holderIdentity"] == "a"


def test_a_frozen_server_answers_when_it_thaws(own_kube: OwnKubeServer) -> None:
    path = leases(own_kube.namespace())

    own_kube.freeze()
    with ThreadPoolExecutor() as pool:
        answer = pool.submit(own_kube.request, "POST", path, lease("late"))
        try:
            with pytest.raises(TimeoutError):
                answer.result(timeout=0.2)
        finally:
            own_kube.thaw()

    assert answer.result().status_code == 201
