"""The contract of providers as tests, for every type of provider: built-in, declarative, or a plugin.

A test file of a plugin:

    import pytest
    from acme_rotator import ACME  # the ProviderType that its entry point names
    from rotator.core.secrets import Secret
    from rotator.testing import ProviderContract, Server

    class TestAcme(ProviderContract):
        provider_type = ACME

        @pytest.fixture
        def server(self):
            return Server(url="http://127.0.0.1:8000", credential=Secret("made-up"))

`pytest test_acme.py` then holds the provider against the contract, one test a sentence of it: what each method returns
and raises; and the same with faults between the provider and its server (lost and late answers, 429, HTML, endless
pages, drip, redirects, oversized and confused answers). The faults come from a proxy on loopback, so the provider needs
nothing for them but its `base_url`. Each test creates keys of one hour, and removes them.

It is no pytest plugin, so it costs other tests nothing; and it imports no test framework, so that `rotator check
--provider-contract NAME --yes` runs the checks of `contract` against the configured provider.
"""

from rotator.testing.suite import ProviderContract, Server

__all__ = ["ProviderContract", "Server"]
