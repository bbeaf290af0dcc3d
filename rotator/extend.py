"""Break glass: prolong the keys of targets by the vendor's list alone, when the store cannot be read.

Whose a key is follows from its name. Where the store cannot say which place a path is, the owner's and the target's
slug have to do: they are shortened and so not unique, which is why nothing is ever removed or shortened by them.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import datetime

from rotator.errors import ProviderError, StoreError
from rotator.events import Event, What
from rotator.execute import Executor, listed
from rotator.model import KeyName, Target, VendorKey, timestamp
from rotator.ports import Ports


@dataclass(frozen=True, slots=True)
class Extension:
    """What became of one key. `by_slug`: the store could not be asked whether the key is really this target's."""

    target: Target
    key: VendorKey
    until: datetime
    by_slug: bool
    error: ProviderError | None = None


def extend(
    executor: Executor, owners: Collection[str], targets: Collection[Target], until: datetime
) -> Iterator[Extension]:
    """Let every unexpired key of these targets live until `until`, if that is later than it would.

    Raises `ProviderError` when the list cannot be read: then nothing was done.
    """
    ports = executor.ports
    now = ports.clock.now()
    keys = [key for key in listed(ports) if key.expires_at and now < key.expires_at < until]
    unreachable = False
    for target in targets:
        places: tuple[str, ...] | None = None
        if not unreachable:
            try:
                places = executor.scope(target).places
            except StoreError:
                unreachable = True  # asked once: with the store away, each question would cost its timeout
        for key in keys:
            name = KeyName.parse(key.name)
            if name is None or not _names(name, target, owners, places):
                continue
            yield _extended(ports, target, key, until, by_slug=places is None)


def _names(name: KeyName, target: Target, owners: Collection[str], places: tuple[str, ...] | None) -> bool:
    if places is not None:
        return name.place in places
    return name.owner in {owner[:8] for owner in owners} and name.target == target.name[:10]


def _extended(ports: Ports, target: Target, key: VendorKey, until: datetime, *, by_slug: bool) -> Extension:
    try:
        ports.budget.take(key.expires_at or until)
        ports.provider.set_expiry(key.id, until)
    except ProviderError as error:
        return Extension(target, key, until, by_slug, error)
    fields = {"key_id": key.id, "key_name": key.name, "expires_at": timestamp(until), "by": "command"}
    ports.tell(Event(What.KEY_EXTENDED, target.name, fields=fields))
    return Extension(target, key, until, by_slug)
