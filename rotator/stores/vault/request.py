"""One request to Vault, and the value that its answer is or the error. Nothing is sent here."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from rotator.stores.vault.responses import Answer, Operation, unsettled

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Request(Generic[T]):
    """One request. `right` is what a policy must allow on `path`; `understand` makes a value of the answer.

    `understand` may trip over an answer that is not what was to be expected, with any error that reading JSON gives.
    """

    operation: Operation
    path: str
    right: str
    send: Callable[[Any], Answer] = field(repr=False)  # is given an hvac.Client
    understand: Callable[[Answer], T] = field(repr=False)
    may_be_absent: bool = False  # whether Vault's 404 is an answer to be understood


def understood(request: Request[T], answer: Answer) -> T:
    """What the request makes of the answer. Raises the `StoreError` that any other answer is."""
    if not (answer.is_success or (request.may_be_absent and answer.says_absent)):
        raise answer.refusal(request.operation, request.path, request.right)
    try:
        return request.understand(answer)
    except (AttributeError, KeyError, TypeError, ValueError):
        pass
    raise unsettled(
        request.operation,
        request.path,
        f"the answer ({answer.status}) is not what KV version 2 gives; a proxy's, perhaps",
        "Look at the store's address, and at what answers there.",
    )
