"""Builds the real servers that the tests run against, from the Go modules pinned beside this file (`make servers`).

They are kept in `$ROTATOR_BUILD_DIR`, or else in `rotator-build` under `$XDG_CACHE_HOME` or `~/.cache`: outside the
clone, so that every clone of a user shares them, CI's fresh ones included. A server's folder there is named by a hash
of all that it is built from, and gets that name only once it is complete: if it is there, it is whole and current. It
may be deleted at any time.

The tests look for a running server's address in the environment, then for the program on PATH, then here; where one of
the first two is to be had, nothing is built. A further server is one more entry in SERVERS, with its go.mod and go.sum
in a folder of its name.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Program:
    """One file to build: where it goes in its server's folder, the Go package, and flags beyond the usual ones."""

    file: str
    package: str
    flags: tuple[str, ...] = ()


@dataclass(frozen=True)
class Server:
    """What one server consists of. `name` is also its folder beside this file, and the program looked for on PATH."""

    name: str
    address_variable: str
    programs: tuple[Program, ...]

    @property
    def sources(self) -> Path:
        """The folder of the go.mod and go.sum that pin it."""
        return Path(__file__).resolve().parent / self.name

    @property
    def folder(self) -> Path:
        """Where it is when built: present means complete."""
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        root = Path(os.environ.get("ROTATOR_BUILD_DIR") or cache / "rotator-build")
        inputs = hashlib.sha256(repr(self.programs).encode())
        for file in ("go.mod", "go.sum"):
            inputs.update((self.sources / file).read_bytes())
        return root.absolute() / f"{self.name}-{inputs.hexdigest()[:16]}"

    @property
    def found_elsewhere(self) -> str | None:
        """Why it need not be built, if so."""
        if address := os.environ.get(self.address_variable):
            return f"running at {address} (${self.address_variable})"
        if on_path := shutil.which(self.name):
            return f"found on PATH, {on_path}"
        return None


VAULT = Server(
    "vault",
    "ROTATOR_TEST_VAULT_ADDR",
    (
        # `minimal` spares much that the tests do not need; but also the Kubernetes auth method, hence the plugin.
        Program("vault", "github.com/hashicorp/vault", ("-tags", "minimal")),
        Program(
            "plugins/kubernetes",
            "github.com/hashicorp/vault-plugin-auth-kubernetes/cmd/vault-plugin-auth-kubernetes",
        ),
    ),
)
SERVERS = (VAULT,)


def say(text: str) -> None:
    """Print at once: a build is long, and its reader is often a log."""
    print(text, flush=True)


def build(server: Server, go: str) -> None:
    """Build a server, unless it is there. Raises subprocess.CalledProcessError, with Go's words in its stderr."""
    server.folder.parent.mkdir(parents=True, exist_ok=True)
    with server.folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # a second clone waits for the first one's build, rather than doing it twice
        if server.folder.exists():
            return
        say(f"{server.name}: building {server.folder}; the first time this takes 5 to 10 minutes")
        partial = server.folder.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        for program in server.programs:
            started = time.monotonic()
            command = [go, "build", "-trimpath", "-ldflags", "-s -w", *program.flags]
            subprocess.run(
                [*command, "-o", str(partial / program.file), program.package],
                cwd=server.sources,
                env={**os.environ, "CGO_ENABLED": "0"},
                check=True,
                stdin=subprocess.DEVNULL,
                stderr=subprocess.PIPE,  # hundreds of lines of downloads, wanted only when it fails
                text=True,
            )
            say(f"{server.name}: built {program.file} in {time.monotonic() - started:.0f} s")
        partial.rename(server.folder)


def main() -> int:
    """Build what is missing; the exit status is 1 if that failed, and 0 where there is no Go to try it with."""
    go = shutil.which("go")
    for server in SERVERS:
        if found := server.found_elsewhere:
            say(f"{server.name}: nothing to build, {found}")
        elif server.folder.exists():
            say(f"{server.name}: built already, {server.folder}")
        elif go is None:
            say(f"{server.name}: no Go on PATH, so the tests against a real {server.name} will be skipped")
        else:
            try:
                build(server, go)
            except subprocess.CalledProcessError as error:
                say("\n".join(error.stderr.splitlines()[-20:]))
                say(
                    f"{server.name}: the build failed, as Go says above. It needs the Go that {server.sources}/go.mod "
                    f"names, and a module proxy. Or set ${server.address_variable}, or put {server.name} on PATH."
                )
                return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
