"""Revokes the keys of a path that no version of it holds: the rest of `rotate --revoke-now`.

A pass revokes the keys that readable versions of the path hold. Only the provider's list shows a key that was taken out
of the path, or that a short history has pushed out; a sweep would give it a grace period. As in a sweep, a key belongs
to the path whose place its name at the provider carries. A key made for a version that the path does not have yet may
be about to be published: it is left alone, and reported.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence

from rotator.core.errors import ProviderError, ProviderRequestRefused, RotatorError, StoreError
from rotator.core.events import EventType
from rotator.core.expiry import whole_seconds
from rotator.core.keys import ListedKey, ProviderKey, UnreadableKey
from rotator.core.orphans import OrphanState, orphans
from rotator.core.plan import REVOKED_WITHIN, Plan
from rotator.core.reasons import Reason
from rotator.core.request import RotationRequest
from rotator.core.target import Target
from rotator.protocol.audit import emit_key_event
from rotator.protocol.expiry import set_expiry
from rotator.protocol.observer import MAX_READ, Observer


def revoke_the_unheld(
    observer: Observer, target: Target, keys: Mapping[str, Sequence[ListedKey]], request: RotationRequest
) -> RotatorError | None:
    """Shorten and delete those listed keys of the target that no version holds; return the error that prevented it.

    `keys` are by place, and must have been listed before. The path is read again right before each request.
    """
    ports, left = observer.ports, []
    try:
        observation = observer.observe(target)
        listed = [key for place in observation.scope.places for key in keys.get(place, ())]
        unreadable = [key for key in listed if isinstance(key, UnreadableKey) and key.id != observation.served_id]
        mine = [key for key in listed if isinstance(key, ProviderKey)]
        for orphan in orphans(observation, mine, ports.clock.now(), lambda _: False):
            key = orphan.key
            if orphan.ahead:
                left.append(key.id)
            elif orphan.state is not OrphanState.OVER and _is_orphan(observer, target, key):
                # First, so that it expires even if deleting it fails, as in a pass.
                end = whole_seconds(ports.clock.now() + REVOKED_WITHIN)
                if observation.traits.can_set_expiry and (
                    set_expiry(ports, key.id, end, end) is None or not _is_orphan(observer, target, key)
                ):
                    continue
                ports.provider.delete(key.id)
                emit_key_event(ports.emit, EventType.KEY_DELETED, target, key, request, Reason.REVOKED)
    except (StoreError, ProviderError) as error:
        return error
    if unreadable:
        return _left_alone(target, map(str, unreadable), "cannot be read in the provider's list")
    return _left_alone(target, left, "may be about to be published (its name is of a later version)") if left else None


def _is_orphan(observer: Observer, target: Target, key: ProviderKey) -> bool:
    """Return whether no version of the path holds the key now. Wait for the budget first, so that the read is fresh."""
    observer.ports.budget.take(observer.ports.clock.now())
    observation = observer.observe(target)
    if observer.is_too_old(observation):
        raise ProviderRequestRefused(
            f"reading {target.path} took longer than {MAX_READ:.0f} s, so nothing more was revoked",
            "Look at the store's latency, and run the command again.",
        )
    return bool(orphans(observation, [key], observer.ports.clock.now(), lambda _: False))


def not_revoked(target: Target, plan: Plan | None) -> Iterator[RotatorError]:
    """Yield an error for the keys that versions of the path hold and that a successful pass has not revoked.

    They still work. The provider knows them under another name, or does not show them yet because they are new.
    """
    untrusted = [record.key_id for record in plan.untrusted] if plan else []
    if untrusted:
        why = "is held by a version and known to the provider as another's (was it copied?)"
        yield _left_alone(target, untrusted, why)
    unshown = [key.key_id for key in plan.superseded if key.key_id not in untrusted] if plan else []
    if unshown:
        yield _left_alone(target, unshown, "is new, and not shown by the provider yet: run the command again")


def _left_alone(target: Target, key_ids: Iterable[str], why: str) -> RotatorError:
    return ProviderRequestRefused(
        f"not revoked, of {target.path}: the key {', '.join(key_ids)}, which {why}",
        "If that is the key to revoke, delete it at the provider by its id: docs/kubernetes-operations.md shows how.",
    )
