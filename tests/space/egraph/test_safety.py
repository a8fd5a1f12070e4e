"""What may be computed in floating point, on graphs of a few nodes."""

from __future__ import annotations

import numpy as np
import pytest

from eintune.space.cascade.cascade import Cascade
from eintune.space.cascade.run import run_cascade
from eintune.space.derivation.derive import derive
from eintune.space.egraph.graph import HOLE, EGraph, saturate
from eintune.space.egraph.safety import ValueBounds, unsafe
from eintune.space.egraph.zero_rows import ZeroRows
from eintune.space.laws.laws import laws


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


GUARDED = {
    "weights that are all 0": "Wp,m = max(Ap,m, 0)\nYp,m = Wp,m * Cp / sum[m](Wp,m)",
    "a row of zeros, normalised": "Yp,m = Ap,m * Cp / sqrt(sum[m](Ap,m * Ap,m))",
    "a mask": "input Bp,m : bool\nYp,m = Bp,m * Cp / sum[m](Bp,m * 1)",
    "a filter of 0": "Wp,m = where(m <= p - 2, 1, 0)\nYp,m = Wp,m * Cp / sum[m](Wp,m)",
    "a filter of weights of either sign": "Wp,m = where(m <= p - 2, Ap,m, 0)\nYp,m = Wp,m * Cp / sum[m](Wp,m)",
    "a tile of zeros": "Wp,m1,m0 = split[m -> m1,m0](max(Ap,m, 0))\nYp,m1,m0 = Wp,m1,m0 * Cp / sum[m0](Wp,m1,m0)",
}
"""Quotients that are 0 / 0 = 0 in an empty row, of which another spelling is `w * (c / 0)`."""


@pytest.mark.parametrize("name", GUARDED)
def test_every_form_is_0_in_an_empty_row(name: str) -> None:
    definition = Cascade.parse(GUARDED[name])
    found = derive(definition)
    assert not found.failed
    rng, sizes = np.random.default_rng(0), {"p": 4, "m": 6, "m1": 2, "m0": 3}
    data = {n: rng.normal(size=[sizes[r] for r in t.ranks]) for n, t in definition.inputs.items()}
    data |= {n: data[n] > 0 for n, t in definition.inputs.items() if t.kind == "bool"}
    for n in data.keys() & {"A", "B"}:
        data[n][1] = 0

    def run(cascade: Cascade) -> np.ndarray:
        read = {r for t in cascade.inputs.values() for r in t.ranks}
        return run_cascade(cascade, data, {r: sizes[r] for r in cascade.ranks() if r not in read})["Y"]

    wanted = run(definition)
    assert not wanted[1].any() and wanted[3].any()
    for d in found.cascades:
        np.testing.assert_allclose(run(d.cascade), wanted, rtol=1e-12)


def test_a_quotient_that_the_definition_leaves_undefined_moves_freely() -> None:
    roots = list(Cascade.parse("Dp = sum[m](max(Ap,m, 0))\nYp,f = Bp,f * (Cp / Dp)").roots().values())
    graph = saturate(roots, laws())
    divided = {n.children[0] for c, n in graph.nodes() if n.head == HOLE / HOLE}
    assert len(divided) > 1 and not list(unsafe(graph))


def test_what_is_0_where_one_tile_is_empty_is_not_0_in_the_others() -> None:
    roots = Cascade.parse(
        "Wp,m1,m0 = split[m -> m1,m0](max(Ap,m, 0))\nDp,m1 = sum[m0](Wp,m1,m0)\nEp,m0 = sum[m1](Wp,m1,m0)\n"
        "Fp = sum[m1](Dp,m1)\nresults: W, D, E, F"
    ).roots()
    graph = EGraph.of(list(roots.values()))
    bounds = ValueBounds(graph)
    rows = ZeroRows(graph, lambda c: bounds.of[c][0], bounds.at_least)
    w, d, e, f = graph.roots
    assert rows.with_divisor(d) >= {w, d}
    assert not rows.with_divisor(d) & {e, f}
    assert rows.with_divisor(f) >= {w, d, e, f}  # all tiles are empty
