"""Changes a key's expiry at its provider, and checks which expiry the provider keeps.

A provider may keep expiries in whole minutes, hours or days, and round down or up. A key that was rounded down would
stop working within its grace, so a later time is requested. One that was rounded up is left.
"""

from contextlib import suppress
from datetime import datetime

from rotator.core.errors import ProviderError
from rotator.core.expiry import Asked, corrected
from rotator.core.ports import Ports


def set_expiry(ports: Ports, key_id: str, until: datetime, deadline: datetime) -> datetime | None:
    """Set the expiry once. Return the one that the provider shows afterwards, or None when there is no such key.

    An answer without an expiry is followed by one look-up, for a provider may show it there alone. Where neither shows
    one, `until` is returned: nothing contradicts it. Raises `ProviderError` when the change failed.
    """
    key = ports.provider.set_expiry(key_id, until)
    if key is not None and key.expires_at is None:
        with suppress(ProviderError):  # the change was made, whatever becomes of the look-up
            ports.budget.take(deadline)
            key = ports.provider.retrieve(key_id)
    return (key.expires_at or until) if key else None


def keep_until(ports: Ports, key_id: str, until: datetime, deadline: datetime) -> datetime | None:
    """Set the expiry so that the key works until `until` at least. Return what `set_expiry` returns.

    That is earlier than `until` only where the provider keeps no later expiry. Each request waits for the budget: this
    is for callers that need no fresh look before a request.
    """
    asked = Asked(until, until)
    while (ends := set_expiry(ports, key_id, asked.request, deadline)) and (later := corrected(asked, ends)):
        ports.budget.take(deadline)
        asked = Asked(until, later)
    return ends
