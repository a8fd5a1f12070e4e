"""What a problem's outputs should be: the definition in float64, and how far off the definition itself is.

The naive cascade's intermediates are large, so the evaluation runs in slices over ranks that every reduction
keeps, and, where even that would take too long, on a sample of their positions: the first, the last, those on
either side of every power of two (where tiles end), and random ones. Every output element is still looked at
for being unwritten.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from eintune.kernels.reference.eager import DTYPES, run_eager
from eintune.space.cascade.cascade import Cascade
from eintune.space.cascade.problem import Problem
from eintune.space.ir.expr import Expr, Fold, Rank, Reduce, Split, Unsplit, free, topological

from .error_budget import Error, budget, error

POINTS = {"cpu": 5e8, "cuda": 1e12}
"""How many multiply-adds of one contraction the reference may spend, by device type."""
ELEMENTS = {"cpu": 2**24, "cuda": 2**26}
"""How many elements one intermediate may have, by device type (8 bytes each)."""


@dataclass(frozen=True)
class Reference:
    """The exact outputs at the sampled positions.

    exact: float64, by output name. sample: the positions of each rank that was sampled (others are whole).
    budget: the largest error allowed, by output name. eager: what the definition makes in that dtype.
    """

    ranks: Mapping[str, tuple[Rank, ...]]
    exact: Mapping[str, Tensor]
    sample: Mapping[Rank, Tensor]
    budget: Mapping[str, Error]
    eager: Mapping[str, Error] = field(default_factory=dict)

    def error(self, outputs: Mapping[str, Tensor]) -> dict[str, Error]:
        """The error of whole outputs, by name."""
        return {name: error(self._sampled(name, t), self.exact[name]) for name, t in outputs.items()}

    def fault(self, outputs: Mapping[str, Tensor], slack: float = 1.0) -> str:
        """Why the outputs are wrong, in one line, or "" where they are within `slack` budgets and all written."""
        for name, value in outputs.items():
            missing = int(torch.isnan(value).sum()) if value.is_floating_point() else 0
            if missing and not bool(torch.isnan(self.exact[name]).any()):
                return f"{name}: {missing} of {value.numel()} elements are not written, or NaN"
        for name, made in self.error(outputs).items():
            allowed = self.budget[name].times(slack)
            if not made <= allowed:
                return (
                    f"{name}: error rms {made.rms:.3g}, max {made.max:.3g}, but the budget is "
                    f"rms {allowed.rms:.3g}, max {allowed.max:.3g}"
                )
        return ""

    def _sampled(self, name: str, value: Tensor) -> Tensor:
        for axis, rank in enumerate(self.ranks[name]):
            if rank in self.sample:
                value = value.index_select(axis, self.sample[rank].to(value.device))
        return value


def reference(problem: Problem, inputs: Mapping[str, Tensor], seed: int = 0) -> Reference:
    """The reference for a problem on its inputs, and the budget of each output's dtype."""
    cascade = problem.definition
    device = next(iter(inputs.values())).device
    sample = sample_positions(cascade, problem.sizes, POINTS[device.type], seed)
    sample = {r: at.to(device) for r, at in sample.items()}
    ranks = {name: t.ranks for name, t in cascade.outputs.items()}
    exact = _run(cascade, problem, inputs, sample, torch.float64)
    eager, budgets = {}, {}
    for name, value in exact.items():
        dtype = DTYPES[problem.dtypes[name]]
        eager[name] = _eager_error(cascade, problem, inputs, sample, name, value, dtype)
        budgets[name] = budget(eager[name], value, dtype)
    return Reference(ranks, exact, sample, budgets, eager)


def _eager_error(
    cascade: Cascade,
    problem: Problem,
    inputs: Mapping[str, Tensor],
    sample: Mapping[Rank, Tensor],
    name: str,
    exact: Tensor,
    dtype: torch.dtype,
) -> Error:
    if not dtype.is_floating_point:
        return Error(0.0, 0.0)
    # float64 has no wider reference here: its error is float32's, scaled by the two roundings' ratio
    run_in = torch.float32 if dtype == torch.float64 else dtype
    made = error(_run(cascade, problem, inputs, sample, run_in)[name], exact)
    shrink = torch.finfo(dtype).eps / torch.finfo(run_in).eps
    return Error(made.rms * shrink, made.max * shrink)


def _run(
    cascade: Cascade,
    problem: Problem,
    inputs: Mapping[str, Tensor],
    sample: Mapping[Rank, Tensor],
    dtype: torch.dtype,
) -> dict[str, Tensor]:
    """The outputs at the sampled positions, computed slice by slice."""
    device = next(iter(inputs.values())).device
    spans = {r: sample.get(r, torch.arange(problem.sizes[r], device=device)) for r in kept_ranks(cascade)}
    lengths = problem.sizes | {r: len(at) for r, at in spans.items()}
    whole: dict[str, Tensor] = {}
    for part in _slices(cascade, lengths, list(spans), ELEMENTS[device.type]):
        index = {r: spans[r][at] for r, at in part.items()}
        made = run_eager(cascade, inputs, problem.sizes, problem.params, dtype, index)
        for name, value in made.items():
            ranks = cascade.outputs[name].ranks
            if name not in whole:
                whole[name] = value.new_empty([lengths[r] for r in ranks])
            whole[name][tuple(part.get(r, slice(None)) for r in ranks)] = value
    return whole


