"""Progress: something is said at once and every second, and a terminal's block fits it and goes away."""

from __future__ import annotations

import io
import re
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any, cast

import pytest

from eintune.search.text import progress as module
from eintune.search.text import streams
from eintune.search.text.progress import Progress, end_all
from eintune.search.text.standing import Standing


class Terminal(io.StringIO):
    """A terminal, as far as a program can tell."""

    def isatty(self) -> bool:
        return True


def until(there: Callable[[], bool]) -> None:
    """Wait until something is so."""
    end = time.monotonic() + 20.0
    while not there():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], Terminal]:
    def of(columns: int) -> Terminal:
        monkeypatch.setenv("TERM", "xterm-256color")
        monkeypatch.setenv("COLUMNS", str(columns))
        monkeypatch.setenv("LINES", "40")
        return Terminal()

    return of


def test_the_first_line_is_said_at_once_and_others_while_it_is_silent() -> None:
    stream = io.StringIO()
    progress = Progress(stream, "tune: loading")
    assert stream.getvalue() == "   0.0 s  start    tune: loading\n"
    try:
        with progress.stage("derive"):
            until(lambda: len(stream.getvalue().splitlines()) >= 3)
        progress.stands(done=3, of=24, best=1e-4, predicted=2e-4, peer=("sdpa", 3e-4), left=12.4)
        progress.become("time")
        progress.doing("timing 4")
        until(lambda: "timing 4" in stream.getvalue())
    finally:
        progress.close()
    lines = stream.getvalue().splitlines()
    said = [float(line[:6]) for line in lines]
    assert said[0] == 0.0 and lines[1].endswith("derive   deriving cascades from the definition")
    assert all(later - earlier >= 0.6 for earlier, later in pairwise(said[1:]))
    assert "timing 4; 3 of 24 measured; best 0.1 ms; model 0.2 ms; sdpa 0.3 ms (3.00x); about " in lines[-1]
    time.sleep(2 * module.QUIET_SECONDS)
    assert stream.getvalue().splitlines() == lines


def test_less_than_a_second_is_silent() -> None:
    """The least and the most time between two lines, by what the ticker waits."""
    assert module.QUIET_SECONDS + module.QUIET_SECONDS / 4 < 1.0


def test_what_says_something_itself_is_not_talked_over() -> None:
    stream = io.StringIO()
    progress = Progress(stream)
    for i in range(8):
        progress.say(f"step {i}")
        time.sleep(module.QUIET_SECONDS / 4)
    progress.close()
    assert [line.split()[-1] for line in stream.getvalue().splitlines()] == list("01234567")


def test_nothing_is_said_where_nobody_listens() -> None:
    progress = Progress(None, "lost")
    progress.say("lost")
    assert progress not in module._running


def test_a_command_that_ends_leaves_nothing_talking() -> None:
    stream = io.StringIO()
    progress = Progress(stream)
    end_all()
    time.sleep(1.5 * module.QUIET_SECONDS)
    assert stream.getvalue() == "" and progress not in module._running


@pytest.mark.parametrize("columns", [40, 60, 140])
def test_a_block_fits_its_terminal_and_goes(columns: int, terminal: Callable[[int], Terminal]) -> None:
    stream = terminal(columns)
    progress = Progress(stream, "tune: loading")
    progress.stands(done=3, of=24, best=1.035e-4, predicted=2e-4, peer=("sdpa-cudnn", 3e-4), left=12.4)
    with progress.stage("finals"):
        until(lambda: "about" in stream.getvalue())
        progress.say("1/24   0.1551 ms  predicted   0.491 ms  2-pass tiled corrected, deferred division; grid b p:64")
        progress.say("\x1b[31mred")
    progress.close()
    text = stream.getvalue()
    assert "3 of 24 measured" in text and "best 0.1035 ms" in text and "sdpa-cudnn 0.3 ms (2.90x)" in text
    assert "\x1b[31m" not in text and "\\x1b[31mred" in text
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text).replace("\r", "\n")
    assert max(map(len, plain.splitlines())) <= columns
    assert text.endswith(("\x1b[?25h", "\x1b[2K")) or "\x1b[?25h" in text[text.rindex("\x1b[?25l") :]


def test_what_is_printed_meanwhile_stands_by_itself(
    terminal: Callable[[int], Terminal], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The block is taken away first: a table is not written into it."""
    stream = terminal(60)
    shown = cast(Any, streams.Shown(stream))
    monkeypatch.setattr(sys, "stdout", shown)
    progress = Progress(shown)
    until(lambda: "starting" in stream.getvalue())
    print("a table")
    before = stream.getvalue().partition("a table")[0]
    assert before.endswith(("\x1b[2K", "\x1b[?25h"))
    drawn = stream.getvalue().count("starting")
    until(lambda: stream.getvalue().count("starting") > drawn)
    progress.close()
    assert streams._before_words is None


def test_what_is_left_counts_down() -> None:
    standing = Standing(left=5.0, since=time.monotonic() - 3.0)
    assert standing.remaining == pytest.approx(2.0, abs=0.5)
    assert Standing(left=1.0, since=time.monotonic() - 3.0).remaining == 0.0
    assert Standing(left=9.0, at_most=True).parts() == ["at most 9 s left"]
    assert Standing().parts() == []
