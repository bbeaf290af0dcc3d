"""The chart as a package: what it holds, how it describes itself, and that Helm 3 and 4 read it alike."""

import re
import runpy
import subprocess
import tarfile
import tomllib
from pathlib import Path
from urllib.parse import urlsplit
from xml.etree import ElementTree

import pytest
from support.chart import CHART, ROOT, helm

from rotator import __version__
from tools.build_servers import HELM, HELM_4, Server

VALUES = sorted((ROOT / "tests/data").glob("values-*.yaml"))
BOTH = pytest.mark.parametrize("version", [HELM, HELM_4], ids=lambda version: version.name)
DESCRIPTION = (CHART / "Chart.yaml").read_text()


@pytest.mark.parametrize("values", VALUES, ids=lambda file: file.stem)
def test_both_versions_of_helm_render_the_same(values: Path) -> None:
    def manifests(version: Server) -> list[str]:
        text = helm("template", "rotator", CHART, f"--values={values}", version=version)
        return sorted(part.strip() for part in re.split(r"(?m)^---$", text))

    assert len(manifests(HELM)) > 2
    assert manifests(HELM_4) == manifests(HELM)


@BOTH
@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("targets.billing-api.ttl=9999d", "at '/targets/billing-api/ttl': '9999d' does not match pattern"),
        ("config.daemon.jitter=60%", "at '/config/daemon/jitter': '60%' does not match pattern"),
        ("replica=3", "additional properties 'replica' not allowed"),
        ("vault.address=http://vault.test", "or set vault.allowInsecure: true"),
        ("env[0].name=ROTATOR_URL", "env must not hold ROTATOR_URL: the chart sets it"),
    ],
)
def test_both_versions_of_helm_refuse_in_words(version: Server, setting: str, message: str) -> None:
    values = f"--values={ROOT}/tests/data/values-minimal.yaml"
    assert message in helm("template", "rotator", CHART, values, f"--set={setting}", status=1, version=version)


@BOTH
def test_the_package_holds_the_chart_alone(version: Server, tmp_path: Path) -> None:
    copy = tmp_path / "rotator"
    helm("package", CHART, f"--destination={tmp_path}", version=version)
    [package] = tmp_path.glob("rotator-*.tgz")
    with tarfile.open(package) as archive:
        clean = sorted(archive.getnames())
    subprocess.run(("tar", "-xzf", package, "-C", tmp_path), check=True)
    assert {"rotator/Chart.yaml", "rotator/README.md", "rotator/values.schema.json"} <= set(clean)
    assert [name for name in clean if not re.search(r"\.(yaml|md|json|txt|tpl)$", name)] == []

    (copy / ".helmignore").write_bytes((CHART / ".helmignore").read_bytes())
    for name in (".DS_Store", ".git/config", "templates/a.yaml.orig", "templates/.b.yaml.swp", "values.yaml~", "a.tgz"):
        (copy / name).parent.mkdir(exist_ok=True)
        (copy / name).write_text("left by an editor")
    (tmp_path / "again").mkdir()
    helm("package", copy, f"--destination={tmp_path}/again", version=version)
    with tarfile.open(tmp_path / "again" / package.name) as archive:
        assert sorted(archive.getnames()) == clean


def test_the_readme_follows_the_values() -> None:
    updated = runpy.run_path(str(ROOT / "deploy/helm/update_readme.py"))["updated"]()
    # If this fails: python deploy/helm/update_readme.py
    assert (CHART / "README.md").read_text() == updated
    values = set(re.findall(r"^(\w+):", (CHART / "values.yaml").read_text(), re.MULTILINE))
    assert {row.partition(".")[0] for row in re.findall(r"^\| `([\w.]+)` \|", updated, re.MULTILINE)} == values


def test_the_readme_names_the_versions_of_helm_that_the_tests_run() -> None:
    [shown] = re.findall(r"the chart was tried with (\S+) and (\S+)\.\n", (CHART / "README.md").read_text())
    for version, number in zip(("helm", "helm4"), shown, strict=True):
        assert re.search(rf"helm\.sh/helm/v\d v{number}\.\d+ ", (ROOT / f"tools/{version}/go.mod").read_text())


def test_the_chart_and_the_package_name_the_same_places() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    urls = project["urls"]
    for name in ("Documentation", "Changelog", "Issues"):
        assert f"    - name: {name}\n      url: {urls[name]}\n" in DESCRIPTION
    assert f"home: {urls['Documentation']}\n" in DESCRIPTION
    assert f"sources:\n  - {urls['Source']}\n" in DESCRIPTION
    assert f"  - name: {project['authors'][0]['name']}\n    url: {urls['Source']}\n" in DESCRIPTION
    assert f"artifacthub.io/license: {project['license']}\n" in DESCRIPTION
    repository = urlsplit(urls["Source"]).path
    assert f"    - name: rotator\n      image: ghcr.io{repository}:{__version__}\n" in DESCRIPTION


def test_the_icon_is_a_drawing_of_the_repository() -> None:
    [place] = re.findall(
        r"^icon: https://raw\.githubusercontent\.com/[\w-]+/rotator/main/(\S+)$", DESCRIPTION, re.MULTILINE
    )
    assert ElementTree.parse(ROOT / place).getroot().tag == "{http://www.w3.org/2000/svg}svg"


def test_the_chart_looks_nothing_up() -> None:
    """So that Argo CD and Flux render what Helm installs."""
    for template in (CHART / "templates").rglob("*.*"):
        assert not re.search(r"\b(lookup|rand\w+|now|gen\w+|uuidv4|derivePassword)\b", template.read_text()), template
