"""The public contract finds each flaw that it names, in a provider in memory and in a naive client of the simulator."""

import itertools
import json
import subprocess
import sys
import textwrap
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import rotator.testing
from rotator.config.provider_type import ConnectedProvider
from rotator.core.errors import (
    ProviderCredentialRefused,
    ProviderOutcomeUnknown,
    ProviderRateLimited,
    ProviderUnavailable,
)
from rotator.core.keys import CreatedKey, ListedKey, ProviderKey, UnreadableKey
from rotator.core.secrets import Secret
from rotator.core.target import KeyParameters
from rotator.core.times import timestamp
from rotator.core.traits import Traits
from rotator.core.use import CapUse, KeyUse
from rotator.simulator import Options, Simulator
from rotator.testing import ProviderContract, Server, contract, fault_checks
from rotator.testing.contract import CHECKS, Outcome, applies, hold
from rotator.testing.fault_checks import FAULT_CHECKS, Bench
from rotator.testing.faults import FaultProxy
from rotator.testing.trial import ContractBroken, Trial

ACME = Traits("Acme", reports_use="list", key_pattern="text-[0-9]+")
NONE_USED = KeyUse((CapUse("calls", 0, 5),))


@dataclass
class Issuer:
    """A provider in memory that keeps the contract; a test replaces one method."""

    traits: Traits = ACME
    keys: dict[str, ProviderKey] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    numbers: Iterator[int] = field(default_factory=itertools.count)

    def create(self, name: str, parameters: KeyParameters, expires_at: datetime) -> CreatedKey:
        number = next(self.numbers)
        use = NONE_USED if self.traits.reports_use != "no" else None
        key = ProviderKey(f"id-{number}", name, expires_at if self.traits.keys_expire else None, use=use)
        self.keys[key.id], self.texts[f"text-{number}"] = key, key.id
        return CreatedKey(key.id, name, Secret(f"text-{number}"), key.expires_at)

    def ready(self) -> None: ...

    def pages(self, before: Callable[[], object]) -> Iterator[Sequence[ListedKey]]:
        for key in list(self.keys.values()):
            before()
            yield [key]
        before()
        yield []

    def retrieve(self, key_id: str) -> ProviderKey | None:
        return self.keys.get(key_id)

    def set_expiry(self, key_id: str, expires_at: datetime) -> ProviderKey | None:
        if key_id in self.keys:
            self.keys[key_id] = replace(self.keys[key_id], expires_at=expires_at)
        return self.keys.get(key_id)

    def delete(self, key_id: str) -> None:
        self.keys.pop(key_id, None)

    def probe(self, key: Secret) -> None: ...

    def works(self, key: Secret) -> bool:
        return self.texts[key.reveal()] in self.keys

    def use(self, key: Secret) -> None:
        key_id = self.texts[key.reveal()]
        self.keys[key_id] = used(self.keys[key_id], CapUse("calls", 1, 5))


def used(key: ProviderKey, *caps: Any, at: datetime | None = None) -> ProviderKey:
    return replace(key, use=KeyUse(caps, at))


def trial(issuer: Issuer) -> Trial:
    return Trial(issuer, works=issuer.works, use=issuer.use, sleep=lambda _: None)


@pytest.mark.parametrize(
    "traits",
    [
        ACME,
        Traits("Acme"),
        Traits("Acme", can_set_expiry=False),
        Traits("Acme", can_set_expiry=False, keys_expire=False),
    ],
)
def test_a_provider_that_keeps_the_contract_passes(traits: Traits) -> None:
    issuer = Issuer(traits)
    for check in CHECKS:
        with trial(issuer) as one:
            if applies(check, one):
                check(one)
    before = len(issuer.texts)
    with trial(issuer) as one:
        assert {result.outcome for result in hold(one)} == {Outcome.KEPT}
    assert len(issuer.texts) == before + 1
    assert issuer.keys == {}


def shows(**changes: Any) -> Callable[[Any], Any]:
    return lambda key: key and replace(key, **changes)


SOON = datetime.now(UTC) + timedelta(minutes=5)
NAIVE = datetime.now()  # noqa: DTZ005 - it is the flaw
FUTURE = datetime.now(UTC) + timedelta(hours=1)
EARLIER = datetime.now(UTC) - timedelta(days=1)
FOREIGN = ProviderKey("id-x", "foreign", SOON)

