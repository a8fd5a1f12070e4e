"""Values that no query sees: what lies beyond a length, in the padding of a cache, may be anything.

A filter gives such an element the weight 0, and 0 times NaN is NaN: in a product of tiles it would reach every row of
the tile. So what is weighted is filtered too, by as much of the filter as depends on nothing else: `m < L[b]` as it is,
`m <= p` as `m <= |p| - 1`, which is more than every row sees, and of a condition those of its parts that do (a mask of
padded keys, beside whatever else a query does not see). A filter that holds for all elements is none, and one that a
loop knows to hold costs nothing.

What only the queries of a tile together decide (documents, a mask over queries and keys) is not known for a key alone:
there a value that is weighted by 0 has to be finite.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import TypeAlias

from eintune.space.analysis.layout import Layout
from eintune.space.analysis.masks import Masks
from eintune.space.ir.expr import (
    NEG_INF,
    Const,
    Expr,
    Fold,
    Map,
    Predicate,
    Rank,
    Reduce,
    Term,
    Where,
    free,
    indexing_ranks,
    rewrite,
    topological,
)
from eintune.space.ir.products import factors, product
from eintune.space.plan.sizes import Affine

Rule: TypeAlias = Predicate | Expr
"""A filter on positions, or a condition of a `select`."""


def without_unseen(roots: Iterable[Expr], layout: Layout, masks: Masks) -> list[Expr]:
    """The roots with filters on what is weighted by 0 wherever a filter is false."""

    def step(x: Expr) -> Expr | None:
        match x:
            case Fold("scale" | "softcomoment", rank, ref) if any(rank in free(a) for a in (x.arg, *x.others)):
                # Only filters that make the weight exactly 0: behind any other the argument is really used.
                rules = [p for p in rules_below(ref, rank) if masks.where_false(p).of(ref) == NEG_INF]
                kept, *others = (_filtered(a, rank, rules, layout) for a in (x.arg, *x.others))
                return Fold(x.action, rank, ref, kept, tuple(others))
            case Reduce("add", rank, arg) if len(parts := factors(arg)) > 1:
                rules = list(rules_below(arg, rank))
                changed = list(parts)
                for p in rules:
                    outcomes = [masks.where_false(p).of(f) for f in parts]
                    # Some factor is 0 where the filter is false, so the others may be made 0 there as well without
                    # changing the sum.
                    if 0.0 in outcomes:
                        changed = [
                            f if outcome == 0.0 else _filtered(f, rank, [p], layout)
                            for f, outcome in zip(changed, outcomes, strict=True)
                        ]
                return None if changed == parts else Reduce("add", rank, product(changed))
            case _:
                return None

    return rewrite(roots, step)


def filters_below(x: Expr, rank: Rank) -> Iterator[Predicate]:
    """The filters of an expression that concern a rank, each once."""
    found = (node.predicate for node in topological([x]) if isinstance(node, Where) and rank in node.predicate.ranks)
    yield from dict.fromkeys(found)


def rules_below(x: Expr, rank: Rank) -> Iterator[Rule]:
    """The filters of an expression that concern a rank, and those conditions, each once."""
    yield from filters_below(x, rank)
    found = (c for node in topological([x]) if isinstance(node, Map) and node.op == "select" for c in parts_of(node))
    yield from dict.fromkeys(c for c in found if rank in free(c))


def parts_of(select: Map) -> Iterator[Expr]:
    """What has to hold, all of it, where a `select` takes its first value."""
    todo = [select.args[0]]
    while todo:
        match todo.pop():
            case Map("and", args):
                todo += args[::-1]
            case condition:
                yield condition


def _filtered(x: Expr, rank: Rank, rules: Iterable[Rule], layout: Layout) -> Expr:
    ranks = free(x)
    for p in rules:
        if rank not in ranks:
            continue
        if not isinstance(p, Predicate):
            x = Map("select", (p, x, Const(0.0))) if free(p) <= ranks else x
        elif (weaker := _weaker(p, ranks, layout)) is not None and not layout.is_tail(weaker):
            x = Where(weaker, x, 0.0)
    return x


def _weaker(p: Predicate, ranks: frozenset[Rank], layout: Layout) -> Predicate | None:
    """A filter on `ranks` alone that holds wherever `p` holds, the best that can be said without the other ranks. None
    where that is true everywhere."""
    terms: list[Term] = []
    weaker = replace(Affine.of(p), indices={})
    for t in p.terms:
        if t.rank in ranks:
            terms.append(t)
        elif t.coef > 0:
            # A rank that the value lacks is replaced by whichever of its indices makes the filter hold most often.
            weaker = weaker.plus_last(t.rank, t.coef, layout.sizes)
    looked_up = frozenset[Rank]().union(*(indexing_ranks(x) for x, _ in p.numbers))
    if not terms or not looked_up <= ranks:
        return None
    found = Predicate(tuple(terms), tuple((r, c) for r, c in weaker.sizes.items() if c), weaker.const, p.numbers)
    # It holds everywhere then, and would be no filter.
    return None if Affine.of(found).least(layout.sizes) >= 0 and not p.numbers else found
