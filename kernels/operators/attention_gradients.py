"""The gradient of `eintune.attention` as an operator: the stages of its cascade's backward, and back through its views.

What a call of attention gives a kernel are views of its arguments (heads by key heads, biases without their axes of
length 1, captured tables without what is beyond the positions), and PyTorch knows the gradients of views.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from itertools import compress
from typing import Any

import torch
from torch import Tensor

from eintune.host.recent import Recent
from eintune.kernels.serve.compiled import compile
from eintune.kernels.serve.modified_attention import PosedCall, posed_call
from eintune.kernels.serve.serving import MOST_READY

from .cascade import made_of
from .gradients import backward, dtypes_of, forward_program, wide_of
from .library import call, define, register_backward
from .programs import prepared
from .vmapped import one_by_one

_known: Recent[Any, tuple[PosedCall, str]] = Recent(MOST_READY)
"""By what decides how a call is posed: its cascade, and that one's program."""


@dataclass(frozen=True)
class _Call:
    """A call of attention as its cascade's. program: that one's."""

    posed: PosedCall
    arguments: Mapping[str, Any]
    program: str

    def views(self, q: Tensor, k: Tensor, v: Tensor) -> list[Tensor]:
        return self.posed.views(q, k, v, self.arguments)


def _call(q: Tensor, k: Tensor, v: Tensor, others: Sequence[Tensor], program: str) -> _Call:
    ready = prepared(program)
    given = {n: x for n, x in ready.arguments(others).items() if x is not None and x is not False}
    key = program, tuple([(t.shape, t.dtype, t.device) for t in (q, k, v, *others)])
    known = _known.get(key)
    if known is None:
        scale = ready.program.scale
        posed = posed_call(q, k, v, ready.program.causal, q.shape[3] ** -0.5 if scale is None else scale, given)
        known = _known[key] = posed, _stated(posed)
    return _Call(known[0], given, known[1])


def _stated(posed: PosedCall) -> str:
    """The program of a posed call's cascade: with the sizes that no input gives."""
    p = posed.problem
    own = {r for t in p.definition.inputs.values() for r in t.ranks}
    told = {r: n for r, n in p.sizes.items() if r in p.definition.ranks() and r not in own}
    dtypes = {n: p.dtypes[n] for n in p.definition.outputs}
    return _compiled(p.cascade, tuple(p.params.items()), tuple(told.items()), tuple(dtypes.items()))


@lru_cache(maxsize=1024)
def _compiled(text: str, params: Any, sizes: Any, dtypes: Any) -> str:
    return compile(text, params=dict(params), sizes=dict(sizes), dtype=dict(dtypes), name="attention").stated


def run(
    q: Tensor, k: Tensor, v: Tensor, others: list[Tensor], outputs: list[Tensor], cotangents: list[Tensor],
    program: str, given: list[bool], needed: list[bool],
) -> list[Tensor]:  # fmt: skip
    """The gradients of the arguments (q, k, v, others) that are needed. given: which outputs have a cotangent."""
    every = [q, k, v, *others]
    leaves = [t.detach().requires_grad_() if wanted else t for t, wanted in zip(every, needed, strict=True)]
    wanted = [*compress(leaves, needed)]
    with _recording():
        made_call = _call(leaves[0], leaves[1], leaves[2], leaves[3:], program)
        posed = made_call.posed
        views = [] if posed.is_empty else made_call.views(leaves[0], leaves[1], leaves[2])
    if posed.is_empty:
        return _of_nothing(made_call, wanted, outputs, cotangents, given)
    compiled = made_of(made_call.program)
    moved = [(n, t) for n, t in zip(compiled.inputs, views, strict=True) if t.requires_grad]
    of = tuple(compress(compiled.outputs, given))
    with torch.no_grad():
        inputs = [t.detach() for t in views]
        known = dict(zip(compiled.inputs, inputs, strict=True))
        known |= {n: posed.by_head(t) for n, t in zip(compiled.outputs, outputs, strict=True)}
        found = backward(made_call.program, of, tuple(n for n, _ in moved), dtypes_of(inputs), wide_of(inputs))
        known |= {found.cotangents[n]: posed.by_head(t) for n, t in zip(of, cotangents, strict=True)}
        for stage in found.stages:
            stage.run(known, posed.problem.sizes)
    reached = [(t, known[found.gradients[n]]) for n, t in moved if n in found.gradients]
    made: Sequence[Tensor | None] = [None] * len(wanted)
    if reached:
        made = torch.autograd.grad([t for t, _ in reached], wanted, [g for _, g in reached], allow_unused=True)
    return [torch.zeros_like(t) if g is None else _own(g) for t, g in zip(wanted, made, strict=True)]