def kept_ranks(cascade: Cascade) -> tuple[Rank, ...]:
    """The ranks that stand in every output and every reduction, and that nothing reduces or splits."""
    roots = list(cascade.roots().values())
    nodes = topological(roots)
    kept = frozenset.intersection(*(free(x) for x in [*roots, *(x for x in nodes if _reduces(x))]))
    for x in nodes:
        match x:
            case Reduce() | Fold():
                kept -= {x.rank}
            case Split() | Unsplit():
                kept -= {x.rank, x.outer, x.inner}
            case _:
                pass
    order = next(iter(cascade.outputs.values())).ranks
    return tuple(r for r in order if r in kept)


def _reduces(x: Expr) -> bool:
    return isinstance(x, (Reduce, Fold))


def contraction_points(cascade: Cascade, sizes: Mapping[Rank, int]) -> int:
    """Multiply-adds of the cascade's largest contraction."""
    return _largest(cascade, sizes, reduced=True)


def _largest(cascade: Cascade, lengths: Mapping[Rank, int], reduced: bool) -> int:
    """Elements of the largest intermediate; with `reduced`, points of the largest contraction."""
    most = 1
    for x in topological(cascade.roots().values()):
        ranks = free(x) | ({x.rank} if reduced and isinstance(x, (Reduce, Fold)) else frozenset())
        if reduced or is_stored(x):
            most = max(most, math.prod(lengths[r] for r in ranks))
    return most


def is_stored(x: Expr) -> bool:
    """Whether the evaluation stores what a node computes: products under a sum become matrix products."""
    return isinstance(x, (Reduce, Fold)) or getattr(x, "op", "") != "mul"


def slice_lengths(cascade: Cascade, lengths: Mapping[Rank, int], ranks: Sequence[Rank], limit: int) -> dict[Rank, int]:
    """The lengths of one slice: kept ranks are cut, the first first, until its intermediates have at most `limit`
    elements, as far as that goes."""
    step = {r: lengths[r] for r in ranks}
    while _largest(cascade, {**lengths, **step}, reduced=False) > limit:
        wide = next((r for r in ranks if step[r] > 1), None)
        if wide is None:
            break
        step[wide] = -(-step[wide] // 2)
    return {**lengths, **step}


def _slices(
    cascade: Cascade, lengths: Mapping[Rank, int], ranks: list[Rank], limit: int
) -> Iterator[dict[Rank, slice]]:
    """The parts of the kept ranks, such that one slice's intermediates fit."""
    step = slice_lengths(cascade, lengths, ranks, limit)

    def cut(rest: list[Rank]) -> Iterator[dict[Rank, slice]]:
        if not rest:
            yield {}
            return
        for first in range(0, lengths[rest[0]], step[rest[0]]):
            for others in cut(rest[1:]):
                yield {rest[0]: slice(first, first + step[rest[0]])} | others

    yield from cut(ranks)


def sample_positions(cascade: Cascade, sizes: Mapping[Rank, int], points: float, seed: int = 0) -> dict[Rank, Tensor]:
    """Positions of the kept ranks such that no contraction has more than `points` multiply-adds.

    A rank that stays whole is not in the result.
    """
    lengths = sampled_lengths(cascade, sizes, points)
    draw = random.Random(seed)
    return {r: _positions(sizes[r], lengths[r], draw) for r in kept_ranks(cascade) if lengths[r] < sizes[r]}


def sampled_lengths(cascade: Cascade, sizes: Mapping[Rank, int], points: float) -> dict[Rank, int]:
    """How many positions of each rank are sampled: the longest kept rank is halved until the contraction fits."""
    lengths = dict(sizes)
    ranks = kept_ranks(cascade)
    while contraction_points(cascade, lengths) > points:
        longest = max(ranks, key=lambda r: lengths[r], default=None)
        if longest is None or lengths[longest] == 1:
            break
        lengths[longest] = -(-lengths[longest] // 2)
    return lengths


def _positions(size: int, count: int, draw: random.Random) -> Tensor:
    """`count` positions below `size`: the ends, both sides of powers of two from the largest, then random."""
    wanted = [size - 1, 0]
    for power in reversed(range(size.bit_length())):
        wanted += [2**power, 2**power - 1]
    chosen = list(dict.fromkeys(at for at in wanted if 0 <= at < size))[:count]
    rest = sorted(set(range(size)) - set(chosen))
    return torch.tensor(sorted(chosen + draw.sample(rest, count - len(chosen))))
