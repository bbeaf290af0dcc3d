"""What Respan's answers show of a key.

Where Respan's references (the pages create, list, retrieve, update and delete under "Temporary API Keys") disagree,
every shape that they show is accepted.
"""

from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime

from rotator.core.keys import CreatedKey, ListedKey, ProviderKey, UnreadableKey
from rotator.core.secrets import Secret
from rotator.core.versions import LONGEST_TEXT
from rotator.providers.answers import escaped, is_id, moment, shown
from rotator.runtime.redact import register

MAX_KEY = 4096  # characters of a key's text: every line of output is searched for it

NEVER = ("", "never")
"""Texts in the place of an expiry that leave no doubt."""


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
        return UnreadableKey("", "", f"which is {shown(entry)}")
    key_id, name, expiry = entry.get("id"), entry.get("name"), entry.get("expiry_date")
    name = escaped(name[:LONGEST_TEXT]) if isinstance(name, str) else ""
    if not is_id(key_id):
        return UnreadableKey("", name, f"whose id is {shown(key_id)}")
    is_never = expiry is None or (isinstance(expiry, str) and expiry.lower() in NEVER)
    try:
        expires_at = None if is_never else moment(expiry)
    except (TypeError, ValueError, OverflowError):
        return UnreadableKey(key_id, name, f"whose expiry_date is {shown(expiry)}")
    return ProviderKey(key_id, name, expires_at, _created_at(entry))


def _created_at(entry: Mapping[str, object]) -> datetime | None:
    """The page calls it `created_at`, the SDK `created`. It only shows how young a key is, so it may be missing."""
    with suppress(TypeError, ValueError, OverflowError):
        return moment(entry.get("created_at") or entry.get("created"))
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
