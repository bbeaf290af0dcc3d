"""The script that a user would write instead: the provider's SDK and hvac in a loop; a contestant of run_once.py.

One client of each for all threads, used as their documentation shows. A new key is created and written to Vault; of one
that has a predecessor, that one's id is read first, and its expiry is brought forward at the end. Nothing is proved
before a key is created, no write has a compare-and-set, no key is confirmed to be ours before it is changed, and
whatever fails ends the script.
"""

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any

import hvac
from respan import RespanClient


def rotate(job: dict[str, Any]) -> None:
    """Rotate `job["targets"]`, for the first time or again."""
    vault = hvac.Client(url=job["vault"], token=job["token"])
    authorization = f"Bearer {job['key']}"
    keys = RespanClient(base_url=job["respan"], authorization=authorization, respan_api_key=job["key"])
    expires_at, early = (datetime.fromisoformat(job[moment]) for moment in ("expires_at", "early"))
    kv, mount = vault.secrets.kv.v2, job["mount"]

    def one(name: str) -> None:
        path, old = f"apps/{name}", None
        if job["again"]:
            read = kv.read_secret_version(path=path, mount_point=mount, raise_on_deleted_version=True)
            old = read["data"]["data"]["key_id"]
        made = keys.temporary_api_keys.create_api_key(name=f"bench.{name}", expiry_date=expires_at)
        secret = {"api_key": made.api_key, "key_id": made.id}
        kv.create_or_update_secret(path=path, mount_point=mount, secret=secret)
        if old:
            keys.temporary_api_keys.update_api_key(old, expiry_date=early)

    if job["threads"] == 1:
        for name in job["targets"]:
            one(name)
    else:
        with ThreadPoolExecutor(job["threads"]) as pool:
            list(pool.map(one, job["targets"]))


if __name__ == "__main__":
    rotate(json.loads(Path(sys.argv[1]).read_text()))
