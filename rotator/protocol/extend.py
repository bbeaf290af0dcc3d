"""Break glass: extend the keys of targets by the provider's list alone, when the store cannot be read.

A key's name shows its place. Where the store cannot show the place of a path, the slugs of owner and target replace it.
They are cut and so not unique: no key is removed or shortened by them. Where an owner's slug may be the beginning of a
longer name, a person must confirm it.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime

from rotator.core.errors import (
    KeyUnreadable,
    OwnerUnclear,
    ProviderError,
    ProviderRequestRefused,
    RotatorError,
    ServedKeyMisnamed,
    StoreError,
)
from rotator.core.events import EventType
from rotator.core.expiry import TOLERANCE
from rotator.core.keys import OWNER_LETTERS, KeyName, ListedKey, ProviderKey, UnreadableKey
from rotator.core.request import RotationRequest
from rotator.core.target import Target
from rotator.core.times import timestamp
from rotator.core.versions import read_version
from rotator.protocol.audit import emit_key_event
from rotator.protocol.expiry import keep_until
from rotator.protocol.observer import Observer

REASON = "extended"
"""Why a key lives longer than planned; no plan has this reason."""


_IF_IT_HAS_ONE = "If the path holds a key, is this provider's api_key of the account that the key is in?"


@dataclass(frozen=True, slots=True)
class ExtendableKey:
    """A key to extend. `by_slug`: the store could not confirm that it is this target's."""

    observer: Observer
    target: Target
    key: ProviderKey
    by_slug: bool

    def extend(self, until: datetime, comment: str = "") -> datetime | ProviderError:
        """Make it expire at `until`. Return when it does, as the provider shows it, or why it cannot work so long."""
        ports, key = self.observer.ports, self.key
        try:
            ports.budget.take(key.expires_at or until)
            ends = keep_until(ports, key.id, until, key.expires_at or until)
            if ends is None:
                return ProviderRequestRefused(
                    "the provider no longer has it",
                    f"If {self.target.name} is served it, the applications need another: "
                    f"`rotator rotate {self.target.name}`, once the store can be written.",
                )
        except ProviderError as error:
            return error
        request, what = RotationRequest(by="command", comment=comment), EventType.KEY_EXTENDED
        emit_key_event(ports.emit, what, self.target, key, request, REASON, expires_at=timestamp(ends))
        if ends < until - TOLERANCE:
            return ProviderRequestRefused(
                f"the provider keeps its expiry at {timestamp(ends)}",
                f"Before then {self.target.name} needs another key: `rotator rotate {self.target.name}`.",
            )
        return ends


def extendable(
    observer: Observer,
    keys: Iterable[ListedKey],
    targets: Collection[Target],
    until: datetime,
    *,
    by_name: bool = False,
) -> tuple[list[ExtendableKey], dict[str, RotatorError]]:
    """Return those of the provider's `keys` that are these targets', live, and expire before `until`.

    And by target, why others of its keys are left alone. `by_name`: a person has confirmed that no other installation's
    owner begins with the same letters, for where the store cannot be read.
    """
    now = observer.ports.clock.now() - observer.ports.clock.disputed_by()  # the list has shown the provider's time
    by_place: dict[str, list[ListedKey]] = defaultdict(list)
    by_slugs: dict[tuple[str, str], list[ListedKey]] = defaultdict(list)
    for key in keys:
        name = KeyName.parse(key.name)
        if name is not None and (isinstance(key, UnreadableKey) or not key.expires_by(now)):
            by_place[name.place].append(key)
            by_slugs[name.owner, name.target].append(key)
    slugs = {owner[:OWNER_LETTERS] for owner in observer.owners}
    found: list[ExtendableKey] = []
    left: dict[str, RotatorError] = {}
    traits, unreachable = observer.ports.provider.traits, False
    for target in targets:
        try:
            places = () if unreachable else observer.scope(target).places
        except StoreError:
            unreachable = True  # asked once: with the store away, each question would cost its timeout
        if unreachable:
            named = [by_slugs.get((owner, target.name[:10]), []) for owner in sorted(slugs)]
        else:
            named = [by_place.get(place, []) for place in places]
        mine = [key for some in named for key in some]
        if unreachable and not by_name and (unclear := [*map(_described, filter(_may_be_others, mine))]):
            left[target.name] = OwnerUnclear(unclear, OWNER_LETTERS)
            mine = [key for key in mine if not _may_be_others(key)]
        if not mine and target.name not in left:
            left[target.name] = ProviderRequestRefused(
                f"the provider lists no live key with a name for {target.path}",
                f"{_IF_IT_HAS_ONE} Or is the path, or its Vault, another one than when the key was made? Then name "
                'where it was: former_paths, former_locations (docs/configuration.md, "After a move").',
            )
        short = [key for key in mine if isinstance(key, ProviderKey) and _ends_within(key, now, until)]
        if short and not traits.can_set_expiry:
            left.setdefault(target.name, _not_extendable(traits.label, target, short))
        else:
            found += [ExtendableKey(observer, target, key, unreachable) for key in short]
        if unreadable := [key for key in mine if isinstance(key, UnreadableKey)]:
            left.setdefault(target.name, KeyUnreadable(target.path, unreadable))
    return found, left


def misnamed(
    observer: Observer, keys: Iterable[ListedKey], targets: Iterable[Target], until: datetime
) -> dict[str, RotatorError]:
    """Return, by target, why its served key was not extended: its name is not one for the path.

    Call it after all were extended, for it reads the paths. It finds nothing where the store cannot be read.
    """
    by_id = {key.id: key for key in keys}
    now = observer.ports.clock.now() - observer.ports.clock.disputed_by()
    found: dict[str, RotatorError] = {}
    for target in targets:
        try:
            scope, version = observer.scope(target), observer.ports.store.newest(target.path).current
        except StoreError:
            break  # each question would cost its timeout
        record = read_version(version, target, scope).record if version else None
        key = by_id.get(record.key_id) if record else None
        if key is None or scope.owns(key.name):
            continue
        if isinstance(key, UnreadableKey) or _ends_within(key, now, until):
            found[target.name] = ServedKeyMisnamed(target.path, key.id, key.name)
    return found


def _not_extendable(label: str, target: Target, keys: Iterable[ProviderKey]) -> ProviderRequestRefused:
    return ProviderRequestRefused(
        f"{label} cannot change the expiry of a key: {', '.join(map(_described, keys))}",
        f"Its applications need another key before the served one expires: `rotator rotate {target.name}`, once the "
        "store can be written.",
    )


def _may_be_others(key: ListedKey) -> bool:
    name = KeyName.parse(key.name)
    return name is not None and name.may_be_cut


def _described(key: ListedKey) -> str:
    if isinstance(key, UnreadableKey):
        return str(key)
    return f"{key.id} ({key.name}), which expires at {timestamp(key.expires_at)}" if key.expires_at else key.id


def _ends_within(key: ProviderKey, now: datetime, until: datetime) -> bool:
    return key.expires_at is not None and now < key.expires_at < until
