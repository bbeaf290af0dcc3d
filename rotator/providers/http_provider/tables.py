"""The tables of `type = "http"`: how a provider's operations are requested, and what its answers show.

Templates (`path`, `query`, `body`) hold variables: `{name}`, the name of a new key; `{expires_at}` (RFC 3339),
`{expires_unix}` (Unix seconds), `{ttl_seconds}` and `{ttl}` (a Go duration, "86400s"), when a key expires; `{id}`, the
key that an operation is about; `{param:NAME}`, the option NAME of a target's `key`; `{page}`, `{offset}` and `{cursor}`
of a list; and what `variables` sets. `{ttl_seconds:int}` alone becomes a number. `{{` is a brace. A text whose variable
has no value is left out, and so is a table or list in which no variable has one. In a path each variable is one
percent-encoded segment.

Pointers (`answer`, `entry`, `entries`, `at`) are dotted names or RFC 6901: "data.hash" or "/data/hash"; "" is the whole
answer. Where several are written, the first that finds anything counts.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, ConfigDict, Field, PlainValidator, Strict, WithJsonSchema, model_validator

from rotator.config.fields import Settings, Text
from rotator.providers.http_provider.pointers import Places, Pointer

LONGEST_PATH = 1000


def _pointer(value: object) -> Pointer:
    if not isinstance(value, str):
        raise ValueError("must be a string in quotes")  # noqa: TRY004 - pydantic turns only a ValueError into a problem
    return Pointer.parse(value)


def _places(value: object) -> Places:
    several = value if isinstance(value, list | tuple) and value else [value]
    return Places(tuple(_pointer(one) for one in several))


def _path(value: str) -> str:
    if "?" in value or "#" in value:
        raise ValueError("must not have a query or a fragment: write them under `query`")
    if not value.startswith("/") or "//" in value or {".", ".."} & set(value.split("/")):
        raise ValueError('must begin with "/", and have no empty segment, "." or ".."')
    if not value.isascii() or " " in value or len(value) > LONGEST_PATH:
        raise ValueError(f"must be at most {LONGEST_PATH} ASCII characters without a space")
    return value


_POINTER = {"type": "string"}
PointerText = Annotated[Pointer, PlainValidator(_pointer), WithJsonSchema(_POINTER)]
PlacesText = Annotated[
    Places,
    PlainValidator(_places),
    WithJsonSchema({"anyOf": [_POINTER, {"type": "array", "items": _POINTER, "minItems": 1}]}),
]
Path = Annotated[Text, AfterValidator(_path)]
OptionName = Annotated[str, Field(pattern="^[a-z][a-z0-9_]{0,49}$")]
Method = Literal["GET", "POST", "PUT", "PATCH", "DELETE", "LIST"]


def _require_nothing(schema: dict[str, Any]) -> None:
    schema.pop("required", None)


class Mergeable(Settings):
    """A table that may be a part of one, because the preset has the rest."""

    model_config = ConfigDict(json_schema_extra=_require_nothing)


class FieldValue(Settings):
    """A condition on an answer: what stands at a pointer."""

    at: PointerText
    """Where the value is."""
    equals: str | int | bool | None = None
    """The value. Exactly one of `equals` and `contains` is required."""
    contains: Text | None = None
    """A part of the value, which is a text."""

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if (self.equals is None) == (self.contains is None):
            raise ValueError("must have exactly one of equals and contains")
        return self

    def holds_for(self, value: object) -> bool:
        """Return whether it is so."""
        found = self.at.of(value)
        if self.contains is not None:
            return isinstance(found, str) and self.contains in found
        return type(found) is type(self.equals) and found == self.equals


class GoneAnswer(Settings):
    """An answer that shows that there is no such key."""

    status: int = Field(ge=200, le=499)
    """Its HTTP status."""
    when: FieldValue | None = None
    """What else it shows. Required unless the status is 404 or 410."""

    @model_validator(mode="after")
    def _is_clear(self) -> Self:
        if self.when is None and self.status not in (404, 410):
            raise ValueError("must have when: only 404 and 410 alone show that a key is gone")
        return self


Gone = Annotated[tuple[GoneAnswer, ...], Strict(False)]


class OperationSettings(Mergeable):
    """One request."""

    method: Method = "GET"
    """The HTTP method."""
    path: Path
    """The path below `base_url`, a template such as "/keys/{id}". Each variable in it is one segment."""
    query: dict[Text, str | int | bool] = Field({}, json_schema_extra={"default": {}})
    """The parameters after the "?". Their texts are templates; one whose variable has no value is left out."""
    body: dict[str, Any] | None = None
    """The JSON of the request. Its texts are templates: "{name}", "{expires_at}", "{ttl_seconds:int}",
    "{param:NAME}"."""


class CreateSettings(OperationSettings):
    """The request that creates a key. It must send `{name}`, and when the key expires if keys expire."""

    method: Method = "POST"
    """The HTTP method."""
    entry: PlacesText = Field("", validate_default=True)
    """Where the answer shows the new key."""


class NextPaging(Settings):
    """The answer holds the URL of the next page. Only its query is followed, at the path of the list."""

    by: Literal["next"]
    """How pages follow each other."""
    at: PointerText
    """Where the URL is."""


class PagePaging(Settings):
    """Pages have numbers: `{page}`."""

    by: Literal["page"]
    """How pages follow each other."""
    first: int = Field(1, ge=0)
    """The number of the first page."""
    pages: PointerText | None = None
    """Where the number of pages is. Without it the list ends with an empty page."""


class OffsetPaging(Settings):
    """`{offset}` is how many entries were shown before. The list ends with an empty page."""

    by: Literal["offset"]
    """How pages follow each other."""


class CursorPaging(Settings):
    """The answer holds the `{cursor}` of the next page. The first page has none."""

    by: Literal["cursor"]
    """How pages follow each other."""
    at: PointerText
    """Where the cursor is. The list ends with an answer without it."""
    more: PointerText | None = None
    """Where the answer shows whether another page follows: true or false."""


class NoPaging(Settings):
    """One answer shows all keys."""

    by: Literal["none"] = "none"
    """How pages follow each other."""


Paging = NextPaging | PagePaging | OffsetPaging | CursorPaging | NoPaging


class ListSettings(OperationSettings):
    """The request for a page of all keys."""

    entries: PlacesText = Field("", validate_default=True)
    """Where the list is in the answer."""
    paging: Annotated[Paging, Field(discriminator="by")] = Field(
        default_factory=NoPaging, json_schema_extra={"default": {"by": "none"}}
    )
    """How pages follow each other."""
    ids_only: bool = False
    """Whether the list holds ids and nothing else. Each key is then looked up with `retrieve`."""
    keys_per_page: int = Field(100, ge=1)
    """How many keys a page shows. rotator plans the provider's rate limit with it."""


