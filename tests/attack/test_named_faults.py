"""Faults that drawn programs found, each with its right value in all ways."""

from __future__ import annotations

import itertools
import math
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from drawn_cascades import Case
from four_ways import KEEP, LIMITS, forked_saturation, verdict

import eintune
from eintune.kernels.generate.emitters import emit
from eintune.kernels.launch.load import load
from eintune.kernels.reference.eager import run_eager
from eintune.space.cascade.canonical import spelled
from eintune.space.cascade.cascade import Cascade
from eintune.space.cascade.problem import Problem
from eintune.space.cascade.run import infer_sizes, run_cascade
from eintune.space.cascade.traits import Stream
from eintune.space.derivation.derive import derive
from eintune.space.derivation.extraction import _passes
from eintune.space.egraph.graph import EGraph, Limits
from eintune.space.ir.einsum import CascadeError
from eintune.space.ir.evaluate import _Evaluation
from eintune.space.ir.expr import Const
from eintune.space.ir.pointwise import Array
from eintune.space.ir.products import factors
from eintune.space.lowering.lower import build_program
from eintune.space.plan.roles import IllegalPlan, Role
from eintune.space.schedule.schedule import Schedule
from eintune.space.schedule.space import schedules

A = np.array([0.5, -1.0, 2.0, 0.25])
B = np.array([1.0, 3.0, -2.0])
M = np.arange(12.0).reshape(3, 4) / 8
V = np.array([[1.0, 0.0, 2.0, -1.0], [0.5, 0.5, 0.0, 1.0], [-1.0, 1.0, 1.0, 3.0]])


def spread(x: Array, y: Array | float) -> Array:
    return np.asarray(np.sum(y * (x - x.mean(-1, keepdims=True)) ** 2, -1))


def apart(x: Array, y: Array) -> Array:
    w = np.exp(x - x.max(-1, keepdims=True))
    w /= w.sum(-1, keepdims=True)
    x, y = (a - (w * a).sum(-1, keepdims=True) for a in (x, y))
    return np.asarray((w * x * y).sum(-1))