FLAWS: list[tuple[str, str, Callable[[Any], Any], str]] = [
    ("created", "create", shows(id=""), "returned no id"),
    ("created", "create", shows(name="cut"), "returned the name 'cut'"),
    ("created", "create", shows(secret=Secret("")), "no text"),
    ("created", "create", shows(secret=Secret("other")), "key_pattern does not match"),
    ("created", "create", shows(id="id-text-0"), "id that holds the key's text"),
    ("created", "create", shows(expires_at=SOON), "create shows the expiry"),
    ("created", "create", shows(expires_at=NAIVE), "without a time zone"),
    ("created", "create", lambda _: ACME, "create returned Traits, not a CreatedKey"),
    ("works", "works", lambda _: False, "the new key does not work"),
    ("retrieved", "retrieve", lambda _: None, "does not find the key"),
    ("retrieved", "retrieve", shows(name="cut"), "retrieve shows the name 'cut'"),
    ("retrieved", "retrieve", shows(id="id-x"), "shows the key id-x"),
    ("retrieved", "retrieve", shows(expires_at=None), "retrieve shows the expiry None"),
    ("listed", "page", lambda page: [], "the complete list has no key of the name"),
    ("listed", "page", lambda page: [replace(key, id="id-x") for key in page], "for the key id-x"),
    ("listed", "page", lambda page: [replace(key, expires_at=SOON) for key in page], "the list shows the expiry"),
    ("listed", "page", lambda page: [UnreadableKey(key.id, key.name, "x") for key in page], "unreadable"),
    ("unused", "retrieve", lambda key: key and used(key, CapUse("calls", 1)), "retrieve shows of a new key the use"),
    ("unused", "page", lambda page: [used(key, CapUse("c", 1)) for key in page], "the list shows of a new key the use"),
    ("unused", "page", lambda page: [used(key, at=EARLIER) for key in page], "used before it was created"),
    ("retrieved", "retrieve", lambda key: key and used(key, CapUse("c", -1)), "shows -1 as the use of c"),
    ("retrieved", "retrieve", lambda key: key and used(key, CapUse("c", float("nan"))), "shows nan as the use of c"),
    ("retrieved", "retrieve", lambda key: key and used(key, CapUse("c", True)), "shows True as the use of c"),
    ("retrieved", "retrieve", lambda key: key and used(key, CapUse("c", "7")), "shows '7' as the use of c"),  # type: ignore[arg-type]
    ("retrieved", "retrieve", lambda key: key and used(key, CapUse("c", 1, -1)), "shows -1 as the limit of c"),
    ("retrieved", "retrieve", lambda key: key and used(key, CapUse("", 1)), "name each once"),
    ("retrieved", "retrieve", lambda key: key and used(key, CapUse("c", 1), CapUse("c", 2)), "name each once"),
    ("retrieved", "retrieve", lambda key: key and used(key, at=FUTURE), "which is in the future"),
    ("retrieved", "retrieve", lambda key: key and used(key, at=NAIVE), "a last use without a time zone"),
    ("retrieved", "retrieve", lambda key: key and replace(key, use=(1,)), "a use of type tuple"),
    ("shortened", "set_expiry", lambda _: None, "set_expiry returned None"),
    ("shortened", "set_expiry", shows(expires_at=SOON), "set_expiry shows the expiry"),
    ("shortened", "set_expiry", shows(id="id-x"), "returned the key id-x"),
    ("gone_key_has_no_expiry", "set_expiry", lambda key: key or FOREIGN, "a key that is gone"),
]


