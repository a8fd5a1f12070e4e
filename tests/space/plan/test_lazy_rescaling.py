"""Loops that keep a reference while it serves: which may, and that what a plan stores does not depend on it."""

from __future__ import annotations

import functools
import itertools
from dataclasses import replace

import numpy as np
import pytest
from attention_variants import ALONE
from hypothesis import given, settings
from hypothesis import strategies as st
from plan_checks import data_for, meaning, relative_error
from plan_interpreter import run_plan

from eintune.space.cascade.cascade import Cascade
from eintune.space.cascade.problem import Problem
from eintune.space.derivation.derive import derive
from eintune.space.lowering.lower import build_program
from eintune.space.plan.lazy_rescaling import fault, lazy_rescalings
from eintune.space.plan.plan import LoopPlan
from eintune.space.plan.reference_invariance import STAYS, Dependent, Move, Shifts, addend, factor, linear, same
from eintune.space.plan.roles import Role
from eintune.space.plan.values import Cast, Dot, Elementwise, Load, RowReference, Scale, TileReduce, Value
from eintune.space.schedule.schedule import Schedule
from eintune.space.schedule.space import schedules
from eintune.space.workloads.attention import posed

SIZES = {"b": 1, "h": 2, "g": 1, "p": 40, "m": 70, "e": 16, "f": 16}
FREE_OF_IT = ("plain", "head scale", "slopes", "bias", "causal", "window, causal", "documents, causal", "sinks")


@functools.cache
def forms(name: str) -> list[tuple[Problem, Cascade, LoopPlan]]:
    """A variant's derived forms, each by its smallest schedule."""
    sizes = SIZES | ({"m": 40} if "documents" in name else {})
    problem = posed(ALONE[name], sizes, "fp32", {"scale": 0.4})
    cascades = [d.cascade for d in derive(problem.definition).cascades]
    return [(problem, c, build_program(c, problem, _least(c, problem)).kernels[0]) for c in cascades]


def _least(cascade: Cascade, problem: Problem) -> Schedule:
    every = (s for s in schedules(cascade, problem, "triton") if s.bounds == "program" and s.filters != "every")
    return min(every, key=lambda s: (s.role("p").tile or 1, s.role("m").tile or 10**6, s.role("m").num_splits))


@pytest.mark.parametrize("limit", [1.0, 3.0, 2.0**15, 1e300])
@pytest.mark.parametrize("name", ALONE)
def test_what_is_stored_does_not_depend_on_it(name: str, limit: float) -> None:
    """However seldom it is brought up to date: with 1e300 a reference is whatever a row's first tile gave."""
    for problem, cascade, plan in forms(name):
        definition = problem.definition
        data = data_for(definition, problem.sizes) | (
            {"D": np.sort(np.arange(40) // 13)[None]} if "D" in plan.inputs else {}
        )
        made = run_plan(plan, data, limit)
        for output, exact in meaning(definition, problem.sizes, data, problem.params).items():
            assert relative_error(made[output], exact) < 1e-10, (cascade, output)


@pytest.mark.parametrize("name", [*FREE_OF_IT, "log-sum-exp", "softcap"])
def test_one_pass_may_keep_it(name: str) -> None:
    assert fault(forms(name)[0][2]) is None


def test_what_has_no_reference_keeps_none() -> None:
    assert "lazy rescaling" in str(fault(forms("sigmoid")[0][2]))
    three_passes = forms("plain")[-1][2]
    assert len(list(three_passes.loops())) == 3 and not lazy_rescalings(three_passes)


def test_a_plan_that_stores_its_sums_keeps_none() -> None:
    """What merges parts wants them relative to their own maxima."""
    problem, cascade, _ = forms("plain")[0]
    schedule = _least(cascade, problem)
    roles = tuple((r, Role("loop", 16, 2) if r == "m" else role) for r, role in schedule.roles)
    parts, _ = build_program(cascade, problem, replace(schedule, roles=roles)).kernels
    assert len(parts.outputs) > 1 and fault(parts)


def test_a_sum_by_itself_depends_on_it() -> None:
    text = """
        S[p,m] = sum[e](Q[p,e] * K[m,e])
        GM[p] = max[m](S[p,m])
        SD[p] = sum[m](exp(S[p,m] - GM[p]))
        O[p] = SD[p] * SD[p] / SD[p]
        """
    sizes = {"p": 40, "m": 70, "e": 16}
    problem = Problem("sum", text, sizes, {"Q": "fp32", "K": "fp32", "O": "fp32"})
    for d in derive(Cascade.parse(text)).cascades:
        schedule = next(s for s in schedules(d.cascade, problem, "triton") if s.role("m").outer == "loop")
        (plan,) = build_program(d.cascade, problem, schedule).kernels
        assert fault(plan)


# ---- how values move

X, Y, Z, CONST = (Load(tensor=n, index=(), dtype="fp32", name=n) for n in "xyzc")
"""x is a reference, y a sum relative to it, z another reference."""


def apply(op: str, *args: Value) -> Value:
    return Elementwise(operator=op, args=args, dtype="fp32", name=f"{op}_value")


def scaled(v: Value, k: float = 3.0) -> Value:
    return Scale(factor=k, args=(v,), dtype="fp32", name="scale_value")


def moved(v: Value) -> Move:
    shifts = Shifts(("p",), {X: addend(0, 1.0), Y: factor(0, -1.0), Z: addend(1, 1.0)})
    shifts.follow([v])
    return shifts.of(v)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (apply("mul", Y, Y), factor(0, -2.0)),
        (apply("mul", Y, CONST), factor(0, -1.0)),
        (apply("div", Y, Y), STAYS),
        (apply("quotient", CONST, Y), factor(0, 1.0)),
        (apply("add", X, X), addend(0, 2.0)),
        (apply("sub", X, X), STAYS),
        (apply("sub", CONST, X), addend(0, -1.0)),
        (apply("add", Y, Y), factor(0, -1.0)),
        (apply("neg", X), addend(0, -1.0)),
        (scaled(X), addend(0, 3.0)),
        (scaled(Y), factor(0, -1.0)),
        (Cast(args=(Y,), dtype="fp16", name="cast_value"), factor(0, -1.0)),
        (apply("exp2", X), factor(0, 1.0)),
        (apply("log2", Y), addend(0, -1.0)),
        (apply("max", X, X), addend(0, 1.0)),
        (apply("max", X, CONST), addend(2, 1.0)),
        (apply("guard", X), addend(0, 1.0)),
        (apply("tile_reference", X, CONST, X, CONST), addend(0, 1.0)),
        (RowReference(limit=1.0, args=(X, X, CONST), name="relative"), addend(0, 1.0)),
        (apply("exp", CONST), STAYS),
    ],
)
def test_moves(value: Value, expected: Move) -> None:
    assert same(moved(value), expected)


