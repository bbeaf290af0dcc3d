"""Writes the table of events in logging.md: run it after a change to rotator/telemetry/catalogue.py.

python docs/write_reference.py
"""

import re
from pathlib import Path

from rotator.telemetry.catalogue import EVENTS

LOGGING = Path(__file__).parent / "logging.md"
_TABLE = re.compile(r"(?m)(?<=^\| Event \| Level \| Fields \| Meaning \|\n\|---\|---\|---\|---\|\n)(?:\|.*\n)*")


def updated(text: str) -> str:
    """Return logging.md as it should be."""
    rows = "".join(description.markdown(event) + "\n" for event, description in EVENTS.items())
    return _TABLE.sub(lambda _: rows, text)


if __name__ == "__main__":
    LOGGING.write_text(updated(LOGGING.read_text()))
