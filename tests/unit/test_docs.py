"""Holds the documentation to its rules: short lines, plain words, few words, links that resolve, current tables."""

import re
import runpy
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [
    *(
        ROOT / name
        for name in (
            "README.md",
            "CHANGELOG.md",
            "CONTRIBUTING.md",
            "SECURITY.md",
            "benchmarks/README.md",
            "deploy/helm/rotator/README.md",
        )
    ),
    *sorted((ROOT / "docs").rglob("*.md")),
]
BANNED = re.compile(
    r"\b(somebody|someone|anybody|nobody|no one|whoever|whomever|tells?|told|telling|says?|said|saying|hears?|heard|"
    r"once more|any ?more|for ever|forever|by (itself|themselves)|lets? \w+ end|mend(s|ed|ing)?|as far as|"
    r"vendors?|peers?)\b",
    re.IGNORECASE,
)
WIDEST = 120
MOST_WORDS = {"docs": 21_000, "CHANGELOG.md": 900}
"""Outside of code blocks and generated tables."""


def named(page: Path) -> str:
    return str(page.relative_to(ROOT))


def prose(page: Path) -> Iterator[tuple[int, str]]:
    """The numbered lines outside of code blocks."""
    code = False
    for number, line in enumerate(page.read_text().splitlines(), 1):
        if line.lstrip().startswith("```"):
            code = not code
        elif not code:
            yield number, line


def words(page: Path) -> int:
    """Count the words that a person wrote; the marks of a table are none."""
    text = "\n".join(line for _, line in prose(page))
    return len(re.findall(r"\S*\w\S*", re.sub(r"(?s)<!-- table.*?<!-- end -->", "", text)))


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_no_line_is_too_wide(page: Path) -> None:
    wide = [number for number, line in prose(page) if len(line) > WIDEST and not line.startswith(("|", "!["))]
    assert wide == []


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_no_word_is_used_that_the_language_rules_ban(page: Path) -> None:
    plain = [(number, re.sub("`[^`]*`|LLM vendors", "", line)) for number, line in prose(page)]
    found = [f"{number}: {word[0]}" for number, line in plain for word in BANNED.finditer(line)]
    assert found == []


@pytest.mark.parametrize("place", MOST_WORDS)
def test_the_documentation_stays_short(place: str) -> None:
    total = sum(words(page) for page in PAGES if named(page).startswith(place))
    assert total < MOST_WORDS[place]


def test_the_readme_answers_a_stranger_s_questions_on_its_first_screen() -> None:
    first = "\n".join((ROOT / "README.md").read_text().splitlines()[:32])
    answers = ("What is Respan?", "Why short-lived keys?", "Not yet against the live service", "CONTRIBUTING.md")
    assert [each for each in (*answers, "make demo", "make test") if each not in first] == []


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_relative_link_resolves(page: Path) -> None:
    text = "\n".join(line for _, line in prose(page))
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        file, _, anchor = link.partition("#")
        if file.startswith(("http://", "https://")):
            continue
        there = (page.parent / file).resolve() if file else page
        if not there.exists() or (anchor and anchor not in anchors(there)):
            broken.append(link)
    assert broken == []


def anchors(page: Path) -> set[str]:
    """The fragments of a page's headings, as GitHub makes them."""
    headings = re.findall(r"(?m)^#+ (.+)$", page.read_text())
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_table_has_a_head(page: Path) -> None:
    lines = ["", *(line for _, line in prose(page)), ""]
    begins = [n for n, line in enumerate(lines) if line.startswith("|") and not lines[n - 1].startswith("|")]
    assert [lines[n] for n in begins if not re.fullmatch(r"[|\s:-]+", lines[n + 1])] == []


def test_the_tables_are_those_of_the_code() -> None:
    # If this fails: python -m tools.docs_tables
    tables = runpy.run_path(str(ROOT / "tools/docs_tables.py"))
    assert tables["stale_pages"]() == {}


@pytest.mark.parametrize("line", ["Nobody is told.", "It works by itself.", "until it is mended"])
def test_a_banned_word_is_found(line: str) -> None:
    assert BANNED.search(line)
