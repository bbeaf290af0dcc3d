"""docs/kubernetes.md and the pages that follow it, followed literally: to the first key, through a day, to the end.

Each test has new servers, because the pages name the namespace, the roles and the paths.
"""

import json
import re
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import takewhile
from pathlib import Path

import pytest
import support.kube as kubes
from support.chart import pod_of
from support.kube import OwnKubeServer
from support.leaks import RECORDER
from support.process import wait_until
from support.vault import NO_VAULT, VaultServer, find_vault, own_dev_vault
from support.walkthrough import NO_CLIENTS, Kubelet, Reader, blocks, page

from rotator.simulator import Options, Simulator
from tools.build_servers import HELM, KUBECTL

pytestmark = pytest.mark.timeout(300)

CHECK = "kubectl -n rotator exec deploy/rotator -- rotator check --online"
ROLE = "vault write auth/kubernetes/role/rotator token_policies=rotator bound_service_account_names"


@dataclass(frozen=True)
class Place:
    """Where a reader installs: new servers, and nothing of rotator."""

    reader: Reader
    kube: OwnKubeServer
    vault: VaultServer
    kubelet: Kubelet
    simulator: Simulator

    def install(self, until: str = "the end") -> str:
        """Follow docs/kubernetes.md until the block that has this text; return what the commands printed."""
        output = ""
        for block in takewhile(lambda block: until not in block.text, blocks("kubernetes.md")):
            output += self.reader.follow(block, f"{self.simulator.organisation_key}\n")
            self.kubelet.publish_certificates()
        return output

    def served(self) -> str:
        """Return the key at the path of the page, as an application reads it."""
        answer = self.vault.request("GET", "secret/data/apps/billing/respan").raise_for_status()
        return str(answer.json()["data"]["data"]["api_key"])


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    if not kubes.find_programs():
        pytest.skip(kubes.NO_KUBE)
    if not KUBECTL.find() or not HELM.find():
        pytest.skip(NO_CLIENTS)
    if not find_vault():
        pytest.skip(NO_VAULT)
    with ExitStack() as stack:
        simulator = stack.enter_context(Simulator(options=Options(requests_per_minute=None)))
        RECORDER.add_simulator(simulator)
        kube, vault = stack.enter_context(kubes.own_kube()), stack.enter_context(own_dev_vault(tls=True))
        kube.install_crds()
        reader = Reader(kube, vault, tmp_path)
        reader.replaced = {"https://vault.vault.svc:8200": vault.address}
        (tmp_path / "pods").mkdir()
        kubelet = stack.enter_context(Kubelet(kube, tmp_path / "pods", simulator.url))
        yield Place(reader, kube, vault, kubelet, simulator)


