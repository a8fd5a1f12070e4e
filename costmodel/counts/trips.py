"""How often each segment of each loop runs: exact averages over a plan's grid, vectorised over its tiles.

A loop's bounds may mention grid ranks and enclosing loop ranks. Only the ranks that some bound mentions are
enumerated; the others cannot change a trip count.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, TypeAlias

import numpy as np

from eintune.space.ir.expr import Rank
from eintune.space.plan.bounds import (
    Bound,
    CeilTo,
    First,
    FloorTo,
    Greatest,
    Last,
    Least,
    Lit,
    Number,
    PartStart,
    Size,
    Sum,
)
from eintune.space.plan.plan import Block, Loop, LoopPlan

Ints: TypeAlias = np.ndarray[Any, np.dtype[Any]]
Floats: TypeAlias = np.ndarray[Any, np.dtype[Any]]
Path: TypeAlias = tuple[tuple[int, int], ...]
"""(id of a loop, number of a segment), outermost first: one place where a loop's body runs."""


@dataclass(frozen=True)
class Runs:
    """One segment, per program, for each sampled program: how often it is entered (with at least one iteration to
    do), and how many iterations it does in all."""

    entries: Floats
    iterations: Floats


Segments: TypeAlias = dict[Path, Runs]
"""By path: the innermost segment's runs."""

SAMPLED_PROGRAMS = 4096
"""Beyond this many different programs an even sample stands for the grid."""


def mentioned(bound: Bound) -> frozenset[Rank]:
    """The ranks whose tiles a bound depends on."""
    match bound:
        case Lit() | Size():
            return frozenset()
        case First() | Last() | PartStart():
            return frozenset((bound.rank,))
        case Sum():
            return frozenset[Rank]().union(*(mentioned(b) for _, b in bound.terms))
        case Least() | Greatest():
            return frozenset[Rank]().union(*(mentioned(b) for b in bound.args))
        case FloorTo() | CeilTo():
            return mentioned(bound.arg)
        case Number():
            return frozenset() if isinstance(bound.assumed, int) else mentioned(bound.assumed)


