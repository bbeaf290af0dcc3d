"""Builds the real servers and tools that the tests run, from what is pinned beside this file (`make servers`).

They come from Go modules and from Python packages.

They go to `$ROTATOR_BUILD_DIR`, or else to `rotator-build` under `$XDG_CACHE_HOME` or `~/.cache`: outside the clone, so
that all clones of a user share them. The name of a server's folder is a hash of its sources, and the folder gets that
name once it is complete: a folder that exists is complete and current. You may delete it at any time.

The tests use a running server whose address is in the environment, else the program on PATH, else this build. Nothing
is built where one of the first two exists. To add a server, add an entry to SERVERS, and in a folder of its name its
go.mod and go.sum, or its requirements.txt.
"""

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

Run = Callable[..., str]
"""Runs a command in the folder of the server's sources, and returns its output."""

GO_SOURCES = ("go.mod", "go.sum")


@dataclass(frozen=True)
class Program:
    """One file to build: its name in its server's folder, the Go package, and additional flags."""

    file: str
    package: str
    flags: tuple[str, ...] = ()

    def make(self, run: Run, folder: Path) -> None:
        """Build it into `folder`."""
        run("go", "build", "-trimpath", "-ldflags", "-s -w", *self.flags, "-o", str(folder / self.file), self.package)


@dataclass(frozen=True)
class Copy:
    """One file to copy from a Go module as it is."""

    file: str
    module: str
    path: str

    def make(self, run: Run, folder: Path) -> None:
        """Copy it into `folder`."""
        module = json.loads(run("go", "mod", "download", "-json", self.module))
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(Path(module["Dir"]) / self.path, folder / self.file)


@dataclass(frozen=True)
class PythonProgram:
    """One Python module, in an environment of its own with the packages that requirements.txt pins."""

    file: str
    module: str
    python: str = f"{sys.base_prefix} {sys.version_info.major}.{sys.version_info.minor}"
    """The environment belongs to this interpreter."""

    def make(self, run: Run, folder: Path) -> None:
        """Install it into `folder`, and write a program that finds its environment wherever that is moved to."""
        run(sys.executable, "-m", "venv", str(folder))
        pip = (str(folder / "bin/python"), "-m", "pip", "--disable-pip-version-check", "--quiet")
        run(*pip, "install", "--only-binary", ":all:", "--require-hashes", "-r", "requirements.txt")
        program = folder / self.file
        program.write_text(f'#!/bin/sh\nexec "$(dirname "$0")/bin/python" -m {self.module} "$@"\n')
        program.chmod(0o755)


@dataclass(frozen=True)
class Server:
    """What one server, or tool, consists of.

    `name` is also its folder beside this file, and the program looked for on PATH. A tool has no address: its
    `address_variable` is empty.
    """

    name: str
    address_variable: str
    programs: tuple[Program | Copy | PythonProgram, ...]
    pinned_by: tuple[str, ...] = GO_SOURCES

    @property
    def sources(self) -> Path:
        """The folder of the files that pin it."""
        return Path(__file__).resolve().parent / self.name

    @property
    def folder(self) -> Path:
        """Where it is when built: present means complete."""
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        root = Path(os.environ.get("ROTATOR_BUILD_DIR") or cache / "rotator-build")
        inputs = hashlib.sha256(repr(self.programs).encode())
        for file in self.pinned_by:
            inputs.update((self.sources / file).read_bytes())
        return root.absolute() / f"{self.name}-{inputs.hexdigest()[:16]}"

    @property
    def found_elsewhere(self) -> str | None:
        """Return why it need not be built, or None."""
        if address := os.environ.get(self.address_variable):
            return f"running at {address} (${self.address_variable})"
        if on_path := shutil.which(self.name):
            return f"found on PATH, {on_path}"
        return None

    def find(self) -> Path | None:
        """The program: on PATH, or else our own build."""
        if on_path := shutil.which(self.name):
            return Path(on_path)
        built = self.folder / self.name
        return built if built.exists() else None


