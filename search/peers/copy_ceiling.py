"""What a problem cannot beat: moving its bytes. A ceiling is timed beside the kernels and compared with nothing."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from eintune.kernels.reference.eager import DTYPES
from eintune.search.measure.inputs import input_shapes
from eintune.search.measure.tasks import Peer
from eintune.space.cascade.problem import Problem

COPY = "copy"
HALVES = 2
"""A copy reads as many bytes as it writes."""


def least_bytes(problem: Problem) -> int:
    """Bytes of all inputs, each read once, and all outputs, each written once."""
    cascade = problem.definition
    shapes = input_shapes(cascade, problem)
    shapes |= {name: tuple(problem.sizes[r] for r in t.ranks) for name, t in cascade.outputs.items()}
    return sum(math.prod(shape) * DTYPES[problem.dtypes[name]].itemsize for name, shape in shapes.items())


def copy_peer() -> Peer:
    """A copy that moves as many bytes as the problem at least must."""
    return Peer(COPY, f"{__name__}:copying", computes=False)


def copying(problem: Problem, inputs: Mapping[str, Tensor]) -> Callable[[], dict[str, Tensor]]:
    """PyTorch's copy of half as many bytes as `least_bytes`: it reads and writes them."""
    device = next(iter(inputs.values())).device
    source = torch.zeros(max(1, least_bytes(problem) // HALVES), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)

    def run() -> dict[str, Tensor]:
        target.copy_(source)
        return {}

    return run
