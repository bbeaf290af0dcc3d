"""The options of `type = "http"`: a description that is whole, or changes single options of a preset."""

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, ConfigDict, Field, PlainValidator, Strict, WithJsonSchema, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError, ValidationError

from rotator.config.fields import Text
from rotator.config.provider_settings import KeyOptions, ProviderSettings
from rotator.config.provider_type import ConnectedProvider, ProviderContext, ProviderType
from rotator.core.traits import Traits
from rotator.providers.http_provider import description, presets
from rotator.providers.http_provider.key_options import key_options
from rotator.providers.http_provider.tables import (
    AnswerSettings,
    CreateSettings,
    DeleteSettings,
    ExpireSettings,
    FieldValue,
    KeyOptionSettings,
    ListSettings,
    OptionName,
    RetrieveSettings,
)
from rotator.runtime.key_pattern import parse_key_pattern

Preset = Annotated[
    str, AfterValidator(presets.known), WithJsonSchema({"type": "string", "enum": list(presets.names())})
]
KeyPattern = Annotated[str, PlainValidator(parse_key_pattern), WithJsonSchema({"type": "string"})]


def _require_no_base_url(schema: dict[str, Any]) -> None:
    schema["required"].remove("base_url")


class HttpProviderSettings(ProviderSettings):
    """A provider whose operations are described here, or in a preset that the other options change."""

    model_config = ConfigDict(json_schema_extra=_require_no_base_url)

    type: Literal["http"]
    """The kind of provider."""
    preset: Preset | None = None
    """A description that rotator ships. Tables that are set here are merged into its own."""
    label: Text | None = None
    """What messages call the provider. Required without a preset."""
    header: Text = "Authorization: Bearer {api_key}"
    """The header that holds the management credential, at `{api_key}`."""
    variables: dict[OptionName, Text] = Field({}, json_schema_extra={"default": {}})
    """More variables for templates, such as the account that a path names."""
    create: CreateSettings | None = None
    """How a key is created. Required without a preset."""
    list: ListSettings | None = None
    """How all keys are listed. Required without a preset."""
    retrieve: RetrieveSettings | None = None
    """How one key is looked up. Without it rotator searches the list."""
    expire: ExpireSettings | None = None
    """How a key's expiry is changed. Without it superseded keys are deleted when their grace is over."""
    delete: DeleteSettings | None = None
    """How a key is revoked. Required without a preset."""
    answer: AnswerSettings | None = None
    """Where answers show a key's id, text, name and times. Required without a preset."""
    gone: Annotated[tuple[FieldValue, ...], Strict(False)] = ()
    """The fields by which an entry shows that its key is revoked. Such an entry is no key."""
    key: dict[OptionName, KeyOptionSettings] = Field({}, json_schema_extra={"default": {}})
    """The options of a target's `key`."""
    key_pattern: KeyPattern | None = None
    """A regular expression that finds a key's text, so that rotator hides keys that it does not know."""
    can_set_expiry: bool = True
    """Whether `expire` is used. false is for a provider that does not change an expiry although its preset has
    `expire`."""

    @model_validator(mode="before")
    @classmethod
    def _with_preset(cls, data: Any) -> Any:
        return presets.merged(data) if isinstance(data, dict) else data

    @model_validator(mode="after")
    def _is_a_description(self) -> Self:
        if found := description.read(self).mistakes:
            raise ValidationError.from_exception_data(type(self).__name__, list(map(_detail, found)))
        return self


def _detail(mistake: tuple[tuple[str | int, ...], str]) -> InitErrorDetails:
    place, sentence = mistake
    error = PydanticCustomError("value_error", "{error}", {"error": sentence})
    return InitErrorDetails(type=error, loc=place, input=None)


def _description(settings: HttpProviderSettings) -> description.Description:
    found = description.read(settings).description
    if found is None:
        raise ValueError("only settings that were checked are a description")
    return found


def _traits(settings: HttpProviderSettings) -> Traits:
    return _description(settings).traits


def _make(settings: HttpProviderSettings, context: ProviderContext) -> ConnectedProvider:
    from rotator.providers.http_provider.client import HttpProvider

    return HttpProvider(settings, context, _description(settings))


def _key_options(settings: HttpProviderSettings) -> type[KeyOptions]:
    return key_options(settings.key, settings.answer.use if settings.answer else ())


HTTP = ProviderType(HttpProviderSettings, _traits, _make, key_options=_key_options)
