"""Read the configuration's files into one dictionary, with the file that each target came from.

Of the options, only `include` and `targets` matter here. A file that cannot be read is a problem and not an exception,
so that the caller reports all problems at once.
"""

import json
import os
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from glob import has_magic
from pathlib import Path
from typing import Any

from rotator.core.errors import Problem
from rotator.runtime import files
from rotator.runtime.redact import quoted

_LARGEST = 16 * 2**20

_Oddity = tuple[tuple[str | int, ...], str]
"""What JSON allows and TOML does not: where, and what is wrong with it."""

_READINGS = 5
"""How often the files are read until none changed meanwhile: a ConfigMap may be replaced at any time."""


@dataclass(frozen=True, slots=True)
class Source:
    """The content of the files, with the targets of all files. `data` is None if the main file cannot be read."""

    data: dict[str, Any] | None
    origins: Mapping[str, Path]  # of each target
    problems: tuple[Problem, ...]
    warnings: tuple[Problem, ...]


def read(file: Path) -> Source:
    """Read a file and the files it includes, and read them again if one changed meanwhile."""
    for _ in range(_READINGS):
        before = _stat(file)
        data, problems = _read_one(file)
        if data is None:
            return Source(None, {}, tuple(problems), ())
        patterns = data.get("include")
        seen = _state(file, patterns)
        source = _with_included(file, data, problems)
        if seen == _state(file, patterns) and seen[0] == before:
            return source
    changing = Problem(str(file), "include", f"files changed {_READINGS} times while rotator read them: try again")
    return Source(data, source.origins, (*source.problems, changing), source.warnings)


def _with_included(file: Path, data: dict[str, Any], problems: list[Problem]) -> Source:
    """Return the main file's data with the targets of all files it includes."""
    warnings: list[Problem] = []
    targets = data.get("targets", {})
    if not isinstance(targets, dict):
        return Source(data, {}, tuple(problems), ())
    origins = dict.fromkeys(targets, file)
    targets = dict(targets)
    for included in _included(file, data.get("include"), problems, warnings):
        content, unreadable = _read_one(included)
        problems += unreadable
        message = f"an included file holds [targets.*] only: credentials, addresses and all else stay in {file}"
        others = [key for key in content or {} if key != "targets"]
        problems += [Problem(str(included), key_path(key), message) for key in others]
        more = (content or {}).get("targets", {})
        if not isinstance(more, dict):
            problems.append(Problem(str(included), "targets", "must be a table"))
            continue
        for name, target in more.items():
            if name in targets:
                problems.append(Problem(str(included), key_path("targets", name), f"is already in {origins[name]}"))
            else:
                targets[name], origins[name] = target, included
    return Source({**data, "targets": targets}, origins, tuple(problems), tuple(warnings))


class Watch:
    """Notice that the main file or an included file was changed or replaced."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._included: tuple[object, object] = (None, None)  # the main file's state, and its `include` as it was then

    def look(self) -> object:
        """Return a state that differs once a file does. Call it before the files are read.

        The main file's present `include` counts even if the configuration is refused, so that a fix in an included file
        is noticed. A mounted ConfigMap is replaced by changing a symbolic link, so the names alone do not show it.
        """
        main = _stat(self._file)
        seen, patterns = self._included
        if main != seen:
            data, _ = _read_one(self._file)
            patterns = (data or {}).get("include")
            self._included = main, patterns
        return _state(self._file, patterns)


def _state(file: Path, patterns: object) -> list[object]:
    """Return the main file's state, those of the included files, and which patterns cannot be listed."""
    problems: list[Problem] = []
    included = _included(file, patterns, problems, [])
    return [_stat(file), *map(_stat, included), *problems]


def _stat(file: Path) -> object:
    try:
        stat = file.stat()
    except OSError as error:
        return str(file), error.errno
    except ValueError:  # not a possible file name
        return None
    # A file that becomes readable changes only its ctime.
    return str(file), stat.st_dev, stat.st_ino, stat.st_mtime_ns, stat.st_size, stat.st_ctime_ns


def key_path(*parts: object) -> str:
    """Return an option's path as TOML writes it: `targets.a.ttl`, `include[0]`, `targets."a.b"`."""
    text = ""
    for part in parts:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            bare = re.fullmatch("[A-Za-z0-9_-]+", str(part))
            text += f"{'.' if text else ''}{part if bare else json.dumps(part)}"
    return text


