"""Installations in the test's own process, assembled as a daemon assembles them."""

import json
from collections.abc import Mapping
from pathlib import Path

from rotator.app.wiring import Installation
from rotator.config.loader import load
from rotator.core.ports import Leadership, Listener
from rotator.providers.registry import installed_types
from rotator.runtime.clock import SystemClock
from rotator.telemetry.metrics import Metrics


def respan(base_url: str = "https://api.respan.ai", **options: object) -> dict[str, object]:
    """Return the settings of a provider whose organisation key is in the file `key`."""
    return {"type": "respan", "base_url": base_url, "api_key": {"file": "key"}, **options}


def assemble(
    folder: Path,
    settings: Mapping[str, object],
    clock: SystemClock,
    metrics: Metrics,
    emit: Listener,
    *,
    environment: Mapping[str, str] | None = None,
    predecessor: Installation | None = None,
    leads: Leadership = lambda: True,
) -> Installation:
    """Return the installation of these settings; a SQLite file is its store unless they name one."""
    file = folder / "rotator.json"
    file.write_text(
        json.dumps({"owner": "prod", "stores": {"file": {"type": "sqlite", "file": "store.db"}}, **settings})
    )
    variables = environment or {}
    configuration = load(file, variables, installed_types())
    return Installation(configuration, variables, clock, metrics, emit, predecessor, leads)
