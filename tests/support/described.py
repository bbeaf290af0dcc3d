"""Providers of type http, made from descriptions as a configuration has them."""

import copy
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from typing import Any, cast

from rotator.config.provider_type import ProviderContext
from rotator.core.keys import ListedKey
from rotator.core.ports import Clock
from rotator.core.secrets import Secret
from rotator.providers.http_provider.client import HttpProvider
from rotator.providers.http_provider.settings import HTTP, HttpProviderSettings
from rotator.runtime.clock import SystemClock
from support.canned import Asked, Canned, Reply, canned

CREDENTIAL = "management-credential-0123456789"

WHOLE: Mapping[str, Any] = tomllib.loads("""
type = "http"
label = "Acme"
base_url = "http://127.0.0.1:1"
api_key = { env = "ACME_KEY" }

[answer]
id = "id"
key = "key"
name = "name"
expires_at = "expires_at"

[create]
path = "/keys"
body = { name = "{name}", expires_at = "{expires_at}", limit = "{param:limit}" }

[list]
path = "/keys"
entries = "data"

[retrieve]
path = "/keys/{id}"

[expire]
path = "/keys/{id}"
body = { expires_at = "{expires_at}" }

[delete]
path = "/keys/{id}"

[key.limit]
type = "integer"
minimum = 1
description = "Calls."
""")
"""A description with one of everything."""


def changed(changes: Mapping[str, Any], whole: Mapping[str, Any] = WHOLE) -> dict[str, Any]:
    """The description with these options, by their dotted names; None leaves one out."""
    data = copy.deepcopy(dict(whole))
    for place, value in changes.items():
        *tables, option = place.split(".")
        table = data
        for name in tables:
            table = table.setdefault(name, {})
        table[option] = value
        if value is None:
            del table[option]
    return data


@contextmanager
def made(
    address: str, description: Mapping[str, Any], clock: Clock | None = None, credential: str = CREDENTIAL
) -> Iterator[HttpProvider]:
    """A provider as the configuration's type makes it."""
    context = ProviderContext(
        name="acme",
        credential=lambda: Secret(credential),
        clock=clock or SystemClock(),
        meter=lambda *_: None,
        rate_limited=lambda _: None,
        before_confirming=lambda: None,
        connections=2,
    )
    settings = HttpProviderSettings.model_validate({**description, "base_url": address})
    with closing(cast("HttpProvider", HTTP.make(settings, context))) as provider:
        yield provider


class Answers:
    """Answers of a canned server, by method and path; the last of several stays. All else is a 404."""

    def __init__(self, replies: Mapping[str, Reply | list[Reply]]) -> None:
        self._replies = {asked: list(reply) if isinstance(reply, list) else [reply] for asked, reply in replies.items()}

    def __call__(self, asked: Asked) -> Reply:
        replies = self._replies.get(f"{asked.method} {asked.path}", [Reply(404, {"message": "nothing there"})])
        return replies.pop(0) if len(replies) > 1 else replies[0]


@contextmanager
def answered(
    replies: Mapping[str, Reply | list[Reply]], description: Mapping[str, Any] = WHOLE, clock: Clock | None = None
) -> Iterator[tuple[HttpProvider, Canned]]:
    """A provider before a server with these answers."""
    with canned(Answers(replies)) as server, made(server.address, description, clock) as provider:
        yield provider, server


def listed(provider: HttpProvider) -> list[ListedKey]:
    """All keys of the list."""
    return [key for page in provider.pages(lambda: None) for key in page]
