"""The contract as a class of tests. It imports no test framework: pytest collects the class where it is subclassed."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from typing import Any, ClassVar

from rotator.config.provider_type import ConnectedProvider, ProviderContext, ProviderType
from rotator.config.values import format_duration
from rotator.core.secrets import Secret
from rotator.core.target import KeyParameters
from rotator.runtime.clock import SystemClock
from rotator.runtime.proxy import Proxy
from rotator.testing.contract import CHECKS, Check, applies
from rotator.testing.fault_checks import FAULT_CHECKS, Bench
from rotator.testing.faults import FaultProxy
from rotator.testing.trial import Trial, demand


@dataclass(frozen=True, slots=True)
class Server:
    """The API that a provider is held against: a stand-in, or the real one. Each test creates and removes keys there.

    If its list has pages, let one have two keys at most: then a fault of pages is tried, too.
    """

    url: str
    """The `base_url` of the provider's options."""
    credential: Secret
    """The management credential."""
    works: Callable[[Secret], bool] | None = None
    """Return whether the API accepts a key where keys are used. Without it, only the provider's answers are checked."""
    use: Callable[[Secret], object] | None = None
    """Make a call with a key, which the API counts as its use."""
    options: Mapping[str, object] = field(default_factory=dict)
    """More options of the provider, as under [providers.NAME]."""
    parameters: KeyParameters = field(default_factory=dict)
    """What its keys may do, as a target's `key`."""


class ProviderContract:
    """Subclass it as TestNAME, set `provider_type`, and define a fixture `server` that returns a `Server`."""

    provider_type: ClassVar[ProviderType[Any]]

    timeout: ClassVar[timedelta] = timedelta(seconds=1)
    """The provider's `timeout`. A slower server needs a longer one, and the tests take longer."""

    def make(self, server: Server, url: str) -> ConnectedProvider:
        """Make a provider that sends its requests to `url`."""
        name = self.provider_type.name
        settings = self.provider_type.settings.model_validate(
            {
                **server.options,
                "type": name,
                "base_url": url,
                "api_key": {"env": "NOT_READ"},  # the context has the credential
                "timeout": format_duration(self.timeout),
            }
        )
        return self.provider_type.make(settings, context(name, server.credential))

    @contextmanager
    def trial(self, server: Server) -> Iterator[Trial]:
        """Make a trial of a provider that talks to the server directly."""
        with closing(self.make(server, server.url)) as provider:
            with Trial(provider, parameters=server.parameters, works=server.works, use=server.use) as trial:
                yield trial
            demand(not trial.left_behind, f"these keys could not be removed: {', '.join(trial.left_behind)}")


def context(name: str, credential: Secret, proxy: Proxy | None = None) -> ProviderContext:
    """Return what rotator would give to a provider, without a rate limit."""
    return ProviderContext(
        name=name,
        credential=lambda: credential,
        clock=SystemClock(),
        meter=lambda *_: None,
        rate_limited=lambda _: None,
        before_confirming=lambda: None,
        connections=4,
        proxy=proxy,
    )


def _keeps(check: Check) -> Callable[[ProviderContract, Server], None]:
    def test(self: ProviderContract, server: Server) -> None:
        with self.trial(server) as trial:
            if applies(check, trial):
                check(trial)

    test.__doc__ = check.__doc__
    return test


def _withstands(check: Callable[[Bench], None]) -> Callable[[ProviderContract, Server], None]:
    def test(self: ProviderContract, server: Server) -> None:
        with FaultProxy(server.url) as proxy, self.trial(server) as trial:
            make = partial(self.make, server)
            check(Bench(make, proxy, trial, server.credential, self.timeout.total_seconds()))

    test.__doc__ = check.__doc__
    return test


for _check in CHECKS:
    setattr(ProviderContract, f"test_{_check.__name__}", _keeps(_check))
for _fault_check in FAULT_CHECKS:
    setattr(ProviderContract, f"test_fault_{_fault_check.__name__}", _withstands(_fault_check))
