"""How the pages of a list follow each other."""

from collections.abc import Sequence

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


def after(paging: Paging, values: Values, page: object, entries: Sequence[object]) -> Values | str | None:
    """Return the variables of the next page, or its URL; None at the end. Raises ValueError if it is not clear."""
    match paging:
        case NextPaging():
            return _text(paging.at, page)
        case CursorPaging():
            return _cursor(paging, page)
        case PagePaging():
            return _page(paging, values, page, entries)
        case OffsetPaging() if entries:
            return {"offset": _number(values["offset"]) + len(entries)}
    return None


def _cursor(paging: CursorPaging, page: object) -> Values | None:
    more = paging.more.of(page) if paging.more else True
    if not isinstance(more, bool):
        raise ValueError(f"does not show true or false at {paging.more}")  # noqa: TRY004 - one error for both kinds
    cursor = _text(paging.at, page) if more else None
    if more and paging.more and cursor is None:
        raise ValueError(f"shows that a page follows, and no cursor at {paging.at}")
    return {"cursor": cursor} if cursor is not None else None


def _page(paging: PagePaging, values: Values, page: object, entries: Sequence[object]) -> Values | None:
    number = _number(values["page"])
    if paging.pages is None:
        return {"page": number + 1} if entries else None
    return {"page": number + 1} if number - paging.first + 1 < _number(paging.pages.of(page), paging.pages) else None


def _text(pointer: Pointer, page: object) -> str | None:
    found = pointer.of(page)
    if found is None or found == "":
        return None
    if isinstance(found, int) and not isinstance(found, bool):
        return str(found)
    if not isinstance(found, str) or len(found) > LONGEST_CURSOR or not found.isprintable():
        raise ValueError(f"shows no text at {pointer}")
    return found


def _number(value: object, pointer: Pointer | None = None) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(f"shows no number at {pointer}")  # noqa: TRY004 - one error for both kinds
    return value
