"""Plans: what follows from the graph, by structure. That they compute the right numbers is tested by emitters."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest
from plan_cases import SCORE, WAYS, V, cascade, exp, f, keep, t, three, top
from plan_checks import SIZES, problem_of

from eintune.space.cascade.cascade import Cascade
from eintune.space.cascade.problem import Problem
from eintune.space.ir.expr import NEG_INF, Const, Expr, Fold, Map, Param, Reduce, Size, Split
from eintune.space.lowering.lower import IllegalPlan, build_plan
from eintune.space.plan.check import check
from eintune.space.plan.plan import Block, Loop, LoopPlan
from eintune.space.plan.roles import Role
from eintune.space.plan.values import Dot, Elementwise, Load, RowScale, Scale, TileReduce, Value
from eintune.space.schedule.schedule import Schedule

EVEN, ODD = SIZES["even"], SIZES["odd"]
ROLES = {
    "b": Role("grid", None),
    "h": Role("grid", None),
    "g": Role("grid", None),
    "p": Role("grid", 16),
    "m": Role("loop", 32),
    "e": Role(None, 32),
    "f": Role(None, 64),
    "j": Role("grid", 16),
}


def plan_of(
    x: Expr | Cascade, ranks: str = "bhpf", sizes: dict[str, int] = EVEN, dtype: str = "fp32", **roles: Role
) -> LoopPlan:
    c = x if isinstance(x, Cascade) else cascade({"O": (x, ranks)})
    schedule = Schedule("triton", tuple((ROLES | roles).items()))
    return build_plan(c, problem_of(c, sizes, dtype, {}), schedule)


def values(block: Block) -> Iterator[Value]:
    for item in block.items:
        if isinstance(item, Loop):
            yield from values(item.body)
        else:
            yield item


def ops(plan: LoopPlan) -> Counter[str]:
    return Counter(v.op for v in values(plan.root))


def own(block: Block) -> list[Value]:
    """The values of a block itself."""
    return [v for v in block.items if isinstance(v, Value)]


@pytest.mark.parametrize(("way", "passes"), [("three", 3), ("two", 2), ("one", 1), ("local", 2), ("tiled", 1)])
def test_a_pass_is_a_loop(way: str, passes: int) -> None:
    plan = plan_of(WAYS[way](SCORE * 0.3, V))
    assert [loop.rank for loop in plan.loops()] == ["m"] * passes


def test_one_pass_is_as_lean_as_by_hand() -> None:
    plan = plan_of(WAYS["one"](SCORE * 0.3, V), dtype="bf16")
    (loop,) = plan.loops()
    # load K, QK, tile max, new max, its factor and product, those of the old one, their difference, weights, rescale,
    # row sum, V, PV, and two rescalings
    assert [v.op for v in own(loop.body)] == [
        *("load", "dot", "reduce", "max", "row_factor", "mul", "rounded", "row_factor", "mul", "rounded", "sub"),
        *("mul", "sub", "exp2", "exp2", "mul", "reduce", "add", "mul", "load", "cast", "dot"),
    ]
    assert [v.op for v in own(loop.body) if len(v.axes) == 2 and v.op not in ("load", "dot", "cast")] == [
        *("mul", "sub", "exp2"),  # of an element: one multiply-add and the exponential
        "mul",
    ]
    assert [len(c.value.axes) for c in loop.carries] == [1, 1, 2]
    assert [v.op for v in own(plan.root)] == ["load", "div", "store"]
    assert [len(v.args) for v in own(loop.body) if v.op == "dot"] == [2, 3]


def test_the_tiled_form_is_the_same_plan() -> None:
    def shape(way: str) -> list[str]:
        plan = plan_of(WAYS[way](SCORE * 0.3, V))
        return [v.op for v in values(plan.root)]

    assert shape("tiled") == shape("one")


def test_loop_invariants_leave_the_loop_and_divisions_sink() -> None:
    plan = plan_of(WAYS["two"](SCORE, V))
    assert [v.tensor for v in own(plan.root) if isinstance(v, Load)] == ["Q"]
    assert [v.op for v in own(plan.root)][-2:] == ["div", "store"]
    inside = plan_of(three(SCORE, V))
    assert "div" in [v.op for v in own(list(inside.loops())[-1].body)]


def test_what_a_later_pass_needs_is_computed_again() -> None:
    plan = plan_of(three(SCORE, V))
    loads = Counter(v.tensor for v in values(plan.root) if isinstance(v, Load))
    assert loads == {"Q": 1, "K": 3, "V": 1}


def test_a_plain_maximum_reads_the_reference_of_a_fold() -> None:
    s = SCORE * 0.3
    total = Fold("scale", "m", s, Const(1.0))
    c = cascade({"O": (WAYS["one"](s, V), "bhpf"), "L": (f("log", total) + top("m", s), "bhp")})
    (loop,) = plan_of(c).loops()
    assert [(v.reduction, v.axis) for v in own(loop.body) if isinstance(v, TileReduce)].count(("max", "m")) == 1
    assert len([v for v in own(loop.body) if v.op == "dot"]) == 2


def test_factors_leave_the_maximum_and_zero_does_not() -> None:
    def before_max(k: float) -> list[str]:
        (loop, *_) = plan_of(three(SCORE * k, V)).loops()
        return [v.op for v in own(loop.body) if v.op in ("scale", "neg")]

    assert before_max(0.3) == []
    assert before_max(-0.3) == ["neg"]  # the sign stays, where it is exact
    assert before_max(0.0) == ["scale"]


def test_exponentials_are_to_base_two_with_one_constant() -> None:
    plan = plan_of(WAYS["one"](SCORE * 0.3, V))
    assert not {"exp", "log"} & set(ops(plan))
    assert {v.factors.factor for v in values(plan.root) if isinstance(v, RowScale)} == {0.3 * 1.4426950408889634}
    plan = plan_of(three(SCORE * 0.3, V))
    assert {v.factor for v in values(plan.root) if isinstance(v, Scale)} == {0.3 * 1.4426950408889634}


@pytest.mark.parametrize(
    ("score", "sizes", "guarded"),
    [
        (SCORE, ODD, False),
        (keep(SCORE, m=-1, p=1), ODD, False),  # every row has the element 0
        (keep(SCORE, m=1, p=-1), {**ODD, "p": 100}, True),  # rows beyond the last column have none
        (keep(SCORE, sizes=(("m", 1), ("p", -1)), m=-1, p=1), {**ODD, "p": 100}, True),
        (keep(SCORE, sizes=(("m", 1), ("p", -1)), m=-1, p=1), ODD, False),
        (keep(keep(SCORE, m=-1, p=1), 9, m=1, p=-1), ODD, True),  # the first tile may be outside the window
        (f("select", f("eq", t("DP", "p"), t("DM", "m")), SCORE, NEG_INF), ODD, True),
    ],
)
def test_guards_stand_where_a_row_may_be_empty(score: Expr, sizes: dict[str, int], guarded: bool) -> None:
    assert ("guard" in ops(plan_of(WAYS["one"](score, V), sizes=sizes))) == guarded


def test_only_rows_that_may_be_empty_divide_carefully() -> None:
    window = keep(keep(SCORE, m=-1, p=1), 9, m=1, p=-1)
    assert ops(plan_of(WAYS["one"](window, V), sizes={**ODD, "p": 37, "m": 77}))["quotient"] == 0
    lower = keep(SCORE, -5, m=-1, p=1)
    assert ops(plan_of(WAYS["one"](lower, V)))["quotient"] == 1


def test_narrow_tensors_are_multiplied_narrow_and_the_rest_is_wide() -> None:
    plan = plan_of(WAYS["one"](SCORE * 0.3, V), dtype="bf16")
    for v in values(plan.root):
        if v.op == "dot":
            assert [a.dtype for a in v.args[:2]] == ["bf16", "bf16"]
        if v.op not in ("load", "cast", "store"):
            assert v.dtype == "fp32"


def dot_dtypes(x: Expr, ranks: str, **dtypes: str) -> list[tuple[str, ...]]:
    c = cascade({"O": (x, ranks)})
    problem = problem_of(c, EVEN, "bf16", {})
    mixed = Problem("", "", EVEN, problem.dtypes | dtypes, {})
    plan = build_plan(c, mixed, Schedule("triton", tuple(ROLES.items())))
    return [tuple(a.dtype for a in v.args[:2]) for v in values(plan.root) if v.op == "dot"]


def test_a_product_is_as_narrow_as_what_it_multiplies() -> None:
    computed = Reduce("add", "m", f("silu", t("A", "pm")) * f("silu", t("B", "mj")))
    assert dot_dtypes(computed, "pj") == [("bf16", "bf16")]
    assert dot_dtypes(computed, "pj", B="fp32") == [("fp32", "fp32")]
    loaded = Reduce("add", "m", t("A", "pm") * t("B", "mj"))
    assert dot_dtypes(loaded, "pj", B="fp32") == [("fp32", "fp32")]
    biased = WAYS["one"](SCORE + t("C", "pm"), V)
    assert dot_dtypes(biased, "bhpf", C="fp32") == [("bf16", "bf16")] * 2


def test_float64_is_float64_throughout() -> None:
    plan = plan_of(WAYS["one"](SCORE * 0.3, V), dtype="fp64")
    assert {v.dtype for v in values(plan.root)} == {"fp64"}


def test_batch_axes_and_query_groups() -> None:
    score = Reduce("add", "e", t("Q", "bhgpe") * t("K", "bhme"))
    whole = {r: Role(None, EVEN[r]) for r in "hg"}
    plan = plan_of(WAYS["one"](score, V), "bhgpf", **whole)
    dots = [v for v in values(plan.root) if isinstance(v, Dot)]
    assert [(v.contracted, v.batch) for v in dots] == [("e", ("h",)), ("m", ("h",))]
    assert dots[0].axes == ("h", "g", "p", "m")


def test_products_need_two_operands_with_axes_of_their_own() -> None:
    vector = plan_of(Reduce("add", "m", t("A", "pm") * t("X", "m")), "p")
    assert ops(vector)["dot"] == 0 and ops(vector)["reduce"] == 1
    matrix = plan_of(Reduce("add", "m", t("A", "pm") * t("B", "mj")), "pj")
    assert ops(matrix)["dot"] == 1 and ops(matrix)["reduce"] == 0


def test_factors_that_do_not_vary_leave_the_loop() -> None:
    plan = plan_of(Reduce("add", "m", t("A", "pm") * t("B", "mj") * t("X", "p")), "pj")
    (loop,) = plan.loops()
    assert "mul" not in [v.op for v in own(loop.body)]


def test_nested_reductions_nest() -> None:
    plan = plan_of(three(SCORE, V), e=Role("loop", 16))
    outer = [item for item in plan.root.items if isinstance(item, Loop)]
    assert [loop.rank for loop in outer] == ["m"] * 3
    assert [i.rank for loop in outer for i in loop.body.items if isinstance(i, Loop)] == ["e"] * 3


def test_outputs_that_vary_with_a_loop_are_stored_in_a_pass_of_their_own() -> None:
    x = t("X", "pm")
    n = exp(x - top("m", x))
    plan = plan_of(n / Reduce("add", "m", n), "pm")
    loops = list(plan.loops())
    assert len(loops) == 3
    assert [v.op for v in own(loops[-1].body)][-1] == "store"


def test_the_grid_iterates_tiles_fastest() -> None:
    plan = plan_of(three(SCORE, V))
    assert plan.grid == ("p", "h", "b")
    assert plan.programs() == 2 * 2


def test_plans_are_shared_by_schedules_that_lay_out_alike() -> None:
    c = cascade({"O": (three(SCORE, V), "bhpf")})
    problem = problem_of(c, EVEN, "fp32", {})
    plans = [build_plan(c, problem, Schedule("triton", tuple(ROLES.items()), warps=w)) for w in (4, 8)]
    assert plans[0] is plans[1]


def test_text_names_the_loops_and_what_they_carry() -> None:
    text = str(plan_of(WAYS["one"](keep(SCORE * 0.3, m=-1, p=1), V)))
    assert "loop m by 32 carrying running_max[p] = -inf, acc[p] = 0, acc_2[p f] = 0" in text
    assert "where m <= 31 and m <= p" in text  # no query sees a key beyond the last one, so its value may be anything
    assert "product[p m]:fp32 = dot(q, k) over e" in text
    assert text.splitlines()[-1] == "store O[b h p f] = ratio"


# ---- what cannot be planned


def test_a_reduction_over_programs_is_refused() -> None:
    with pytest.raises(IllegalPlan, match="m is reduced and its role is grid"):
        plan_of(three(SCORE, V), m=Role("grid", 16))


def test_a_pass_inside_a_pass_over_the_same_rank_is_refused() -> None:
    inner = Reduce("add", "m", t("A", "pm"))
    with pytest.raises(IllegalPlan, match="cannot stand in another one"):
        plan_of(t("B", "pm") * Reduce("add", "p", inner * t("C", "pm")), "pm", p=Role("loop", 16))


def test_missing_roles_sizes_dtypes_and_parameters_are_named() -> None:
    c = cascade({"O": (three(SCORE * Param("scale"), V), "bhpf")})
    problem = problem_of(c, EVEN, "fp32", {"scale": 1.0})
    schedule = Schedule("triton", tuple(ROLES.items()))

    def build(p: Problem = problem, s: Schedule = schedule) -> LoopPlan:
        return build_plan(c, p, s)

    with pytest.raises(IllegalPlan, match=r"'scale'.* have none"):
        build(problem_of(c, EVEN, "fp32", {}))
    with pytest.raises(IllegalPlan, match="every rank has a role, but p has none"):
        build(s=Schedule("triton", tuple((r, role) for r, role in ROLES.items() if r != "p")))
    with pytest.raises(IllegalPlan, match=r"every rank has a size of at least 1, but .'m'. have none"):
        build(Problem("", "", {**EVEN, "m": 0}, problem.dtypes, problem.params))
    with pytest.raises(IllegalPlan, match=r"every tensor has a dtype, but .'K'. have none"):
        build(Problem("", "", EVEN, {n: d for n, d in problem.dtypes.items() if n != "K"}, problem.params))
    with pytest.raises(IllegalPlan, match="an outer iteration, a tile or both"):
        build(s=Schedule("triton", (*ROLES.items(), ("m", Role(None, None)))))


def test_a_rank_that_stays_split_is_a_tiled_loop() -> None:
    with pytest.raises(IllegalPlan, match="a rank that stays split is a loop over tiles, but m is"):
        plan_of(WAYS["local"](SCORE, V), m=Role(None, 64))


def test_a_rank_is_split_in_one_way() -> None:
    x = t("X", "pm")
    first = top("m1", top("m0", Split(x, "m", "m1", "m0")) * 2.0)
    second = Reduce("add", "m3", f("tanh", Reduce("max", "m2", Split(x, "m", "m3", "m2"))))
    with pytest.raises(IllegalPlan, match="a rank is split in one way"):
        plan_of(first * f("tanh", second) - Reduce("add", "m1", f("tanh", top("m0", Split(x, "m", "m1", "m0")))), "p")


def test_a_translated_fold_of_an_argument_that_varies_is_the_sum_that_it_stands_for() -> None:
    one = plan_of(Fold("translate", "m", t("X", "pm"), t("Z", "p")), "p")
    two = plan_of(Fold("translate", "m", t("X", "pm"), t("Y", "pm")), "p")
    assert [loop.rank for loop in one.loops()] == ["m"] and [loop.rank for loop in two.loops()] == ["m", "m"]


def test_check_finds_what_is_broken() -> None:
    plan = plan_of(Reduce("add", "m", t("X", "pm")) / Size("m"), "p")
    check(plan)
    (loop,) = plan.loops()
    loop.carries[0].next = Elementwise(operator="add", axes=("p",), dtype="fp32", name="stray")
    plan.root.items.append(
        Elementwise(operator="neg", args=(loop.carries[0].next,), axes=("p",), dtype="fp32", name="late")
    )
    with pytest.raises(IllegalPlan, match="late uses stray"):
        check(plan)


def test_constants_are_not_reduced() -> None:
    plan = plan_of(Map("add", (Reduce("add", "m", t("Z", "p")), Reduce("max", "m", t("Z", "p")))), "p")
    assert not list(plan.loops())
    assert [v.factor for v in values(plan.root) if isinstance(v, Scale)] == [float(EVEN["m"])]
