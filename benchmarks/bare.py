"""The bare loop: makes a rotation's requests, written to win; a contestant of run_once.py.

Threads with two kept connections each, http.client, bodies from templates. No answer is read but for the two values
that the next request needs, and there is no check, login, retry, clock, log line or metric. Imports little, on purpose.
"""

import http.client
import json
import sys
import threading
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

KEYS = "/api/temporary-keys/"
NEVER = 2**31 - 1  # a version that no path has: Vault refuses the write after all other rules


def bare(job: dict[str, Any]) -> None:
    """Rotate `job["targets"]`, for the first time or again; the process ends with the last thread."""
    threads = job["threads"] if job["targets"] else 0
    names = deque([*job["targets"], *[None] * threads])
    for _ in range(threads):
        threading.Thread(target=_worker, args=(job, names)).start()


def _worker(job: dict[str, Any], names: deque[str | None]) -> None:
    vault = sender(job["vault"], {"X-Vault-Token": job["token"]})
    respan = sender(job["respan"], {"Authorization": f"Bearer {job['key']}", "Content-Type": "application/json"})
    again, mount, expires, early = job["again"], job["mount"], job["expires_at"], job["early"]

    def data(cas: int, key_id: str, name: str, key: str) -> str:
        written = record(name, key_id, expires)
        return f'{{"options":{{"cas":{cas}}},"data":{{"api_key":"{key}","rotator":"{written}"}}}}'

    while name := names.popleft():
        path = f"/v1/{mount}/data/apps/{name}"
        base, old = 0, ""
        vault("GET", f"/v1/{mount}/metadata/apps/{name}")
        if again:
            current = json.loads(vault("GET", path))["data"]
            base = current["metadata"]["version"]
            old = KEYS + current["data"]["rotator"].partition("key_id=")[2].partition(",")[0] + "/"
        vault("POST", path, data(NEVER, "x" * 64, name, "x" * 128))
        body = f'{{"name":"bench.{name}.0123456789.{base + 1}.abcdefgh","expiry_date":"{expires}"}}'
        made = json.loads(respan("POST", KEYS, body))
        vault("POST", path, data(base, made["id"], name, made["api_key"]))
        if again:
            respan("GET", old)
            respan("PATCH", old, f'{{"expiry_date":"{early}"}}')


def record(name: str, key_id: str, expires: str) -> str:
    """Return a text of about the length of rotator's record."""
    return (
        f"v=1,owner=bench,target={name},key_id={key_id},key_name=bench.{name}.0123456789.1.abcdefgh,"
        f"issued_at={expires},expires_at={expires},params=0123456789abcdef,key=0123456789abcdef"
    )


def sender(url: str, headers: Mapping[str, str]) -> Callable[..., bytes]:
    """What sends a request on one kept connection, and returns the body of the answer."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)

    def send(method: str, path: str, body: str | None = None) -> bytes:
        connection.request(method, path, body, headers)
        return connection.getresponse().read()

    return send


if __name__ == "__main__":
    bare(json.loads(Path(sys.argv[1]).read_text()))
