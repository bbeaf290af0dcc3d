"""The bare loop with rotator's libraries: the same requests through httpx and hvac; a contestant of run_once.py.

This is what a user would write who knows the protocol. Each thread has clients of its own. As in bare.py there is no
check, login, retry, clock, log line or metric.
"""

import json
import sys
import threading
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import hvac
from hvac.exceptions import InvalidPath, InvalidRequest

from benchmarks.bare import KEYS, NEVER, record


def loop(job: dict[str, Any]) -> None:
    """Rotate `job["targets"]`, for the first time or again; the process ends with the last thread."""
    threads = job["threads"] if job["targets"] else 0
    names = deque([*job["targets"], *[None] * threads])
    for _ in range(threads):
        threading.Thread(target=_worker, args=(job, names)).start()


def _worker(job: dict[str, Any], names: deque[str | None]) -> None:
    kv = hvac.Client(url=job["vault"], token=job["token"]).secrets.kv.v2
    respan = httpx.Client(base_url=job["respan"], headers={"Authorization": f"Bearer {job['key']}"}, timeout=60)
    again, expires, early = job["again"], job["expires_at"], job["early"]

    while name := names.popleft():
        where = {"path": f"apps/{name}", "mount_point": job["mount"]}
        base, old = 0, ""
        with suppress(InvalidPath):
            kv.read_secret_metadata(**where)
        if again:
            current = kv.read_secret_version(**where, raise_on_deleted_version=True)["data"]
            base = current["metadata"]["version"]
            old = KEYS + current["data"]["rotator"].partition("key_id=")[2].partition(",")[0] + "/"
        with suppress(InvalidRequest):
            secret = {"api_key": "x" * 128, "rotator": record(name, "x" * 64, expires)}
            kv.create_or_update_secret(**where, secret=secret, cas=NEVER)
        body = {"name": f"bench.{name}.0123456789.{base + 1}.abcdefgh", "expiry_date": expires}
        made = respan.post(KEYS, json=body).raise_for_status().json()
        secret = {"api_key": made["api_key"], "rotator": record(name, made["id"], expires)}
        kv.create_or_update_secret(**where, secret=secret, cas=base)
        if again:
            respan.get(old).raise_for_status()
            respan.patch(old, json={"expiry_date": early}).raise_for_status()


if __name__ == "__main__":
    loop(json.loads(Path(sys.argv[1]).read_text()))
