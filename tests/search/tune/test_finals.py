"""What keeps the finals from being timed costs the comparison, never the winner."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from eintune.kernels.store.cache import Cache, Key, Record
from eintune.kernels.store.platform import platform_of
from eintune.search.cli.main import main
from eintune.search.measure.measurement import Measurement
from eintune.search.measure.measurer import MeasureError
from eintune.search.report.summary import _winner
from eintune.search.report.tune_text import record_text
from eintune.search.study.study import SearchOutcome, Trial
from eintune.search.text.progress import Progress
from eintune.search.tune.finals import Finals, NothingWorked, finals
from eintune.space.schedule.schedule import Schedule
from eintune.space.workloads.builtin import WORKLOADS

Answer = Measurement | Exception
"""What becomes of a finalist in one comparison."""
LATE = Measurement("", "timeout", message="no answer within 25 s")
WRONG = Measurement("", "wrong", message="AV: 3 elements are not written")
PEER: Any = SimpleNamespace(label="sdpa")


def took(seconds: float) -> Measurement:
    return Measurement("", "ok", seconds, seconds, seconds)


def found(key: str, seconds: float) -> Trial[Any]:
    return Trial(SimpleNamespace(key=key, kernel=SimpleNamespace(digest=key)), took(seconds), 1.0, 1.0, "model", 0, 1.0)


TRIALS = (found("a", 1.0e-3), found("b", 1.05e-3), found("c", 1.5e-3))


class Measurer:
    """Answers each comparison by the next of what it is given."""

    def __init__(self, *answers: Callable[[str], Answer]) -> None:
        self.answers = list(answers)
        self.asked: list[list[str]] = []

    def compare(self, kernels: Sequence[Any], peers: Sequence[Any]) -> dict[str, Measurement]:
        self.asked.append([k.digest for k in kernels])
        answer = self.answers.pop(0)
        made: dict[str, Measurement] = {}
        for key in [*self.asked[-1], *(p.label for p in peers)]:
            m = answer(key)
            if isinstance(m, Exception):
                raise m
            made[key] = replace(m, digest=key)
        return made


def ended(*answers: Callable[[str], Answer]) -> tuple[Finals, list[list[str]]]:
    measurer: Any = Measurer(*answers)
    outcome: SearchOutcome[Any] = SearchOutcome(TRIALS, "")
    made = finals(outcome, measurer, [PEER], Progress())
    assert measurer.answers == []
    return made, measurer.asked


def test_the_fastest_of_those_that_are_close_wins() -> None:
    made, asked = ended(lambda key: took({"a": 1.2e-3, "b": 1.1e-3, "sdpa": 2e-3}[key]))
    assert asked == [["a", "b"]] and made.winner.point.key == "b" and made.doubt == ""
    assert made.time.seconds == 1.1e-3 and made.peers["sdpa"].seconds == 2e-3


@pytest.mark.parametrize(("seconds", "said"), [(1.4e-3, False), (3e-3, True), (0.5e-3, True)])
def test_a_machine_that_was_busy_is_a_doubt(seconds: float, said: bool) -> None:
    made, _ = ended(lambda key: took(seconds))
    assert ("busy" in made.doubt) == said


def test_one_finalist_that_is_late_costs_nothing() -> None:
    made, asked = ended(lambda key: LATE if key == "a" else took(1e-3))
    assert made.winner.point.key == "b" and made.doubt == "" and len(asked) == 1


@pytest.mark.parametrize("fault", [LATE, Measurement("", "crashed"), MeasureError("the reference cannot be made")])
def test_finals_are_tried_again(fault: Answer) -> None:
    made, asked = ended(lambda key: fault, lambda key: took(1e-3))
    assert asked == [["a", "b"]] * 2 and made.doubt == ""


@pytest.mark.parametrize("fault", [LATE, Measurement("", "crashed", message="SIGKILL"), MeasureError("no memory")])
def test_the_best_trial_is_kept_with_its_doubt(fault: Answer) -> None:
    made, asked = ended(lambda key: fault, lambda key: fault)
    assert len(asked) == 2 and made.winner is TRIALS[0] and made.time == TRIALS[0].measurement
    assert made.doubt.startswith("it was timed when it was found, and not again beside the others (")
    assert (fault.message if isinstance(fault, Measurement) else str(fault)) in made.doubt


def test_a_finalist_that_is_wrong_is_out() -> None:
    made, asked = ended(lambda key: WRONG, lambda key: took(1.5e-3))
    assert asked == [["a", "b"], ["c"]] and made.winner.point.key == "c"
    made, asked = ended(lambda key: WRONG if key == "a" else LATE, lambda key: LATE, lambda key: LATE)
    assert made.winner.point.key == "b" and made.doubt


def test_none_is_right_again() -> None:
    with pytest.raises(NothingWorked, match="none of 3 candidates was right when it was timed again: wrong: AV"):
        ended(lambda key: WRONG, lambda key: WRONG)


# ---- where a doubt is seen


def test_a_doubt_is_kept_and_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--workload", "softmax", "--rows", "8", "--cols", "16")
    problem = WORKLOADS["softmax"].posed({"rows": 8, "cols": 16}, "fp32").problem
    key, doubt = Key.of(problem, platform_of("cpu")), "it was timed when it was found"
    record = Record(problem.cascade, Schedule("torch", ()), "0" * 64, 1.0, 1.0, 1.0, statistics={"doubt": doubt})
    path = Cache(tmp_path).store(key, record)
    assert f"beware    {doubt}; --retune measures anew" in record_text("title", key, record, path)
    assert main(["cache", "explain", *options, "--cache", str(tmp_path), "--device", "cpu"]) == 0
    assert f"beware: {doubt}" in capsys.readouterr().out
    assert main(["cache", "list", "--cache", str(tmp_path)]) == 0
    assert "in doubt" in capsys.readouterr().out
    run: Any = SimpleNamespace(winner={"label": "1-pass", "seconds": 1.0, "doubt": doubt}, best_peer=None)
    assert f"(beware: {doubt})" in _winner(run)
