"""What Respan's answers show of a key.

Where Respan's references (the pages create, list, retrieve, update and delete under "Temporary API Keys") disagree,
every shape that they show is accepted.
"""

from datetime import datetime

from rotator.core.keys import ListedKey, UnreadableKey
from rotator.providers.answers import cap_use, is_id, key_use, shown, shown_key


def is_revoked(entry: object) -> bool:
    """Return whether the entry shows a deleted key. Older answers show it; newer ones may leave it out."""
    return isinstance(entry, dict) and entry.get("revoked") is True


def is_about(entry: object, key_id: str) -> bool:
    """Return False where an answer shows the id of another key than the one that was asked about."""
    found = entry.get("id") if isinstance(entry, dict) else None
    return not is_id(found) or found == key_id


def listed_key(entry: object, now: datetime) -> ListedKey:
    """Return the key that an entry shows. Only the id is required; all other fields come and go.

    The counters are documented in the answer to create alone, and may appear in any.
    """
    if not isinstance(entry, dict):
        return UnreadableKey("", "", f"which is {shown(entry)}")
    created_at = entry.get("created_at") or entry.get("created")  # the page has the first, the SDK the second
    caps = (
        cap_use("max_usage", entry.get("key_usage"), entry.get("max_usage")),
        cap_use("spending_limit", entry.get("spending_in_period"), entry.get("spending_limit")),
    )
    use = key_use(caps, entry.get("last_used"), now)
    return shown_key(entry.get("id"), entry.get("name"), entry.get("expiry_date"), created_at, "expiry_date", use)
