"""A real JupyterHub, whose tokens expire, keep a name and cannot be changed, and what many tests ask of one.

It talks plain HTTP through httpx, so that what checks the provider shares no code with it. Nothing starts a notebook,
and no proxy runs: the hub answers its API alone.
"""

import secrets
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from support.leaks import RECORDER
from support.process import Process, free_ports
from tools.build_servers import JUPYTERHUB

NO_JUPYTERHUB = "no JupyterHub: run `make servers`, which needs PyPI, or put jupyterhub on PATH"

CONFIG = """
from jupyterhub.proxy import Proxy
from sqlalchemy import Engine, event


@event.listens_for(Engine, "connect")
def no_fsync(connection, record):
    connection.execute("PRAGMA synchronous = OFF")  # a killed process loses nothing by it


class NoProxy(Proxy):
    should_start = False

    async def add_route(self, routespec, target, data): pass

    async def delete_route(self, routespec): pass

    async def get_all_routes(self): return {{}}

    async def check_routes(self, *args, **kwargs): pass


c.JupyterHub.proxy_class = NoProxy
c.JupyterHub.hub_bind_url = "{address}"
c.JupyterHub.bind_url = "http://127.0.0.1:{unused_port}"
c.JupyterHub.authenticator_class = "dummy"
c.Authenticator.allow_all = True
c.JupyterHub.services = [
    {{"name": "administrator", "api_token": "{administrator}"}},
    {{"name": "rotator", "api_token": "{credential}"}},
]
c.JupyterHub.load_roles = [
    {{"name": "administrator", "scopes": ["admin:users", "tokens"], "services": ["administrator"]}},
    {{"name": "rotator", "scopes": ["tokens"], "services": ["rotator"]}},
]
"""


class JupyterHub:
    """A hub at `address` that may be stopped, killed and frozen. Its users and tokens survive that.

    `credential` belongs to a service that may manage everybody's tokens and nothing else. The helpers act as an
    administrator, and raise httpx.HTTPStatusError when refused.
    """

    def __init__(self, program: Path, folder: Path) -> None:
        port, unused_port = free_ports(2)
        self.address = f"http://127.0.0.1:{port}"
        self.credential = secrets.token_hex(16)
        self._administrator = secrets.token_hex(16)
        RECORDER.add_secret("a JupyterHub service's token", self.credential)
        config = folder / "jupyterhub_config.py"
        config.write_text(
            CONFIG.format(
                address=self.address,
                unused_port=unused_port,
                administrator=self._administrator,
                credential=self.credential,
            )
        )
        self._process = Process(["/bin/sh", "-c", f'cd "{folder}" && exec "{program}" -f "{config}"'], folder)
        self._client = httpx.Client(base_url=f"{self.address}/hub/api/", timeout=10, trust_env=False)

    def request(self, method: str, path: str, json: object = None, token: str | None = None) -> httpx.Response:
        """Ask for `path` (what follows /hub/api/), as administrator unless `token` is given; returns any answer."""
        headers = {"Authorization": f"token {self._administrator if token is None else token}"}
        return self._client.request(method, path, json=json, headers=headers)

    def new_user(self) -> str:
        """A user that no other test uses."""
        name = f"user-{secrets.token_hex(4)}"
        self.request("POST", f"users/{name}").raise_for_status()
        return name

    def tokens(self, user: str) -> list[dict[str, Any]]:
        """The user's tokens that have not expired, without their texts."""
        return list(self.request("GET", f"users/{user}/tokens").raise_for_status().json()["api_tokens"])

    def delete_token(self, user: str, token_id: str) -> None:
        """What a person does in the hub's page."""
        self.request("DELETE", f"users/{user}/tokens/{token_id}").raise_for_status()

    def accepts(self, token: str) -> str | None:
        """The id of a token that works, or None when the hub refuses it."""
        answer = self.request("GET", "user", token=token)
        if answer.status_code == httpx.codes.FORBIDDEN:
            return None
        return str(answer.raise_for_status().json()["token_id"])

    def start(self) -> None:
        """Start it at the same address with the users and tokens that it had, and wait until it answers."""
        self._process.start(lambda: self.request("GET", "").is_success)

    def stop(self) -> None:
        """Ask it to end, and wait for it."""
        self._process.stop()

    def kill(self) -> None:
        """End it at once, as a crash would."""
        self._process.kill()

    def freeze(self) -> None:
        """Make it stand still: the kernel accepts connections, and nothing is answered."""
        self._process.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Make it continue, with everything that was sent to it meanwhile."""
        self._process.signal(signal.SIGCONT)

    def close(self) -> None:
        """End it, and close the connections to it."""
        self._process.kill()
        self._client.close()


@contextmanager
def jupyterhub() -> Iterator[JupyterHub]:
    """A hub of our own, which ends with this context. Raises FileNotFoundError if there is no program."""
    program = JUPYTERHUB.find()
    if program is None:
        raise FileNotFoundError(NO_JUPYTERHUB)
    with tempfile.TemporaryDirectory(prefix="jupyterhub-") as folder:
        hub = JupyterHub(program, Path(folder))
        try:
            hub.start()
            yield hub
        finally:
            hub.close()
