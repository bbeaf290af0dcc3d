"""What every provider keeps, as checks on one key. The docstrings of `core.ports.Provider` are the contract in words.

A check is a plain function of a `Trial`; its docstring is what the provider has to do. It raises `ContractBroken` for
an answer that the contract does not allow, and passes on a `ProviderError` that it allows, which shows nothing.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from rotator.core.errors import ProviderError, ProviderKeyNotAccepted, ProviderRateLimited
from rotator.core.keys import CreatedKey, ProviderKey
from rotator.core.use import KeyUse
from rotator.runtime.key_pattern import parse_key_pattern
from rotator.testing.trial import LIFETIME, ContractBroken, Trial, demand, new_name

ROUNDING = timedelta(minutes=1)
"""By how much an expiry may differ from the requested one."""

TRIES_AFTER_429 = 3
"""How often a check is repeated that the provider refused with 429."""

Check = Callable[[Trial], None]


def traits(trial: Trial) -> None:
    """The traits can be used."""
    found = trial.traits
    demand(found.label.strip(), "traits.label is empty: every message about the provider needs it")
    demand(found.names_keys, "traits.names_keys is false: rotator finds its keys by their names, and refuses this")
    demand(found.keys_per_page > 0, "traits.keys_per_page is not positive")
    if found.key_pattern is not None:
        try:
            parse_key_pattern(found.key_pattern)
        except ValueError as error:
            raise ContractBroken(f"traits.key_pattern {error}") from None


def ready(trial: Trial) -> None:
    """ready() returns for a credential that is accepted."""
    trial.provider.ready()


def created(trial: Trial) -> None:
    """create() returns the id, the text, the name and the requested expiry of a new key."""
    key, text = trial.key, trial.key.secret.reveal()
    demand(key.id and key.id.isprintable(), "create returned no id, or one that is not printable")
    demand(text and text.isprintable(), "create returned no text, or one that is not printable")
    demand(text not in key.id, "create returned an id that holds the key's text: ids are shown, texts never")
    demand(key.name in ("", trial.name), f"create returned the name {key.name!r}, and the key was to be {trial.name!r}")
    if trial.traits.keys_expire and key.expires_at is not None:
        _demand_expiry("create", key.expires_at, trial.expires_at)
    if trial.traits.key_pattern is not None:
        match = re.search(trial.traits.key_pattern, f"a {text} b")
        demand(match and text in match[0], "traits.key_pattern does not match the whole text of a new key")


def probed(trial: Trial) -> None:
    """probe() returns for the new key."""

    def is_accepted() -> bool:
        with suppress(ProviderKeyNotAccepted):
            trial.provider.probe(trial.key.secret)
            return True
        return False

    demand(trial.until(is_accepted, bool), "probe does not accept the new key")


def works(trial: Trial) -> None:
    """The new key works."""
    demand(trial.until(lambda: _is_accepted(trial), bool), "the new key does not work")


def retrieved(trial: Trial) -> None:
    """retrieve() shows the key, its name of 50 characters and its expiry."""
    key, found = trial.key, trial.shown()
    demand(found.id == key.id, f"retrieve of {key.id} shows the key {found.id}")
    if trial.traits.keys_expire:
        _demand_expiry("retrieve", found.expires_at, trial.expires_at)
    else:
        demand(found.expires_at is None, "retrieve shows an expiry, and traits.keys_expire is false")


def listed(trial: Trial) -> None:
    """The complete list shows the key under its name, with its id and its expiry."""
    key = trial.key
    entries = trial.until(lambda: trial.named(trial.name), bool)
    demand(entries, f"the complete list has no key of the name {trial.name!r}")
    for entry in entries:
        demand(isinstance(entry, ProviderKey), f"the list shows the new key as unreadable: {entry}")
        demand(entry.id == key.id, f"the list shows the name of {key.id} for the key {entry.id}")
        if isinstance(entry, ProviderKey) and trial.traits.keys_expire:
            _demand_expiry("the list", entry.expires_at, trial.expires_at)


def asks_before_each_page(trial: Trial) -> None:
    """pages() calls `before` before each request for a page."""
    asked = 0

    def before() -> None:
        nonlocal asked
        trial.before()
        asked += 1

    for number, _ in enumerate(trial.provider.pages(before), 1):
        demand(
            asked >= number, f"pages yielded page {number} after {asked} calls of `before`: the rate limit needs them"
        )
    demand(asked, "pages ended without a call of `before`: the rate limit needs one before each request")


def unused(trial: Trial) -> None:
    """A new key has used nothing, or its use is unknown."""
    trial.shown()
    earliest = trial.expires_at - LIFETIME - ROUNDING  # some providers count the creation as a use
    for where, use in _uses(trial, trial.key):
        demand(_is_unused(use), f"{where} shows of a new key the use {use}")
        is_own = use is None or use.last_used_at is None or use.last_used_at >= earliest
        demand(is_own, f"{where} shows that a new key was used before it was created: {use}")


def use_of_its_own(trial: Trial) -> None:
    """The use of one key is never shown as that of another."""
    used, other = trial.key, trial.create(new_name())
    trial.shown()
    trial.until(lambda: trial.retrieve_by(other.id), bool)
    before, moments = list(_uses(trial, used)), {use.last_used_at for _, use in _uses(trial, other) if use}
    if trial.use is not None:
        trial.use(used.secret)
    trial.until(lambda: list(_uses(trial, used)), lambda now: now != before)
    for where, use in _uses(trial, other):
        is_own = _is_unused(use) and (use is None or use.last_used_at in {None, *moments})
        demand(is_own, f"{where} shows the use {use} of a key that was never used, after another one was used")


def _uses(trial: Trial, key: CreatedKey) -> Iterator[tuple[str, KeyUse | None]]:
    """Yield what a look-up and the list show of a key's use, and where."""
    if (found := trial.retrieve_by(key.id)) is not None:
        yield "retrieve", found.use
    yield from (("the list", entry.use) for entry in trial.named(key.name) if isinstance(entry, ProviderKey))


