"""The nudge to External Secrets, on a real kube-apiserver with the real custom resource. There is no operator."""

from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from support.installation import installation
from support.kube import KubeServer, OwnKubeServer
from support.process import wait_until

from rotator.core.errors import LeaseUnusable, NotificationFailed, NotificationRefused
from rotator.notify.external_secrets import ANNOTATION, ExternalSecretsSender
from rotator.notify.notification import Notification, notification
from rotator.runtime.clock import SystemClock
from rotator.runtime.kubernetes import Access
from tools.build_servers import EXTERNAL_SECRETS_CRDS

GROUP = "external-secrets.io"
RIGHTS = {"apiGroups": [GROUP], "resources": ["externalsecrets"], "verbs": ["list", "patch"]}


def published(version: int = 7, target: str = "billing") -> Notification:
    return notification("key.published", datetime.now(UTC), "prod-eu", target, {"version": version}, version)


class Cluster:
    """Two namespaces of a test's own, and a ServiceAccount that may list and patch ExternalSecrets in them."""

    def __init__(self, kube: KubeServer, folder: Path, *, granted: bool = True) -> None:
        self.kube, self.namespaces = kube, (kube.namespace(), kube.namespace())
        self.home = self.namespaces[0]
        self.token_file = folder / "token"
        self.token_file.write_text(kube.token_for(self.home, "rotator"))
        for namespace in self.namespaces if granted else ():
            role = kube.role(namespace, RIGHTS)
            kube.bind(namespace, role, "rotator", home=self.home)

    def sender(self, *namespaces: str) -> ExternalSecretsSender:
        def access(namespace: str) -> Access:
            return Access(self.kube.address, namespace, self.token_file, self.kube.ca_file)

        return ExternalSecretsSender(namespaces or self.namespaces, access, SystemClock())

    def create(self, name: str, namespace: str | None = None, annotation: str = "", **labels: str) -> None:
        namespace = namespace or self.home
        annotations = {"team": "billing", **({ANNOTATION: annotation} if annotation else {})}
        made = {
            "apiVersion": f"{GROUP}/v1",
            "kind": "ExternalSecret",
            "metadata": {"name": name, "labels": labels, "annotations": annotations},
            "spec": {
                "refreshInterval": "1h",
                "secretStoreRef": {"kind": "SecretStore", "name": "vault"},
                "data": [{"secretKey": "api_key", "remoteRef": {"key": "apps/billing", "property": "api_key"}}],
            },
        }
        self.kube.request("POST", self._path(namespace), made).raise_for_status()

    def freeze(self, name: str) -> None:
        """Have the API server refuse every change of this ExternalSecret."""
        policy, group = f"freeze-{self.home}", "/apis/admissionregistration.k8s.io/v1"
        rule = {"apiGroups": [GROUP], "apiVersions": ["*"], "operations": ["UPDATE"], "resources": ["externalsecrets"]}
        here = {"matchLabels": {"kubernetes.io/metadata.name": self.home}}
        frozen = {
            "matchConstraints": {"namespaceSelector": here, "resourceRules": [rule]},
            "validations": [{"expression": f"object.metadata.name != '{name}'"}],
        }
        bound = {"policyName": policy, "validationActions": ["Deny"]}
        for kind, spec in (("policies", frozen), ("policybindings", bound)):
            body = {"metadata": {"name": policy}, "spec": spec}
            self.kube.request("POST", f"{group}/validatingadmission{kind}", body).raise_for_status()

    def get(self, name: str, namespace: str | None = None) -> dict[str, Any]:
        answer = self.kube.request("GET", f"{self._path(namespace or self.home)}/{name}")
        return dict(answer.raise_for_status().json())

    def annotated(self, *elsewhere: str) -> set[str]:
        """Return the ExternalSecrets in these namespaces and its own that carry the annotation."""
        items = self.kube.request("GET", f"/apis/{GROUP}/v1/externalsecrets").raise_for_status().json()["items"]
        found = [item["metadata"] for item in items if ANNOTATION in item["metadata"].get("annotations", {})]
        return {item["name"] for item in found if item["namespace"] in {*self.namespaces, *elsewhere}}

    @staticmethod
    def _path(namespace: str) -> str:
        return f"/apis/{GROUP}/v1/namespaces/{namespace}/externalsecrets"


@pytest.fixture
def cluster(kube: KubeServer, tmp_path: Path) -> Cluster:
    kube.install_crds(EXTERNAL_SECRETS_CRDS, GROUP)
    return Cluster(kube, tmp_path)


BILLING = {"rotator/target": "billing"}


