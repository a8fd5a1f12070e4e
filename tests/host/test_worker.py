"""The worker protocol: answers, progress notes, and children that crash, hang, are killed or lose what they need."""

from __future__ import annotations

import os
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from eintune.host.worker import Child

MODULE = """
    import os, sys, time
    from eintune.host.worker import Answer, At, answer_tasks

    def made(send):
        def answer(task):
            match task:
                case ["note", label, code]:
                    send(At(label))
                    os._exit(code)
                case ["raise", text]:
                    raise RuntimeError(text)
                case ["sleep", seconds]:
                    time.sleep(seconds)
                case ["unsound"]:
                    return Answer("run-error", message="lost", sound=False)
            return Answer("ok", (os.getpid(), task))
        return answer

    if __name__ == "__main__":
        sys.exit(answer_tasks(sys.argv[1:], made))
"""


@pytest.fixture
def child(tmp_path: Path) -> Iterator[Child]:
    (tmp_path / "some_worker.py").write_text(textwrap.dedent(MODULE))
    path = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
    made = Child("some_worker", {**os.environ, "PYTHONPATH": path})
    yield made
    made.stop()


def test_one_process_answers_until_it_is_stopped(child: Child) -> None:
    assert not child.running and child.pid is None
    first, second = (child.call([i], 30).value for i in range(2))
    assert (first[1], second[1]) == ([0], [1])
    assert first[0] == second[0] == child.pid and child.generation == 1
    child.stop()
    assert child.call([2], 30).value[0] != first[0] and child.generation == 2


def test_what_ended_it_is_said(child: Child) -> None:
    outcome = child.call(["note", "kernel 7", 3], 30)
    assert (outcome.status, outcome.at) == ("crashed", "kernel 7") and "exit code 3" in outcome.message
    outcome = child.call(["raise", "no such thing"], 30)
    assert outcome.status == "crashed" and outcome.message.endswith("RuntimeError: no such thing")
    assert child.call(["after"], 30).status == "ok"


def test_one_that_hangs_is_ended_in_time(child: Child) -> None:
    assert child.call([0], 30).status == "ok"
    started = time.monotonic()
    outcome = child.call(["sleep", 60], 0.3)
    assert outcome.status == "timeout" and "0.3 s" in outcome.message and not child.running
    assert time.monotonic() - started < 5


def test_one_may_be_killed_from_another_thread(child: Child) -> None:
    assert child.call([0], 30).status == "ok"
    killer = threading.Timer(0.2, child.kill)
    killer.start()
    outcome = child.call(["sleep", 60], 30)
    killer.join()
    assert outcome.status == "crashed" and "SIGKILL" in outcome.message


def test_one_that_is_no_longer_sound_is_replaced(child: Child) -> None:
    outcome = child.call(["unsound"], 30)
    assert (outcome.status, outcome.message, child.running) == ("run-error", "lost", False)
    assert child.call([0], 30).status == "ok" and child.generation == 2


def test_a_module_that_is_not_there_is_a_crash(tmp_path: Path) -> None:
    child = Child("no_such_worker")
    outcome = child.call([0], 30)
    assert outcome.status == "crashed" and "no_such_worker" in outcome.message
