"""What a provider's answer shows: its words, an id, a time. Texts from outside are quoted short, on one line."""

import json
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import MAXYEAR, UTC, datetime, timedelta
from typing import TypeGuard

from rotator.core.keys import CreatedKey, ListedKey, ProviderKey, UnreadableKey
from rotator.core.secrets import Secret
from rotator.core.use import CapUse, KeyUse
from rotator.core.versions import LONGEST_TEXT
from rotator.runtime.redact import quoted, register

Content = dict[str, object] | list[object]
"""The JSON of an answer."""

MAX_KEY = 4096  # characters of a key's text: every line of output is searched for it
MAX_SHOWN = 60  # characters of a value that is not understood
MAX_SEARCHED = 30  # fields of an object that are searched for the text of a new key
MAX_COUNT = 2.0**53  # calls, tokens or money that a key has used: above it a float counts no single call
MAX_AHEAD = timedelta(minutes=1)  # by which a provider's clock may be ahead of ours when it shows the last use

NEVER = ("", "never")
"""Texts in the place of an expiry that leave no doubt."""

EARLIEST, LATEST = datetime(2000, 1, 1, tzinfo=UTC), datetime(3000, 1, 1, tzinfo=UTC)
EARLIEST_MILLISECOND = EARLIEST.timestamp() * 1000
END_OF_TIME = datetime(MAXYEAR, 12, 31, 23, 59, 59, tzinfo=UTC)

