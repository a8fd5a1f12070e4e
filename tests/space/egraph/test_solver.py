"""What the solver says of small integer programs, with whichever PuLP is installed; the three answers it can give."""

from __future__ import annotations

import random
import time
from typing import Any

import pulp
import pytest

from eintune.space.derivation.solver import MAX_CONSTRAINTS, SOLVERS, ExtractionError, solve, solver


def program(rows: list[tuple[list[int], int]], most: int = 1) -> tuple[Any, list[Any]]:
    """Integers from 0 to `most`, as few as possible, such that each row's weighted sum is what it says."""
    model: Any = pulp.LpProblem("rows", pulp.LpMinimize)
    x = [model.add_variable(f"x{i}", 0, most, cat="Integer") for i in range(len(rows[0][0]))]
    model += pulp.lpSum(x)
    for weights, total in rows:
        model += pulp.lpSum(w * v for w, v in zip(weights, x, strict=True)) == total
    return model, x


def test_the_best_answer_is_found() -> None:
    model, x = program([([5, 3, 2, 2], 7)])
    assert solve(model, solver(5.0)) == "optimal"
    assert [round(v.value()) for v in x] in ([1, 0, 1, 0], [1, 0, 0, 1])  # two items; 3 + 2 + 2 are three


@pytest.mark.parametrize("rows", [[([2, 4, 6], 7)], [([2, 4, 6], 99)], [([3, 5, 9], 4), ([1, 1, 1], 2)]])
def test_no_answer_is_no_answer(rows: list[tuple[list[int], int]]) -> None:
    model, _ = program(rows)
    assert solve(model, solver(5.0)) == "infeasible"


def test_an_answer_that_is_not_proven_is_unproven() -> None:
    """Market split (Cornuéjols and Dawande): four random equations in 40 binary variables take branching hours."""
    drawn = random.Random(7)
    weights = [[drawn.randrange(100) for _ in range(40)] for _ in range(4)]
    model, _ = program([(w, sum(w) // 2) for w in weights])
    assert solve(model, solver(0.1)) == "unproven"


@pytest.mark.filterwarnings("ignore:PULP_CBC_CMD is deprecated")
def test_without_a_solver_there_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in SOLVERS:
        if hasattr(pulp, name):
            monkeypatch.setattr(getattr(pulp, name), "available", lambda self: False)
    with pytest.raises(ExtractionError, match="extraction needs an integer solver: install one of highspy"):
        solver(1.0)


def test_a_program_that_is_too_large_is_not_tried() -> None:
    """Its solver would look at no clock for minutes."""
    model, (x,) = program([([1], 1)])
    for _ in range(MAX_CONSTRAINTS):
        model += x >= 0
    start = time.process_time()
    assert solve(model, solver(5.0)) == "unproven"
    assert time.process_time() - start < 1