def test_exactly_those_with_the_label_are_annotated_in_the_named_namespaces(cluster: Cluster) -> None:
    elsewhere = cluster.kube.namespace()
    cluster.create("mine", **BILLING)
    cluster.create("mine-too", **BILLING, team="x")
    cluster.create("in-the-other", cluster.namespaces[1], **BILLING)
    cluster.create("anothers", **{"rotator/target": "billing-2"})
    cluster.create("unlabelled")
    cluster.create("elsewhere", elsewhere, **BILLING)
    before = cluster.get("mine")
    cluster.sender().send(published())
    assert cluster.annotated(elsewhere) == {"mine", "mine-too", "in-the-other"}
    after = cluster.get("mine")
    assert after["spec"] == before["spec"]
    assert after["metadata"]["labels"] == before["metadata"]["labels"]
    assert after["metadata"]["annotations"] == {"team": "billing", ANNOTATION: published().id}


def test_the_next_key_changes_the_annotation_and_the_same_one_does_not(cluster: Cluster) -> None:
    cluster.create("mine", **BILLING)
    versions = []
    for number in (7, 7, 8):
        cluster.sender(cluster.home).send(published(number))
        versions.append(cluster.get("mine")["metadata"]["resourceVersion"])
    assert versions[0] == versions[1], "so that a takeover has nothing refreshed again"
    assert versions[2] != versions[1]


