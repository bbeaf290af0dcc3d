"""The options of a target's `key`, as a description names them."""

from collections.abc import Collection, Mapping
from typing import Annotated, Any, ClassVar, Literal, Optional

from pydantic import Field, Strict, create_model

from rotator.config.fields import Text
from rotator.config.provider_settings import KeyOptions
from rotator.core.target import Cap
from rotator.providers.http_provider.tables import KeyOptionSettings

_TYPES: Mapping[str, Any] = {"integer": int, "number": float, "boolean": bool, "text": Text, "texts": Text}


class HttpKeyOptions(KeyOptions):
    """The base of the options that a description names."""

    caps: ClassVar[Mapping[str, str]] = {}  # their units
    seen: ClassVar[Collection[str]] = ()  # those whose use an answer shows

    def finite_caps(self) -> tuple[Cap, ...]:
        """Return the options that are set and limit what the key may do in all."""
        limits = ((name, getattr(self, name), unit) for name, unit in self.caps.items())
        set_ones = [(name, float(limit), unit) for name, limit, unit in limits if limit is not None]
        return tuple(Cap(name, limit, unit, name in self.seen) for name, limit, unit in set_ones)


def is_usable_name(name: str) -> bool:
    """Return whether an option may have this name, which no method of a model has."""
    return not hasattr(HttpKeyOptions, name) and not name.startswith(("model_validate", "model_dump"))


def key_options(options: Mapping[str, KeyOptionSettings], seen: Collection[str]) -> type[KeyOptions]:
    """Return the model of these options. Each may be left out. `seen`: those whose use an answer shows."""
    fields: dict[str, Any] = {name: (_type(option), _field(option)) for name, option in options.items()}
    model = create_model("HttpKeyOptions", __base__=HttpKeyOptions, **fields)
    model.caps = {name: option.unit or "" for name, option in options.items() if option.is_cap}
    model.seen = seen
    return model


def _type(option: KeyOptionSettings) -> Any:
    one: Any = Literal[option.choices] if option.choices else _TYPES[option.type]
    if option.type == "texts":
        one = Annotated[tuple.__class_getitem__((one, ...)), Strict(False)]
    return Optional[one]  # noqa: UP045 - a Literal made here is no operand of |


def _field(option: KeyOptionSettings) -> Any:
    return Field(None, ge=option.minimum, le=option.maximum, description=option.description)
