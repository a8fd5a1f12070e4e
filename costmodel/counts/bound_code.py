"""Loop bounds as a list of operations: each different one is done once, over all programs at a time.

The bounds of a loop's segments share most of their parts, and a plan is counted at many sizes. What depends on sizes
alone is a number; what depends on a program's tiles is an array with an element for each program.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Container, Hashable, Mapping
from typing import Any, Literal, TypeAlias

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


Input: TypeAlias = Literal["first", "last", "size"]
Operator: TypeAlias = Literal["+", "-", "*", "//", ">>", "&", "min", "max"]
NUMBERS: Mapping[Operator, Callable[[Any, Any], Any]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "//": operator.floordiv,
    ">>": operator.rshift,
    "&": operator.and_,
    "min": min,
    "max": max,
}
ARRAYS: Mapping[Operator, Callable[[Any, Any], Any]] = {
    "+": np.add,
    "-": np.subtract,
    "*": np.multiply,
    "//": np.floor_divide,
    ">>": np.right_shift,
    "&": np.bitwise_and,
    "min": np.minimum,
    "max": np.maximum,
}


class BoundCode:
    """Operations that find bounds, each of two values that stand before it. varying: the ranks of which programs have
    different tiles; any other rank spans all of its indices, as in `intervals.extreme`."""

    def __init__(self, varying: Container[Rank]) -> None:
        self._varying = varying
        self._places: dict[Hashable, int] = {}
        self._values: list[PerProgram] = []
        """By place: constants; None where `run` has to find the value."""
        self._arrays: list[bool] = []
        self._inputs: dict[Input, list[tuple[int, Rank]]] = {"first": [], "last": [], "size": []}
        self._operations: list[tuple[int, Callable[[Any, Any], Any], int, int]] = []
        """Places of a result, what finds it, and of its arguments."""

    def run(self, first: Indices, last: Indices, sizes: Mapping[Rank, int]) -> list[PerProgram]:
        """All that was asked for, by place. first, last: of each program's tile, by varying rank."""
        values = self._values.copy()
        for place, rank in self._inputs["size"]:
            values[place] = sizes[rank]
        for place, rank in self._inputs["first"]:
            values[place] = first[rank]
        for place, rank in self._inputs["last"]:
            values[place] = last[rank]
        for place, operation, a, b in self._operations:
            values[place] = operation(values[a], values[b])
        return values

    def bound(self, bound: Bound) -> int:
        """Where `run` leaves a bound's value."""
        if bound not in self._places:
            self._places[bound] = self._made(bound)
        return self._places[bound]

    def trips(self, lo: Bound, hi: Bound, tile: int) -> int:
        """Where `run` leaves the number of steps of `tile` from one bound to another. Bounds may cross (a segment that
        is empty for some programs): that is no iteration, not a negative one."""
        length = self._binary("-", self.bound(hi), self.bound(lo))
        if not (is_multiple(lo, tile) and is_multiple(hi, tile)):
            length = self._binary("+", length, self._constant(tile - 1))
        if tile & (tile - 1):
            steps = self._binary("//", length, self._constant(tile))
        else:  # rounds down, too, and takes a fifth of a division's time
            steps = self._binary(">>", length, self._constant(tile.bit_length() - 1))
        return steps if _reaches(hi, lo) else self._binary("max", steps, self._constant(0))

    def _made(self, bound: Bound) -> int:
        match bound:
            case Lit():
                return self._constant(bound.value)
            case First():
                return self._input("first", bound.rank) if bound.rank in self._varying else self._constant(0)
            case Last():
                if bound.rank in self._varying:
                    return self._input("last", bound.rank)
                return self._binary("-", self._input("size", bound.rank), self._constant(1))
            case PartStart():
                if bound.rank not in self._varying:
                    return self._constant(0)
                return self._binary("*", self._input("first", bound.rank), self._input("size", bound.length))
            case Size():
                return self._input("size", bound.rank)
            case Sum():
                return self._sum(bound)
            case Least() | Greatest():
                first, *others = map(self.bound, bound.args)
                for place in others:
                    first = self._binary("min" if isinstance(bound, Least) else "max", first, place)
                return first
            case FloorTo() | CeilTo():
                return self._multiple(bound)
            case Number():  # data, of which nothing is known
                known = bound.assumed
                return self._constant(known) if isinstance(known, int) else self.bound(known)

    def _sum(self, bound: Sum) -> int:
        total: int | None = None
        for c, term in bound.terms:
            if not isinstance(term, Lit):
                place = self.bound(term)
                place = place if c == 1 else self._binary("*", place, self._constant(c))
                total = place if total is None else self._binary("+", total, place)
        const = sum(c * term.value for c, term in bound.terms if isinstance(term, Lit))
        if total is None:
            return self._constant(const)
        return self._binary("+", total, self._constant(const)) if const else total

    def _multiple(self, bound: FloorTo | CeilTo) -> int:
        place, step = self.bound(bound.arg), bound.step
        if not is_natural(bound.arg):
            place = self._binary("max", place, self._constant(0))
        if isinstance(bound, CeilTo):
            place = self._binary("+", place, self._constant(step - 1))
        if step & (step - 1):
            return self._binary("*", self._binary("//", place, self._constant(step)), self._constant(step))
        return self._binary("&", place, self._constant(-step))

    def _constant(self, value: int, *, is_array: bool = False) -> int:
        # An array is not converted again each time that it meets another one.
        return self._place(("constant", value, is_array), np.asarray(value, np.int64) if is_array else value, False)

    def _input(self, name: Input, rank: Rank) -> int:
        key = name, rank
        if key not in self._places:
            self._inputs[name].append((self._place(key, None, name != "size"), rank))
        return self._places[key]

    def _binary(self, name: Operator, a: int, b: int) -> int:
        key = name, a, b
        if key not in self._places:
            is_array = self._arrays[a] or self._arrays[b]
            if is_array:
                a, b = (
                    p if self._values[p] is None else self._constant(int(self._values[p]), is_array=True)
                    for p in (a, b)
                )
            place = self._place(key, None, is_array)
            self._operations.append((place, (ARRAYS if is_array else NUMBERS)[name], a, b))
        return self._places[key]

    def _place(self, key: Hashable, value: PerProgram, is_array: bool) -> int:
        if key not in self._places:
            self._places[key] = len(self._values)
            self._values.append(value)
            self._arrays.append(is_array)
        return self._places[key]


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
