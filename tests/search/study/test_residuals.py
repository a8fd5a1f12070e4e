"""What was measured moves predictions of neighbours, and of nothing far away."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import pytest

from eintune.search.study.residuals import corrected, difference


@dataclass(frozen=True)
class MadeUp:
    key: str
    group: str
    shape: str
    knobs: dict[str, str]


POINTS = [
    MadeUp(f"{kind}-{tile}-{warps}", kind, f"{tile}-{warps}", {"kind": kind, "tile": tile, "warps": warps})
    for kind, tile, warps in product(("one", "two", "three"), ("16", "32", "64"), ("4", "8"))
]
BY_KEY = {p.key: p for p in POINTS}


def predict(p: MadeUp) -> float:
    return int(p.knobs["tile"]) * 1e-5


def test_with_no_sample_nothing_moves() -> None:
    assert corrected(predict, []) is predict


def test_a_neighbour_moves_most_of_the_way_and_a_stranger_stays() -> None:
    seen = BY_KEY["one-64-4"]
    moved = corrected(predict, [(seen, 2 * predict(seen))])
    near, far = BY_KEY["one-64-8"], BY_KEY["three-16-8"]
    assert 1.2 < moved(near) / predict(near) < moved(seen) / predict(seen) < 2
    assert moved(far) / predict(far) == pytest.approx(1.0, abs=0.1)


def test_many_samples_teach_a_constant_factor() -> None:
    moved = corrected(predict, [(p, 2.5 * predict(p)) for p in POINTS])
    assert all(moved(p) == pytest.approx(2.5 * predict(p), rel=0.25) for p in POINTS)


def test_knobs_that_one_point_lacks_count_as_different() -> None:
    assert difference({"a": "1", "b": "2"}, {"a": "1", "c": "3"}) == 2