PROGRAMS: dict[str, tuple[str, dict[str, Array], dict[str, int], Array]] = {
    "a fold whose reference lacks the rank counts each": ("Za = fold_scale[b](Aa, Aa)", {"A": A}, {"b": 5}, 5 * A),
    "a fold over a rank of nobody, of a number": ("Za = Aa * fold_scale[b](2.0, 3.0)", {"A": A}, {"b": 5}, 15 * A),
    "a rank-free condition": ("Zm = select(|m| > 2, Am, 0.1)", {"A": A}, {}, A),
    "a rank-free condition that fails": ("Zm = select(|m| > 4, Am, 0.1)", {"A": A}, {}, np.full(4, 0.1)),
    "numbers on both sides": ("Zm = select(Am > 0, 0.1, 0.3)", {"A": A}, {}, np.where(A > 0, 0.1, 0.3)),
    "a filter on numbers": ("Zm = where(m >= 2, 0.1, 0.3) * Am", {"A": A}, {}, np.array([0.3, 0.3, 0.1, 0.1]) * A),
    "a boolean times a number": ("Zm = (Am > 0) * 0.1", {"A": A}, {}, (A > 0) * 0.1),
    "booleans add up": ("Zm = (Am > 0) + (Am > 1) - (Am < 0)", {"A": A}, {}, np.array([1.0, -1, 2, 1])),
    "the exponential of a boolean": ("Zm = e^(Am > 0)", {"A": A}, {}, np.exp((A > 0).astype(np.float64))),
    "a number as a condition": ("Zm = select(floor(Am), Am, 0.1)", {"A": A}, {}, np.array([0.1, -1, 2, 0.1])),
    "a rank that only a filter has": ("Zm = where(b >= 1, Am, 0.0)", {"A": A}, {"b": 3}, 2 * A),
    "a size that only a filter has": ("Zm = where(m < |b|, Am, 0.0)", {"A": A}, {"b": 3}, np.array([0.5, -1, 2, 0])),
    "equal operands on three lines": ("TAa = Aa + Aa\nTBa = TAa + TAa\nTCa = TBa + TBa", {"A": A}, {}, 8 * A),
    "a parameter that no result needs": ("Ya = Aa * eps\nZa = Aa\nresults: Z", {"A": A}, {}, A),
    "an intermediate under another rank": ("Tm = Am * 2\nZp = T[p]", {"A": A}, {}, 2 * A),
    "a number below 1e-20": ("Zm = Am * 1.23456789e-25", {"A": A}, {}, A * 1.23456789e-25),
    "tiles of an index": (
        "Za = Aa * sum[m3](sum[m2](split[m -> m3,m2](index(m))))", {"A": A}, {"m": 6, "m3": 2, "m2": 3}, 15 * A,
    ),
    "tiles summed before what is in them": (
        "Zp = sum[m3](sum[m2](split[m -> m2,m3](tanh(Mp,m))))", {"M": M}, {"m2": 2, "m3": 2}, np.tanh(M).sum(1),
    ),
    "an element of a table at a constant": (
        "input Tv,w\ninput Ip : int\nZp = T[min(max(p+2,0),0),I[p]]",
        {"T": M, "I": np.array([3, 0, 1])}, {}, M[0, [3, 0, 1]],
    ),
    "a computed number beside one that is looked up": (
        "input Tv,w\ninput Ip : int\nZp = T[min(p+1,2),I[p]+1 else 0]",
        {"T": M, "I": np.array([3, 0, -1])}, {}, np.array([0.0, M[2, 1], M[2, 0]]),
    ),
    "spread weighed by what varies": ("Zp = fold_translate[m](Mp,m, Vp,m)", {"M": M, "V": V}, {}, spread(M, V)),
    "spread weighed by what does not": ("Zp = fold_translate[m](Mp,m, Bp)", {"M": M, "B": B}, {}, B * spread(M, 1.0)),
    "distances that nothing weighs": ("Z = fold_comoment[m](Am, Am, 0)", {"A": A}, {}, np.array(0.0)),
    "distances weighed by a number of 0": (
        "Z = fold_softcomoment[m](Am, Am, Am, scale)", {"A": A}, {}, np.array(0.0),
    ),
    "nothing by nothing, of a factor": ("Zm = Am * scale / (Am - Am)", {"A": A}, {}, np.zeros(4)),
    "nothing by nothing, of sums": ("Zp = sum[m](Mp,m * 0) / sum[m](Mp,m * 0)", {"M": M}, {}, np.zeros(3)),
    "distances within a softmax of several": (
        "TAp = sum[m](e^(Mp,m - max[m](Mp,m)))\nZp = fold_comoment[m](Mp,m, Vp,m, e^(Mp,m - max[m](Mp,m))) / TAp",
        {"M": M, "V": V}, {}, apart(M, V),
    ),
    "spread of what does not vary": ("Zp = fold_translate[m](Bp, Vp,m)", {"B": B, "V": V}, {}, np.zeros(3)),
}  # fmt: skip


@pytest.mark.parametrize("name", PROGRAMS)
def test_every_way_gives_the_right_value(name: str, tmp_path: Path) -> None:
    text, data, given, want = PROGRAMS[name]
    cascade = Cascade.parse(text)
    sizes = infer_sizes(cascade, {n: a.shape for n, a in data.items()}, given)
    params = {n: value for n, value in {"eps": 0.5, "scale": 0.0}.items() if n in text.replace("fold_scale", "")}
    (exact,) = run_cascade(cascade, data, given, params).values()
    np.testing.assert_allclose(exact, want, rtol=1e-14, atol=1e-300)
    with forked_saturation():
        found = verdict(Case(0, cascade, sizes, data, params), tmp_path)
    assert found.kind == "agreed" and not found.says, found


def test_a_size_that_an_input_contradicts_is_refused() -> None:
    run = eintune.compile("Zm = Am * 2", sizes={"m": 30})
    with pytest.raises(ValueError, match="rank m must have one size, but A gives 4 and `sizes` gives 30"):
        run(torch.zeros(4))
    nested = eintune.compile("Zp = sum[m1](sum[m0](split[m -> m1,m0](Ap,m)))", sizes={"m1": 2, "m0": 2})
    with pytest.raises(ValueError, match=r"\|m\| must be \|m1\| \* \|m0\|, but 6 is not 2 \* 2"):
        nested(torch.zeros(3, 6))


