"""Builds the documentation site from docs/ into site/, and refuses it if a link in it leads nowhere.

Runs without a network. The pages are written for GitHub's view of the repository. The site gets copies, in which

- a link to a file outside of docs/ leads to the repository's address (`[project.urls]` in pyproject.toml);
- lists have the empty lines and the indentation that the generator's Markdown needs.
"""

import posixpath
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Iterator
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

ROOT = Path(__file__).parent.parent
SITE = ROOT / "site"
SETTINGS = Path(__file__).parent / "site"
LINK = re.compile(r"(?<=\]\()[^)\s#]+(?=[)#])")
CODE = re.compile(r"(`+).*?\1")
COLOURS = re.compile(r"\x1b\[[0-9;]*m")
ITEM = re.compile(r" *(?:-|\d+\.) ")
UNRENDERED = re.compile(r"(?m)^ *(?:[-*] |\d+\. |```|\|).*")
CELL = re.compile(r"(?s)<td\b.*?</td>")
INLINE = frozenset({"a", "abbr", "br", "code", "del", "em", "img", "kbd", "s", "span", "strong", "sub", "sup", "wbr"})
VERBATIM = frozenset({"code", "pre", "script", "strong", "style"})


class BuildError(Exception):
    """The site cannot be built, or has faults."""


@cache
def project_urls() -> dict[str, str]:
    """Return the addresses of the project, by their names."""
    urls: dict[str, str] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]
    return urls


# --- before the build ------------------------------------------------------------------------------------------------


def nav_files(docs: Path) -> dict[str, list[str]]:
    """Return the pages under each entry of the navigation, with the patterns expanded."""
    entries = tomllib.loads(_settings(docs))["project"]["nav"]
    return {title: list(_leaves(pages)) for entry in entries for title, pages in entry.items()}


def _leaves(pages: object) -> Iterator[str]:
    match pages:
        case str():
            yield pages
        case list():
            for page in pages:
                yield from _leaves(page)
        case dict():
            yield from _leaves(list(pages.values()))


def _settings(docs: Path) -> str:
    """Return the generator's settings, with the addresses and the pages that the patterns in `nav` match."""
    urls = project_urls()
    text = (SETTINGS / "zensical.toml").read_text()
    text = text.replace('"DOCUMENTATION"', f'"{urls["Documentation"]}"').replace('"SOURCE"', f'"{urls["Source"]}"')
    return re.sub(r'"([^"]*\*\.md)",?', lambda pattern: _matches(docs, pattern[1]), text)


def _matches(docs: Path, pattern: str) -> str:
    return "".join(f'"{page.relative_to(docs)}", ' for page in sorted(docs.glob(pattern)))


def stage(docs: Path, place: Path) -> None:
    """Copy the settings and the pages to `place`, with links that work on the site."""
    shutil.copytree(docs, place / "docs")
    shutil.copy(SETTINGS / "site.css", place / "docs")
    shutil.copy(ROOT / "deploy/helm/icon.svg", place / "docs")
    (place / "zensical.toml").write_text(_settings(docs))
    for page in sorted((place / "docs").rglob("*.md")):
        folder = Path("docs", page.relative_to(place / "docs")).parent.as_posix()
        page.write_text("".join(f"{line}\n" for line in _adapted(page.read_text().splitlines(), folder)))


