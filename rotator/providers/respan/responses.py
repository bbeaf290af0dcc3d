"""What Respan's answers mean: keys, or an error in words for a person.

Pure: no request is made here. Where Respan's references (the pages create, list, retrieve, update and delete under
"Temporary API Keys") disagree, every shape that they show is accepted. Texts from outside are quoted short, on one
line, and without keys.
"""

import json
import math
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import MAXYEAR, UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TypeGuard

from rotator.core.errors import (
    ProviderCredentialRefused,
    ProviderError,
    ProviderKeyNotAccepted,
    ProviderOutcomeUnknown,
    ProviderRateLimited,
    ProviderRequestRefused,
    ProviderUnavailable,
)
from rotator.core.keys import CreatedKey, ListedKey, ProviderKey, UnreadableKey
from rotator.core.secrets import Secret
from rotator.core.versions import LONGEST_TEXT
from rotator.runtime.redact import quoted, register

MAX_KEY = 4096  # characters of a key's text: every line of output is searched for it
MAX_SHOWN = 60  # characters of a value that is not understood

NEVER = ("", "never")
"""Texts in the place of an expiry that leave no doubt."""

EARLIEST, LATEST = datetime(2000, 1, 1, tzinfo=UTC), datetime(3000, 1, 1, tzinfo=UTC)
EARLIEST_MILLISECOND = EARLIEST.timestamp() * 1000
END_OF_TIME = datetime(MAXYEAR, 12, 31, 23, 59, 59, tzinfo=UTC)

_ASKED_TO = {
    "create": "create a key",
    "list": "list the keys",
    "retrieve": "look up a key",
    "update": "change a key's expiry",
    "delete": "delete a key",
    "probe": "accept a new key",
}
_READS = frozenset({"list", "retrieve", "probe"})
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


# --- keys ------------------------------------------------------------------------------------------------------------


def is_id(value: object) -> TypeGuard[str]:
    """Return whether it may be an id, and leads no server or proxy to another path."""
    return (
        isinstance(value, str)
        and 0 < len(value) <= LONGEST_TEXT
        and value.isprintable()
        and {".", ".."}.isdisjoint(re.split(r"[/\\]", value))
    )


def is_revoked(entry: object) -> bool:
    """Return whether the entry shows a deleted key. Older answers show it; newer ones may leave it out."""
    return isinstance(entry, dict) and entry.get("revoked") is True


def is_about(entry: object, key_id: str) -> bool:
    """Return False where an answer shows the id of another key than the one that was asked about."""
    shown = entry.get("id") if isinstance(entry, dict) else None
    return not is_id(shown) or shown == key_id


def listed_key(entry: object) -> ListedKey:
    """Return the key that an entry shows. Only the id is required; all other fields come and go."""
    if not isinstance(entry, dict):
        return UnreadableKey("", "", f"which is {_shown(entry)}")
    key_id, name, expiry = entry.get("id"), entry.get("name"), entry.get("expiry_date")
    name = _escaped(name[:LONGEST_TEXT]) if isinstance(name, str) else ""
    if not is_id(key_id):
        return UnreadableKey("", name, f"whose id is {_shown(key_id)}")
    is_never = expiry is None or (isinstance(expiry, str) and expiry.lower() in NEVER)
    try:
        expires_at = None if is_never else _moment(expiry)
    except (TypeError, ValueError, OverflowError):
        return UnreadableKey(key_id, name, f"whose expiry_date is {_shown(expiry)}")
    return ProviderKey(key_id, name, expires_at, _created_at(entry))


def _moment(value: object) -> datetime:
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


def _shown(value: object) -> str:
    """Return a value that is not understood, for a message."""
    if isinstance(value, str):
        return f'"{quoted(value)}"' if len(value) <= MAX_SHOWN else f"a text of {len(value)} characters"
    if isinstance(value, list | dict):
        return "an array" if isinstance(value, list) else "an object"
    return quoted(json.dumps(value))


def _created_at(entry: Mapping[str, object]) -> datetime | None:
    """The page calls it `created_at`, the SDK `created`. It only shows how young a key is, so it may be missing."""
    with suppress(TypeError, ValueError, OverflowError):
        return _moment(entry.get("created_at") or entry.get("created"))
    return None


def created_key(entry: object) -> CreatedKey | None:
    """Return the key with its id and text, or None if one of them is missing. Its expiry may be unreadable: None."""
    if not isinstance(entry, dict):
        return None
    key = listed_key(entry)
    text = entry.get("api_key")
    if key.id and isinstance(text, str) and 0 < len(text) <= MAX_KEY and text.isprintable() and text not in key.id:
        return CreatedKey(
            key.id, key.name, register(Secret(text)), key.expires_at if isinstance(key, ProviderKey) else None
        )
    return None


