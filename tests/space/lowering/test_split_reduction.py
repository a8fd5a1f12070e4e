"""A loop in parts: the split law at the cut, and programs of kernels that mean what their cascade means."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from plan_cases import Form, forms
from plan_checks import SIZES, data_for, meaning, problem_of, relative_error, schedule_of
from plan_interpreter import run_plan
from strategies import Drawn, computations

from eintune.space.analysis.roots import Roots, roots_of
from eintune.space.cascade.cascade import Cascade
from eintune.space.ir.evaluate import evaluate
from eintune.space.ir.expr import Access, Const, Expr, Fold, Rank, Reduce, Split, Tensor
from eintune.space.ir.folds import ACTIONS
from eintune.space.ir.pointwise import REDUCTIONS, Array
from eintune.space.lowering.lower import IllegalPlan, build_plan, build_program
from eintune.space.lowering.split_reduction import stages
from eintune.space.plan.plan import Program
from eintune.space.plan.roles import Role
from eintune.space.schedule.schedule import Schedule

LOOPED = [f for f in forms() if "m" in f.loop and not roots_of(f.computed).halves]


def divided(schedule: Schedule, parts: int, rank: Rank = "m") -> Schedule:
    roles = ((r, replace(role, num_splits=parts) if r == rank else role) for r, role in schedule.roles)
    return replace(schedule, roles=tuple(roles))


def run_program(program: Program, data: dict[str, Array]) -> dict[str, Array]:
    """The kernels one after the other; what each writes is there for the next."""
    have = dict(data)
    for kernel in program.kernels:
        have |= run_plan(kernel, have)
    return have


def worst(form: Form, sizes: dict[str, int], schedule: Schedule) -> float:
    problem = problem_of(form.definition, sizes, "fp64", form.params)
    program = build_program(form.computed, problem, schedule)
    assert len(program.kernels) > 1
    data = data_for(form.definition, problem.sizes)
    made = run_program(program, data)
    exact = meaning(form.definition, problem.sizes, data, form.params)
    return max(relative_error(made[n], x) for n, x in exact.items())


def reduces(form: Form) -> bool:
    return any(isinstance(x, (Reduce, Fold)) and x.rank == "m" for x in _nodes(form.computed))


def _nodes(cascade: Cascade) -> list[Expr]:
    from eintune.space.ir.expr import topological

    return topological(cascade.roots().values())


@pytest.mark.parametrize(("size", "parts"), [("odd", 2), ("even", 5), ("one", 2)])
@pytest.mark.parametrize("form", LOOPED, ids=lambda f: f.name)
def test_tabled_computations(form: Form, size: str, parts: int) -> None:
    """Tails, filters that leave parts empty, rows with nothing, several passes; 5 asks for more parts than there are
    tiles, and a length of one gives one part."""
    sizes = SIZES[size] | {"b": 1, "h": 2}
    schedule = divided(schedule_of(form, sizes, "triton"), parts)
    try:
        assert worst(form, sizes, schedule) < 1e-12
    except IllegalPlan as refusal:
        assert "a rank in parts is reduced" in str(refusal)


def test_most_tabled_computations_have_parts() -> None:
    cut = 0
    for form in LOOPED:
        try:
            cut += len(stages(roots_of(form.computed), "m")) > 1
        except IllegalPlan:
            continue
    assert cut > 0.9 * len(LOOPED) > 50


@settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(computations(), st.integers(2, 6), st.data())
def test_drawn_computations(drawn: Drawn, parts: int, data: st.DataObject) -> None:
    loops = [r for r, role in drawn.schedule.roles if role.outer == "loop"]
    if not loops:
        return
    schedule = divided(drawn.schedule, parts, data.draw(st.sampled_from(loops)))
    values = data_for(drawn.cascade, drawn.sizes)
    try:
        program = build_program(drawn.cascade, problem_of(drawn.cascade, drawn.sizes, "fp64", {}), schedule)
    except IllegalPlan as refusal:
        reasons = ("cannot stand in another one", "is reduced, but", "is divided once", "is a loop over tiles")
        assert any(reason in str(refusal) for reason in reasons), str(refusal)
        return
    made = run_program(program, values)
    for n, exact in meaning(drawn.cascade, drawn.sizes, values, {}).items():
        assert relative_error(made[n], exact) < 1e-10


# ---- the law


def read(name: str, ranks: str) -> Expr:
    return Access(Tensor(name, tuple(ranks)), tuple(ranks))


S, V, T, U = read("S", "pm"), read("V", "mf"), read("T", "pm"), read("U", "m")
ONE_SCORE = [a for a in ACTIONS.values() if a.references == 1]
REDUCED = [
    *(Reduce(op, "m", S) for op in REDUCTIONS),
    *(Fold(a.name, "m", S, V if a.linear else Const(1.0)) for a in ONE_SCORE),
    *(Fold("comoment", "m", S, w, (T,)) for w in (Const(1.0), U * U)),
    *(Fold("softcomoment", "m", S, w, (T, T * U)) for w in (Const(1.0), U * U)),
]


def test_every_action_is_among_them() -> None:
    assert {x.action for x in REDUCED if isinstance(x, Fold)} == set(ACTIONS)


@pytest.mark.parametrize("x", REDUCED, ids=lambda x: getattr(x, "op", None) or x.action)
def test_every_reduction_and_action_merges_from_its_parts(x: Reduce | Fold) -> None:
    sizes = {"p": 3, "m": 12, "f": 2, "m0": 4, "m1": 3}
    random = np.random.default_rng(0)
    data: dict[str, Array] = {"S": random.normal(size=(3, 12)) * 30, "V": random.normal(size=(12, 2))}
    data |= {"T": random.normal(size=(3, 12)) + 5, "U": random.normal(size=12)}
    if isinstance(x, Fold) and x.action in ("scale", "softcomoment"):
        data["S"][0, :4] = data["S"][1] = -np.inf  # an empty part, and a row with nothing in it
    ranks = tuple(r for r in "pf" if r in "pf" and (r == "p" or (isinstance(x, Fold) and x.arg is V)))
    first, last = stages(Roots((x,), {"O": ranks}, {}), "m")
    assert first.halves == ("m1", "m0") and last.halves is None and last.over == ("m1",)
    assert any(isinstance(n, Split) for root in first.expressions for n in _below(root))
    kept = {
        name: _arranged(value, found, wanted)
        for (name, wanted), (value, found) in zip(
            first.outputs.items(), evaluate(first.expressions, data, sizes), strict=True
        )
    }
    ((made, order),) = evaluate(last.expressions, data | kept, sizes)
    ((exact, wanted),) = evaluate((x,), data, sizes)
    np.testing.assert_allclose(_arranged(made, order, wanted), exact, rtol=1e-12)


def _below(x: Expr) -> list[Expr]:
    from eintune.space.ir.expr import topological

    return topological([x])


def _arranged(value: Array, have: tuple[Rank, ...], want: tuple[Rank, ...]) -> Array:
    return value.transpose([have.index(r) for r in want])


def test_folds_of_one_score_keep_one_reference() -> None:
    cascade = Cascade.parse("TAp,f = fold_scale[m](Sp,m, Vm,f)\nSDp = fold_scale[m](Sp,m, 1)\nZp,f = TAp,f / SDp")
    first, _ = stages(roots_of(cascade), "m")
    assert list(first.outputs) == ["REFERENCE", "SUM", "SUMB"]


def test_a_pass_that_needs_another_is_a_stage_of_its_own() -> None:
    cascade = Cascade.parse("Gp = Sp,m :: \\/m max\nEp,m = e^(Sp,m - Gp)\nDp = Ep,m\nYp,m = Ep,m / Dp")
    found = stages(roots_of(cascade), "m")
    assert [s.halves for s in found] == [("m1", "m0"), ("m3", "m2"), None]
    assert [s.over for s in found] == [(), ("m1",), ("m1", "m3")]


# ---- plans


def decode(parts: int = 4, size: int = 500) -> tuple[Cascade, dict[str, int], Schedule]:
    cascade = Cascade.parse("TAp,f = fold_scale[m](Sp,m, Vm,f)\nSDp = fold_scale[m](Sp,m, 1)\nZp,f = TAp,f / SDp")
    roles = {"p": Role("grid", 16), "m": Role("loop", 32, parts), "f": Role(None, 64)}
    return cascade, {"p": 20, "m": size, "f": 40}, Schedule("triton", tuple(roles.items()))


def test_programs_have_parts_of_whole_tiles() -> None:
    cascade, sizes, schedule = decode()
    first, second = build_program(cascade, problem_of(cascade, sizes, "bf16", {}), schedule).kernels
    assert first.splits["m"].length == 128 and first.sizes["m1"] == 4 and first.programs() == 2 * 4
    (loop,) = first.loops()
    assert [str(s) for s in loop.segments] and "min(" in str(first)
    assert set(first.outputs) == set(second.inputs) and second.outputs == {"Z": ("p", "f")}
    assert {first.dtypes[n] for n in first.outputs} == {"fp32"} and second.dtypes["Z"] == "bf16"
    assert second.roles["p"] == Role("grid", 16) and second.roles["m1"] == Role(None, 4)
    assert not list(second.loops())
    cascade, sizes, schedule = decode(parts=16)
    *_, second = build_program(cascade, problem_of(cascade, sizes, "bf16", {}), schedule).kernels
    assert second.roles["p"] == Role("grid", None)  # 16 * 64 * 16 elements are too many at once


def test_no_part_lies_beyond_the_end() -> None:
    cascade, sizes, schedule = decode(parts=8, size=9 * 32)  # parts of two tiles: five of them
    program = build_program(cascade, problem_of(cascade, sizes, "bf16", {}), schedule)
    assert program.kernels[0].sizes["m1"] == 5


def test_a_program_is_printed_kernel_by_kernel() -> None:
    cascade, sizes, schedule = decode()
    text = str(build_program(cascade, problem_of(cascade, sizes, "bf16", {}), schedule))
    assert text.startswith("kernel 1: REFERENCE SUM SUMB\nranks ") and "\n\nkernel 2: Z\nranks " in text


def test_what_cannot_be_divided_is_refused() -> None:
    cascade, sizes, schedule = decode()
    problem = problem_of(cascade, sizes, "bf16", {})
    with pytest.raises(IllegalPlan, match="a plan is one kernel, but these roles need 2"):
        build_plan(cascade, problem, schedule)
    with pytest.raises(IllegalPlan, match="a rank in parts is reduced, but nothing reduces p"):
        build_program(cascade, problem, divided(divided(schedule, 1), 2, "p"))
    with pytest.raises(IllegalPlan, match=r"one rank of a plan is in parts, but \['m', 'p'\]"):
        build_program(cascade, problem, divided(schedule, 2, "p"))
    whole = replace(schedule, roles=(*schedule.roles[:1], ("m", Role(None, 512, 2)), *schedule.roles[2:]))
    with pytest.raises(IllegalPlan, match="a rank in parts is a loop, but m"):
        build_program(cascade, problem, whole)
    tiled = next(f for f in forms() if roots_of(f.computed).halves)
    with pytest.raises(IllegalPlan, match="a rank is divided once"):
        sizes = SIZES["even"]
        found = divided(schedule_of(tiled, sizes, "triton"), 2)
        build_program(tiled.computed, problem_of(tiled.definition, sizes, "fp64", tiled.params), found)
