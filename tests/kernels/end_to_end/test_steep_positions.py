"""Positions times numbers far larger than any score (steep slopes of ALiBi): every form, every emitter.

Where results have 16 bits an index is taken apart, and its parts are larger than their sum (`row_offsets`). A result is
compared with the definition in float64.
"""

from __future__ import annotations

import math

import pytest
import torch
from gluon_interpreter import run as interpret_gluon
from kernel_forms import Case, derived, power, run_on_gpu

from eintune.kernels.reference.eager import DTYPES, run_eager
from eintune.space.cascade.problem import Problem
from eintune.space.lowering.lower import build_program
from eintune.space.plan.lazy_rescaling import lazy_rescalings
from eintune.space.plan.plan import all_values
from eintune.space.plan.roles import Role
from eintune.space.plan.values import Dot, Lane, RowReference
from eintune.space.schedule.schedule import Schedule
from eintune.space.schedule.space import schedules
from eintune.space.workloads.attention import Attention, posed
from eintune.space.workloads.modifiers import Causal, Slopes, Window

EMITTERS = ["torch", pytest.param("triton", marks=pytest.mark.interpreter)]
SIZES = {"b": 1, "h": 2, "p": 34, "m": 50, "e": 16, "f": 16}
LARGE = {"b": 1, "h": 2, "p": 256, "m": 256, "e": 64, "f": 64}
VARIANTS = {
    "causal": Attention((Slopes(align="lower_right"), Causal("lower_right"))),
    "every key": Attention((Slopes(),)),
    "window": Attention((Slopes(align="lower_right"), Window(9, both=True, align="lower_right"))),
}
EXPONENTS = [*range(0, 41, 4), 26, 30, 70, 110]
"""Of two in slopes. Beyond 110 scores of these sizes overflow fp32."""
BUDGET = {"fp32": 3e-5, "bf16": 4e-2, "fp16": 6e-3}
"""Of values drawn from a normal distribution; a key that is not the right one is far beyond it."""


def slopes(exponent: int) -> torch.Tensor:
    """A power of two, towards the last key, and a number whose products with positions are rounded, towards the first;
    or the other way round."""
    return torch.tensor([1.0, -1.1] if exponent % 8 else [1.1, -1.0]) * 2.0**exponent


