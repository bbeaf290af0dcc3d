"""The session's search for secrets finds one that is planted, in every channel and in every spelling.

The search itself runs when all tests are over: `pytest_sessionfinish` in conftest.py.
"""

import base64
import json
import secrets
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from support.installation import installation
from support.leaks import Leak, Recorder

from rotator.config.values import Address
from rotator.core.events import Event
from rotator.core.reasons import Reason
from rotator.simulator import Options, Simulator
from rotator.telemetry.metrics import Metrics
from rotator.web.server import Response, Server

PLANT = """
import sys, logging
from rotator.runtime import redact as scrub
from rotator.telemetry import logging as logs
from rotator.core.events import Event, EventType
channel, key = sys.stdin.read().splitlines()
class Unscrubbed(scrub.Scrubber):
    def __call__(self, text, foreign=False):
        return text
    known = __call__
scrub._scrubber = Unscrubbed()  # it would hide the key: the search must not rely on it
logs.configure("json", "info")
match channel:
    case "stdout":
        print("here:", key)
    case "stderr":
        print("here:", key, file=sys.stderr)
    case "log line":
        logs.log_event(Event(EventType.KEY_CREATED, "a", fields={"key_id": key}))
    case "traceback":
        raise RuntimeError(key)
"""


def unheard(event: Event) -> None:
    """A function with a doc string, for its `help`."""


@pytest.fixture
def key() -> str:
    return f"{secrets.token_hex(4)}.{secrets.token_urlsafe(32)}"


@pytest.mark.parametrize("channel", ["stdout", "stderr", "log line", "traceback"])
def test_a_key_in_the_output_of_a_process_is_found(key: str, channel: str) -> None:
    recorder = Recorder()
    recorder.add_secret("a key", key)
    process = subprocess.run(
        [sys.executable, "-c", PLANT],
        input=f"{channel}\n{key}",
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    recorder.record("stdout", process.stdout)
    recorder.record("stderr", process.stderr)
    assert {leak.source for leak in recorder.scan()} == {"stdout" if channel == "stdout" else "stderr"}


def test_a_key_in_the_metrics_is_found(key: str) -> None:
    recorder, metrics = Recorder(), Metrics("1")
    recorder.add_secret("a key", key)
    metrics.rotation(key, Reason.FIRST, "success", 1.0)
    page = {"/metrics": lambda _: Response(200, metrics.content_type, metrics.render())}
    server = Server(Address("127.0.0.1", 0), page, option="http.listen", loopback_only_hosts=False, emit=unheard)
    try:
        recorder.record("page", httpx.get(f"http://{server.address}/metrics", trust_env=False).text)
    finally:
        server.close()
    assert [(leak.source, leak.kind) for leak in recorder.scan()][:1] == [("page", "a key")]


def _base64_at(shift: int) -> Callable[[str], str]:
    return lambda text: base64.b64encode(b"?" * shift + text.encode() + b"and more").decode()


@pytest.mark.parametrize(
    "spelt",
    [str, json.dumps, lambda text: json.dumps(json.dumps([text])), *map(_base64_at, range(3))],
    ids=["raw", "json", "json in json", "base64", "base64 + 1", "base64 + 2"],
)
@pytest.mark.parametrize("secret", ["deadbeef.abcdef_-XYZ0123456789", 'with"quotes/and\\slashes'])
def test_a_secret_is_found_however_it_is_spelt(spelt: Callable[[str], str], secret: str) -> None:
    recorder = Recorder()
    recorder.add_secret("a secret", secret)
    recorder.record("page", f"before{spelt(secret)}after")
    twice_escaped = spelt(secret).startswith('"[') and "\\" in secret
    assert bool(recorder.scan()) is not twice_escaped


def test_an_absent_secret_is_not_found_and_an_exempt_line_is_not_searched(key: str) -> None:
    recorder = Recorder()
    recorder.add_secret("a key", key)
    recorder.record("stdout", f"export KEY={key}\nand nothing else", exempt=[f"export KEY={key}"])
    recorder.record("stderr", key[:-1])
    assert recorder.scan() == []
    recorder.record("stderr", f"export KEY={key}")
    assert len(recorder.scan()) == 1


def test_a_leak_is_reported_without_the_secret(key: str) -> None:
    recorder = Recorder()
    recorder.add_secret("a key", key)
    recorder.record("stdout", f"{key} {key}")
    assert recorder.scan() == [Leak("stdout", "a key", "")]
    assert key not in str(recorder.scan())


def test_every_key_of_a_simulator_is_known_whenever_it_was_minted() -> None:
    recorder = Recorder()
    with Simulator(options=Options()) as simulator:
        recorder.add_simulator(simulator)
        minted = simulator.vendor.create({"name": "late"})
        simulator.vendor.delete(minted.id)
    recorder.record("stdout", minted.text)
    recorder.record("stderr", simulator.organisation_key)
    assert [(leak.source, leak.kind) for leak in recorder.scan()] == [
        ("stdout", "a key"),
        ("stderr", "an organisation key"),
    ]


def test_the_output_of_an_installation_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder()
    monkeypatch.setattr("support.installation.RECORDER", recorder)
    with installation(tmp_path) as rotator:
        rotator.run("run", "--once", status=0)
        daemon = rotator.start()
        daemon.wait_for("started")
        daemon.get("/metrics")
        daemon.stop()
    assert len(recorder.texts) == 5
    assert len(recorder.secrets()) == 2  # the target's key, and the organisation's
    assert recorder.scan() == []
