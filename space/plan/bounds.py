"""Where loops begin and end: numbers, first and last indices of tiles, sums, extremes, multiples."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from eintune.space.ir.expr import Rank

from .values import Value

# ---- integer bounds of loops and of the ranges where a filter is known to hold


@dataclass(frozen=True)
class Lit:
    value: int


@dataclass(frozen=True)
class First:
    """The first index of the rank in this program's (or this iteration's) tile; its index if it has no tile."""

    rank: Rank


@dataclass(frozen=True)
class Last:
    """The last valid index of the rank in the tile: min(first + tile, size) - 1."""

    rank: Rank


@dataclass(frozen=True)
class Size:
    """The number of elements of a rank, where that is known only when a kernel runs."""

    rank: Rank


@dataclass(frozen=True)
class PartStart:
    """Where a part of a rank begins: the index of `rank`, which says which part, times the size `length`."""

    rank: Rank
    length: Rank


@dataclass(frozen=True)
class Sum:
    """sum(coefficient * bound)."""

    terms: tuple[tuple[int, Bound], ...]


@dataclass(frozen=True)
class Least:
    args: tuple[Bound, ...]


@dataclass(frozen=True)
class Greatest:
    args: tuple[Bound, ...]


@dataclass(frozen=True)
class FloorTo:
    """The largest multiple of `step` that is at most max(arg, 0)."""

    arg: Bound
    step: int


@dataclass(frozen=True)
class CeilTo:
    """The least multiple of `step` that is at least max(arg, 0)."""

    arg: Bound
    step: int


@dataclass(frozen=True)
class Number:
    """A scalar integer that depends on data: `value` was loaded or computed. assumed: what the cost model takes it for.
    least, most: the bounds that it is known to have; limited: or that it is clamped to, whatever was loaded."""

    value: Value
    assumed: int | Bound
    least: int = -(2**31)
    most: int = 2**31 - 1
    limited: bool = False


Bound: TypeAlias = Lit | First | Last | Size | PartStart | Sum | Least | Greatest | FloorTo | CeilTo | Number


def bound_value(
    b: Bound,
    first: Mapping[Rank, int],
    last: Mapping[Rank, int],
    number: Callable[[Value], int] = lambda v: 0,
    sizes: Mapping[Rank, int] | None = None,
) -> int:
    """The number a bound stands for, given the tile's first and last index of each rank, what was loaded, and the sizes
    that it mentions."""
    match b:
        case Lit():
            return b.value
        case First():
            return first[b.rank]
        case Last():
            return last[b.rank]
        case Size():
            return (sizes or {})[b.rank]
        case PartStart():
            return first[b.rank] * (sizes or {})[b.length]
        case Sum():
            return sum(c * bound_value(t, first, last, number, sizes) for c, t in b.terms)
        case Least():
            return min(bound_value(a, first, last, number, sizes) for a in b.args)
        case Greatest():
            return max(bound_value(a, first, last, number, sizes) for a in b.args)
        case FloorTo():
            return max(bound_value(b.arg, first, last, number, sizes), 0) // b.step * b.step
        case CeilTo():
            return -(-max(bound_value(b.arg, first, last, number, sizes), 0) // b.step) * b.step
        case Number():
            return min(max(number(b.value), b.least), b.most) if b.limited else number(b.value)


def numbers(bound: Bound) -> Iterator[Value]:
    """The loaded or computed numbers that a bound reads."""
    match bound:
        case Number():
            yield bound.value
        case Sum():
            for _, term in bound.terms:
                yield from numbers(term)
        case Least() | Greatest():
            for arg in bound.args:
                yield from numbers(arg)
        case FloorTo() | CeilTo():
            yield from numbers(bound.arg)
        case _:
            return


# ---- bounds with the numbers worked out


def total(terms: list[tuple[int, Bound]], const: int) -> Bound:
    rest = tuple((c, b) for c, b in terms if not isinstance(b, Lit))
    const += sum(c * b.value for c, b in terms if isinstance(b, Lit))
    if not rest:
        return Lit(const)
    if rest[0][0] == 1 and len(rest) == 1 and not const:
        return rest[0][1]
    return Sum((*rest, (const, Lit(1))) if const else rest)


def plus(b: Bound, n: int) -> Bound:
    if isinstance(b, Sum):
        return total(list(b.terms), n)
    return total([(1, b)], n)


def negated(b: Bound) -> Bound:
    if isinstance(b, Sum):
        return total([(-c, t) for c, t in b.terms], 0)
    return total([(-1, b)], 0)


def floor_to(b: Bound, step: int) -> Bound:
    return Lit(max(b.value, 0) // step * step) if isinstance(b, Lit) else FloorTo(b, step)


def ceil_to(b: Bound, step: int) -> Bound:
    return Lit(-(-max(b.value, 0) // step) * step) if isinstance(b, Lit) else CeilTo(b, step)


def least(args: list[Bound]) -> Bound:
    return _extremum(args, Least, min)


def greatest(args: list[Bound]) -> Bound:
    return _extremum(args, Greatest, max)


def _extremum(args: list[Bound], node: type[Least] | type[Greatest], pick: Callable[[list[int]], int]) -> Bound:
    flat = [b for a in args for b in (a.args if isinstance(a, node) else (a,))]
    numbers = [b.value for b in flat if isinstance(b, Lit)]
    kept: list[Bound] = list(dict.fromkeys(b for b in flat if not isinstance(b, Lit)))
    if node is Least:  # a size is never less than what it is rounded down to
        lower = [b.arg for b in kept if isinstance(b, FloorTo)]
        kept = [b for b in kept if not (isinstance(b, Size) and b in lower)]
    if numbers:
        number = pick(numbers)
        # The other bounds are at least 0, so none of them can be the least.
        if number <= 0 and kept and node is Least and all(map(is_natural, kept)):
            return Lit(number)
        # max(x, 0) of what is never negative is x.
        if number > 0 or node is Least or not any(map(is_natural, kept)):
            kept.append(Lit(number))
    return kept[0] if len(kept) == 1 else node(tuple(kept))


def is_natural(b: Bound) -> bool:
    """Whether a bound is certainly not negative."""
    match b:
        case Lit():
            return b.value >= 0
        case Sum():
            return all(c >= 0 and is_natural(t) for c, t in b.terms)
        case Least():
            return all(map(is_natural, b.args))
        case Greatest():
            return any(map(is_natural, b.args))
        case First() | Last() | Size() | PartStart() | FloorTo() | CeilTo():
            return True
        case Number():
            return b.least >= 0
