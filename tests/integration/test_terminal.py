"""What a person at a terminal sees, and a pipe does not: headings, tables, a bar."""

from pathlib import Path

from rich.text import Text
from support.installation import installation
from support.leaks import RECORDER


def test_a_table_on_a_terminal_and_lines_in_a_pipe(tmp_path: Path) -> None:
    with installation(tmp_path) as installed:
        installed.run("run", "--once", status=0)
        shown = Text.from_ansi(installed.at_a_terminal("status")).plain
        assert "next rotation" in shown
        assert "\t" not in shown
        piped = installed.run("status", status=0).stdout
        assert "next rotation" not in piped
        assert len(piped.splitlines()[0].split("\t")) == 9
        assert "\x1b" not in piped


def test_long_work_shows_a_bar(tmp_path: Path) -> None:
    with installation(tmp_path) as installed:
        shown = Text.from_ansi(installed.at_a_terminal("rotate", "--all")).plain
        assert "rotating" in shown
        assert "rotated (first)" in shown


def test_a_key_that_is_typed_is_not_shown(tmp_path: Path) -> None:
    typed = "9f8e7d6c.a-key-that-was-typed_0123456789"
    RECORDER.add_secret("a key that was typed", typed)
    with installation(tmp_path) as installed:
        shown = installed.at_a_terminal("find", prompt="What you type is not shown.", typed=f"{typed}\n\x04")
    assert "line 1: not found in any version of 1 target\n" in shown
    assert typed[:8] not in shown
