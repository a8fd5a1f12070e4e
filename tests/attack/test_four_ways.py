"""Drawn programs: the evaluator, plain operators, every derived form and compiled kernels agree, or each refuses."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from drawn_cascades import draw
from four_ways import Fault, budgets, compare, forked_saturation, verdict
from other_sizes import run_elsewhere

from eintune.space.cascade.cascade import Cascade
from eintune.space.cascade.run import run_cascade

BATCH = 10


def check(seeds: range, cache: Path) -> None:
    with forked_saturation():
        found = {seed: verdict(draw(seed), cache / str(seed)) for seed in seeds}
    faults = {seed: v.says for seed, v in found.items() if v.kind == "fault"}
    assert not faults


@pytest.mark.parametrize("batch", range(6))
def test_drawn_programs_agree_in_all_ways(batch: int, tmp_path: Path) -> None:
    check(range(BATCH * batch, BATCH * (batch + 1)), tmp_path)


def test_a_program_may_have_no_ranks(tmp_path: Path) -> None:
    check(range(1687, 1688), tmp_path)


@pytest.mark.parametrize("seed", [495, 1848, 2315])
def test_an_axis_may_have_the_size_of_another_rank(seed: int, tmp_path: Path) -> None:
    check(range(seed, seed + 1), tmp_path)


@pytest.mark.parametrize("batch", range(2))
def test_kernels_for_any_size_agree_at_other_sizes(batch: int) -> None:
    agreed = sum((run_elsewhere(seed) for seed in range(BATCH * batch, BATCH * (batch + 1))), Counter[str]())["agreed"]
    assert agreed >= 5


@pytest.mark.soak
@pytest.mark.parametrize("batch", range(2, 100))
def test_all_kernels_for_any_size_agree_at_other_sizes(batch: int) -> None:
    for seed in range(BATCH * batch, BATCH * (batch + 1)):
        run_elsewhere(seed)


@pytest.mark.soak
@pytest.mark.parametrize("batch", range(6, 400))
def test_all_drawn_programs_agree_in_all_ways(batch: int, tmp_path: Path) -> None:
    check(range(BATCH * batch, BATCH * (batch + 1)), tmp_path)


def test_a_seed_draws_one_program_that_its_text_says() -> None:
    for seed in range(40):
        case = draw(seed)
        assert case.cascade == draw(seed).cascade == Cascade.parse(str(case.cascade))


def test_a_difference_beyond_the_budget_is_found() -> None:
    case = next(c for c in map(draw, range(50)) if 0 not in c.sizes.values())
    exact = run_cascade(case.cascade, case.data, case.given, case.params)
    budget = budgets(case, exact)
    compare("itself", exact, exact, budget)
    for name, values in exact.items():
        off = values + np.maximum(1e-6 * np.abs(values), 1e-9)
        with pytest.raises(Fault, match=f"other: {name}"):
            compare("other", {**exact, name: off}, exact, budget)
