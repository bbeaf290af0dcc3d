"""Checks the options of keys (`key` of a target) by the models of the providers."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from pydantic import ValidationError

from rotator.config.findings import sentence_for
from rotator.config.provider_settings import KeyOptions
from rotator.core.target import Cap, KeyParameters


@dataclass(frozen=True, slots=True)
class CheckedKey:
    """What a target asks for, as the provider takes it, or what is wrong with it by option."""

    parameters: KeyParameters
    finite_caps: tuple[Cap, ...] = ()
    flaws: Mapping[str, str] = field(default_factory=dict)


class KeyChecker:
    """Checks what targets ask for. Most ask for the same, which is checked once, and share one object."""

    def __init__(self, models: Mapping[str, tuple[str, type[KeyOptions]]]) -> None:
        """`models` are the label and the options of each provider, by its name in the configuration."""
        self._models = models
        self._checked: dict[tuple[object, ...], CheckedKey] = {}

    def check(self, provider: str, asked: KeyParameters) -> CheckedKey:
        """Return what a key of this provider is asked to do. There may be no provider of that name."""
        # The type matters: 1, 1.0 and True are equal.
        sought = (provider, *((name, type(value), value) for name, value in asked.items()))
        if sought not in self._checked:
            model = self._models.get(provider)
            self._checked[sought] = _check(asked, *model) if model else CheckedKey(asked)
        return self._checked[sought]


def _check(asked: KeyParameters, label: str, model: type[KeyOptions]) -> CheckedKey:
    try:
        options = model.model_validate(asked)
    except ValidationError as error:
        flaws = {}
        for finding in error.errors(include_url=False, include_input=False):
            sentence = sentence_for(finding, list(model.model_fields), {})
            if finding["type"] == "extra_forbidden":
                known = f"it has {', '.join(model.model_fields)}" if model.model_fields else "it has none"
                sentence = f"is not an option of a key of {label}: {known}"
            flaws[str(finding["loc"][0])] = sentence
        return CheckedKey(asked, flaws=flaws)
    return CheckedKey(options.model_dump(exclude_none=True), options.finite_caps())
