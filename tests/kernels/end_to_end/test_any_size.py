"""Kernels for any size: printed once, run at many lengths, on every emitter; and what they refuse."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
from attention_variants import ALONE
from gluon_interpreter import run as interpret_gluon
from kernel_forms import Execute, derived, run_on_gpu

from eintune.costmodel.counts.work import work
from eintune.kernels.emit.kernel import Kernel, divisor
from eintune.kernels.generate.emitters import emit
from eintune.kernels.launch.load import load
from eintune.kernels.launch.module import interpreted
from eintune.kernels.launch.offline import compile_kernel, specialisation_of
from eintune.kernels.reference.eager import DTYPES, run_eager
from eintune.search.measure.inputs import draw_inputs
from eintune.space.cascade.cascade import Cascade
from eintune.space.cascade.problem import Problem
from eintune.space.lowering.lower import build_for_any_size, build_program, unknown_sizes
from eintune.space.plan.bounds_prepass import BOUNDS
from eintune.space.plan.refusals import RuleError
from eintune.space.plan.roles import Role
from eintune.space.plan.sizes import MOST
from eintune.space.schedule.any_size import for_any_size
from eintune.space.schedule.schedule import Schedule
from eintune.space.schedule.space import schedules
from eintune.space.workloads.attention import Attention, posed
from eintune.space.workloads.modifiers import Causal, Documents, Modifier, RelativeBias, Slopes, Window
from eintune.space.workloads.workload import WORKLOADS

EMITTERS = ["torch", pytest.param("triton", marks=pytest.mark.interpreter)]
VARIANTS = {n: v for n, v in ALONE.items() if not any(isinstance(m, RelativeBias | Documents) for m in v.modifiers)}
"""A table of biases by distance has to be as long as the distances of the sizes that are given; documents are below."""
BUDGET = {"fp32": 2e-4, "bf16": 4e-2}


def in_process(kernel: Kernel, tensors: list[torch.Tensor]) -> None:
    """In this process, by plain PyTorch."""
    load(kernel)(tensors)


def at(variant: Attention, b: int, h: int, g: int, p: int, m: int, width: int = 16, dtype: str = "fp32") -> Problem:
    return posed(variant, {"b": b, "h": h, "g": g, "p": p, "m": m, "e": width, "f": width}, dtype, {"scale": 0.25})


def check(kernel: Kernel, problem: Problem, execute: Execute) -> None:
    """Run a kernel for any size at a problem's, beside the definition in float64."""
    given = draw_inputs(problem, "cpu")
    here = kernel.at(problem.sizes)
    made = {a.name: torch.full(a.shape, float("nan"), dtype=DTYPES[a.dtype]) for a in here.arguments if a.output}
    tensors = [(given | made)[a.name] for a in here.arguments]
    execute(here, tensors)
    wide = {n: t.double() if t.is_floating_point() else t for n, t in given.items()}
    exact = run_eager(problem.definition, wide, problem.sizes, problem.params, torch.float64)
    for n, t in made.items():
        budget = BUDGET[problem.dtypes["Q" if "Q" in problem.dtypes else next(iter(given))]]
        torch.testing.assert_close(t.double(), exact[n].double(), rtol=budget * 10, atol=budget, equal_nan=True)


def looped(cascade: Cascade, problem: Problem, emitter: str, seed: str, splits: int = 1) -> Schedule:
    """A schedule in which a program goes over the keys in a loop, in parts if so asked."""
    every = [
        s
        for s in schedules(cascade, problem, emitter)
        if not s.is_specialised
        and s.stages == 1  # which fits into the shared memory of any GPU
        and dict(s.roles)["m"].outer == "loop"
        and all(r.num_splits == 1 for _, r in s.roles)
    ]
    chosen = random.Random(seed).choice(every)
    parts = {r: Role("loop", role.tile, splits) for r, role in chosen.roles if r == "m"}
    return replace(chosen, roles=tuple((r, parts.get(r, role)) for r, role in chosen.roles))


