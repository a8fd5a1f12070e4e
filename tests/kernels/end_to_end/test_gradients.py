"""Each stage of an attention's backward as kernels: on tiles by PyTorch and Triton, and by specialised warps."""

from __future__ import annotations

import functools
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from gluon_interpreter import perform
from kernel_forms import DTYPES, Case, derived, errors

import eintune.operators  # noqa: F401
from eintune.kernels.launch.module import interpreted
from eintune.kernels.launch.offline import compile_kernel
from eintune.kernels.operators.cascade import made_of
from eintune.kernels.operators.gradients import backward, dtypes_of, forward_program
from eintune.kernels.reference.eager import run_eager
from eintune.kernels.serve.compiled import compile
from eintune.space.analysis.rank_uses import rank_uses
from eintune.space.cascade.builder import given, total
from eintune.space.cascade.problem import Problem
from eintune.space.plan.roles import Role
from eintune.space.schedule.schedule import Schedule
from eintune.space.schedule.space import schedules
from eintune.space.workloads.attention import Attention
from eintune.space.workloads.modifiers import Bias, Causal, Mask, Modifier, Slopes, Softcap, Window

EMITTERS = ["torch", pytest.param("triton", marks=pytest.mark.interpreter)]
NUMBERS = {"scale": 0.3, "cap": 3.0}
WAYS: dict[str, tuple[tuple[Modifier, ...], bool]] = {
    "plain": ((), False),
    "causal": ((Causal(),), False),
    "rows that see nothing": ((Causal("lower_right"), Window(9)), True),
    "softcap, slopes, sinks": ((Softcap(3.0), Slopes(), Causal()), True),
    "slopes": ((Slopes(), Causal()), False),
    "bias over heads": ((Bias("hm"),), False),
    "mask": ((Mask("pm"),), False),
}
HIDING: dict[str, tuple[tuple[Modifier, ...], bool]] = {"bias": ((Bias("pm"),), False)}


@dataclass(frozen=True)
class Stage:
    problem: Problem
    data: dict[str, torch.Tensor]


def stages(
    name: str, sizes: dict[str, int], dtype: torch.dtype, steep: float = 1.0, hides: float = 0.0
) -> Iterator[Stage]:
    """The stages of a backward with what each reads: the exact results of those before it, rounded. steep: a factor of
    the slopes. hides: what a bias adds to all scores of two rows."""
    modifiers, sinks = (WAYS | HIDING)[name]
    definition = Attention(modifiers, sinks=sinks).cascade(grouped="g" in sizes)
    own = {r for t in definition.inputs.values() for r in t.ranks}
    told = {r: n for r, n in sizes.items() if r not in own and r in definition.ranks()}
    plain = compile(definition, params={n: v for n, v in NUMBERS.items() if n in str(definition)}, sizes=told)
    program = forward_program(plain.stated, "fp32")
    forward = made_of(program)
    generator = torch.Generator().manual_seed(0)

    def drawn(ranks: tuple[str, ...]) -> torch.Tensor:
        return torch.randn([sizes[r] for r in ranks], generator=generator).to(dtype)

    known = {n: drawn(t.ranks) > -0.5 if n == "MASK" else drawn(t.ranks) for n, t in definition.inputs.items()}
    if "SLOPE" in known:
        known["SLOPE"] *= steep
    if hides:
        known["BIAS"][..., 3:5, :] = hides
    inputs = [known[n] for n in forward.inputs]
    made = run_eager(
        forward.cascade, dict(zip(forward.inputs, inputs, strict=True)), sizes, forward.params, torch.double
    )
    known |= {n: t.to(dtype) if n in definition.outputs else t.float() for n, t in made.items()}
    wrt = tuple(n for n, t in known.items() if n in definition.inputs and t.is_floating_point())
    found = backward(program, ("AV",), wrt, dtypes_of(inputs), "fp32")
    known[found.cotangents["AV"]] = drawn(definition.outputs["AV"].ranks)
    for stage in found.stages:
        compiled = made_of(stage.stated({r: sizes[r] for r in stage.told}))
        problem = compiled.problem(tuple(known[n] for n in stage.inputs))
        yield Stage(problem, {n: known[n] for n in stage.inputs})
        its = {n: known[n] for n in stage.inputs}
        exact = run_eager(compiled.cascade, its, problem.sizes, problem.params, torch.double)
        known |= {n: t.to(DTYPES[problem.dtypes[n]]) for n, t in exact.items()}


def some(problem: Problem, count: int, specialised: bool, emitter: str) -> Iterator[Case]:
    """A few of the schedules that are legal, drawn."""
    form = derived(problem.cascade)[0]
    every: list[Schedule] = [s for s in schedules(form, problem, emitter) if s.is_specialised == specialised]
    random.Random(0).shuffle(every)
    for schedule in every:
        try:
            case = Case(form, problem, schedule)
            _ = case.kernel
        except ValueError:
            continue
        yield case
        count -= 1
        if not count:
            return


def tensors(case: Case, stage: Stage) -> list[torch.Tensor]:
    return [
        torch.full(a.shape, float("nan"), dtype=DTYPES[a.dtype]) if a.output else stage.data[a.name].to(DTYPES[a.dtype])
        for a in case.kernel.arguments
    ]