_KEY = re.compile("[!-~]+")  # what a header can hold: a sentence, or a masked key, is none
_TITLE = re.compile("<title[^>]*>", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Answer:
    """A status, and what came with it."""

    status: int
    content_type: str
    retry_after: str  # the header; "" when there is none
    credential: Secret  # that was sent: an answer may echo it
    body: bytes | None = field(default=None, repr=False)  # None: it did not arrive whole
    trouble: str = "the rest of the answer did not come"  # why there is no body
    is_gone: bool = False  # it shows that there is no such key

    def parsed(self) -> Content | None:
        """Return the JSON of the body if it is an object or an array."""
        try:
            value = json.loads(self.body or b"")
        except (ValueError, RecursionError):
            return None
        return value if isinstance(value, dict | list) else None

    @property
    def is_success(self) -> bool:
        """Whether the status is 2xx."""
        return 200 <= self.status < 300

    @property
    def summary(self) -> str:
        """The status and the answer's own words in one short line."""
        words = self.words()
        return f"{self.status}: {words}" if words else f"{self.status}"

    def words(self) -> str:
        """Return its own words: what APIs call detail, message or error, or a page's title; never the rest."""
        parsed, credential = self.parsed(), self.credential.reveal()
        if not isinstance(parsed, dict):
            return quoted(self._page() if self.body is not None else self.trouble, credential)
        words = "; ".join(text for text in _words_in(parsed) if isinstance(text, str))
        shown = quoted(words, credential, *_new_keys_in(parsed))
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


def _words_in(parsed: dict[str, object]) -> Iterator[object]:
    """Yield what may be words for a person; what is no text is none."""
    for name in ("detail", "message", "error"):
        value = parsed.get(name)
        yield value.get("message") if isinstance(value, dict) else value
    errors = parsed.get("errors")
    if isinstance(errors, list):
        yield from (error.get("message") if isinstance(error, dict) else error for error in errors)
    elif isinstance(errors, dict):
        for name, messages in errors.items():
            yield from (f"{name}: {text}" for text in (messages if isinstance(messages, list) else [messages]))


def _new_keys_in(parsed: dict[str, object], *, is_inner: bool = False) -> Iterator[str]:
    """Yield what may be the text of a new key, which a failed create may quote."""
    for name, value in list(parsed.items())[:MAX_SEARCHED]:
        if isinstance(value, dict) and not is_inner:
            yield from _new_keys_in(value, is_inner=True)
        elif isinstance(value, str) and name.lower().endswith(("key", "token", "secret", "value")):
            yield value


def is_not_found(answer: Answer) -> bool:
    """Return whether the answer shows that there is no such key: a 404."""
    return answer.status == 404


def is_id(value: object) -> TypeGuard[str]:
    """Return whether it may be an id, and leads no server or proxy to another path."""
    return (
        isinstance(value, str)
        and 0 < len(value) <= LONGEST_TEXT
        and value.isprintable()
        and {".", ".."}.isdisjoint(re.split(r"[/\\]", value))
    )


def shown_key(
    key_id: object,
    name: object,
    expires_at: object,
    created_at: object = None,
    called: str = "expires_at",
    use: KeyUse | None = None,
) -> ListedKey:
    """Return the key that an entry of a list shows, by what stands in the places of its id, name and times.

    Only the id is required; a key without an expiry never expires. `called` is what the answer calls the expiry, and
    `use` is what it shows of the key's use.
    """
    name = escaped(name[:LONGEST_TEXT]) if isinstance(name, str) else ""
    if not is_id(key_id):
        return UnreadableKey("", name, f"whose id is {shown(key_id)}")
    is_never = expires_at is None or (isinstance(expires_at, str) and expires_at.lower() in NEVER)
    try:
        expires = None if is_never else moment(expires_at)
    except (TypeError, ValueError, OverflowError):
        return UnreadableKey(key_id, name, f"whose {called} is {shown(expires_at)}")
    created = None
    with suppress(TypeError, ValueError, OverflowError):
        created = moment(created_at)  # it only shows how young a key is, so it may be missing
    return ProviderKey(key_id, name, expires, created, use)


def counted(value: object) -> float | None:
    """Return a number of calls or an amount of money; None if there is any doubt, since a guess would be a counter."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MAX_COUNT:
        return None
    return float(value)


def counted_down(limit: object, left: object) -> float | None:
    """Return how much of a limit is used, by what is left of it: below 0 where more was used than allowed."""
    whole, over = counted(limit), counted(-left) if isinstance(left, int | float) and left < 0 else None
    rest = counted(left) if over is None else -over
    return None if whole is None or rest is None else counted(whole - rest)


def cap_use(cap: str, used: object, limit: object) -> CapUse | None:
    """Return how much of a cap is used, by what stands in the places of its counter and its limit.

    None where the counter is unknown. A limit that is no positive number, such as null, 0 or -1, counts as not shown.
    """
    count = counted(used)
    return None if count is None else CapUse(cap, count, counted(limit) or None)


def key_use(caps: Iterable[CapUse | None], last_used: object, now: datetime) -> KeyUse | None:
    """Return what an answer shows of a key's use; None if it shows nothing that can be read.

    1970 stands for "never", and a last use in the future is unknown.
    """
    last_used_at = None
    with suppress(TypeError, ValueError, OverflowError):
        last_used_at = moment(last_used)
    if last_used_at is not None and not EARLIEST <= last_used_at <= now + MAX_AHEAD:
        last_used_at = None
    use = KeyUse(tuple(cap for cap in caps if cap is not None), last_used_at and min(last_used_at, now))
    return use if use.caps or use.last_used_at else None


def created_key(key: ListedKey, text: object) -> CreatedKey | None:
    """Return the key with its text, or None if its id or text is missing. Its expiry may be unreadable: None."""
    if key.id and isinstance(text, str) and len(text) <= MAX_KEY and _KEY.fullmatch(text) and text not in key.id:
        expires_at = key.expires_at if isinstance(key, ProviderKey) else None
        return CreatedKey(key.id, key.name, register(Secret(text)), expires_at)
    return None


def moment(value: object) -> datetime:
    """Read a time, in UTC if it names no zone. Raises TypeError, ValueError or OverflowError if there is any doubt.

    A number is Unix time in seconds or in milliseconds: no number is a year of this millennium in both. The last
    day of the calendar, which means "never", may lie beyond its end in UTC.
    """
    if isinstance(value, int | float) and not isinstance(value, bool):
        seconds = value if value < EARLIEST_MILLISECOND else value / 1000
        if not EARLIEST.timestamp() <= seconds < LATEST.timestamp():  # first, for the platform has bounds of its own
            raise ValueError
        return datetime.fromtimestamp(seconds, UTC)
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
