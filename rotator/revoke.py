"""Ends at once what a path does not hold any more: the rest of `rotate --revoke-now`.

A pass revokes the keys that readable versions of the path hold. One that somebody took out of the path, or that a short
history has pushed out, only the provider's list shows; a sweep would give it a grace. Here as there a key is this
path's by the name that the provider has for it, and one for a version that the path does not have yet is left alone:
it may be about to be published.
"""

from collections.abc import Iterable, Iterator

from rotator.errors import ProviderError, ProviderRequestRefused, RotatorError, StoreError
from rotator.events import Event, Level, What
from rotator.execute import Executor
from rotator.model import Target, VendorKey
from rotator.plan import REVOKED_WITHIN, Order, Plan, Reason, whole_seconds
from rotator.rotate import asked_by
from rotator.sweep import Fate, orphans


def revoke_the_unheld(
    executor: Executor, target: Target, keys: Iterable[VendorKey], order: Order
) -> RotatorError | None:
    """Shorten and delete those of the provider's `keys` that are this target's and in no version; what kept us from it.

    `keys` must have been listed before.
    """
    ports = executor.ports
    try:
        observation = executor.observe(target)
        mine = [key for key in keys if observation.scope.owns(key.name)]
        now = ports.clock.now()
        for orphan in orphans(observation, mine, now, lambda _: False):
            if orphan.ahead or orphan.fate is Fate.OVER:
                continue
            key = orphan.key
            ports.budget.take(now)
            # First so that it ends though deleting it fails, as in a pass.
            if ports.provider.set_expiry(key.id, whole_seconds(now + REVOKED_WITHIN)):
                ports.budget.take(now)
                ports.provider.delete(key.id)
                fields = {"key_id": key.id, "key_name": key.name, "reason": Reason.REVOKED.value, **asked_by(order)}
                ports.tell(Event(What.KEY_DELETED, target.name, Level.INFO, fields))
    except (StoreError, ProviderError) as error:
        return error
    return None


def not_ours_to_revoke(target: Target, plan: Plan | None) -> Iterator[RotatorError]:
    """The keys that versions of the path hold, and that the provider knows as another's: they work on."""
    for record in plan.untrusted if plan else ():
        yield ProviderRequestRefused(
            f"the key {record.key_id}, which {target.path} holds, was not revoked: the provider does not know it as "
            "this path's own (was the path copied or moved?)",
            "If it is what has to go, delete it at Respan by its id: docs/kubernetes.md says how.",
        )