def _is_unused(use: KeyUse | None) -> bool:
    return use is None or not any(cap.used for cap in use.caps)


def two_differ(trial: Trial) -> None:
    """Two creates return two keys."""
    first, second = trial.key, trial.create(new_name())
    demand(first.id != second.id, "two creates returned one id")
    demand(first.secret != second.secret, "two creates returned one text")


def text_in_no_answer(trial: Trial) -> None:
    """No answer but create()'s holds the key's text."""
    trial.shown()
    trial.named(trial.name)
    if trial.traits.can_set_expiry:
        trial.set_expiry(trial.expires_at)
    text = trial.key.secret.reveal()
    for method, shown in trial.provider.shown:
        demand(text not in shown, f"{method} returned the key's text: only create may")


def shortened(trial: Trial) -> None:
    """set_expiry() sets an earlier expiry."""
    _set_expiry(trial, trial.expires_at - LIFETIME / 2)


def extended(trial: Trial) -> None:
    """set_expiry() sets a later expiry."""
    _set_expiry(trial, trial.expires_at + LIFETIME)


def _set_expiry(trial: Trial, expires_at: datetime) -> None:
    trial.shown()  # only a key that is shown with the name of this trial is changed
    answer = trial.set_expiry(expires_at)
    demand(answer is not None, "set_expiry returned None, and the key exists")
    if answer is not None and answer.expires_at is not None:
        demand(answer.id == trial.key.id, f"set_expiry of {trial.key.id} returned the key {answer.id}")
        _demand_expiry("set_expiry", answer.expires_at, expires_at)
    found = trial.until(trial.retrieve, lambda found: found is not None and _is_near(found.expires_at, expires_at))
    _demand_expiry("after set_expiry, retrieve", found.expires_at if found else None, expires_at)


