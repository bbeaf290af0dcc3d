"""Ends at once what a path does not hold any more: the rest of `rotate --revoke-now`.

A pass revokes the keys that readable versions of the path hold. One that somebody took out of the path, or that a short
history has pushed out, only the provider's list shows; a sweep would give it a grace. Here as there a key is this
path's by the name that the provider has for it. One for a version that the path does not have yet may be about to be
published: it is left alone, and named.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence

from rotator.core.errors import ProviderError, ProviderRequestRefused, RotatorError, StoreError
from rotator.core.events import Event, EventType, Level
from rotator.core.expiry import whole_seconds
from rotator.core.keys import ListedKey, ProviderKey, UnreadableKey
from rotator.core.orphans import OrphanState, orphans
from rotator.core.plan import REVOKED_WITHIN, Plan, Reason
from rotator.core.request import RotationRequest
from rotator.core.target import Target
from rotator.protocol.expiry import set_expiry
from rotator.protocol.observer import MAX_READ, too_old
from rotator.protocol.reconciler import Reconciler
from rotator.protocol.rotation import asked_by


def revoke_the_unheld(
    reconciler: Reconciler, target: Target, keys: Mapping[str, Sequence[ListedKey]], request: RotationRequest
) -> RotatorError | None:
    """Shorten and delete those of the provider's keys that are this target's and in no version; what kept us from it.

    `keys` must have been listed before, and are by place. The path is read once more right before each request.
    """
    ports, left = reconciler.ports, []
    try:
        observation = reconciler.observe(target)
        listed = [key for place in observation.scope.places for key in keys.get(place, ())]
        served = observation.current.key_id if observation.current else None
        unreadable = [key for key in listed if isinstance(key, UnreadableKey) and key.id != served]
        mine = [key for key in listed if isinstance(key, ProviderKey)]
        for orphan in orphans(observation, mine, ports.clock.now(), lambda _: False):
            key = orphan.key
            if orphan.ahead:
                left.append(key.id)
            elif orphan.state is not OrphanState.OVER and _is_orphan(reconciler, target, key):
                # First so that it ends though deleting it fails, as in a pass.
                end = whole_seconds(ports.clock.now() + REVOKED_WITHIN)
                if set_expiry(ports, key.id, end, end) is None or not _is_orphan(reconciler, target, key):
                    continue
                ports.provider.delete(key.id)
                fields = {"key_id": key.id, "key_name": key.name, "reason": Reason.REVOKED.value, **asked_by(request)}
                ports.emit(Event(EventType.KEY_DELETED, target.name, Level.INFO, fields))
    except (StoreError, ProviderError) as error:
        return error
    if unreadable:
        return _left_alone(target, map(str, unreadable), "cannot be read in the provider's list")
    return _left_alone(target, left, "may be about to be published (its name is of a later version)") if left else None


def _is_orphan(reconciler: Reconciler, target: Target, key: ProviderKey) -> bool:
    """Whether no version of the path holds it now. The budget is waited for first: what is read must be of now."""
    reconciler.ports.budget.take(reconciler.ports.clock.now())
    observation = reconciler.observe(target)
    if too_old(observation, reconciler.ports.clock):
        raise ProviderRequestRefused(
            f"reading {target.path} took longer than {MAX_READ:.0f} s, so nothing more was revoked",
            "Look at the store's latency, and run the command again.",
        )
    return bool(orphans(observation, [key], reconciler.ports.clock.now(), lambda _: False))


def not_revoked(target: Target, plan: Plan | None) -> Iterator[RotatorError]:
    """The keys that versions of the path hold, and that a pass which went well has not revoked: they work on.

    The provider knows them as another's; or it does not show them yet, for they are so new.
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
        "If it is what has to go, delete it at the provider by its id: docs/kubernetes.md says how.",
    )