@pytest.mark.parametrize("emitter", EMITTERS)
@pytest.mark.parametrize("name", WAYS)
def test_stages_on_tiles(name: str, emitter: str, execute: Any) -> None:
    sizes = {"b": 2, "h": 2, "p": 40, "m": 37, "e": 16, "f": 32, "w": 9}
    for stage in stages(name, sizes, torch.float32):
        for case in some(stage.problem, 3, False, emitter):
            tiles = tensors(case, stage)
            execute(case.kernel, tiles)
            # of a sum over all queries for each of two heads the budget is that of two numbers by chance
            times = 2.0 if max(map(torch.numel, tiles)) < 400 else 1.0
            assert not errors(case, case.kernel, tiles, times), (stage.problem.cascade, case.schedule)


@pytest.mark.interpreter
@pytest.mark.parametrize("steep", [-40.0, 40.0])
def test_queries_that_are_padding_weigh_nothing_however_steep_the_slopes(steep: float, execute: Any) -> None:
    """Beyond the last query a tile holds zeros, but positions go on, and so do their scores: up to e^1000 here."""
    sizes = {"b": 1, "h": 2, "p": 40, "m": 37, "e": 16, "f": 16}
    for stage in stages("slopes", sizes, torch.float32, steep):
        for case in some(stage.problem, 3, False, "triton"):
            tiles = tensors(case, stage)
            execute(case.kernel, tiles)
            assert all(bool(t.isfinite().all()) for t in tiles), (stage.problem.cascade, case.schedule)


@pytest.mark.interpreter
@pytest.mark.parametrize("hides", [-1e30, -1e10, torch.finfo(torch.float32).min])
def test_rows_that_a_finite_bias_hides_as_a_whole(hides: float, execute: Any) -> None:
    """Each of 37 keys weighs 1/37 there, though no score of 1e10 has room for the logarithm of 37."""
    sizes = {"b": 1, "h": 2, "p": 40, "m": 37, "e": 16, "f": 16}
    for stage in stages("bias", sizes, torch.float32, hides=hides):
        for case in some(stage.problem, 3, False, "triton"):
            tiles = tensors(case, stage)
            execute(case.kernel, tiles)
            assert not errors(case, case.kernel, tiles), (stage.problem.cascade, case.schedule)


@pytest.mark.interpreter
def test_stages_of_grouped_heads(execute: Any) -> None:
    """The gradients of keys and values are sums over the query heads of each."""
    sizes = {"b": 1, "h": 2, "g": 3, "p": 33, "m": 20, "e": 16, "f": 16}
    for stage in stages("causal", sizes, torch.float32):
        for case in some(stage.problem, 3, False, "triton"):
            tiles = tensors(case, stage)
            execute(case.kernel, tiles)
            assert not errors(case, case.kernel, tiles), (stage.problem.cascade, case.schedule)


@pytest.mark.interpreter
@pytest.mark.parametrize("name", ["plain", "causal", "softcap, slopes, sinks"])
def test_stages_by_specialised_warps(name: str, execute: Any) -> None:
    """Loads by one group of warps, products by others: the gradients of queries, and those of keys and values."""
    sizes = {"b": 1, "h": 1, "p": 200, "m": 130, "e": 64, "f": 64, "w": 100}
    found = set()
    for stage in stages(name, sizes, torch.bfloat16):
        for case in some(stage.problem, 1, True, "triton"):
            tiles = tensors(case, stage)
            perform(case.kernel, tiles, execute, 1)
            assert not errors(case, case.kernel, tiles), (stage.problem.cascade, case.schedule)
            found |= set(stage.problem.definition.outputs)
    assert {"DQ", "DK", "DV"} <= found


@pytest.mark.skipif(interpreted(), reason="TRITON_INTERPRET is set: this process cannot compile")
def test_partial_sums_of_grouped_heads_compile_for_a_gpu(tmp_path: Path) -> None:
    """Their fp32 tiles are stored through pointers, whose rows lie as those of the products' do. A query head is not a
    tile: each is a problem of its own beside the queries that are gone over."""
    sizes = {"b": 1, "h": 2, "g": 4, "p": 512, "m": 512, "e": 128, "f": 128}
    (products,) = [s for s in stages("causal", sizes, torch.bfloat16) if "K" in s.data and "DQ" not in s.problem.dtypes]
    for case in some(products.problem, 3, True, "triton"):
        assert dict(case.schedule.roles)["g"] == Role("grid", None)
        compile_kernel(case.kernel, "sm_90", cache_dir=tmp_path)


def test_sums_of_elements_run_along_the_innermost_axis() -> None:
    roots = [total("g", given("X", "bgmf"))]
    kinds = rank_uses(roots, {}, "bgmf", {"b": 2, "g": 4, "m": 4096, "f": 64}, 1024).kinds
    assert kinds["f"] == "row" and kinds["m"] == "grouped"


@functools.cache
def _texts(name: str) -> tuple[str, ...]:
    return tuple(
        s.problem.cascade
        for s in stages(name, {"b": 1, "h": 1, "p": 8, "m": 8, "e": 16, "f": 16, "w": 4}, torch.float32)
    )


@pytest.mark.parametrize("name", WAYS)
def test_no_stage_looks_for_a_maximum(name: str) -> None:
    assert all("max" not in text for text in _texts(name))