def test_those_of_every_page_are_annotated(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rotator.notify.external_secrets.PAGE", 2)
    names = {f"mine-{number}" for number in range(5)}
    for name in names:
        cluster.create(name, **BILLING)
    cluster.sender(cluster.home).send(published())
    assert cluster.annotated() == names


def test_one_that_a_policy_refuses_is_named_and_the_others_get_their_annotation(cluster: Cluster) -> None:
    for name in ("a", "b", "c"):
        cluster.create(name, **BILLING)
    cluster.freeze("b")

    versions = count(8)

    def is_refused() -> bool:
        try:
            cluster.sender(cluster.home).send(published(next(versions)))
        except NotificationFailed:
            return True
        return False

    wait_until(is_refused, "the policy to be in force")
    with pytest.raises(NotificationFailed, match=r"answered 422 about .* \(.* denied request: .*\): b$"):
        cluster.sender(cluster.home).send(published())
    annotations = [cluster.get(name)["metadata"]["annotations"].get(ANNOTATION) for name in ("a", "b", "c")]
    assert [value == published().id for value in annotations] == [True, False, True]


def test_what_a_former_try_has_annotated_needs_no_request(kube: KubeServer, tmp_path: Path) -> None:
    kube.install_crds(EXTERNAL_SECRETS_CRDS, GROUP)
    cluster = Cluster(kube, tmp_path, granted=False)
    kube.bind(cluster.home, kube.role(cluster.home, {**RIGHTS, "verbs": ["list"]}), "rotator")
    cluster.create("mine", **BILLING, annotation=published().id)
    cluster.sender(cluster.home).send(published())


def test_no_external_secret_with_the_label_is_no_failure(cluster: Cluster) -> None:
    cluster.sender().send(published())


def test_refused_rights_are_named_and_the_other_namespace_gets_its_annotation(kube: KubeServer, tmp_path: Path) -> None:
    kube.install_crds(EXTERNAL_SECRETS_CRDS, GROUP)
    cluster = Cluster(kube, tmp_path, granted=False)
    first, second = cluster.namespaces
    cluster.kube.bind(first, kube.role(first, RIGHTS), "rotator")
    cluster.create("mine", **BILLING)
    with pytest.raises(NotificationRefused) as refused:
        cluster.sender(second, first).send(published())
    assert f"the ExternalSecrets in {second} (403)" in refused.value.message
    assert f"list and patch on externalsecrets in the namespace {second}" in refused.value.advice
    assert cluster.annotated() == {"mine"}
    assert cluster.sender().missing_rights(first) == []
    assert [str(right) for right in cluster.sender().missing_rights(second)] == [
        "list externalsecrets",
        "patch externalsecrets",
    ]


def test_the_right_to_list_alone_is_not_enough(kube: KubeServer, tmp_path: Path) -> None:
    kube.install_crds(EXTERNAL_SECRETS_CRDS, GROUP)
    cluster = Cluster(kube, tmp_path, granted=False)
    cluster.kube.bind(cluster.home, kube.role(cluster.home, {**RIGHTS, "verbs": ["list"]}), "rotator")
    cluster.create("mine", **BILLING)
    with pytest.raises(NotificationRefused, match="refuses to PATCH"):
        cluster.sender(cluster.home).send(published())
    assert [str(right) for right in cluster.sender().missing_rights(cluster.home)] == ["patch externalsecrets"]


def test_a_cluster_without_the_custom_resource(own_kube: OwnKubeServer, tmp_path: Path) -> None:
    own_kube.remove_crd(f"externalsecrets.{GROUP}")
    cluster = Cluster(own_kube, tmp_path, granted=False)
    for ask in (lambda: cluster.sender().send(published()), lambda: cluster.sender().missing_rights(cluster.home)):
        with pytest.raises(NotificationFailed, match="the cluster has no ExternalSecrets"):
            ask()


def test_an_api_server_that_does_not_answer(own_kube: OwnKubeServer, tmp_path: Path, in_a_moment: None) -> None:
    own_kube.install_crds(EXTERNAL_SECRETS_CRDS, GROUP)
    cluster = Cluster(own_kube, tmp_path)
    own_kube.freeze()
    try:
        with pytest.raises(NotificationFailed, match="does not answer about the ExternalSecrets") as failed:
            cluster.sender(cluster.home).send(published())
        assert "No replica leads" not in failed.value.advice
    finally:
        own_kube.thaw()


@pytest.fixture
def in_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rotator.notify.external_secrets.TIMEOUT", 0.5)


def test_outside_of_a_pod_and_without_a_lease_it_is_refused() -> None:
    def access(namespace: str) -> Access:
        raise LeaseUnusable("[lease].api_server is not set, and rotator is not running in a pod", "Leave it out.")

    sender = ExternalSecretsSender(("apps",), access, SystemClock())
    with pytest.raises(NotificationRefused, match="is not running in a pod") as refused:
        sender.send(published())
    assert "[notify.external_secrets]" in refused.value.advice


# --- the daemon ------------------------------------------------------------------------------------------------------


def configure(config: dict[str, Any], cluster: Cluster) -> None:
    config["targets"] = {"billing": {"path": "apps/billing"}}
    config["notify"] = {"external_secrets": {"namespaces": [cluster.home]}}
    config["lease"] = {
        "namespace": cluster.home,
        "identity": "one",
        "duration": "2s",
        "api_server": cluster.kube.address,
        "token_file": str(cluster.token_file),
        "ca_file": str(cluster.kube.ca_file),
    }
    rule = {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["get", "create", "update"]}
    cluster.kube.bind(cluster.home, cluster.kube.role(cluster.home, rule), "rotator")


def test_a_daemon_annotates_what_reads_a_new_key(cluster: Cluster, tmp_path: Path) -> None:
    cluster.create("mine", **BILLING)
    with installation(tmp_path) as rotator:
        configure(rotator.config, cluster)
        daemon = rotator.start()
        daemon.wait_for("key_published")
        series = 'rotator_notifications_total{channel="external_secrets",outcome="success"}'
        assert daemon.metric(series) is not None
        rotator.run("check", "--online", status=0)
        assert daemon.stop() == 0
        assert cluster.annotated() == {"mine"}, "at its end at the latest"
        assert daemon.events("notifications_failed") == []


def test_check_online_names_each_right_that_is_missing_in_each_namespace(kube: KubeServer, tmp_path: Path) -> None:
    kube.install_crds(EXTERNAL_SECRETS_CRDS, GROUP)
    cluster = Cluster(kube, tmp_path, granted=False)
    home, other = cluster.namespaces
    kube.bind(home, kube.role(home, {**RIGHTS, "verbs": ["list"]}), "rotator")
    with installation(tmp_path) as rotator:
        configure(rotator.config, cluster)
        rotator.config["notify"]["external_secrets"]["namespaces"] = [home, other]
        found = rotator.json("check", "--online", status=1)["findings"]
    assert [(finding["where"], finding["message"]) for finding in found] == [
        ("notify.external_secrets", f"lacks the right to patch externalsecrets in the namespace {home}"),
        ("notify.external_secrets", f"lacks the right to list externalsecrets in the namespace {other}"),
        ("notify.external_secrets", f"lacks the right to patch externalsecrets in the namespace {other}"),
    ]
    assert "The chart grants both where notify.external_secrets names the namespace" in found[0]["advice"]
    assert cluster.annotated() == set()


def test_without_the_custom_resource_a_daemon_rotates_and_reports_that_once(
    own_kube: OwnKubeServer, tmp_path: Path
) -> None:
    own_kube.remove_crd(f"externalsecrets.{GROUP}")
    cluster = Cluster(own_kube, tmp_path, granted=False)
    with installation(tmp_path) as rotator:
        configure(rotator.config, cluster)
        daemon = rotator.start()
        daemon.wait_for("notifications_failed", channel="external_secrets")
        failures = 'rotator_notifications_total{channel="external_secrets",outcome="failure"}'
        wait_until(lambda: (daemon.metric(failures) or 0) >= 3, "more tries, which are not reported")
        rotator.run("rotate", "billing", status=0)
        found = rotator.json("check", "--online", status=1)["findings"]
        assert [finding["where"] for finding in found] == ["notify.external_secrets"]
        assert daemon.stop() == 0
        missing, left = (line["error"] for line in daemon.events("notifications_failed"))
        assert "the cluster has no ExternalSecrets" in missing
        assert "before the end" in left
