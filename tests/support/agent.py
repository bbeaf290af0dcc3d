"""Vault Agent, which renders a key into a file, and an application that calls with the file's key.

Both are as their makers have them: the agent is the Vault program itself, the application knows nothing of rotator.
"""

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import httpx

from support.process import Process, wait_until
from support.vault import vault_program

REFRESH = 1
"""Seconds between two reads of the agent; its default is five minutes."""


@contextmanager
def vault_agent(folder: Path, address: str, token: str, path: str) -> Iterator[Path]:
    """Run an agent that keeps the field `api_key` of `path` (with mount and `data/`) in a file; yield the file."""
    rendered, token_file, config = folder / "api-key", folder / "token", folder / "agent.hcl"
    token_file.write_text(token)
    config.write_text(
        f"""
        vault {{
          address = "{address}"
        }}
        auto_auth {{
          method "token_file" {{
            config = {{ token_file_path = "{token_file}" }}
          }}
        }}
        template_config {{
          static_secret_render_interval = "{REFRESH}s"
          exit_on_retry_failure         = false
        }}
        template {{
          destination          = "{rendered}"
          perms                = "0600"
          contents             = "{{{{ with secret \\"{path}\\" }}}}{{{{ .Data.data.api_key }}}}{{{{ end }}}}"
          error_on_missing_key = true
        }}
        """
    )
    process = Process([str(vault_program()), "agent", f"-config={config}"], folder)
    process.start(lambda: True)
    try:
        wait_until(lambda: rendered.exists() and rendered.stat().st_size > 0, "the agent to render the key")
        yield rendered
    finally:
        process.stop()


class Application:
    """An application that calls the provider without pause, from `with` to its end, with the key in the file."""

    def __init__(self, file: Path, vendor: str) -> None:
        self._file, self._vendor = file, vendor
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="application")
        self.statuses: Counter[int] = Counter()
        self.unanswered = 0  # calls that the provider did not answer, because it was down
        self.keys = 0  # how many keys it has used, one after the other
        self.failure: str | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            with httpx.Client(timeout=5, trust_env=False, verify=False) as client:
                last = ""
                while not self._ending.is_set():
                    key = self._file.read_text()
                    self.keys += key != last
                    last = key
                    self._call(client, key)
                    time.sleep(0.005)
        except Exception as error:  # one that has stopped calling must not look like one that was never refused
            self.failure = f"{type(error).__name__}: {error}"

    def _call(self, client: httpx.Client, key: str) -> None:
        headers = {"Authorization": f"Bearer {key}"}
        try:
            answer = client.post(f"{self._vendor}/api/chat/completions", json={}, headers=headers)
        except httpx.TransportError:
            self.unanswered += 1
        else:
            self.statuses[answer.status_code] += 1
