"""What of a score stays in the tile: which operations an element has, where the rest stands, and that it is right."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from plan_cases import SCORE, V, cascade, exp, f, keep, one, t, three, top
from plan_checks import TORCH, data_for, meaning, problem_of, relative_error, run_kernel
from plan_interpreter import run_plan

from eintune.costmodel.counts.work import work
from eintune.kernels.generate.emitters import emit
from eintune.kernels.reference.eager import run_eager
from eintune.search.measure.error_budget import budget, error
from eintune.space.ir.expr import NEG_INF, Const, Expr, Fold, Iota
from eintune.space.lowering.lower import build_plan
from eintune.space.plan.plan import LoopPlan
from eintune.space.plan.roles import Role
from eintune.space.plan.values import TileReduce, Value
from eintune.space.schedule.schedule import Schedule

SIZES = {"b": 1, "h": 2, "p": 37, "m": 45, "e": 16, "f": 16}
S = SCORE * 0.3
M, P = Iota("m"), Iota("p")
SLOPE = t("W", "h")
TRIANGLE = {"m": -1, "p": 1}
PLAIN = ["mul", "sub", "exp2"]
"""Of an element: one multiply-add, with a number of the row, and the exponential."""


def scheduled(emitter: str = "triton", tile: int = 16, filters: str = "segments") -> Schedule:
    roles = {"b": Role("grid", None), "h": Role("grid", None), "p": Role("grid", 16), "m": Role("loop", tile)}
    return Schedule(emitter, tuple((roles | {r: Role(None, 16) for r in "ef"}).items()), filters=filters)


def plan_of(score: Expr, sizes: dict[str, int], schedule: Schedule, dtype: str = "bf16") -> LoopPlan:
    c = cascade({"O": (one(score, V), "bhpf")})
    return build_plan(c, problem_of(c, sizes, dtype, {}), schedule)


def elementwise(plan: LoopPlan) -> list[str]:
    """The operations on whole tiles of scores in the loop, filters and conversions apart."""
    (loop,) = plan.loops()
    values = [v for v in loop.body.items if isinstance(v, Value)]
    return [v.op for v in values if v.axes == ("p", "m") and v.op not in ("dot", "where", "select", "cast", "load")]


FORMS: dict[str, tuple[Expr, list[str]]] = {
    "scaled": (S, PLAIN),
    # inputs may be -inf, or as large as their dtype allows: they stay where they are
    "plus a number of the row": (S + t("B", "bp"), ["scale", "add", *PLAIN]),
    "plus a number of the head": (S - SLOPE, ["scale", "sub", *PLAIN]),
    "a row between": ((S + t("B", "p")) + t("C", "m"), ["scale", "add", "add", *PLAIN]),
    "plus a computed number of the row": (S + f("tanh", t("B", "bp")), PLAIN),
    "plus a number of the column": (S + t("C", "bm"), ["scale", "add", *PLAIN]),
    "distance": (S + (M - P) * SLOPE, ["scale", "add", *PLAIN]),
    "distance, filtered": (keep(S + (M - P) * SLOPE, **TRIANGLE), ["scale", "add", *PLAIN]),
    "distance the other way": (S - SLOPE * ((P - M) * 0.5), ["scale", "sub", *PLAIN]),
    "distance of rows with their own slopes": (S + (M - P) * t("B", "p"), ["sub", "mul", "add", *PLAIN]),
    "index": (S + M * 0.01, ["scale", "add", *PLAIN]),
    "computed slopes": (S + (M - P) * f("exp2", (Iota("h") + 1.0) * -4.0), ["scale", "add", *PLAIN]),
    "selected": (f("select", t("MASK", "bm", "bool"), S + (M - P) * SLOPE, NEG_INF), ["scale", "add", *PLAIN]),
    "scaled after": ((SCORE + (M - P) * SLOPE) * 0.3, ["add", *PLAIN]),
    "negative scale": ((SCORE + f("tanh", t("B", "p"))) * -0.3, ["neg", *PLAIN]),
    # one product too many for the addition: the number is taken out, and the slope is divided by it
    "absolute distance": (S + f("abs", M - P) * SLOPE, ["sub", "abs", "mul", "add", *PLAIN]),
    # (of two products that are added one is rounded for itself, by the multiply-add of 0 that it becomes)
    "scaled bias": (S + t("B", "pm") * 0.5, ["scale", "scale", "rounded", "add", *PLAIN]),
    # two inputs whose difference may be small while they are large
    "difference of inputs": (
        S + (t("C", "m") - t("B", "p")) * 0.5,
        ["scale", "sub", "scale", "rounded", "add", *PLAIN],
    ),
    "tiny scale": (SCORE * 1e-30 + f("abs", M - P) * SLOPE, ["scale", "sub", "abs", "mul", "rounded", "add", *PLAIN]),
}


@pytest.mark.parametrize("name", FORMS)
def test_operations_of_an_element(name: str) -> None:
    score, expected = FORMS[name]
    assert elementwise(plan_of(score, SIZES, scheduled())) == expected


@pytest.mark.parametrize("filters", ["segments", "branch"])
@pytest.mark.parametrize("name", FORMS)
def test_the_plan_means_what_it_is_made_from(name: str, filters: str) -> None:
    score, _ = FORMS[name]
    definition = cascade({"O": (three(score, V), "bhpf")})
    data = data_for(definition, SIZES)
    made = run_plan(plan_of(score, SIZES, scheduled(filters=filters)), data)["O"]
    assert relative_error(made, meaning(definition, SIZES, data, {})["O"]) < 1e-12


def test_what_does_not_vary_stands_before_the_loop() -> None:
    source = emit(plan_of(keep(S + (M - P) * SLOPE, **TRIANGLE), SIZES, scheduled()), scheduled()).source
    before, loop = source.split("for m_first in", 1)
    assert "times = lane * w" in before and "lane * " not in loop
    assert "iota = tl.cast(i_p, tl.float32)" in before  # the rows' indices too
    assert "difference = first - iota\n" in loop and "total = scaled + rounded[None, :]" in loop
    assert "[:, None]" not in loop.split("difference = first - iota")[1].split("tile_max")[0]


def test_a_maximum_asked_for_besides_is_reduced_once() -> None:
    score = S + (M - P) * SLOPE
    roots = {
        "O": (one(score, V), "bhpf"),
        "L": (f("log", Fold("scale", "m", score, Const(1.0))) + top("m", score), "bhp"),
    }
    c = cascade(roots)
    plan = build_plan(c, problem_of(c, SIZES, "bf16", {}), scheduled())
    (loop,) = plan.loops()
    assert sum(isinstance(v, TileReduce) and (v.reduction, v.axis) == ("max", "m") for v in loop.body.items) == 1
    data = data_for(c, SIZES)
    exact, made = meaning(c, SIZES, data, {}), run_plan(plan, data)
    assert max(relative_error(made[n], exact[n]) for n in exact) < 1e-12


def test_a_row_that_may_be_infinite_stays_under_its_filter() -> None:
    """1/0 in a row that sees nothing: the row is 0, as the filter says."""
    score = keep(S + f("recip", P), -1, **TRIANGLE)
    definition = cascade({"O": (three(score, V), "bhpf")})
    plan = plan_of(score, SIZES, scheduled())
    assert elementwise(plan) == ["scale", "add", *PLAIN]
    data = data_for(definition, SIZES)
    made = run_plan(plan, data)["O"]
    assert (made[:, :, 0] == 0).all()
    assert relative_error(made, meaning(definition, SIZES, data, {})["O"]) < 1e-12


def test_other_passes_are_as_they_were() -> None:
    n = exp(S + (M - P) * SLOPE - top("m", S + (M - P) * SLOPE))
    definition = cascade({"Y": (n, "bhpm")})
    plan = build_plan(definition, problem_of(definition, SIZES, "fp32", {}), scheduled())
    data = data_for(definition, SIZES)
    assert relative_error(run_plan(plan, data)["Y"], meaning(definition, SIZES, data, {})["Y"]) < 1e-12


def test_fewer_operations_are_priced() -> None:
    """A distance costs one slot an element more than none; a sum of two products has room for one of them only. What a
    row of a tile costs besides, the same whatever the tile's length, is taken out."""
    sizes = SIZES | {"p": 16, "m": 1024, "b": 1, "h": 1}

    def in_tiles(score: Expr, tile: int) -> float:
        schedule = scheduled(tile=tile)
        return work(plan_of(score, sizes, schedule), schedule).traffic.fma_flops / 2 / (16 * 1024)

    def slots(score: Expr) -> float:
        return 2 * in_tiles(score, 256) - in_tiles(score, 128)

    plain = slots(S)
    assert slots(S + f("tanh", t("B", "p"))) == pytest.approx(plain, rel=0.05)
    assert slots(S + (M - P) * SLOPE) - plain == pytest.approx(1.0, abs=0.1)
    assert slots(S + f("abs", M - P) * SLOPE) - plain == pytest.approx(3.0, abs=0.1)
    assert slots(SCORE * 1e-30 + f("abs", M - P) * SLOPE) - plain == pytest.approx(4.0, abs=0.1)
    assert 128 * (in_tiles(S + (M - P) * SLOPE, 128) - in_tiles(S, 128) - 1.0) < 20  # of a row in each tile


