"""The tables of a configuration file that describe whom rotator notifies."""

from typing import Annotated, Literal, get_args

from pydantic import BeforeValidator, Field, Strict

from rotator.config.fields import File, HookUrl, LeaseName, PartName, Settings
from rotator.config.provider_settings import SecretSource, not_the_secret_itself

NotificationType = Literal[
    "key.published", "key.ending", "key.nearly_spent", "key.spent", "target.failing", "target.recovered"
]
"""What a webhook may be notified of; docs/consumers.md describes each."""

EVERY_TYPE: tuple[NotificationType, ...] = get_args(NotificationType)

HookSecret = Annotated[SecretSource, BeforeValidator(not_the_secret_itself)]


class WebhookSettings(Settings):
    """A URL that gets signed notifications, as Standard Webhooks describes them."""

    url: HookUrl
    """The URL to post to; http:// for loopback hosts only. rotator follows no redirect."""
    secret: HookSecret
    """Where the secret is that signs: "whsec_" and 24 to 64 random bytes in Base64. rotator reads it at each
    notification."""
    former_secret: HookSecret | None = None
    """Where a second secret is, while you replace the first: each notification is signed with both."""
    events: Annotated[tuple[NotificationType, ...], Strict(False), Field(min_length=1)] = EVERY_TYPE
    """The notifications that it gets. All if left out."""
    ca_file: File | None = None
    """Certificates to trust, as a PEM file relative to the configuration file. certifi's if left out. rotator reads it
    at the start and at each reload."""


class ExternalSecretsSettings(Settings):
    """Has External Secrets refresh at once what carries the label `rotator/target: NAME` of a target with a new key."""

    namespaces: Annotated[tuple[LeaseName, ...], Strict(False), Field(min_length=1)]
    """The namespaces of these ExternalSecrets, which rotator needs the rights to list and to patch. It asks the API
    server that [lease] names, else the pod's."""


class NotifySettings(Settings):
    """Whom the daemon notifies. `rotator run --once` and the other commands notify of nothing."""

    webhooks: dict[PartName, WebhookSettings] = Field({})
    """The webhooks: one [notify.webhooks.NAME] for each."""
    external_secrets: ExternalSecretsSettings | None = None
    """Which ExternalSecrets are refreshed when a target has a new key. None if left out."""
