"""Finds and reads files. What cannot be listed or read raises an error, and never counts as empty.

Only regular files are read: a reader of a named pipe or a device may wait without end.
"""

import os
import stat
from collections.abc import Iterator, Sequence
from errno import EINVAL, EISDIR
from fnmatch import filter as matching
from glob import has_magic
from itertools import takewhile
from pathlib import Path

_KINDS = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def read(file: Path, most: int = -1) -> bytes:
    """Return the content of a regular file, at most `most` bytes if given. Raises OSError, and never waits."""
    _check_kind(file, file.stat())
    with open(file, "rb", opener=_open_without_waiting) as opened:
        _check_kind(file, os.fstat(opened.fileno()))
        return opened.read(most)


def _open_without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)


def _check_kind(file: Path, found: os.stat_result) -> None:
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(EISDIR, os.strerror(EISDIR), str(file))
    if not stat.S_ISREG(found.st_mode):
        kind = _KINDS.get(stat.S_IFMT(found.st_mode), "something else")
        raise OSError(EINVAL, f"it is {kind}, not a regular file", str(file))


def find(folder: Path, pattern: str) -> list[Path]:
    """Return what a pattern below a folder matches, ordered by name. A pattern never matches a dot-name.

    Raises OSError for a folder that cannot be listed, or is missing although the pattern names it.
    """
    return list(_find(folder, Path(pattern).parts, is_named=True))


def _find(place: Path, parts: Sequence[str], *, is_named: bool) -> Iterator[Path]:
    named = list(takewhile(lambda part: not has_magic(part), parts))
    place, parts = place.joinpath(*named), parts[len(named) :]
    try:
        if not parts:
            place.lstat()
            yield place
            return
        names = sorted(os.listdir(place))  # noqa: PTH208 - for its error, which Path.glob swallows
    except (FileNotFoundError, NotADirectoryError):
        if is_named and parts:
            raise
        return  # "teams/*/targets.toml" does not require the file of every team
    for name in matching(names, parts[0]):
        if not name.startswith("."):
            yield from _find(place / name, parts[1:], is_named=False)
