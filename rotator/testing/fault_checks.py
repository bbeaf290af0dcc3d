"""What a provider makes of a network and a server that fail: checks, each with a fault between the two."""

import logging
import socket
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from rotator.config.provider_type import ConnectedProvider
from rotator.core.errors import (
    ProviderCredentialRefused,
    ProviderError,
    ProviderOutcomeUnknown,
    ProviderRateLimited,
    ProviderRequestRefused,
    ProviderUnavailable,
)
from rotator.core.keys import CreatedKey, ProviderKey
from rotator.core.secrets import Secret
from rotator.testing import faults
from rotator.testing.faults import Answer, Exchange, Fault, FaultProxy, Request
from rotator.testing.trial import LIFETIME, ContractBroken, Trial, WatchedProvider, demand, new_name

SLACK = 10.0
"""Seconds by which a call may exceed the provider's timeout: a page is tried more than once."""

PAGE = 2
"""Keys on a page of a server whose list has pages, at most."""

MANY = 2000
"""Pages that are the same, after which the list has to be an error."""

LONGEST_WAIT = 3600.0
"""Seconds that a 429 may make rotator wait."""

Make = Callable[[str], ConnectedProvider]
"""Make a provider that sends its requests to this URL."""

Refused = tuple[type[ProviderError], ...]


class Operation(NamedTuple):
    """One method of the provider."""

    name: str
    changes: bool
    call: Callable[[WatchedProvider, Trial, str], object]
    """With the key of a trial, and a name for a new key."""


CREATE = Operation(
    "create", True, lambda provider, trial, name: provider.create(name, trial.parameters, trial.expires_at)
)
LIST = Operation("pages", False, lambda provider, _, __: list(provider.pages(lambda: None)))
RETRIEVE = Operation("retrieve", False, lambda provider, trial, _: provider.retrieve(trial.key.id))
SET_EXPIRY = Operation(
    "set_expiry", True, lambda provider, trial, _: provider.set_expiry(trial.key.id, trial.expires_at - LIFETIME / 2)
)
DELETE = Operation("delete", True, lambda provider, trial, _: provider.delete(trial.key.id))
OPERATIONS = (CREATE, LIST, RETRIEVE, SET_EXPIRY, DELETE)  # the last one ends the key


@dataclass(frozen=True)
class Bench:
    """A provider, a proxy that spoils what goes between it and its server, and a key that was made past the proxy."""

    make: Make
    proxy: FaultProxy
    trial: Trial
    credential: Secret
    timeout: float
    """The provider's, in seconds."""

    def operations(self) -> Iterator[Operation]:
        """Yield what this provider has."""
        return (one for one in OPERATIONS if one is not SET_EXPIRY or self.trial.traits.can_set_expiry)

    def outcome(self, operation: Operation, fault: Fault | None, url: str = "", pages: int = 1) -> object:
        """Make one call of a new provider under a fault; return what it returned, or the error that it raised.

        Whatever it is: it came in time, holds no secret, and a create was sent once. A list may take so many `pages`.
        """
        name = new_name()
        if operation is CREATE:
            self.trial.expect(name)
        self.trial.shown()
        self.proxy.fault = fault
        self.proxy.requests.clear()
        with closing(self.make(url or self.proxy.url)) as provider, _logged() as lines:
            began = time.monotonic()
            try:
                outcome = operation.call(WatchedProvider(provider), self.trial, name)
            except ProviderError as error:
                outcome = error
            took = time.monotonic() - began
        limit = pages * self.timeout + SLACK
        demand(took < limit, f"{operation.name} took {took:.0f} s: its timeout is {self.timeout:g} s")
        self._demand_no_secret(operation, outcome, lines)
        sent = [one for one in self.proxy.requests if name in one.target or name.encode() in one.body]
        demand(len(sent) <= 1, f"create sent {len(sent)} requests for one key: the second may make another key")
        return outcome

    def demand_error(self, operation: Operation, outcome: object, *kinds: type[ProviderError]) -> None:
        """Demand that the outcome is one of these errors."""
        names = " or ".join(kind.__name__ for kind in kinds)
        shown = f"raised {type(outcome).__name__}" if isinstance(outcome, Exception) else "returned"
        demand(isinstance(outcome, kinds), f"{operation.name} {shown}, and has to raise {names}")

    def _demand_no_secret(self, operation: Operation, outcome: object, lines: list[str]) -> None:
        shown = list(lines)
        error = outcome if isinstance(outcome, BaseException) else None
        while error is not None:
            shown += [str(error), repr(error), repr(vars(error)), *traceback.format_exception(error)]
            error = error.__cause__ or error.__context__
        secrets = (self.credential.reveal(), self.trial.key.secret.reveal())
        is_shown = any(secret in text for secret in secrets for text in shown)
        demand(not is_shown, f"{operation.name} shows the management credential or a key in an error or a log line")


@contextmanager
def _logged() -> Iterator[list[str]]:
    """Take every line that anything logs."""
    lines: list[str] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(self.format(record))

    handler, root = Handler(), logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    try:
        yield lines
    finally:
        root.setLevel(level)
        root.removeHandler(handler)


