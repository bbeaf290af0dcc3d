"""Pointers into the JSON of an answer: dotted names ("data.hash"), or RFC 6901 ("/data/hash")."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True, slots=True)
class Pointer:
    """A way into an answer. The pointer "" is the whole of it."""

    text: str
    steps: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the pointer. Raises ValueError with what is wrong with its syntax."""
        if not text.isprintable():
            raise ValueError("must not contain control characters")
        if not text:
            return cls(text, ())
        if text.startswith("/"):
            if re.search("~(?![01])", text):
                raise ValueError("has a ~ that is neither ~0 nor ~1 (RFC 6901)")
            return cls(text, tuple(step.replace("~1", "/").replace("~0", "~") for step in text[1:].split("/")))
        steps = tuple(text.split("."))
        if not all(steps) or any(character in text for character in "[]{}$ "):
            raise ValueError('is no pointer: write "data.hash" or "/data/hash", and the number of an entry as a name')
        return cls(text, steps)

    def of(self, value: object) -> object:
        """Return what is there; None where nothing is, or null."""
        for step in self.steps:
            if isinstance(value, dict):
                value = value.get(step)
            elif isinstance(value, list) and step.isdecimal() and len(step) < 8 and int(step) < len(value):
                value = value[int(step)]
            else:
                return None
        return value

    def __str__(self) -> str:
        return self.text or "the whole answer"


@dataclass(frozen=True, slots=True)
class Places:
    """Pointers to the places where something may be."""

    pointers: tuple[Pointer, ...]

    def of(self, value: object) -> object:
        """Return what the first of them finds."""
        return next((found for pointer in self.pointers if (found := pointer.of(value)) is not None), None)

    def list_in(self, value: object) -> Sequence[object] | None:
        """Return the first list that one of them finds."""
        found = (pointer.of(value) for pointer in self.pointers)
        return next((entries for entries in found if isinstance(entries, list)), None)

    def __str__(self) -> str:
        return " or ".join(map(str, self.pointers))
