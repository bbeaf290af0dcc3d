"""Settles whether a write landed: the one place where an unknown outcome of the store is turned into a known one.

A refused or unanswered write is never judged by what the path holds now (an old view, a later writer), but by the
very version it was meant to become.
"""

from collections.abc import Mapping
from typing import Any

from rotator.errors import CasMismatch, StoreError, StoreOutcomeUnknown
from rotator.model import Target, Version
from rotator.ports import Clock, Store

WAITS = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0)
"""Seconds before each attempt of the same write, while its outcome is unknown; then a sweep has to judge it."""


def publish(
    store: Store, clock: Clock, target: Target, data: Mapping[str, Any], base: int, *, unanswered: bool = False
) -> Version | None:
    """Write `data`, which holds our key, as the version after `base`.

    None: another writer was first, and this write can never land. Raises `StoreOutcomeUnknown` when it may have landed
    or may land yet; any other `StoreError` means that it has not and never will. `unanswered`: a write of this key as
    that version was sent before, and may land yet.
    """
    unknown: StoreOutcomeUnknown | None = None
    for wait in WAITS:
        if wait:
            clock.sleep(wait)
        try:
            return store.write(target.path, data, cas=base)
        except CasMismatch:
            return _judge(store, target, base, data[target.field])
        except StoreOutcomeUnknown as error:
            unknown = error
        except StoreError as error:
            if unknown is None and not unanswered:
                raise
            # This attempt was refused, but an earlier one may still be on its way.
            before = unknown.message if unknown else f"an earlier write to {target.path} was not answered"
            raise StoreOutcomeUnknown(f"{before}; then {error.message}", error.advice) from None
    assert unknown is not None  # noqa: S101 - the loop ends here only after an unknown outcome
    raise unknown


def _judge(store: Store, target: Target, base: int, key: str) -> Version | None:
    """The compare-and-set was refused: by our own write that had landed before, or by another's?

    Ours is known by the text of the key, under whatever field: it may have been sent before a reload.
    """
    try:
        history = store.history(target.path)
    except StoreError as error:
        raise StoreOutcomeUnknown(
            f"the write to {target.path} was refused, and it cannot be read why: {error.message}", error.advice
        ) from None
    written = next((version for version in history.versions if version.number == base + 1), None)
    if written is not None and written.data is not None and key in written.data.values():
        return written
    if written is not None and written.data is not None and history.current_version > base:
        return None
    raise StoreOutcomeUnknown(
        f"version {base + 1} of {target.path} cannot be read, so it is not known whether our key is in it",
        "Nothing to do: the next pass reads the path again.",
    )