@pytest.mark.parametrize("emitter", EMITTERS)
@pytest.mark.parametrize("splits", [1, 3])
@pytest.mark.parametrize("name", VARIANTS)
def test_one_kernel_is_right_at_every_length(name: str, splits: int, emitter: str, execute: Execute) -> None:
    variant = VARIANTS[name]
    made_at = at(variant, 2, 2, 2, 300, 340)
    cascade = derived(made_at.cascade)[0]
    schedule = looped(cascade, made_at, emitter, f"{name} {splits}", splits)
    kernel = emit(build_for_any_size(cascade, made_at, schedule), schedule)
    open_ = {r for a in kernel.arguments for r in a.axes if r}
    for b, h, g, p, m in [(1, 3, 2, 1, 64), (1, 2, 2, 7, 7), (2, 1, 1, 33, 150)]:
        problem = at(variant, b, h, g, p, m)
        if all(problem.sizes[r] == made_at.sizes[r] for r in problem.sizes if r not in open_):
            check(kernel, problem, execute)


def in_tiles(emitter: str, bounds: str = "program") -> Schedule:
    """Sixteen queries a program, in a loop over 32 keys."""
    roles = {r: Role("grid", None) for r in "bhg"} | {"p": Role("grid", 16), "m": Role("loop", 32)}
    return Schedule(emitter, tuple((roles | {r: Role(None, 16) for r in "ef"}).items()), bounds=bounds)


@pytest.mark.parametrize("emitter", EMITTERS)
@pytest.mark.parametrize("bounds", BOUNDS)
@pytest.mark.parametrize("beside", [(), (Causal(),), (Window(20),)])
def test_documents_take_any_length_up_to_the_power_of_two_that_is_looked_at(
    beside: tuple[Modifier, ...], bounds: str, emitter: str, execute: Execute
) -> None:
    variant = Attention((*beside, Documents()))
    made_at = at(variant, 2, 2, 1, 100, 120)
    cascade = derived(made_at.cascade)[0]
    schedule = in_tiles(emitter, bounds)
    kernel = emit(build_for_any_size(cascade, made_at, schedule), schedule)
    open_ = {r for k in kernel.launches for a in k.arguments for r in a.axes if r}
    assert {"b", "h", "p", "m"} <= open_
    for b, h, p, m in [(1, 3, 70, 70), (2, 1, 1, 128), (3, 2, 60, 65)]:
        check(kernel, at(variant, b, h, 1, p, m), execute)
    assert refusal(kernel, at(variant, 2, 2, 1, 100, 129).sizes) == (
        "this kernel was made for from 65 to 128 elements of m, but got 129"
    )


def test_documents_longer_than_what_is_looked_at_take_any_length(execute: Execute) -> None:
    variant = Attention((Causal(), Documents()))
    made_at = at(variant, 1, 1, 1, 3, 9000)
    cascade = derived(made_at.cascade)[0]
    schedule = in_tiles("torch")
    kernel = emit(build_for_any_size(cascade, made_at, schedule), schedule)
    check(kernel, at(variant, 2, 1, 1, 5, 8300), execute)
    assert "from 8193" in refusal(kernel, made_at.sizes | {"m": 8192})


def test_documents_are_counted_at_sizes_about_as_with_numbers() -> None:
    """Where a size is no number a tile is taken to stand in the middle of its document, which costs a little more."""
    variant = Attention((Causal(), Documents()))
    made_at = at(variant, 2, 2, 1, 1000, 1000)
    cascade = derived(made_at.cascade)[0]
    schedule = in_tiles("triton")
    plan = build_for_any_size(cascade, made_at, schedule)
    for n in (600, 1024):
        exact = work(build_program(cascade, at(variant, 2, 2, 1, n, n), schedule), schedule)
        anyhow = work(plan.at(made_at.sizes | {"p": n, "m": n}), schedule)
        assert anyhow.traffic.tensor_flops == pytest.approx(exact.traffic.tensor_flops, rel=0.3)


