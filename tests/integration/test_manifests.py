"""The Helm chart and the systemd unit, judged by who will read them: Helm, a real API server, systemd."""

import json
import random
import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from support.chart import (
    CHART,
    NAMESPACED,
    ROOT,
    Manifest,
    Manifests,
    accepted,
    container_of,
    dry_run_pod,
    helm,
    install_rights,
    mounted,
    pod_of,
    pods_of,
    rendered,
    restricted_namespace,
    volume_of,
    written,
)
from support.handover import Left
from support.installation import installation
from support.kube import KubeServer, vault_kubernetes, vault_kubernetes_role
from support.process import wait_until
from support.vault import VaultServer

from rotator import __version__
from rotator.config.loader import Configuration, load
from rotator.config.schema import Changeable, DaemonSettings
from rotator.config.values import share_of
from rotator.config.windows import CronWindow
from rotator.core.events import Event, EventType
from rotator.daemon.leader import Lease
from rotator.daemon.main import READ_AT_START
from rotator.notify.external_secrets import ExternalSecretsSender
from rotator.providers.registry import BUILT_IN, installed_types
from rotator.runtime.clock import SystemClock
from rotator.runtime.kubernetes import Access, LeaseSettings
from tools.build_servers import EXTERNAL_SECRETS_CRDS, HELM, HELM_4, Server

DATA = ROOT / "tests/data"
UNIT = ROOT / "deploy/systemd/rotator.service"
MINIMAL, EVERYTHING = DATA / "values-minimal.yaml", DATA / "values-everything.yaml"
EXISTING_PARTS = DATA / "values-existing-parts.yaml"
VALUES = sorted([*DATA.glob("values-*.yaml"), *DATA.glob("written-by-*/values.yaml")])


def named(values: str | Path) -> str:
    """As the tests show it: the folder names the version that wrote a file."""
    return str(values).removeprefix(f"{DATA}/")


NOTE = '"quoted", {{ braces }}, <tags> & ümläuts: 日本 😀 \\ \x7f \x85 \x9f \u2028 \ufeff \uffff'
"""What a target of values-everything.yaml has: characters that JSON, YAML and Helm treat in ways of their own."""

LARGEST_CONFIG_MAP = 2**20  # bytes

SELECTING = {"Deployment", "Service", "PodMonitor", "PodDisruptionBudget", "NetworkPolicy"}


@pytest.fixture
def manifests(cluster: KubeServer) -> Callable[..., Manifests]:
    """The chart with these values, as the API server understands it, by kind and name."""

    def understood(values: Path, *settings: str) -> Manifests:
        namespace = cluster.namespace()
        found = [accepted(cluster, namespace, manifest) for manifest in rendered(namespace, values, *settings)]
        by_name = {f"{made['kind']}/{made['metadata']['name']}": made for made in found}
        assert len(by_name) == len(found)
        return by_name

    return understood


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """500 targets that do not fit into one ConfigMap."""
    return of_500(tmp_path_factory, lambda: "x" * 3000)


@pytest.fixture(scope="module")
def too_many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """500 targets that do not fit into one release of Helm, which is compressed."""
    letters = random.Random(1)
    return of_500(tmp_path_factory, lambda: letters.randbytes(1500).hex())


def of_500(tmp_path_factory: pytest.TempPathFactory, note: Callable[[], str]) -> Path:
    targets = {f"t{n:03}": {"path": f"apps/t{n:03}", "extra_fields": {"note": f"{n} {note()}"}} for n in range(500)}
    values = {"owner": "prod-eu", "vault": {"address": "https://vault.test"}, "targets": targets, "configParts": 4}
    values["image"] = {"repository": "registry.test/rotator"}
    file = tmp_path_factory.mktemp("values") / "values-500.json"
    file.write_text(json.dumps(values))
    return file


