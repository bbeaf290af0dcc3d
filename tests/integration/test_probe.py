"""rotator with a probe, and a provider whose gateway accepts a new key after a moment, or never."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
from support.installation import Installation, installation

from rotator.simulator import Fault

SECOND = ".2."
"""In the names of keys that are meant for a path's second version."""


@pytest.fixture
def probing(tmp_path: Path) -> Iterator[Installation]:
    """Two targets that have their first key, which has passed the probe."""
    with installation(tmp_path, targets=("a", "b")) as made:
        url = f"{made.simulator.url}/api/chat/completions"
        made.config["providers"]["respan"]["probe"] = {"url": url, "method": "POST"}
        made.run("rotate", "--all", status=0)
        yield made


def calls(made: Installation, status: int) -> int:
    """Return how often the gateway gave this answer to a probe of a second key."""
    return sum(call.status == status and SECOND in (call.key_name or "") for call in made.calls("chat"))


def alive(made: Installation, target: str) -> list[str]:
    """Return the names of the target's keys that work."""
    now = datetime.now(UTC)
    return [key.name for key in made.simulator.vendor.keys.values() if f".{target}." in key.name and key.alive(now)]


def works(made: Installation, key_id: str) -> bool:
    """Return whether the gateway accepts a call with this key."""
    text = made.simulator.vendor.keys[key_id].text
    headers = {"Authorization": f"Bearer {text}"}
    url = f"{made.simulator.url}/api/chat/completions"
    return httpx.post(url, json={}, headers=headers, trust_env=False, verify=False).status_code == httpx.codes.OK


def served(made: Installation, target: str) -> str:
    """Return the id of the served key."""
    found = next(status for status in made.json("status")["targets"] if status["name"] == target)
    return str(found["key_id"])


def test_a_key_that_works_after_a_moment_is_published_then(probing: Installation) -> None:
    first = served(probing, "a")
    probing.simulator.faults.add(Fault("refuse", "chat", name=SECOND, times=3, status=401))
    probing.run("rotate", "a", status=0)
    assert (calls(probing, 401), calls(probing, 200)) == (3, 1)
    assert served(probing, "a") != first
    assert works(probing, served(probing, "a"))


def test_a_key_that_never_works_is_removed_and_the_old_one_stays(probing: Installation) -> None:
    first = served(probing, "a")
    probing.simulator.faults.add(Fault("refuse", "chat", name=SECOND, times=None, status=401))
    result = probing.run("rotate", "a", status=1)
    assert "a: failed: " in result.stdout
    assert served(probing, "a") == first
    assert works(probing, first)
    assert [name for name in alive(probing, "a") if SECOND in name] == []

    # The organisation key and the other keys are fine.
    probing.simulator.faults.clear()
    probing.run("rotate", "--all", status=0)
    assert served(probing, "a") != first
