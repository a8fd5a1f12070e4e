"""The gradient of a cascade's call: what the forward writes besides its results, and what the backward runs.

Both are calls of the same operator, of cascades that `space/gradients` derives: so a backward is served, compiled,
recorded and differentiated again as any call is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeAlias

import torch
from torch import Tensor

from eintune.kernels.serve.compiled import compile
from eintune.kernels.serve.errors import UnsupportedArgument
from eintune.kernels.serve.serving import dtype_name
from eintune.space.cascade.cascade import Cascade
from eintune.space.gradients.training import Training, training
from eintune.space.ir.einsum import CascadeError
from eintune.space.ir.expr import params as parameters
from eintune.space.ir.expr import reads
from eintune.space.ir.gathers import axes

from .library import call
from .programs import CascadeProgram, cascade_program
from .refusals import settled

GRADIENT = " gradient"
"""What the workload of a stage is called, after the definition's."""
Dtypes: TypeAlias = tuple[str, ...]


@lru_cache(maxsize=1024)
def forward_program(program: str, wide: str, of: tuple[str, ...] | None = None) -> str:
    """The program that also gives what the gradient wants of it, after its own results. wide: the dtype of that. of:
    the results that may have cotangents, all by default.

    Raises UnsupportedArgument for a cascade without a gradient.
    """
    p = cascade_program(program)
    found = _training(p.cascade, of, None)
    own = Cascade.parse(p.cascade).outputs
    dtype = dict(p.dtype) if isinstance(p.dtype, dict) else dict.fromkeys(own, p.dtype) if p.dtype else {}
    more = dtype | dict.fromkeys(found.residuals, wide)
    return compile(found.forward, params=p.params, sizes=p.sizes, dtype=more, name=p.name).stated


@dataclass(frozen=True)
class Stage:
    """One call of a backward: its program without sizes, what it reads and gives, and the ranks whose sizes it must be
    told."""

    program: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    told: tuple[str, ...]

    def stated(self, told: Mapping[str, int]) -> str:
        """Its program, with the sizes that it must be told."""
        return _with_sizes(self.program, tuple(told.items()))

    def run(self, known: dict[str, Tensor], sizes: Mapping[str, Any]) -> None:
        """Add what it gives to the known tensors."""
        program = self.stated({r: settled(sizes[r]) for r in self.told})
        made = call(torch.ops.eintune.cascade.default, [known[n] for n in self.inputs], program)
        known.update(zip(self.outputs, made, strict=True))


@dataclass(frozen=True)
class Backward:
    """cotangents: what stages call that of each result. gradients: by input."""

    stages: tuple[Stage, ...]
    cotangents: Mapping[str, str]
    gradients: Mapping[str, str]


@lru_cache(maxsize=1024)
def backward(program: str, of: tuple[str, ...], wrt: tuple[str, ...], dtypes: Dtypes, wide: str) -> Backward:
    """What gives the gradients of some results with respect to some inputs. dtypes: of all inputs. wide: of what stages
    write for each other. Raises UnsupportedArgument for a cascade without a gradient."""
    p = cascade_program(program)
    found = _training(p.cascade, of, wrt)
    inputs = dict(zip(Cascade.parse(p.cascade).inputs, dtypes, strict=True))
    own = {found.gradients[n]: inputs[n] for n in found.gradients}
    stages = list(found.stages)
    if found.residuals:  # of a call whose forward was not told that a gradient would be asked for
        stages.insert(0, Cascade(found.forward.einsums, found.residuals))
    made = [_stage(s, p, {n: own.get(n, wide) for n in s.outputs}) for s in stages]
    return Backward(tuple(made), found.cotangents, found.gradients)


def _training(text: str, of: tuple[str, ...] | None, wrt: tuple[str, ...] | None) -> Training:
    try:
        return training(Cascade.parse(text), of=of, wrt=wrt)
    except CascadeError as error:
        raise UnsupportedArgument(f"this cascade has no gradient: {error}") from error


def _stage(cascade: Cascade, p: CascadeProgram, dtype: Mapping[str, str]) -> Stage:
    indexed = {r for x in reads(e.expr for e in cascade.einsums) if x.tensor.name in cascade.inputs for r in axes(x)}
    same = cascade.same_sizes()
    known = {same.get(r, r) for r in indexed}
    told = tuple(r for r in cascade.ranks() if same.get(r, r) not in known)
    params = {n: p.params[n] for n in parameters(e.expr for e in cascade.einsums)}
    made = compile(cascade, params=params, dtype=dtype, name=p.name if p.name.endswith(GRADIENT) else p.name + GRADIENT)
    return Stage(made.stated, tuple(cascade.inputs), tuple(cascade.outputs), told)


@lru_cache(maxsize=4096)
def _with_sizes(program: str, told: tuple[tuple[str, int], ...]) -> str:
    if not told:
        return program
    p = cascade_program(program)
    return compile(p.cascade, params=p.params, sizes=dict(told), dtype=p.dtype, name=p.name).stated


def wide_of(inputs: Sequence[Tensor]) -> str:
    """The dtype of what kernels hand to each other."""
    return "fp64" if any(t.dtype == torch.float64 for t in inputs) else "fp32"


def dtypes_of(inputs: Sequence[Tensor]) -> Dtypes:
    return tuple(dtype_name(t, "an input") for t in inputs)