def test_an_output_over_tiles_is_no_kernels() -> None:
    """Views that were joined again left a kernel that took `m` for the output's own ranks."""
    cascade = Cascade.parse("Zb,a = tanh(split[m -> b,a](Am))")
    problem = Problem("tiles", str(cascade), {"m": 4, "a": 2, "b": 2}, {"A": "fp32", "Z": "fp32"})
    with pytest.raises(IllegalPlan, match=r"an output is over whole ranks, but Z is over the halves \['b', 'a'\]"):
        schedules(cascade, problem, "torch")


def test_lanes_that_outlive_a_tile_need_full_tiles() -> None:
    """The last tile has fewer lanes: what is kept for each would add what lies beyond."""
    cascade = Cascade.parse("Zp = sum[a](sum[b](split[m -> b,a](cos(Ap,m))))")
    exact = {}
    for tile in (4, 8):
        problem = Problem("lanes", str(cascade), {"p": 3, "m": 12}, {"A": "fp64", "Z": "fp64"})
        schedule = Schedule("torch", (("p", Role("grid", 2)), ("m", Role("loop", tile))))
        try:
            kernel = emit(build_program(cascade, problem, schedule), schedule)
        except IllegalPlan as error:
            exact[tile] = str(error)
            continue
        a, made = torch.randn(3, 12, dtype=torch.float64), torch.empty(3, dtype=torch.float64)
        load(kernel)([a, made])
        torch.testing.assert_close(made, torch.cos(a).sum(1))
        exact[tile] = "right"
    says = "what is kept for each lane of a tile of m needs tiles that are full, but |m| = 12 is no multiple of 8"
    assert exact == {4: "right", 8: says}


def test_a_definition_over_tiles_is_derived_though_no_form_is_the_better_for_it() -> None:
    text = """
    Mm = max[p](Ap,m)
    Wm,p = e^(Ap,m - Mm)
    Vp0,m,p1 = split[p -> p1,p0](Wm,p)
    results: V
    """
    derive(Cascade.parse(text), limits=Limits(steps=5, rows=700, arranged=300))


def test_a_form_goes_over_no_tiles_that_no_view_names() -> None:
    """A filter that is all that varies with a rank was divided into tiles of any size."""
    text = "Am = where(m <= 4, Be, 1.0) :: \\/e +\nZ = fold_scale[m](Am, Am) / fold_scale[m](Am, 1)"
    cascade = Cascade.parse(text)
    found = derive(cascade).cascades
    tiled = [d for d in found if not set(d.cascade.ranks()) <= {"m", "e"}]
    assert len(tiled) < len(found) and all("split[m -> m1,m0]" in str(d.cascade) for d in tiled)


def test_a_form_is_decoded_however_often_a_class_is_an_operand() -> None:
    lines = ["TAa = Aa + Aa"] + [f"T{chr(66 + i)}a = T{chr(65 + i)}a + T{chr(65 + i)}a" for i in range(9)]
    assert derive(Cascade.parse("\n".join(lines))).cascades


LAYOUTS = """
input Cn100,n110
input Bp : int
TAAe,m = sum[b](sum[p](Am,b * index(e) * C[m+3,B[p]+0 else 0])) / |p|
TABf,b = sum[m](sum[e](Df,b,e * TAAe,m * TAAe,m)) / |e|
TACm,e,b = Am,b - TAAe,m
TADb,m = e^(TACm,e,b * 2 - max[e](TACm,e,b * 2))
TAEb,m = sum[e](e^(TACm,e,b * 2 - max[e](TACm,e,b * 2)) * TADb,m) / TADb,m
"""


def test_what_forms_can_have_in_common_is_looked_for_in_a_bounded_time() -> None:
    """Its classes are operands of each other, with few layouts each: they were put together for hours."""
    begun = time.process_time()
    with forked_saturation():
        assert derive(Cascade.parse(LAYOUTS), limits=LIMITS, keep=KEEP).cascades
    assert time.process_time() - begun < 10


def test_the_passes_of_a_long_chain_are_counted() -> None:
    """By recursion once, which ended where a form was some hundred passes long."""
    names = ["A", *(f"T{chr(65 + i // 26)}{chr(65 + i % 26)}" for i in range(300))]
    lines = [f"{b}m = e^({a}m - max[m]({a}m))" for a, b in itertools.pairwise(names)]
    graph = EGraph.of(list(Cascade.parse("\n".join(lines)).roots().values()))
    choice = {c: nodes[0] for c, nodes in graph.classes.items()}
    assert _passes(choice, graph, Stream("m")) == 301  # and one over the last one's elements