def test_the_page_leads_to_a_first_key_and_the_next_one_to_the_end(place: Place) -> None:
    output = place.install()
    assert "successfully rolled out" in output
    assert "wrong; credentials, permissions and paths were checked" in output
    assert "owner=prod-eu,target=billing-api,key_id=" in output
    assert place.served() not in output
    assert place.simulator.vendor.works(place.served())
    [first] = place.simulator.vendor.keys.values()
    built = (place.reader.folder.parent / "docker").read_text()
    assert built.startswith("build --platform linux/amd64 -f deploy/Dockerfile ")

    # Day by day, of docs/kubernetes-operations.md.
    check, hup, credential, uninstall = blocks("kubernetes-operations.md")
    assert "1 target, 0 warnings, nothing wrong" in place.reader.follow(check)
    now = "kubectl -n rotator exec deploy/rotator -- rotator rotate billing-api --reason "
    assert f"`{now}" in page("kubernetes-operations.md")
    place.reader.run(f'{now} "a test"')
    assert "kill -HUP" in hup.text
    place.reader.follow(hup)
    for pod in place.kubelet.pods:
        assert pod.daemon
        pod.daemon.wait_for("configuration_loaded")
    job = "kubectl -n rotator create job rotate-now --from=cronjob/rotator-rotate"
    assert f"`{job}`" in page("kubernetes-operations.md")
    assert "job.batch/rotate-now created" in place.reader.run(job)
    [one] = re.findall(r"`… (--dry-run=client .*)`", page("kubernetes-operations.md"))
    made = place.reader.run(f"{job} {one}".replace("rotate-now", "rotate-one"))
    assert "job.batch/rotate-one created" in made
    arguments = place.reader.run("kubectl -n rotator get job rotate-one -o 'jsonpath={..args}'")
    assert json.loads(arguments)[-1] == "billing-api"
    [usr1] = re.findall(r"`(kubectl .*kill -USR1 1')`", page("kubernetes-operations.md"))
    place.reader.run(usr1)
    daemon = place.kubelet.pods[0].daemon
    assert daemon
    daemon.wait_for("rotation_requested", by="signal")
    place.reader.follow(credential, "another-credential-of-the-same-organisation\n")
    stored = place.reader.run(
        "kubectl -n rotator get secret rotator-provider -o jsonpath='{.data.api-key}' | base64 -d"
    )
    assert stored == "another-credential-of-the-same-organisation\n"

    # It stops for a move (docs/migration.md), and an upgrade starts it again.
    stop = "kubectl -n rotator scale deploy/rotator --replicas=0"
    assert f"`{stop}`" in page("migration.md")
    place.reader.run(stop)
    [upgrade] = [block for block in blocks("kubernetes.md") if block.text.startswith("helm upgrade")]
    place.reader.follow(upgrade)
    assert place.reader.run("kubectl -n rotator get deploy/rotator -o 'jsonpath={.spec.replicas}'") == "2"

    # The end. Helm leaves the pod of `helm test`.
    test = "helm template rotator deploy/helm/rotator -n rotator -f my-values.yaml -s templates/tests/check.yaml"
    assert "pod/rotator-test created" in place.reader.run(f"{test} | kubectl create -f -")
    served = place.served()
    assert "uninstalled" in place.reader.follow(uninstall)
    for pod in place.kubelet.pods:
        assert pod.daemon
        assert pod.daemon.end() == 0
    left = place.reader.run(
        "kubectl -n rotator get all,configmaps,secrets,leases,serviceaccounts,roles -o name"
    ).split()
    # The Jobs are the reader's own; the pods are gone with the Deployment, where there are controllers.
    assert set(left) == {
        "job.batch/rotate-now",
        "job.batch/rotate-one",
        "configmap/kube-root-ca.crt",
        "pod/rotator-0",
        "pod/rotator-1",
    }
    assert "No value found" in place.reader.run("vault read auth/kubernetes/role/rotator", status=2)
    assert place.served() == served, "an application keeps its key"
    alive = [key for key in place.simulator.vendor.keys.values() if key.alive(datetime.now(UTC))]
    assert len(alive) == len(place.simulator.vendor.keys) >= 2, "no key is revoked"
    assert all(key.expiry_date for key in alive), "each expires"
    assert first.id in {key.id for key in alive}


def test_a_pod_waits_for_what_the_notes_name(place: Place) -> None:
    """Helm installs before the Secret and the ConfigMap exist, and the pods start once they do."""
    *before, values, install = blocks("kubernetes.md")[:6]
    secret, authority, login = before[1:]
    assert "create secret" in secret.text
    assert "create configmap vault-ca" in authority.text
    namespace, _, create_secret = secret.text.partition("\n")
    place.reader.run(namespace)
    place.kubelet.publish_certificates()
    place.reader.follow(values)
    helm, _, rollout = install.text.partition("\n")
    notes = place.reader.run(helm)
    for needed in (
        "the Secret rotator-provider in rotator, with the management credential under the key api-key",
        "the ConfigMap vault-ca in rotator, with the authority of Vault's certificate under the key ca.crt",
        "Vault's role rotator at auth/kubernetes, for the ServiceAccount rotator in rotator and the audience vault",
    ):
        assert f"- {needed}" in notes
    wait_until(lambda: 'secrets "rotator-provider" not found' in place.kubelet.missing, "the Secret to be missed")
    place.reader.run(create_secret, f"{place.simulator.organisation_key}\n")
    wait_until(lambda: 'configmaps "vault-ca" not found' in place.kubelet.missing, "the ConfigMap to be missed")
    place.reader.follow(login)
    place.reader.follow(authority)
    assert "successfully rolled out" in place.reader.run(rollout)
    for command in re.findall(r"(?m)^  (kubectl .*)$", notes):
        place.reader.run(command)


