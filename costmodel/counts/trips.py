"""How often each segment of each loop runs: exact averages over a plan's grid, vectorised over its tiles.

A loop's bounds may mention grid ranks and enclosing loop ranks. Only the ranks that some bound mentions are
enumerated; the others cannot change a trip count.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from eintune.space.ir.expr import Rank
from eintune.space.plan.bounds import Bound
from eintune.space.plan.plan import Block, Loop, LoopPlan, Segment

from .bound_code import BoundCode, Indices, Ints, PerProgram, mentioned

Floats: TypeAlias = np.ndarray[Any, np.dtype[Any]]

SAMPLED_PROGRAMS = 4096
"""Beyond this many different programs an even sample stands for the grid."""


@dataclass(frozen=True)
class LoopPath:
    """One place where a loop's body runs: segments, each of a loop inside the one before, outermost first."""

    segments: tuple[tuple[Loop, Segment], ...]

    @property
    def loop(self) -> Loop:
        """The innermost one."""
        return self.segments[-1][0]


class Runs(NamedTuple):
    """One segment. iterations: how many each program does in all, mean: on average. entries: how often a program enters
    it (with at least one iteration to do), on average."""

    iterations: PerProgram
    mean: float
    entries: float


def mean(values: PerProgram) -> float:
    """Of a number for each program, or of one for all."""
    return float(np.add.reduce(values)) / len(values) if isinstance(values, np.ndarray) else float(values)


def tile_step(plan: LoopPlan, rank: Rank) -> int:
    """The length of a rank's tiles (1 where it has none)."""
    return plan.roles[rank].tile or 1