def revoked(trial: Trial) -> None:
    """delete() revokes the key: neither a look-up nor the list shows it."""
    trial.revoke()
    found = trial.until(trial.retrieve, lambda found: found is None)
    demand(found is None, "retrieve still shows the key after delete: it must return None for a revoked one")
    entries = trial.until(lambda: trial.named(trial.name), lambda entries: not entries)
    demand(not entries, "the list still shows the key after delete")


def no_longer_works(trial: Trial) -> None:
    """The revoked key no longer works."""
    trial.revoke()
    demand(not trial.until(lambda: _is_accepted(trial), lambda accepted: not accepted), "the key works after delete")


def deleted_twice(trial: Trial) -> None:
    """delete() of a key that is gone succeeds."""
    trial.revoke()
    trial.delete()


def gone_key_has_no_expiry(trial: Trial) -> None:
    """set_expiry() of a key that is gone returns None."""
    trial.revoke()
    answer = trial.until(lambda: trial.set_expiry(trial.expires_at), lambda answer: answer is None)
    demand(answer is None, "set_expiry returned a key that is gone")


def _is_accepted(trial: Trial) -> bool:
    return trial.works is not None and trial.works(trial.key.secret)


def _is_near(shown: datetime | None, expected: datetime) -> bool:
    return shown is not None and abs(shown - expected) <= ROUNDING


def _demand_expiry(where: str, shown: datetime | None, expected: datetime) -> None:
    demand(_is_near(shown, expected), f"{where} shows the expiry {shown}, and {expected} was requested")


CHECKS: tuple[Check, ...] = (
    traits,
    ready,
    created,
    unused,
    probed,
    works,
    retrieved,
    listed,
    asks_before_each_page,
    text_in_no_answer,
    shortened,
    extended,
    two_differ,
    use_of_its_own,
    revoked,
    no_longer_works,
    deleted_twice,
    gone_key_has_no_expiry,
)
"""In an order in which all may share one trial: what ends the key comes last."""

WITH_ANOTHER_KEY = frozenset({two_differ, use_of_its_own})
"""Checks that create a second key."""

_IF: Mapping[Check, Callable[[Trial], object]] = {
    unused: lambda trial: trial.traits.reports_use != "no",
    use_of_its_own: lambda trial: trial.traits.reports_use != "no" and trial.use,
    works: lambda trial: trial.works,
    no_longer_works: lambda trial: trial.works,
    shortened: lambda trial: trial.traits.can_set_expiry,
    extended: lambda trial: trial.traits.can_set_expiry,
    gone_key_has_no_expiry: lambda trial: trial.traits.can_set_expiry,
}


def applies(check: Check, trial: Trial) -> bool:
    """Return whether the provider has what the check is about."""
    return check not in _IF or bool(_IF[check](trial))


class Outcome(StrEnum):
    """What a check showed."""

    KEPT = "kept"
    BROKEN = "broken"
    UNKNOWN = "unknown"
    """A request failed in a way that the contract allows."""


@dataclass(frozen=True, slots=True)
class Result:
    """What one check showed."""

    check: str
    """What the provider has to do, as a sentence."""
    outcome: Outcome
    error: ContractBroken | ProviderError | None = None


def hold(trial: Trial) -> Iterator[Result]:
    """Hold a provider against the contract with the one key of this trial. Stop if there is none with an id."""
    for check in CHECKS:
        if check in WITH_ANOTHER_KEY or not applies(check, trial):
            continue
        result = _result(check, trial)
        for _ in range(TRIES_AFTER_429):  # `before` waits for as long as the provider asked
            if not isinstance(result.error, ProviderRateLimited):
                break
            result = _result(check, trial)
        yield result
        if check is created and not trial.has_key:
            return


def _result(check: Check, trial: Trial) -> Result:
    sentence = check.__doc__ or check.__name__
    try:
        check(trial)
    except ContractBroken as broken:
        return Result(sentence, Outcome.BROKEN, broken)
    except ProviderError as error:
        return Result(sentence, Outcome.UNKNOWN, error)
    return Result(sentence, Outcome.KEPT)
