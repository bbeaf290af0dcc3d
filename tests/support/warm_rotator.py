"""A process that has imported all of rotator, and forks for each command. `support.forked` runs it as a program.

Its argument is the descriptor of a socket. Each line of JSON there comes with four descriptors: the three standard
streams of the command, and a pipe that gets two lines: the process id at once, and how it ended, as waitpid shows it.
"""

import gc
import importlib
import json
import os
import pkgutil
import runpy
import socket
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import rotator
from rotator.config.loader import load
from rotator.core.errors import ConfigurationError
from rotator.providers.registry import installed_types


def import_all() -> None:
    """Import each module that is no program."""
    for module in pkgutil.walk_packages(rotator.__path__, "rotator."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)


def build_models() -> None:
    """Build the models of the options, which the first configuration does."""
    with tempfile.NamedTemporaryFile(suffix=".toml") as nothing, suppress(ConfigurationError):
        load(Path(nothing.name), {}, installed_types())


def serve(line: socket.socket) -> None:
    """Fork for each command, until the other end closes the socket."""
    while True:
        text, descriptors, _, _ = socket.recv_fds(line, 65536, 4)
        if not text:
            return
        while not text.endswith(b"\n"):
            text += line.recv(65536)
        if os.fork() == 0:
            line.close()
            run(json.loads(text), *descriptors)
        for descriptor in descriptors:
            os.close(descriptor)
        reap()


def reap() -> None:
    """Wait for the forks that have ended, so that their CPU counts as this process's."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return


def run(command: dict[str, Any], *descriptors: int) -> None:
    """Run the command in a process of its own, and report it."""
    *streams, report = descriptors
    if pid := os.fork():
        for stream in streams:
            os.close(stream)
        os.write(report, b"%d\n" % pid)
        os.write(report, b"%d\n" % os.waitpid(pid, 0)[1])
        os._exit(0)
    os.close(report)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(command["folder"])
    os.environ.clear()
    os.environ.update(command["environment"])
    time.tzset()
    sys.argv = [command["module"], *command["arguments"]]
    runpy.run_module(command["module"], run_name="__main__", alter_sys=True)
    sys.exit()


if __name__ == "__main__":
    import_all()
    build_models()
    gc.freeze()  # the collector of a fork would copy every page
    serve(socket.socket(fileno=int(sys.argv[1])))