def test_a_logarithm_undoes_an_exponential() -> None:
    power = apply("exp", X)
    log = apply("log", power)
    shifts = Shifts(("p",), {X: addend(0, 1.0)})
    shifts.follow([power, log])
    assert same(shifts.of(log), addend(0, 1.0))


@pytest.mark.parametrize(
    "value",
    [
        apply("mul", X, CONST),
        apply("mul", X, Y),
        apply("add", Y, CONST),
        apply("add", X, Y),
        apply("div", CONST, X),
        apply("exp2", Y),
        apply("log2", X),
        apply("max", Y, CONST),
        apply("min", X, CONST),
        apply("tanh", Y),
        apply("sqrt", Y),
        apply("guard", Y),
        apply("tile_reference", Y, CONST, X, CONST),
        RowReference(limit=1.0, args=(X, CONST, X), name="relative"),
        TileReduce(reduction="add", axis="p", args=(Y,), dtype="fp32", name="reduce_value"),
        TileReduce(reduction="add", axis="m", args=(X,), dtype="fp32", name="reduce_value"),
        Dot(contracted="p", args=(Y, CONST), dtype="fp32", name="dot_value"),
    ],
)
def test_what_moves_in_no_such_way_is_refused(value: Value) -> None:
    with pytest.raises(Dependent, match=value.op):
        moved(value)


NAMED = {"x": X, "y": Y, "z": Z, "c": CONST}
OPERATORS = [
    ("add", 2),
    ("sub", 2),
    ("mul", 2),
    ("div", 2),
    ("max", 2),
    ("neg", 1),
    ("exp2", 1),
    ("log2", 1),
    ("scale", 1),
]


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_moves_are_what_happens(data: st.DataObject) -> None:
    """Drawn expressions of a reference, a sum relative to it and a constant, at two references."""
    values = [X, Y, CONST]
    for _ in range(data.draw(st.integers(1, 6))):
        op, arity = data.draw(st.sampled_from(OPERATORS))
        args = tuple(data.draw(st.sampled_from(values)) for _ in range(arity))
        values.append(scaled(*args, 0.5) if op == "scale" else apply(op, *args))
    shifts = Shifts((), {X: addend(0, 1.0), Y: factor(0, -1.0)})
    try:
        shifts.follow(values[3:])
    except Dependent:
        return
    before, after = (_evaluated(values[3:], {X: 0.3 + d, Y: 1.7 * 2.0**-d, CONST: 0.9}) for d in (0.0, 0.75))
    for v in values[3:]:
        move = shifts.of(v)
        if all(r == 0 for r, _ in (*move.factor, *move.addend)) and np.isfinite(before[v]) and np.isfinite(after[v]):
            k, a = (dict(x).get(0, 0.0) for x in (move.factor, move.addend))
            assert np.isclose(after[v], before[v] * 2.0 ** (k * 0.75) + a * 0.75, rtol=1e-9, atol=1e-9)


def _evaluated(values: list[Value], known: dict[Value, float]) -> dict[Value, np.float64]:
    found = {v: np.float64(x) for v, x in known.items()}
    meanings = {
        "add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide, "max": np.maximum,
        "neg": np.negative, "exp2": np.exp2, "log2": np.log2, "scale": lambda x: 0.5 * x,
    }  # fmt: skip
    with np.errstate(all="ignore"):
        for v in values:
            found[v] = np.float64(meanings[v.op](*(found[a] for a in v.args)))
    return found


def test_linear_forms() -> None:
    total = apply("add", scaled(X, 2.0), Y)
    again = apply("add", scaled(total, 0.5), X)
    assert linear(again) == {X: 2.0, Y: 0.5}
    assert all(linear(v) == {v: 1.0} for v in itertools.chain((X, Y), ()))
