"""Sums of the gradient that are sums of something that is known: `sum_m a (sum_f u v) = sum_f u (sum_m a v)`.

Exchange of sums and distribution, used where the sum on the right is there already: of attention's weights times their
adjoint it makes the product of an output row with its cotangent, which goes over no keys.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias

from eintune.space.ir.expr import Expr, Map, Rank, Reduce, free, rewrite, topological

from .rules import op

Product: TypeAlias = "frozenset[tuple[Expr, int]]"
"""The factors of a product, each so many times."""


def exchanged(roots: Sequence[Expr], known: Iterable[Expr]) -> list[Expr]:
    """The expressions with sums taken in the order that leads to sums of `known`."""
    sums = {
        (x.rank, _product(factors(x.arg))): x for x in topological(known) if isinstance(x, Reduce) and x.op == "add"
    }
    return rewrite(roots, lambda x: _step(x, sums))


def factors(x: Expr) -> list[Expr]:
    """What a product is made of, left to right."""
    stack, found = [x], []
    while stack:
        match stack.pop():
            case Map("mul", (a, b)):
                stack += (b, a)
            case other:
                found.append(other)
    return found


def _product(parts: Iterable[Expr]) -> Product:
    return frozenset(Counter(parts).items())


def _step(x: Expr, sums: Mapping[tuple[Rank, Product], Expr]) -> Expr | None:
    if not (isinstance(x, Reduce) and x.op == "add"):
        return None
    parts = factors(x.arg)
    for n, inner in enumerate(parts):
        if not (isinstance(inner, Reduce) and inner.op == "add") or x.rank == inner.rank:
            continue
        others = parts[:n] + parts[n + 1 :]
        if any(inner.rank in free(p) for p in others):
            continue
        every = factors(inner.arg) + others
        within = [p for p in every if x.rank in free(p)]
        if (found := sums.get((x.rank, _product(within)))) is not None:
            without = [p for p in every if x.rank not in free(p)]
            return Reduce("add", inner.rank, _times([*without, found]))
    return None


def _times(parts: Sequence[Expr]) -> Expr:
    first, *rest = parts
    for p in rest:
        first = op("mul", first, p)
    return first
