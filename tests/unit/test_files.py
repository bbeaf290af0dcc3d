"""The configuration's files and folders are read in one consistent state or refused, and never taken for empty."""

import json
import os
import re
import socket
from collections.abc import Callable, Iterator
from errno import EACCES, EIO, ESTALE
from pathlib import Path
from typing import Any

import pytest

from rotator.config import loader as config
from rotator.config.files import Watch
from rotator.config.loader import Configuration
from rotator.core.errors import ConfigurationError, StoreCredentialRefused
from rotator.providers.registry import installed_types
from rotator.runtime import files
from rotator.stores.vault.auth import TokenFileLogin

MAIN = {
    "owner": "prod",
    "include": ["targets.d/*"],
    "providers": {"respan": {"type": "respan", "api_key": {"file": "key"}}},
    "stores": {"file": {"type": "sqlite", "file": "store.db"}},
}


class Files:
    """A main file and an included folder with a file for each target."""

    def __init__(self, top: Path) -> None:
        self.main, self.folder = top / "rotator.json", top / "targets.d"
        self.folder.mkdir()
        self.write()

    def write(self, **changes: Any) -> None:
        self.main.write_text(json.dumps({**MAIN, **changes}))

    def put(self, *names: str) -> None:
        """Write a file for each of these targets, and remove all others."""
        for file in self.folder.iterdir():
            file.unlink()
        for name in names:
            self.of(self.folder / f"{name}.json", name)

    @staticmethod
    def of(file: Path, *targets: str) -> None:
        file.write_text(json.dumps({"targets": {name: {"path": name} for name in targets}}))

    def load(self, in_use: Configuration | None = None) -> Configuration:
        return config.load(self.main, {}, installed_types(), in_use)

    def refused(self, in_use: Configuration | None = None) -> str:
        with pytest.raises(ConfigurationError) as caught:
            self.load(in_use)
        return str(caught.value).replace(f"{self.main.parent}/", "")


@pytest.fixture
def made(tmp_path: Path) -> Files:
    files = Files(tmp_path)
    files.put("a", "b", "c")
    return files


# --- unreadable ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "message"),
    [(EACCES, "Permission denied"), (EIO, "Input/output error"), (ESTALE, "Stale file handle")],
)
def test_a_folder_that_cannot_be_listed_is_not_empty(
    made: Files, monkeypatch: pytest.MonkeyPatch, error: int, message: str
) -> None:
    def failing(place: Any) -> Any:
        raise OSError(error, os.strerror(error), str(place))

    monkeypatch.setattr(os, "listdir", failing)  # no file mode stops root, and tests may run as root
    monkeypatch.setattr(os, "scandir", failing)
    assert made.refused() == f"rotator.json: include[0]: the folder targets.d cannot be read: {message}"


def test_a_folder_that_is_gone_is_not_empty(made: Files) -> None:
    made.folder.rename(made.folder.with_name("elsewhere"))
    gone = made.refused()
    assert gone.startswith("rotator.json: include[0]: the folder targets.d does not exist")
    made.folder.symlink_to("nowhere")
    assert made.refused() == gone
    made.folder.unlink()
    made.folder.write_text("")
    assert made.refused() == "rotator.json: include[0]: the folder targets.d cannot be read: Not a directory"


def test_an_empty_folder_is_empty(made: Files) -> None:
    made.put()
    assert not made.load().targets
    assert [str(warning).rpartition(": ")[2] for warning in made.load().warnings] == [
        "matches no file",
        "no target is configured, so rotator replaces no key",
    ]


def test_a_pattern_with_a_folder_in_it_need_not_match_in_each_folder(made: Files) -> None:
    for team in ("one", "two"):
        (made.folder / team).mkdir()
    (made.folder / "one" / "more").mkdir()
    made.of(made.folder / "one" / "more" / "d.json", "d")
    made.of(made.folder / "two" / "targets.json", "e")
    made.write(include=["targets.d/*/more/*", "targets.d/*/targets.json", "targets.d/?.json", "./targets.d/[a-b].json"])
    assert list(made.load().targets) == ["d", "e", "a", "b", "c"]


@pytest.fixture
def bound() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as opened:
        yield opened


