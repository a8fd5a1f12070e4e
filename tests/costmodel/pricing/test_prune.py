"""Pruning: what is out and why."""

from __future__ import annotations

from dataclasses import replace

import pytest
from small_plans import Passes, plan, problem, schedule

from eintune.costmodel.counts.estimate import Estimate, Resources, Traffic
from eintune.costmodel.machines.machine import load_machine
from eintune.costmodel.pricing.calibration import Calibration
from eintune.costmodel.pricing.prune import prune
from eintune.costmodel.pricing.time import estimate

H200 = load_machine("h200")
SURE = replace(Calibration.of(H200), error=0.1)  # a band of e^0.2 = 1.22


def candidate(seconds: float, shared: int = 1000, spills: int = 0, units: tuple[float, float] = (1.0, 1.0)) -> Estimate:
    resources = Resources(shared, 100, spills, 4)
    named = tuple(zip(("tensor", "special"), units, strict=True))
    return Estimate(seconds, Traffic(), resources, 100, 2, 1.0, "tensor", named)


def test_what_the_machine_cannot_run_is_out_however_fast() -> None:
    found = prune([candidate(1.0, shared=300_000), candidate(1.0, spills=500), candidate(2.0)], H200, SURE)
    assert found.kept == (2,)
    assert str(found.reasons[0]) == "shared memory: needs 300000 bytes, h200 has 232448"
    assert found.counts == {"shared memory": 1, "registers": 1}


def test_the_kept_come_best_first_and_the_hopeless_are_out() -> None:
    close, best, far = (candidate(t, units=(1.0 / t, t)) for t in (1.1, 1.0, 1.5))
    found = prune([close, best, far], H200, SURE, at_least=1)
    assert found.kept == (1, 0)
    assert {i: str(why) for i, why in found.reasons.items()} == {
        2: "slower: predicted 1.50 times the best, the model is sure beyond 1.22"
    }


def test_a_few_are_kept_however_sure_the_model_is() -> None:
    many = [candidate(1.0 + i, units=(1.0 / (1 + i), 1.0 + i)) for i in range(10)]
    assert prune(many, H200, SURE, at_least=4).kept == (0, 1, 2, 3)


def test_the_dominated_are_out_within_their_group_only() -> None:
    pair = [candidate(1.0, units=(1.0, 1.0)), candidate(1.15, units=(1.2, 1.1))]
    found = prune(pair, H200, SURE)
    assert found.kept == (0,)
    assert str(found.reasons[1]).startswith("dominated: candidate 0")
    assert prune(pair, H200, SURE, groups=["a", "b"]).kept == (0, 1)


def test_equals_do_not_dominate_each_other() -> None:
    assert prune([candidate(1.0), candidate(1.0)], H200, SURE).kept == (0, 1)


def test_nothing_in_nothing_out() -> None:
    assert prune([], H200).kept == ()


@pytest.mark.parametrize("filtered", [False, True])
def test_real_candidates_lose_their_extra_passes(filtered: bool) -> None:
    def price(passes: Passes, p: int, m: int) -> Estimate:
        s = schedule(p, m, stages=2)
        return estimate(plan(passes, problem(), s, filtered=filtered), s, H200)

    tiles = [(64, 64), (128, 64), (64, 128)]
    forms: list[Passes] = ["one", "three"]
    found = prune([price(f, *t) for f in forms for t in tiles], H200, at_least=1)
    assert set(found.kept) <= {0, 1, 2}
    assert len(found.kept) + len(found.reasons) == 6
