"""Values that no query sees: what lies beyond a length, in the padding of a cache, may be anything.

A filter gives such an element the weight 0, and 0 times NaN is NaN: in a product of tiles it would reach every row of
the tile. So what is weighted is filtered too, by as much of the filter as depends on nothing else: `m < L[b]` as it is,
`m <= p` as `m <= |p| - 1`, which is more than every row sees, and of a condition those of its parts that do (a mask of
padded keys, beside whatever else a query does not see). A filter that holds for all elements is none, and one that a
loop knows to hold costs nothing.

Documents, whose numbers must agree, only the queries of a tile decide together: a key whose number lies outside of
the range of theirs is seen by none of them (the padding of a packed batch), and its value is made 0 in tiles where
documents are compared anyway. A key within that range whose number no query of the tile has, and one that a mask over
queries and keys hides from all, must still have a finite value; so must each where warps are specialised, as those
multiply tiles that never were in registers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import TypeAlias

from eintune.space.analysis.layout import Layout
from eintune.space.analysis.masks import Masks
from eintune.space.ir.expr import (
    NEG_INF,
    Access,
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


LEAST, GREATEST = "tile_least", "tile_greatest"
"""The least and the greatest number of a tile along the axes that something else lacks: operators on the two. Plans
have them, no definition does."""


def without_unseen(roots: Iterable[Expr], layout: Layout, masks: Masks, *, by_tile: bool = True) -> list[Expr]:
    """The roots with filters on what is weighted by 0 wherever a filter is false. by_tile: also by what a tile's rows
    decide together."""

    def step(x: Expr) -> Expr | None:
        match x:
            case Fold("scale" | "softcomoment", summed, ref) if any(
                whole_of(summed, layout) in free(a) for a in (x.arg, *x.others)
            ):
                rank = whole_of(summed, layout)
                # Only filters that make the weight exactly 0: behind any other the argument is really used.
                rules = [p for p in rules_below(ref, rank) if masks.where_false(p).of(ref) == NEG_INF]
                kept, *others = (_filtered(a, rank, rules, layout, by_tile) for a in (x.arg, *x.others))
                return Fold(x.action, summed, ref, kept, tuple(others))
            case Reduce("add", summed, arg) if len(parts := factors(arg)) > 1:
                rank = whole_of(summed, layout)
                rules = list(rules_below(arg, rank))
                changed = list(parts)
                for p in rules:
                    outcomes = [masks.where_false(p).of(f) for f in parts]
                    # Some factor is 0 where the filter is false, so the others may be made 0 there as well without
                    # changing the sum.
                    if 0.0 in outcomes:
                        changed = [
                            f if outcome == 0.0 else _filtered(f, rank, [p], layout, by_tile)
                            for f, outcome in zip(changed, outcomes, strict=True)
                        ]
                return None if changed == parts else Reduce("add", summed, product(changed))
            case _:
                return None

    return rewrite(roots, step)


def whole_of(rank: Rank, layout: Layout) -> Rank:
    """The rank whose tiles or parts `rank` runs along, which is what indices and filters name; itself where it is no
    such half."""
    return next((whole for whole, (_, inner) in layout.halves.items() if rank == inner), rank)


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


def _filtered(x: Expr, rank: Rank, rules: Iterable[Rule], layout: Layout, by_tile: bool) -> Expr:
    ranks = free(x)
    for p in rules:
        if rank not in ranks:
            continue
        if not isinstance(p, Predicate):
            condition = p if free(p) <= ranks else seen_by_tile(p, rank, layout, ranks) if by_tile else None
            x = x if condition is None else Map("select", (condition, x, Const(0.0)))
        elif (weaker := _weaker(p, ranks, layout)) is not None and not layout.is_tail(weaker):
            x = Where(weaker, x, 0.0)
    return x


def seen_by_tile(condition: Expr, rank: Rank, layout: Layout, ranks: frozenset[Rank] | None = None) -> Expr | None:
    """Of an equality of an integer along `rank` with one that does not vary with it: that the former lies within the
    range of the latter's tile, which holds wherever the equality does for some row of it. None for another condition,
    and for an integer that varies with others than `ranks`.
    """
    match condition:
        case Map("eq", (Access() as a, Access() as b)) if a.tensor.kind == b.tensor.kind == "int":
            for own, still in ((a, b), (b, a)):
                allowed = ranks is None or free(own) <= ranks
                if allowed and layout.varies(own, rank) and not layout.varies(still, rank):
                    ends = (("ge", Map(LEAST, (still, own))), ("le", Map(GREATEST, (still, own))))
                    return Map("and", tuple(Map(op, (own, end)) for op, end in ends))
    return None


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