@pytest.fixture(scope="module")
def documented(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The values that the documentation leads to, with monitoring."""
    document = (ROOT / "docs/kubernetes.md").read_text()
    found = re.findall(r"^```yaml\n# ([\w-]+.yaml)\n(.*?)^```$", document, re.MULTILINE | re.DOTALL)
    assert [name for name, _ in found] == ["my-values.yaml", "monitoring.yaml"]
    block = "".join(text for _, text in found)
    file = tmp_path_factory.mktemp("values") / "my-values.yaml"
    file.write_text(block)
    return file


def configuration_of(manifests: Manifests, folder: Path) -> Configuration:
    return load(mounted(manifests, folder), {}, installed_types())


# --- Helm and the API server -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("values", VALUES, ids=named)
def test_helm_accepts_the_chart(values: Path) -> None:
    helm("lint", "--strict", CHART, f"--values={values}")


@pytest.mark.parametrize("values", VALUES, ids=named)
def test_the_api_server_accepts_every_manifest(manifests: Callable[..., Manifests], values: Path) -> None:
    kinds = {made["kind"] for made in manifests(values).values()}
    assert "Deployment" in kinds
    if values == EVERYTHING:
        # A person makes a Job from the CronJob; a ServiceMonitor stands in the PodMonitor's place.
        assert kinds == set(NAMESPACED) - {"Job", "ServiceMonitor"}


def test_many_targets_are_split(manifests: Callable[..., Manifests], many: Path, tmp_path: Path) -> None:
    helm("lint", "--strict", CHART, f"--values={many}")
    made = manifests(many)
    parts = [made[f"ConfigMap/rotator-targets-{number}-of-4"] for number in range(4)]
    for part in parts:
        assert len(json.loads(part["data"]["targets.json"])["targets"]) > 60
        assert sum(len(key) + len(value.encode()) for key, value in part["data"].items()) < LARGEST_CONFIG_MAP
    configuration = configuration_of(made, tmp_path)
    assert sorted(configuration.targets) == [f"t{n:03}" for n in range(500)]
    assert configuration.targets["t499"].extra_fields["note"].startswith("499 xxx")


def test_a_change_of_one_target_changes_its_own_lines_alone(tmp_path: Path) -> None:
    """So that a reviewer of rendered manifests sees what changes."""
    more = tmp_path / "more.yaml"
    more.write_text("targets: {a: {path: a, ttl: 24h}, z: {path: z}}\n")

    def lines(*arguments: str) -> list[str]:
        return helm("template", "rotator", CHART, f"--values={MINIMAL}", f"--values={more}", *arguments).splitlines()

    before, after = lines(), lines("--set=targets.a.ttl=48h")
    changed = [(old, new) for old, new in zip(before, after, strict=True) if old != new]
    assert changed == [('          "ttl": "24h"', '          "ttl": "48h"')]
    assert lines() == before, "each time the same"


def test_a_later_file_of_values_removes_a_target(tmp_path: Path) -> None:
    later = tmp_path / "later.yaml"
    later.write_text("targets: {billing-api: null, search: {path: apps/search/respan}}\n")
    file = written(tmp_path / "written", MINIMAL, f"--values={later}")
    assert list(load(file, {}, installed_types()).targets) == ["search"]


def test_too_many_for_one_part_are_refused_with_the_way_out(many: Path) -> None:
    output = helm("template", "rotator", CHART, f"--values={many}", "--set=configParts=1", status=1)
    assert "configParts: a part of the targets takes 15" in output
    assert "a ConfigMap holds 1 MiB; set it to 3" in output
    helm("template", "rotator", CHART, f"--values={many}", "--set=configParts=3")


@pytest.mark.parametrize("count", [6400, 7600])
def test_short_targets_are_refused_before_the_api_server_would(count: int, tmp_path: Path) -> None:
    """There a file is mostly white space: its size is that of what is written, and not of what that was made of."""
    fields = {f"f{n}": "x" for n in range(4)}
    targets = {f"t{n:04}": {"path": f"a/{n:04}", "extra_fields": fields} for n in range(count)}
    values = {"owner": "prod-eu", "vault": {"address": "https://vault.test"}, "targets": targets}
    values["image"] = {"repository": "registry.test/rotator"}
    file = tmp_path / "values.json"
    file.write_text(json.dumps(values))
    # Of just these targets: {"NAME": {"path": …, "extra_fields": {…}}}, indented as the chart does it.
    written = len(json.dumps({"targets": targets}, indent=2))
    fits = written < LARGEST_CONFIG_MAP
    if count == 6400:
        assert fits
        helm("template", "rotator", CHART, f"--values={file}")
    else:
        assert not fits
        output = helm("template", "rotator", CHART, f"--values={file}", status=1)
        assert f"configParts: a part of the targets takes {written} bytes" in output


def test_a_target_stays_in_its_part_whatever_else_comes_and_goes(many: Path, tmp_path: Path) -> None:
    """The kubelet does not refresh all parts of a volume together: one that moved would be in two, or in none."""
    values = json.loads(many.read_text())

    def parts() -> dict[str, str]:
        file = tmp_path / "values.json"
        file.write_text(json.dumps(values))
        text = helm("template", "rotator", CHART, f"--values={file}")
        found: dict[str, str] = {}
        part = r"name: (rotator-targets-\S+)\n(?:.*\n)*?  targets\.json: \|-\n((?:    .*\n)+)"
        for name, content in re.findall(part, text):
            found |= dict.fromkeys(json.loads(content)["targets"], name)
        return found

    before = parts()
    assert len(before) == 500
    values["targets"] = {"a-new-one": {"path": "apps/new"}, **dict(list(values["targets"].items())[250:])}
    after = parts()
    assert {name: before[name] for name in after if name in before} == {n: p for n, p in after.items() if n in before}
    values["configParts"] = 5  # pods that run still have those of before, as they are
    assert not set(parts().values()) & set(before.values())


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("replicas=two", "at '/replicas': got string, want integer"),
        ("replica=3", "additional properties 'replica' not allowed"),
        ("owner=Prod", "at '/owner'"),
        ("targets.billing-api.ttl=5", "at '/targets/billing-api/ttl': got number, want string"),
        ("targets.billing-api.ttl=5x", "at '/targets/billing-api/ttl'"),
        ("targets.billing-api.grase_period=1h", "additional properties 'grase_period' not allowed"),
        ("targets.Billing.path=x", "additional properties 'Billing' not allowed"),
        ("config.http.admin=0.0.0.0:9466", "at '/config/http': additional properties 'admin' not allowed"),
        ("config.daemon.drain=soon", "at '/config/daemon/drain'"),
        ("vault.address=vault:8200", "at '/vault/address'"),
        ("vault.token.expirationSeconds=60", "minimum: got 60, want 600"),
        ("lease.duration=15", "at '/lease/duration'"),
        ("networkPolicy.enable=false", "additional properties 'enable' not allowed"),
        ("image.digest=latest", "at '/image/digest'"),
        ("listen=10.0.0.1", "value must be one of '0.0.0.0', '::'"),
        ("vault.address=https://me@vault.test", "at '/vault/address'"),
        ("vault.address=https://vault.test:99999", "at '/vault/address'"),
        ("provider.baseUrl=https://respan.test:99999", "at '/provider/baseUrl'"),
        ("provider.options.preset=litellm", "at '/provider/options': additional properties 'preset' not allowed"),
        ("provider.name=a b", "at '/provider/name'"),
        ("provider.type=respam", "at '/provider/type': value must be one of 'http', 'respan'\n"),
        ("config.providers.r.type=respam", "at '/config/providers/r/type': value must be one of 'http', 'respan'\n"),
        ("config.providers.r.api_key.env=K", "at '/config/providers/r': missing property 'type'\n"),
        ("config.providers.a b.type=respan", "at '/config/providers': additional properties 'a b' not allowed"),
        ("config.stores.v.type=vault,config.stores.v.address=vault:8200", "at '/config/stores/v/address'"),
        ("config.stores.v.type=kv", "at '/config/stores/v/type': value must be one of 'sqlite', 'vault'\n"),
        (
            "config.stores.v.type=vault,config.stores.v.auth.method=oidc",
            "at '/config/stores/v/auth/method': value must be one of 'approle', 'cert', 'jwt', 'kubernetes', 'token', ",
        ),
        ("config.daemon.jitter=60%", "at '/config/daemon/jitter': '60%' does not match pattern"),
        ("targets.billing-api.ttl=9999d", "at '/targets/billing-api/ttl': '9999d' does not match pattern"),
        ("targets.billing-api.grace_period=0s", "'0s' does not match pattern '[1-9]'"),
        ("targets.billing-api.renew_before=0%", "'0%' does not match pattern '[1-9]'"),
        ("targets.billing-api.provider=a b", "at '/targets/billing-api/provider'"),
        ("targets.billing-api=x", "at '/targets/billing-api': got string, want null"),
        ("vault.token.mountPath=token", "at '/vault/token/mountPath'"),
        ("image.repository=registry.test/rotator:0.1.0", "at '/image/repository'"),
        ("image.tag=a/b", "at '/image/tag'"),
        ("fullnameOverride=Keys", "at '/fullnameOverride'"),
        ("provider.credential.key=a/b", "at '/provider/credential/key'"),
        ("vault.mount=secret/", "at '/vault/mount'"),
        ("vault.formerLocations[0].path=apps", "'/vault/formerLocations/0': additional properties 'path' not allowed"),
        ("vault.auth.mount=/kubernetes", "at '/vault/auth/mount'"),
        *((f"targets.billing-api.path={path}", "/path'") for path in ("/a", "a/", "a//b", "a/../b", ".", "a/.")),
        ("targets.billing-api.key_field=rotator", "at '/targets/billing-api/key_field'"),
        ("existingConfig.targets={ours-1}", "at '/existingConfig/name': minLength"),
        ("existingConfig.name=ours,existingConfig.targets={ours-1,ours-1}", "at '/existingConfig/targets'"),
        ("existingConfig.name=ours,existingConfig.targets={Ours}", "at '/existingConfig/targets/0'"),
        ("rotateJob.arguments=null", "at '/rotateJob': missing property 'arguments'"),
        ("rotateJob.activeDeadlineSeconds=null", "at '/rotateJob': missing property 'activeDeadlineSeconds'"),
        # Beyond the schema:
        ("targets.billing-api.ttl=8h", "billing-api: renew_before (8h) must be shorter than ttl (8h)"),
        ("config.defaults.renew_before=1d", "billing-api: renew_before (1d) must be shorter than ttl (24h)"),
        ("targets.billing-api.ttl=8h24m", "renew_before (8h) and config.daemon.jitter together must be shorter than"),
        (
            "targets.billing-api.renew_before=96%",
            "renew_before (96%) and config.daemon.jitter together must be shorter",
        ),
        ("targets.billing-api.grace_period=34%", "grace_period (34%) must not be longer than renew_before (8h)"),
        ("targets.billing-api.grace_period=8h1s", "grace_period (8h1s) must not be longer than renew_before (8h)"),
        ("targets.billing-api.extra_fields.api_key=x", 'targets.billing-api.extra_fields must not hold "api_key"'),
        ("targets.billing-api.extra_fields.rotator=x", 'targets.billing-api.extra_fields must not hold "rotator"'),
        (
            "config.stores.v.type=vault,config.stores.v.address=http://vault.test",
            "config.stores.v.address must begin with https://: over http:// credentials and keys travel unencrypted, "
            "so it is for loopback hosts. Use https://, or set config.stores.v.allow_insecure: true\n",
        ),
        (
            "vault.address=http://vault.vault.svc:8200",
            "vault.address must begin with https://: over http:// credentials and keys travel unencrypted, "
            "so it is for loopback hosts. Use https://, or set vault.allowInsecure: true\n",
        ),
        ("vault.address=https://vault.test/v1/", "vault.address must not end with /v1: rotator adds that"),
        ("provider.baseUrl=http://respan.test", "Use https://, or set provider.options.allow_insecure: true\n"),
        (
            "targets.billing-api.provider=respam",
            'targets.billing-api.provider: there is no provider "respam". Use respan\n',
        ),
        ("config.defaults.store=kv", 'config.defaults.store: there is no store "kv". Use vault\n'),
        (
            "config.providers.r.type=respan,config.providers.r.api_key.env=K,config.providers.r.base_url=http://r.test",
            "config.providers.r.base_url must begin with https://",
        ),
        ("plugins={acme},provider.type=acm", 'provider.type: there is no type "acm". Use http or respan or acme\n'),
        (
            "plugins={acme},config.providers.a.type=acm",
            'config.providers.a.type: there is no type "acm". Use http or respan or acme\n',
        ),
        ("owner=", "owner: give this installation a name"),
        ("vault.address=", "vault.address: set the address of Vault"),
        ("lease.enabled=false", "without the Lease only one may run"),
        ("image.repository=", "image.repository: there is no published image"),
        ("serviceAccount.create=false", "serviceAccount.create is false: set serviceAccount.name"),
        ("config.daemon.drain=1m30s", "terminationGracePeriodSeconds must be at least 110"),
        ("lease.duration=40s", "terminationGracePeriodSeconds must be at least 70"),
        ("vault.ca.configMap=a,vault.ca.secret=b", "vault.ca: set configMap or secret, not both"),
        ("existingConfig.name=ours", "owner, config, targets and notify.webhooks belong in that ConfigMap"),
        ("notify.webhooks.a.url=http://a.test,notify.webhooks.a.secret.file=s", "webhooks.a.url must begin with https"),
        ("notify.webhooks.a.url=https://a.test", "missing property 'secret'"),
        ("notify.webhooks.a.events={key.gone}", "at '/notify/webhooks/a/events/0'"),
        ("notify.external_secrets.namespaces={A}", "at '/notify/external_secrets/namespaces/0'"),
        ("provider.credential.secretName=", "name the Secret that holds the management credential"),
        ("vault.token.enabled=false", "set in config.stores how rotator logs in to Vault"),
        ("env[0].name=PORT,env[0].value=8080", "at '/env/0/value': got number, want string"),
        ("env[0].value=x", "at '/env/0': missing property 'name'"),
        ("env[0].name=ROTATOR_CONFIG", "env must not hold ROTATOR_CONFIG: the chart sets it"),
        ("env[0].name=ROTATOR_URL", "env must not hold ROTATOR_URL: the chart sets it"),
        (r"podLabels.app\.kubernetes\.io/name=x", "podLabels must not hold app.kubernetes.io/name: the chart sets"),
        (r"commonLabels.helm\.sh/chart=x", "commonLabels must not hold helm.sh/chart: the chart sets this label"),
        ("commonLabels.team=a b", "at '/commonLabels/team': 'a b' does not match pattern"),
        ("podLabels.a b=c", "at '/podLabels': additional properties 'a b' not allowed"),
        ("livenessProbe.httpGet.path=/", "at '/livenessProbe': additional properties 'httpGet' not allowed"),
    ],
)
def test_a_wrong_value_is_refused(setting: str, message: str) -> None:
    assert message in helm("template", "rotator", CHART, f"--values={MINIMAL}", f"--set={setting}", status=1)


@pytest.mark.parametrize(
    "setting",
    [
        "config.stores.v.type=vault,config.stores.v.address=http://vault.test,config.stores.v.allow_insecure=true",
        "vault.address=http://127.0.0.1:8200",
        "vault.address=http://[::1]:8200",
        "vault.address=http://vault.vault.svc:8200,vault.allowInsecure=true",
        "provider.baseUrl=http://respan.test,provider.options.allow_insecure=true",
        "targets.billing-api.provider=respan,config.defaults.store=vault",
        "targets.billing-api.path=.a/..b/...",
        "targets.billing-api.ttl=8h24m1s",
        "targets.billing-api.ttl=8h1s,config.daemon.jitter=0%",
        "targets.billing-api.grace_period=8h",
        "targets.billing-api.renew_before=33.4%,targets.billing-api.grace_period=33%",
        "targets.billing-api.pause_until=2026-01-04T08:00:00Z",
        "targets.billing-api.key_field=key,targets.billing-api.extra_fields.api_key=x",
    ],
)
def test_a_value_that_the_program_accepts_is_accepted(setting: str, tmp_path: Path) -> None:
    load(
        written(tmp_path, MINIMAL, f"--set={setting}"),
        {"VAULT_TOKEN": "for a store without a method"},
        installed_types(),
    )


def test_a_type_of_a_plugin_is_accepted_once_it_is_named() -> None:
    one = "plugins={acme}", "provider.type=acme", "provider.options.region=eu"
    assert '"region": "eu",' in "".join(rendered("default", MINIMAL, *one))
    several = "plugins={acme}", "config.providers.a.type=acme", "config.providers.a.region=eu"
    assert '"region": "eu",' in "".join(rendered("default", MINIMAL, *several))


def test_missing_values_are_compared_with_the_programs_defaults() -> None:
    helpers = (CHART / "templates/_helpers.tpl").read_text()
    [types] = re.findall(r"concat \(list (.*?)\)", helpers)
    assert re.findall(r"\w+", types) == sorted(one.name for one in BUILT_IN)
    settings, hour = Changeable(), timedelta(hours=1)
    assert dict(re.findall(r'"(\w+)" "([0-9]+[h%]|api_key)"', helpers)) == {
        "ttl": f"{settings.ttl / hour:g}h",
        "renew_before": f"{share_of(settings.ttl, settings.renew_before) / hour:g}h",
        "grace_period": f"{share_of(settings.ttl, settings.grace_period) / hour:g}h",
        "key_field": settings.key_field,
        "jitter": f"{DaemonSettings().jitter:.0%}",
    }


@pytest.mark.parametrize("values", [file for file in VALUES if "existing" not in file.name], ids=named)
def test_the_rendered_configuration_can_be_checked_before_it_is_installed(values: Path, tmp_path: Path) -> None:
    """As in docs/kubernetes-operations.md."""
    configuration = load(written(tmp_path, values), {}, installed_types())
    note = configuration.targets["billing-api"].extra_fields.get("note", "")
    if values == EVERYTHING:
        assert note == NOTE
    else:
        assert note == ('"quoted", {{ braces }}, <tags> & ümläuts: 日本 \x7f' if "note" in values.read_text() else "")


def test_the_schema_knows_what_the_configuration_knows() -> None:
    updated = runpy.run_path(str(ROOT / "deploy/helm/update_schema.py"))["updated"]()
    # If this fails: python deploy/helm/update_schema.py
    assert (CHART / "values.schema.json").read_text() == updated


def as_administrator(cluster: KubeServer) -> dict[str, str]:
    """What lets Helm into the cluster."""
    access = {"HELM_KUBEAPISERVER": cluster.address, "HELM_KUBETOKEN": cluster.token}
    return {**access, "HELM_KUBECAFILE": str(cluster.ca_file)}


def test_more_targets_than_a_release_holds_are_installed_with_own_config_maps(
    cluster: KubeServer, too_many: Path, tmp_path: Path
) -> None:
    """As in docs/kubernetes-large.md, with its names."""
    namespace, access = cluster.namespace(), as_administrator(cluster)
    arguments = (f"--namespace={namespace}", "rotator", CHART)
    output = helm("install", *arguments, f"--values={too_many}", access=access, status=1)
    assert 'Secret "sh.helm.release.v1.rotator.v1" is invalid: data: Too long' in output

    main = written(tmp_path / "written", too_many, "--set=configParts=2")
    parts = sorted((main.parent / "targets.d").iterdir())
    assert [part.name for part in parts] == ["1.json", "2.json"]
    content = {"our-rotator": {"rotator.json": main.read_text()}}
    content |= {f"our-targets-{part.stem}-of-2": {"targets.json": part.read_text()} for part in parts}
    made: Manifests = {}
    for name, data in content.items():
        config_map = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}
        answer = cluster.request("POST", f"/api/v1/namespaces/{namespace}/configmaps", config_map)
        made[f"ConfigMap/{name}"] = answer.raise_for_status().json()
    helm("install", *arguments, f"--values={EXISTING_PARTS}", "--set=fullnameOverride=keys", access=access)

    found = cluster.request("GET", f"/apis/apps/v1/namespaces/{namespace}/deployments/keys").raise_for_status().json()
    (tmp_path / "mounted").mkdir()
    configuration = configuration_of({**made, "Deployment/keys": found}, tmp_path / "mounted")
    assert len(configuration.targets) == 500
    assert configuration.warnings == ()


def test_the_documentation_names_the_config_maps_as_it_makes_them() -> None:
    document = (ROOT / "docs/kubernetes-large.md").read_text()
    assert re.findall(r"^existingConfig: .*$", EXISTING_PARTS.read_text(), re.MULTILINE) == re.findall(
        r"^existingConfig: .*$", document, re.MULTILINE
    )
    assert "configParts=2" in document
    for name in ("apply our-rotator ", "apply our-targets-$part-of-2 "):
        assert name in document


@pytest.mark.parametrize("version", [HELM, HELM_4], ids=lambda version: version.name)
def test_it_is_installed_upgraded_and_removed(cluster: KubeServer, version: Server) -> None:
    namespace, run = cluster.namespace(), partial(helm, version=version, access=as_administrator(cluster))
    arguments = (f"--namespace={namespace}", "rotator")

    def deployment() -> Manifest:
        found: Manifest = cluster.request("GET", f"/apis/apps/v1/namespaces/{namespace}/deployments/rotator").json()
        return found

    output = run("install", *arguments, CHART, f"--values={MINIMAL}")
    notes = output.partition("NOTES:\n")[2]
    assert f"kubectl -n {namespace} exec deploy/rotator -- rotator check --online" in notes
    assert f"the Secret rotator-provider in {namespace}, with the management credential under the key api-key" in notes
    assert "ConfigMap" not in notes  # none is needed
    assert f"kubectl -n {namespace} describe pods" in notes
    assert len(notes.splitlines()) < 15
    before = deployment()["metadata"]["generation"]

    pod = f"/api/v1/namespaces/{namespace}/pods/rotator-test"
    with ThreadPoolExecutor() as pool:
        tested = pool.submit(run, "test", *arguments, "--timeout=60s")
        wait_until(lambda: cluster.request("GET", pod).is_success, "the pod of helm test")
        asked = container_of(cluster.request("GET", pod).json())["args"]
        ended = {"status": {"phase": "Succeeded"}}  # as the kubelet reports it
        cluster.request("PUT", f"{pod}/status", cluster.request("GET", pod).json() | ended).raise_for_status()
        assert "Phase:          Succeeded" in tested.result()
    assert asked == ["check", "--online"]

    more = "--set=targets.search.path=apps/search/respan"
    run("upgrade", *arguments, CHART, f"--values={MINIMAL}", more)
    path = f"/api/v1/namespaces/{namespace}/configmaps/rotator-targets-0-of-1"
    targets = cluster.request("GET", path).json()["data"]
    assert sorted(json.loads(targets["targets.json"])["targets"]) == ["billing-api", "search"]
    assert deployment()["metadata"]["generation"] == before  # so no pod is replaced for it
    run("upgrade", *arguments, CHART, f"--values={MINIMAL}", "--set=image.tag=0.2.0")
    assert deployment()["metadata"]["generation"] > before

    alone = ("--set=lease.enabled=false", "--set=replicas=1")
    run("upgrade", *arguments, CHART, f"--values={MINIMAL}", *alone)
    assert deployment()["spec"]["strategy"] == {"type": "Recreate"}, "which replaces the RollingUpdate of before"

    run("uninstall", *arguments)
    assert deployment()["code"] == 404


def test_releases_of_one_name_stand_side_by_side_in_two_namespaces(cluster: KubeServer) -> None:
    """Their rights in a third one have names of their own. And a Service's name has no dot, unlike a release's."""
    apps = cluster.namespace()
    rights = f"--set=notify.external_secrets.namespaces={{{apps}}}"
    for namespace in (cluster.namespace(), cluster.namespace()):
        arguments = (f"--namespace={namespace}", f"--values={MINIMAL}", rights)
        helm("install", "rotator.eu", CHART, *arguments, access=as_administrator(cluster))
        services = f"/api/v1/namespaces/{namespace}/services"
        assert cluster.request("GET", f"{services}/rotator-eu").is_success
    roles = cluster.request("GET", f"/apis/rbac.authorization.k8s.io/v1/namespaces/{apps}/roles").json()["items"]
    assert len(roles) == 2


def test_the_notes_name_ones_own_config_maps(cluster: KubeServer) -> None:
    arguments = (f"--namespace={cluster.namespace()}", "--dry-run=server", f"--values={EXISTING_PARTS}")
    run = partial(helm, "install", "rotator", CHART, *arguments, access=as_administrator(cluster))
    assert "- the ConfigMaps our-rotator, our-targets-1-of-2, our-targets-2-of-2 in " in run()
    assert "- the ConfigMap our-rotator in " in run("--set=existingConfig.targets=null")


def test_the_alerts_are_those_of_the_project(manifests: Callable[..., Manifests]) -> None:
    rules = (ROOT / "deploy/prometheus/rules.yaml").read_text()
    made = manifests(EVERYTHING, "prometheusRule.groups.notifications=true")["PrometheusRule/key-rotation"]
    alerts = [rule for group in made["spec"]["groups"] for rule in group["rules"]]
    assert [rule["alert"] for rule in alerts] == re.findall(r"- alert: (\w+)", rules)
    for rule in alerts:
        assert rule["annotations"]["runbook_url"] == f"https://docs.test/runbook.md#{rule['alert'].lower()}"
    assert any("{{ $labels." in rule["annotations"]["summary"] for rule in alerts)


# --- the configuration -----------------------------------------------------------------------------------------------


def test_the_minimal_configuration_is_complete(manifests: Callable[..., Manifests], tmp_path: Path) -> None:
    configuration = configuration_of(manifests(MINIMAL), tmp_path)
    assert configuration.warnings == ()
    assert (str(configuration.http.listen), str(configuration.http.admin)) == ("0.0.0.0:9465", "127.0.0.1:9466")
    assert configuration.lease is not None
    assert configuration.lease.name == "rotator"
    assert configuration.lease.model_fields_set == {"name", "duration"}  # the rest is the pod's
    [vault] = configuration.stores.values()
    assert vault.model_dump(mode="json", exclude_unset=True) == {
        "type": "vault",
        "address": "https://vault.vault.svc:8200",
        "mount": "secret",
        "auth": {
            "method": "kubernetes",
            "mount": "kubernetes",
            "role": "rotator",
            "token_file": "/var/run/secrets/rotator/vault/token",
        },
    }
    assert [target.path for target in configuration.targets.values()] == ["apps/billing/respan"]


def test_every_value_arrives(manifests: Callable[..., Manifests], tmp_path: Path) -> None:
    configuration = configuration_of(manifests(EVERYTHING), tmp_path)
    target = configuration.targets["billing-api"]
    assert target.extra_fields["note"] == NOTE
    asked = {"rate_limit": 1_000_000, "spending_limit": 12.5, "max_usage": -1, "is_test": True}
    assert target.parameters == asked
    assert target.ttl.total_seconds() == 24 * 3600
    assert configuration.targets["search"].ttl.total_seconds() == 12 * 3600
    assert configuration.targets["search"].renew_before.total_seconds() == 3 * 3600
    [window] = configuration.targets["search"].windows
    assert window == CronWindow("0 */2 * * *", timedelta(hours=1), "Europe/London")
    assert configuration.former_owners == ("prod",)
    assert configuration.daemon.workers == 16
    assert configuration.sweep.max_orphans == 0
    assert configuration.http.target_metrics is False
    assert configuration.providers["respan"].requests_per_minute == 600
    [vault] = configuration.stores.values()
    assert vault.type == "vault"
    assert (vault.namespace, vault.mount) == ("teams/keys", "kv/apps")
    assert [(one.cluster_id, one.mount) for one in vault.former_locations] == [("5f0c", "kv/old")]
    assert str(vault.ca_file) == "/var/run/secrets/rotator/vault-ca/ca.crt"
    assert str(configuration.http.listen) == "[::]:9465"


def test_another_login_method_is_left_as_configured(manifests: Callable[..., Manifests], tmp_path: Path) -> None:
    made = manifests(DATA / "values-approle.yaml")
    configuration = configuration_of(made, tmp_path)
    [vault] = configuration.stores.values()
    assert vault.type == "vault"
    assert vault.auth.method == "approle"
    volumes = {volume["name"] for volume in pod_of(made["Deployment/rotator"])["spec"]["volumes"]}
    assert volumes == {"config", "kubernetes", "approle"}


def test_only_options_that_are_read_at_the_start_replace_the_pods(manifests: Callable[..., Manifests]) -> None:
    def pod(*settings: str) -> Manifest:
        return pod_of(manifests(MINIMAL, *settings)["Deployment/rotator"])

    before = pod()
    for setting in (
        "targets.billing-api.ttl=12h",
        "vault.mount=kv",
        "config.defaults.ttl=30h",
        "provider.baseUrl=https://x.test",
        "config.daemon.resync=5m",
        "config.daemon.drain=20s",
        "config.sweep.interval=1h",
    ):
        assert pod(setting) == before
    at_start = {
        "lease": "lease.duration=30s",
        "http.listen": "listen=::",
        "http.target_metrics": "config.http.target_metrics=false",
        "daemon.workers": "config.daemon.workers=4",
    }
    assert {*at_start, "http.admin"} == set(READ_AT_START), "of which the chart fixes the admin address"
    for setting in at_start.values():
        assert pod(setting) != before


# --- the pods --------------------------------------------------------------------------------------------------------


def test_the_deployment_is_as_it_should_be(manifests: Callable[..., Manifests]) -> None:
    made = manifests(MINIMAL)
    deployment = made["Deployment/rotator"]
    pod, container = pod_of(deployment), container_of(pod_of(deployment))
    assert deployment["spec"]["replicas"] == 2
    assert deployment["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
    assert pod["spec"]["terminationGracePeriodSeconds"] > 25
    assert pod["spec"]["automountServiceAccountToken"] is False
    assert made["ServiceAccount/rotator"]["automountServiceAccountToken"] is False
    assert all(mount["readOnly"] for mount in container["volumeMounts"])
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert pod["spec"]["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert [port["containerPort"] for port in container["ports"]] == [9465]
    assert [port["port"] for port in made["Service/rotator"]["spec"]["ports"]] == [9465]
    times = "periodSeconds", "timeoutSeconds", "failureThreshold"
    probes = {
        name: (probe["httpGet"]["path"], probe["httpGet"]["port"], *(probe[time] for time in times))
        for name, probe in container.items()
        if name.endswith("Probe")
    }
    assert probes == {
        "livenessProbe": ("/healthz", "metrics", 10, 5, 3),
        "readinessProbe": ("/readyz", "metrics", 5, 5, 3),
        "startupProbe": ("/healthz", "metrics", 2, 5, 60),
    }
    budget = dict(made["PodDisruptionBudget/rotator"]["spec"])
    del budget["selector"]  # which another test tries
    assert budget == {"maxUnavailable": 1, "unhealthyPodEvictionPolicy": "AlwaysAllow"}, "a drain is never held up"
    audiences = {
        volume["name"]: source["serviceAccountToken"].get("audience")
        for volume in pod["spec"]["volumes"]
        for source in volume.get("projected", {}).get("sources", [])
        if "serviceAccountToken" in source
    }
    assert audiences == {"vault-token": "vault", "kubernetes": None}
    assert made["NetworkPolicy/rotator"]["spec"]["ingress"] == [{"ports": [{"port": "metrics", "protocol": "TCP"}]}]
    assert helm("template", "keys", CHART, f"--values={MINIMAL}").count("\n  name: keys-rotator\n") >= 4
    for selects in (made["Service/rotator"]["spec"]["selector"], deployment["spec"]["selector"]["matchLabels"]):
        assert selects.items() <= pod["metadata"]["labels"].items()


def test_without_the_lease_the_old_pod_stops_first(manifests: Callable[..., Manifests]) -> None:
    settings = "lease.enabled=false", "replicas=1"
    assert manifests(MINIMAL, *settings)["Deployment/rotator"]["spec"]["strategy"] == {"type": "Recreate"}
    chosen = manifests(MINIMAL, *settings, "strategy.type=RollingUpdate")["Deployment/rotator"]["spec"]["strategy"]
    assert chosen["type"] == "RollingUpdate"


def test_without_rbac_there_are_no_rights(manifests: Callable[..., Manifests]) -> None:
    made = manifests(MINIMAL, "rbac.create=false", "notify.external_secrets.namespaces={apps}")
    assert not [name for name in made if name.startswith("Role")]


@pytest.mark.parametrize(
    ("repository", "expected"),
    [
        ("rotator", "mirror.test/rotator"),
        ("team/rotator", "mirror.test/team/rotator"),
        ("localhost/rotator", "mirror.test/rotator"),
        ("registry:5000/team/rotator", "mirror.test/team/rotator"),
        ("registry.test/team/rotator", "mirror.test/team/rotator"),
    ],
)
def test_the_registry_of_the_platform_replaces_that_of_the_image(repository: str, expected: str) -> None:
    settings = f"image.repository={repository}", "global.imageRegistry=mirror.test"
    assert f'image: "{expected}:{__version__}"' in "".join(rendered("default", MINIMAL, *settings))


def test_every_value_of_the_pods_arrives(manifests: Callable[..., Manifests]) -> None:
    """Everything of values-everything.yaml that is not the configuration."""
    made = manifests(EVERYTHING)
    deployment = made["Deployment/key-rotation"]
    pod = pod_of(deployment)
    container, sidecar = pod["spec"]["containers"]
    spec, team = pod["spec"], {"example.org/team": "platform"}
    assert deployment["spec"]["replicas"] == 3
    assert deployment["metadata"]["annotations"] == team
    assert deployment["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 0, "maxUnavailable": 1}
    assert deployment["spec"]["revisionHistoryLimit"] == 0
    assert container["image"] == f"mirror.test:5000/team/rotator@sha256:{'0' * 64}"
    assert container["imagePullPolicy"] == "Always"
    assert spec["imagePullSecrets"] == [{"name": "mirror"}, {"name": "registry"}]
    assert sidecar["name"] == "agent"
    [before] = spec["initContainers"]
    assert before["name"] == "certificates"
    assert container["envFrom"] == [{"configMapRef": {"name": "variables", "optional": True}}]
    assert spec["hostAliases"] == [{"ip": "10.0.0.1", "hostnames": ["vault.test"]}]
    assert (spec["dnsPolicy"], spec["dnsConfig"]["nameservers"]) == ("None", ["10.0.0.10"])
    assert spec["runtimeClassName"] == "sandboxed"
    assert container["livenessProbe"]["failureThreshold"] == 9
    assert container["readinessProbe"]["successThreshold"] == 2
    assert container["startupProbe"]["terminationGracePeriodSeconds"] == 5
    for name, one in made.items():
        if not name.startswith("ConfigMap/of-"):
            assert one["metadata"]["labels"]["example.org/cost"] == "42", name
    assert pod["metadata"]["labels"]["example.org/cost"] == "42"
    assert made["ConfigMap/of-values"]["data"] == {"release": "rotator"}
    assert "ConfigMap/of-text" in made
    assert spec["serviceAccountName"] == "rotation"
    assert made["ServiceAccount/rotation"]["metadata"]["annotations"] == team
    assert made["Service/key-rotation"]["metadata"]["annotations"] == team
    assert team.items() <= pod["metadata"]["labels"].items()
    assert team.items() <= pod["metadata"]["annotations"].items()
    environment = {variable["name"]: variable["value"] for variable in container["env"]}
    assert environment == {
        "ROTATOR_CONFIG": "/etc/rotator/rotator.json",
        "ROTATOR_LOG_FORMAT": "text",
        "ROTATOR_LOG_LEVEL": "debug",
        "ROTATOR_URL": "http://127.0.0.1:9466",
        "TZ": "UTC",
    }
    assert container["resources"] == {"requests": {"cpu": "100m", "memory": "256Mi"}, "limits": {"memory": "512Mi"}}
    assert spec["terminationGracePeriodSeconds"] == 90
    assert spec["nodeSelector"] == {"kubernetes.io/os": "linux"}
    assert spec["tolerations"] == [{"key": "dedicated", "operator": "Exists"}]
    assert spec["priorityClassName"] == "system-cluster-critical"
    [term] = spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    assert term["matchExpressions"][0]["values"] == ["amd64", "arm64"]
    assert spec["topologySpreadConstraints"] == [
        {
            "topologyKey": "kubernetes.io/hostname",
            "maxSkew": 1,
            "whenUnsatisfiable": "DoNotSchedule",
            "labelSelector": {"matchLabels": {"app.kubernetes.io/name": "keys"}},
        }
    ]
    assert {"name": "more", "mountPath": "/more"} in container["volumeMounts"]

    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    assert volumes["more"] == {"name": "more", "emptyDir": {}}
    assert volumes["vault-ca"]["configMap"]["name"] == "vault-ca"
    assert volumes["vault-ca"]["configMap"]["items"] == [{"key": "bundle.pem", "path": "ca.crt"}]
    assert volumes["provider"]["secret"]["secretName"] == "org"
    assert volumes["provider"]["secret"]["items"] == [{"key": "production", "path": "api-key"}]
    [source] = volumes["vault-token"]["projected"]["sources"]
    assert source["serviceAccountToken"] == {
        "audience": "https://vault.test",
        "expirationSeconds": 600,
        "path": "token",
    }

    policy = made["NetworkPolicy/key-rotation"]["spec"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    [ingress], [egress] = policy["ingress"], policy["egress"]
    [upstream] = ingress["from"]
    assert upstream["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": "monitoring"}
    assert [(port["protocol"], port["port"]) for port in egress["ports"]] == [
        ("UDP", 53),
        ("TCP", 53),
        ("TCP", 443),
        ("TCP", 6443),
        ("TCP", 8200),
    ]
    monitor = made["PodMonitor/key-rotation"]
    [endpoint] = monitor["spec"]["podMetricsEndpoints"]
    assert (endpoint["port"], endpoint["path"], endpoint["interval"]) == ("metrics", "/metrics", "15s")
    for name in ("PodMonitor", "PrometheusRule"):
        assert made[f"{name}/key-rotation"]["metadata"]["labels"]["release"] == "prometheus"

    assert {one["metadata"]["namespace"] for name, one in made.items() if "external-secrets" in name} == {"apps"}
    role, binding = made["Role/key-rotation"], made["RoleBinding/key-rotation"]
    assert [rule.get("resourceNames") for rule in role["rules"]] == [None, ["rotation"]]
    assert [(subject["kind"], subject["name"]) for subject in binding["subjects"]] == [("ServiceAccount", "rotation")]


@pytest.mark.parametrize("values", [MINIMAL, EVERYTHING], ids=lambda file: file.stem)
def test_all_that_selects_pods_selects_these(manifests: Callable[..., Manifests], values: Path) -> None:
    made = manifests(values, "podMonitor.enabled=true")
    [deployment] = [m for m in made.values() if m["kind"] == "Deployment"]
    pod = pod_of(deployment)
    selectors = {name: m["spec"] for name, m in made.items() if m["kind"] in SELECTING}
    assert {name.partition("/")[0] for name in selectors} == SELECTING
    for name, spec in selectors.items():
        assert selects(spec.get("podSelector") or spec["selector"], pod), name
    for constraint in pod["spec"]["topologySpreadConstraints"]:
        assert selects(constraint["labelSelector"], pod)


def test_a_configuration_of_ones_own_may_have_the_lease(manifests: Callable[..., Manifests]) -> None:
    """Its name is set twice then: for Kubernetes here, for rotator in that file."""
    made = manifests(DATA / "values-existing.yaml", "lease.enabled=true", "lease.name=ours", "replicas=2")
    pod = pod_of(made["Deployment/rotator"])
    assert "kubernetes" in {volume["name"] for volume in pod["spec"]["volumes"]}
    assert [rule.get("resourceNames") for rule in made["Role/rotator"]["rules"]] == [None, ["ours"]]
    [subject] = made["RoleBinding/rotator"]["subjects"]
    assert subject["name"] == pod["spec"]["serviceAccountName"] == "default", "as documented there"


def test_external_secrets_need_a_token_and_rights_where_they_are_and_without_them_there_are_none(
    manifests: Callable[..., Manifests],
) -> None:
    assert not [name for name in manifests(MINIMAL) if "external-secrets" in name]
    made = manifests(DATA / "values-existing.yaml", "notify.external_secrets.namespaces={apps}")
    assert "kubernetes" in {volume["name"] for volume in pod_of(made["Deployment/rotator"])["spec"]["volumes"]}
    role, binding = (one for name, one in made.items() if "external-secrets" in name)
    assert role["rules"] == [
        {"apiGroups": ["external-secrets.io"], "resources": ["externalsecrets"], "verbs": ["list", "patch"]}
    ]
    [subject] = binding["subjects"]
    assert subject["namespace"] == made["Deployment/rotator"]["metadata"]["namespace"]
    assert {one["metadata"]["namespace"] for one in (role, binding)} == {"apps"}


def test_the_charts_webhooks_are_those_of_the_configuration(
    manifests: Callable[..., Manifests], tmp_path: Path
) -> None:
    notify = configuration_of(manifests(EVERYTHING), tmp_path).notify
    assert notify.webhooks["chat"].url == "https://hooks.test/rotator/"
    assert notify.webhooks["chat"].events == ("key.published",)
    assert notify.external_secrets is not None
    assert notify.external_secrets.namespaces == ("apps",)


def test_the_documented_webhook_has_its_secret_in_the_pod(manifests: Callable[..., Manifests], tmp_path: Path) -> None:
    document = (ROOT / "docs/consumers.md").read_text()
    [block] = re.findall(r"(?ms)^```yaml\n(notify:\n.*?)^```$", document)
    file = tmp_path / "values.yaml"
    file.write_text(MINIMAL.read_text() + block)
    made = manifests(file)
    secret = configuration_of(made, tmp_path).notify.webhooks["chat"].secret.file
    mounts = {mount["mountPath"] for mount in container_of(pod_of(made["Deployment/rotator"]))["volumeMounts"]}
    assert secret is not None
    assert str(secret.parent) in mounts


def test_without_the_lease_no_token_for_the_api_server_is_mounted(manifests: Callable[..., Manifests]) -> None:
    made = manifests(DATA / "values-existing.yaml")
    assert set(made) == {"Deployment/rotator", "CronJob/rotator-rotate", "Pod/rotator-test"}
    pod = pod_of(made["Deployment/rotator"])
    assert {volume["name"] for volume in pod["spec"]["volumes"]} == {"config", "provider", "vault-token", "vault-ca"}
    assert {"name": "ROTATOR_CONFIG", "value": "/etc/rotator/rotator.toml"} in container_of(pod)["env"]


@pytest.mark.parametrize("values", VALUES, ids=named)
def test_the_pods_are_of_the_strictest_standard(
    manifests: Callable[..., Manifests], cluster: KubeServer, values: Path
) -> None:
    pods = pods_of(manifests(values))
    assert [name.partition("/")[0] for name, _ in pods] == ["Deployment", "CronJob", "Pod"]
    namespace = restricted_namespace(cluster)
    for name, pod in pods:
        answer = dry_run_pod(cluster, namespace, pod)
        assert answer.status_code == 201, (name, answer.text)

    container_of(pods[0][1])["securityContext"]["allowPrivilegeEscalation"] = True
    assert "violates PodSecurity" in dry_run_pod(cluster, namespace, pods[0][1]).json()["message"], (
        "so this means something"
    )


@pytest.mark.parametrize("values", ["documented", *VALUES], ids=named)
def test_a_job_on_demand_has_all_that_the_daemon_has_but_for_the_lease(
    cluster: KubeServer, manifests: Callable[..., Manifests], documented: Path, values: str | Path
) -> None:
    made = manifests(documented if values == "documented" else Path(values))
    [cron_job], [deployment] = ([m for m in made.values() if m["kind"] == kind] for kind in ("CronJob", "Deployment"))
    assert cron_job["spec"]["suspend"] is True, "it is a template, and runs nothing unasked"
    # What `kubectl create job --from=cronjob/rotator-rotate` sends.
    template = cron_job["spec"]["jobTemplate"]
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "now"}, "spec": template["spec"]}
    answer = cluster.dry_run(job, deployment["metadata"]["namespace"])
    assert answer.is_success, answer.text

    pod, ours = template["spec"]["template"], pod_of(deployment)
    its, theirs = pod["spec"], ours["spec"]
    same = "serviceAccountName automountServiceAccountToken enableServiceLinks securityContext imagePullSecrets"
    same += " nodeSelector tolerations affinity priorityClassName hostAliases dnsPolicy dnsConfig runtimeClassName"
    for name in (*same.split(), "initContainers"):
        assert its.get(name) == theirs.get(name), name
    annotations = {name: text for name, text in ours["metadata"]["annotations"].items() if "example.org/" in name}
    assert pod["metadata"].get("annotations", {}) == annotations
    assert its["volumes"] == [volume for volume in theirs["volumes"] if volume["name"] != "kubernetes"]
    its_container, container = container_of(pod), container_of(ours)
    for name in ("image", "imagePullPolicy", "resources", "securityContext", "envFrom"):
        assert its_container.get(name) == container.get(name), name
    assert len(its["containers"]) == 1, "it would not end before a sidecar"
    assert its_container["env"] == [v for v in container["env"] if v["name"] != "ROTATOR_URL"], "it has no daemon"
    assert its_container["volumeMounts"] == [m for m in container["volumeMounts"] if m["name"] != "kubernetes"]
    assert its_container["args"] == ["rotate", "--reason", "rotated by a Job", "--all"]
    assert template["spec"]["activeDeadlineSeconds"] == 21600
    assert (its["restartPolicy"], template["spec"]["backoffLimit"]) == ("Never", 0)

    labels = {name: m["spec"] for name, m in made.items() if m["kind"] in ("NetworkPolicy", "Service", "PodMonitor")}
    for name, spec in labels.items():
        selector = spec.get("podSelector") or spec["selector"]
        assert selects(selector, pod) is name.startswith("NetworkPolicy/"), name


@pytest.mark.parametrize("values", VALUES, ids=named)
def test_the_pod_of_helm_test_has_all_that_the_daemon_has(manifests: Callable[..., Manifests], values: Path) -> None:
    made = manifests(values)
    [test], [deployment] = ([m for m in made.values() if m["kind"] == kind] for kind in ("Pod", "Deployment"))
    its, theirs = test["spec"], pod_of(deployment)["spec"]
    same = "serviceAccountName automountServiceAccountToken enableServiceLinks securityContext imagePullSecrets volumes"
    same += " nodeSelector affinity priorityClassName hostAliases dnsPolicy dnsConfig runtimeClassName"
    for name in same.split():
        assert its.get(name) == theirs.get(name), name
    its_container, container = container_of(test), container_of(pod_of(deployment))
    for name in ("image", "imagePullPolicy", "resources", "securityContext", "envFrom", "volumeMounts"):
        assert its_container.get(name) == container.get(name), name
    assert its_container["env"] == [one for one in container["env"] if one["name"] != "ROTATOR_URL"], "it has no daemon"
    assert its_container["args"] == ["check", "--online"]
    assert its["restartPolicy"] == "Never"
    for name, one in made.items():
        if one["kind"] in SELECTING - {"Deployment"}:
            selector = one["spec"].get("podSelector") or one["spec"]["selector"]
            assert selects(selector, test) is name.startswith("NetworkPolicy/"), name


def test_the_values_of_the_job_arrive_and_a_reason_wins(manifests: Callable[..., Manifests]) -> None:
    settings = "rotateJob.arguments={billing-api,--reason=leaked}", "rotateJob.activeDeadlineSeconds=4000000"
    job = manifests(MINIMAL, *settings)["CronJob/rotator-rotate"]["spec"]["jobTemplate"]["spec"]
    assert job["activeDeadlineSeconds"] == 4_000_000
    arguments = container_of(job["template"])["args"]
    assert arguments == ["rotate", "--reason", "rotated by a Job", "billing-api", "--reason=leaked"]


def selects(selector: Mapping[str, Any], pod: Manifest) -> bool:
    """Whether a selector, of whichever form, takes a pod."""
    labels = pod["metadata"]["labels"]
    rules = selector.get("matchExpressions", [])
    if set(selector) <= {"matchLabels", "matchExpressions"}:
        selector = selector.get("matchLabels", {})
    assert all(rule["operator"] == "In" for rule in rules)
    return selector.items() <= labels.items() and all(labels.get(rule["key"]) in rule["values"] for rule in rules)


# --- the rights ------------------------------------------------------------------------------------------------------


@pytest.fixture
def installed(cluster: KubeServer) -> tuple[str, str]:
    """A namespace where the chart's ServiceAccount, Role and RoleBinding are for real, and a token of it."""
    namespace = cluster.namespace()
    token = install_rights(cluster, namespace, rendered(namespace, MINIMAL))
    return namespace, token


def test_the_service_account_can_keep_the_lease_and_nothing_else(
    cluster: KubeServer, installed: tuple[str, str], tmp_path: Path
) -> None:
    namespace, token = installed
    file = tmp_path / "token"
    file.write_text(token)
    events: list[Event] = []
    access = Access(cluster.address, namespace, file, cluster.ca_file)
    left = Left("what the first leader leaves"), Left()
    first, second = (
        Lease(
            LeaseSettings(access, "rotator", identity, 15.0),
            SystemClock(),
            events.append,
            handover,
        )
        for identity, handover in zip(("rotator-0", "rotator-1"), left, strict=True)
    )
    for lease in (first, second, first):
        lease.attempt()
    assert (first.leads(), second.leads(), second.holder) == (True, False, "rotator-0")
    first.start()
    first.stop()  # gives it back
    second.attempt()
    assert second.leads()
    assert left[1].resumed == ["what the first leader leaves"]
    assert EventType.LEASE_FAILED not in [event.what for event in events]

    def rules(token: str) -> set[tuple[str, ...]]:
        review = {"spec": {"namespace": namespace}}
        answer = cluster.request("POST", "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews", review, token)
        return {
            (verb, resource, *rule.get("resourceNames", []))
            for rule in answer.raise_for_status().json()["status"]["resourceRules"]
            for verb in rule["verbs"]
            for resource in rule["resources"]
        }

    everybodys = rules(cluster.token_for(namespace, "stranger"))
    assert rules(token) - everybodys == {
        ("create", "leases"),
        ("get", "leases", "rotator"),
        ("update", "leases", "rotator"),
    }

    leases = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
    for method, path in (
        ("GET", leases),
        ("GET", f"{leases}/another"),
        ("PUT", f"{leases}/another"),
        ("DELETE", f"{leases}/rotator"),
        ("GET", f"{leases.replace(namespace, cluster.namespace())}/rotator"),
        ("GET", f"/api/v1/namespaces/{namespace}/secrets"),
        ("GET", f"/api/v1/namespaces/{namespace}/configmaps/rotator-config"),
        ("GET", f"/api/v1/namespaces/{namespace}/pods"),
    ):
        body = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease"} if method == "PUT" else None
        refused = cluster.request(method, path, body, token)
        assert refused.status_code == 403, (method, path, refused.text)


def test_the_service_account_can_annotate_external_secrets_where_the_chart_allows_it(
    cluster: KubeServer, tmp_path: Path
) -> None:
    cluster.install_crds(EXTERNAL_SECRETS_CRDS, "external-secrets.io")
    namespace, apps, others = (cluster.namespace() for _ in range(3))
    rights = rendered(namespace, MINIMAL, f"notify.external_secrets.namespaces={{{apps}}}")
    (tmp_path / "token").write_text(install_rights(cluster, namespace, rights))

    def access(where: str) -> Access:
        return Access(cluster.address, where, tmp_path / "token", cluster.ca_file)

    sender = ExternalSecretsSender((apps,), access, SystemClock())
    wait_until(lambda: sender.missing_rights(apps) == [], "the rights to be in force")
    assert len(sender.missing_rights(others)) == 2


def test_the_charts_configuration_rotates_with_the_charts_rights(
    cluster: KubeServer, vault: VaultServer, installed: tuple[str, str], tmp_path: Path
) -> None:
    """Only addresses and places are changed: those that a pod has, and a test has not."""
    namespace, token = installed
    mount, kv = vault_kubernetes(vault, cluster), vault.new_mount()
    policy = (ROOT / "deploy/vault/policy.hcl").read_text().replace('"secret/', f'"{kv}/')
    role = vault_kubernetes_role(vault, mount, namespace, "rotator", policy, audience="vault")
    settings = [f"vault.address={vault.address}", f"vault.mount={kv}", f"vault.auth.mount={mount}"]
    settings += [f"vault.auth.role={role}"]
    (tmp_path / "vault-token").write_text(cluster.token_for(namespace, "rotator", "vault"))
    (tmp_path / "token").write_text(token)
    folder = tmp_path / "etc"
    folder.mkdir()

    def made(*more: str) -> Manifests:
        return volume_of(cluster, namespace, rendered(namespace, MINIMAL, *settings, *more))

    with installation(tmp_path) as rotator:
        (tmp_path / "api-key").write_text(rotator.simulator.organisation_key)

        def adapted(manifests: Manifests, identity: str) -> dict[str, Any]:
            config: dict[str, Any] = json.loads(manifests["ConfigMap/rotator-config"]["data"]["rotator.json"])
            config["http"] = {"listen": "127.0.0.1:0", "admin": "127.0.0.1:0"}
            config["providers"]["respan"]["base_url"] = rotator.simulator.url
            config["providers"]["respan"]["api_key"]["file"] = str(tmp_path / "api-key")
            config["stores"]["vault"]["auth"]["token_file"] = str(tmp_path / "vault-token")
            config["lease"] |= {"namespace": namespace, "identity": identity, "api_server": cluster.address}
            config["lease"] |= {"token_file": str(tmp_path / "token"), "ca_file": str(cluster.ca_file)}
            return config

        rotator.file = mounted(made(), folder)
        daemons = []
        for identity in ("rotator-0", "rotator-1"):
            rotator.config = adapted(made(), identity)
            daemons.append(rotator.start())
            wait_until(lambda: daemons[-1].get("/readyz").status_code == 200, f"{identity} to be ready")
            daemons[0].wait_for("key_published", target="billing-api")
        assert [daemon.metric("rotator_leader") for daemon in daemons] == [1, 0]

        changed = made("targets.search.path=apps/search/respan")
        changed["ConfigMap/rotator-config"]["data"]["rotator.json"] = json.dumps(adapted(changed, "rotator-1"))
        mounted(changed, folder)  # as the kubelet does some time after `helm upgrade`
        for daemon in daemons:
            daemon.wait_for("configuration_loaded", added=1)
        daemons[0].wait_for("key_published", target="search")

        # `helm test` has the same files and the same token for the API server.
        rotator.config = adapted(changed, "test")
        rotator.file = folder / "test.json"
        rotator.run("check", "--online", status=0)

        # The Job has the same files, but no token for the API server, and no need of it.
        rotator.config = adapted(changed, "job")
        rotator.config["lease"] = {"name": "rotator"}
        rotator.file = folder / "job.json"
        rotator.run("rotate", "search", status=0)

        assert daemons[0].stop() == 0
        daemons[1].wait_for("leadership_acquired")
        assert not [event for daemon in daemons for event in daemon.events(level="error")]
    for path, version in (("billing", 1), ("search", 2)):
        data = vault.request("GET", f"{kv}/data/apps/{path}/respan").raise_for_status().json()["data"]
        assert data["metadata"]["version"] == version


def test_without_the_api_server_the_keys_are_replaced_from_outside(vault: VaultServer, tmp_path: Path) -> None:
    """As in the runbook for RotatorNoLeader and RotatorGone: the chart's configuration, with another login."""
    mount = vault.new_mount()
    policy = (ROOT / "deploy/vault/policy.hcl").read_text().replace('"secret/', f'"{mount}/')
    with installation(tmp_path) as rotator:
        file = written(tmp_path / "written", MINIMAL, f"--set=vault.address={vault.address},vault.mount={mount}")
        config = json.loads(file.read_text())
        (tmp_path / "api-key").write_text(rotator.simulator.organisation_key)
        config["providers"]["respan"] |= {
            "base_url": rotator.simulator.url,  # the provider's own address, there
            "api_key": {"file": str(tmp_path / "api-key")},
        }
        config["stores"]["vault"]["auth"] = {"method": "token"}
        assert config["lease"]["name"] == "rotator"
        rotator.config, rotator.file = config, file
        token = vault.policy_token(policy)
        for number, command in enumerate((["run", "--once"], ["rotate", "billing-api"]), 1):
            rotator.run(*command, status=0, VAULT_TOKEN=token)
            data = vault.request("GET", f"{mount}/data/apps/billing/respan").raise_for_status().json()["data"]
            assert data["metadata"]["version"] == number
        rotator.run("extend", "--all", "--for", "24h", status=0, VAULT_TOKEN="of a Vault that is not asked")


# --- without Kubernetes ----------------------------------------------------------------------------------------------


def systemd_analyze(*arguments: str | Path) -> str:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("no systemd-analyze: install Debian's package systemd")
    done = subprocess.run([program, *arguments], capture_output=True, text=True, timeout=60, check=False)
    output = done.stdout + done.stderr
    assert done.returncode == 0, output
    return output


def test_systemd_takes_the_unit_and_finds_it_hardened(tmp_path: Path) -> None:
    program = Path(sys.executable).parent / "rotator"  # the unit's own is not installed here
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace("/opt/rotator/bin/rotator", str(program)))
    assert str(program) in unit.read_text()
    assert systemd_analyze("verify", "--man=no", unit) == ""
    # In tenths. What is left: it talks to the Internet, and lives in the root directory.
    assert "Type=notify\nWatchdogSec=60s\n" in UNIT.read_text()
    assert "RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX\n" in UNIT.read_text(), "its reports take AF_UNIX"
    assert "rotator.service" in systemd_analyze("security", "--offline=true", "--threshold=15", unit)


