"""Whatever fails at the provider or at Vault, no key, token or organisation key is in metrics, pages, JSON or log.

A real daemon meets every fault that the simulator knows, at every operation, while it is scraped and looked at; and
then every bad answer, from a Vault that repeats in each what it was sent: the token, and the key.
"""

import json
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest
from support.canned import Asked, Reply, canned
from support.installation import Daemon, Installation, installation, on_vault
from support.leaks import Recorder, spellings
from support.process import wait_until
from support.vault import VaultServer

from rotator.simulator import Fault
from rotator.simulator.faults import KINDS, LIST_KINDS
from rotator.stores.vault.store import NEVER_CURRENT

OPERATIONS = ("create", "list", "retrieve", "update", "delete")
TARGETS = ("a", "b", "c")
PAGES = (("/metrics", False), ("/readyz", False), ("/", True), ("/status.json", True), ("/?q=a&state=failing", True))


@pytest.fixture
def rotator(tmp_path: Path) -> Iterator[Installation]:
    with installation(tmp_path, targets=TARGETS, page_size=2) as made:
        made.config["defaults"] = {"ttl": "60s", "renew_before": "30s", "grace_period": "1s"}
        made.config["sweep"] = {"interval": "1s", "min_age": "1s", "max_orphans": 1000}
        yield made


def lose_a_key(rotator: Installation) -> None:
    """Create a key that no version holds: a sweep looks it up, shortens it, and removes it."""
    vendor = rotator.simulator.vendor
    ours = [key.name for key in list(vendor.keys.values()) if key.name.startswith("prod-eu.")]
    name = ".".join([*ours[0].split(".")[:3], "1", "lonelyaa"])
    vendor.create({"name": name, "expiry_date": (datetime.now(UTC) + timedelta(days=1)).isoformat()})


def look(daemon: Daemon, recorder: Recorder) -> None:
    for page, admin in PAGES:
        recorder.record(page, daemon.get(page, admin=admin).text)


def everything_goes_wrong(rotator: Installation, daemon: Daemon, recorder: Recorder, elsewhere: str) -> set[str]:
    """Cause each kind of fault once at each operation, all of a kind at once. Return those that never came."""
    faults = rotator.simulator.faults
    missing = set()
    for kind in sorted(KINDS):
        faults.clear()
        for operation in ("list",) if kind in LIST_KINDS else OPERATIONS:
            skip = int(kind == "shift")
            fault = Fault(kind, operation, skip=skip, seconds=0.1, retry_after=1, location=elsewhere, after=1)
            faults.add(fault)
        ends = time.monotonic() + 15
        while waiting := {f"{kind} {rule.operation}" for rule, seen in faults.rules() if seen <= rule.skip}:
            if time.monotonic() > ends:
                missing |= waiting
                break
            lose_a_key(rotator)
            daemon.signal(signal.SIGUSR1)
            look(daemon, recorder)
            time.sleep(0.2)
        faults.release()
    faults.clear()
    return missing


@pytest.mark.timeout(300)
def test_no_key_is_shown_whatever_goes_wrong(rotator: Installation) -> None:
    recorder = Recorder()
    recorder.add_simulator(rotator.simulator)
    daemon = rotator.start("--log-level", "debug")
    for name in TARGETS:
        daemon.wait_for("key_published", target=name)
    with canned(lambda _: Reply(200, {"detail": "another client"})) as other:
        assert everything_goes_wrong(rotator, daemon, recorder, other.address) == set()
        assert other.asked == [], "nor is it sent elsewhere"
    daemon.signal(signal.SIGUSR1)
    wait_until(lambda: daemon.metric('rotator_targets{state="ok"}') == len(TARGETS), "all to be well again")
    look(daemon, recorder)
    assert daemon.stop() == 0
    recorder.record("log", rotator.folder.joinpath("stderr.0").read_text())

    keys = rotator.simulator.vendor.keys.values()
    assert len(keys) > 2 * len(KINDS)
    for secret in (next(iter(keys)).text, [*keys][-1].text, rotator.simulator.organisation_key):
        for spelling in spellings(secret):
            planted = Recorder()
            planted.add_simulator(rotator.simulator)
            planted.record("page", recorder.texts[-1][1] + spelling)
            assert planted.scan(), "it would be found"
    assert recorder.scan() == []


# --- Vault -----------------------------------------------------------------------------------------------------------

Answering = Callable[[str], Reply]

ELSEWHERE = "http://127.0.0.1:1"


def status(number: int) -> Answering:
    return lambda echo: Reply(number, {"errors": [echo]})