def _unclear(operation: Operation) -> type[ProviderError]:
    """Return the error for a request without a clear outcome."""
    return ProviderOutcomeUnknown if operation.changes else ProviderUnavailable


def _demand_unclear(bench: Bench, fault: Fault) -> None:
    for operation in bench.operations():
        bench.demand_error(operation, bench.outcome(operation, fault), _unclear(operation))
        if operation is DELETE:
            return


# --- the checks ------------------------------------------------------------------------------------------------------


def no_connection(bench: Bench) -> None:
    """A server that cannot be reached: ProviderUnavailable, for nothing was sent."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    for operation in bench.operations():
        outcome = bench.outcome(operation, None, f"http://127.0.0.1:{port}")
        bench.demand_error(operation, outcome, ProviderUnavailable)


def lost_request(bench: Bench) -> None:
    """A connection that breaks: a change may have been done, a read was not."""
    _demand_unclear(bench, faults.lost_request)


def lost_answer(bench: Bench) -> None:
    """A lost answer: a change may have been done, a read was not."""
    _demand_unclear(bench, faults.lost_answer)


def failing(bench: Bench) -> None:
    """Status 502: a change may have been done, a read was not."""
    _demand_unclear(bench, faults.failing)


def drip(bench: Bench) -> None:
    """An answer that drips ends with the timeout."""
    _demand_unclear(bench, faults.drip_for(bench.timeout + SLACK + 1))


def lost_create(bench: Bench) -> None:
    """A key whose create was not answered is found by its name."""
    _find_unconfirmed(bench, faults.lost_answer)


def late_create(bench: Bench) -> None:
    """A key that is created after its request failed is found by its name."""
    _find_unconfirmed(bench, faults.late_request)


def _find_unconfirmed(bench: Bench, fault: Fault) -> None:
    trial = bench.trial
    before = set(trial.unconfirmed)
    bench.demand_error(CREATE, bench.outcome(CREATE, fault), ProviderOutcomeUnknown)
    [name] = trial.unconfirmed - before
    demand(trial.until(lambda: trial.named(name), bool), "the list does not show a key whose create was not answered")


def too_many_with_header(bench: Bench) -> None:
    """Status 429: ProviderRateLimited, with the wait of the header Retry-After."""
    for operation in bench.operations():
        error = _limited(bench, operation, faults.too_many_with_header)
        demand(
            error.retry_after == faults.WAIT,
            f"{operation.name}: retry_after is {error.retry_after:g}, and Retry-After asked for {faults.WAIT} s",
        )


def too_many_with_body(bench: Bench) -> None:
    """Status 429 without that header: ProviderRateLimited, with a wait that ends."""
    for operation in bench.operations():
        _limited(bench, operation, faults.too_many_with_body)


def _limited(bench: Bench, operation: Operation, fault: Fault) -> ProviderRateLimited:
    outcome = bench.outcome(operation, fault)
    bench.demand_error(operation, outcome, ProviderRateLimited)
    assert isinstance(outcome, ProviderRateLimited)  # noqa: S101 - for mypy
    is_finite = 0 < outcome.retry_after <= LONGEST_WAIT
    demand(is_finite, f"{operation.name}: retry_after is {outcome.retry_after:g} s, not 0 to {LONGEST_WAIT:g}")
    return outcome


def unauthorised(bench: Bench) -> None:
    """Status 401 to every request: ProviderCredentialRefused."""
    for operation in bench.operations():
        bench.demand_error(operation, bench.outcome(operation, faults.unauthorised), ProviderCredentialRefused)


def refused(bench: Bench) -> None:
    """Status 422: ProviderRequestRefused, whose words hold no secret of the answer."""
    for operation in bench.operations():
        bench.demand_error(operation, bench.outcome(operation, faults.echo), ProviderRequestRefused)


def html(bench: Bench) -> None:
    """A page of HTML with status 200 is no key and no list. It shows no expiry."""
    _demand_nothing_shown(bench, faults.html)


def oversized(bench: Bench) -> None:
    """An answer without an end is given up, and is no key and no list."""
    _demand_nothing_shown(bench, faults.oversized)
    demand(bench.proxy.sent < faults.LIMIT, f"an answer was read for {faults.LIMIT} bytes: bound its size")


def _demand_nothing_shown(bench: Bench, fault: Fault) -> None:
    for operation in bench.operations():
        outcome = bench.outcome(operation, fault)
        if operation is DELETE and outcome is None:
            continue  # any success may count as one
        if operation is SET_EXPIRY and isinstance(outcome, ProviderKey):
            demand(outcome.expires_at is None, "set_expiry returned an expiry that no answer showed")
            continue
        bench.demand_error(operation, outcome, _unclear(operation))


def redirect(bench: Bench) -> None:
    """A redirect is an error: the credential would go where it leads."""
    with FaultProxy(bench.proxy.url) as other:
        for operation in bench.operations():
            outcome = bench.outcome(operation, faults.redirect_to(other.url))
            bench.demand_error(operation, outcome, ProviderRequestRefused, _unclear(operation))
        demand(not other.requests, "a redirect was followed: the credential went where it led")


def same_page(bench: Bench) -> None:
    """A list whose pages repeat is not complete, and ends with ProviderUnavailable."""
    for _ in range(PAGE):
        bench.trial.create(new_name())
    asked: list[str] = []

    def is_page(request: Request) -> bool:
        asked.append(request.path)
        return request.path == asked[0] and len(asked) < MANY  # then a page leads to the end

    outcome = bench.outcome(LIST, faults.repeat_first(is_page), pages=MANY)
    demand(len(asked) < MANY, f"the list was read for {MANY} pages that are the same: bound their number")
    if asked.count(asked[0]) > 1:  # else one request shows the whole list
        bench.demand_error(LIST, outcome, ProviderUnavailable)


def bad_counters(bench: Bench) -> None:
    """What is no counter is unknown use, and no flaw of the key."""
    trial = bench.trial
    for bad in faults.BAD_COUNTERS if trial.traits.reports_use != "no" else ():
        fault = faults.bad_counters((trial.key.id, trial.name), bad)
        for operation in (RETRIEVE, LIST):
            outcome = bench.outcome(operation, fault)
            pages = outcome if isinstance(outcome, list) else [[outcome]]
            is_shown = any(_is_own(key, trial) for page in pages for key in page)
            demand(is_shown, f"{operation.name} does not show a key whose counters are {str(bad)[:20]}")


def another_keys_answer(bench: Bench) -> None:
    """An answer about another key than the one asked about is an error."""
    trial = bench.trial
    other = trial.create(new_name())
    trial.until(lambda: trial.retrieve_by(other.id), bool)
    kept: list[Answer] = []

    def keep(exchange: Exchange) -> None:
        kept.append(exchange.forward())
        exchange.send(kept[-1])

    bench.proxy.fault = keep
    with closing(bench.make(bench.proxy.url)) as provider:
        provider.retrieve(other.id)
    answer = kept[-1]
    outcome = bench.outcome(RETRIEVE, lambda exchange: exchange.send(answer))
    if not _is_own(outcome, trial):  # else each look-up shows the whole list
        bench.demand_error(RETRIEVE, outcome, ProviderUnavailable)
    if trial.traits.can_set_expiry:
        outcome = bench.outcome(SET_EXPIRY, lambda exchange: exchange.send(answer))
        shows_nothing = isinstance(outcome, ProviderKey) and outcome.expires_at is None
        if not shows_nothing and not _is_own(outcome, trial):
            bench.demand_error(SET_EXPIRY, outcome, ProviderOutcomeUnknown)


def _is_own(outcome: object, trial: Trial) -> bool:
    return isinstance(outcome, ProviderKey) and (outcome.id, outcome.name) == (trial.key.id, trial.name)


def repeated_create(bench: Bench) -> None:
    """The answer to another create is an unknown outcome, or shows the other key's id and name."""
    kept: list[Answer] = []

    def keep(exchange: Exchange) -> None:
        kept.append(exchange.forward())
        exchange.send(kept[-1])

    first = bench.outcome(CREATE, keep)
    if not isinstance(first, CreatedKey):
        raise ContractBroken("create fails through a proxy that changes nothing")
    outcome = bench.outcome(CREATE, lambda exchange: exchange.send(kept[-1]))
    if isinstance(outcome, CreatedKey):
        demand(outcome.id == first.id, "create returned an id that its answer did not show")
        demand(outcome.name in ("", first.name), "create returned a name that its answer did not show")
        return
    bench.demand_error(CREATE, outcome, ProviderOutcomeUnknown)


