"""Settles whether a write landed, the one place that turns an unknown outcome of the store into a known one.

A refused or unanswered write is judged only by the version that it was meant to become. Its answer may come from a
proxy although the write landed, and the path's present content may be an old view or a later write.
"""

from collections.abc import Mapping
from typing import Any

from rotator.core.errors import CasMismatch, StoreError, StoreOutcomeUnknown
from rotator.core.ports import Clock, Store
from rotator.core.target import Target
from rotator.core.versions import Version

WAITS = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0)
"""Seconds before each attempt of the same write while its outcome is unknown; after these, a sweep judges it."""


def publish(store: Store, clock: Clock, target: Target, data: Mapping[str, Any], base: int) -> Version | None:
    """Write `data`, which holds our key, as the version after `base`.

    None: another writer was first, and this write can never land. Raises a `StoreError` when it may have landed or may
    still land: the store's refusal, where the path shows no version after `base`. That read may come from a standby
    that is behind, so it does not prove that the write did not land.
    """
    unknown: StoreOutcomeUnknown | None = None
    for wait in WAITS:
        if wait:
            clock.sleep(wait)
        try:
            return store.write(target.path, data, cas=base)
        except StoreOutcomeUnknown as error:
            unknown = error
        except StoreError as refusal:
            return _judge(store, target, base, data[target.key_field], refusal, unknown)
    assert unknown is not None  # noqa: S101 - the loop ends here only after an unknown outcome
    raise unknown


def _judge(
    store: Store, target: Target, base: int, key: str, refusal: StoreError, unknown: StoreOutcomeUnknown | None
) -> Version | None:
    """Judge a refused write: did our own write land before, did another writer come first, or was it something else?

    Ours is known by the text of the key, under whatever field: it may have been sent before a reload.
    """
    mismatch = isinstance(refusal, CasMismatch)
    why = f"version {base + 1} of {target.path} cannot be read, so it is not known whether our key is in it"
    advice = "Nothing to do: the next pass reads the path again."
    try:
        history = store.history(target.path)
    except StoreError as error:
        why = f"the write to {target.path} was refused, and its outcome cannot be read: {error.message}"
        advice = error.advice
    else:
        written = next((version for version in history.versions if version.number == base + 1), None)
        if written is not None and written.data is not None:
            if key in written.data.values():
                return written
            if history.current_version > base:
                return None
    if mismatch:
        raise StoreOutcomeUnknown(why, advice) from None
    if unknown is not None:  # this attempt was refused, but an earlier one may still be on its way
        raise StoreOutcomeUnknown(f"{unknown.message}; then {refusal.message}", refusal.advice) from None
    raise refusal