@dataclass(frozen=True)
class Drawn:
    score: Expr
    sizes: dict[str, int]
    filters: str
    tile: int


@st.composite
def drawn(draw: st.DrawFn) -> Drawn:
    """Scores of several addends, with numbers of all sizes and signs, under filters."""
    number = st.sampled_from([-3.0, -0.3, 0.0, 1e-3, 0.125, 1.0, 7.0, 1e6])
    distance = (M - P) * draw(number)
    addends = [distance, f("abs", M - P) * SLOPE, t("B", "p") * draw(number), t("C", "pm"), SLOPE, M * t("D", "p")]
    score = SCORE * draw(number)
    for i in draw(st.lists(st.sampled_from(range(len(addends))), max_size=4, unique=True)):
        score = score + addends[i] if draw(st.booleans()) else score - addends[i]
    if draw(st.booleans()):
        score = f("tanh", score * 0.1) * 5.0 + distance
    if draw(st.booleans()):
        score = f("select", t("MASK", draw(st.sampled_from(["p", "m", "pm"])), "bool"), score, NEG_INF)
    for kept in draw(st.lists(st.sampled_from([(0, TRIANGLE), (5, {"m": 1, "p": -1}), (-3, TRIANGLE)]), max_size=2)):
        score = keep(score, kept[0], **kept[1])
    sizes = {"b": 1, "h": 2, "p": draw(st.integers(1, 40)), "m": draw(st.integers(1, 70)), "e": 8, "f": 8}
    return Drawn(score, sizes, draw(st.sampled_from(["every", "segments", "branch"])), draw(st.sampled_from([16, 32])))


