"""What a provider's answer shows: its words, an id, a time. Texts from outside are quoted short, on one line."""

import json
import re
from dataclasses import dataclass, field
from datetime import MAXYEAR, UTC, datetime
from typing import TypeGuard

from rotator.core.secrets import Secret
from rotator.core.versions import LONGEST_TEXT
from rotator.runtime.redact import quoted

MAX_SHOWN = 60  # characters of a value that is not understood

EARLIEST, LATEST = datetime(2000, 1, 1, tzinfo=UTC), datetime(3000, 1, 1, tzinfo=UTC)
EARLIEST_MILLISECOND = EARLIEST.timestamp() * 1000
END_OF_TIME = datetime(MAXYEAR, 12, 31, 23, 59, 59, tzinfo=UTC)

_TITLE = re.compile("<title[^>]*>", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Answer:
    """A status, and what came with it."""

    status: int
    content_type: str
    retry_after: str  # the header; "" when there is none
    key: Secret  # the organisation key that was sent: an answer may echo it
    body: bytes | None = field(default=None, repr=False)  # None: it did not arrive whole
    trouble: str = "the rest of the answer did not come"  # why there is no body

    def parsed(self) -> dict[str, object] | list[object] | None:
        """The body, if it is an object or an array."""
        try:
            value = json.loads(self.body or b"")
        except (ValueError, RecursionError):
            return None
        return value if isinstance(value, dict | list) else None

    def words(self) -> str:
        """Return its own words: Respan's `detail` and `errors`, or a page's title; never the rest of the body."""
        parsed = self.parsed()
        if not isinstance(parsed, dict):
            return quoted(self._page() if self.body is not None else self.trouble, self.key.reveal())
        words = [parsed.get("detail")]
        errors = parsed.get("errors")
        for name, messages in errors.items() if isinstance(errors, dict) else ():
            words += [f"{name}: {text}" for text in (messages if isinstance(messages, list) else [messages])]
        said = "; ".join(text for text in words if isinstance(text, str))
        new = parsed.get("api_key")
        shown = quoted(said, self.key.reveal(), new if isinstance(new, str) else "")
        return shown.replace(".; ", "; ").rstrip(" .")  # without full stops: they stand within a sentence of ours

    def _page(self) -> str:
        text = (self.body or b"").decode(errors="replace")
        head = text[:4096]
        if "html" not in self.content_type.lower() and not head.lstrip().lower().startswith(("<!doctype", "<html")):
            return ""
        title = _TITLE.search(head)
        if title is None:
            return "an HTML page (a proxy?)"
        words = text[title.end() :].partition("<")[0]  # whole: `quoted` searches it before it cuts it
        return f'an HTML page (a proxy?): "{words.strip()}"'


def is_id(value: object) -> TypeGuard[str]:
    """Return whether it may be an id, and leads no server or proxy to another path."""
    return (
        isinstance(value, str)
        and 0 < len(value) <= LONGEST_TEXT
        and value.isprintable()
        and {".", ".."}.isdisjoint(re.split(r"[/\\]", value))
    )


def moment(value: object) -> datetime:
    """Read a time, in UTC if it names no zone. Raises TypeError, ValueError or OverflowError if there is any doubt.

    A number is Unix time in seconds or in milliseconds: no number is a year of this millennium in both. The last
    day of the calendar, which means "never", may lie beyond its end in UTC.
    """
    if isinstance(value, int | float) and not isinstance(value, bool):
        seconds = value if value < EARLIEST_MILLISECOND else value / 1000
        if not EARLIEST <= (moment := datetime.fromtimestamp(seconds, UTC)) < LATEST:
            raise ValueError
        return moment
    if not isinstance(value, str) or value.isdecimal():
        raise ValueError  # 13 digits would be read as a date and a time of day
    moment = datetime.fromisoformat(value)
    try:
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    except OverflowError:
        if moment.year == MAXYEAR:
            return END_OF_TIME
        raise


def shown(value: object) -> str:
    """Return a value that is not understood, for a message."""
    if isinstance(value, str):
        return f'"{quoted(value)}"' if len(value) <= MAX_SHOWN else f"a text of {len(value)} characters"
    if isinstance(value, list | dict):
        return "an array" if isinstance(value, list) else "an object"
    return quoted(json.dumps(value))


def escaped(text: str) -> str:
    """Return the text with what is not printable as Python escapes it."""
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)