def bound_values(
    bound: Bound, first: Mapping[Rank, Ints], last: Mapping[Rank, Ints], sizes: Mapping[Rank, int]
) -> Ints:
    """`bounds.bound_value` over arrays: for each program, the first and last index of its tile of each rank."""
    match bound:
        case Lit():
            return np.asarray(bound.value, np.int64)
        case First():
            return first[bound.rank]
        case Last():
            return last[bound.rank]
        case Size():
            return np.asarray(sizes[bound.rank], np.int64)
        case PartStart():
            return first[bound.rank] * sizes[bound.length]
        case Sum():
            total = np.asarray(0, np.int64)
            for coefficient, term in bound.terms:
                total = total + coefficient * bound_values(term, first, last, sizes)
            return total
        case Least() | Greatest():
            choose = np.minimum if isinstance(bound, Least) else np.maximum
            values = [bound_values(b, first, last, sizes) for b in bound.args]
            result = values[0]
            for v in values[1:]:
                result = choose(result, v)
            return result
        case FloorTo():
            return np.maximum(bound_values(bound.arg, first, last, sizes), 0) // bound.step * bound.step
        case CeilTo():
            return -(-np.maximum(bound_values(bound.arg, first, last, sizes), 0) // bound.step) * bound.step
        case Number():  # data, of which nothing is known
            known = bound.assumed
            return np.asarray(known, np.int64) if isinstance(known, int) else bound_values(known, first, last, sizes)


@dataclass(frozen=True)
class _Scope:
    """Sampled places inside loops: tiles by rank, the program each belongs to, and how many places it stands for."""

    programs: int
    first: dict[Rank, Ints]
    last: dict[Rank, Ints]
    owner: Ints
    weight: Floats

    def total(self, values: Ints) -> Floats:
        """The sum over places of a value each, by program."""
        found: Floats = np.bincount(self.owner, weights=self.weight * values, minlength=self.programs)
        return found


def tiles(plan: LoopPlan, rank: Rank) -> int:
    """The number of tiles of a rank (of indices, where it has no tile)."""
    return -(-plan.sizes[rank] // (plan.roles[rank].tile or 1))


def all_bounds(block: Block) -> list[Bound]:
    """Every bound of every loop in a block, inner loops too."""
    found: list[Bound] = []
    for item in block.items:
        if isinstance(item, Loop):
            found += [b for s in item.segments for b in (s.lo, s.hi)]
            found += all_bounds(item.body)
    return found


def uneven_ranks(plan: LoopPlan) -> tuple[Rank, ...]:
    """The grid ranks that programs' trip counts depend on, in grid order."""
    names = frozenset[Rank]().union(*(mentioned(b) for b in all_bounds(plan.root)))
    return tuple(r for r in plan.grid if r in names)


def whole_grid(plan: LoopPlan) -> dict[Rank, Ints]:
    """Tile indices of every different program, by the ranks that matter (an even sample of a large grid)."""
    ranks = uneven_ranks(plan)
    counts = [tiles(plan, r) for r in ranks]
    # Grid ranks that no bound mentions are left out: programs that differ in those alone are equally long, so the
    # product of the others is small.
    flat = even_sample(prod(counts), SAMPLED_PROGRAMS)
    strides = [prod(counts[:i]) for i in range(len(counts))]
    return {r: flat // s % n for r, s, n in zip(ranks, strides, counts, strict=True)}


def launch_order(plan: LoopPlan, reverse: bool, samples: int) -> dict[Rank, Ints]:
    """Tile indices of an even sample of programs in the order in which they start (grid ranks fastest first).

    reverse: the slowest tiled grid rank runs backwards.
    """
    counts = [tiles(plan, r) for r in plan.grid]
    flat = even_sample(prod(counts), samples)
    index = {r: flat // prod(counts[:i]) % n for i, (r, n) in enumerate(zip(plan.grid, counts, strict=True))}
    tiled = [r for r in plan.grid if plan.roles[r].tile]
    # As printed: the slowest tiled rank counts down, so that under a causal mask the longest rows start first.
    if reverse and tiled:
        index[tiled[-1]] = tiles(plan, tiled[-1]) - 1 - index[tiled[-1]]
    return {r: index[r] for r in uneven_ranks(plan)}


def even_sample(count: int, limit: int) -> Ints:
    """0..count-1, or `limit` of them evenly spaced (each at the middle of its share)."""
    if count <= limit:
        return np.arange(count, dtype=np.int64)
    edges = np.linspace(0, count, limit + 1)
    middles: Ints = ((edges[:-1] + edges[1:]) / 2).astype(np.int64)
    return middles


def trips(plan: LoopPlan, programs: Mapping[Rank, Ints]) -> Segments:
    """Iterations of every segment of every loop, per program, for each of the given programs.

    programs: tile indices by grid rank, arrays of one length (none of them: one program stands for all).
    """
    count = max((len(v) for v in programs.values()), default=1)
    first: dict[Rank, Ints] = {}
    last: dict[Rank, Ints] = {}
    zero = np.zeros(count, np.int64)
    for rank, size in plan.sizes.items():
        step = (plan.roles[rank].tile or 1) if rank in plan.roles else 1
        # A rank that is not fixed yet spans all of its indices, as in `intervals.extreme`.
        first[rank] = programs[rank] * step if rank in programs else zero
        last[rank] = np.minimum(first[rank] + step, size) - 1 if rank in programs else zero + size - 1
    found: Segments = {}
    scope = _Scope(count, first, last, np.arange(count, dtype=np.int64), np.ones(count))
    _walk(plan, plan.root, (), scope, found)
    return found


def _walk(plan: LoopPlan, block: Block, path: Path, scope: _Scope, found: Segments) -> None:
    for item in block.items:
        if not isinstance(item, Loop):
            continue
        inner = frozenset[Rank]().union(*(mentioned(b) for b in all_bounds(item.body)))
        entered = np.zeros(scope.owner.shape, bool)
        for number, segment in enumerate(item.segments):
            lo = bound_values(segment.lo, scope.first, scope.last, plan.sizes)
            hi = bound_values(segment.hi, scope.first, scope.last, plan.sizes)
            # Bounds may cross (a segment that is empty for some programs): that is no iteration, not a negative one.
            steps = np.broadcast_to(np.maximum(-(-(hi - lo) // item.tile), 0), scope.owner.shape)
            here = (*path, (id(item), number))
            # A loop that is entered fills its software pipeline anew, which costs a wait; segments printed as one
            # loop fill it once.
            found[here] = Runs(scope.total((steps > 0) & ~entered), scope.total(steps))
            if item.joined:  # one loop, entered once
                entered |= steps > 0
            if any(isinstance(x, Loop) for x in item.body.items):
                # Only where an inner bound depends on this loop's index are its iterations told apart. Otherwise one
                # stands for all, with their number for its weight: the arrays stay as long as the grid's sample.
                below = _enter(plan, item, scope, lo, steps) if item.rank in inner else _repeat(scope, steps)
                _walk(plan, item.body, here, below, found)


def _repeat(scope: _Scope, steps: Ints) -> _Scope:
    """Inside a loop whose rank no inner bound mentions: every iteration is like the others."""
    return _Scope(scope.programs, scope.first, scope.last, scope.owner, scope.weight * steps)


def _enter(plan: LoopPlan, loop: Loop, scope: _Scope, lo: Ints, steps: Ints) -> _Scope:
    """Inside a loop, one place for each iteration."""
    # Ragged enumeration without a Python loop: place i is repeated steps[i] times, and `number` counts 0, 1, ...
    # within each.
    pick = np.repeat(np.arange(len(steps)), steps)
    number = np.arange(len(pick)) - np.repeat(np.cumsum(steps) - steps, steps)
    first = {r: v[pick] for r, v in scope.first.items()}
    last = {r: v[pick] for r, v in scope.last.items()}
    first[loop.rank] = np.broadcast_to(lo, steps.shape)[pick] + number * loop.tile
    last[loop.rank] = np.minimum(first[loop.rank] + loop.tile, plan.sizes[loop.rank]) - 1
    return _Scope(scope.programs, first, last, scope.owner[pick], scope.weight[pick])
