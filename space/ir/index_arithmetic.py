"""Whole numbers that are computed and address an axis: what they mean, what they may be, and how they are laid out.

`p-m+3` is a sum of indices, `h*|g|+g` one with a size as a factor; `min`, `max` and `abs` stand around sums. Sums are
collected before anything is said of them, so that `p-m+m` is p.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from .expr import (
    Access,
    Computed,
    Expr,
    Gather,
    Index,
    Integer,
    Leaf,
    Part,
    Rank,
    Size,
    access,
    is_padded,
    leaves,
    rewrite,
    with_leaves,
)
from .pointwise import Array

Range: TypeAlias = tuple[int, int]
"""The least and the greatest that a number can be."""


def _products(a: Range, b: Range) -> Range:
    every = [x * y for x in a for y in b]
    return min(every), max(every)


@dataclass(frozen=True)
class IndexOperator:
    """One operator of whole numbers: its arity, its meaning on arrays and on ranges."""

    arity: int
    numpy: Callable[..., Array]
    range: Callable[..., Range]


OPERATORS: dict[str, IndexOperator] = {
    "add": IndexOperator(2, np.add, lambda a, b: (a[0] + b[0], a[1] + b[1])),
    "sub": IndexOperator(2, np.subtract, lambda a, b: (a[0] - b[1], a[1] - b[0])),
    "mul": IndexOperator(2, np.multiply, _products),
    "neg": IndexOperator(1, np.negative, lambda a: (-a[1], -a[0])),
    "abs": IndexOperator(1, np.abs, lambda a: (max(a[0], -a[1], 0), max(-a[0], a[1]))),
    "max": IndexOperator(2, np.maximum, lambda a, b: (max(a[0], b[0]), max(a[1], b[1]))),
    "min": IndexOperator(2, np.minimum, lambda a, b: (min(a[0], b[0]), min(a[1], b[1]))),
}
LARGEST = 2**31
"""Numbers below it, and only those, stand in an index."""
ANY: Range = (-(2**63), 2**63 - 1)
"""Of an element of a tensor nothing is known."""


@dataclass(frozen=True)
class Total:
    """sum(coefficient * number) + const; no number stands twice, none is a sum."""

    terms: tuple[tuple[Integer, int], ...]
    const: int


def total(i: Integer, sizes: Mapping[Rank, int]) -> Total:
    """A number as a sum. Raises KeyError for a size that it needs and that is not there."""
    terms: dict[Integer, int] = {}
    const = 0

    def add(x: Integer, coef: int) -> None:
        nonlocal const
        match x:
            case int():
                const += coef * x
            case Size():
                const += coef * sizes[x.rank]
            case Computed("add" | "sub", (a, b)):
                add(a, coef)
                add(b, coef if x.op == "add" else -coef)
            case Computed("neg", (a,)):
                add(a, -coef)
            case Computed("mul", (a, b)):
                left, right = total(a, sizes), total(b, sizes)
                factor, other = (left, b) if not left.terms else (right, a)
                assert not factor.terms, f"a product of a computed index has a constant factor, but got {x}"
                add(other, coef * factor.const)
            case _:
                terms[x] = terms.get(x, 0) + coef

    add(i, 1)
    return Total(tuple((x, c) for x, c in terms.items() if c), const)


def has_sizes(i: Integer) -> bool:
    """Whether it is computed with sizes."""
    return any(isinstance(x, Size) for x in leaves(i))


def is_constant(i: Integer) -> bool:
    """Whether it varies with nothing: it is made of numbers and sizes."""
    return isinstance(i, (int, Size)) or (isinstance(i, Computed) and all(map(is_constant, i.args)))


def span(i: Integer, sizes: Mapping[Rank, int]) -> Range:
    """What a number lies within. Raises KeyError for a size that it needs and that is not there."""
    summed = total(i, sizes)
    low = high = summed.const
    for x, coef in summed.terms:
        a, b = (coef * n for n in _span(x, sizes))
        low, high = low + min(a, b), high + max(a, b)
    return low, high


def _span(x: Integer, sizes: Mapping[Rank, int]) -> Range:
    match x:
        case str():
            return 0, sizes[x] - 1
        case Part():
            last = sizes[x.rank] - 1
            return 0, last // x.by if x.op == "//" else min(last, x.by - 1)
        case Computed():
            return OPERATORS[x.op].range(*(span(a, sizes) for a in x.args))
        case _:
            return ANY


def fault(i: Computed) -> str | None:
    """Why nothing can compute a number, if so."""
    known = OPERATORS.get(i.op)
    if known is None or len(i.args) != known.arity:
        return f"a computed index is made by one of {sorted(OPERATORS)}, but got {i.op} of {len(i.args)}"
    if i.op == "mul" and not any(map(is_constant, i.args)):
        return "a product in an index has a whole number (or a size) as one of its factors"
    if wrong := [a for a in i.args if isinstance(a, int) and abs(a) >= LARGEST]:
        return f"a number in an index is less than 2**31, but got {wrong[0]}"
    return next((found for a in i.args if isinstance(a, Computed) and (found := fault(a))), None)


def is_of_elements(i: Index) -> bool:
    """Whether it is computed of elements of tensors, so that sizes do not say what it can be."""
    return isinstance(i, Computed) and any(
        isinstance(a, (Access, Gather)) or (isinstance(a, Computed) and is_of_elements(a)) for a in i.args
    )


def summed(i: Integer) -> Integer:
    """A number without sizes, written as a sum without what cancels, so that no tensor is read in vain."""
    if not isinstance(i, Computed):
        return i
    if i.op not in ("add", "sub", "neg", "mul"):
        return Computed(i.op, tuple(map(summed, i.args)))
    found, made = total(i, {}), None
    for x, coef in found.terms:
        term = summed(x) if coef == 1 else Computed("mul", (summed(x), coef))
        made = term if made is None else Computed("add", (made, term))
    return found.const if made is None else made if found.const == 0 else Computed("add", (made, found.const))


def with_sizes(roots: Iterable[Expr], sizes: Mapping[Rank, int]) -> list[Expr]:
    """The roots with a number for every size that an index is computed with, if all have one, and each as one sum."""

    def leaf(i: Leaf) -> Integer:
        match i:
            case Size() if i.rank in sizes:
                return sizes[i.rank]
            case Gather():
                return read(i)
            case _:
                return i

    def simple(i: Index) -> Index:
        if not isinstance(i, Computed) or has_sizes(i):
            return i
        found = summed(i)
        return found if isinstance(found, Computed) else Computed("add", (found, 0))  # which may lie beyond, as it did

    def read(x: Gather) -> Access | Gather:
        index = tuple(simple(with_leaves(i, leaf)) for i in x.index)
        return x if index == x.index else access(x.tensor, index, is_padded(x))

    return rewrite(roots, lambda x: read(x) if isinstance(x, Gather) else None)
