"""What fails a session although all its tests passed: see `pytest_sessionfinish` in conftest.py.

Each is planted in a session of its own, which has this one's conftest as a plugin.
"""

import os
import secrets
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
KEY = secrets.token_urlsafe(32)
WELL = "pass"
LEAK = f"""
    from support.leaks import RECORDER
    RECORDER.add_secret("a key", "{KEY}")
    RECORDER.record("a page", "before {KEY} after")
"""
LEAK_OF_A_SIMULATOR = """
    from rotator.simulator import Simulator
    from support.leaks import RECORDER
    with Simulator() as simulator:
        RECORDER.add_simulator(simulator)
        RECORDER.record("a page", simulator.vendor.create({}).text)
"""
FLAW = """
    from rotator.core.events import Event, EventType
    from support.recorded_events import RecordedEvents
    RecordedEvents().append(Event(EventType.KEY_CREATED))
"""
FLAW_IN_A_LOG = """
    from support.leaks import RECORDER
    RECORDER.record("stderr", '{"timestamp": "now", "level": "info", "event": "key_created"}')
"""
SKIP = """
    import pytest
    pytest.skip("there is no moon")
"""
SECRETS = "secrets were found in rotator's output"
EVENTS = "events differ from tools/event_catalogue.py"
SKIPS = "CI does not allow these skips"


@pytest.mark.parametrize(
    ("planted", "ci", "heading"),
    [
        (WELL, "true", ""),
        (LEAK, "false", SECRETS),
        (LEAK_OF_A_SIMULATOR, "false", SECRETS),
        (FLAW, "false", EVENTS),
        (FLAW_IN_A_LOG, "false", EVENTS),
        (SKIP, "true", SKIPS),
        (SKIP, "false", ""),
    ],
)
def test_what_is_planted_fails_the_session(tmp_path: Path, planted: str, ci: str, heading: str) -> None:
    file = tmp_path / "test_planted.py"
    file.write_text(f"def test_planted():\n    {planted.strip()}\n")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "conftest", "-p", "no:cacheprovider", "--rootdir", tmp_path, file],
        env={**os.environ, "PYTHONPATH": f"{TESTS}:{TESTS.parent}", "CI": ci},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    shown = done.stdout + done.stderr
    assert done.returncode == (1 if heading else 0), shown
    assert [words for words in (SECRETS, EVENTS, SKIPS) if words in shown] == ([heading] if heading else []), shown
    assert "1 failed" not in shown
    assert KEY not in shown
