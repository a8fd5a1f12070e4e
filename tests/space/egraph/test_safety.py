"""What may be computed in floating point, on graphs of a few nodes."""

from __future__ import annotations

import pytest

from eintune.space.cascade.cascade import Cascade
from eintune.space.egraph.graph import EGraph
from eintune.space.egraph.safety import ValueBounds, unsafe


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


def test_weights_around_a_mean_are_of_one_sign() -> None:
    fold = "Zp = fold_comoment[m](Xp,m, Yp,m, {})"
    assert reasons(fold.format("Am")) == ["weights that may be negative, whose running sum can be 0"]
    for weight in ("1", "Am * Am", "sigmoid(Am)", "max(Am, 0)", "e^(min(Am, 0)) / 3"):
        assert reasons(fold.format(weight)) == []


def test_a_mean_of_weights_that_are_all_0_is_no_division_by_0() -> None:
    assert reasons("Yp = Xp / Zp\nVp = sum[m](max(Am, 0) * Bp,m) / sum[m](max(Am, 0))\nresults: V, Y") == []


def test_the_definitions_own_divisions_stay() -> None:
    assert reasons("Yp = Xp / Zp") == []


RAW = "MUp = Xp,m / |m|\nMSp = Xp,m * Xp,m / |m|\n"


@pytest.mark.parametrize(
    "difference",
    [
        "MSp - MUp * MUp",
        "sqrt(MSp - MUp * MUp + 0.1)",
        "(MSp + 0.1) - MUp * MUp",
        "MSp * |m| - MUp * MUp * |m|",
        "sum[m](Xp,m * Xp,m) - sum[m](Xp,m) * sum[m](Xp,m) / |m|",
        "sum[m](Xp,m * Xp,m / |m|) - MUp * MUp",
    ],
)
def test_a_definitions_own_raw_moments_cancel(difference: str) -> None:
    assert reasons(f"{RAW}Yp = {difference}") == ["a difference that cancels"]


@pytest.mark.parametrize(
    "text",
    [
        "MUp = Xp,m / |m|\nCp,m = Xp,m - MUp\nYp = Cp,m * Cp,m / |m|",
        f"{RAW}Yp = MSp - MUp",
        f"{RAW}Yp = MSp - Zp * Zp",
        "Sp = Xp,m * Xp,m\nTp = Zp,m\nYp = Sp - Tp * Tp",
        "Yp = 1 - sigmoid(Xp)",
    ],
)
def test_other_differences_are_none_of_raw_moments(text: str) -> None:
    assert reasons(text) == []


def test_bounds_of_sums_relative_to_a_maximum() -> None:
    text = "Gp = Xp,m :: \\/m max\nNp,m = e^(Xp,m - Gp)\nDp = Np,m"
    (root,) = Cascade.parse(text).roots().values()
    graph = EGraph.of([root])
    low, _ = ValueBounds(graph).of[graph.roots[0]]
    assert low == 1.0  # the maximum itself contributes 1
    (mean,) = Cascade.parse("Dp = Xp,m * Xp,m").roots().values()
    graph = EGraph.of([mean])
    assert ValueBounds(graph).of[graph.roots[0]][0] == 0.0