def threads(bench: Bench) -> None:
    """Calls from several threads each get the answer to their own request."""
    trial = bench.trial
    keys = [trial.key, *(trial.create(new_name()) for _ in range(3))]
    for key in keys:
        trial.until(partial(trial.retrieve_by, key.id), bool)
    bench.proxy.fault = None
    with closing(bench.make(bench.proxy.url)) as provider, ThreadPoolExecutor(len(keys)) as pool:
        found = pool.map(lambda key: [provider.retrieve(key.id) for _ in range(5)], keys)
        for key, answers in zip(keys, found, strict=True):
            are_its_own = all(one is not None and one.id == key.id for one in answers)
            demand(are_its_own, "retrieve returned the answer to the request of another thread")


def closed(bench: Bench) -> None:
    """close() may be called twice. A call after it raises no other error than a call before it may raise."""
    provider = bench.make(bench.proxy.url)
    provider.close()
    provider.close()
    watched = WatchedProvider(provider)
    for operation in bench.operations():
        try:
            operation.call(watched, bench.trial, new_name())
        except ProviderError:
            continue


FAULT_CHECKS: tuple[Callable[[Bench], None], ...] = (
    no_connection,
    lost_request,
    lost_answer,
    lost_create,
    late_create,
    failing,
    drip,
    too_many_with_header,
    too_many_with_body,
    unauthorised,
    refused,
    html,
    oversized,
    redirect,
    same_page,
    bad_counters,
    another_keys_answer,
    repeated_create,
    threads,
    closed,
)
