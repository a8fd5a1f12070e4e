"""What checking a problem's kernels takes in memory, priced before anything is allocated."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

from eintune.host.memory import free_bytes, in_words
from eintune.kernels.reference.eager import DTYPES
from eintune.space.cascade.cascade import Cascade
from eintune.space.cascade.problem import Problem
from eintune.space.ir.expr import Rank, free, topological

from .inputs import input_shapes
from .reference import ELEMENTS, POINTS, is_stored, kept_ranks, sampled_lengths, slice_lengths
from .timing import FLUSHED

WIDE = torch.float64.itemsize
COMPARED = 6
"""So many float64 tensors as large as the sampled outputs are there at once while an error is computed."""
USABLE = 0.95
"""Of a GPU's memory."""


def needed(problem: Problem, device: str) -> dict[str, int]:
    """Bytes on the device, by what they are for: an upper bound but for what a kernel itself allocates."""
    cascade = problem.definition
    given = {n: math.prod(s) * DTYPES[problem.dtypes[n]].itemsize for n, s in input_shapes(cascade, problem).items()}
    shapes = {n: [problem.sizes[r] for r in t.ranks] for n, t in cascade.outputs.items()}
    kept = {n: math.prod(s) * DTYPES[problem.dtypes[n]].itemsize for n, s in shapes.items()}
    parts = {
        "inputs": sum(given.values()),
        "their copies": max(sum(given.values()), WIDE * max((math.prod(s) for s in shapes.values()), default=0)),
        "outputs": sum(kept.values()),
        "the reference": _reference(cascade, problem.sizes, device),
    }
    return parts | ({"flushing caches": FLUSHED} if device == "cuda" else {})


def _reference(cascade: Cascade, sizes: Mapping[Rank, int], device: str) -> int:
    """Float64 outputs at the sampled positions, what comparing them takes, and every intermediate of one slice."""
    lengths = sampled_lengths(cascade, sizes, POINTS[device])
    step = slice_lengths(cascade, lengths, kept_ranks(cascade), ELEMENTS[device])
    outputs = sum(math.prod(lengths[r] for r in t.ranks) for t in cascade.outputs.values())
    stored = (x for x in topological(cascade.roots().values()) if is_stored(x))
    return WIDE * (COMPARED * outputs + sum(math.prod(step[r] for r in free(x)) for x in stored))


def does_not_fit(problem: Problem, device: str) -> str:
    """Why a problem cannot be checked on a device ("cpu", "cuda:0"), in one line, or ""."""
    kind = torch.device(device).type
    there = free_bytes() if kind == "cpu" else int(USABLE * torch.cuda.get_device_properties(device).total_memory)
    parts = needed(problem, kind)
    if there is None or sum(parts.values()) <= there:
        return ""
    told, all_of_it = ", ".join(f"{name} {in_words(n)}" for name, n in parts.items()), in_words(sum(parts.values()))
    return (
        f"checking kernels of this size takes {all_of_it} of memory ({told}), but {in_words(there)} are free on "
        f"{device}: choose smaller sizes"
    )
