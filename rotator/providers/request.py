"""What a provider is sent."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import quote, urlencode

from rotator.core.secrets import Secret


@dataclass(frozen=True, slots=True)
class Request:
    """A method, a path below `base_url` with its query, and what becomes the JSON of the body."""

    method: str
    path: str
    body: object = None

    def __str__(self) -> str:
        return f"{self.method} {self.path} {json.dumps(self.body, sort_keys=True)}"


@dataclass(frozen=True, slots=True)
class CredentialHeader:
    """The header that holds the management credential: at `{api_key}` of its value."""

    name: str = "Authorization"
    value: str = "Bearer {api_key}"

    def of(self, credential: Secret) -> dict[str, str]:
        """Return the header."""
        return {self.name: self.value.replace("{api_key}", credential.reveal())}


BEARER = CredentialHeader()


def segment(text: str) -> str:
    """Return the text as one segment of a path: an id may hold / + $ and =."""
    return quote(text, safe="")


def with_query(path: str, query: Mapping[str, object]) -> str:
    """Return the path with these parameters; a boolean is written as in JSON."""
    values = {name: json.dumps(value) if isinstance(value, bool) else value for name, value in query.items()}
    return f"{path}?{urlencode(values)}" if values else path