VAULT = Server(
    "vault",
    "ROTATOR_TEST_VAULT_ADDR",
    (
        # `minimal` leaves out much that the tests do not need, and the Kubernetes auth method, hence the plugin.
        Program("vault", "github.com/hashicorp/vault", ("-tags", "minimal")),
        Program(
            "plugins/kubernetes",
            "github.com/hashicorp/vault-plugin-auth-kubernetes/cmd/vault-plugin-auth-kubernetes",
        ),
    ),
)
KUBE_APISERVER = Server(
    "kube-apiserver",
    "ROTATOR_TEST_KUBE_ADDR",
    (
        Program(
            "kube-apiserver",
            "k8s.io/kubernetes/cmd/kube-apiserver",
            (
                "-ldflags",
                "-s -w -X k8s.io/component-base/version.gitVersion=v1.37.2",
            ),  # the default is invalid
        ),
    ),
)
KUBECTL = Server(
    "kubectl",
    "",
    (
        Program(
            "kubectl",
            "k8s.io/kubernetes/cmd/kubectl",
            ("-ldflags", "-s -w -X k8s.io/component-base/version.gitVersion=v1.37.2"),
        ),
    ),
)
HELM = Server(
    "helm",
    "",
    (
        Program(
            "helm",
            "helm.sh/helm/v3/cmd/helm",
            # The Kubernetes version that Helm renders charts for, as in its releases; the default is 1.20.
            (
                "-ldflags",
                "-s -w -X helm.sh/helm/v3/pkg/chartutil.k8sVersionMajor=1 "
                "-X helm.sh/helm/v3/pkg/chartutil.k8sVersionMinor=37 "
                "-X helm.sh/helm/v3/pkg/lint/rules.k8sVersionMajor=1 "
                "-X helm.sh/helm/v3/pkg/lint/rules.k8sVersionMinor=37",
            ),
        ),
    ),
)
HELM_4 = Server("helm4", "", (Program("helm4", "helm.sh/helm/v4/cmd/helm"),))
PROMETHEUS_OPERATOR_CRDS = Server(
    "prometheus-operator-crds",
    "",
    tuple(
        Copy(
            f"{plural}.yaml",
            "github.com/prometheus-operator/prometheus-operator",
            f"example/prometheus-operator-crd/monitoring.coreos.com_{plural}.yaml",
        )
        for plural in ("podmonitors", "prometheusrules", "servicemonitors")
    ),
)
EXTERNAL_SECRETS_CRDS = Server(
    "external-secrets-crds",
    "",
    (
        Copy(
            "externalsecrets.yaml",
            "github.com/external-secrets/external-secrets",
            "config/crds/bases/external-secrets.io_externalsecrets.yaml",
        ),
    ),
)
JUPYTERHUB = Server("jupyterhub", "", (PythonProgram("jupyterhub", "jupyterhub"),), ("requirements.txt",))
CYCLONEDX = Server("cyclonedx-py", "", (PythonProgram("cyclonedx-py", "cyclonedx_py"),), ("requirements.txt",))
ACTIONLINT = Server("actionlint", "", (Program("actionlint", "github.com/rhysd/actionlint/cmd/actionlint"),))
SERVERS = (
    *(VAULT, KUBE_APISERVER, KUBECTL, HELM, HELM_4, PROMETHEUS_OPERATOR_CRDS, EXTERNAL_SECRETS_CRDS, JUPYTERHUB),
    *(CYCLONEDX, ACTIONLINT),
)


def say(text: str) -> None:
    """Print without delay, because a build takes minutes."""
    print(text, flush=True)


def build(server: Server) -> None:
    """Build a server, unless it exists. Raise subprocess.CalledProcessError, whose stderr has the reason."""
    server.folder.parent.mkdir(parents=True, exist_ok=True)
    with server.folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # a second clone waits for the first one's build
        if server.folder.exists():
            return
        say(f"{server.name}: building {server.folder}; the first time this takes up to 10 minutes")
        partial = server.folder.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)

        def run(*command: str) -> str:
            return subprocess.run(
                command,
                cwd=server.sources,
                env={**os.environ, "CGO_ENABLED": "0"},
                check=True,
                stdin=subprocess.DEVNULL,
                capture_output=True,  # stderr has hundreds of lines of downloads, useful only on failure
                text=True,
            ).stdout

        for program in server.programs:
            started = time.monotonic()
            program.make(run, partial)
            say(f"{server.name}: built {program.file} in {time.monotonic() - started:.0f} s")
        partial.rename(server.folder)


def main() -> int:
    """Build what is missing. Return 1 if a build failed, and 0 without Go."""
    has_go = shutil.which("go") is not None
    for server in SERVERS:
        if found := server.found_elsewhere:
            say(f"{server.name}: nothing to build, {found}")
        elif server.folder.exists():
            say(f"{server.name}: built already, {server.folder}")
        elif server.pinned_by == GO_SOURCES and not has_go:
            say(f"{server.name}: no Go on PATH, so the tests that need {server.name} will be skipped")
        else:
            try:
                build(server)
            except subprocess.CalledProcessError as error:
                say("\n".join(error.stderr.splitlines()[-20:]))
                running = f", or set ${server.address_variable}" if server.address_variable else ""
                needed = "the Go that go.mod names and a module proxy" if server.pinned_by == GO_SOURCES else "PyPI"
                say(
                    f"{server.name}: the build in {server.sources} failed; the lines above have the reason. It needs "
                    f"{needed}. Or put {server.name} on PATH{running}."
                )
                return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
