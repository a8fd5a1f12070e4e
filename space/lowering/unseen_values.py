"""Values that no query sees: what lies beyond a length, in the padding of a cache, may be anything.

A filter gives such an element the weight 0, and 0 times NaN is NaN: in a product of tiles it would reach every row of
the tile. So what is weighted is filtered too, by as much of the filter as depends on nothing else: `m < L[b]` as it is,
`m <= p` as `m <= |p| - 1`, which is more than every row sees, and of a condition those of its parts that do (a mask of
padded keys, beside whatever else a query does not see). A filter that holds for all elements is none, and one that a
loop knows to hold costs nothing.

Documents, whose numbers must agree, only the queries of a tile decide together: a key whose number lies outside of
the range of theirs is seen by none of them (the padding of a packed batch), and its value is made 0 in tiles where
documents are compared anyway. A key within that range whose number no query of the tile has, and one that a mask over
queries and keys hides from all, must still have a finite value. Where warps are specialised, which multiply tiles that
never were in registers, what only the queries of a tile decide is left as it is, and another kernel repairs the tiles
that it spoils (`space/plan/repair.py`). That one decides by row and takes its time: it sums twice, with all values and
with the finite ones, and a row has the first sum if it sees a value that is not finite.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import reduce
from typing import Literal, TypeAlias

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


Beside = Literal["nothing", "tile", "row"]
"""What else a value may be filtered by than what depends on nothing but itself."""


def without_unseen(
    roots: Iterable[Expr], layout: Layout, masks: Masks, beside: Beside = "tile"
) -> tuple[list[Expr], frozenset[Rank]]:
    """The roots with filters on what is weighted by 0 wherever a filter is false; and the ranks along which something
    is left that only a tile's rows decide together. beside: what is done about that: nothing; filters by `tile`, so
    that nothing is left but what the module says; or by each `row` exactly."""
    every: set[Rank] = set()

    def step(x: Expr) -> Expr | None:
        match x:
            case Fold("scale" | "softcomoment", summed, ref) if any(
                whole_of(summed, layout) in free(a) for a in (x.arg, *x.others)
            ):
                rank = whole_of(summed, layout)
                # Only filters that make the weight exactly 0: behind any other the argument is really used.
                rules = [p for p in rules_below(ref, rank) if masks.where_false(p).of(ref) == NEG_INF]
                filtered = _Filtered(layout, beside == "tile")
                kept, *others = (filtered(a, rank, rules) for a in (x.arg, *x.others))
                every.update(filtered.left)
                made = Fold(x.action, summed, ref, kept, tuple(others))
                return _of_row(made, rank) if filtered.left and beside == "row" else made
            case Reduce("add", summed, arg) if len(parts := factors(arg)) > 1:
                rank = whole_of(summed, layout)
                rules = list(rules_below(arg, rank))
                changed = list(parts)
                weights: set[int] = set()
                for p in rules:
                    filtered = _Filtered(layout, beside == "tile")
                    outcomes = [masks.where_false(p).of(f) for f in parts]
                    # Some factor is 0 where the filter is false, so the others may be made 0 there as well without
                    # changing the sum.
                    if 0.0 in outcomes:
                        changed = [
                            f if outcome == 0.0 else filtered(f, rank, [p])
                            for f, outcome in zip(changed, outcomes, strict=True)
                        ]
                    if filtered.left:
                        weights.update(i for i, outcome in enumerate(outcomes) if outcome == 0.0)
                    every.update(filtered.left)
                if weights and beside == "row":
                    values = [f for i, f in enumerate(changed) if i not in weights]
                    return _sum_of_row(summed, rank, [changed[i] for i in sorted(weights)], values)
                return None if changed == parts else Reduce("add", summed, product(changed))
            case _:
                return None

    return rewrite(roots, step), frozenset(every)


def _of_row(fold: Fold, rank: Rank) -> Expr:
    """A fold over a rank of what is finite; but of all where a row's scores see something that is not."""
    values = [a for a in (fold.arg, *fold.others) if rank in free(a)]
    kept, *others = (_if_finite(a) if a in values else a for a in (fold.arg, *fold.others))
    # A score of what is not finite that is more than -inf: some such value has a weight.
    seen = Reduce("max", fold.rank, Map("select", (_spoils(values, fold.ref), fold.ref, Const(NEG_INF))))
    finite = Fold(fold.action, fold.rank, fold.ref, kept, tuple(others))
    return Map("select", (Map("gt", (seen, Const(NEG_INF))), fold, finite))


def _sum_of_row(summed: Rank, rank: Rank, weights: list[Expr], values: list[Expr]) -> Expr:
    """As `_of_row`, of a sum of products."""
    weight = product(weights)
    varying = [v for v in values if rank in free(v)]
    number = Map("select", (_spoils(varying, weight), Const(1.0), Const(0.0)))
    seen = Reduce("add", summed, product([Map("abs", (weight,)), number]))
    kept = [_if_finite(v) if v in varying else v for v in values]
    finite, every = (Reduce("add", summed, product([*weights, *these])) for these in (kept, values))
    return Map("select", (Map("gt", (seen, Const(0.0))), every, finite))


def _is_finite(x: Expr) -> Expr:
    return Map("lt", (Map("abs", (x,)), Const(math.inf)))


def _if_finite(x: Expr) -> Expr:
    return Map("select", (_is_finite(x), x, Const(0.0)))


def _spoils(values: Iterable[Expr], beside: Expr) -> Expr:
    """Whether some value of a tile is not finite, along the axes that `beside` has too."""
    numbers = (Map("select", (_is_finite(v), Const(0.0), Const(1.0))) for v in values)
    found = (Map("gt", (Map(GREATEST, (n, beside)), Const(0.5))) for n in numbers)
    return reduce(lambda a, b: Map("or", (a, b)), found)


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


@dataclass(frozen=True)
class _Filtered:
    """A value with filters by as much of some rules as it can know. left: the ranks along which it knows less than it
    could, as it is not to be filtered by tile."""

    layout: Layout
    by_tile: bool
    left: set[Rank] = field(default_factory=set)

    def __call__(self, x: Expr, rank: Rank, rules: Iterable[Rule]) -> Expr:
        ranks = free(x)
        for p in rules:
            if rank not in ranks:
                continue
            if not isinstance(p, Predicate):
                condition = p if free(p) <= ranks else self._of_tile(p, rank, ranks)
                x = x if condition is None else Map("select", (condition, x, Const(0.0)))
            elif (weaker := _weaker(p, ranks, self.layout)) is not None and not self.layout.is_tail(weaker):
                x = Where(weaker, x, 0.0)
        return x

    def _of_tile(self, condition: Expr, rank: Rank, ranks: frozenset[Rank]) -> Expr | None:
        found = seen_by_tile(condition, rank, self.layout, ranks)
        if found is None or self.by_tile:
            return found
        self.left.add(rank)
        return None


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
