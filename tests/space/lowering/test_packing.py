"""Two ranks along one tile axis: the parts, the filters, and plans that mean what their cascade means."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from plan_cases import Form, forms
from plan_checks import SIZES, data_for, meaning, problem_of, relative_error, run_kernel, schedule_of
from plan_interpreter import run_plan

from eintune.kernels.generate.emitters import emit
from eintune.space.analysis.roots import Roots
from eintune.space.cascade.cascade import Cascade
from eintune.space.cascade.problem import Problem
from eintune.space.ir.expr import Access, Part, Predicate, Reduce, Tensor, Term, Where
from eintune.space.lowering.lower import IllegalPlan, build_program
from eintune.space.lowering.packing import packed
from eintune.space.plan.roles import Role
from eintune.space.plan.sizes import Sizes
from eintune.space.schedule.schedule import Schedule, check_schedule
from eintune.space.schedule.space import schedules
from eintune.space.workloads.builtin import attention_problem

GROUPED = [f for f in forms() if all({"g", "p"} <= set(t.ranks) for t in f.definition.outputs.values())]


def beside(schedule: Schedule, parts: int = 1) -> Schedule:
    """The same schedule with g along the tiles of p, and m in parts."""
    roles = dict(schedule.roles) | {"g": Role(None, None, pack="p")}
    return replace(schedule, roles=tuple((roles | {"m": replace(roles["m"], num_splits=parts)}).items()))


@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("size", ["odd", "tall", "one"])
@pytest.mark.parametrize("form", GROUPED, ids=lambda f: f.name)
def test_tabled_computations(form: Form, size: str, parts: int) -> None:
    sizes = SIZES[size] | {"b": 1}
    problem = problem_of(form.definition, sizes, "fp64", form.params)
    schedule = beside(schedule_of(form, sizes, "triton"), parts)
    try:
        program = build_program(form.computed, problem, schedule)
    except IllegalPlan as refusal:
        assert parts > 1 and "a rank is divided once" in str(refusal)
        return
    data = data_for(form.definition, problem.sizes)
    have = dict(data)
    for kernel in program.kernels:
        have |= run_plan(kernel, have)
    made = run_kernel(emit(program, replace(schedule, emitter="torch")), data)
    for name, exact in meaning(form.definition, problem.sizes, data, form.params).items():
        assert relative_error(have[name], exact) < 1e-12
        assert relative_error(made[name], exact) < 1e-12


def test_there_are_grouped_computations() -> None:
    assert len(GROUPED) >= 4


@given(st.sampled_from([1, -1]), st.integers(-3, 3), st.integers(-20, 20), st.integers(1, 5))
def test_filters_say_the_same_of_the_packed_rank(coef: int, other: int, const: int, count: int) -> None:
    p = Predicate((Term("p", coef), Term("m", other)), (), const)
    x = Where(p, Access(Tensor("S", ("g", "p", "m")), ("g", "p", "m")), 0.0)
    source = Roots((x,), {"O": ("g", "p", "m")}, {})
    roles = {"p": Role("grid", 16), "g": Role(None, None, pack="p"), "m": Role("grid", None)}
    new, roles, sizes, stored = packed(source, roles, Sizes({"p": 4, "g": count, "m": 6}))
    (found,) = new.expressions
    assert isinstance(found, Where) and sizes["p0"] == 4 * count and roles["p0"] == Role("grid", 16)
    assert stored == {"O": (Part("%", "p0", count), Part("//", "p0", count), "m")} and new.outputs == {"O": ("p0", "m")}
    coefs = {t.rank: t.coef for t in found.predicate.terms}
    for r in range(4 * count):
        for m in range(6):
            value = coefs["p0"] * r + coefs.get("m", 0) * m + found.predicate.const
            assert (value >= 0) == (coef * (r // count) + other * m + const >= 0)


def attention(seq: int, heads: int, causal: bool = True) -> tuple[Cascade, Problem]:
    given = {"heads": heads, "kv_heads": 2, "seq": seq, "kv_seq": 512, "head_dim": 64, "dtype": "fp16", "batch": 2}
    problem = attention_problem(**given, causal="lower_right" if causal else None)  # type: ignore[arg-type]
    return problem.definition, problem


@pytest.mark.parametrize(("seq", "heads", "row", "lane"), [(4, 8, "p", "g"), (2, 8, "g", "p"), (40, 4, "p", "g")])
def test_short_rows_may_be_packed(seq: int, heads: int, row: str, lane: str) -> None:
    cascade, problem = attention(seq, heads)
    every = schedules(cascade, problem, "triton")
    found = [s for s in every if s.role(lane).pack]
    assert found and len(found) < len(every) and {s.role(lane).pack for s in found} == {row}
    for s in found:
        check_schedule(s)
        assert Schedule.from_json(json.loads(json.dumps(s.to_json()))) == s
        (first, *_) = build_program(cascade, problem, s).kernels
        axis = f"{row}0"
        assert first.sizes[axis] == seq * heads // 2
        assert first.roles[axis].tile == s.role(row).tile and axis in first.grid
        assert "m" in str(first) and f"{heads // 2} m <= {axis}" in str(first)  # p is the quotient: the filter's


@pytest.mark.parametrize(("seq", "heads"), [(512, 8), (1, 8), (4, 2)])
def test_there_must_be_something_to_pack(seq: int, heads: int) -> None:
    cascade, problem = attention(seq, heads, causal=False)
    for emitter in ("triton", "torch"):
        assert all(role.pack is None for s in schedules(cascade, problem, emitter) for _, role in s.roles)


def test_what_cannot_be_packed_is_refused() -> None:
    def refusal(x: Reduce | Where | Access, ranks: str, **roles: Role) -> str:
        given = {"g": Role(None, None, pack="p"), "p": Role("grid", 16), "m": Role("loop", 16)} | roles
        with pytest.raises(IllegalPlan) as caught:
            packed(Roots((x,), {"O": tuple(ranks)}, {}), given, Sizes({"g": 2, "p": 5, "m": 7}))
        return str(caught.value)

    s = Access(Tensor("S", ("g", "p", "m")), ("g", "p", "m"))
    both = Where(Predicate((Term("g", 1), Term("p", 1))), s, 0.0)
    twice = Where(Predicate((Term("p", 2), Term("m", -1))), s, 0.0)
    assert "a packed rank is not reduced, but g is" in refusal(Reduce("add", "g", s), "pm")
    assert "filters compare one of two packed ranks" in refusal(both, "gpm")
    assert "has the index of a packed rank once" in refusal(twice, "gpm")
    assert "an output has both packed ranks, but O has ['p']" in refusal(s, "pm")
    assert "beside one in tiles over programs" in refusal(s, "gpm", p=Role("grid", None))
    assert "one rank is packed" in refusal(s, "gpm", m=Role(None, None, pack="p"))
    with pytest.raises(ValueError, match="a packed rank has a rank beside it and nothing of its own"):
        check_schedule(Schedule("triton", (("g", Role("grid", 16, pack="p")), ("p", Role("grid", 16)))))
