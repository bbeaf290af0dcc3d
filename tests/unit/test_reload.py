"""What an installation takes over at a reload, and what is closed when the old one is released."""

import os
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import trustme
from support.assembly import assemble, respan
from support.canned import Asked, Canned, Reply, canned
from support.process import wait_until
from support.world import START

from rotator.app.wiring import Installation
from rotator.core.errors import ProviderCredentialRefused, ProviderUnavailable, StoreUnavailable
from rotator.core.events import Event, EventType
from rotator.core.reasons import Reason
from rotator.core.request import SCHEDULED, RotationRequest
from rotator.core.secrets import Secret
from rotator.core.versions import Record
from rotator.daemon.dispatcher import Dispatcher
from rotator.protocol.memory import PendingKey
from rotator.providers.respan.client import RespanProvider
from rotator.runtime.clock import SystemClock
from rotator.stores.vault.store import VaultStore
from rotator.telemetry.metrics import Metrics

CERTIFICATES = [trustme.CA().cert_pem.bytes().decode() for _ in range(2)]
PROXIED = {"proxy": "http://proxy.test", "proxy_credentials": {"file": "edge"}}
RECORD = Record("prod", "b", "id", "name", START, START, "", "")


class Process:
    """One daemon's installations, one after the other, and its dispatcher."""

    def __init__(self, folder: Path, server: Canned) -> None:
        self.folder, self.server = folder, server
        self.clock, self.metrics = SystemClock(), Metrics("0")
        self.events: list[Event] = []
        (folder / "key").write_text("organisation-key")
        self.config: dict[str, Any] = {
            "providers": {"respan": respan(server.address)},
            "stores": {
                "vault": {"type": "vault", "address": server.address, "auth": {"method": "token"}},
                "file": {"type": "sqlite", "file": "store.db"},
            },
            "targets": {},
        }
        self.installation = self.assembled(None)
        self.dispatcher = Dispatcher(self.installation, self.metrics, self.events.append)

    def assembled(self, predecessor: Installation | None) -> Installation:
        return assemble(
            self.folder,
            self.config,
            self.clock,
            self.metrics,
            self.events.append,
            environment={"VAULT_TOKEN": "token"},
            predecessor=predecessor,
        )

    def reload(self) -> tuple[Installation, Installation]:
        """Reload; return the installations before and after."""
        before, self.installation = self.installation, self.assembled(self.installation)
        self.dispatcher.take_up(self.installation)
        return before, self.installation

    @property
    def provider(self) -> RespanProvider:
        provider = self.installation.providers["respan"]
        assert isinstance(provider, RespanProvider)
        return provider


@pytest.fixture
def process(tmp_path: Path) -> Iterator[Process]:
    with canned(lambda _: Reply(200, [])) as server:
        made = Process(tmp_path, server)
        yield made
        made.dispatcher.end()
        made.installation.close()


def test_unchanged_parts_are_taken_over(process: Process) -> None:
    process.config["defaults"] = {"ttl": "30h"}
    process.config["providers"]["respan"]["requests_per_minute"] = 7
    before, after = process.reload()
    assert after.providers == before.providers
    assert after.stores == before.stores
    assert after.budgets["respan"].limit == 7


def test_a_reload_looks_for_keys_that_were_made_in_vain_before_it(process: Process) -> None:
    """And for keys made after it, by a pass that had begun before."""
    process.config["targets"] = {"a": {"path": "apps/a", "store": "file"}}
    process.config["providers"]["respan"]["probe"] = {"url": "https://probe.test"}
    before, _ = process.reload()
    target = process.installation.targets["a"]
    before.strays["respan"].look_for(target, "before", RotationRequest())
    _, after = process.reload()
    process.installation.strays["respan"].look_for(target, "after", RotationRequest())
    assert {*after.strays["respan"].waiting} == {"before", "after"}