@settings(max_examples=120, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(drawn())
def test_drawn_scores(case: Drawn) -> None:
    definition = cascade({"O": (three(case.score, V), "bhpf")})
    data = data_for(definition, case.sizes)
    plan = plan_of(case.score, case.sizes, scheduled("triton", case.tile, case.filters))
    made = run_plan(plan, data)["O"]
    # numbers up to 1e6 times an index leave 1e-16 * 1e8 of an exponent
    assert relative_error(made, meaning(definition, case.sizes, data, {})["O"]) < 1e-6


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("slope", [0.0, 0.7, -0.7, 30.0, -30.0, 1e4])
@pytest.mark.parametrize("row", [0.0, 1.0, -1e3])
def test_rounding_stays_within_the_budget(slope: float, row: float, dtype: str) -> None:
    score = keep(S + (M - P) * slope + t("B", "p") * row, **TRIANGLE)
    definition, sizes = cascade({"O": (three(score, V), "bhpf")}), SIZES | {"p": 100, "m": 150}
    data = {n: torch.as_tensor(x).to(TORCH[dtype]) for n, x in data_for(definition, sizes).items()}
    schedule = scheduled("torch", 128)
    kernel = emit(plan_of(score, sizes, schedule, dtype), schedule)
    made = run_kernel(kernel, {n: x.double().numpy() for n, x in data.items()})["O"]
    exact = run_eager(definition, data, sizes, {}, torch.float64)["O"]
    eager = run_eager(definition, data, sizes, {}, TORCH[dtype])["O"]
    assert error(torch.as_tensor(made), exact) <= budget(error(eager, exact), exact, TORCH[dtype])


def test_an_index_stays_whole_where_results_are_not_rounded_to_16_bits() -> None:
    score = S + (M - P) * SLOPE
    assert elementwise(plan_of(score, SIZES, scheduled(), "fp32")) == ["sub", "mul", "add", *PLAIN]