@pytest.mark.parametrize(("check", "method", "flaw", "message"), FLAWS)
def test_a_flaw_of_one_method_is_found(
    check: str, method: str, flaw: Callable[[Any], Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    issuer = Issuer()
    if method == "page":
        pages = issuer.pages
        monkeypatch.setattr(issuer, "pages", lambda before: (flaw(page) for page in pages(before)))
    else:
        right = getattr(issuer, method)
        monkeypatch.setattr(issuer, method, lambda *given: flaw(right(*given)))
    with trial(issuer) as one, pytest.raises(ContractBroken, match=message):
        getattr(contract, check)(one)


def broken(check: str, **methods: Callable[..., Any]) -> str:
    issuer = Issuer()
    for name, method in methods.items():
        setattr(issuer, name, method)
    with trial(issuer) as one, pytest.raises(ContractBroken) as caught:
        getattr(contract, check)(one)
    return str(caught.value)


def test_a_delete_that_does_nothing_is_found() -> None:
    assert "still shows the key after delete" in broken("revoked", delete=lambda _: None)
    assert "works after delete" in broken("no_longer_works", delete=lambda _: None)


def test_a_revoked_key_in_the_list_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    issuer = Issuer()
    with trial(issuer) as one:
        kept = ProviderKey(one.key.id, one.name, one.expires_at)
        monkeypatch.setattr(issuer, "pages", lambda before: iter([[kept]]))
        with pytest.raises(ContractBroken, match="the list still shows the key"):
            contract.revoked(one)


def test_an_error_that_is_not_the_ports_is_found_and_not_shown() -> None:
    def delete(key_id: str) -> None:
        raise KeyError("text-0")

    message = broken("deleted_twice", delete=delete)
    assert message == "delete raised KeyError, which is none of the errors that it may raise"


def test_a_read_with_an_unknown_outcome_is_found() -> None:
    def retrieve(key_id: str) -> None:
        raise ProviderOutcomeUnknown("")

    assert "retrieve raised ProviderOutcomeUnknown" in broken("retrieved", retrieve=retrieve)


def test_pages_without_the_rate_limit_are_found() -> None:
    assert "page 1 after 0 calls" in broken("asks_before_each_page", pages=lambda before: iter([[]]))


@pytest.mark.parametrize("shared", [KeyUse((CapUse("calls", 3),)), KeyUse((), datetime.now(UTC))])
def test_use_that_is_shown_of_another_key_is_found(shared: KeyUse, monkeypatch: pytest.MonkeyPatch) -> None:
    issuer = Issuer()

    def use(_: Secret) -> None:
        issuer.keys = {key_id: replace(key, use=shared) for key_id, key in issuer.keys.items()}

    monkeypatch.setattr(issuer, "use", use)
    with trial(issuer) as one, pytest.raises(ContractBroken, match="of a key that was never used"):
        contract.use_of_its_own(one)


def test_a_key_that_is_created_twice_is_found() -> None:
    issuer = Issuer()
    same = issuer.create("a", {}, SOON)
    assert "one id" in broken("two_differ", create=lambda name, *_: replace(same, name=name))


def test_a_text_in_a_later_answer_is_found() -> None:
    issuer = Issuer()
    with trial(issuer) as one:
        key, text = issuer.keys[one.key.id], one.key.secret.reveal()
        page: list[ListedKey] = [key, UnreadableKey("", "", f"which is {text}")]
        issuer.pages = lambda before: iter([page])  # type: ignore[method-assign]
        with pytest.raises(ContractBroken, match="pages returned the key's text"):
            contract.text_in_no_answer(one)
        issuer.pages = Issuer.pages.__get__(issuer)  # type: ignore[method-assign]


@pytest.mark.parametrize(
    "traits",
    [Traits(" "), Traits("Acme", names_keys=False), Traits("Acme", keys_per_page=0), Traits("Acme", key_pattern="(")],
)
def test_traits_that_cannot_be_used_are_found(traits: Traits) -> None:
    with pytest.raises(ContractBroken, match=r"traits\."):
        contract.traits(trial(Issuer(traits)))


# --- the end of a trial ----------------------------------------------------------------------------------------------


def test_a_key_is_removed_whatever_fails() -> None:
    issuer = Issuer()
    one = trial(issuer)
    with pytest.raises(ZeroDivisionError), one:
        _ = one.key, 1 / 0
    assert issuer.texts
    assert issuer.keys == {}
    assert one.left_behind == []


def test_a_key_whose_create_was_not_confirmed_is_removed_by_its_name() -> None:
    issuer = Issuer()

    def create(name: str, parameters: KeyParameters, expires_at: datetime) -> CreatedKey:
        Issuer.create(issuer, name, parameters, expires_at)
        raise ProviderOutcomeUnknown("lost")

    issuer.create = create  # type: ignore[method-assign]
    with trial(issuer) as one:
        results = list(hold(one))
        assert len(issuer.keys) == 1
    assert results[-1].outcome is Outcome.UNKNOWN
    assert results[-1].check == contract.created.__doc__
    assert issuer.keys == {}
    assert one.left_behind == []


def test_a_key_without_an_id_is_removed_by_its_name_and_no_request_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    named: list[str] = []

    class Recording(Issuer):
        def retrieve(self, key_id: str) -> ProviderKey | None:
            named.append(key_id)
            return super().retrieve(key_id)

        def delete(self, key_id: str) -> None:
            named.append(key_id)
            super().delete(key_id)

    issuer = Recording()
    right = issuer.create
    monkeypatch.setattr(issuer, "create", lambda *given: replace(right(*given), id=""))
    with trial(issuer) as one:
        results = list(hold(one))
    assert (results[-1].check, results[-1].outcome) == (contract.created.__doc__, Outcome.BROKEN)
    assert "" not in named
    assert issuer.keys == {}


def test_a_broken_create_ends_no_trial_of_a_key_that_has_an_id(monkeypatch: pytest.MonkeyPatch) -> None:
    issuer = Issuer()
    right = issuer.create
    monkeypatch.setattr(issuer, "create", lambda *given: replace(right(*given), expires_at=SOON))
    with trial(issuer) as one:
        outcomes = [result.outcome for result in hold(one)]
    assert outcomes.count(Outcome.BROKEN) == 1
    assert len(outcomes) == len(CHECKS) - len(contract.WITH_ANOTHER_KEY)


def test_a_check_that_met_a_rate_limit_is_repeated() -> None:
    class Limited(Issuer):
        left = 2

        def retrieve(self, key_id: str) -> ProviderKey | None:
            self.left -= 1
            if self.left >= 0:
                raise ProviderRateLimited("too many", 1.0)
            return super().retrieve(key_id)

    with trial(Limited()) as one:
        assert {result.outcome for result in hold(one)} == {Outcome.KEPT}


def test_a_rate_limit_that_lasts_shows_nothing_about_the_contract() -> None:
    class Limited(Issuer):
        def create(self, name: str, parameters: KeyParameters, expires_at: datetime) -> CreatedKey:
            raise ProviderRateLimited("too many", 1.0)

    with trial(Limited()) as one:
        *_, last = hold(one)
    assert last.outcome is Outcome.UNKNOWN
    assert one.left_behind == []


def test_nothing_is_looked_for_when_nothing_was_created() -> None:
    issuer = Issuer()

    def create(*_: object) -> CreatedKey:
        raise ProviderCredentialRefused("refused")

    def pages(before: object) -> Iterator[Sequence[ListedKey]]:
        raise AssertionError

    issuer.create, issuer.pages = create, pages  # type: ignore[method-assign,assignment]
    with trial(issuer) as one:
        assert [result.outcome for result in hold(one)][-1] is Outcome.UNKNOWN
    assert one.left_behind == []


def test_a_key_that_is_shown_with_another_name_is_never_changed() -> None:
    issuer = Issuer()
    foreign = issuer.create("foreign", {}, SOON)
    issuer.create = lambda name, *_: replace(foreign, name="")  # type: ignore[method-assign]
    with trial(issuer) as one:
        outcomes = {result.outcome for result in hold(one)}
        name = one.name
    assert Outcome.BROKEN in outcomes
    assert issuer.keys[foreign.id].expires_at == SOON
    assert one.left_behind == [f"{name} (id {foreign.id})"]


def test_a_key_that_cannot_be_removed_is_named() -> None:
    issuer = Issuer()

    def delete(key_id: str) -> None:
        raise ProviderUnavailable("down")

    with trial(issuer) as one:
        key = one.key
        issuer.delete = delete  # type: ignore[method-assign]
    assert one.left_behind == [f"{key.name} (id {key.id})"]


# --- faults ----------------------------------------------------------------------------------------------------------


class NaiveProvider:
    """What a hurried author writes: it follows redirects, repeats requests, bounds nothing, passes on all errors."""

    traits = Traits("Naive", reports_use="list")

    def __init__(self, url: str, credential: str) -> None:
        self._url, self._headers = f"{url}/api/temporary-keys/", {"Authorization": f"Bearer {credential}"}

    def _ask(self, method: str, path: str = "", body: object = None) -> Any:
        content = json.dumps(body).encode() if body is not None else None
        url = path if path.startswith("http") else self._url + path
        headers = {**self._headers, "Content-Type": "application/json"}
        request = urllib.request.Request(url, content, headers, method=method)
        for attempt in range(2):
            try:
                with urllib.request.urlopen(request, timeout=1) as answer:
                    return json.loads(answer.read() or b"{}")
            except urllib.error.HTTPError as error:
                with error:
                    failure = f"{error.code}: {error.read().decode()}"
                if error.code == 404:
                    return None
            except (OSError, ValueError) as error:
                failure = repr(error)
            if not attempt:
                continue
            raise ProviderUnavailable(failure)
        return None

    def create(self, name: str, parameters: KeyParameters, expires_at: datetime) -> CreatedKey:
        key = self._ask("POST", body={"name": name, "expiry_date": timestamp(expires_at)})
        return CreatedKey(key["id"], name, Secret(key["api_key"]), expires_at)

    def ready(self) -> None: ...

    def pages(self, before: Callable[[], object]) -> Iterator[Sequence[ListedKey]]:
        following = self._url
        for _ in range(5):
            before()
            page = self._ask("GET", following)
            yield [_key(entry) for entry in page["results"]]
            following = page["next"]
            if not following:
                return

    def retrieve(self, key_id: str) -> ProviderKey | None:
        entry = self._ask("GET", f"{key_id}/")
        return entry and _key(entry)

    def set_expiry(self, key_id: str, expires_at: datetime) -> ProviderKey | None:
        entry = self._ask("PATCH", f"{key_id}/", {"expiry_date": timestamp(expires_at)})
        return entry and _key(entry)

    def delete(self, key_id: str) -> None:
        self._ask("DELETE", f"{key_id}/")

    def probe(self, key: Secret) -> None: ...

    def close(self) -> None: ...


def _key(entry: dict[str, Any]) -> ProviderKey:
    use = KeyUse((CapUse("max_usage", float(entry["key_usage"])),))
    return ProviderKey(entry["id"], entry["name"], datetime.fromisoformat(entry["expiry_date"]), use=use)


@pytest.fixture
def sim() -> Iterator[Simulator]:
    with Simulator(options=Options(requests_per_minute=None, page_size=2, use_shown="everywhere")) as sim:
        yield sim


KEPT_BY_LUCK = {fault_checks.no_connection, fault_checks.closed, fault_checks.threads}


@pytest.mark.parametrize("check", [check for check in FAULT_CHECKS if check not in KEPT_BY_LUCK])
def test_a_naive_client_fails_under_each_fault(
    check: Callable[[Bench], None], sim: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fault_checks, "SLACK", 0.5)

    def make(url: str) -> ConnectedProvider:
        return NaiveProvider(url, sim.organisation_key)  # type: ignore[return-value]

    with (
        FaultProxy(sim.url) as proxy,
        closing(make(sim.url)) as provider,
        Trial(provider) as trial,
        pytest.raises(ContractBroken),
    ):
        check(Bench(make, proxy, trial, Secret(sim.organisation_key), 1.0))


def test_answers_that_go_to_another_thread_are_found(sim: Simulator, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[CreatedKey] = []
    retrieve = NaiveProvider.retrieve

    def confused(provider: NaiveProvider, key_id: str) -> ProviderKey | None:
        is_concurrent = threading.current_thread() is not threading.main_thread()
        return retrieve(provider, made[0].id if is_concurrent else key_id)

    def make(url: str) -> ConnectedProvider:
        return NaiveProvider(url, sim.organisation_key)  # type: ignore[return-value]

    monkeypatch.setattr(NaiveProvider, "retrieve", confused)
    with FaultProxy(sim.url) as proxy, closing(make(sim.url)) as provider, Trial(provider) as trial:
        made.append(trial.key)
        with pytest.raises(ContractBroken, match="another thread"):
            fault_checks.threads(Bench(make, proxy, trial, Secret(sim.organisation_key), 1.0))


def test_the_class_has_a_test_for_each_check() -> None:
    names = {f"test_{check.__name__}" for check in CHECKS} | {f"test_fault_{check.__name__}" for check in FAULT_CHECKS}
    assert {name for name in vars(ProviderContract) if name.startswith("test_")} == names
    assert all(getattr(ProviderContract, name).__doc__ for name in names)


def test_the_test_file_of_the_documentation_runs_with_one_command(sim: Simulator, tmp_path: Path) -> None:
    file = textwrap.dedent(rotator.testing.__doc__ or "").split("\n\n")[2:]
    code = textwrap.dedent("\n\n".join(part for part in file if part.startswith("    ")))
    assert "class TestAcme(ProviderContract):" in code
    code = code.replace("from acme_rotator import", "from rotator.providers.respan.settings import RESPAN as")
    code = code.replace("http://127.0.0.1:8000", sim.url).replace('"made-up"', repr(sim.organisation_key))
    (tmp_path / "test_acme.py").write_text(code)
    command = [sys.executable, "-m", "pytest", "-rp", "--rootdir", ".", "-k", "test_created or lost_request"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout
    assert "PASSED test_acme.py::TestAcme::test_created" in ended.stdout
    assert "PASSED test_acme.py::TestAcme::test_fault_lost_request" in ended.stdout


def test_the_suite_imports_no_test_framework() -> None:
    code = "import sys, rotator.testing; print('pytest' in sys.modules, 'unittest' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).split() == ["False", "False"]


def test_the_credential_of_a_server_is_not_in_its_repr() -> None:
    assert "made-up" not in repr(Server("http://h", Secret("made-up")))
