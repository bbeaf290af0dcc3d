"""Holds events against the table in docs/logging.md: their level, the fields that they must have, and those they may.

Whoever hears events in a test passes them through `heard`; the lines that processes logged are looked at when the
session ends. What is not as documented fails the session: see `pytest_sessionfinish` in conftest.py.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from rotator.core.events import Event, EventType
from support.leaks import RECORDER

DOCUMENT = Path(__file__).parents[2] / "docs" / "logging.md"
BEFORE_THE_FIELDS = frozenset({"timestamp", "level", "event", "target"})
_ROW = re.compile(r"(?m)^\| `(\w+)` \| ([a-z, ]+) \|([^|]*)\|[^|]*\|$")


@dataclass(frozen=True, slots=True)
class Documented:
    """One row of the table."""

    levels: frozenset[str]
    always: frozenset[str]
    sometimes: frozenset[str]


def _documented() -> dict[str, Documented]:
    found = {}
    for name, levels, written in _ROW.findall(DOCUMENT.read_text()):
        fields = dict(re.findall(r"`(\w+)`(\??)", written))
        if "key_id" in fields:
            fields["key_name"] = fields["key_id"]
        always = frozenset(field for field, maybe in fields.items() if not maybe)
        found[name] = Documented(frozenset(levels.split(", ")), always, frozenset(fields) - always)
    return found


DOCUMENTED = _documented()


def flaws(name: str, level: str, fields: Iterable[str]) -> list[str]:
    """In what an event is not as the table says."""
    row, there = DOCUMENTED[name], frozenset(fields)
    found = [f"lacks {field}" for field in sorted(row.always - there)]
    found += [f"has {field}, which is not in the table" for field in sorted(there - row.always - row.sometimes)]
    if level not in row.levels:
        found.append(f"is told at {level}")
    return [f"{name} {flaw}" for flaw in found]


class Heard(list[Event]):
    """The events of a test, and what is not as documented about them."""

    all_flaws: "set[str]" = set()  # noqa: RUF012 - the session's

    def append(self, event: Event) -> None:
        """Keep it."""
        super().append(event)
        RECORDER.record(f"event {event.what}", repr(dict(event.fields)))
        self.all_flaws.update(flaws(event.what.value, event.level.value, event.fields))


def flaws_of_lines(texts: Iterable[str]) -> Iterator[str]:
    """Of the JSON lines of ours in what processes wrote."""
    for line in {line for text in texts for line in text.splitlines() if line.startswith('{"timestamp": ')}:
        try:
            told: Mapping[str, object] = json.loads(line)
        except ValueError:
            continue  # its process was killed as it wrote
        if told["event"] in set(EventType) and "logger" not in told:
            yield from flaws(str(told["event"]), str(told["level"]), told.keys() - BEFORE_THE_FIELDS)