@pytest.mark.parametrize(
    ("part", "changes", "renewed"),
    [
        ("providers.respan", {"probe": {"url": "https://probe.test"}}, {"respan"}),
        ("providers.respan", {"api_key": {"env": "VAULT_TOKEN"}}, {"respan"}),
        ("stores.vault", {"timeout": "3s"}, {"vault"}),
        ("stores.vault", {"auth": {"method": "token_file", "token_file": "key"}}, {"vault"}),
        ("stores.file", {"file": "another.db"}, {"file"}),
    ],
)
def test_only_changed_parts_are_rebuilt(
    process: Process, part: str, changes: dict[str, Any], renewed: set[str]
) -> None:
    section, name = part.split(".")
    process.config[section][name] |= changes
    before, after = process.reload()
    old, new = ({**installation.providers, **installation.stores} for installation in (before, after))
    assert {name for name in new if new[name] is not old[name]} == renewed


def test_a_provider_is_rebuilt_when_a_file_that_it_read_has_changed(process: Process) -> None:
    for name, content in (("edge.pem", CERTIFICATES[0]), ("edge", "user:one")):
        (process.folder / name).write_text(content)
    process.config["providers"]["respan"] |= {
        "proxy": process.server.address,
        "proxy_credentials": {"file": "edge"},
        "ca_file": "edge.pem",
    }
    process.reload()
    for name, content in (("edge.pem", CERTIFICATES[1]), ("edge", "user:two")):
        before, after = process.reload()
        assert after.providers == before.providers
        (process.folder / name).write_text(content)
        before, after = process.reload()
        assert after.providers["respan"] is not before.providers["respan"]
        assert after.stores == before.stores


@pytest.mark.parametrize(
    ("options", "name", "content", "message"),
    [
        ({"ca_file": "edge"}, "", "", "ca_file names, cannot be used: No such file or directory"),
        ({"ca_file": "edge"}, "edge", "", "ca_file names, cannot be used: it is empty"),
        ({"ca_file": "edge"}, "edge", "key", "ca_file names, cannot be used: it does not hold certificates in PEM"),
        (PROXIED, "", "", "proxy_credentials names, cannot be read: No such file or directory"),
        (PROXIED, "edge", "\n", "proxy_credentials names, is empty or not set"),
        (
            PROXIED,
            "edge",
            "no-colon-here",
            "proxy_credentials names is not written user:password",
        ),
    ],
)
def test_a_reload_with_an_unusable_file_keeps_what_is_there(
    process: Process, options: dict[str, Any], name: str, content: str, message: str
) -> None:
    if name:
        (process.folder / name).write_text(content)
    process.config["providers"]["respan"] |= options
    with pytest.raises(ProviderUnavailable, match=message) as caught:
        process.reload()
    assert "rotator sends nothing to this provider" in f"{caught.value.message} {caught.value.advice}"
    assert "no-colon-here" not in caught.value.message
    assert list(process.provider.pages(lambda: None)) == [[]]


def shown(process: Process) -> list[str]:
    """Return the metrics as Prometheus reads them, without those of any process."""
    return [line for line in process.metrics.render().decode().splitlines() if "process_" not in line]


def test_a_successor_that_is_built_and_not_used_has_changed_nothing(process: Process) -> None:
    process.config["targets"] = {name: {"path": name, "provider": "respan", "store": "file"} for name in ("a", "b")}
    _, before = process.reload()
    pending = before.observer(before.targets["b"]).memory.pending
    pending["b"] = PendingKey("respan", 0, RECORD, Secret("text"), Reason.FIRST, SCHEDULED)
    process.clock.skews = dict.fromkeys([process.provider.upstream, "vault.test"], timedelta(seconds=61))
    next(process.provider.pages(lambda: None))
    (process.folder / "key").write_text("the-next-key")

    def in_use() -> list[object]:
        budget, clock = before.budgets["respan"], process.clock
        next(process.provider.pages(lambda: None))
        sent_with = process.server.asked[-1].headers["authorization"]
        return [
            dict(pending),
            budget.limit,
            budget.awaited(),
            clock.max_clock_skew,
            clock.skews,
            clock.trusted(),
            sent_with,
        ]

    state, page = in_use(), shown(process)
    del process.config["targets"]["b"]
    process.config["providers"]["respan"]["requests_per_minute"] = 7
    process.config["providers"]["another"] = {**process.config["providers"]["respan"], "base_url": "https://else.test"}
    process.config["stores"]["another"] = {**process.config["stores"]["vault"], "address": "https://else.test"}
    process.config["daemon"] = {"max_clock_skew": "1h"}
    successor = process.assembled(before)
    assert shown(process) == page
    assert in_use() == state

    process.installation = successor
    process.dispatcher.take_up(successor)
    assert "b" not in pending
    assert (before.budgets["respan"].limit, process.clock.max_clock_skew) == (7, timedelta(hours=1))
    assert process.clock.skews.keys() == {process.provider.upstream}
    assert 'rotator_store_up{store="another"} 1.0' in shown(process)


