"""Which masks a plan needs, from what values are where a filter is false."""

from __future__ import annotations

import math

import pytest
from plan_cases import SCORE, K, V, cascade, exp, f, keep, t, three, top
from plan_checks import SIZES, problem_of

from eintune.space.analysis.layout import Layout
from eintune.space.analysis.masks import Masks, Outcome
from eintune.space.ir.expr import NEG_INF, Const, Expr, Fold, Map, Predicate, Reduce, Term, Where
from eintune.space.lowering.lower import build_plan
from eintune.space.plan.plan import Block, Loop, LoopPlan
from eintune.space.plan.roles import Role
from eintune.space.plan.sizes import Sizes, tail_predicate
from eintune.space.plan.values import Mask
from eintune.space.schedule.schedule import Schedule

ODD = SIZES["odd"]
ROLES = {
    "b": Role("grid", None),
    "h": Role("grid", None),
    "p": Role("grid", 16),
    "m": Role("loop", 32),
    "e": Role(None, 32),
    "f": Role(None, 64),
}
LAYOUT = Layout(ROLES, ODD, {}, tuple(ROLES))
TAIL = tail_predicate("m", Sizes(ODD))
TRIANGLE = Predicate((Term("m", -1), Term("p", 1)), (), 0)
X, Y = t("X", "pm"), t("Y", "p")
SCORED = Where(TRIANGLE, X, NEG_INF)


@pytest.mark.parametrize(
    ("x", "beyond_tail", "where_filtered"),
    [
        (X, 0.0, "finite"),
        (Y, "finite", "finite"),
        (Const(2.0), 2.0, 2.0),
        (X * 3.0, 0.0, "finite"),
        (X + 1.0, 1.0, "finite"),
        (X * Y, 0.0, "finite"),
        (SCORE, 0.0, "finite"),
        (SCORED, "bounded", NEG_INF),
        (Where(TRIANGLE, X, 0.0), 0.0, 0.0),
        (f("exp2", X), 1.0, "any"),
        (f("exp2", SCORED), "any", 0.0),  # a score beyond the end may be large
        (f("exp2", SCORED - Where(TAIL, Y, math.inf)), 0.0, 0.0),
        (f("sigmoid", X), 0.5, "finite"),
        (f("tanh", SCORED), "finite", -1.0),
        (SCORED * 0.5, "bounded", NEG_INF),
        (SCORED - Y, "bounded", NEG_INF),
        (SCORED - top("m", SCORED), "bounded", NEG_INF),
        (f("guard", top("m", SCORED)), "finite", "finite"),
        (f("quotient", X, Y), 0.0, "any"),
        (X / f("exp2", X), 0.0, "any"),
        (X / X, "any", "any"),
        (Reduce("add", "m", X), "finite", "finite"),
        (Reduce("add", "e", K), 0.0, "finite"),
        (f("select", f("lt", X, 0.0), X, 0.0), 0.0, "finite"),
    ],
)
def test_values_where_a_filter_is_false(x: Expr, beyond_tail: Outcome, where_filtered: Outcome) -> None:
    masks = Masks(LAYOUT)
    assert masks.where_false(TAIL).of(x) == beyond_tail
    assert masks.where_false(TRIANGLE).of(x) == where_filtered


def plan_of(x: Expr, ranks: str, sizes: dict[str, int] = ODD, filters: str = "segments") -> LoopPlan:
    c = cascade({"O": (x, ranks)})
    return build_plan(c, problem_of(c, sizes, "fp32", {}), Schedule("triton", tuple(ROLES.items()), filters=filters))


def masks_in(block: Block) -> list[tuple[str, float]]:
    """(what is masked, fill) of every mask."""
    found: list[tuple[str, float]] = []
    for item in block.items:
        if isinstance(item, Loop):
            found += masks_in(item.body)
        elif isinstance(item, Mask):
            found.append((item.args[0].op, item.fill))
    return found


def test_scores_are_masked_once_and_values_never() -> None:
    fold = Fold("scale", "m", SCORE, V) / Fold("scale", "m", SCORE, Const(1.0))
    assert masks_in(plan_of(fold, "bhpf").root) == [("dot", NEG_INF)]


def test_each_of_three_passes_masks_its_scores() -> None:
    assert masks_in(plan_of(three(SCORE, V), "bhpf").root) == [("dot", NEG_INF)] * 3


def test_products_of_loads_need_no_mask() -> None:
    assert masks_in(plan_of(Reduce("add", "m", X * t("B", "mf")), "pf").root) == []


def test_what_is_not_zero_beyond_the_end_is_masked() -> None:
    assert masks_in(plan_of(Reduce("add", "m", exp(X)), "p").root) == [("exp2", 0.0)]


def test_the_smallest_factor_is_masked() -> None:
    weights = f("sigmoid", t("W", "m"))
    plan = plan_of(Reduce("add", "m", f("sigmoid", X) * weights), "p")
    masked = [v for loop in plan.loops() for v in loop.body.items if isinstance(v, Mask)]
    assert [v.axes for v in masked] == [("m",)]


def test_full_tiles_have_no_masks() -> None:
    assert masks_in(plan_of(three(SCORE, V), "bhpf", SIZES["even"]).root) == []


def high(x: Expr, ranks: str = "bhpf") -> list[str]:
    """The upper ends of the loops' last segments."""
    from eintune.space.plan.plan import format_bound

    return [format_bound(loop.segments[-1].hi) for loop in plan_of(x, ranks, SIZES["even"]).loops()]


def test_tiles_beyond_a_filter_are_skipped_where_every_reduction_sees_its_identity() -> None:
    score = keep(SCORE, m=-1, p=1)
    assert high(three(score, V)) == ["min(last(p) + 1, 64)"] * 3
    assert high(Reduce("add", "m", Map("sigmoid", (score,)) * V)) == ["min(last(p) + 1, 32)"]
    # zero, which a sigmoid does not take to zero
    assert high(Reduce("add", "m", Map("sigmoid", (keep(SCORE, fill=0.0, m=-1, p=1),)) * V)) == ["64"]
    # a sum of everything beside the filtered one
    both = Reduce("add", "m", Map("sigmoid", (score,)) * V) + Reduce("add", "m", V)
    assert high(both) == ["64"]


def test_a_store_forbids_skipping() -> None:
    x = keep(X, m=-1, p=1)
    n = exp(x - top("m", x))
    *statistics, stored = high(n / Reduce("add", "m", n), "pm")
    assert statistics == ["min(last(p) + 1, 64)"] * 2
    assert stored == "64"


def test_infinite_scores_stay_exact() -> None:
    assert math.isinf(NEG_INF)
    assert Masks(LAYOUT).where_false(TRIANGLE).of(Map("max", (SCORED, Y))) == "bounded"
    assert Masks(LAYOUT).where_false(TRIANGLE).of(Map("max", (SCORED, Const(0.0)))) == 0.0
    assert Masks(LAYOUT).where_false(TRIANGLE).of(Map("sub", (Const(0.0), Map("max", (SCORED, Y))))) == "any"
