"""An HTTP proxy. Apart from `http`, so that reading a configuration does not import an HTTP client."""

from dataclasses import dataclass

from rotator.core.secrets import Secret


@dataclass(frozen=True, slots=True)
class Proxy:
    """An HTTP proxy that all connections go through, to loopback hosts too."""

    url: str
    credentials: Secret | None = None
    """`user:password`. Only the proxy gets them, as Proxy-Authorization: Basic."""