def _adapted(lines: Iterable[str], folder: str) -> Iterator[str]:
    """Give each list an empty line before it, four spaces a level to what its items hold, and links for the site."""
    code = in_item = False
    deeper, before = "", ""
    for line in lines:
        if not code:
            indent = len(line) - len(line.lstrip())
            deeper = " " * (indent // 2 * 4 - indent)
            if ITEM.match(line):
                if before and not in_item:
                    yield ""
                in_item = True
        if line.lstrip().startswith("```"):
            code = not code
        in_item = in_item and not code and line != ""
        before = line
        yield f"{deeper}{line if code else _linked(line, folder)}".rstrip()


def _linked(line: str, folder: str) -> str:
    """Return the line with its links to files outside of docs/ and to folders as links to the repository."""
    code = [range(*found.span()) for found in CODE.finditer(line)]

    def replaced(link: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join(folder, link[0]))
        is_folder = (ROOT / path).is_dir()
        if ":" in link[0] or any(link.start() in span for span in code) or (path.startswith("docs/") and not is_folder):
            return link[0]
        if not (ROOT / path).exists():
            raise BuildError(f"{folder}: {link[0]} leads nowhere")
        kind = "tree" if is_folder else "blob"
        return f"{project_urls()['Source']}/{kind}/main/{path}"

    return LINK.sub(replaced, line)


# --- after the build -------------------------------------------------------------------------------------------------


def soften(site: Path) -> None:
    """Let long names of options and metrics break after an underscore, so that tables fit narrow screens."""
    for file in site.rglob("*.html"):
        file.write_text(CELL.sub(lambda cell: re.sub(r"(?<=\w_)(?=\w)(?![^<>]*>)", "<wbr>", cell[0]), file.read_text()))


class Page(HTMLParser):
    """What the checks need of one page of the site."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.loaded: list[str] = []
        """What a browser fetches to show the page."""
        self.unrendered: list[str] = []
        """Markdown that the generator took for text."""
        self._verbatim = 0
        self._paragraph = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Collect ids and addresses."""
        given = {name: value or "" for name, value in attrs}
        self._border(tag)
        self._verbatim += tag in VERBATIM
        if "id" in given:
            self.ids.add(given["id"])
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        elif tag == "link" and given.get("rel") not in {"canonical", "next", "prev"}:
            self.loaded.append(given["href"])
        elif "src" in given:
            self.loaded.append(given["src"])

    def handle_endtag(self, tag: str) -> None:
        """Notice where a paragraph or verbatim text ends."""
        self._border(tag)
        self._verbatim -= tag in VERBATIM

    def handle_data(self, data: str) -> None:
        """Collect the text of a paragraph, with an x in place of verbatim text."""
        self._paragraph += "x" if self._verbatim else data

    def _border(self, tag: str) -> None:
        if tag not in INLINE:
            self.unrendered += UNRENDERED.findall(self._paragraph)
            self._paragraph = ""


class BuiltSite:
    """The files of a built site whose address has the path `base`."""

    def __init__(self, folder: Path, base: str) -> None:
        self.folder = folder
        self.base = base
        self.pages = {file: Page(file.read_text()) for file in sorted(folder.rglob("*.html"))}

    def faults(self) -> list[str]:
        """Return what is wrong with the pages, a sentence each."""
        found = []
        for file, page in self.pages.items():
            wrong = [f"{link} leads nowhere" for link in page.links if not self.has(link, file)]
            wrong += [f"{link} is missing" for link in page.loaded if not self.has(link, file)]
            wrong += [f"{link} is loaded from another host" for link in page.loaded if urlsplit(link).netloc]
            wrong += [f"Markdown is shown as text: {text!r}" for text in page.unrendered]
            found += [f"{file.relative_to(self.folder)}: {each}" for each in wrong]
        return found

    def has(self, link: str, file: Path) -> bool:
        """Return whether a link of the page `file` leads to another host, or to a place that exists."""
        parts = urlsplit(link)
        if parts.scheme or parts.netloc:
            return True
        path = unquote(parts.path)
        there = file
        if path.startswith(self.base):
            there = self.folder / path.removeprefix(self.base)
        elif path:
            there = (file.parent / path).resolve()
        if there.is_dir():
            there /= "index.html"
        return there.exists() and (not parts.fragment or unquote(parts.fragment) in self.pages[there].ids)


def build(docs: Path, site: Path) -> None:
    """Build the site. Raise BuildError, and leave `site` as it is, if it has a fault."""
    with tempfile.TemporaryDirectory(prefix="rotator-site-") as folder:
        place = Path(folder).resolve()
        stage(docs, place)
        generator = [
            sys.executable,
            "-m",
            "zensical",
            "build",
            "--strict",
            "--config-file",
            str(place / "zensical.toml"),
        ]
        ended = subprocess.run(generator, capture_output=True, text=True, check=False)
        if ended.returncode:
            raise BuildError(COLOURS.sub("", ended.stdout + ended.stderr))
        soften(place / "site")
        wrong = BuiltSite(place / "site", urlsplit(project_urls()["Documentation"]).path).faults()
        if wrong:
            raise BuildError("\n".join(wrong))
        shutil.rmtree(site, ignore_errors=True)
        shutil.move(place / "site", site)


if __name__ == "__main__":
    try:
        build(ROOT / "docs", SITE)
    except BuildError as error:
        sys.exit(f"The site was not built.\n{error}")
    print(f"The site is in {SITE}; open {SITE / 'index.html'}, or serve the folder with python -m http.server.")