def data_of(case: Case, exponent: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(exponent)
    made = {}
    for a in case.kernel.arguments:
        t = torch.randn(a.shape, generator=generator).to(DTYPES[a.dtype])
        made[a.name] = t.fill_(math.nan) if a.output else t
    return made | {"SLOPE": slopes(exponent)}


def off(case: Case, data: dict[str, torch.Tensor]) -> float:
    """The largest error of AV; NaN where a number is missing."""
    given = {n: t for n, t in data.items() if n not in case.problem.definition.outputs}
    problem = case.problem
    exact = run_eager(problem.definition, given, problem.sizes, problem.params, torch.float64)["AV"]
    return float((data["AV"].double() - exact).abs().max())


def check(case: Case, exponents: list[int], execute) -> None:
    kernel, dtype = case.kernel, case.problem.dtypes["AV"]
    for exponent in exponents:
        data = data_of(case, exponent)
        execute(kernel, [data[a.name] for a in kernel.arguments])
        assert off(case, data) <= BUDGET[dtype], f"slopes of 2^{exponent}"


def cases(variant: str | Attention, dtype: str, emitter: str) -> list[Case]:
    """Each derived form, in small tiles."""
    if isinstance(variant, Attention):
        problem = posed(variant, SIZES, dtype, {"scale": 0.25})
    else:
        dtypes = dict.fromkeys(("Q", "K", "V", "AV"), dtype) | {"SLOPE": "fp32"}
        problem = Problem("cascade", variant, SIZES, dtypes, {"scale": 0.25})
    roles = {r: Role("grid", None) for r in "bh"} | {"p": Role("grid", 16), "m": Role("loop", 16)}
    roles |= {r: Role(None, power(SIZES[r])) for r in "ef"}
    return [Case(form, problem, Schedule(emitter, tuple(roles.items()))) for form in derived(problem.cascade)]


@pytest.mark.parametrize("emitter", EMITTERS)
@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("name", VARIANTS)
def test_slopes_of_any_size(name: str, dtype: str, emitter: str, execute) -> None:
    for number, case in enumerate(cases(VARIANTS[name], dtype, emitter)):
        # The interpreter takes seconds, so each form gets every fourth slope.
        check(case, EXPONENTS if emitter == "torch" else EXPONENTS[number % 4 :: 4], execute)


WRITTEN = """
    QK[b,h,p,m] = sum[e](Q[b,h,p,e] * K[b,h,m,e])
    S[b,h,p,m] = QK[b,h,p,m] * scale + {}
    GM[b,h,p] = max[m](S[b,h,p,m])
    SN[b,h,p,m] = exp(S[b,h,p,m] - GM[b,h,p])
    SD[b,h,p] = sum[m](SN[b,h,p,m])
    AV[b,h,p,f] = sum[m](SN[b,h,p,m] / SD[b,h,p] * V[b,h,m,f])
    """


APART = {"both": "index(m) * SLOPE[h] - index(p) * SLOPE[h]", "the row alone": "index(p) * SLOPE[h]"}
"""Of the second the scores' own digits are lost beyond 2^12, in any program that adds it to them in fp32."""


@pytest.mark.parametrize("emitter", EMITTERS)
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("added", APART)
def test_parts_that_are_written_apart(added: str, dtype: str, emitter: str, execute) -> None:
    """What does not vary along the row is taken off it whatever the results' dtype."""
    case = cases(WRITTEN.format(APART[added]), dtype, emitter)[0]
    check(case, [0, 12] if added == "the row alone" else [0, 12, 26, 33, 40], execute)


def specialised(name: str, dtype: str, rescaling: str) -> Case:
    problem = posed(VARIANTS[name], LARGE, dtype, {"scale": 0.125})
    cascade = derived(problem.cascade)[0]
    legal = (s for s in schedules(cascade, problem, "triton") if s.is_specialised)
    found = [s for s in legal if s.rescaling == rescaling and s.filters in ("branch", "every")]
    return Case(cascade, problem, min(found, key=lambda s: (s.role("m").tile, s.role("p").tile, s.warps)))


@pytest.mark.parametrize("rescaling", ["eager", "lazy"])
@pytest.mark.parametrize(("name", "dtype"), [("causal", "bf16"), ("every key", "fp16"), ("window", "bf16")])
def test_specialised_warps(name: str, dtype: str, rescaling: str) -> None:
    def execute(kernel, tensors: list[torch.Tensor]) -> None:
        if torch.cuda.is_available():
            run_on_gpu(kernel, tensors)
        else:
            interpret_gluon(kernel, tensors, 3)

    case = specialised(name, dtype, rescaling)
    check(case, [0, 7, 22, 30, 40, 110], execute)


def test_a_kept_reference_is_found_beside_a_row_part() -> None:
    """As it was before there was a choice of the tile's own maximum: neither it nor the tile's is found each time."""
    case = specialised("causal", "bf16", "lazy")
    (plan,) = build_program(case.cascade, case.problem, case.schedule).kernels
    (lazy,) = lazy_rescalings(plan).values()
    (relative,) = (v for v in lazy.weights if isinstance(v, RowReference))
    assert relative not in lazy.unread and set(relative.args[1:]) - {lazy.reference} <= lazy.unread
    assert "max" in {getattr(v, "reduction", "") for v in lazy.max_update}
    assert not any(isinstance(v, Dot) for v in lazy.recomputed)


def test_an_index_is_taken_apart_only_where_its_maximum_is_not_met_again() -> None:
    """In one pass; where weights are relative to a maximum of its own loop the score is taken as it is."""
    found = {}
    for case in cases(VARIANTS["every key"], "bf16", "triton"):
        (plan,) = build_program(case.cascade, case.problem, case.schedule).kernels
        found.setdefault(len(list(plan.loops())), set()).add(any(isinstance(v, Lane) for v in all_values(plan.root)))
    assert found[1] == {True} and found[2] == {False}