def paged(batch: int, keys: int, full: bool = False) -> Problem:
    given = {"heads": 2, "kv_seq": keys, "head_dim": 16, "batch": batch, "page": 16} | ({"full": True} if full else {})
    return WORKLOADS["paged_attention"].posed(given, "fp32").problem


@pytest.mark.parametrize("emitter", EMITTERS)
def test_a_cache_in_pages_takes_any_length_that_its_table_covers(emitter: str, execute: Execute) -> None:
    made_at = paged(3, 150)
    cascade = derived(made_at.cascade)[0]
    roles = {"b": Role("grid", None), "h": Role("grid", None), "p": Role("grid", 16), "m": Role("loop", 32)}
    schedule = Schedule(emitter, tuple((roles | {r: Role(None, 16) for r in "ef"}).items()))
    kernel = emit(build_for_any_size(cascade, made_at, schedule), schedule)
    assert {"b", "h", "p", "j", "n"} <= {r for k in kernel.launches for a in k.arguments for r in a.axes if r}
    for batch, keys in [(1, 16), (2, 333), (5, 70)]:
        check(kernel, paged(batch, keys), execute)
    sizes = dict(made_at.sizes)
    assert refusal(kernel, sizes | {"j": 9}) == (
        "m // 16 addresses 10 elements of axis j for |m| = 150, but the axis has 9"
    )


@pytest.mark.parametrize("group", [4, 8])
@pytest.mark.parametrize("splits", [1, 3])
@pytest.mark.parametrize("name", ["plain", "causal"])
def test_packed_heads_take_any_length(name: str, splits: int, group: int, execute: Execute) -> None:
    """Queries and the heads of a group as rows of one tile: how many rows there are follows from how many queries."""
    made_at = at(VARIANTS[name], 2, 2, group, 8, 340)
    cascade = derived(made_at.cascade)[0]
    every = (s for s in schedules(cascade, made_at, "triton") if not s.is_specialised and s.stages == 1)
    packed = (s for s in every if dict(s.roles)["g"].pack == "p" and dict(s.roles)["m"].outer == "loop")
    chosen = next(packed)
    parts = {r: Role("loop", role.tile, splits) for r, role in chosen.roles if r == "m"}
    schedule = replace(chosen, roles=tuple((r, parts.get(r, role)) for r, role in chosen.roles))
    kernel = emit(build_for_any_size(cascade, made_at, schedule), schedule)
    assert {"b", "h", "p", "m"} <= {r for k in kernel.launches for a in k.arguments for r in a.axes if r}
    for b, h, p, m in [(1, 3, 1, 64), (2, 2, 5, 70), (1, 1, 40, 40)]:
        check(kernel, at(VARIANTS[name], b, h, group, p, m), execute)


def test_lengths_batch_and_heads_are_open_and_head_dims_are_not() -> None:
    problem = at(Attention((Causal(),)), 2, 2, 2, 300, 340)
    cascade = derived(problem.cascade)[0]
    schedule = looped(cascade, problem, "triton", "open")
    kernel = emit(build_for_any_size(cascade, problem, schedule), schedule)
    assert {r for a in kernel.arguments for r in a.axes if r} == {"b", "h", "g", "p", "m"}


def specialised(kernel: Kernel, tensors: list[torch.Tensor]) -> None:
    """By threads that stand for groups of warps, or on the GPU that is there."""
    if torch.cuda.is_available():
        run_on_gpu(kernel, tensors)
    else:
        interpret_gluon(kernel, tensors, 3)


