"""How a configuration file writes durations, addresses, paths and other values that are not plain strings or numbers.

Pure. Each function returns the value, or raises a ValueError whose message completes a sentence about the option:
'write a unit: "90s" or "90m"'. No message repeats the value, which may be a misplaced secret; a bare number is shown.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from math import ceil
from urllib.parse import urlsplit

from rotator.core.versions import LONGEST

DURATION_PATTERN = "(?:([0-9]{1,9})d)?(?:([0-9]{1,9})h)?(?:([0-9]{1,9})m)?(?:([0-9]{1,9})s)?"
PERCENTAGE_PATTERN = "([0-9]{1,2}(?:[.][0-9]{1,3})?)%"
SHARE_PATTERN = "([0-9]{1,2}(?:[.][0-9]{1,3})?)%"
MOMENT_PATTERN = "[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}:[0-9]{2}(?:[.][0-9]+)?(?:[Zz]|[+-][0-9]{2}:[0-9]{2})"
LIMIT_PATTERN = "(100|[0-9]{1,2}(?:[.][0-9]{1,3})?)%"
_LARGEST_PERCENTAGE = 50
_UNITS = {"d": 86400, "h": 3600, "m": 60, "s": 1}
_DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen. Port 0 is any free port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Limit:
    """A limit as it was written: a share of a total ("50%"), or a number."""

    amount: float
    is_share: bool

    def of(self, total: int) -> float:
        """Return the limit as a number of things."""
        return self.amount * total if self.is_share else self.amount

    def __str__(self) -> str:
        return f"{self.amount * 100:g}%" if self.is_share else f"{self.amount:g}"


@dataclass(frozen=True, slots=True)
class VaultReference:
    """One field of a KV version 2 secret, written "mount/path#field"; the mount is the first segment."""

    mount: str
    path: str
    field: str


def parse_text(value: object) -> str:
    """Return a string of at least one character, without control characters."""
    if not isinstance(value, str):
        raise ValueError("must be a string in quotes")  # noqa: TRY004 - pydantic turns only a ValueError into a problem
    if not value:
        raise ValueError("must not be empty")
    if not value.isprintable():
        raise ValueError("must not contain control characters")
    return value


def parse_duration(value: object) -> timedelta:
    """Parse "90s", "15m", "24h", "7d", "1h30m": whole numbers, each unit once, the largest first."""
    text = parse_text(str(value) if isinstance(value, int) and value < 10**9 else value)
    if re.fullmatch("[0-9]{1,9}", text):
        raise ValueError(f'write a unit: "{text}s", "{text}m", "{text}h" or "{text}d"')
    match = re.fullmatch(DURATION_PATTERN, text)
    if match is None:
        raise ValueError('is not a duration: write "90s", "15m", "24h", "7d" or "1h30m"')
    parts = zip(match.groups(default="0"), _UNITS.values(), strict=True)
    seconds = sum(int(number) * unit for number, unit in parts)
    if seconds == 0:
        raise ValueError("must be longer than 0s")
    if seconds > LONGEST.total_seconds():
        raise ValueError(f"must be at most {LONGEST.days}d")
    return timedelta(seconds=seconds)


def parse_extension(value: object) -> timedelta:
    """Parse a duration that may be "0s": none."""
    return timedelta(0) if value in (0, "0s") else parse_duration(value)


def parse_duration_or_share(value: object) -> timedelta | float:
    """Parse a duration, or a share of the ttl: "33%" as 0.33."""
    if not isinstance(value, str) or not value.endswith("%"):
        return parse_duration(value)
    match = re.fullmatch(SHARE_PATTERN, value)
    if match is None or float(match[1]) == 0:
        raise ValueError('is not a share of ttl: write more than "0%" and less than "100%", such as "33%" or "33.333%"')
    return float(match[1]) / 100


def share_of(ttl: timedelta, value: timedelta | float) -> timedelta:
    """Return a duration as it is, and a share of the ttl as a duration, to the second."""
    if isinstance(value, timedelta):
        return value
    return timedelta(seconds=max(1, round(ttl.total_seconds() * value)))


def parse_moment(value: object) -> datetime:
    """Parse an RFC 3339 time with its offset, as TOML or a string has it. Return it in UTC."""
    text = value.isoformat() if isinstance(value, datetime) else value
    if not isinstance(text, str) or not re.fullmatch(MOMENT_PATTERN, text):
        raise ValueError("is not a time with its offset: write 2027-01-04T08:00:00Z")
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError):
        raise ValueError("is not a possible time: write 2027-01-04T08:00:00Z") from None


_GO_UNITS = {"h": 3600, "m": 60, "s": 1, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
_GO_DURATION = re.compile("([0-9]{1,9}(?:[.][0-9]{1,9})?)(ms|us|µs|ns|h|m|s)")


def parse_go_seconds(text: str) -> int | None:
    """Return whole seconds, rounded up, of a Go duration such as "1500ms" or of bare seconds; else None.

    Vault's own variables and answers have this form.
    """
    text = f"{text}s" if re.fullmatch("[0-9]{1,9}", text) else text
    if not re.fullmatch(f"(?:{_GO_DURATION.pattern})+", text):
        return None
    return ceil(sum(float(number) * _GO_UNITS[unit] for number, unit in _GO_DURATION.findall(text)))


def format_duration(duration: timedelta) -> str:
    """Return the shortest form that `parse_duration` reads, to the second: "1h30m"."""
    rest, text = round(duration.total_seconds()), ""
    for unit, seconds in _UNITS.items():
        number, rest = divmod(rest, seconds)
        text += f"{number}{unit}" if number else ""
    return text or "0s"


def parse_percentage(value: object) -> float:
    """Parse "5%" as 0.05; from 0% to 50%."""
    match = re.fullmatch(PERCENTAGE_PATTERN, value) if isinstance(value, str) else None
    if match is None or float(match[1]) > _LARGEST_PERCENTAGE:
        raise ValueError(f'is not a percentage from "0%" to "{_LARGEST_PERCENTAGE}%"')
    return float(match[1]) / 100


def parse_share(value: object) -> float:
    """Parse "80%" as 0.8; more than 0% and at most 100%."""
    match = re.fullmatch(LIMIT_PATTERN, value) if isinstance(value, str) else None
    if match is None or not float(match[1]):
        raise ValueError('is not a percentage over "0%" and up to "100%"')
    return float(match[1]) / 100


def parse_limit(value: object) -> Limit:
    """Parse a percentage from "0%" to "100%", or a number."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return Limit(value, is_share=False)
    match = re.fullmatch(LIMIT_PATTERN, value) if isinstance(value, str) else None
    if match is None:
        raise ValueError('must be a percentage from "0%" to "100%", or a whole number')
    return Limit(float(match[1]) / 100, is_share=True)


