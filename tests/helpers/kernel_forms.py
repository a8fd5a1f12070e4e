"""Problems, cascades and checks that the kernel tests share."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from eintune.kernels.emit.kernel import Kernel
from eintune.kernels.generate.emitters import emit
from eintune.kernels.launch.load import load
from eintune.kernels.reference.eager import DTYPES, run_eager
from eintune.search.measure.error_budget import budget, error
from eintune.space.cascade.cascade import Cascade, from_roots
from eintune.space.cascade.problem import Problem
from eintune.space.derivation.derive import derive
from eintune.space.ir.expr import Const, Expr, Fold, Map, Reduce, rewrite
from eintune.space.lowering.lower import build_program
from eintune.space.plan.plan import LoopPlan, Program
from eintune.space.plan.roles import Role
from eintune.space.schedule.schedule import Schedule
from eintune.space.workloads.builtin import attention_problem

Execute = Callable[[Kernel, list[torch.Tensor]], None]
"""What runs a kernel on CPU tensors, so that its outputs are filled."""


@functools.cache
def derived(definition: str) -> tuple[Cascade, ...]:
    """Every cascade that is derived from a definition."""
    return tuple(d.cascade for d in derive(Cascade.parse(definition)).cascades)


@dataclass(frozen=True)
class Case:
    """A cascade to run, the problem that it solves, and how."""

    cascade: Cascade
    problem: Problem
    schedule: Schedule

    @property
    def program(self) -> Program:
        return build_program(self.cascade, self.problem, self.schedule)

    @property
    def plan(self) -> LoopPlan:
        (plan,) = self.program.kernels
        return plan

    @property
    def kernel(self) -> Kernel:
        return emit(self.program, self.schedule)

    def on(self, emitter: str) -> Case:
        return replace(self, schedule=replace(self.schedule, emitter=emitter))


def run_on_gpu(kernel: Kernel, tensors: list[torch.Tensor]) -> None:
    """Run a kernel on copies of CPU tensors on a GPU: its outputs are filled."""
    there = [t.cuda() for t in tensors]
    load(kernel)(there)
    for t, a, result in zip(tensors, kernel.arguments, there, strict=True):
        if a.output:
            t.copy_(result)


def power(n: int) -> int:
    """The least power of two that holds a whole axis of n, at least what a matrix product takes."""
    return max(16, 1 << (n - 1).bit_length())


def folded(cascade: Cascade, passes: int) -> Cascade:
    """The composite-fold law applied by hand: to the denominator (2 passes), and to the whole quotient (1)."""

    def step(x: Expr) -> Expr | None:
        match x:
            case Reduce("add", rank, Map("exp", (Map("sub", (score, Reduce("max"))),))):
                return Fold("scale", rank, score, Const(1.0))
            case Reduce("add", rank, Map("mul", (Map("div", (weight, total)), v))) if passes == 1:
                match weight:
                    case Map("exp", (Map("sub", (score, Reduce("max"))),)):
                        return Map("div", (Fold("scale", rank, score, v), total))
        return None

    if passes == 3:
        return cascade
    roots = cascade.roots()
    new = rewrite(roots.values(), step)
    return from_roots({n: (x, cascade.outputs[n].ranks) for n, x in zip(roots, new, strict=True)})


def attention_case(
    passes: int = 1,
    *,
    emitter: str = "triton",
    rows: int = 32,
    columns: int = 16,
    causal: str | None = None,
    heads: int = 2,
    kv_heads: int | None = None,
    seq: int = 64,
    kv_seq: int | None = None,
    head_dim: int = 32,
    value_dim: int | None = None,
    dtype: str = "fp32",
    scale: float | None = None,
    batch: int = 1,
    parts: int = 1,
    packed: bool = False,
    **schedule: object,
) -> Case:
    """Attention in 1, 2 or 3 passes with tiles of `rows` queries and `columns` keys, the keys in `parts` parts.

    packed: whether a group's heads lie along the rows.
    """
    problem = attention_problem(
        batch=batch,
        heads=heads,
        kv_heads=kv_heads or heads,
        seq=seq,
        kv_seq=kv_seq or seq,
        head_dim=head_dim,
        value_dim=value_dim,
        dtype=dtype,
        causal=causal,  # type: ignore[arg-type]
        scale=scale,
    )
    roles = {"p": Role("grid", rows), "m": Role("loop", columns, parts)}
    roles |= {"g": Role(None, None, pack="p")} if packed else {}
    for r, n in problem.sizes.items():
        roles.setdefault(r, Role(None, power(n)) if r in "ef" else Role("grid", None))
    made = Schedule(emitter, tuple(roles.items()), **schedule)  # type: ignore[arg-type]
    return Case(folded(problem.definition, passes), problem, made)


def inputs(case: Case, seed: int = 0, strided: bool = False) -> list[torch.Tensor]:
    """Random tensors for a kernel, outputs full of NaN. strided: no axis of any tensor is where it should be."""
    generator = torch.Generator().manual_seed(seed)
    tensors = []
    for a in case.kernel.arguments:
        shape = tuple(reversed(a.shape)) if strided else a.shape
        if a.dtype in ("int32", "bool"):
            t = torch.randint(0, 2, shape, generator=generator).to(DTYPES[a.dtype])
        else:
            t = torch.randn(shape, generator=generator).to(DTYPES[a.dtype])
        t = t.permute(*reversed(range(t.dim()))) if strided else t
        tensors.append(t.fill_(float("nan")) if a.output else t)
    return tensors


def errors(case: Case, kernel: Kernel, tensors: list[torch.Tensor], times: float = 1.0) -> list[str]:
    """What is wrong with a kernel's outputs: each beyond its derived budget, with both numbers.

    times: of the budget. The worst of hundreds of draws of a ratio of two random maxima is beyond 2 now and then.
    """
    problem = case.problem
    definition = problem.definition
    data = {a.name: t for a, t in zip(kernel.arguments, tensors, strict=True) if not a.output}
    exact = run_eager(definition, data, problem.sizes, problem.params, torch.float64)
    found = []
    for a, t in zip(kernel.arguments, tensors, strict=True):
        if a.output:
            eager = run_eager(definition, data, problem.sizes, problem.params, t.dtype)[a.name]
            allowed = budget(error(eager, exact[a.name]), exact[a.name], t.dtype).times(times)
            made = error(t, exact[a.name])
            if not made <= allowed:
                found.append(f"{a.name}: {made} is beyond {allowed}")
    return found
