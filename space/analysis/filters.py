"""Conditions that are filters: `select(index(m) < L[b], x, -inf)` keeps x where an affine inequality holds.

A condition on indices and elements of integer tensors says more as a filter than as a number: bounds of loops follow
from it, and ranges where it need not be looked at.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from functools import reduce

from eintune.space.ir.expr import (
    Access,
    Const,
    Expr,
    Gather,
    Iota,
    Map,
    Predicate,
    Rank,
    Size,
    Term,
    Where,
    indexing_ranks,
    rewrite,
    topological,
)
from eintune.space.plan.sizes import Sizes


def conditions(wanted: Iterable[Expr]) -> Iterator[tuple[Expr, ...]]:
    """For each `select` between an expression and a number: the conditions that must all hold for it to be the
    expression."""
    for x in topological(list(wanted)):
        match x:
            case Map("select", (condition, _, Const())):
                yield tuple(conjuncts(condition))


def equalities(wanted: Iterable[Expr]) -> list[Expr]:
    """The conditions (of `conditions`) that two elements of tensors are equal, each once."""
    found = (c for every in conditions(wanted) for c in every)
    return [c for c in dict.fromkeys(found) if isinstance(c, Map) and _is_equality(c)]


def ranks_of_numbers(wanted: Iterable[Expr]) -> frozenset[Rank]:
    """The ranks that index the numbers which filters read."""
    found = (x.predicate.numbers for x in topological(list(wanted)) if isinstance(x, Where))
    return frozenset(r for numbers in found for x, _ in numbers for r in indexing_ranks(x))


def _is_equality(x: Map) -> bool:
    return x.op == "eq" and all(isinstance(a, Access) for a in x.args)


MOST = 2**31
"""What an index is less than."""


def as_filters(roots: Iterable[Expr]) -> list[Expr]:
    """The roots with filters for selections between something and a number by such conditions."""
    return rewrite(roots, _filter)


def _filter(x: Expr) -> Expr | None:
    match x:
        case Map("select", (condition, kept, Const(fill))):
            # Each condition of an "and" by itself: what is affine becomes a filter, which can bound loops; what is
            # not stays in the `select` below it.
            every = [(c, _predicate(c)) for c in conjuncts(condition)]
            rest = [c for c, p in every if p is None]
            if len(rest) == len(every):
                return None
            if rest:
                kept = Map("select", (reduce(lambda a, b: Map("and", (a, b)), rest), kept, Const(fill)))
            return reduce(lambda arg, p: Where(p, arg, fill), [p for _, p in every if p], kept)
        case _:
            return None


def conjuncts(x: Expr) -> list[Expr]:
    """What holds where a condition does: the operands of its "and"."""
    match x:
        case Map("and", (a, b)):
            return [*conjuncts(a), *conjuncts(b)]
        case _:
            return [x]


def _predicate(x: Expr) -> Predicate | None:
    """A comparison as a filter, if it is one on an index and an element of an integer tensor."""
    match x:
        case Map("lt", (a, b)) | Map("gt", (b, a)):
            # a < b on whole numbers is b - a - 1 >= 0.
            found = _affine(Map("sub", (b, a)), -1)
        case Map("le", (a, b)) | Map("ge", (b, a)):
            found = _affine(Map("sub", (b, a)), 0)
        case _:
            return None
    # Of an index and a number both: without an index nothing bounds a loop, and without a number nothing is gained
    # over what is there.
    return found if found and found.terms and found.numbers else None


def _affine(x: Expr, more: int) -> Predicate | None:
    """`x + more >= 0` as a predicate, where x is a sum of indices, sizes, whole numbers and integer elements."""
    terms: dict[Rank, int] = {}
    sizes: dict[Rank, int] = {}
    numbers: dict[Access | Gather, int] = {}
    const = more

    def add(x: Expr, coef: int) -> bool:
        nonlocal const
        match x:
            case Iota():
                terms[x.rank] = terms.get(x.rank, 0) + coef
            case Size():
                sizes[x.rank] = sizes.get(x.rank, 0) + coef
            case Access() | Gather() if x.tensor.kind == "int":
                numbers[x] = numbers.get(x, 0) + coef
            case Const() if math.isfinite(x.value) and x.value == int(x.value):
                const += coef * int(x.value)
            case Map("add", (a, b)):
                return add(a, coef) and add(b, coef)
            case Map("sub", (a, b)):
                return add(a, coef) and add(b, -coef)
            case Map("neg", (a,)):
                return add(a, -coef)
            case _:
                return False
        return True

    if not add(x, 1):
        return None
    return Predicate(
        tuple(Term(r, c) for r, c in terms.items() if c),
        tuple((r, c) for r, c in sizes.items() if c),
        const,
        tuple((a, c) for a, c in numbers.items() if c),
    )


def farthest(p: Predicate, sizes: Sizes) -> int | None:
    """The limit to which the one number that a filter reads from memory may be clamped, in magnitude: beyond it the
    filter is decided by the number alone, and a sum with a number up to it needs no more than the 32 bits of an index.

    None where the number stands alone (`m < L[b]`), where the filter reads none or several, and where the limit itself
    would need more bits. What sizes of the filter are known are bound (numbers).
    """
    if len(p.numbers) != 1 or _stands_alone(p):
        return None
    ((_, coef),) = p.numbers
    # The rest of the sum lies within [-reach, reach]: a number beyond that has the last word, and so has the nearest
    # number that is just beyond it.
    reach = abs(p.const) + sum(abs(t.coef) * (sizes.most(t.rank) - 1) for t in p.terms)
    reach += sum(abs(c) * sizes.most(r) for r, c in p.sizes)
    return reach // abs(coef) + 1 if 2 * reach + abs(coef) < MOST else None


def is_wide(p: Predicate, sizes: Sizes) -> bool:
    """Whether a filter that reads numbers from memory must be evaluated in 64 bits: it reads several of them, or what
    is added to the one is too large for `farthest` to give a limit. What sizes of it are known are bound."""
    return bool(p.numbers) and not _stands_alone(p) and farthest(p, sizes) is None


def _stands_alone(p: Predicate) -> bool:
    """Whether nothing is added to the one number of a filter: `m < L[b]`."""
    one = len(p.numbers) == len(p.terms) == 1
    return one and not p.sizes and p.numbers[0][1] == 1 and p.const == -1 and p.terms[0].coef == -1