@pytest.mark.parametrize("name", ["plain", "causal", "slopes, lower right", "window, causal", "sinks"])
def test_specialised_warps_take_any_length(name: str) -> None:
    made_at = at(VARIANTS[name], 1, 1, 2, 256, 256, 64, "bf16")
    cascade = derived(made_at.cascade)[0]
    every = [s for s in schedules(cascade, made_at, "triton") if s.is_specialised]
    schedule = for_any_size(
        next(s for s in every if s.rescaling == "lazy" and all(r.num_splits == 1 for _, r in s.roles))
    )
    kernel = emit(build_for_any_size(cascade, made_at, schedule), schedule)
    assert kernel.emitter == "gluon"
    for p, m in [(5, 5), (130, 130), (300, 300)]:
        check(kernel, at(VARIANTS[name], 1, 1, 2, p, m, 64, "bf16"), specialised)


@pytest.mark.parametrize("emitter", EMITTERS)
@pytest.mark.parametrize("name", ["softmax", "layernorm", "rmsnorm", "logsumexp", "variance"])
def test_chains_over_rows_take_any_number_of_rows_and_columns(name: str, emitter: str, execute: Execute) -> None:
    problem = WORKLOADS[name].posed({"rows": 30, "cols": 5000}, "fp32").problem
    cascade = derived(problem.cascade)[0]
    streamed = [s for s in schedules(cascade, problem, emitter) if any(r.outer == "loop" for _, r in s.roles)]
    schedule = for_any_size(random.Random(name).choice(streamed))
    kernel = emit(build_for_any_size(cascade, problem, schedule), schedule)
    for rows, cols in [(1, 1), (7, 5000), (3, 4097)]:
        other = WORKLOADS[name].posed({"rows": rows, "cols": cols}, "fp32").problem
        try:
            kernel.at(other.sizes)
        except RuleError:  # rows of other units
            continue
        check(kernel, other, execute)


@pytest.mark.skipif(interpreted(), reason="TRITON_INTERPRET is set: this process cannot compile")
def test_one_kernel_compiles_without_a_gpu_to_the_same_code_at_every_length() -> None:
    problem = at(Attention((Causal(),)), 1, 2, 1, 300, 300, 64, "bf16")
    cascade = derived(problem.cascade)[0]
    schedule = looped(cascade, problem, "triton", "compiled")
    kernel = emit(build_for_any_size(cascade, problem, schedule), schedule)
    one, other = (compile_kernel(kernel.at(problem.sizes | {"p": n, "m": n}), "sm_90a") for n in (300, 77))
    assert one.resources == other.resources and one.assembly == other.assembly


@pytest.mark.skipif(interpreted(), reason="TRITON_INTERPRET is set: this process cannot compile")
@pytest.mark.parametrize("rows", [1, 9])
def test_what_parts_leave_lies_so_that_another_batch_or_length_is_compiled_to_the_same(rows: int) -> None:
    """Strides of tiled axes are constants of the code: those of the parts' results follow from no size that is open."""
    made_at = at(VARIANTS["plain"], 2, 3, 4, rows, 340)
    cascade = derived(made_at.cascade)[0]
    schedule = looped(cascade, made_at, "triton", "parts", 4)
    kernel = emit(build_for_any_size(cascade, made_at, schedule), schedule)
    assert len(kernel.steps) == 2 and kernel.workspaces
    compiled = {
        tuple(specialisation_of(step) for step in kernel.at(made_at.sizes | {"b": b, "h": h, "m": m}).steps)
        for b, h, m in ((2, 3, 340), (1, 2, 1000), (16, 8, 1001), (3, 1, 5000))
    }
    assert len(compiled) == 1
    for a in kernel.at(made_at.sizes).workspaces:
        t = torch.empty_strided(a.shape, a.strides)
        assert t.permute(a.order).is_contiguous()