def test_the_unit_is_installed_from_pinned_packages() -> None:
    commands = re.findall(r"^#   \S+/pip (\w+ .*)$", UNIT.read_text(), re.MULTILINE)
    assert [command.split()[0] for command in commands] == ["install", "install", "wheel", "install"]
    for command in commands:
        assert re.search("--require-hashes|--no-deps --no-(index|build-isolation)", command), command


def test_the_units_configuration_goes_with_it(tmp_path: Path) -> None:
    configuration = load(UNIT.with_suffix(".toml"), {}, installed_types())
    assert configuration.warnings == ()
    given = dict(re.findall(r"^LoadCredential=(.+):(.+)$", UNIT.read_text(), re.MULTILINE))
    [vault], [respan] = configuration.stores.values(), configuration.providers.values()
    assert vault.type == "vault"
    assert vault.auth.method == "approle"
    wanted = {vault.auth.secret_id_file, respan.api_key.file}
    assert wanted == {Path("/run/credentials/rotator.service") / name for name in given}
    [stop] = re.findall(r"^TimeoutStopSec=(\d+)s$", UNIT.read_text(), re.MULTILINE)
    assert int(stop) > configuration.daemon.drain.total_seconds()


# --- what stands in two places ---------------------------------------------------------------------------------------


def test_the_values_of_the_documentation_are_enough(
    manifests: Callable[..., Manifests], documented: Path, tmp_path: Path
) -> None:
    made = manifests(documented)
    assert {"PodMonitor/rotator", "PrometheusRule/rotator"} <= set(made)
    assert sorted(configuration_of(made, tmp_path).targets) == ["billing-api"]
    [labels] = re.findall(r"(?m)^selector=(\S+)$", (ROOT / "docs/kubernetes-operations.md").read_text())
    selector = dict(label.split("=") for label in labels.split(","))
    assert selects(selector, pod_of(made["Deployment/rotator"]))
    job = made["CronJob/rotator-rotate"]["spec"]["jobTemplate"]["spec"]["template"]
    assert not selects(selector, job), "a Job takes no signal"


