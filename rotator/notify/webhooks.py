"""Webhooks, signed as Standard Webhooks prescribes.

The URL of a webhook may be a credential, so no message shows more of it than the host.
"""

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from standardwebhooks import Webhook

from rotator.core.errors import NotificationFailed, NotificationRefused, NotificationUnwanted
from rotator.core.ports import Clock
from rotator.core.secrets import Secret
from rotator.notify.notification import Notification
from rotator.runtime.http import HttpClient, Response
from rotator.runtime.redact import quoted

TIMEOUT = 15.0
"""Seconds that one try may take, its answer included."""

MOST = 65_536  # bytes of an answer, which nothing looks at

_GONE = 410
_LATER = (408, 425, 429)
_BASE64 = re.compile("(?:[A-Za-z0-9+/]{4}){2,}(?:[A-Za-z0-9+/]{2,3})?={0,2}")


@dataclass(frozen=True, slots=True)
class WebhookSender:
    """Posts to one URL. `secrets` are read at each try: each signs, so that a receiver may know either.

    `client` is an error where its certificates cannot be used: then each try raises it.
    """

    name: str
    url: str
    types: Collection[str]
    secrets: Sequence[Callable[[], Secret]]
    client: HttpClient | NotificationRefused
    clock: Clock

    def send(self, notification: Notification) -> None:
        """Post it once. Raises `NotificationFailed`, or `NotificationUnwanted` after a 410."""
        if isinstance(self.client, NotificationRefused):
            raise self.client
        body, now = notification.body(), self.clock.now()
        signatures = [self._signing(secret()).sign(notification.id, now, body.decode()) for secret in self.secrets]
        answer = self.client.send(
            "POST",
            self.url,
            by=self.clock.monotonic() + TIMEOUT,
            max_body=MOST,
            headers={
                "Content-Type": "application/json",
                "webhook-id": notification.id,
                "webhook-timestamp": str(int(now.timestamp())),
                "webhook-signature": " ".join(signatures),
            },
            body=body,
        )
        if isinstance(answer, Response) and answer.is_success:
            return
        host = urlsplit(self.url).netloc
        if not isinstance(answer, Response):
            raise NotificationFailed(
                f"{host} does not answer notify.webhooks.{self.name} ({quoted(answer.reason)})",
                "Is the receiver up, and can this host reach it? A private authority of its certificate belongs "
                "into ca_file.",
            )
        if answer.status == _GONE:
            raise NotificationUnwanted(
                f"{host} answered 410 to notify.webhooks.{self.name}: it wants no more notifications, and gets none",
                "Correct the URL or remove the webhook. A reload (HUP) makes rotator try again.",
            )
        kind = NotificationRefused if answer.status < 500 and answer.status not in _LATER else NotificationFailed
        is_redirect = 300 <= answer.status < 400
        raise kind(
            f"{host} answered {answer.status} to notify.webhooks.{self.name}",
            "rotator follows no redirect: configure the URL that it leads to."
            if is_redirect
            else "Look at the receiver's log. After a 401 or 403, compare its secret with this webhook's.",
        )

    def _signing(self, secret: Secret) -> Webhook:
        text = secret.reveal().removeprefix("whsec_")
        if not _BASE64.fullmatch(text):  # the library would ignore the characters that do not belong
            raise NotificationRefused(
                f"the secret of notify.webhooks.{self.name} is not Base64",
                "Standard Webhooks writes it whsec_ and 24 to 64 bytes in Base64: "
                '`echo "whsec_$(head -c 32 /dev/urandom | base64)"`.',
            )
        return Webhook(text)

    def close(self) -> None:
        """Close all connections."""
        if isinstance(self.client, HttpClient):
            self.client.close()
