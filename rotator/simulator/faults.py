"""Faults on request: rules that pick calls, and effects that land late. `api.py` acts on them.

Kinds, by what happens to the call that a rule picks:

    refuse        not done; answered `status` (503)
    rate_limit    not done; answered 429 with `retry_after`
    html          not done; a proxy answers `status` (502) with a page of HTML
    redirect      not done; answered `status` (307) to `location`
    drop_before   not done; the connection is dropped
    late          the connection is dropped; done only after `after` further calls, or at `Faults.release()`
    drop_after    done; the connection is dropped: a lost answer
    fail          done; answered `status` (500)
    slow          done; answered after `seconds`
    drip          done; the body is dripped over `seconds`
    truncate      done; the connection ends halfway through the body
    garble        done; half of the JSON, as if it were complete
    oversize      done; `size` bytes of white space after the JSON
    omit          done; answered without `fields`
    lag           list: the keys of `seconds` ago (new ones are missing, deleted ones still there)
    shift         list: as if `by` keys of an earlier page were deleted meanwhile (so keys are missed), or, if
                  negative, created (so keys are doubled); pick the second page with `skip=1`
    foreign_next  list: `next` is `location`
"""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

LIST_KINDS = frozenset({"lag", "shift", "foreign_next"})
NOT_DONE = frozenset({"refuse", "rate_limit", "html", "redirect", "drop_before", "late"})
DONE = frozenset({"drop_after", "fail", "slow", "drip", "truncate", "garble", "oversize", "omit"})
KINDS = NOT_DONE | DONE | LIST_KINDS
OPERATIONS = frozenset({"create", "list", "retrieve", "update", "delete", "policies", "chat"})
DEFAULT_STATUS = {"refuse": 503, "html": 502, "redirect": 307, "fail": 500}


@dataclass(frozen=True, slots=True)
class Fault:
    """One rule. It picks `times` calls that match, after letting `skip` of them pass."""

    kind: str
    operation: str = "*"  # "*" is any of the vendor's; the gateway's "chat" must be named
    name: str = ""  # only calls about a key whose name contains this
    skip: int = 0
    times: int | None = 1  # None: until cleared
    status: int | None = None
    seconds: float = 0.0
    retry_after: int = 30
    location: str = ""
    fields: tuple[str, ...] = ("id",)
    by: int = 1
    after: int | None = None
    size: int = 9 * 1024 * 1024

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"no such kind of fault: {self.kind!r}; there are {', '.join(sorted(KINDS))}")
        if self.operation not in OPERATIONS | {"*"}:
            raise ValueError(f"no such operation: {self.operation!r}; there are *, {', '.join(sorted(OPERATIONS))}")
        if (self.kind in LIST_KINDS and self.operation not in {"*", "list"}) or (
            self.kind == "late" and self.operation == "chat"
        ):
            raise ValueError(f"{self.kind} cannot happen to {self.operation}")
        if self.kind in {"redirect", "foreign_next"} and not self.location:
            raise ValueError(f"{self.kind} needs a location")

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> "Fault":
        """Return the rule that a JSON object describes. Raises ValueError or TypeError if it describes none."""
        unknown = body.keys() - cls.__dataclass_fields__.keys()
        if unknown or "kind" not in body:
            raise ValueError(f"unknown fields: {sorted(unknown)}" if unknown else "a fault needs a kind")
        for name, value in body.items():
            wanted = _TYPES.get(name, str)
            if isinstance(value, bool) or not isinstance(value, wanted):
                raise TypeError(f"{name}: {value!r} is of the wrong type")
        arguments: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in body.items()
        }
        return cls(**arguments)

    def matches(self, operation: str, name: str) -> bool:
        """Return whether the rule counts a call of this operation on a key of this name."""
        wanted = "list" if self.kind in LIST_KINDS else self.operation
        return (operation == wanted or (wanted == "*" and operation != "chat")) and self.name in name

    def answered(self) -> int:
        """Return the status to answer, for kinds with a status of their own."""
        return self.status or DEFAULT_STATUS[self.kind]


_TYPES: dict[str, Any] = {
    "skip": int,
    "times": int | None,
    "status": int | None,
    "seconds": int | float,
    "retry_after": int,
    "fields": list,
    "by": int,
    "after": int | None,
    "size": int,
}


@dataclass(slots=True)
class _Rule:
    fault: Fault
    seen: int = 0


@dataclass(slots=True)
class _Late:
    effect: Callable[[], None]
    remaining: int | None


@dataclass(slots=True)
class Faults:
    """The rules in force, oldest first. Every rule counts each call that matches; the first that picks it decides."""

    _rules: list[_Rule] = field(default_factory=list)
    _late: list[_Late] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, fault: Fault) -> None:
        """Put a rule in force."""
        with self._lock:
            self._rules.append(_Rule(fault))

    def clear(self) -> None:
        """Remove all rules. Late effects still wait for `release`."""
        with self._lock:
            self._rules.clear()

    def rules(self) -> list[tuple[Fault, int]]:
        """Return each rule, and how many calls it has counted."""
        with self._lock:
            return [(rule.fault, rule.seen) for rule in self._rules]

    def pick(self, operation: str, name: str) -> Fault | None:
        """Count one call, and return the fault that it gets."""
        picked: Fault | None = None
        with self._lock:
            for rule in self._rules:
                fault = rule.fault
                if fault.matches(operation, name):
                    rule.seen += 1
                    nth = rule.seen - fault.skip
                    if picked is None and nth > 0 and (fault.times is None or nth <= fault.times):
                        picked = fault
        return picked

    def postpone(self, effect: Callable[[], None], after: int | None) -> None:
        """Keep an effect until `after` further calls were answered, or until `release`."""
        with self._lock:
            # One more, because the call that postpones is about to tick too.
            self._late.append(_Late(effect, None if after is None else after + 1))

    def tick(self) -> None:
        """Count one answered call, and execute the effects that are due."""
        due = []
        with self._lock:
            for late in self._late:
                if late.remaining is not None:
                    late.remaining -= 1
                    if late.remaining <= 0:
                        due.append(late)
            self._late = [late for late in self._late if late not in due]
        self._land(due)

    def release(self) -> int:
        """Execute all effects that wait. Return how many."""
        with self._lock:
            due, self._late = self._late, []
        self._land(due)
        return len(due)

    @staticmethod
    def _land(due: list[_Late]) -> None:
        # Without this lock, because an effect takes the vendor's, whose holder may wait for a fault.
        for late in due:
            late.effect()
