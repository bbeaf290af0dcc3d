"""What Respan's answers show of a key.

Where Respan's references (the pages create, list, retrieve, update and delete under "Temporary API Keys") disagree,
every shape that they show is accepted.
"""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime

from rotator.core.keys import ListedKey, ProviderKey, UnreadableKey
from rotator.core.use import CapUse, KeyUse
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


PolicyUse = Mapping[str, Mapping[str, CapUse]]
"""What limit policies show of keys' use: by the key's id, and by the cap."""

_CAP_OF_METRIC = {"cost": "spending_limit", "request_count": "max_usage"}


def policy_use(entry: object) -> tuple[str, CapUse] | None:
    """Return the id of the key that a limit policy counts for, and what the key has used; None for any other policy.

    A policy without a period counts a whole life, as the limits of a key do. `scope_value` is the identity that it
    counts for. Where that is no key's id, it is joined to no key; where a model or a customer counts as well, it is the
    text of a list.
    """
    if not isinstance(entry, dict) or entry.get("period", "") is not None or entry.get("is_active") is False:
        return None
    key_id, cap, state = (
        entry.get("scope_value"),
        _CAP_OF_METRIC.get(str(entry.get("metric"))),
        entry.get("current_state"),
    )
    if entry.get("compose") not in (None, [], ["api_key_id"]) or not is_id(key_id) or cap is None:
        return None
    rules = entry.get("rules")
    is_hard = any(_is_hard(rule) for rule in rules) if isinstance(rules, list) else False
    limit = entry.get("threshold_value") if is_hard else None  # else it may be that of a warning
    use = cap_use(cap, state.get("current_value") if isinstance(state, dict) else None, limit)
    return None if use is None else (key_id, use)


def _is_hard(rule: object) -> bool:
    return isinstance(rule, dict) and rule.get("severity") == "hard" and rule.get("is_active") is not False


def with_policies(key: ListedKey, policies: PolicyUse) -> ListedKey:
    """Return the key with the use that its policies show, where its own entry shows none."""
    shown = policies.get(key.id)
    if shown is None or not isinstance(key, ProviderKey):
        return key
    use = key.use or KeyUse()
    more = tuple(cap for name, cap in shown.items() if use.used(name) is None)
    return replace(key, use=replace(use, caps=(*use.caps, *more)))
