"""Calibration: bounds, JSON, and fits to times made from known parameters."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from small_plans import plan, problem, schedule

from eintune.costmodel.counts.work import Work, work
from eintune.costmodel.machines.machine import Machine, load_machine, machine_names
from eintune.costmodel.pricing.calibration import PARAMETERS, Calibration
from eintune.costmodel.pricing.fit import fit
from eintune.costmodel.pricing.terms import terms

H200 = load_machine("h200")
TRUTH = Calibration(0.7, 0.5, 0.6, 0.5, 0.3, 2e-7, 5e-7, 6e-6, 0.1)


@pytest.fixture(scope="module")
def works() -> list[Work]:
    """Kernels of several forms, tiles and sizes: what a search would measure."""
    tiles = [(64, 64, 4), (128, 64, 4), (128, 128, 8), (32, 64, 4), (64, 32, 4)]
    return [
        work(plan(p, problem(2, 16, length, width), s), s)
        for p in ("one", "three")
        for length, width in ((128, 64), (1024, 128), (4096, 64))
        for s in (schedule(a, b, warps=w, stages=n, width=width) for a, b, w in tiles for n in (2, 3))
    ]


def times(works: list[Work], truth: Calibration, machine: Machine = H200) -> np.ndarray[Any, np.dtype[Any]]:
    return terms(works, machine).seconds(truth)


def test_a_fit_explains_times_made_from_known_parameters(works: list[Work]) -> None:
    fitted = fit(list(zip(works, times(works, TRUTH), strict=True)), H200)
    wrong = np.log(times(works, fitted) / times(works, TRUTH))
    assert np.abs(wrong).max() < 0.03
    assert fitted.launch_seconds == pytest.approx(TRUTH.launch_seconds, rel=0.2)
    assert fitted.step_seconds == pytest.approx(TRUTH.step_seconds, rel=0.3)
    assert fitted.tensor_efficiency == pytest.approx(TRUTH.tensor_efficiency, rel=0.2)
    assert fitted.error < Calibration.of(H200).error


def test_a_fit_predicts_what_it_has_not_seen(works: list[Work]) -> None:
    seen, judged = works[::2], works[1::2]
    samples = list(zip(seen, times(seen, TRUTH), strict=True))
    before, after = Calibration.of(H200), fit(samples, H200)

    def error(c: Calibration) -> float:
        return float(np.abs(np.log(times(judged, c) / times(judged, TRUTH))).mean())

    assert error(after) < error(before) / 4
    assert error(after) < 0.05


def test_an_outlier_does_not_drag_the_fit_along(works: list[Work]) -> None:
    spoiled = times(works, TRUTH)
    spoiled[3] *= 8
    fitted = fit(list(zip(works, spoiled, strict=True)), H200)
    clean = np.delete(np.arange(len(works)), 3)
    wrong = np.log(times(works, fitted) / times(works, TRUTH))[clean]
    assert np.abs(wrong).mean() < 0.03


def test_few_samples_move_little_and_none_nothing(works: list[Work]) -> None:
    start = Calibration.of(H200)
    assert fit([], H200) == start
    one = fit([(works[7], float(times(works, start)[7]))], H200)
    for p in PARAMETERS:
        assert getattr(one, p.name) == pytest.approx(getattr(start, p.name), rel=0.01)
    assert one.error > start.error / 2


def test_only_free_parameters_move(works: list[Work]) -> None:
    fitted = fit(list(zip(works, times(works, TRUTH), strict=True)), H200, free=["launch_seconds"])
    start = Calibration.of(H200)
    assert replace(fitted, launch_seconds=start.launch_seconds, error=start.error) == start


def test_fitted_parameters_stay_in_bounds(works: list[Work]) -> None:
    fitted = fit([(w, 1.0) for w in works], H200)  # impossibly slow, all alike
    for p in PARAMETERS:
        assert p.low <= getattr(fitted, p.name) <= p.high


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan"), float("inf")])
def test_times_must_be_positive(works: list[Work], seconds: float) -> None:
    with pytest.raises(ValueError, match="times must be positive and finite"):
        fit([(works[0], seconds)], H200)


@pytest.mark.parametrize("name", machine_names())
def test_every_machine_has_starting_values_that_survive_json(name: str) -> None:
    c = Calibration.of(load_machine(name))
    assert Calibration.from_json(json.loads(json.dumps(c.to_json()))) == c


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"colour": 1.0}, "fields are numbers named"),
        ({"overlap": "much"}, "overlap='much'"),
        ({"overlap": 1.5}, r"overlap must be in \[0.005, 0.98\], but got 1.5"),
        ({"overlap": float("nan")}, "overlap must be in"),
        ({"error": -1.0}, "error must be at least 0"),
    ],
)
def test_calibrations_are_checked(data: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Calibration.from_json(data)