@pytest.mark.parametrize("failing", ["provider", "store"])
def test_the_parts_of_a_failed_successor_are_closed(
    process: Process, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    made: list[object] = []
    closed: list[object] = []
    for kind in (RespanProvider, VaultStore):

        def building(part: Any, *arguments: Any, make: Any = kind.__init__, **more: Any) -> None:
            if any(getattr(given, "name", "") == "last" for given in arguments):
                raise ValueError("a library has something against it")
            make(part, *arguments, **more)
            made.append(part)

        monkeypatch.setattr(kind, "__init__", building)
        monkeypatch.setattr(kind, "close", lambda part: closed.append(part))
    process.config["stores"]["vault"]["timeout"] = "3s"
    process.config["providers"]["respan"]["probe"] = {"url": "https://probe.test"}
    if failing == "provider":
        process.config["providers"]["last"] = process.config["providers"]["respan"]
    else:
        process.config["stores"]["last"] = {"type": "sqlite", "file": "nowhere/store.db"}
    with pytest.raises((ProviderUnavailable, StoreUnavailable)):
        process.assembled(process.installation)
    assert set(map(id, made)) == set(map(id, closed))
    assert len(made) == (2 if failing == "provider" else 1)
    closed.clear()


def test_files_that_are_pipes_hold_nothing_up(process: Process) -> None:
    os.mkfifo(process.folder / "pipe")
    process.config["stores"]["vault"]["ca_file"] = "pipe"
    process.config["providers"]["respan"]["api_key"] = {"file": "pipe"}
    process.reload()
    with pytest.raises(ProviderCredentialRefused, match="it is a named pipe, not a regular file"):
        next(process.provider.pages(lambda: None))


def test_certificates_that_were_replaced_are_read_again(process: Process, tmp_path: Path) -> None:
    process.config["stores"]["vault"]["ca_file"] = "ca.crt"
    (tmp_path / "ca.crt").write_text("one")
    process.reload()
    before, after = process.reload()
    assert after.stores["vault"] is before.stores["vault"]
    (tmp_path / "ca.crt").write_text("two")
    before, after = process.reload()
    assert after.stores["vault"] is not before.stores["vault"]


def test_a_key_that_is_read_from_vault_is_read_from_the_one_in_use(process: Process) -> None:
    process.config["providers"]["respan"]["api_key"] = {"vault": "secret/org#key"}
    process.reload()
    before, after = process.reload()
    assert after.providers == before.providers
    process.config["stores"]["vault"]["timeout"] = "3s"
    before, after = process.reload()
    assert after.providers["respan"] is not before.providers["respan"]


def test_only_unused_parts_are_closed(process: Process, monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[object] = []
    for kind in (RespanProvider, VaultStore):
        monkeypatch.setattr(kind, "close", lambda part: closed.append(part))
    first = process.installation
    with process.dispatcher._using():  # a pass that began before the first reload, and takes long
        process.config["stores"]["vault"]["timeout"] = "3s"
        process.reload()
        process.config["stores"]["vault"]["timeout"] = "4s"
        second, _ = process.reload()
        process.dispatcher.watch()
        assert closed == [second.stores["vault"]]
    process.dispatcher.watch()
    assert closed == [second.stores["vault"], first.stores["vault"]]
    process.installation.close()
    assert closed[2:] == [process.provider, process.installation.stores["vault"]]


def test_a_reload_reads_the_organisation_key_again(process: Process, tmp_path: Path) -> None:
    next(process.provider.pages(lambda: None))
    (tmp_path / "key").write_text("the-next-key")
    next(process.provider.pages(lambda: None))
    process.reload()
    next(process.provider.pages(lambda: None))
    sent = [asked.headers["authorization"] for asked in process.server.asked]
    assert sent == ["Bearer organisation-key", "Bearer organisation-key", "Bearer the-next-key"]


def test_a_reload_does_not_wait_for_an_organisation_key_that_is_just_being_read(process: Process) -> None:
    reads, gate, reloaded = list[Secret](), threading.Event(), threading.Event()

    def read() -> Secret:
        """From Vault, which answers slowly."""
        reads.append(Secret(f"key-{len(reads) + 1}"))
        key = reads[-1]
        gate.wait(30)
        return key

    def ask() -> None:
        next(process.provider.pages(lambda: None), None)

    def reload() -> None:
        process.reload()
        reloaded.set()

    process.provider.credential.read = read
    asking, reloading = threading.Thread(target=ask), threading.Thread(target=reload)
    asking.start()
    wait_until(lambda: bool(reads), "the key to be read")
    reloading.start()
    in_time = reloaded.wait(10)
    gate.set()
    asking.join()
    reloading.join()
    assert in_time
    ask()
    ask()
    sent = [asked.headers["authorization"] for asked in process.server.asked]
    assert sent == ["Bearer key-1", "Bearer key-2", "Bearer key-2"], "the key that was read before may be the old one"


def test_a_reload_does_not_report_that_a_refused_key_works_again(process: Process, tmp_path: Path) -> None:
    def answer(asked: Asked) -> Reply:
        good = asked.headers["authorization"] == "Bearer a-good-one"
        return Reply(200, []) if good else Reply(401, {"detail": "invalid"})

    process.server.answer = answer
    with pytest.raises(ProviderCredentialRefused):
        next(process.provider.pages(lambda: None))
    process.dispatcher.watch()
    process.reload()
    process.dispatcher.watch()
    assert [event.what for event in process.events] == [EventType.UPSTREAM_DOWN]
    assert 'rotator_provider_up{provider="respan"} 0.0' in process.metrics.render().decode()

    (tmp_path / "key").write_text("a-good-one")
    process.reload()
    next(process.provider.pages(lambda: None))  # at once, without waiting for the next try
    process.dispatcher.watch()
    assert [event.what for event in process.events] == [EventType.UPSTREAM_DOWN, EventType.UPSTREAM_UP]


def test_a_removed_upstream_is_no_reason_to_distrust_the_clock(process: Process) -> None:
    upstream = process.provider.upstream
    process.clock.skews = {upstream: timedelta(0), "gone:8200": timedelta(hours=1)}
    process.reload()
    assert process.clock.skews == {upstream: timedelta(0)}


def test_more_workers_take_effect_at_the_next_start(process: Process) -> None:
    """The threads and their connections are those of the start, so nothing is rebuilt."""
    process.config["daemon"] = {"workers": 100}
    before, after = process.reload()
    assert after.stores == before.stores
    assert after.connections == before.connections == 8


def test_a_target_added_while_the_next_is_taken_is_not_lost(process: Process) -> None:
    """A due target must be looked up among the new targets."""
    lock, process.config["targets"] = (
        process.dispatcher._taking,
        {"a": {"path": "apps/a", "provider": "respan", "store": "file"}},
    )

    class ReloadedFirst:
        def __enter__(self) -> None:
            if not process.installation.targets:
                process.reload()
            lock.acquire()

        def __exit__(self, *_: object) -> None:
            lock.release()

    process.dispatcher._taking = ReloadedFirst()  # type: ignore[assignment]
    process.dispatcher.tick()
    process.dispatcher.tick()
    wait_until(
        lambda: any(s.error for s in process.dispatcher.statuses.snapshot()), "a pass over it, which the provider fails"
    )