def tiles(plan: LoopPlan, rank: Rank) -> int:
    """The number of tiles of a rank (of indices, where it has no tile)."""
    return -(-plan.sizes[rank] // tile_step(plan, rank))


def all_bounds(block: Block) -> list[Bound]:
    """Every bound of every loop in a block, inner loops too."""
    found: list[Bound] = []
    for item in block.items:
        if isinstance(item, Loop):
            found += [b for s in item.segments for b in (s.lo, s.hi)]
            found += all_bounds(item.body)
    return found


def mentioned_in(block: Block) -> frozenset[Rank]:
    """The ranks whose tiles some bound of a block's loops depends on."""
    return frozenset[Rank]().union(*map(mentioned, dict.fromkeys(all_bounds(block))))


@lru_cache(maxsize=256)
def even_sample(count: int, limit: int) -> Ints:
    """0..count-1, or `limit` of them evenly spaced (each at the middle of its share). Not to be written to."""
    return sample_from(0, count, limit)


def sample_from(start: int, count: int, limit: int) -> Ints:
    """As `even_sample`, without the first `start` of them."""
    if count <= limit:
        return np.arange(start, count, dtype=np.int64)
    edges = np.arange(start, limit + 1) * (count / limit)
    edges[-1] = count
    middles: Ints = ((edges[:-1] + edges[1:]) / 2).astype(np.int64)
    return middles


class _Scope(NamedTuple):
    """Sampled places inside loops: first and last index of their tiles by rank, how many programs there are, the one
    that each place belongs to (None: they are the programs), and how many places it stands for (None: one)."""

    programs: int
    first: Indices
    last: Indices
    owner: Ints | None = None
    weight: PerProgram | None = None

    def total(self, values: PerProgram) -> PerProgram:
        """The sum over places of a value each, by program."""
        weighed = values if self.weight is None else self.weight * values
        if self.owner is None:
            return weighed
        weights = np.broadcast_to(weighed, self.owner.shape)
        return np.bincount(self.owner, weights=weights, minlength=self.programs)


@dataclass(frozen=True)
class _LoopCode:
    """A loop among those of its block. starts, trips: of each segment, places in the block's code. inner: of its body,
    None where it has no loop. enters: whether an inner bound depends on this loop's index."""

    loop: Loop
    starts: tuple[int, ...]
    trips: tuple[int, ...]
    inner: _BlockCode | None
    enters: bool


class _BlockCode:
    """The bounds of a block's loops, as one list of operations, and those of inner blocks. varying: the ranks of which
    the places where the block runs have different tiles."""

    def __init__(self, block: Block, varying: frozenset[Rank]) -> None:
        self.code = BoundCode(varying)
        self.loops = [self._loop(x, varying) for x in block.items if isinstance(x, Loop)]

    def _loop(self, loop: Loop, varying: frozenset[Rank]) -> _LoopCode:
        starts = tuple(self.code.bound(s.lo) for s in loop.segments)
        trips = tuple(self.code.trips(s.lo, s.hi, loop.tile) for s in loop.segments)
        enters = loop.rank in mentioned_in(loop.body)
        inner = None
        if any(isinstance(x, Loop) for x in loop.body.items):
            inner = _BlockCode(loop.body, varying | {loop.rank} if enters else varying)
        return _LoopCode(loop, starts, trips, inner, enters)


class TripCounts:
    """The trip counts of a plan's loops, for any sizes of its ranks. uneven: the grid ranks that programs' trip counts
    depend on, in grid order. paths: all places where a loop's body runs, in the order of `at`."""

    def __init__(self, plan: LoopPlan) -> None:
        names = mentioned_in(plan.root)
        self.uneven = tuple(r for r in plan.grid if r in names)
        self.paths = tuple(_paths(plan.root, ()))
        self._steps = {r: tile_step(plan, r) for r in self.uneven}
        self._code = _BlockCode(plan.root, frozenset(self.uneven))

    def whole_grid(self, counts: Mapping[Rank, int]) -> dict[Rank, Ints]:
        """Tile indices of every different program, by uneven rank (an even sample of a large grid). counts: tiles of
        the grid's ranks."""
        # Grid ranks that no bound mentions are left out: programs that differ in those alone are equally long, so the
        # product of the others is small.
        own = [counts[r] for r in self.uneven]
        if not own:
            return {}
        flat = even_sample(prod(own), SAMPLED_PROGRAMS)
        if len(own) == 1:
            return {self.uneven[0]: flat}
        return {r: flat // prod(own[:i]) % n for i, (r, n) in enumerate(zip(self.uneven, own, strict=True))}

    def at(self, sizes: Mapping[Rank, int], programs: Mapping[Rank, Ints]) -> list[Runs]:
        """The runs of every path. sizes: of all ranks. programs: tile indices by uneven rank, arrays of one length."""
        first, last = {}, {}
        count = 1
        for r, step in self._steps.items():
            first[r] = programs[r] * step
            last[r] = np.minimum(first[r] + (step - 1), sizes[r] - 1)
            count = len(first[r])
        found: list[Runs] = []
        _walk(self._code, _Scope(count, first, last), sizes, found)
        return found


def _paths(block: Block, outside: tuple[tuple[Loop, Segment], ...]) -> Iterator[LoopPath]:
    for loop in block.items:
        if isinstance(loop, Loop):
            for segment in loop.segments:
                path = (*outside, (loop, segment))
                yield LoopPath(path)
                yield from _paths(loop.body, path)


def _walk(block: _BlockCode, scope: _Scope, sizes: Mapping[Rank, int], found: list[Runs]) -> None:
    values = block.code.run(scope.first, scope.last, sizes)
    for x in block.loops:
        # A loop that is entered fills its software pipeline anew, which costs a wait; segments printed as one loop fill
        # it once: in the first that has something to do.
        before: PerProgram = 0
        begun = 0.0
        for start, place in zip(x.starts, x.trips, strict=True):
            steps = values[place]
            total = scope.total(steps)
            before = before + steps if x.loop.joined else steps
            known = _share(before, scope)
            found.append(Runs(total, mean(total), known - begun))
            begun = known if x.loop.joined else 0.0
            if x.inner:
                # Only where an inner bound depends on this loop's index are its iterations told apart. Otherwise one
                # stands for all, with their number for its weight: the arrays stay as long as the grid's sample.
                below = _enter(x.loop, scope, values[start], steps, sizes) if x.enters else _repeat(scope, steps)
                _walk(x.inner, below, sizes, found)


def _share(steps: PerProgram, scope: _Scope) -> float:
    """How often a program has anything to do, on average."""
    if scope.owner is None and scope.weight is None:
        return np.count_nonzero(steps) / scope.programs if isinstance(steps, np.ndarray) else float(steps > 0)
    return mean(scope.total(steps > 0))


def _repeat(scope: _Scope, steps: PerProgram) -> _Scope:
    """Inside a loop whose rank no inner bound mentions: every iteration is like the others."""
    weight = steps if scope.weight is None else scope.weight * steps
    return _Scope(scope.programs, scope.first, scope.last, scope.owner, weight)


def _enter(loop: Loop, scope: _Scope, lo: PerProgram, steps: PerProgram, sizes: Mapping[Rank, int]) -> _Scope:
    """Inside a loop, one place for each iteration."""
    # Ragged enumeration without a Python loop: place i is repeated steps[i] times, and `number` counts 0, 1, ...
    # within each.
    owner = np.arange(scope.programs, dtype=np.int64) if scope.owner is None else scope.owner
    steps = np.broadcast_to(steps, owner.shape)
    pick = np.repeat(np.arange(len(steps)), steps)
    number = np.arange(len(pick)) - np.repeat(np.cumsum(steps) - steps, steps)
    first = {r: v[pick] for r, v in scope.first.items()}
    last = {r: v[pick] for r, v in scope.last.items()}
    first[loop.rank] = np.broadcast_to(lo, steps.shape)[pick] + number * loop.tile
    last[loop.rank] = np.minimum(first[loop.rank] + loop.tile, sizes[loop.rank]) - 1
    weight = np.broadcast_to(1 if scope.weight is None else scope.weight, steps.shape)[pick]
    return _Scope(scope.programs, first, last, owner[pick], weight)
