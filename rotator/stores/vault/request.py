"""A request to Vault, and how its answer becomes a value or an error. Nothing is sent here."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from rotator.stores.vault.responses import Answer, Operation, unsettled

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Request(Generic[T]):
    """One request. `right` is what a policy must allow on `path`; `understand` makes a value of the answer.

    `understand` may raise any error that reading unexpected JSON raises.
    """

    operation: Operation
    path: str
    right: str
    send: Callable[[Any], Answer] = field(repr=False)  # takes an hvac.Client
    understand: Callable[[Answer], T] = field(repr=False)
    may_be_absent: bool = False  # `understand` takes Vault's 404, too


def understood(request: Request[T], answer: Answer) -> T:
    """Return the value of the answer. Raises the `StoreError` for an answer that has none."""
    if not (answer.is_success or (request.may_be_absent and answer.is_absent)):
        raise answer.refusal(request.operation, request.path, request.right)
    try:
        return request.understand(answer)
    except (AttributeError, KeyError, TypeError, ValueError):
        pass
    raise unsettled(
        request.operation,
        request.path,
        f"the answer ({answer.status}) is not one of KV version 2; it may be a proxy's",
        "Check the store's address, and what answers there.",
    )
