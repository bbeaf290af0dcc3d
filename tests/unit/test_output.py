"""What the commands print, without any command: progress, times, and tables of every width."""

import threading

import pytest

from rotator import progress as progressing
from rotator.output import say
from rotator.progress import in_units, progress, progress_line


def test_what_others_wrote_commands_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    say("a: rotated\tkey tk\x1b[2J\u202e")
    assert capsys.readouterr().out == "a: rotated\tkey tk\\x1b[2J\\u202e\n"


# --- progress --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (-1, "0 s"),
        (0.4, "0 s"),
        (40, "40 s"),
        (60, "1 min"),
        (119, "1 min 59 s"),
        (15_000, "4 h 10 min"),
        (3 * 86400 + 59, "3 d"),
    ],
)
def test_a_time_in_its_two_largest_units(seconds: float, words: str) -> None:
    assert in_units(seconds) == words


def test_a_line_of_progress_estimates_the_end_once_it_can() -> None:
    assert progress_line("rotating", 0, 10_000, 60, "") == "rotating: 0 of 10000 done"
    assert progress_line("rotating", 1200, 10_000, 2045, "") == ("rotating: 1200 of 10000 done, about 4 h 9 min left")
    waits = "waiting for the budget of respan (1 requests a minute)"
    assert progress_line("rotating", 1, 4, 10, waits) == f"rotating: 1 of 4 done; {waits}", "too early to tell"
    assert progress_line("rotating", 2, 4, 120, waits) == f"rotating: 2 of 4 done, about 2 min left; {waits}"
    assert progress_line("rotating", 10, 10, 60, "waiting for the budget of respan (60 requests a minute)") == (
        "rotating: 10 of 10 done; waiting for the budget of respan (60 requests a minute)"
    )


def test_a_stall_is_not_silent(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    asked = threading.Semaphore(0)

    def waits() -> str:
        asked.release()
        return "waiting"

    monkeypatch.setattr(progressing, "LINE_EVERY", 0.01)
    with progress("rotating", 3, waits) as advance:
        for _ in range(2):
            assert asked.acquire(timeout=10)
        advance()
    lines = capsys.readouterr().err.splitlines()
    assert lines[:1] == ["rotating: 0 of 3 done; waiting"]
