"""How the pages of a list follow each other."""

from collections.abc import Sequence
from dataclasses import dataclass

from rotator.providers.http_provider.pointers import Pointer
from rotator.providers.http_provider.tables import CursorPaging, NextPaging, OffsetPaging, PagePaging, Paging
from rotator.providers.http_provider.templates import Values

LONGEST_CURSOR = 4096


def first(paging: Paging) -> Values:
    """Return the variables of the first page."""
    match paging:
        case PagePaging():
            return {"page": paging.first}
        case OffsetPaging():
            return {"offset": 0}
    return {}


@dataclass(frozen=True, slots=True)
class Unclear:
    """It is not clear whether another page follows."""

    flaw: str


def after(paging: Paging, values: Values, page: object, entries: Sequence[object]) -> Values | str | Unclear | None:
    """Return the variables of the next page, or its URL; None at the end."""
    match paging:
        case NextPaging():
            return _text(paging.at, page)
        case CursorPaging():
            return _cursor(paging, page)
        case PagePaging():
            return _page(paging, values, page, entries)
        case OffsetPaging() if entries:
            offset = values["offset"]
            return {"offset": offset + len(entries)} if isinstance(offset, int) else None
    return None


def _cursor(paging: CursorPaging, page: object) -> Values | Unclear | None:
    more = paging.more.of(page) if paging.more else True
    if not isinstance(more, bool):
        return Unclear(f"shows neither true nor false at {paging.more}")
    cursor = _text(paging.at, page) if more else None
    if isinstance(cursor, Unclear):
        return cursor
    if more and paging.more and cursor is None:
        return Unclear(f"shows that a page follows, and no cursor at {paging.at}")
    return {"cursor": cursor} if cursor is not None else None


def _page(paging: PagePaging, values: Values, page: object, entries: Sequence[object]) -> Values | Unclear | None:
    number, total = values["page"], paging.pages.of(page) if paging.pages else None
    if not isinstance(number, int):
        return None
    if paging.pages is None:
        return {"page": number + 1} if entries else None
    if not isinstance(total, int) or isinstance(total, bool):
        return Unclear(f"shows no number of pages at {paging.pages}")
    return {"page": number + 1} if number - paging.first + 1 < total else None


def _text(pointer: Pointer, page: object) -> str | Unclear | None:
    found = pointer.of(page)
    if found is None or found == "":
        return None
    if isinstance(found, int) and not isinstance(found, bool):
        return str(found)
    if not isinstance(found, str) or len(found) > LONGEST_CURSOR:
        return Unclear(f"shows no text at {pointer}")
    return found
