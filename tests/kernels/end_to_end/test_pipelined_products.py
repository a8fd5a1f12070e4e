"""A loop's last product one iteration later: what moves, what is printed, and that the numbers stay the same."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kernel_errors import worst
from kernel_forms import Case, attention_case, errors, inputs
from plan_cases import Form, forms
from plan_checks import schedule_of

from eintune.costmodel.counts.resources import resources
from eintune.costmodel.machines.machine import load_machine
from eintune.costmodel.pricing.time import estimate
from eintune.kernels.launch.load import load
from eintune.kernels.launch.module import interpreted
from eintune.kernels.launch.offline import compile_kernel
from eintune.space.lowering.lower import build_plan
from eintune.space.plan.pipelined_product import pipelined_product
from eintune.space.plan.plan import LoopPlan
from eintune.space.schedule.space import schedules

COMPILES = pytest.mark.skipif(interpreted(), reason="TRITON_INTERPRET is set: this process cannot compile")
LARGE = {"rows": 64, "columns": 64, "heads": 32, "seq": 2048, "head_dim": 128, "dtype": "bf16", "stages": 3}

CASES: dict[str, dict[str, Any]] = {
    "one tile": {"seq": 16, "kv_seq": 16, "rows": 16},
    "a tail": {"seq": 33, "kv_seq": 50, "dtype": "bf16"},
    "one of each": {"seq": 1, "kv_seq": 1, "rows": 16, "dtype": "bf16"},
    "filtered in a branch": {"causal": "top_left", "filters": "branch", "seq": 77, "dtype": "bf16"},
    "filtered from the end": {"causal": "lower_right", "filters": "branch", "seq": 33, "kv_seq": 50, "dtype": "fp16"},
    "filtered everywhere": {"causal": "top_left", "filters": "every", "seq": 50},
    "segments stay as they are": {"causal": "top_left", "filters": "segments", "seq": 50},
    "empty rows": {"causal": "lower_right", "filters": "branch", "seq": 50, "kv_seq": 33, "dtype": "fp16"},
    "rows without a tile": {"causal": "lower_right", "filters": "branch", "seq": 80, "kv_seq": 16, "rows": 16},
    "grouped, by descriptor": {"heads": 6, "kv_heads": 2, "seq": 64, "dtype": "bf16", "loads": "descriptor"},
}


def pipelined(passes: int = 1, **kw: Any) -> Case:
    return attention_case(passes, pipelined="product", **kw)


def plan_of(case: Case) -> LoopPlan:
    return build_plan(case.cascade, case.problem, case.schedule)


@pytest.mark.interpreter
@pytest.mark.parametrize("passes", [1, 2])
@pytest.mark.parametrize("name", CASES)
def test_the_numbers_stay(name: str, passes: int, execute) -> None:
    case = pipelined(passes, **CASES[name])
    kernel, tensors = case.kernel, inputs(case)
    execute(kernel, tensors)
    assert not errors(case, kernel, tensors)


@pytest.mark.interpreter
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(1, 70), st.integers(1, 70), st.sampled_from(["top_left", "lower_right", None]))
def test_any_length(execute, seq: int, kv_seq: int, causal: str | None) -> None:
    case = pipelined(seq=seq, kv_seq=kv_seq, causal=causal, filters="branch", rows=16, dtype="bf16")
    kernel, tensors = case.kernel, inputs(case)
    execute(kernel, tensors)
    assert not errors(case, kernel, tensors)


@pytest.mark.interpreter
@pytest.mark.parametrize("form", forms()[2::9], ids=lambda f: f.name)
def test_tabled_computations(form: Form, execute) -> None:
    sizes = {"b": 1, "h": 2, "g": 2, "p": 19, "m": 77, "e": 24, "f": 24, "j": 24}
    schedule = replace(schedule_of(form, sizes, "triton", filters="branch"), pipelined="product")
    assert worst(execute, form.definition, form.computed, sizes, form.params, schedule) < 3e-5


@pytest.mark.interpreter
@pytest.mark.parametrize("loads", ["pointer", "descriptor"])
@pytest.mark.parametrize("causal", [None, "top_left"])
def test_infinite_values_stay_infinite(causal: str | None, loads: str, execute) -> None:
    """No product of 0 and infinity: not before the first tile, and not with a tile that a filter leaves out."""
    found = []
    for setting in ("none", "product"):
        case = attention_case(1, seq=32, rows=16, causal=causal, filters="branch", loads=loads, pipelined=setting)
        tensors = inputs(case)
        value = next(t for a, t in zip(case.kernel.arguments, tensors, strict=True) if a.name == "V")
        value[..., 0, :] = float("inf")
        execute(case.kernel, tensors)
        found.append(tensors[-1])
    assert found[0].isposinf().all()
    assert found[1].isposinf().all()


def test_what_moves() -> None:
    (loop,) = plan_of(pipelined(dtype="bf16")).loops()
    found = pipelined_product(loop)
    assert found is not None and found.values[-1] is found.carry.next
    assert sorted(v.op for v in found.values) == ["cast", "dot", "load", "mul"]
    assert [v.op for v in found.kept] == ["exp2", "exp2"]


@pytest.mark.parametrize("passes", [2, 3])
def test_a_loop_with_one_product_has_nothing_to_run_it_beside(passes: int) -> None:
    loops = list(plan_of(pipelined(passes)).loops())
    products = [sum(getattr(v, "op", "") == "dot" for v in loop.body.items) for loop in loops]
    assert [pipelined_product(loop) is not None for loop in loops] == [n > 1 for n in products]
    assert min(products) == 1


def test_two_loops_over_one_body_stay_as_they_are() -> None:
    case = pipelined(**LARGE, causal="top_left", filters="segments")
    assert case.kernel == replace(case, schedule=replace(case.schedule, pipelined="none")).kernel
    assert "_before" in pipelined(**LARGE).kernel.source


def test_it_is_offered_where_there_is_a_pipeline() -> None:
    problem = pipelined(**LARGE).problem
    offered = [s for s in schedules(problem.definition, problem, "triton") if s.pipelined == "product"]
    assert offered and all(s.stages > 2 and s.warps == 4 and s.loads != "pointer" for s in offered)
    assert all((s.role("p").tile or 0) <= 64 for s in offered)
    assert all(s.pipelined == "none" for s in schedules(problem.definition, problem, "torch"))


@COMPILES
def test_the_compiler_lets_the_product_run(tmp_path: Path) -> None:
    """It waits once an iteration, for the first product and that of the iteration before; nothing spills."""
    case = pipelined(**LARGE, loads="descriptor")
    compiled = compile_kernel(case.kernel, "sm_90", cache_dir=tmp_path)
    body = compiled.ttgir.split("scf.for")[1].split("scf.yield")[0]
    assert (body.count("warp_group_dot "), body.count("warp_group_dot_wait")) == (2, 1)
    assert not compiled.resources.spill_bytes
    predicted = resources(plan_of(case), case.schedule, load_machine("h200"))
    assert predicted.registers_per_thread == pytest.approx(compiled.resources.registers_per_thread, rel=0.15)


def test_the_model_sees_what_it_hides() -> None:
    machine, times = load_machine("h200"), []
    for setting in ("none", "product"):
        case = attention_case(1, **LARGE, loads="descriptor", pipelined=setting)
        times.append(estimate(plan_of(case), case.schedule, machine).seconds)
    assert 0.9 < times[1] / times[0] < 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU, and there is none")
@pytest.mark.parametrize("loads", ["pointer", "descriptor"])
@pytest.mark.parametrize("causal", [None, "top_left", "lower_right"])
@pytest.mark.parametrize("head_dim", [64, 128])
def test_on_a_gpu(head_dim: int, causal: str | None, loads: str) -> None:
    shape = {"head_dim": head_dim, "seq": 300, "kv_seq": 200, "rows": 64, "columns": 64, "dtype": "bf16"}
    for stages in (2, 3):
        case = pipelined(**shape, causal=causal, filters="branch", loads=loads, stages=stages)
        tensors = [t.cuda() for t in inputs(case)]
        load(case.kernel)(tensors)
        assert not errors(case, case.kernel, [t.cpu() for t in tensors])