class RetrieveSettings(OperationSettings):
    """The request for one key. Without this table rotator searches the list."""

    entry: PlacesText = Field("", validate_default=True)
    """Where the answer shows the key."""
    id: PlacesText | None = None
    """Where the whole answer shows the id, if not in the entry."""
    gone: Gone = Field([{"status": 404}], validate_default=True)
    """The answers that show that there is no such key."""


class ExpireSettings(RetrieveSettings):
    """The request that changes a key's expiry. Leave the table out if the provider cannot do that."""

    method: Method = "PATCH"
    """The HTTP method."""


class DeleteSettings(OperationSettings):
    """The request that revokes a key."""

    method: Method = "DELETE"
    """The HTTP method."""
    gone: Gone = Field([{"status": 404}], validate_default=True)
    """The answers that show that there is no such key."""


class CapUseSettings(Mergeable):
    """Where an entry shows how much of a cap its key has used. One of `used` and `left` is required."""

    used: PlacesText | None = None
    """What is used, in the unit of the limit."""
    left: PlacesText | None = None
    """What is left of `limit`, where `used` finds nothing. Below 0 more was used."""
    limit: PlacesText | None = None
    """The limit. Without it the limit is what the target's `key` sets."""


class AnswerSettings(Mergeable):
    """Where answers show a key. Pointers start from its entry, but `key` from the whole answer to create."""

    id: PlacesText = Field("id", validate_default=True)
    """The id, by which the key is looked up and deleted."""
    key: PlacesText
    """The text of a new key."""
    name: PlacesText = Field("name", validate_default=True)
    """The name, which must be the one that rotator gave it: at least 50 letters, digits, dots and hyphens."""
    expires_at: PlacesText | None = None
    """When the key expires: RFC 3339, or Unix time. An absent or empty value and "never" are never."""
    expires_in: PlacesText | None = None
    """The seconds until the key expires, where `expires_at` finds nothing. 0 is never."""
    created_at: PlacesText | None = None
    """When the key was created."""
    last_used_at: PlacesText | None = None
    """When the key was last used. An absent value and 1970 are never."""
    use: dict[OptionName, CapUseSettings] = Field({}, json_schema_extra={"default": {}})
    """How much of a cap the key has used, by the cap's name under `key`. What an answer lacks is unknown."""


class KeyOptionSettings(Mergeable):
    """An option of a target's `key`, sent as `{param:NAME}`."""

    type: Literal["integer", "number", "boolean", "text", "texts"]
    """Its type; `texts` is a list of strings."""
    minimum: int | float | None = None
    """The least value of a number."""
    maximum: int | float | None = None
    """The greatest value of a number."""
    choices: Annotated[tuple[Text, ...], Strict(False)] = ()
    """The values of a text."""
    is_cap: bool = False
    """Whether it limits what a key may do or spend in all. rotator warns that the limit is for each key."""
    unit: Text | None = None
    """What a cap counts, for messages: "USD" or "calls"."""
    description: Text
    """What it does."""