BAD_ANSWERS: Mapping[str, Answering] = {
    **{str(number): status(number) for number in (400, 403, 404, 500)},
    "429": lambda echo: Reply(429, {"errors": [echo]}, {"Retry-After": "0"}),  # and so it is asked again at once
    "a page": lambda echo: Reply(500, f"<html>{echo}</html>"),
    "no secret": lambda echo: Reply(200, {"data": echo, "errors": [echo], "warnings": [echo]}),
    "not JSON": lambda echo: Reply(200, echo),
    "a redirect": lambda echo: Reply(307, {"errors": [echo]}, {"Location": f"{ELSEWHERE}/{quote(echo)}"}),
    "sealed": lambda echo: Reply(503, {"errors": ["Vault is sealed", echo]}),
    "invalid token": lambda echo: Reply(403, {"errors": ["invalid token", echo]}),
}
STEPS = ("metadata", "read", "preflight", "write", "destroy")


def step_of(asked: Asked) -> str:
    """Return which of rotator's requests this is."""
    for part, name in (("/metadata/", "metadata"), ("/destroy/", "destroy"), ("lookup-self", "login")):
        if part in asked.path:
            return name
    if "/data/" not in asked.path:
        return "health" if "sys/health" in asked.path else "other"
    if asked.method == "GET":
        return "read"
    return "preflight" if json.loads(asked.body)["options"]["cas"] == NEVER_CURRENT else "write"


class EchoingVault:
    """A real Vault behind a proxy that now and then answers with everything in the request."""

    def __init__(self, vault: VaultServer) -> None:
        self._client = httpx.Client(base_url=vault.address, trust_env=False)
        self._lock = threading.Lock()
        self.bad: Answering = status(500)
        self.due: Counter[str] = Counter()  # how many requests of each step are answered so
        self.token = ""  # that the last one came with
        self.repeated: set[str] = set()  # the keys that were sent back

    def __call__(self, asked: Asked) -> Reply:
        step = step_of(asked)
        with self._lock:
            is_bad = self.due[step] > 0
            self.due[step] -= int(is_bad)
        if is_bad:
            self.token = asked.headers.get("x-vault-token", "")
            key = str(json.loads(asked.body).get("data", {}).get("api_key", "")) if asked.body else ""
            self.repeated |= {key} - {""}
            return self.bad(f"{asked.method} refused: {self.token} {key} {asked.body.decode()}")
        headers = {name: value for name, value in asked.headers.items() if name.startswith("x-vault-")}
        answer = self._client.request(asked.method, asked.path, content=asked.body, headers=headers)
        dated = {"Date": answer.headers["Date"]}
        return Reply(answer.status_code, answer.json() if answer.content else "", dated)

    def close(self) -> None:
        self._client.close()


@pytest.mark.timeout(300)
def test_no_key_and_no_token_is_shown_whatever_vault_answers(tmp_path: Path, vault: VaultServer) -> None:
    recorder = Recorder()
    echoing = EchoingVault(vault)
    with on_vault(tmp_path, vault, TARGETS) as (rotator, _), canned(echoing) as server, closing(echoing):
        recorder.add_simulator(rotator.simulator)
        recorder.add_secret("a Vault token", rotator.environment["VAULT_TOKEN"])
        rotator.config["stores"]["store"]["address"] = server.address
        rotator.config["defaults"] = {"ttl": "60s", "renew_before": "30s", "grace_period": "1s"}
        rotator.config["sweep"] = {"interval": "1s", "min_age": "1s", "max_orphans": 1000}
        daemon = rotator.start("--log-level", "debug")
        for name in TARGETS:
            daemon.wait_for("key_published", target=name)
        for kind, bad in BAD_ANSWERS.items():
            echoing.bad = bad
            for step in STEPS:
                echoing.due[step] = 3 if step in ("metadata", "read") else 1  # a read is tried three times

            def met() -> bool:
                daemon.signal(signal.SIGHUP)  # a Vault that is left alone for a while is asked again
                daemon.signal(signal.SIGUSR1)
                time.sleep(0.1)
                look(daemon, recorder)
                return not +echoing.due

            wait_until(met, f"{kind} at {', '.join(STEPS)}", seconds=90)
            assert echoing.token == rotator.environment["VAULT_TOKEN"]
        daemon.signal(signal.SIGHUP)
        wait_until(lambda: daemon.metric('rotator_targets{state="ok"}') == len(TARGETS), "all to be well again")
        look(daemon, recorder)
        assert daemon.stop() == 0
        recorder.record("log", rotator.folder.joinpath("stderr.0").read_text())
        for step in ("health", "login"):  # which a process does once
            for bad in BAD_ANSWERS.values():
                echoing.bad, echoing.due[step] = bad, 3
                shown = rotator.run("status")
                recorder.record(step, shown.stdout + shown.stderr)
                echoing.due.clear()

        texts = "".join(text for _, text in recorder.texts)
        assert texts.count("[hidden]") > 2 * len(BAD_ANSWERS), "the answers are reported, without their secrets"
        keys = {key.text for key in rotator.simulator.vendor.keys.values()}
        assert len(echoing.repeated & keys) > 2, "keys came back, and not only placeholders"
        assert recorder.scan() == []