def test_a_failing_login_has_the_words_of_the_page(place: Place) -> None:
    place.install(until="describe pods")
    shown = re.findall(r"`([^`]+)`", page("kubernetes.md").partition("| `login_failed` has")[2].partition("\n\n")[0])
    pod = place.kubelet.pods[0]
    authority, config = pod.root / "var/run/secrets/rotator/vault-ca/ca.crt", pod.root / "etc/rotator/rotator.json"
    good = authority.read_text()

    def refusal(commands: str = "true") -> str:
        place.reader.run(commands)
        return place.reader.run(CHECK, status=3)

    refusals = {
        "unable to get local issuer certificate": "",
        "not authorized": f"{ROLE}=rotator bound_service_account_namespaces=other audience=vault",
        "invalid audience": f"{ROLE}=rotator bound_service_account_namespaces=rotator audience=other",
        "invalid role name": "vault delete auth/kubernetes/role/rotator",
        "permission denied": "vault auth disable kubernetes",
    }
    for words, commands in refusals.items():
        if not commands:
            authority.write_text(place.kube.ca_file.read_text())
        assert words in refusal(commands or "true")
        authority.write_text(good)
    elsewhere = json.loads(config.read_text())
    for words, address in (("Connection refused", "127.0.0.1:9"), ("Name or service not known", "vault.invalid:8200")):
        elsewhere["stores"]["vault"]["address"] = f"https://{address}"
        config.write_text(json.dumps(elsewhere))
        assert words in refusal()
        refusals[words] = address
    assert set(refusals) == set(shown) - {"login_failed", "vault.address"}


def test_thousands_of_targets_and_openshift(place: Place) -> None:
    """docs/kubernetes-large.md and docs/openshift.md, in place of the release of docs/kubernetes.md."""
    place.install(until="helm install")
    values, folder = place.reader.folder / "my-values.yaml", place.reader.folder
    head, targets = values.read_text().split("targets:\n")
    owner = re.search(r"(?m)^owner: \S+", head)
    assert owner
    many = "".join(f"  t{n:04}: {{path: apps/many/{n}, extra_fields: {{note: {'x' * 400}}}}}\n" for n in range(1200))
    (folder / "configuration.yaml").write_text(f"{owner[0]}\ntargets:\n{targets}{many}")
    values.write_text(re.sub(r"(?m)^owner: .*\n", "", head))
    existing, install = blocks("kubernetes-large.md")
    place.reader.follow(existing)
    output = place.reader.follow(install)
    assert "1201 targets, 0 warnings, nothing wrong" in output
    for name in ("our-rotator", "our-targets-1-of-2", "our-targets-2-of-2"):
        assert f"configmap/{name} serverside-applied" in output
        assert name in output.partition("NOTES:")[2]
    wait_until(lambda: bool(place.kubelet.pods), "the pods to run")
    daemon = place.kubelet.pods[0].daemon
    assert daemon
    assert daemon.wait_for("started")["targets"] == 1201
    one = "our-targets-1-of-2"
    file = f"kubectl -n rotator get configmap {one} -o 'jsonpath={{.data.targets\\.json}}' > targets.json"
    again = f"kubectl -n rotator create configmap {one} --from-file=targets.json --dry-run=client -o yaml"
    refused = place.reader.run(f"{file}; {again} | kubectl apply -f -", status=1)
    assert "metadata.annotations: Too long" in refused, "so server-side apply is needed"

    taken, upgrade = blocks("openshift.md")
    place.reader.follow(taken)
    place.reader.run(upgrade.text.replace("-f my-values.yaml", "-f my-values.yaml -f existing.yaml"))
    pod = pod_of(place.kube.request("GET", "/apis/apps/v1/namespaces/rotator/deployments/rotator").json())["spec"]
    assert pod["securityContext"] == {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