def parse_address(value: object) -> Address:
    """Parse "host:port", with an IPv6 address in brackets."""
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]+)):([0-9]{1,5})", parse_text(value))
    if match is None or (match[1] and not _is_ip(match[1])):
        raise ValueError('is not an address: write "host:port", an IPv6 address in brackets')
    if int(match[3]) > 65535:
        raise ValueError("its port must be at most 65535")
    return Address(match[1] or match[2], int(match[3]))


def parse_url(value: object) -> str:
    """Return an http or https URL without user name, query and fragment, in its canonical form: no slash at its end."""
    text = parse_text(value)
    try:
        parts = urlsplit(text)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise ValueError("is not a URL") from None
    if parts.scheme not in _DEFAULT_PORTS:
        raise ValueError('must begin with "https://"')
    if "@" in text:
        raise ValueError("must not hold a user name or a password")
    if "?" in text or "#" in text:
        raise ValueError("must not have a query or a fragment")
    if not (_is_ip(host) or _is_name(host)) or not re.fullmatch("[!-~]*", parts.path):
        raise ValueError("is not a URL with a host")
    bracketed = f"[{host}]" if ":" in host else host
    shown_port = "" if port in (None, _DEFAULT_PORTS[parts.scheme]) else f":{port}"
    return f"{parts.scheme}://{bracketed}{shown_port}{parts.path.rstrip('/')}"


def is_loopback(host: str) -> bool:
    """Return whether the name or address always leads to this host (or pod)."""
    return host == "localhost" or (_is_ip(host) and ip_address(host).is_loopback)


def _is_name(host: str) -> bool:
    """Return whether it is a host name. One that ends in a number would be an IPv4 address (WHATWG URL)."""
    try:
        host.encode("ascii").decode("idna")
    except UnicodeError:
        return False
    return bool(re.fullmatch("[a-z0-9._-]+", host)) and not re.fullmatch("(.*[.])?[0-9]+[.]?", host)


def _is_ip(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def parse_path(value: object) -> str:
    """Return a path or mount. Refuse one that Vault would silently turn into another path."""
    text = parse_text(value)
    if text.startswith("/") or text.endswith("/"):
        raise ValueError("must not begin or end with a slash")
    segments = text.split("/")
    if "" in segments:
        raise ValueError("must not contain two slashes in a row: Vault would turn it into another path")
    if {".", ".."} & set(segments):
        raise ValueError('must not contain "." or ".." as a segment: Vault would turn it into another path')
    return text


def parse_namespace(value: object) -> str:
    """Return a namespace without slashes at its ends; "" is the root."""
    if not isinstance(value, str):
        raise ValueError("must be a string in quotes")  # noqa: TRY004 - see parse_text
    inner = value.strip("/")
    return parse_path(inner) if inner else ""


def parse_reference(value: object) -> VaultReference:
    """Parse "mount/path#field"."""
    location, _, field = parse_text(value).rpartition("#")
    mount, _, path = location.partition("/")
    if not (mount and path and field):
        raise ValueError('must be written "mount/path#field"')
    return VaultReference(mount, parse_path(path), field)


def quoted(names: Sequence[str]) -> str:
    """Return the names for a sentence: "a", "b" or "c"."""
    *others, last = [f'"{name}"' for name in names]
    return f"{', '.join(others)} or {last}" if others else last
