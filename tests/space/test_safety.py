"""What may be computed in floating point, on graphs of a few nodes."""

from __future__ import annotations

import pytest

from eintune.space.cascade import Cascade
from eintune.space.egraph import EGraph
from eintune.space.safety import Bounds, unsafe


def reasons(text: str) -> list[str]:
    return [u.reason for u in unsafe(EGraph.of(list(Cascade.parse(text).roots().values())))]


@pytest.mark.parametrize(
    "text",
    [
        "Gp = Xp,m :: \\/m max\nYp,m = e^(Xp,m - Gp)",
        "Gp = Xp,m :: \\/m max\nHn = Gp :: \\/p max\nYp,m = e^(Gp - Hn) * Xp,m".replace("Hn", "H"),
        "Yp,m = e^(30 * tanh(Xp,m))",
        "Yp,m = e^(-(Xp,m * Xp,m))",
        "Yp,m = e^(min(Xp,m, 5))",
        "Yp,m = sigmoid(Xp,m) / (1 + e^(-abs(Xp,m)))",
    ],
)
def test_bounded_exponents_are_safe(text: str) -> None:
    assert reasons(text) == []


@pytest.mark.parametrize(
    "text",
    ["Yp,m = e^(Xp,m)", "Gp = Xp,m :: \\/m max\nYp,m = e^(Gp - Xp,m)", "Yp,m = e^(100 * tanh(Xp,m))"],
)
def test_unbounded_exponents_are_not(text: str) -> None:
    assert reasons(text) == ["the exponent is not bounded above"]


def test_the_definitions_own_divisions_stay() -> None:
    assert reasons("Yp = Xp / Zp") == []


def test_bounds_of_sums_relative_to_a_maximum() -> None:
    text = "Gp = Xp,m :: \\/m max\nNp,m = e^(Xp,m - Gp)\nDp = Np,m"
    (root,) = Cascade.parse(text).roots().values()
    graph = EGraph.of([root])
    low, _ = Bounds(graph).of[graph.roots[0]]
    assert low == 1.0  # the maximum itself contributes 1
    (mean,) = Cascade.parse("Dp = Xp,m * Xp,m").roots().values()
    graph = EGraph.of([mean])
    assert Bounds(graph).of[graph.roots[0]][0] == 0.0
