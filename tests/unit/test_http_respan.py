"""A description of Respan, held against all that `test_respan` shows of the provider in code."""

import tomllib
from typing import Any

import pytest
from unit import test_respan
from unit.test_respan import *  # noqa: F403 - its tests and its fixtures
from unit.test_respan import _quick  # noqa: F401 - a fixture of every test
from unit.test_respan_use import *  # noqa: F403

from rotator.config.provider_settings import ProviderSettings
from rotator.config.provider_type import ConnectedProvider, ProviderContext
from rotator.providers.http_provider.settings import HTTP, HttpProviderSettings

DESCRIPTION: dict[str, Any] = tomllib.loads("""
type = "http"
label = "Respan"
api_key = { env = "UNUSED" }
key_pattern = "[A-Za-z0-9]{8}[.][A-Za-z0-9_-]{32,}"
gone = [{ at = "revoked", equals = true }]

[answer]
id = "id"
key = "api_key"
name = "name"
expires_at = "expiry_date"
created_at = ["created_at", "created"]
last_used_at = "last_used"
use.max_usage = { used = "key_usage", limit = "max_usage" }
use.spending_limit = { used = "spending_in_period", limit = "spending_limit" }

[create]
path = "/api/temporary-keys/"

[create.body]
name = "{name}"
expiry_date = "{expires_at}"
rate_limit = "{param:rate_limit}"
spending_limit = "{param:spending_limit}"
max_usage = "{param:max_usage}"
is_test = "{param:is_test}"

[list]
path = "/api/temporary-keys/"
entries = ["results", ""]
paging = { by = "next", at = "next" }

[retrieve]
path = "/api/temporary-keys/{id}/"

[expire]
path = "/api/temporary-keys/{id}/"
body = { expiry_date = "{expires_at}" }

[delete]
path = "/api/temporary-keys/{id}/"

[key]
rate_limit = { type = "integer", description = "Calls a minute." }
spending_limit = { type = "number", is_cap = true, unit = "USD", description = "USD." }
max_usage = { type = "integer", is_cap = true, unit = "calls", description = "Calls in all." }
is_test = { type = "boolean", description = "Whether it is a test key." }
""")


del test_a_number_is_no_id  # noqa: F821 - here it is one


def described(settings: ProviderSettings, context: ProviderContext) -> ConnectedProvider:
    options = HttpProviderSettings.model_validate(DESCRIPTION | {"base_url": "http://127.0.0.1"})
    changed = {"base_url": settings.base_url, "timeout": settings.timeout, "probe": settings.probe}
    return HTTP.make(options.model_copy(update=changed), context)


@pytest.fixture(autouse=True)
def _by_its_description(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(test_respan, "RespanProvider", described)
