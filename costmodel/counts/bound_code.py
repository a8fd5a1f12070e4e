"""Loop bounds as a list of operations: each different one is done once, over all programs at a time.

The bounds of a loop's segments share most of their parts, and a plan is counted at many sizes. What depends on sizes
alone is a number; what depends on a program's tiles is an array with an element for each program.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Hashable, Mapping
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
    is_natural,
)

Ints: TypeAlias = np.ndarray[Any, np.dtype[Any]]
PerProgram: TypeAlias = Any
"""A number that is the same for all programs (int), or one for each of them (int64 array)."""
Indices: TypeAlias = Mapping[Rank, PerProgram]
"""By rank: an index of each program."""
Operation: TypeAlias = Callable[[list[PerProgram], Indices, Indices, Mapping[Rank, int]], PerProgram]
"""From what was found so far, the first and the last index of each program's tile of each rank, and all sizes."""


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


class BoundCode:
    """Operations that find bounds. varying: the ranks of which programs have different tiles; any other rank spans all
    of its indices, as in `intervals.extreme`."""

    def __init__(self, varying: Container[Rank]) -> None:
        self._varying = varying
        self._operations: list[Operation] = []
        self._places: dict[Hashable, int] = {}
        self._arrays: list[bool] = []

    def bound(self, bound: Bound) -> int:
        """Where `run` leaves a bound's value."""
        if bound not in self._places:
            operation, is_array = self._made(bound)
            self._add(bound, operation, is_array)
        return self._places[bound]

    def trips(self, lo: Bound, hi: Bound, tile: int) -> int:
        """Where `run` leaves the number of steps of `tile` from one bound to another. Bounds may cross (a segment that
        is empty for some programs): that is no iteration, not a negative one."""
        key = lo, hi, tile
        if key not in self._places:
            a, b = self.bound(lo), self.bound(hi)
            largest, is_array = self._pick(np.maximum, max, a, b)
            up = 0 if is_multiple(lo, tile) and is_multiple(hi, tile) else tile - 1
            least = None if _reaches(hi, lo) else 0
            self._add(key, _steps(a, b, tile, up, largest, least), is_array)
        return self._places[key]

    def is_array(self, place: int) -> bool:
        """Whether what is left there differs from program to program."""
        return self._arrays[place]

    def run(self, first: Indices, last: Indices, sizes: Mapping[Rank, int]) -> list[PerProgram]:
        """All that was asked for, by place. first, last: of each program's tile, by varying rank."""
        found: list[PerProgram] = []
        for operation in self._operations:
            found.append(operation(found, first, last, sizes))
        return found

    def _add(self, key: Hashable, operation: Operation, is_array: bool) -> None:
        self._places[key] = len(self._operations)
        self._operations.append(operation)
        self._arrays.append(is_array)

    def _pick(self, of_arrays: Any, of_numbers: Any, *places: int) -> tuple[Any, bool]:
        is_array = any(map(self.is_array, places))
        return (of_arrays if is_array else of_numbers), is_array

    def _made(self, bound: Bound) -> tuple[Operation, bool]:
        match bound:
            case Lit():
                value = bound.value
                return lambda *_: value, False
            case First() | Last() | PartStart() if bound.rank in self._varying:
                return self._of_tile(bound), True
            case First() | PartStart():
                return lambda *_: 0, False
            case Last():
                rank = bound.rank
                return lambda v, first, last, sizes: sizes[rank] - 1, False
            case Size():
                rank = bound.rank
                return lambda v, first, last, sizes: sizes[rank], False
            case Sum():
                return self._sum(bound)
            case Least():
                return self._extremum(bound.args, np.minimum, min)
            case Greatest():
                return self._extremum(bound.args, np.maximum, max)
            case FloorTo() | CeilTo():
                return self._multiple(bound)
            case Number():  # data, of which nothing is known
                known = bound.assumed
                return self._made(Lit(known) if isinstance(known, int) else known)

    def _of_tile(self, bound: First | Last | PartStart) -> Operation:
        rank = bound.rank
        match bound:
            case First():
                return lambda v, first, last, sizes: first[rank]
            case Last():
                return lambda v, first, last, sizes: last[rank]
            case PartStart():
                length = bound.length
                return lambda v, first, last, sizes: first[rank] * sizes[length]

    def _sum(self, bound: Sum) -> tuple[Operation, bool]:
        const = sum(c * b.value for c, b in bound.terms if isinstance(b, Lit))
        terms = [(c, self.bound(b)) for c, b in bound.terms if not isinstance(b, Lit)]
        is_array = any(self.is_array(place) for _, place in terms)
        if len(terms) == 1 and terms[0][0] == 1:
            ((_, only),) = terms
            return lambda v, *_: v[only] + const, is_array

        def total(v: list[PerProgram], *_: object) -> PerProgram:
            found = const
            for c, place in terms:
                found = found + c * v[place]
            return found

        return total, is_array

    def _extremum(self, args: tuple[Bound, ...], of_arrays: Any, of_numbers: Any) -> tuple[Operation, bool]:
        start, *places = map(self.bound, args)
        choose, is_array = self._pick(of_arrays, of_numbers, start, *places)

        def found(v: list[PerProgram], *_: object) -> PerProgram:
            best = v[start]
            for place in places:
                best = choose(best, v[place])
            return best

        return found, is_array

    def _multiple(self, bound: FloorTo | CeilTo) -> tuple[Operation, bool]:
        place, step = self.bound(bound.arg), bound.step
        up = step - 1 if isinstance(bound, CeilTo) else 0
        largest, is_array = self._pick(np.maximum, max, place)
        natural = is_natural(bound.arg)
        if step & (step - 1):
            if natural:
                return lambda v, *_: (v[place] + up) // step * step, is_array
            return lambda v, *_: (largest(v[place], 0) + up) // step * step, is_array
        if natural:
            return lambda v, *_: v[place] + up & -step, is_array
        return lambda v, *_: largest(v[place], 0) + up & -step, is_array


def _steps(a: int, b: int, tile: int, up: int, largest: Any, least: int | None) -> Operation:
    """The number of steps between the values at two places. up: what is added before it is rounded down. least: None
    where it is never negative."""
    shift = tile.bit_length() - 1

    # A shift rounds down, too, and takes a fifth of a division's time.
    def steps(v: list[PerProgram], *_: object) -> PerProgram:
        length = v[b] - v[a]
        if up:
            length = length + up
        count = length // tile if tile & (tile - 1) else length >> shift
        return count if least is None else largest(count, least)

    return steps


def is_multiple(bound: Bound, step: int) -> bool:
    """Whether a bound is certainly a multiple of a number."""
    match bound:
        case Lit():
            return bound.value % step == 0
        case FloorTo() | CeilTo():
            return bound.step % step == 0
        case Least() | Greatest():
            return all(is_multiple(b, step) for b in bound.args)
        case _:
            return False


def _reaches(hi: Bound, lo: Bound) -> bool:
    """Whether `hi` is certainly at least `lo`: the greatest of that, or of all that it is the greatest of, and more."""
    return isinstance(hi, Greatest) and set(lo.args if isinstance(lo, Greatest) else [lo]) <= set(hi.args)