@pytest.mark.parametrize("name", ["targets.d/odd", "rotator.json"])
def test_only_regular_files_are_read(
    made: Files, bound: socket.socket, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(made.main.parent)  # the name of a socket must be short
    odd = Path(name)
    kinds: dict[str, Callable[[], None]] = {
        "a named pipe": lambda: os.mkfifo(odd),
        "a socket": lambda: bound.bind(name),
        "a device": lambda: odd.symlink_to("/dev/zero"),
    }
    for kind, make in kinds.items():
        odd.unlink(missing_ok=True)
        make()
        assert made.refused() == f"{name}: cannot be read: it is {kind}, not a regular file"


def test_a_file_that_becomes_a_pipe_does_not_block(made: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    regular, fifo = made.main.stat(), made.folder / "pipe"
    os.mkfifo(fifo)
    monkeypatch.setattr(Path, "stat", lambda _: regular)
    with pytest.raises(OSError, match=re.escape("it is a named pipe, not a regular file")):
        files.read(fifo)


def test_a_credential_that_is_a_pipe_does_not_block(made: Files) -> None:
    os.mkfifo(made.folder / "pipe")
    with pytest.raises(StoreCredentialRefused, match="it is a named pipe, not a regular file"):
        TokenFileLogin(made.folder / "pipe").credentials()


def test_a_dangling_link_is_refused(made: Files) -> None:
    (made.folder / "d.json").symlink_to("..data/d.json")
    assert made.refused() == "targets.d/d.json: is a link to a file that does not exist"


# --- changes during the read -----------------------------------------------------------------------------------------


def mount(folder: Path, name: str, **content: tuple[str, ...]) -> None:
    """A ConfigMap as Kubernetes mounts it: each file links into `..data`, a link that Kubernetes replaces."""
    dated = folder / f"..{name}"
    dated.mkdir()
    for file, targets in content.items():
        Files.of(dated / f"{file}.json", *targets)
        if not (folder / f"{file}.json").is_symlink():
            (folder / f"{file}.json").symlink_to(f"..data/{file}.json")
    (folder / "..tmp").symlink_to(dated.name)
    (folder / "..tmp").rename(folder / "..data")


def during_the_second_file(monkeypatch: pytest.MonkeyPatch, change: Callable[[], None], times: int = 1) -> None:
    """Call something between the first and the second included file, in so many readings."""
    read, left = files.read, [times]

    def reading(file: Path, *more: int) -> bytes:
        if file.name == "b.json" and left[0]:
            left[0] -= 1
            change()
        return read(file, *more)

    monkeypatch.setattr(files, "read", reading)


def test_a_target_that_moves_between_files_during_the_read_is_not_lost(
    made: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    made.put()
    mount(made.folder, "before", a=("x",), b=("y", "z"))
    during_the_second_file(monkeypatch, lambda: mount(made.folder, "after", a=("x", "y"), b=("z",)))
    assert set(made.load().targets) == {"x", "y", "z"}


def test_a_file_that_is_removed_during_the_read(made: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    during_the_second_file(monkeypatch, (made.folder / "c.json").unlink)
    assert set(made.load().targets) == {"a", "b"}


def test_files_that_keep_changing_are_refused(made: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    names = iter(range(1000))
    during_the_second_file(monkeypatch, lambda: (made.folder / f".{next(names)}").touch(), times=1000)
    assert set(made.load().targets) == {"a", "b", "c"}, "a hidden file is none of them"
    during_the_second_file(monkeypatch, lambda: made.write(former_owners=[f"o{next(names)}"]), times=1000)
    assert made.refused() == "rotator.json: include: files changed 5 times while rotator read them: try again"


def test_a_folder_that_becomes_readable_and_a_changed_file_mode_are_noticed(
    made: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = Watch(made.main)
    seen = [watch.look()]
    with monkeypatch.context() as patch:
        patch.setattr(files, "find", lambda *_: (_ for _ in ()).throw(PermissionError(EACCES, "no", "targets.d")))
        seen.append(watch.look())
    seen.append(watch.look())
    assert seen[0] == seen[2] != seen[1]
    made.main.chmod(0o400)
    (made.folder / "a.json").chmod(0o400)
    assert watch.look() not in seen


# --- targets that a reload removes -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after", "limit", "is_refused"),
    [
        ("abc", "ab", None, False),
        ("abc", "a", None, True),
        ("abc", "", None, True),
        ("abcd", "ab", None, False),  # half of them is not more than half
        ("ab", "", None, True),
        ("a", "", None, False),  # a single removed target is no sign of a lost file
        ("abc", "xyz", None, True),  # as many targets, but other ones
        ("abc", "", 3, False),
        ("abc", "", 2, True),
        ("abc", "ab", 0, True),
        ("abc", "ab", "0%", True),
        ("abc", "", "100%", False),
    ],
)
def test_a_reload_that_removes_too_many_targets_is_refused(
    made: Files, before: str, after: str, limit: object, is_refused: bool
) -> None:
    made.put(*before)
    in_use = made.load()
    made.put(*after)
    made.write(daemon={} if limit is None else {"max_removed_targets": limit})
    assert set(made.load().targets) == set(after), "a start, which has nothing to compare with, takes it"
    if is_refused:
        assert " targets are gone (" in made.refused(in_use)
    else:
        assert set(made.load(in_use).targets) == set(after)


def test_the_message_for_removed_targets(made: Files) -> None:
    made.put(*"abcdefgh")
    in_use = made.load()
    made.put("a")
    assert made.refused(in_use) == (
        "rotator.json: targets: 7 of 8 targets are gone (b, c, d, e, f, ...), over [daemon].max_removed_targets (50%). "
        "It looks like a file, a folder or a ConfigMap that lost its content: their keys would expire without "
        "being replaced, and their applications would be refused. To remove them, set max_removed_targets = 7 for this "
        "reload, or restart rotator"
    )
    made.write(daemon={"max_removed_targets": 7})
    assert list(made.load(in_use).targets) == ["a"]


def test_a_renamed_target_is_not_removed(made: Files) -> None:
    in_use = made.load()
    renamed = {"targets": {f"new-{name}": {"path": name} for name in "abc"}}
    made.put()
    (made.folder / "all.json").write_text(json.dumps(renamed))
    assert set(made.load(in_use).targets) == {"new-a", "new-b", "new-c"}
