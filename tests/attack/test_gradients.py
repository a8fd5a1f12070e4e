"""Gradients of drawn programs: what finite differences say, in one cascade and in stages."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from drawn_cascades import draw
from gradient_calls import fault
from gradient_ways import gradient_verdict

BATCH = 50
KINDS = ("agreed", "bent", "none", "refused", "undefined")


def check(seeds: range) -> Counter[str]:
    found = {seed: gradient_verdict(draw(seed)) for seed in seeds}
    assert not {seed: kind for seed, kind in found.items() if kind not in KINDS}
    return Counter(found.values())


@pytest.mark.parametrize("batch", range(4))
def test_gradients_of_drawn_programs_are_what_differences_say(batch: int) -> None:
    found = check(range(BATCH * batch, BATCH * (batch + 1)))
    assert found["agreed"] >= 0.85 * BATCH


@pytest.mark.parametrize("seed", [391, 634, 2015])
def test_places_of_maxima_are_found_beside_them(seed: int) -> None:
    """What was written by another kernel may be rounded in another way."""
    check(range(seed, seed + 1))


@pytest.mark.soak
@pytest.mark.parametrize("batch", range(4, 40))
def test_gradients_of_all_drawn_programs_are_what_differences_say(batch: int) -> None:
    check(range(BATCH * batch, BATCH * (batch + 1)))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EINTUNE_CACHE", str(tmp_path))


@pytest.mark.parametrize("seed", [*range(8), 17, 79])
def test_gradients_of_drawn_calls_are_those_of_the_definition(seed: int, cache: None) -> None:
    assert not fault(seed)


@pytest.mark.soak
@pytest.mark.parametrize("batch", range(40))
def test_gradients_of_all_drawn_calls_are_those_of_the_definition(batch: int, cache: None) -> None:
    assert not {seed: says for seed in range(10 * batch, 10 * batch + 10) if (says := fault(seed))}
