"""How a secret may be spelled in a text, and where it stands there, whole or in part. Pure.

A text is read as a program would decode it (percent signs, backslashes, character references), and each character of
that view knows where it came from. A known secret is looked for by its fragments: in every spelling each eight
characters in a row, as hashes, so that no text is kept. Each function takes time in proportion to the text, whatever is
in it.
"""

import re
from base64 import urlsafe_b64encode
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import dataclass

FRAGMENT = 8
"""Characters in a row by which a known secret is found: where a text breaks off, at most one fewer is shown."""

# Each branch takes all that it can and gives nothing back: no run of backslashes or percent signs is read twice.
_ESCAPE = (
    r"%(?:25)*+(?P<percent>[0-9A-Fa-f]{2})"
    r"|\\++(?:u(?P<unit>[0-9A-Fa-f]{4})|x(?P<byte>[0-9A-Fa-f]{2})|(?P<layout>[abfnrtv]))?+"
    r"|&(?:amp;)*+#(?:[xX](?P<entity>[0-9A-Fa-f]{1,6})|(?P<number>[0-9]{1,7}));"
)
_DROPPED = r"\x00-\x20\x7f-\U0010ffff\"'`\\:,;|<>(){}\[\]"
_ESCAPES = re.compile(_ESCAPE)
_PIECES = re.compile(rf"(?P<plain>[^{_DROPPED}%&]++)|{_ESCAPE}|(?P<lone>[%&])")
_IS_DROPPED = re.compile(f"[{_DROPPED}]")
_JOINTS = re.compile(r"[\r\n;][\s\"',;>|]*+")
"""Where a text is broken into lines, or was put together from several."""

_URLSAFE = str.maketrans("+/", "-_")
_PREFIXED = re.compile(r"[A-Za-z0-9]{8}(?=\.[A-Za-z0-9_-]{16})")
"""A key may be a public prefix, a dot and the secret part. Ids may begin with the prefix, so it alone is no secret."""

_TELLING = re.compile(r"(?s)(?=.{0,7}[^A-Za-z._~=-]|.{0,6}[a-z][A-Z]|.{0,5}[A-Z]{2}[a-z])(?=(.{8}))")
"""Each fragment that is no part of ordinary words."""

_AROUND = re.compile("[A-Za-z0-9._~-]")

Span = tuple[int, int]
"""Where something begins and ends."""


@dataclass(frozen=True, slots=True)
class View:
    """Another reading of a text: `pieces` of it, which begin at these `offsets` of the reading.

    A piece that is as long as here was copied; any other is an escape, and here one character.
    """

    text: str
    offsets: Sequence[int]
    pieces: Sequence[Span]
    of: "View | None" = None  # whose pieces they are, if not the text's own

    def source(self, start: int, end: int) -> Span:
        """Return where a part of the reading stands in the text."""
        first, last = self._piece(start), self._piece(end - 1)
        found = first[0], last[1]
        return self.of.source(*found) if self.of else found

    def _piece(self, at: int) -> Span:
        number = bisect_right(self.offsets, at) - 1
        start, end = self.pieces[number]
        offset = self.offsets[number]
        length = (self.offsets[number + 1] if number + 1 < len(self.offsets) else len(self.text)) - offset
        return (start + at - offset, start + at - offset + 1) if end - start == length else (start, end)


