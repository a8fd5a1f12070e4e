"""Attentions with any modifiers and shapes, every emitter: within the derived budget, rows that see nothing too."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from attention_variants import ALONE, combinations
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kernel_forms import DTYPES, Case, derived, errors, power

from eintune.search.measure.inputs import draw_inputs
from eintune.space.ir.approximations import FUNCTIONS
from eintune.space.plan.pipelined_product import PIPELINED
from eintune.space.plan.roles import Role
from eintune.space.schedule.schedule import FILTERS, LOADS, Schedule
from eintune.space.workloads.attention import Attention, posed
from eintune.space.workloads.modifiers import Bias, Causal, Mask, Slopes, Softcap, Window

EMITTERS = ["torch", pytest.param("triton", marks=pytest.mark.interpreter)]
SIZES = {"b": 2, "h": 2, "p": 37, "m": 21, "e": 20, "f": 24}
"""More queries than keys: aligned to the lower right, the first rows see nothing."""


@dataclass(frozen=True)
class Drawn:
    """One kernel to check. form: which of the derived forms, by its place among them (from 0 to 1)."""

    variant: Attention
    sizes: dict[str, int]
    rows: int
    columns: int
    dtype: str
    form: float
    filters: str
    scale: float
    pipelined: str = "none"
    loads: str = LOADS[0]
    functions: str = FUNCTIONS[0]


def check(execute, drawn: Drawn, emitter: str, times: float = 1.0) -> None:
    problem = posed(drawn.variant, drawn.sizes, drawn.dtype, {"scale": drawn.scale})
    found = derived(problem.cascade)
    roles = {r: Role("grid", None) for r in "bhg"} | {"p": Role("grid", drawn.rows), "m": Role("loop", drawn.columns)}
    roles |= {r: Role(None, power(drawn.sizes[r])) for r in "ef"}
    chosen = tuple((r, role) for r, role in roles.items() if r in drawn.sizes)
    style = {name: getattr(drawn, name) for name in ("filters", "pipelined", "loads", "functions")}
    schedule = Schedule(emitter, chosen, **style)
    case = Case(found[int(drawn.form * len(found))], problem, schedule)
    kernel, data = case.kernel, draw_inputs(problem, "cpu")
    tensors = [
        torch.full(a.shape, float("nan"), dtype=DTYPES[a.dtype]) if a.output else data[a.name] for a in kernel.arguments
    ]
    execute(kernel, tensors)
    assert not errors(case, kernel, tensors, times), drawn


@pytest.mark.parametrize("emitter", EMITTERS)
@pytest.mark.parametrize("name", ALONE)
def test_each_modifier(name: str, emitter: str, execute) -> None:
    form = list(ALONE).index(name) % 3 / 3  # the fewest passes, and others
    check(execute, Drawn(ALONE[name], SIZES, 16, 16, "fp32", form, "segments", 0.3), emitter)


@pytest.mark.parametrize("emitter", EMITTERS)
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_standard_slopes_of_heads_of_any_number(dtype: str, emitter: str, execute) -> None:
    variant = Attention((Slopes(standard=True, align="lower_right"),), lse=True)
    check(execute, Drawn(variant, SIZES | {"h": 3, "g": 2}, 16, 16, dtype, 0.0, "segments", 0.3), emitter)


NARROW = {
    "causal": Attention((Slopes(), Causal())),
    "lower right, sinks": Attention((Slopes(standard=True), Causal("lower_right")), sinks=True),
    "window, mask": Attention((Softcap(2.0), Slopes(), Window(5), Mask("bm"))),
    "rows": Attention((Bias("bp"), Slopes())),
}
"""Positions in scores: where results are rounded to 16 bits the index of a key is taken apart (`row_offsets`)."""


@pytest.mark.parametrize("emitter", EMITTERS)
@pytest.mark.parametrize("filters", ["segments", "branch"])
@pytest.mark.parametrize("name", NARROW)
def test_positions_in_narrow_results(name: str, filters: str, emitter: str, execute) -> None:
    check(execute, Drawn(NARROW[name], SIZES | {"m": 53}, 16, 16, "fp16", 0.0, filters, 0.3), emitter)


@pytest.mark.parametrize("emitter", EMITTERS)
@pytest.mark.parametrize("filters", FILTERS)
def test_filters_that_are_known_to_hold_nowhere(filters: str, emitter: str, execute) -> None:
    variant = Attention((Window(9, both=True, align="lower_right"), Bias("bp")), sinks=True)
    check(
        execute,
        Drawn(variant, dict.fromkeys("bhpm", 1) | {"e": 8, "f": 16}, 16, 16, "fp32", 0.0, filters, 0.3),
        emitter,
    )


@st.composite
def kernels(draw: st.DrawFn) -> Drawn:
    lengths = st.sampled_from([1, 3, 16, 17, 33, 48])
    sizes = {
        "b": draw(st.sampled_from([1, 2])),
        "h": draw(st.sampled_from([1, 2])),
        "p": draw(lengths),
        "m": draw(lengths),
    }
    sizes |= {"e": draw(st.sampled_from([8, 16, 24])), "f": draw(st.sampled_from([16, 40]))}
    sizes |= {"g": 2} if draw(st.booleans()) else {}
    tiles = st.sampled_from([16, 32])
    return Drawn(
        draw(combinations()),
        sizes,
        draw(tiles),
        draw(tiles),
        draw(st.sampled_from(["fp32", "fp16", "bf16"])),
        draw(st.floats(0, 1, exclude_max=True)),
        draw(st.sampled_from(FILTERS)),
        draw(st.sampled_from([0.3, 1.0, -0.5])),
        draw(st.sampled_from(PIPELINED)),
        draw(st.sampled_from(LOADS)),
        draw(st.sampled_from(FUNCTIONS)),
    )


@pytest.mark.parametrize("emitter", EMITTERS)
@settings(max_examples=6, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(drawn=kernels())
def test_modifiers_combined(emitter: str, execute, drawn: Drawn) -> None:
    check(execute, drawn, emitter)


@pytest.mark.soak
@pytest.mark.parametrize("emitter", EMITTERS)
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(drawn=kernels())
def test_many_modifiers_combined(emitter: str, execute, drawn: Drawn) -> None:
    check(execute, drawn, emitter, times=2.0)
