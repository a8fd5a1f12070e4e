"""Random inputs for a problem: the same numbers from the same seed, on any device."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from eintune.kernels.reference.eager import DTYPES
from eintune.space.cascade.cascade import Cascade
from eintune.space.cascade.problem import Problem, Values
from eintune.space.ir.gathers import limits, shapes

INTEGERS = Values(0, 4, ordered=True)
"""What integer inputs hold where the problem does not say it."""


def input_shapes(cascade: Cascade, problem: Problem) -> dict[str, tuple[int, ...]]:
    """The shape of every input in elements, by the ranks that index it or its own names for its axes."""
    every = shapes((e.expr for e in cascade.einsums), problem.sizes)
    return {name: shape for name, shape in every.items() if name in cascade.inputs}


def draw_inputs(problem: Problem, device: torch.device | str, seed: int = 0) -> dict[str, Tensor]:
    """One tensor per input: what `problem.values` says, else floats from a standard normal, small integers, fair
    booleans.

    Integers that address an axis are a permutation of it where it is long enough (each page is used once, in no
    order); those that an index is compared with, such as lengths, are drawn from all that it can be. Numbers are
    drawn on the CPU in float32 and rounded to the input's dtype, so that every device and every worker sees the same
    ones. Raises KeyError for a dtype that has no PyTorch name.
    """
    cascade = problem.definition
    generator = torch.Generator().manual_seed(seed)
    shape_of = input_shapes(cascade, problem)
    below = limits((e.expr for e in cascade.einsums), problem.sizes)

    def repeated(name: str) -> str | None:
        same = problem.values[name].same_as if name in problem.values else None
        return same if same and shape_of[same] == shape_of[name] else None

    def drawn(name: str) -> Tensor:
        if name in below and name not in problem.values:
            return _indices(shape_of[name], below[name], generator)
        return _draw(shape_of[name], DTYPES[problem.dtypes[name]], problem.values.get(name), generator)

    names = sorted(cascade.inputs)
    made = {name: drawn(name) for name in names if not repeated(name)}
    made |= {name: made[same].clone() for name in names if (same := repeated(name))}
    return {name: made[name].to(device=device, dtype=DTYPES[problem.dtypes[name]]) for name in names}


def _indices(shape: Sequence[int], below: int, generator: torch.Generator) -> Tensor:
    if (count := math.prod(shape)) <= below:
        return torch.randperm(below, generator=generator)[:count].reshape(tuple(shape))
    return torch.randint(0, below, shape, generator=generator)


def _draw(shape: Sequence[int], dtype: torch.dtype, values: Values | None, generator: torch.Generator) -> Tensor:
    if dtype == torch.bool:
        return torch.randint(0, 2, shape, generator=generator).bool()
    if dtype.is_floating_point and values is None:
        return torch.randn(shape, generator=generator, dtype=torch.float32).to(dtype)
    low, high, ordered, _, steps = values or INTEGERS
    if steps:
        step = torch.arange(shape[-1]) * steps // shape[-1]
        return (step.double() * (high - low) / steps + low).floor().to(dtype).expand(shape).contiguous()
    drawn = torch.rand(shape, generator=generator, dtype=torch.float32) * (high - low) + low
    drawn = drawn if dtype.is_floating_point else drawn.floor().clamp(low, high - 1)
    return (drawn.sort(-1).values if ordered and shape else drawn).to(dtype)