class _Reading:
    """A view that is being put together."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._parts: list[str] = []
        self._offsets: list[int] = []
        self._pieces: list[Span] = []
        self._length = 0

    def add(self, start: int, end: int, read_as: str | None = None) -> None:
        """Add the next piece of the text; `read_as` is what an escape stands for."""
        part = self._text[start:end] if read_as is None else read_as
        if part:
            self._parts.append(part)
            self._offsets.append(self._length)
            self._pieces.append((start, end))
            self._length += len(part)

    def view(self, of: View | None = None) -> View:
        """Return what was put together."""
        return View("".join(self._parts), self._offsets, self._pieces, of)


def decoded(text: str) -> View:
    """Return the text with its escapes decoded."""
    reading, done = _Reading(text), 0
    for found in _ESCAPES.finditer(text):
        reading.add(done, found.start())
        reading.add(*found.span(), _character(found))
        done = found.end()
    reading.add(done, len(text))
    return reading.view()


def joined(view: View) -> View:
    """Return the same without the breaks between lines, and between joined texts: a secret may continue behind one."""
    reading, done = _Reading(view.text), 0
    for found in _JOINTS.finditer(view.text):
        stretch = view.text[done : found.start()]
        reading.add(done, done + len(stretch.rstrip(" \t\"'")))
        done = found.end()
    reading.add(done, len(view.text))
    return reading.view(view)


def condensed(text: str) -> View:
    """Return the text decoded, as printable ASCII without separators, quotes and escapes, in one alphabet of base64."""
    reading = _Reading(text)
    for found in _PIECES.finditer(text):
        if found.lastgroup in ("plain", "lone"):
            reading.add(*found.span())
        else:
            reading.add(*found.span(), _IS_DROPPED.sub("", _character(found)))
    view = reading.view()
    return View(view.text.translate(_URLSAFE), view.offsets, view.pieces)


def _character(found: re.Match[str]) -> str:
    """Return what an escape stands for; "" for a backslash that escapes nothing."""
    match found.lastgroup:
        case "percent" | "unit" | "byte" | "entity":
            number = int(found[found.lastgroup], 16)
        case "number":
            number = int(found["number"])
        case "layout":
            return "\n" if found["layout"] in "nr" else " "
        case _:
            return ""
    return chr(number) if number <= 0x10FFFF else ""


# --- a known secret --------------------------------------------------------------------------------------------------


def plain(secret: str) -> str:
    """Return how a secret stands in a condensed text."""
    return condensed(secret).text


def fragments(secret: str) -> frozenset[int]:
    """Return hashes of all fragments of a secret: as it is, in hex, and in base64 at each offset in a longer text."""
    raw = secret.encode(errors="surrogatepass")
    prefix = _PREFIXED.match(secret)
    forms = [plain(secret[prefix.end() :] if prefix else secret), raw.hex(), *_in_base64(raw)]
    return frozenset(hash(fragment) for form in forms for fragment in _telling(form))


def _telling(text: str) -> Iterator[str]:
    """In small letters: a server may repeat a key in capitals, and many kinds of key lose nothing by that."""
    return map(str.lower, _TELLING.findall(text))


def length_as_words(secret: str) -> int:
    """Return the length of the plain text where it must be looked for as a whole: a fragment may be ordinary words."""
    text = plain(secret)
    return len(text) if len(_TELLING.findall(text)) <= len(text) - FRAGMENT else 0


def _in_base64(raw: bytes) -> Iterator[str]:
    for shift in range(3):
        first, last = -(-shift * 8 // 6), (shift + len(raw)) * 8 // 6
        yield urlsafe_b64encode(bytes(shift) + raw).decode()[first:last]


def occurrences(view: View, known: Set[int], whole: Iterable[str]) -> Iterator[Span]:
    """Yield where known fragments and these whole texts stand in a condensed text, with the few characters around."""
    text = view.text
    is_in = not known.isdisjoint(map(hash, _telling(text)))  # most texts hold none
    hits = [found.start() for found in _TELLING.finditer(text) if hash(found[1].lower()) in known] if is_in else []
    words = (found.span() for form in whole for found in re.finditer(re.escape(form), text, re.IGNORECASE))
    found = [*_runs(hits), *words]
    for start, end in merged(found):
        yield _with_the_rest(view, start, end)


def _runs(hits: Iterable[int]) -> Iterator[Span]:
    """Yield the fragments that begin at these places; those that touch each other as one."""
    start = end = 0
    for at in hits:
        if at > end:
            if end:
                yield start, end
            start = at
        end = at + FRAGMENT
    if end:
        yield start, end


def _with_the_rest(view: View, start: int, end: int) -> Span:
    """Return the place in the text, with a key's prefix, and with what is too short for a fragment at each end."""
    text = view.text
    if text[start] == "." and text[max(0, start - 8) : start].isalnum():
        start = max(0, start - 8)
    first, last = view.source(start, end)
    for at in range(start - 1, max(-1, start - FRAGMENT), -1):
        begin, after = view.source(at, at + 1)
        if after != first or not _AROUND.match(text[at]):
            break
        first = begin
    for at in range(end, min(len(text), end + FRAGMENT - 1)):
        before, after = view.source(at, at + 1)
        if before != last or not _AROUND.match(text[at]):
            break
        last = after
    return first, last


def merged(spans: Iterable[Span]) -> list[Span]:
    """Return the spans in order; those that touch each other as one."""
    found: list[Span] = []
    for start, end in sorted(spans):
        if found and start <= found[-1][1]:
            found[-1] = found[-1][0], max(end, found[-1][1])
        else:
            found.append((start, end))
    return found
