"""A process is known by more than its number."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from eintune.host import processes
from eintune.host.processes import SEPARATOR, identity, lives


def test_a_process_lives_until_it_ends() -> None:
    assert lives(identity()) is True
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    who = identity(child.pid)
    assert who != identity() and lives(who) is True
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert lives(who) is False, "it has ended, though nobody has asked how yet"
    child.wait()
    assert lives(who) is False


def test_a_number_that_is_used_again_is_another_process() -> None:
    host, boot, number, started = identity().split(SEPARATOR)
    assert lives(SEPARATOR.join((host, boot, number, str(int(started) - 1)))) is False
    assert lives(SEPARATOR.join((host, "another boot", number, started))) is False


@pytest.mark.parametrize("who", ["", "x", "a|b|c|d", "no number", "||||||"])
def test_what_cannot_be_known(who: str) -> None:
    if who == "no number":  # made here: every worker that collects the tests is another process
        who = identity().replace(str(os.getpid()), "-1")
    assert lives(who) is None


def test_where_there_is_no_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "_started", lambda number: None)
    assert lives(identity()) is True
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    child.wait()
    assert lives(identity(child.pid)) is False
