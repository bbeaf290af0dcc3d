"""How each target stands, in the one shape that the `status` command, `/status.json` and the metrics show.

No I/O. The shape of `to_json` is a promise to whoever reads it with a program.
"""

import threading
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from rotator.errors import RotatorError
from rotator.model import Target, timestamp
from rotator.plan import Plan, State

NOT_WELL = frozenset({State.FAILING, State.FOREIGN, State.MISSING, State.UNKNOWN})
"""The states in which applications lack a live key, or will if nobody does anything."""


@dataclass(frozen=True, slots=True)
class TargetStatus:
    """One target at one moment."""

    target: Target
    plan: Plan | None
    error: RotatorError | None

    @property
    def state(self) -> State:
        """The plan's state, unless the last attempt at something failed."""
        if self.plan is None:
            return State.UNKNOWN
        if self.error is not None and self.plan.state in (State.OK, State.DUE):
            return State.FAILING
        return self.plan.state

    @property
    def expires_at(self) -> datetime | None:
        """When the served key stops working."""
        return self.plan.current.expires_at if self.plan and self.plan.current else None

    def to_json(self) -> dict[str, Any]:
        """The target's part of `status --json`."""
        plan, current = self.plan, self.plan.current if self.plan else None
        return {
            "name": self.target.name,
            "state": self.state.value,
            "path": self.target.path,
            "key_id": current.key_id if current else None,
            "issued_at": timestamp(current.issued_at) if current else None,
            "expires_at": timestamp(current.expires_at) if current else None,
            "next_rotation_at": timestamp(plan.renew_at) if plan and plan.renew_at else None,
            "reason": plan.reason.value if plan else None,
            "superseded": [{"key_id": key.key_id, "until": timestamp(key.until)} for key in plan.superseded]
            if plan
            else [],
            "last_error": self.error.message if self.error else None,
        }


def status_json(owner: str, at: datetime, targets: Collection[TargetStatus]) -> dict[str, Any]:
    """All of `status --json`."""
    return {"owner": owner, "at": timestamp(at), "targets": [target.to_json() for target in targets]}


class Board:
    """What the daemon last knew of each target. Safe to be used by many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._targets: dict[str, TargetStatus] = {}

    def update(self, target: Target, plan: Plan | None, error: RotatorError | None) -> TargetStatus | None:
        """Take a pass's result; without a plan (the store could not be read) the last known one stays.

        Returns how the target stood before.
        """
        with self._lock:
            before = self._targets.get(target.name)
            self._targets[target.name] = TargetStatus(target, plan or (before.plan if before else None), error)
            return before

    def keep_only(self, targets: Mapping[str, Target]) -> None:
        """Forget the targets that are not configured any more; those that are new are unknown."""
        with self._lock:
            known = self._targets
            self._targets = {
                name: replace(known[name], target=target) if name in known else TargetStatus(target, None, None)
                for name, target in targets.items()
            }

    def snapshot(self) -> tuple[TargetStatus, ...]:
        """All targets, by name."""
        with self._lock:
            return tuple(self._targets[name] for name in sorted(self._targets))
