"""The documentation site: its build is strict, its navigation is complete, and alerts link to it."""

import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tools.build_site import BuildError, BuiltSite, build, nav_files, project_urls, stage

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
OFFLINE = ("unshare", "--map-root-user", "--net")  # a user namespace, which some machines forbid
BUILD = "import sys, pathlib; from tools.build_site import build; build(*map(pathlib.Path, sys.argv[1:]))"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> BuiltSite:
    """The site as it is, built without a network where the machine allows that."""
    place = tmp_path_factory.mktemp("site") / "site"
    isolated = subprocess.run((*OFFLINE, "true"), check=False, capture_output=True).returncode == 0
    command = (*(OFFLINE if isolated else ()), sys.executable, "-c", BUILD, DOCS, place)
    ended = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    return BuiltSite(place, "/rotator/")


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    """A copy of the pages, for a test to break."""
    return Path(shutil.copytree(DOCS, tmp_path / "docs"))


def page(site: BuiltSite, name: str) -> str:
    return (site.folder / name / "index.html").read_text()


def test_each_page_is_under_one_of_four_entries() -> None:
    # If this fails: add the page to `nav` in tools/site/zensical.toml.
    entries = nav_files(DOCS)
    assert list(entries) == ["Try it", "Install it", "Operate it", "Understand it"]
    shown = Counter(name for names in entries.values() for name in names)
    every = {str(file.relative_to(DOCS)) for file in DOCS.rglob("*.md")}
    assert shown == Counter(every - {"index.md"})


def test_the_landing_page_leads_to_the_four_entries(site: BuiltSite) -> None:
    firsts = {f"{names[0].removesuffix('.md')}/" for names in nav_files(DOCS).values()}
    text = page(site, "").partition('<article class="md-content__inner')[2].partition("</article>")[0]
    assert firsts <= set(re.findall(r'href="([^"]+)"', text))


@pytest.mark.parametrize(
    "broken",
    ["[a page](nowhere.md)", "[an anchor](windows.md#nowhere)", "[an anchor](#nowhere)", "![a picture](nowhere.svg)"],
)
def test_a_broken_link_stops_the_build_and_leaves_the_last_site(broken: str, docs: Path, tmp_path: Path) -> None:
    last = tmp_path / "site" / "index.html"
    last.parent.mkdir()
    last.write_text("the last one")
    with (docs / "usage.md").open("a") as usage:
        usage.write(f"\n{broken}\n")
    with pytest.raises(BuildError, match=r"nowhere|does not exist"):
        build(docs, last.parent)
    assert last.read_text() == "the last one"


def test_a_link_to_a_file_outside_of_the_pages_leads_to_the_repository(docs: Path, tmp_path: Path) -> None:
    source = project_urls()["Source"]
    links = "[a](../LICENSE) [b](../deploy/grafana) [c](../CONTRIBUTING.md#set-up) `[d](../LICENSE)` [e](usage.md#x)"
    (docs / "usage.md").write_text(links)
    stage(docs, tmp_path / "staged")
    assert (tmp_path / "staged/docs/usage.md").read_text().split() == [
        f"[a]({source}/blob/main/LICENSE)",
        f"[b]({source}/tree/main/deploy/grafana)",
        f"[c]({source}/blob/main/CONTRIBUTING.md#set-up)",
        "`[d](../LICENSE)`",
        "[e](usage.md#x)",
    ]
    (docs / "usage.md").write_text("[f](../nowhere.toml)")
    with pytest.raises(BuildError, match="nowhere"):
        stage(docs, tmp_path / "again")


def test_lists_as_github_reads_them_are_lists_on_the_site(docs: Path, tmp_path: Path) -> None:
    github = "Do this:\n1. One\n   more.\n\n   ```sh\n   a\n     [b](c)\n   ```\n2. Two:\n   - three\n"
    (docs / "usage.md").write_text(github)
    stage(docs, tmp_path / "staged")
    assert (tmp_path / "staged/docs/usage.md").read_text() == (
        "Do this:\n\n1. One\n    more.\n\n    ```sh\n    a\n      [b](c)\n    ```\n\n2. Two:\n    - three\n"
    )


@pytest.mark.parametrize(
    ("html", "wrong"),
    [
        ('<a href="nowhere/">', "nowhere/ leads nowhere"),
        ('<a href="/rotator/nowhere/">', "/rotator/nowhere/ leads nowhere"),
        ('<a href="other.html#nowhere">', "other.html#nowhere leads nowhere"),
        ('<script src="nowhere.js"></script>', "nowhere.js is missing"),
        (
            '<link rel="stylesheet" href="https://example.org/a.css">',
            "https://example.org/a.css is loaded from another",
        ),
        ('<img src="//example.org/a.png">', "//example.org/a.png is loaded from another host"),
        ("<p>Do this:\n- one</p>", "Markdown is shown as text: '- one'"),
        ("<p>| a |\n|---|</p>", "Markdown is shown as text: '| a |'"),
        ('<a href="other.html#there">', None),
        ('<a href="/rotator/other.html">', None),
        ('<link rel="canonical" href="https://example.org/">', None),
        ("<pre>- one</pre><p><strong>1. One</strong> and\n<code>- x</code></p>", None),
    ],
)
def test_what_is_wrong_with_a_built_page_is_found(html: str, wrong: str | None, tmp_path: Path) -> None:
    (tmp_path / "other.html").write_text('<h2 id="there">There</h2>')
    (tmp_path / "index.html").write_text(html)
    found = BuiltSite(tmp_path, "/rotator/").faults()
    assert found == [] if wrong is None else wrong in found[0]


def test_no_style_sheet_loads_from_another_host(site: BuiltSite) -> None:
    sheets = [*site.folder.rglob("*.css")]
    assert sheets
    assert [
        sheet for sheet in sheets if re.search(r"(?:url\(|@import)\s*[\"']?(?:https?:)?//", sheet.read_text())
    ] == []


def test_each_alert_links_to_its_section(site: BuiltSite) -> None:
    rules = (ROOT / "deploy/prometheus/rules.yaml").read_text()
    alerts = re.findall(r"- alert: (\w+)", rules)
    links = re.findall(r"runbook_url: \S+#(\w+)", rules)
    assert links == [alert.lower() for alert in alerts]
    assert set(links) <= site.pages[site.folder / "runbook/index.html"].ids


def test_each_link_to_the_site_leads_to_a_page_of_it(site: BuiltSite) -> None:
    address = project_urls()["Documentation"].removesuffix("/rotator/")
    link = re.compile(re.escape(address) + r"(/[\w/.#-]*)")
    folders = (ROOT / name for name in (".github", "deploy", "docs", "rotator", "tools"))
    files = [file for folder in folders for file in folder.rglob("*")]
    found = {
        (str(file.relative_to(ROOT)), path)
        for file in (*files, *ROOT.iterdir())
        if file.is_file()
        for path in link.findall(file.read_text(errors="ignore"))
    }
    assert ("pyproject.toml", "/rotator/") in found
    assert [each for each in sorted(found) if not site.has(each[1].rstrip("."), site.folder / "index.html")] == []
