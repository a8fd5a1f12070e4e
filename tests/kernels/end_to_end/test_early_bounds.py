"""Loop bounds found by a kernel before: what moves, what stays, where it is offered."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from kernel_forms import Case, derived, errors, inputs

from eintune.costmodel.counts.work import work
from eintune.costmodel.machines.machine import load_machine
from eintune.costmodel.pricing.time import estimate
from eintune.kernels.launch.load import load
from eintune.kernels.launch.module import interpreted
from eintune.kernels.launch.offline import compile_kernel
from eintune.space.lowering.lower import build_program
from eintune.space.plan.plan import Loop, Program
from eintune.space.plan.roles import Role
from eintune.space.schedule.schedule import Schedule
from eintune.space.schedule.space import schedules
from eintune.space.workloads.attention import Attention, posed
from eintune.space.workloads.modifiers import Causal, Documents, Modifier

COMPILES = pytest.mark.skipif(interpreted(), reason="TRITON_INTERPRET is set: this process cannot compile")
SIZES = {"b": 2, "h": 4, "p": 200, "m": 200, "e": 16, "f": 16}


def packed(
    bounds: str = "kernel", sizes: dict[str, int] | None = None, *modifiers: Modifier, emitter: str = "triton"
) -> Case:
    problem = posed(Attention(modifiers or (Causal(), Documents())), sizes or SIZES, "bf16", {"scale": 0.3})
    whole = {r: Role(None, problem.sizes[r]) for r in "ef"}
    roles = {r: Role("grid", None) for r in "bhg" if r in problem.sizes} | {"p": Role("grid", 64)}
    chosen = tuple((roles | {"m": Role("loop", 32)} | whole).items())
    schedule = Schedule(emitter, chosen, stages=3, filters="branch", bounds=bounds)
    return Case(derived(problem.cascade)[0], problem, schedule)


def program_of(case: Case) -> Program:
    return build_program(case.cascade, case.problem, case.schedule)


def test_what_moves() -> None:
    """The look, with the ranks that documents have, and nothing of it stays; the heads are left to the other."""
    look, rest = program_of(packed()).kernels
    assert set(look.grid) == {"b", "p"} and set(rest.grid) == {"b", "h", "p"}
    assert set(look.inputs) == {"DOCQ", "DOCK"} and not list(look.loops())
    assert all(ranks == ("b", "p_tiles") for ranks in look.outputs.values()) and look.sizes["p_tiles"] == 4
    assert set(look.outputs) < set(rest.inputs) and {look.dtypes[n] for n in look.outputs} == {"int32"}
    before = [v for v in rest.root.items if not isinstance(v, Loop)]
    assert "m_all" not in rest.roles
    reduced = [v.name for v in before if v.op == "reduce"]
    assert reduced == ["acc_2_total", "doubt"]  # whether what it computed is a number


def test_the_source() -> None:
    kernel = packed().kernel
    first, again, second = re.split(r"def kernel_2(?:_by_row)?\(", kernel.source)[:3]
    assert "tl.min(" in first and "tl.min(" not in second and "tl.dot(" not in first and "tl.dot(" in again
    assert [a.shape for a in kernel.workspaces] == [(2, 4)] * len(kernel.workspaces) and kernel.workspaces


@pytest.mark.parametrize(
    ("change", "modifiers"),
    [
        ({"h": 1}, (Causal(), Documents())),  # one head: nothing is shared
        ({}, (Causal(),)),  # no bounds that follow from data
    ],
)
def test_nothing_shared_stays_one_kernel(change: dict[str, int], modifiers: tuple[Modifier, ...]) -> None:
    case = packed("kernel", SIZES | change, *modifiers)
    alone = replace(case, schedule=replace(case.schedule, bounds="program"))
    assert len(program_of(case).kernels) == 1 and case.kernel == alone.kernel


def test_another_emitter_keeps_one_kernel() -> None:
    assert len(program_of(packed(emitter="torch")).kernels) == 1


def test_it_is_offered_for_documents() -> None:
    for modifiers, offered in (((Causal(), Documents()), {"program", "kernel"}), ((Causal(),), {"program"})):
        problem = packed("program", None, *modifiers).problem
        assert {s.bounds for s in schedules(problem.definition, problem, "triton")} == offered
        assert {s.bounds for s in schedules(problem.definition, problem, "torch")} == {"program"}


def test_the_model_sees_work_that_is_done_once() -> None:
    sizes = {"b": 4, "h": 32, "p": 2048, "m": 2048, "e": 128, "f": 128}
    counted = []
    for bounds in ("program", "kernel"):
        case = packed(bounds, sizes)
        counted.append(work(program_of(case), case.schedule).traffic)
        assert estimate(program_of(case), case.schedule, load_machine("h200")).seconds > 0
    alone, early = counted
    assert early.fma_flops < alone.fma_flops and early.l2_bytes < alone.l2_bytes


@pytest.mark.interpreter
@pytest.mark.parametrize("sizes", [{}, {"g": 2}, {"p": 77, "m": 130}, {"b": 1, "p": 1}])
def test_the_numbers(sizes: dict[str, int], execute) -> None:
    case = packed("kernel", SIZES | sizes)
    kernel, tensors = case.kernel, inputs(case)
    assert kernel.steps
    execute(kernel, tensors)
    assert not errors(case, kernel, tensors)


@COMPILES
def test_it_compiles(tmp_path: Path) -> None:
    made = compile_kernel(packed().kernel, "sm_90", cache_dir=tmp_path)
    assert made.resources.spill_bytes == 0 and made.assembly.count(".entry") == 2


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU, and there is none")
def test_on_a_gpu() -> None:
    case = packed("kernel", SIZES | {"p": 300, "m": 300})
    run = load(case.kernel)
    for seed in range(3):
        tensors = [t.cuda() for t in inputs(case, seed)]
        run(tensors)
        assert not errors(case, case.kernel, [t.cpu() for t in tensors])
