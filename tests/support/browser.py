"""A headless Chromium that opens one page: its DOM, its console and a picture.

Debian's package `chromium` brings it.
"""

import shutil
import struct
import subprocess
import tempfile
import zlib
from dataclasses import dataclass
from pathlib import Path

from support.leaks import RECORDER

NO_CHROMIUM = "no Chromium: install Debian's package `chromium`, or put chromium on PATH"
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--enable-logging=stderr",
)


def is_installed() -> bool:
    """Return whether it is on PATH."""
    return shutil.which("chromium") is not None


@dataclass(frozen=True, slots=True)
class Rendering:
    """A page as the browser has it."""

    dom: str
    complaints: tuple[str, ...]  # the lines of the console
    picture: bytes  # a PNG

    @property
    def size(self) -> tuple[int, int]:
        """Return the picture's size, in pixels."""
        width, height = struct.unpack(">II", self.picture[16:24])
        return width, height

    @property
    def rows(self) -> list[bytes]:
        """Return the picture's rows, three or four bytes a pixel, filtered as in PNG except for the first pixel."""
        data, at = b"", 8
        while at < len(self.picture):
            length, kind = struct.unpack(">I4s", self.picture[at : at + 8])
            data += self.picture[at + 8 : at + 8 + length] if kind == b"IDAT" else b""
            at += length + 12
        raw = zlib.decompress(data)
        step = len(raw) // self.size[1]
        return [raw[start : start + step] for start in range(0, len(raw), step)]

    @property
    def corner(self) -> str:
        """Return the colour of the first pixel, as "#ffffff"."""
        return f"#{self.rows[0][1:4].hex()}"


def look_at(url: str, width: int, height: int, *, dark: bool = False) -> Rendering:
    """Open the page in a new browser, and close it."""
    scheme = f"--blink-settings=preferredColorScheme={0 if dark else 1}"
    with tempfile.TemporaryDirectory(prefix="chromium-") as folder:
        picture = Path(folder) / "picture.png"
        command = [
            *(shutil.which("chromium") or "chromium", *FLAGS, scheme),
            *(f"--user-data-dir={folder}/profile", f"--window-size={width},{height}"),
            *("--dump-dom", f"--screenshot={picture}", url),
        ]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
        assert ended.returncode == 0, ended.stderr
        RECORDER.record("chromium: DOM", ended.stdout)
        RECORDER.record("chromium: log", ended.stderr)
        complaints = tuple(line for line in ended.stderr.splitlines() if "CONSOLE" in line)
        return Rendering(ended.stdout, complaints, picture.read_bytes())