@contextmanager
def _recording() -> Iterator[None]:
    """Record gradients where an operator's implementation runs, below the dispatcher's key that does."""
    c: Any = torch._C
    below = c._dispatch_tls_local_exclude_set() & c._after_autograd_keyset
    with c._ForceDispatchKeyGuard(c._dispatch_tls_local_include_set(), below), torch.enable_grad():
        yield


def _own(g: Tensor) -> Tensor:
    """A gradient with elements of its own: an operator's results share none."""
    return g.contiguous() if g._is_view() or not g.is_contiguous() else g


def _of_nothing(
    made_call: _Call, wanted: Sequence[Tensor], outputs: Sequence[Tensor], cotangents: Sequence[Tensor],
    given: Sequence[bool],
) -> list[Tensor]:  # fmt: skip
    """Where no query sees a key: the log-sum-exp is the sink's, and nothing else depends on anything."""
    made = [torch.zeros_like(t) for t in wanted]
    sinks = made_call.arguments.get("sinks")
    if sinks is not None and len(outputs) > 1 and given[1]:
        for t, g in zip(wanted, made, strict=True):
            if t is sinks:
                g += cotangents[-1].sum((0, 2)).to(g.dtype)
    return made


def fake(
    q: Tensor, k: Tensor, v: Tensor, others: list[Tensor], outputs: list[Tensor], cotangents: list[Tensor],
    program: str, given: list[bool], needed: list[bool],
) -> list[Tensor]:  # fmt: skip
    return [torch.empty_like(t, memory_format=torch.contiguous_format) for t in compress([q, k, v, *others], needed)]


def batched(info: Any, in_dims: Any, *args: Any) -> Any:
    return one_by_one(operator, info.batch_size, in_dims, args)


operator = define(
    "attention_backward",
    "(Tensor q, Tensor k, Tensor v, Tensor[] others, Tensor[] outputs, Tensor[] cotangents, str program, "
    "bool[] given, bool[] needed) -> Tensor[]",
    run, fake, batched,
    forward_only=lambda *_: "eintune::attention_backward has no gradient: ask for `create_graph=True`",
)  # fmt: skip


# ---- how attention records its gradient


def setup(ctx: Any, inputs: Any, output: list[Tensor]) -> None:
    q, k, v, others, ctx.program = inputs
    ctx.count = len(others)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(q, k, v, *others, *output)


def differentiated(ctx: Any, cotangents: Sequence[Tensor | None]) -> Any:
    q, k, v, *rest = ctx.saved_tensors
    others, outputs = rest[: ctx.count], rest[ctx.count :]
    needs = ctx.needs_input_grad
    needed = [*needs[:3], *needs[3]]
    given = [g is not None for g in cotangents]
    known = [g for g in cotangents if g is not None]
    if torch.is_grad_enabled() and not torch.compiler.is_compiling():
        made = _twice(q, k, v, others, known, ctx.program, given, needed)
    else:
        made = call(operator, q, k, v, others, outputs, known, ctx.program, given, needed)
    found = iter(made)
    every = [next(found) if wanted else None for wanted in needed]
    return (*every[:3], every[3:], None)


def _twice(
    q: Tensor, k: Tensor, v: Tensor, others: Sequence[Tensor], cotangents: Sequence[Tensor], program: str,
    given: Sequence[bool], needed: Sequence[bool],
) -> Sequence[Tensor]:  # fmt: skip
    """The gradients as functions of all that they depend on: by the cascade's own operator, which differentiates its
    gradients."""
    # two arguments may be one tensor, of which each has a gradient of its own
    q, k, v, *others = (t.view_as(t) for t in (q, k, v, *others))
    posed = _call(q, k, v, others, program)
    views = posed.views(q, k, v)
    of = tuple(compress(made_of(posed.program).outputs, given))
    every = call(torch.ops.eintune.cascade.default, views, forward_program(posed.program, wide_of(views), of))
    outputs = every[: len(given)]
    asked = [t.reshape(g.shape) for t, g in zip(compress(outputs, given), cotangents, strict=True)]
    wanted = [*compress([q, k, v, *others], needed)]
    made = torch.autograd.grad(asked, wanted, cotangents, create_graph=True, allow_unused=True)
    return [torch.zeros_like(t) if g is None else g for t, g in zip(wanted, made, strict=True)]


register_backward("attention", setup, differentiated)