def _included(file: Path, patterns: object, problems: list[Problem], warnings: list[Problem]) -> list[Path]:
    """Return the files that the patterns match, sorted, each once, without the main file itself.

    Dot-names are skipped: a mounted ConfigMap has its files in dot-named folders, with links to them beside those.
    """
    found: dict[Path, None] = {}
    for index, pattern in enumerate(patterns if isinstance(patterns, list) else ()):
        if not isinstance(pattern, str) or not pattern.isprintable():
            continue  # the schema reports it
        place = key_path("include", index)
        try:
            names = files.find(file.parent, pattern)
        except OSError as error:
            problems.append(Problem(str(file), place, _unlisted(error)))
            continue
        if has_magic(pattern):
            names = [name for name in names if not os.path.isdir(name)]  # noqa: PTH112 - Path.is_dir may raise
        names = [name for name in names if not _is_same(name, file)]
        if not names:
            reported = warnings if has_magic(pattern) else problems
            reported.append(Problem(str(file), place, "matches no file"))
        found.update(dict.fromkeys(names))
    return list(found)


def _unlisted(error: OSError) -> str:
    """Return why a folder cannot be listed. Taken for an empty one, its targets would be dropped."""
    if isinstance(error, FileNotFoundError):
        return f"the folder {error.filename} does not exist: create it, or leave the pattern out"
    return f"the folder {error.filename} cannot be read: {error.strerror}"


def _is_same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return False


class _Unreadable(Exception):
    """A file that cannot be used, with the reason."""


def _read_one(file: Path) -> tuple[dict[str, Any] | None, list[Problem]]:
    """Return a file's content, or None and what is wrong with it."""
    try:
        data, oddities = _parse(_text(file), is_json=file.suffix.lower() == ".json")
    except _Unreadable as error:
        return None, [Problem(str(file), "", str(error))]
    problems = [Problem(str(file), key_path(*place), message) for place, message in oddities]
    return (None if problems else data), problems


def _text(file: Path) -> str:
    try:
        content = files.read(file, _LARGEST + 1)
    except FileNotFoundError:
        if file.is_symlink():
            raise _Unreadable("is a link to a file that does not exist") from None
        raise _Unreadable("does not exist: name the configuration file with --config or $ROTATOR_CONFIG") from None
    except IsADirectoryError:
        raise _Unreadable("is a folder, not a file") from None
    except OSError as error:
        raise _Unreadable(f"cannot be read: {error.strerror}") from None
    except ValueError:
        raise _Unreadable("cannot be read: it is not a possible file name") from None
    if len(content) > _LARGEST:
        raise _Unreadable(f"is larger than {_LARGEST // 2**20} MiB")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _Unreadable(f"is not UTF-8 (line {content.count(10, 0, error.start) + 1})") from None


def _parse(text: str, *, is_json: bool) -> tuple[dict[str, Any], list[_Oddity]]:
    try:
        if not is_json:
            return tomllib.loads(text), []
        data = json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse_constant)
        oddities = list(_oddities(data))
    except json.JSONDecodeError as error:
        message = f"is not JSON: {error.msg} (at line {error.lineno}, column {error.colno})"
        raise _Unreadable(message) from None
    except tomllib.TOMLDecodeError as error:
        raise _Unreadable(f"is not TOML: {quoted(str(error))}{_rather(text)}") from None
    except ValueError as error:
        raise _Unreadable(f"cannot be read: {quoted(str(error))}") from None
    except RecursionError:
        raise _Unreadable("is nested too deeply") from None
    if not isinstance(data, dict):
        raise _Unreadable("must be a JSON object")
    return data, oddities


_YAML = re.compile(r"---|- |[\"']?[\w.-]+[\"']?:(\s|$)")


def _rather(text: str) -> str:
    """Return advice if the first line is in another language than the file's name promises."""
    first = next((line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")), "")
    if _YAML.match(first):
        return "; it looks like YAML, which rotator does not read: write TOML, as in config.example.toml, or JSON"
    if first.lstrip().startswith("{"):
        return "; it looks like JSON: give the file a name that ends in .json"
    return ""


# --- what JSON allows and TOML does not ------------------------------------------------------------------------------


_SURROGATE = re.compile("[\ud800-\udfff]")


class _Twice:
    """Marks the value of a key that its object sets twice."""


def _unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    unique: dict[str, Any] = {}
    for key, value in pairs:
        unique[key] = _Twice() if key in unique else value
    return unique


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number in JSON")


def _oddities(value: object, place: tuple[str | int, ...] = ()) -> Iterator[_Oddity]:
    if isinstance(value, _Twice):
        yield place, "is set twice in the same object"
    elif value is None:
        yield place, "must not be null: leave the option out"
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _oddities(key, (*place, key))
            yield from _oddities(inner, (*place, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _oddities(inner, (*place, index))
    elif isinstance(value, str) and _SURROGATE.search(value):
        yield place, "must not contain half of a surrogate pair"
