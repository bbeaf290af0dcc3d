"""What each layer adds to one request: CPU time in one thread, each layer beside bare http.client in the same round.

A read of one path of a real Vault, and the look-up of one key at the simulator; then the requests of a first rotation
(read, write refused, create, write) through the libraries alone and through our adapters. What is not here is the rest
of rotator: run_once.py has the whole.
"""

import json
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

import httpx
import hvac
import requests
import urllib3

from benchmarks.bare import KEYS, NEVER, sender
from benchmarks.common import Results, Vault, Vendor, ratios, running_vault, running_vendor, whole_numbers
from rotator.config.provider_type import ProviderContext
from rotator.core.secrets import Secret
from rotator.providers.respan.client import RespanProvider
from rotator.providers.respan.settings import RespanSettings
from rotator.runtime.clock import SystemClock
from rotator.stores.vault.auth import TokenLogin
from rotator.stores.vault.store import VaultStore
from rotator.stores.vault.transport import VaultSettings

[REQUESTS], [REPETITIONS] = whole_numbers("BENCH_REQUESTS", "200"), whole_numbers("BENCH_REPETITIONS", "9")
BARE = "http.client"
DATA = {"api_key": "x" * 128, "rotator": "v=1,owner=bench,key_id=" + "x" * 200}
PATH = "apps/layers"

Work = Mapping[str, Callable[[], object]]  # one request, or one rotation's, by the layer that sends it


def layers(vault: Vault, vendor: Vendor) -> dict[str, Work]:
    """What is measured, with all connections made and kept."""
    address, token, mount = vault.server.address, vault.server.root_token, vault.server.new_mount()
    authorization = {"Authorization": f"Bearer {vendor.key}", "Content-Type": "application/json"}
    to_vault, to_respan = sender(address, {"X-Vault-Token": token}), sender(vendor.url, authorization)
    pool = urllib3.connection_from_url(address, headers={"X-Vault-Token": token})
    client = httpx.Client(base_url=vendor.url, headers=authorization)
    session = requests.Session()
    session.headers["X-Vault-Token"] = token
    whole_hvac = hvac.Client(url=address, token=token).secrets.kv.v2
    clock = SystemClock()

    def meter(operation: str, outcome: str, seconds: float) -> None: ...

    login = TokenLogin(Secret(token))
    store = VaultStore(VaultSettings(address=address, mount=mount, login=login), clock, meter)
    context = ProviderContext(
        name="respan",
        credential=lambda: Secret(vendor.key),
        clock=clock,
        meter=meter,
        rate_limited=lambda _: None,
        before_confirming=lambda: None,
        connections=1,
    )
    settings = {"type": "respan", "base_url": vendor.url, "api_key": {"env": "RESPAN_API_KEY"}}
    provider = RespanProvider(RespanSettings.model_validate(settings), context)
    store.write(PATH, DATA, 0)
    expires_at = datetime.now(UTC).replace(microsecond=0) + timedelta(hours=1)
    key_id = provider.create("bench", {}, expires_at).id
    read, look_up = f"/v1/{mount}/data/{PATH}", f"{KEYS}{key_id}/"
    paths = map("apps/{}".format, count())
    created = json.dumps({"name": "bench", "expiry_date": f"{expires_at:%Y-%m-%dT%H:%M:%SZ}"})

    def written(cas: int) -> str:
        return json.dumps({"options": {"cas": cas}, "data": DATA})

    def rotate(ask: Callable[..., Any], create: Callable[[], Any]) -> None:
        path = next(paths)
        ask("GET", f"/v1/{mount}/metadata/{path}")
        ask("POST", f"/v1/{mount}/data/{path}", body=written(NEVER))
        create()
        ask("POST", f"/v1/{mount}/data/{path}", body=written(0))

    def rotate_through_the_adapters() -> None:
        path = next(paths)
        store.history(path)
        store.preflight(path, DATA)
        provider.create("bench", {}, expires_at)
        store.write(path, DATA, 0)

    return {
        "a read of Vault": {
            BARE: lambda: to_vault("GET", read),
            "urllib3": lambda: pool.request("GET", read),
            "requests": lambda: session.get(address + read),
            "hvac": lambda: whole_hvac.read_secret_version(PATH, mount_point=mount, raise_on_deleted_version=True),
            "VaultStore": lambda: store.newest(PATH),
        },
        "a look-up at Respan": {
            BARE: lambda: to_respan("GET", look_up),
            "httpx": lambda: client.get(look_up),
            "RespanProvider": lambda: provider.retrieve(key_id),
        },
        "a first rotation's requests": {
            BARE: lambda: rotate(to_vault, lambda: to_respan("POST", KEYS, created)),
            "urllib3 and httpx": lambda: rotate(pool.request, lambda: client.post(KEYS, content=created)),
            "VaultStore and RespanProvider": rotate_through_the_adapters,
        },
    }


def main() -> None:
    """Measure all in turn, as often as is wanted."""
    results = Results("What each layer adds to a request", "requests")
    with running_vault() as vault, running_vendor() as vendor:
        for what, work in layers(vault, vendor).items():
            spent: dict[str, list[float]] = {layer: [] for layer in work}
            for number in range(REPETITIONS + 1):
                for layer, once in work.items():
                    before = time.thread_time()
                    for _ in range(REQUESTS):
                        once()
                    if number:  # the first round only warms up
                        spent[layer].append((time.thread_time() - before) / REQUESTS * 1000)
            for layer, each in spent.items():
                results.add(REQUESTS, f"{what}: {layer}", each, "ms of CPU")
                if layer != BARE:
                    results.add(REQUESTS, f"{what}: {layer} / {BARE}", ratios(each, spent[BARE]))
    results.end()


if __name__ == "__main__":
    main()
