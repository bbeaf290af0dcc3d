"""Respan's options, and what it can do."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from rotator.config.fields import UsuallyEncryptedUrl
from rotator.config.provider_settings import KeyOptions, ProviderSettings
from rotator.config.provider_type import ConnectedProvider, ProviderContext, ProviderType
from rotator.core.target import Cap
from rotator.core.traits import Traits

TRAITS = Traits(
    label="Respan",
    reports_use="list",
    documents_use=False,
    key_pattern=r"[A-Za-z0-9]{8}\.[A-Za-z0-9_-]{32,}|(?<![A-Za-z0-9])sk_[A-Za-z0-9_-]{8,}",
)
"""A temporary key is a prefix, a dot and the secret part; an organisation key begins with sk_."""


class RespanSettings(ProviderSettings):
    """An organisation at Respan. A rotation takes 3 requests; a sweep takes one for each 100 keys."""

    type: Literal["respan"]
    """The kind of provider."""
    base_url: UsuallyEncryptedUrl = "https://api.respan.ai"
    """The URL of the provider's API; http:// for loopback hosts only."""
    limit_policies: bool = False
    """Whether a sweep reads `/api/limit-policies/` too, one request for each 100 policies. Those that count what one
    key used in its whole life show its use where the list does not."""


def _unlimited_or_positive(value: int) -> int:
    if value != -1 and value < 1:
        raise ValueError("must be -1 (unlimited) or at least 1")
    return value


class RespanKey(KeyOptions):
    """What a key of Respan may do. Respan's default applies to what is left out."""

    rate_limit: int | None = Field(None, ge=1)
    """Calls a minute that the key may make. The provider's plan overrides it."""
    spending_limit: float | None = Field(None, gt=0)
    """How much the key may spend, in USD."""
    max_usage: Annotated[int, AfterValidator(_unlimited_or_positive)] | None = None
    """How many calls the key may make in all; -1 is unlimited."""
    is_test: bool | None = None
    """Whether the key is a test key."""

    def finite_caps(self) -> tuple[Cap, ...]:
        """Return the limits of the key's calls and of its spending."""
        calls = () if self.max_usage in (None, -1) else (Cap("max_usage", float(self.max_usage or 0), "calls"),)
        spending = () if self.spending_limit is None else (Cap("spending_limit", self.spending_limit, "USD"),)
        return (*calls, *spending)


def _make(settings: RespanSettings, context: ProviderContext) -> ConnectedProvider:
    from rotator.providers.respan.client import RespanProvider

    return RespanProvider(settings, context)


RESPAN = ProviderType(RespanSettings, lambda _: TRAITS, _make, RespanKey)