def test_the_script_for_vault_and_the_chart_mean_the_same(manifests: Callable[..., Manifests], tmp_path: Path) -> None:
    defaults = dict(re.findall(r'^([A-Z_]+)="\$\{\1:-([^$}]*)\}"', (ROOT / "deploy/vault/setup.sh").read_text(), re.M))
    made = manifests(MINIMAL)
    [vault] = configuration_of(made, tmp_path).stores.values()
    assert vault.type == "vault"
    assert vault.auth.method == "kubernetes"
    pod = pod_of(made["Deployment/rotator"])["spec"]
    [token] = [v["projected"]["sources"][0] for v in pod["volumes"] if v["name"] == "vault-token"]
    assert {
        "NAMESPACE": "rotator",
        "SERVICE_ACCOUNT": pod["serviceAccountName"],
        "AUDIENCE": token["serviceAccountToken"]["audience"],
        "MOUNT": vault.auth.mount,
        "ROLE": vault.auth.role,
    } == defaults


def test_the_schema_describes_every_value() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())

    def untold(table: dict[str, Any], path: str) -> list[str]:
        found = []
        for name, value in table.get("properties", {}).items():
            found += [] if "description" in value or "$ref" in value else [f"{path}{name}"]
            found += untold(value, f"{path}{name}.")
        return found

    assert untold(schema, "") == []


def test_the_chart_the_image_and_the_program_are_of_one_version() -> None:
    [app] = re.findall(r"^appVersion: (\S+)$", (CHART / "Chart.yaml").read_text(), re.MULTILINE)
    assert app == __version__
    for file in ("docs/kubernetes.md", "docs/image.md", "docs/providers.md"):
        tags = re.findall(r"\brotator:([0-9][0-9.]*)", (ROOT / file).read_text())
        assert tags, file
        assert set(tags) == {__version__}, file
    assert f"rotator:{__version__}" in "".join(rendered("default", MINIMAL))