# --- errors ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ErrorFactory:
    """Makes the errors of the provider that has this name in the configuration."""

    provider: str
    base_url: str

    def refusal(self, operation: str, answer: Answer, now: datetime) -> ProviderError:
        """Return the error for a status that is no success. A 408 may come from a proxy that gave up on the server."""
        status, words, asked = answer.status, answer.words(), _ASKED_TO[operation]
        said = f"{status}: {words}" if words else f"{status}"
        if status in (401, 403):  # Respan's page has 401, its SDK 403
            return self.credential(f"Respan refused the organisation key ({said}) when asked to {asked}")
        if status == 429:
            seconds = _retry_after(answer, now)
            return ProviderRateLimited(
                f"Respan was asked too much ({said}): it did not {asked}, and is left alone for {seconds:g} s", seconds
            )
        if status < 200 or status == 408 or status >= 500:
            return self.unsettled(operation, f"answered {said}")
        if status < 400:
            return ProviderRequestRefused(
                f"Respan answered {status}, a redirect, when asked to {asked}; it is not followed, "
                "for the organisation key would go with it",
                f"{self._base_url()} must be where Respan itself answers; look for a proxy that redirects, too.",
            )
        return ProviderRequestRefused(
            f"Respan refused to {asked} ({said})",
            "Retrying will not help. Look at the ttl and the key parameters of the target; after a 404, a 405 "
            f"or a page of HTML, at {self._base_url()}.",
        )

    def confirmed(self, operation: str, answer: Answer, wrong: ProviderError | None) -> ProviderError:
        """Return what a 401 or 403 means after a list was tried with the same key; `wrong` is that list's error."""
        if isinstance(wrong, ProviderCredentialRefused | ProviderRateLimited):
            return wrong
        words, asked = answer.words(), _ASKED_TO[operation]
        refused = f"Respan refused to {asked} ({answer.status}{f': {words}' if words else ''})"
        if wrong is not None:
            return ProviderUnavailable(
                f"{refused}; whether it refuses the organisation key is not known, for a list failed: {wrong.message}",
                wrong.advice,
            )
        return ProviderRequestRefused(
            f"{refused}, and lists the keys for the same organisation key: it refuses this request, not the key",
            "Look at what the organisation key may do, at the plan's cap on keys, at the key parameters of the target, "
            "and at its newest version: does the record name a key of another organisation? If every target fails like "
            "this, the list needs no key, and the organisation key is refused after all: replace it.",
        )

    def credential(self, message: str) -> ProviderCredentialRefused:
        """Return the error for an organisation key that cannot be used."""
        return ProviderCredentialRefused(
            message,
            f'Every target of provider "{self.provider}" waits. Put a valid key where its api_key points to. '
            "A file, or a path in Vault, is read again after each refusal; a variable only at a restart.",
        )

    def not_accepted(self, answer: Answer, request: str) -> ProviderKeyNotAccepted:
        """Return the error for a probe that was answered with another status than the accepted ones."""
        said = f"{answer.status}: {words}" if (words := answer.words()) else f"{answer.status}"
        return ProviderKeyNotAccepted(
            f"a new key does not work: {request} was answered with {said}; it is removed, and the served key stays",
            f'Look at the probe of provider "{self.provider}" (url, method, accept), and at the key parameters.',
        )

    def unsettled(self, operation: str, what: str) -> ProviderError:
        """Return the error for a request without a clear outcome: a read failed, a change may have been made."""
        message = f"Respan {what}, when asked to {_ASKED_TO[operation]}"
        advice = f"If it does not pass, look at Respan's status, and at what stands between here and {self.base_url}."
        if operation in _READS:
            return ProviderUnavailable(f"{message}; nothing was changed", advice)
        return ProviderOutcomeUnknown(f"{message}; whether it was done is not known", advice)

    def unreached(self, words: str) -> ProviderUnavailable:
        """Return the error for a missing connection; `words` are the reason."""
        _, mark, why = words.partition("certificate verify failed: ")
        if mark:
            return ProviderUnavailable(
                f"the TLS certificate shown at {self.base_url} is not trusted ({why}); nothing was sent",
                f"Look at this machine's clock, at {self._base_url()}, and for a proxy that opens TLS. "
                "If it is Respan's own certificate, only Respan can fix it.",
            )
        return ProviderUnavailable(
            f"Respan cannot be reached at {self.base_url} ({words}); nothing was sent",
            f"Look at {self._base_url()}, at DNS, and at the network policy for what leaves here.",
        )

    def elsewhere(self) -> ProviderUnavailable:
        """Return the error for a next page at another address than the list's."""
        return ProviderUnavailable(
            f"Respan's list continues at another address than {self.base_url}, and the organisation key is not sent "
            "there: the list is not complete, so nothing was swept",
            f"Set {self._base_url()} to Respan's own address, or correct the proxy that answers there: `next` in the "
            "answer must end in /api/temporary-keys/ and the query of the next page.",
        )

    def _base_url(self) -> str:
        return f'base_url of provider "{self.provider}" ({self.base_url})'


def _retry_after(answer: Answer, now: datetime) -> float:
    """Return seconds, 1 to 300: from the body, where Respan puts them, else from the header, perhaps a date."""
    parsed = answer.parsed()
    for value in (parsed.get("retry_after") if isinstance(parsed, dict) else None, answer.retry_after):
        try:
            seconds = float(str(value))
        except ValueError:
            try:
                seconds = (parsedate_to_datetime(str(value)).astimezone(UTC) - now).total_seconds()
            except (ValueError, OverflowError):
                continue
        if math.isfinite(seconds):
            return min(max(seconds, 1.0), 300.0)
    return 30.0


def _escaped(text: str) -> str:
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)
