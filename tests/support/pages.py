"""Reads a page more strictly than a browser: an element left open or closed twice is an error."""

from dataclasses import dataclass, field
from html.parser import HTMLParser

VOID = frozenset({"br", "input", "link", "meta"})
Attributes = dict[str, str | None]


@dataclass
class Element:
    """One element, with its contents."""

    tag: str
    attributes: Attributes
    children: list["Element | str"] = field(default_factory=list)

    @property
    def text(self) -> str:
        """Return all text in it, with single spaces."""
        parts = (child if isinstance(child, str) else child.text for child in self.children)
        return " ".join(" ".join(parts).split())

    def all(self, tag: str = "", **attributes: str) -> list["Element"]:
        """Return the elements within it in order, with this tag and these attributes (`class_`: one of the classes)."""
        found = []
        for child in self.children:
            if isinstance(child, Element):
                wanted = {name.rstrip("_"): value for name, value in attributes.items()}
                if child.tag == (tag or child.tag) and all(
                    value in (child.attributes.get(name) or "").split()
                    if name == "class"
                    else child.attributes.get(name) == value
                    for name, value in wanted.items()
                ):
                    found.append(child)
                found += child.all(tag, **attributes)
        return found

    def one(self, tag: str = "", **attributes: str) -> "Element":
        """Return the only such element."""
        [found] = self.all(tag, **attributes)
        return found


class _Parser(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.root = Element("", {})
        self.open = [self.root]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs), f"<{tag}> has an attribute twice: {attrs}"
        element = Element(tag, dict(attrs))
        self.open[-1].children.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open[-1].children.append(Element(tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open[-1].tag == tag, f"</{tag}> where <{self.open[-1].tag}> is open"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.open[-1].children.append(data)


def read_page(html: str) -> Element:
    """Return the whole document."""
    parser = _Parser()
    parser.feed(html)
    parser.close()
    assert parser.open == [parser.root], f"still open: {[element.tag for element in parser.open]}"
    return parser.root


def rows(page: Element) -> dict[str, dict[str, str]]:
    """Return the targets by name: the text of each column, in the order of the page."""
    if not page.all("table"):
        return {}
    heads = [head.text for head in page.one("thead").all("th")]
    found = {}
    for row in page.one("tbody").all("tr"):
        cells = [cell.text for cell in row.children if isinstance(cell, Element)]
        name, path = cells[0].split(" ")
        found[name] = {"path": path, **dict(zip(heads[1:], cells[1:], strict=True))}
    return found
