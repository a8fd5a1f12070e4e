"""What `eintune.compile` returns as an operator: how a call is recorded, and what its recording runs."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from eintune.kernels.reference.eager import DTYPES
from eintune.kernels.serve.compiled import CompiledCascade, compile
from eintune.kernels.serve.errors import UnsupportedArgument
from eintune.space.ir.expr import reads
from eintune.space.ir.gathers import axes, whole

from .gradients import backward, dtypes_of, forward_program, wide_of
from .library import call, define, register_backward
from .programs import cascade_program
from .refusals import constant_result, must, refuse
from .vmapped import one_by_one

_eager: Any = CompiledCascade.__call__.__wrapped__  # type: ignore[attr-defined]


def recorded(self: CompiledCascade, *tensors: Tensor, **named: Tensor) -> Any:
    """A call of a compiled cascade as one of the operator. PyTorch's compiler reads this function."""
    inputs = self.bound(tensors, named)
    for name, t in zip(self.inputs, inputs, strict=True):
        if not isinstance(t, Tensor):
            return refuse(f"{name} must be a torch.Tensor")
    program = self.stated
    if torch.is_grad_enabled() and any(t.requires_grad for t in inputs):
        program = differentiable(program, "fp64" if any(t.dtype == torch.float64 for t in inputs) else "fp32")
        if program[0] != "{":
            return refuse(program)
    given = (list(inputs), program)
    compiling = torch.compiler.is_dynamo_compiling()
    made = torch.ops.eintune.cascade(*given) if compiling else call(operator, *given)
    count = len(self.outputs)
    return made[0] if count == 1 else tuple(made[:count])


@constant_result
def differentiable(program: str, wide: str) -> str:
    """The program that gives what the gradient wants as well, or why there is no gradient. PyTorch's compiler calls
    this instead of reading it: all that it is given is constant."""
    try:
        return forward_program(program, wide)
    except UnsupportedArgument as error:
        return str(error)


@lru_cache(maxsize=1024)
def made_of(program: str) -> CompiledCascade:
    """The compiled cascade of a program's text. Raises UnsupportedArgument for a text that is none."""
    p = cascade_program(program)
    try:
        return compile(p.cascade, params=p.params, sizes=p.sizes, dtype=p.dtype, name=p.name)
    except ValueError as error:
        raise UnsupportedArgument(f"an operator's program must have a cascade: {error}") from error


def run(inputs: list[Tensor], program: str) -> list[Tensor]:
    """The call, as an eager one: it finds its kernel by one key."""
    made = _eager(made_of(program), *inputs)
    return [*made] if isinstance(made, tuple) else [made]


def fake(inputs: list[Tensor], program: str) -> list[Tensor]:
    """Shapes and dtypes of a call's results. Raises UnsupportedArgument for inputs that the cascade does not take."""
    compiled = made_of(program)
    if len(inputs) != len(compiled.inputs):
        raise UnsupportedArgument(f"the operator's program reads {len(compiled.inputs)} inputs, but got {len(inputs)}")
    compiled.check_devices(inputs)
    sizes = _sizes(compiled, inputs)
    given = dict(zip(compiled.inputs, inputs, strict=True))
    dtypes = compiled.dtypes(given)
    return [
        inputs[0].new_empty([sizes[r] for r in t.ranks], dtype=DTYPES[dtypes[n]])
        for n, t in compiled.cascade.outputs.items()
    ]


def _sizes(compiled: CompiledCascade, inputs: Sequence[Tensor]) -> dict[str, Any]:
    """The size of every rank, which may be symbols. What has to be equal is checked when a program runs, where it is
    not known before."""
    cascade, shapes = compiled.cascade, {n: t.shape for n, t in zip(compiled.inputs, inputs, strict=True)}
    roots = [e.expr for e in cascade.einsums]
    same = cascade.same_sizes()
    found: dict[str, Any] = {same.get(r, r): n for r, n in compiled.sizes.items()}
    ranks = dict.fromkeys([*cascade.ranks(), *compiled.sizes])
    for x in reads(roots):
        if (shape := shapes.get(x.tensor.name)) is None:
            continue
        if len(shape) != len(x.index):
            raise UnsupportedArgument(f"{x.tensor.name} has ranks {list(axes(x))}, but its shape is {tuple(shape)}")
        for rank, n in zip(axes(x), shape, strict=True):
            has = found.setdefault(same.get(rank, rank), n)
            must(has == n, f"rank {rank} must have one size, but {x.tensor.name} gives {n} and what is before it {has}")
            ranks[rank] = None
    sizes = whole(roots, {r: found[same.get(r, r)] for r in ranks if same.get(r, r) in found})
    if missing := [r for r in cascade.ranks() if r not in sizes]:
        raise UnsupportedArgument(f"`sizes` must give the ranks that index no input, but {missing} have no size")
    return sizes


def batched(info: Any, in_dims: Any, inputs: list[Tensor], program: str) -> Any:
    return one_by_one(operator, info.batch_size, in_dims, (inputs, program))


def setup(ctx: Any, inputs: Any, output: list[Tensor]) -> None:
    """Keep what the backward reads: the inputs, the results and what the forward handed over."""
    given, ctx.program = inputs
    ctx.count = len(given)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*given, *output)


def differentiated(ctx: Any, cotangents: Sequence[Tensor | None]) -> Any:
    """The gradients of the inputs that need one: calls of this operator, one a stage."""
    compiled = made_of(ctx.program)
    inputs = ctx.saved_tensors[: ctx.count]
    known = dict(zip((*compiled.inputs, *compiled.outputs), ctx.saved_tensors, strict=True))
    given = dict(zip(compiled.outputs, cotangents, strict=True))
    needed = dict(zip(compiled.inputs, ctx.needs_input_grad[0], strict=True))
    of = tuple(n for n, g in given.items() if g is not None)
    wrt = tuple(n for n, is_needed in needed.items() if is_needed)
    found = backward(ctx.program, of, wrt, dtypes_of(inputs), wide_of(inputs))
    known |= {found.cotangents[n]: g for n, g in given.items() if g is not None}
    sizes = _sizes(compiled, inputs)
    for stage in found.stages:
        stage.run(known, sizes)
    none = {n for n in wrt if n not in found.gradients}
    gradients = {n: known[name] for n, name in found.gradients.items()}
    return [gradients.get(n, torch.zeros_like(known[n]) if n in none else None) for n in compiled.inputs], None


operator = define(
    "cascade",
    "(Tensor[] inputs, str program) -> Tensor[]",
    run, fake, batched,
    forward_only=lambda _, program: made_of(program).forward_only,
)  # fmt: skip
register_backward("cascade", setup, differentiated)