def test_an_evaluation_that_is_too_large_is_refused_before_it_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Arrays below the limit one by one took 2 GiB together, before the first one above it was met."""
    cascade = Cascade.parse("Z = " + " * ".join(f"A{chr(97 + i)}" for i in range(26)))
    monkeypatch.setattr(_Evaluation, "evaluated", lambda *_: pytest.fail("it was begun"))
    with pytest.raises(ValueError, match="an evaluation holds at most 134217728 elements, but with one over a, b, c"):
        run_cascade(cascade, {"A": np.ones(2)})
    with pytest.raises(ValueError, match="an evaluation holds at most"):
        derive(cascade)


@pytest.mark.parametrize("factor", ["max(Am, 1)", "Am * scale * 3", "e^(Am)"])
def test_a_long_product_is_put_in_order_once(factor: str) -> None:
    """Not at each of its factors: 1,000 took 24 s to derive."""
    cascade = Cascade.parse("Zm = " + " * ".join([factor] * (999 // (1 + factor.count("*")))))
    begun = time.process_time()
    (form,) = spelled(list(cascade.roots().values()))
    assert time.process_time() - begun < 1 and spelled([form]) == [form]
    assert len(factors(form)) >= 666 and sum(isinstance(f, Const) for f in factors(form)) == ("3" in factor)


def test_an_error_shows_little_of_what_is_long() -> None:
    with pytest.raises(CascadeError, match=r"at most 18 digits, but got '1000.*\.\.\.'$") as error:
        Cascade.parse(f"Zm = where(m >= 1{'0' * 5000}, Am, 0)")
    assert len(str(error.value)) < 200


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("Zp = sum[m](Ap,m)", 0.0),
        ("Zp = prod[m](Ap,m)", 1.0),
        ("Zp = max[m](Ap,m)", -math.inf),
        ("Zp = min[m](Ap,m)", math.inf),
        ("Zp = fold_scale[m](Ap,m, Ap,m)", 0.0),
        ("Zp = fold_translate[m](Ap,m, 1)", 0.0),
        ("Zp = sum[m](Bp) + max[m](Bp) + 0 * sum[m](Ap,m)", -math.inf),
    ],
)
def test_a_reduction_of_nothing_is_its_identity(text: str, want: float) -> None:
    cascade, data = Cascade.parse(text), {"A": np.zeros((3, 0)), "B": B}
    data = {n: data[n] for n in cascade.inputs}
    (exact,) = run_cascade(cascade, data).values()
    tensors = {n: torch.as_tensor(a) for n, a in data.items()}
    (made,) = run_eager(cascade, tensors, {"p": 3, "m": 0}, {}, torch.float64).values()
    assert exact.tolist() == made.tolist() == [want] * 3


def test_what_a_jump_depends_on_is_rounded_alike() -> None:
    """A mean of squares less the square of the mean, over a rank that nothing varies with, compared with 0."""
    cascade = Cascade.parse("Zp = (sum[m](Ap * Ap) / |m| - sum[m](Ap) / |m| * (sum[m](Ap) / |m|)) >= 0")
    a = np.random.default_rng(0).normal(size=1000)
    (exact,) = run_cascade(cascade, {"A": a}, {"m": 12}).values()
    sizes = {"p": 1000, "m": 12}
    (made,) = run_eager(cascade, {"A": torch.as_tensor(a)}, sizes, {}, torch.float64).values()
    assert exact.tolist() == made.bool().tolist()


def test_a_fallback_rounds_nothing_to_single_precision() -> None:
    cascade = Cascade.parse("Z = max(select(S > 0, 0.1, 0.2), (S > 0) * 0.1)")
    made = run_eager(cascade, {"S": torch.tensor(1.0, dtype=torch.float64)}, {}, {}, torch.float64)
    assert made["Z"].item() == 0.1
    half = run_eager(cascade, {"S": torch.tensor(1.0)}, {}, {}, torch.bfloat16)
    assert half["Z"].dtype == torch.bfloat16 and math.isclose(half["Z"].item(), 0.1, rel_tol=2.0**-8)
