"""The types of the options in a configuration file: how each is written, checked and described in the JSON Schema.

A relative file name starts from the folder in the validation's context, `{"folder": Path}`.
"""

from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PlainValidator,
    Strict,
    ValidationInfo,
    WithJsonSchema,
)

from rotator.config import patterns, values, windows
from rotator.config.values import Address, Limit, VaultReference
from rotator.core.target import KeyParameter
from rotator.core.versions import RECORD_FIELD


class Settings(BaseModel):
    """A table: no unknown key, no change, no conversion between types, no value in an error."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, hide_input_in_errors=True, defer_build=True
    )


def option(default: str, parse: Callable[[str], object]) -> Any:
    """Return a field whose default is written as in a file. It is parsed once, and not for each table."""
    return Field(parse(default), json_schema_extra={"default": default})


def _in_folder(value: object, info: ValidationInfo) -> Path:
    folder: Path = info.context["folder"] if info.context else Path()
    return folder / values.parse_text(value)


def _encrypted(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme != "https" and not values.is_loopback(parts.hostname or ""):
        raise ValueError("must begin with https://: http:// is for loopback hosts only")
    return url


def _encrypted_unless_allowed(url: str, info: ValidationInfo) -> str:
    return url if info.data.get("allow_insecure") else _encrypted(url)


def _without_version(url: str) -> str:
    if url.endswith("/v1"):
        raise ValueError('must not end with "/v1": rotator adds that to each request')
    return url


def _proxy_url(value: object) -> str:
    text = values.parse_text(value)
    if "@" in text:
        raise ValueError("must not hold a user name or a password: name where they are in proxy_credentials")
    if not text.startswith(("http://", "https://")):
        raise ValueError('must begin with "http://" or "https://"')
    url = values.parse_url(text)
    if urlsplit(url).path:
        raise ValueError("must not have a path")
    return url


def _hook_url(value: object) -> str:
    """Return the URL with the slash at its end, if it has one: many servers redirect to the one or the other."""
    return _encrypted(values.parse_url(value)) + ("/" if str(value).endswith("/") else "")


def _status(value: int) -> int:
    if not 200 <= value <= 599:
        raise ValueError("must be an HTTP status, 200 to 599")
    return value


def _key_option(value: object) -> KeyParameter:
    if isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, list) and all(isinstance(one, str) for one in value):
        return tuple(value)
    raise ValueError("must be a text, a number, true, false, or a list of texts")


def _text(**more: Any) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", **more})


def _more_than_zero(pattern: str, **more: Any) -> WithJsonSchema:
    return _text(pattern=pattern, allOf=[{"pattern": patterns.NOT_ZERO}], **more)


Text = Annotated[str, AfterValidator(values.parse_text), _text(minLength=1)]
Texts = Annotated[tuple[Text, ...], Strict(False)]  # TOML's lists are Python's, not tuples
File = Annotated[Path, PlainValidator(_in_folder), _text(minLength=1)]
Duration = Annotated[
    timedelta,
    PlainValidator(values.parse_duration),
    _more_than_zero(patterns.DURATION, examples=["90s", "15m", "1h30m"]),
]
Extension = Annotated[timedelta, PlainValidator(values.parse_extension), _text(pattern=patterns.DURATION, minLength=1)]
DurationOrShare = Annotated[
    timedelta | float,
    PlainValidator(values.parse_duration_or_share),
    _more_than_zero(patterns.DURATION_OR_SHARE, examples=["8h", "33%"]),
]
Moment = Annotated[
    datetime,
    PlainValidator(values.parse_moment),
    _text(format="date-time", examples=["2027-01-04T08:00:00Z"]),
]
Cron = Annotated[str, PlainValidator(windows.parse_cron), _text(examples=["0 9 * * 1-4"])]
TimeZone = Annotated[str, PlainValidator(windows.parse_zone), _text(examples=["Europe/London"])]
OpenTime = Annotated[
    timedelta, PlainValidator(windows.parse_open_time), _more_than_zero(patterns.DURATION, examples=["7h"])
]
Percentage = Annotated[float, PlainValidator(values.parse_percentage), _text(pattern=patterns.UP_TO_50_PERCENT)]
Share = Annotated[float, PlainValidator(values.parse_share), _more_than_zero(patterns.UP_TO_100_PERCENT)]
ShareOrCount = Annotated[
    Limit,
    PlainValidator(values.parse_limit),
    WithJsonSchema(
        {"anyOf": [{"type": "string", "pattern": patterns.UP_TO_100_PERCENT}, {"type": "integer", "minimum": 0}]}
    ),
]
ListenAddress = Annotated[
    Address, PlainValidator(values.parse_address), _text(pattern=patterns.ADDRESS, examples=["127.0.0.1:9465"])
]
Url = Annotated[str, PlainValidator(values.parse_url), _text(pattern=patterns.URL)]
EncryptedUrl = Annotated[Url, AfterValidator(_encrypted)]
HookUrl = Annotated[str, PlainValidator(_hook_url), _text(pattern=patterns.URL)]
UsuallyEncryptedUrl = Annotated[Url, AfterValidator(_encrypted_unless_allowed)]  # below `allow_insecure`
ProxyUrl = Annotated[str, PlainValidator(_proxy_url), _text(pattern=patterns.PROXY)]
VaultUrl = Annotated[UsuallyEncryptedUrl, AfterValidator(_without_version)]
VaultPath = Annotated[str, PlainValidator(values.parse_path), _text(pattern=patterns.PATH)]
VaultPaths = Annotated[tuple[VaultPath, ...], Strict(False)]
FieldName = Annotated[Text, _text(minLength=1, **{"not": {"const": RECORD_FIELD}})]  # `rules` refuses it
Namespace = Annotated[str, PlainValidator(values.parse_namespace), _text()]
Reference = Annotated[VaultReference, PlainValidator(values.parse_reference), _text(pattern=patterns.REFERENCE)]
Status = Annotated[int, AfterValidator(_status), WithJsonSchema({"type": "integer", "minimum": 200, "maximum": 599})]
Statuses = Annotated[tuple[Status, ...], Strict(False), Field(min_length=1)]
KeyOption = Annotated[
    KeyParameter,
    PlainValidator(_key_option),
    WithJsonSchema({"type": ["string", "number", "boolean", "array"], "items": {"type": "string"}}),
]

Owner = Annotated[str, Field(pattern="^[a-z0-9-]{1,63}$")]
Owners = Annotated[tuple[Owner, ...], Strict(False)]
TargetName = Annotated[str, Field(pattern="^[a-z0-9][a-z0-9-]{0,62}$")]
PartName = Annotated[str, Field(pattern=patterns.PART)]
PartReference = Annotated[Text, _text(pattern=patterns.PART)]  # `rules` refuses the name of no part
LeaseName = Annotated[str, Field(pattern="^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]
