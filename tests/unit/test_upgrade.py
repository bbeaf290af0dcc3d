"""What a version wrote is read by those after it: a configuration, and a version of a path.

0.1.0 is the first version, and has no earlier one: until its release its files are what the version at work writes.
They are frozen at the release, and from then on are what the next version must read.
"""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from rotator import __version__
from rotator.config.loader import load
from rotator.core.keys import KeyName, place_of
from rotator.core.versions import Ownership, Scope, Version, read_version
from rotator.providers.registry import installed_types

WRITTEN = Path(__file__).parents[1] / "data"
BY = sorted(path.name for path in WRITTEN.glob("written-by-*"))


def test_there_is_something_to_read() -> None:
    """A release that keeps nothing of its own would leave the next one without a test."""
    assert f"written-by-{__version__}" in BY
    for by in BY:
        assert {"rotator.toml", "version.json", "values.yaml"} <= {path.name for path in (WRITTEN / by).iterdir()}


@pytest.mark.parametrize("by", BY)
def test_it_is_read_and_still_ours(by: str) -> None:
    configuration = load(WRITTEN / by / "rotator.toml", {"RESPAN_API_KEY": "planted"}, installed_types())
    assert [warning.key for warning in configuration.warnings] == ["targets.billing-api.key.spending_limit"]
    target = configuration.targets["billing-api"]
    kept = json.loads((WRITTEN / by / "version.json").read_text())
    version = Version(kept["number"], datetime.fromisoformat(kept["created_at"]), kept["data"])
    place = place_of(configuration.owner, kept["location"])
    scope = Scope(configuration.owner, (place,), place, frozenset({configuration.owner}), frozenset({target.name}))
    entry = read_version(version, target, scope)
    assert (entry.ownership, entry.as_configured) == (Ownership.OURS, True), "neither foreign nor drifted"
    assert entry.foreign_fields == {"note"}
    assert entry.record is not None
    assert entry.record.expires_at == datetime(2026, 3, 2, 12, 0, tzinfo=UTC)
    name = KeyName.parse(entry.record.key_name)
    assert name is not None
    assert (name.version, scope.owns(entry.record.key_name)) == (7, True), "an upgrade makes no orphans"
