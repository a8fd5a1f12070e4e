"""Functions by the hardware's approximation: offered where tensors are coarser, one instruction, within the budget."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from kernel_forms import Case, errors, inputs

from eintune.costmodel.counts.resources import unsupported
from eintune.costmodel.counts.work import work
from eintune.costmodel.machines.machine import load_machine
from eintune.kernels.launch.load import load
from eintune.kernels.launch.module import interpreted
from eintune.kernels.launch.offline import compile_kernel
from eintune.space.cascade.problem import Problem
from eintune.space.ir.approximations import APPROXIMATIONS
from eintune.space.lowering.lower import build_plan
from eintune.space.plan.roles import Role
from eintune.space.schedule.schedule import Schedule
from eintune.space.schedule.space import schedules
from eintune.space.workloads.attention import Attention, CausalMode, attention_problem
from eintune.space.workloads.modifiers import Modifier, Softcap

COMPILES = pytest.mark.skipif(interpreted(), reason="TRITON_INTERPRET is set: this process cannot compile")


def attention(dtype: str, seq: int, causal: CausalMode, *modifiers: Modifier) -> Problem:
    sizes = {"batch": 1, "heads": 2, "kv_heads": 2, "seq": seq, "kv_seq": seq, "head_dim": 32}
    return attention_problem(**sizes, dtype=dtype, causal=causal, variant=Attention(modifiers))


def capped(dtype: str, functions: str = "approximate", seq: int = 64, causal: CausalMode = None) -> Case:
    problem = attention(dtype, seq, causal, Softcap(5.0))
    roles = {"p": Role("grid", 32), "m": Role("loop", 16)}
    for r in problem.sizes:
        roles.setdefault(r, Role(None, 32) if r in "ef" else Role("grid", None))
    cascade = problem.definition
    return Case(cascade, problem, Schedule("triton", tuple(roles.items()), functions=functions))


def squashed(dtype: str) -> Case:
    """Y[a, m] = tanh(X[a, m])."""
    problem = Problem("squashed", "Ya,m = tanh(Xa,m)", {"a": 8, "m": 256}, {"X": dtype, "Y": "fp32"})
    roles = (("a", Role("grid", 4)), ("m", Role(None, 256)))
    return Case(problem.definition, problem, Schedule("triton", roles, functions="approximate"))


@pytest.mark.parametrize(("dtype", "offered"), [("bf16", True), ("fp16", False), ("fp32", False)])
def test_only_coarser_tensors_take_approximations(dtype: str, offered: bool) -> None:
    case = capped(dtype)
    settings = {s.functions for s in schedules(case.cascade, case.problem, "triton")}
    assert settings == ({"exact", "approximate"} if offered else {"exact"})
    assert ("tanh_approximate" in case.kernel.source) is offered  # whatever a schedule from a file says
    assert {s.functions for s in schedules(case.cascade, case.problem, "torch")} == {"exact"}


def test_the_torch_emitter_takes_the_function_itself() -> None:
    """Whatever a schedule from a file says."""
    case = capped("bf16").on("torch")
    tensors = inputs(case)
    load(case.kernel)(tensors)
    assert "torch.tanh(" in case.kernel.source and not errors(case, case.kernel, tensors)


def test_nothing_to_approximate_is_offered_nothing() -> None:
    problem = attention("bf16", 64, None)
    assert {s.functions for s in schedules(problem.definition, problem, "triton")} == {"exact"}


@pytest.mark.parametrize(("machine", "has"), [("h200", True), ("a100", True), ("mi300x", False), ("cpu", False)])
def test_machines_without_the_instruction_are_offered_none(machine: str, has: bool) -> None:
    why = unsupported(capped("bf16").schedule, load_machine(machine))
    assert why is None if has else str(why) == f"approximate functions: {machine} has none in hardware"
    assert unsupported(capped("bf16", "exact").schedule, load_machine(machine)) is None


def test_an_approximation_costs_one_special_operation() -> None:
    counted = []
    for functions in ("exact", "approximate"):
        case = capped("bf16", functions)
        counted.append(work(build_plan(case.cascade, case.problem, case.schedule), case.schedule).traffic)
    exact, approximate = counted
    assert approximate.special_ops < exact.special_ops and approximate.fma_flops < exact.fma_flops
    assert approximate.hbm_bytes == exact.hbm_bytes


@pytest.mark.interpreter
@pytest.mark.parametrize("causal", [None, "top_left"])
def test_within_the_budget(causal: CausalMode, execute) -> None:
    case = capped("bf16", seq=50, causal=causal)
    kernel, tensors = case.kernel, inputs(case)
    execute(kernel, tensors)
    assert not errors(case, kernel, tensors)


@COMPILES
def test_one_instruction(tmp_path: Path) -> None:
    case = capped("bf16")
    compiled = compile_kernel(case.kernel, "sm_90", cache_dir=tmp_path)
    exact = compile_kernel(capped("bf16", "exact").kernel, "sm_90", cache_dir=tmp_path)
    assert "tanh.approx.f32" in compiled.assembly and "tanh.approx.f32" not in exact.assembly


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU, and there is none")
def test_the_stated_error() -> None:
    case = squashed("bf16")
    worst = 0.0
    for scale in (1e-3, 0.1, 1.0, 4.0, 30.0):
        x, y = (t.cuda() for t in inputs(case))
        x.mul_(scale)
        load(case.kernel)([x, y])
        exact = torch.tanh(x.double())
        worst = max(worst, float(((y - exact) / exact).abs().nan_to_num().max()))
    assert 0 < worst <= APPROXIMATIONS["tanh"].error
    softcap = capped("bf16", seq=300)
    tensors = [t.cuda() for t in inputs(softcap)]
    load(softcap.kernel)(tensors)
    assert not errors(softcap, softcap.kernel, [t.cpu() for t in tensors])
