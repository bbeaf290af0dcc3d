"""Checks a regular expression that finds key texts, before every line of output is searched with it."""

import re
from re import _constants as codes  # type: ignore[attr-defined]  # nothing public shows how a pattern is parsed
from re import _parser  # type: ignore[attr-defined]
from typing import Any

MAX_STEPS = 10_000
"""How often a match may be tried again from one position of a text."""

ORDINARY = (
    "the served key of billing-api expires at 2026-11-29T08:45:36Z; rotator replaces it before, at 08:30:00",
    "https://vault.vault.svc:8200/v1/secret/data/apps/billing/api?version=12",
    "prod-eu.billing-ap.abcdefghijkl.12.mnopqrst",
    "task-scheduler-of-the-risk-assessment-desk-in-production",  # "sk-" begins the keys of several providers
    "the served key of billing-api is rejected: rotator removes it and keeps the one before; " * 20,
    "rotator",
    "0",
)
"""Texts that hold no key."""


def parse_key_pattern(value: object) -> str:
    """Return the pattern. Raises ValueError if it finds more than keys, or takes too long to fail."""
    if not isinstance(value, str) or not value:
        raise ValueError("must be a regular expression in quotes")
    try:
        pattern, parsed = re.compile(value), _parser.parse(value)
    except (re.error, RecursionError, OverflowError) as error:
        raise ValueError(f"is not a regular expression: {error}") from None
    if pattern.search(""):
        raise ValueError("finds the empty text, so it would hide everything")
    if any(map(pattern.search, ORDINARY)):
        raise ValueError("finds ordinary words, addresses or times, so it would hide what is no key")
    if _steps(parsed.data, is_last=True) > MAX_STEPS:
        raise ValueError(
            "may try too many ways to match: repeat single characters only, and with a bound unless it is at the end, "
            'as in "sk-[A-Za-z0-9]{20,}"'
        )
    return value


def _steps(items: Any, *, is_last: bool) -> float:
    """Return how many ways there are to match from one position, at most; `is_last`: nothing follows."""
    steps = 1.0
    for number, (code, argument) in enumerate(items):
        is_end = is_last and number == len(items) - 1
        match code:
            case codes.MAX_REPEAT | codes.MIN_REPEAT:
                steps *= _repeats(argument, is_end=is_end)
            case codes.SUBPATTERN:
                steps *= _steps(argument[-1], is_last=is_end)
            case codes.BRANCH:
                steps *= sum(_steps(branch, is_last=is_end) for branch in argument[1])
            case codes.POSSESSIVE_REPEAT:  # no way back into it, so only its own inside counts
                steps *= max(_steps(argument[2], is_last=False), 1.0)
            case codes.ATOMIC_GROUP:
                steps *= _steps(argument, is_last=False)
            case codes.ASSERT | codes.ASSERT_NOT:
                steps *= _steps(argument[1], is_last=False)
            case codes.GROUPREF | codes.GROUPREF_EXISTS:
                return float("inf")
    return steps


def _repeats(argument: Any, *, is_end: bool) -> float:
    least, most, inner = argument
    unbounded = most is codes.MAXREPEAT
    is_single = len(inner) == 1 and inner[0][0] in (codes.LITERAL, codes.NOT_LITERAL, codes.IN, codes.ANY)
    if is_single:
        return 1.0 if is_end or least == most else float("inf") if unbounded else float(most - least + 1)
    once = _steps(inner, is_last=False)
    if unbounded or once > 1:
        return 1.0 if most == 1 and once == 1 else float("inf")
    return float(most - least + 1)
