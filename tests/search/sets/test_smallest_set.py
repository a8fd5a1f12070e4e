"""The fewest kernels that serve all points, against every subset."""

from __future__ import annotations

import random
from itertools import combinations

import pytest

from eintune.search.sets.smallest_set import smallest_set


def serves(chosen: tuple[str, ...] | list[str], times: list[dict[str, float]], slack: float) -> bool:
    return all(min((at[k] for k in chosen if k in at), default=9e9) <= (1 + slack) * min(at.values()) for at in times)


@pytest.mark.parametrize("seed", range(30))
def test_no_smaller_set_serves_every_point(seed: int) -> None:
    draw = random.Random(seed)
    names = "abcdef"[: draw.randint(1, 6)]
    times = [
        {k: draw.choice([1.0, 1.02, 1.04, 1.5]) * (1 + i) for k in names if draw.random() < 0.8} or {names[0]: 1.0}
        for i in range(draw.randint(1, 8))
    ]
    found = smallest_set(times, 0.03)
    assert serves(found, times, 0.03)
    least = next(n for n in range(1, len(names) + 1) if any(serves(c, times, 0.03) for c in combinations(names, n)))
    assert len(found) == least


def test_of_as_few_kernels_the_nearest_to_the_best() -> None:
    assert smallest_set([{"a": 1.0, "b": 1.02}, {"a": 1.02, "b": 1.0}, {"a": 1.0, "b": 1.02}]) == ["a"]
    assert smallest_set([{"a": 1.0, "b": 2.0}, {"a": 2.0, "b": 1.0}]) == ["a", "b"]


def test_a_point_at_which_nothing_was_measured_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one kernel"):
        smallest_set([{"a": 1.0}, {}])
