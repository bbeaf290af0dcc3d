"""Compares events with their descriptions in `tools.event_catalogue`: the level, and the fields.

Tests collect events in `RecordedEvents`. The lines that processes logged are compared when the session ends.
A difference fails the session: see `pytest_sessionfinish` in conftest.py.
"""

import json
from collections.abc import Iterable, Iterator, Mapping

from rotator.core.events import Event, EventType
from support.leaks import RECORDER
from tools.event_catalogue import EVENTS

BEFORE_THE_FIELDS = frozenset({"timestamp", "level", "event", "target"})


def flaws(name: str, level: str, fields: Iterable[str]) -> list[str]:
    """Return how an event differs from its description."""
    description, there = EVENTS[EventType(name)], frozenset(fields)
    known = frozenset(field.rstrip("?") for field in description.fields)
    found = [f"lacks {field}" for field in sorted(frozenset(description.fields) & known - there)]
    found += [f"has {field}, which is not described" for field in sorted(there - known)]
    if level not in description.levels:
        found.append(f"is logged at {level}")
    return [f"{name} {flaw}" for flaw in found]


class RecordedEvents(list[Event]):
    """The events of a test, and how they differ from their descriptions."""

    all_flaws: "set[str]" = set()  # noqa: RUF012 - the session's

    def append(self, event: Event) -> None:
        super().append(event)
        RECORDER.record(f"event {event.what}", repr(dict(event.fields)))
        self.all_flaws.update(flaws(event.what.value, event.level.value, event.fields))

    def of(self, *what: EventType) -> list[Event]:
        """Return the events of these types, in order."""
        return [event for event in self if event.what in what]


def flaws_of_lines(texts: Iterable[str]) -> Iterator[str]:
    """Return how the JSON lines of rotator's events in these outputs differ from their descriptions."""
    for line in {line for text in texts for line in text.splitlines() if line.startswith('{"timestamp": ')}:
        try:
            event: Mapping[str, object] = json.loads(line)
        except ValueError:
            continue  # its process was killed while it wrote the line
        if event["event"] in set(EventType) and "logger" not in event:
            yield from flaws(str(event["event"]), str(event["level"]), event.keys() - BEFORE_THE_FIELDS)