@pytest.mark.parametrize("splits", [1, 4])
@pytest.mark.parametrize("name", ["plain", "causal", "window, causal"])
def test_a_plan_for_any_size_is_priced_at_sizes_as_one_for_these_is(name: str, splits: int) -> None:
    made_at = at(VARIANTS[name], 2, 2, 2, 300, 340)
    cascade = derived(made_at.cascade)[0]
    schedule = looped(cascade, made_at, "triton", f"{name} priced", splits)
    plan = build_for_any_size(cascade, made_at, schedule)
    for p, m in [(300, 340), (77, 1000)]:
        sizes = made_at.sizes | {"p": p, "m": m}
        exact = work(build_program(cascade, at(VARIANTS[name], 2, 2, 2, p, m), schedule), schedule)
        anyhow = work(plan.at(sizes), schedule)
        assert anyhow.traffic.tensor_flops == pytest.approx(exact.traffic.tensor_flops)
        if splits == 1:  # in parts there may be fewer of those for an exact size, and so less to merge
            assert anyhow.programs == exact.programs
            assert anyhow.traffic.special_ops == pytest.approx(exact.traffic.special_ops)


# ---- what they rely on


def causal_kernel(p: int, m: int) -> tuple[Kernel, Cascade, Problem]:
    problem = at(Attention((Causal(),)), 1, 1, 1, p, m)
    cascade = derived(problem.cascade)[0]
    schedule = looped(cascade, problem, "torch", "causal")
    return emit(build_for_any_size(cascade, problem, schedule), schedule), cascade, problem


def refusal(kernel: Kernel, sizes: Mapping[str, int]) -> str:
    with pytest.raises(RuleError) as caught:
        kernel.at(sizes)
    return str(caught.value)


def test_sizes_that_a_kernel_was_not_made_for_are_refused_in_words() -> None:
    kernel, _, problem = causal_kernel(300, 300)
    assert "no more of m than of p, but got 301 and 300" in refusal(kernel, problem.sizes | {"m": 301})
    assert f"from 1 to {MOST} elements of p, but got {MOST + 1}" in refusal(kernel, problem.sizes | {"p": MOST + 1})
    assert "a grid has at most" in refusal(kernel, problem.sizes | {"b": 2**20, "h": 2**20})


def test_an_order_of_two_sizes_is_relied_on_only_where_a_filter_compares_them() -> None:
    kernel, *_ = causal_kernel(300, 340)
    assert kernel.ordered == (("p", "m"),)
    plain = at(Attention(), 1, 1, 1, 300, 340)
    schedule = looped(derived(plain.cascade)[0], plain, "torch", "plain")
    assert not unknown_sizes(derived(plain.cascade)[0], plain, schedule).ordered


def test_shapes_that_disagree_with_the_sizes_are_refused() -> None:
    kernel, _, problem = causal_kernel(300, 300)
    here = kernel.at(problem.sizes | {"p": 40, "m": 40})
    tensors = [torch.zeros(a.shape) for a in here.arguments]
    tensors[1] = torch.zeros(1, 1, 41, 16)
    with pytest.raises(RuntimeError, match=r"K: the shape must be \[1, 1, 40, 16\], but got \[1, 1, 41, 16\]"):
        load(here)(tensors)


@pytest.mark.parametrize("count", [1, 2, 3, 5, 7, 127, 128, 641, 2**20 - 1, 2**30 + 1, 2**31 - 1])
def test_a_reciprocal_divides_exactly(count: int) -> None:
    packed = divisor(count)
    for n in {0, 1, count - 1, count, count + 1, 2 * count - 1, 2**31 - 1, (2**31 - 1) // count * count}:
        n = min(n, 2**31 - 1)
        assert n * (packed >> 6) < 2**63
        assert n * (packed >> 6) >> (packed & 63) == n // count


def test_slopes_from_the_last_key_read_the_length_when_they_run() -> None:
    variant = Attention((Slopes(align="lower_right"),), lse=True)
    problem = at(variant, 1, 1, 2, 300, 340)
    cascade = derived(problem.cascade)[0]
    schedule = looped(cascade, problem, "torch", "slopes")
    kernel = emit(build_for_any_size(cascade, problem, schedule), schedule)
    assert "p_size" in kernel.source and "m_size" in kernel.source
    for p, m in [(1, 500), (300, 340), (20, 21)]:
        check(kernel, at(variant, 1, 1, 2, p, m), in_process)
