"""Values that a query does not see may be anything: what lies beyond a length, in padding, or behind a mask.

A filter gives such an element the weight 0, and 0 times NaN is NaN: in a product of tiles it would reach every row of
the tile. So what is weighted is filtered too, by as much of the filter as depends on nothing else: `m < L[b]` as it is,
`m <= p` as `m <= |p| - 1`, which is more than every row sees, and of a condition those of its parts that do (a mask of
padded keys, beside whatever else a query does not see). A filter that holds for all elements is none, and one that a
loop knows to hold costs nothing.

A condition that reads data and that each query decides for itself (documents, whose numbers must agree; a mask over
queries and keys) is another matter: what one row sees another does not. Such values are multiplied as they are, and
the rare tiles that they spoil are computed again (`space/plan/repair.py`) from a graph that decides by row and takes
its time: it sums what is finite, and beside it the weights of what is not, from which follows whether the sum is inf,
-inf or no number. A weight of 0 adds nothing there, whatever it weighs. (Of a product of several values that no sum is
to hold, and of moments, a row that sees something that is not finite has the sum of all, and any other the finite one.)
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from typing import Literal, TypeAlias

from eintune.space.analysis.empty_rows import Empties
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
    tensors,
    topological,
)
from eintune.space.ir.products import factors, product
from eintune.space.plan.sizes import Affine

Rule: TypeAlias = Predicate | Expr
"""A filter on positions, or a condition of a `select`."""


GREATEST = "tile_greatest"
"""The greatest number of a tile along the axes that something else lacks: an operator on the two. Plans have it, no
definition does."""


Beside = Literal["nothing", "row"]
"""What else a value may be filtered by than what depends on nothing but itself."""


def without_unseen(
    roots: Iterable[Expr], layout: Layout, masks: Masks, beside: Beside = "nothing"
) -> tuple[list[Expr], frozenset[Rank]]:
    """The roots with filters on what is weighted by 0 wherever a filter is false; and the ranks along which something
    is left that each row decides. beside: what is done about that: nothing, or filters by each `row` exactly."""
    every: set[Rank] = set()

    def step(x: Expr) -> Expr | None:
        match x:
            case Fold("scale" | "softcomoment", summed, ref) if any(
                whole_of(summed, layout) in free(a) for a in (x.arg, *x.others)
            ):
                rank = whole_of(summed, layout)
                # Only filters that make the weight exactly 0: behind any other the argument is really used.
                rules = [p for p in rules_below(ref, rank) if masks.where_false(p).of(ref) == NEG_INF]
                filtered = _Filtered(layout)
                kept, *others = (filtered(a, rank, rules) for a in (x.arg, *x.others))
                every.update(filtered.left)
                made = Fold(x.action, summed, ref, kept, tuple(others))
                return _of_row(made, rank, layout) if filtered.left and beside == "row" else made
            case Reduce("add", summed, arg) if len(parts := factors(arg)) > 1:
                rank = whole_of(summed, layout)
                rules = list(rules_below(arg, rank))
                changed = list(parts)
                unseen: set[int] = set()
                for p in rules:
                    outcomes = [masks.where_false(p).of(f) for f in parts]
                    # Some factor is 0 where the filter is false, so the others may be made 0 there as well without
                    # changing the sum.
                    for i in [i for i, outcome in enumerate(outcomes) if outcome != 0.0 and 0.0 in outcomes]:
                        filtered = _Filtered(layout)
                        changed[i] = filtered(changed[i], rank, [p])
                        every.update(filtered.left)
                        unseen.update([i] if filtered.left else [])
                if unseen and beside == "row":
                    values = [changed[i] for i in sorted(unseen)]
                    return _sum_of_row(summed, values, [f for i, f in enumerate(changed) if i not in unseen], layout)
                return None if changed == parts else Reduce("add", summed, product(changed))
            case _:
                return None

    return rewrite(roots, step), frozenset(every)


def _of_row(fold: Fold, rank: Rank, layout: Layout) -> Expr:
    """A fold over a rank in which what is weighted by 0 adds nothing, whatever it is."""
    values, others = _parted(factors(fold.arg), rank, layout)
    if fold.action == "scale" and values:

        def weighed(x: Expr) -> Expr:
            return Fold(fold.action, fold.rank, fold.ref, x)

        v = product(values)
        return product([_total(weighed(_if_finite(v)), [weighed(_beyond(v, 1))], [weighed(_beyond(v, -1))]), *others])
    # Of what is finite; but of all where a row's scores see something that is not.
    values = [a for a in (fold.arg, *fold.others) if rank in free(a)]
    kept, *rest = (_if_finite(a) if a in values else a for a in (fold.arg, *fold.others))
    # A score of what is not finite that is more than -inf: some such value has a weight.
    seen = Reduce("max", fold.rank, Map("select", (_spoils(values, fold.ref), fold.ref, Const(NEG_INF))))
    finite = Fold(fold.action, fold.rank, fold.ref, kept, tuple(rest))
    return Map("select", (Map("gt", (seen, Const(NEG_INF))), fold, finite))


def _sum_of_row(summed: Rank, values: list[Expr], rest: list[Expr], layout: Layout) -> Expr:
    """As `_of_row`, of a sum of products of values with what weighs them."""
    rank = whole_of(summed, layout)
    weights, others = [f for f in rest if layout.varies(f, rank)], [f for f in rest if not layout.varies(f, rank)]
    weight = product(weights)
    if _parted(values, rank, layout)[0] == values:

        def weighed(x: Expr, w: Sequence[Expr]) -> Expr:
            return Reduce("add", summed, product([*w, x]))

        v = product(values)
        up, down = ([weighed(_beyond(v, sign), [_part(weight, 1)])] for sign in (1, -1))
        if Empties(layout).sign(weight) == "any":
            up.append(weighed(_beyond(v, -1), [_part(weight, -1)]))
            down.append(weighed(_beyond(v, 1), [_part(weight, -1)]))
        return product([_total(weighed(_if_finite(v), weights), up, down), *others])
    number = Map("select", (_spoils(values, weight), Const(1.0), Const(0.0)))
    seen = Reduce("add", summed, product([Map("abs", (weight,)), number]))
    kept = map(_if_finite, values)
    finite, every = (Reduce("add", summed, product([*weights, *these])) for these in (kept, values))
    return product([Map("select", (Map("gt", (seen, Const(0.0))), every, finite)), *others])


def _parted(parts: Sequence[Expr], rank: Rank, layout: Layout) -> tuple[list[Expr], list[Expr]]:
    """The factors of what is weighted that vary with a rank, and the others. None of the former where their product
    has more axes than each, which no sum is to hold."""
    varying = [f for f in parts if layout.varies(f, rank)]
    axes = layout.shape(product(varying)).axes
    if not any(layout.shape(f).axes == axes for f in varying):
        return [], list(parts)
    return varying, [f for f in parts if f not in varying]


def _total(finite: Expr, up: Sequence[Expr], down: Sequence[Expr]) -> Expr:
    """A sum of what is finite, with inf where some of `up` is more than 0, and -inf where some of `down` is: of both,
    which is no number, where something that is none has a weight."""
    for sums, end in ((up, math.inf), (down, -math.inf)):
        for x in sums:
            finite = Map("add", (finite, Map("select", (Map("gt", (x, Const(0.0))), Const(end), Const(0.0)))))
    return finite


def _beyond(v: Expr, sign: int) -> Expr:
    """1 where a value is inf (-inf) or no number, else 0."""
    inside = Map("lt" if sign > 0 else "gt", (v, Const(sign * math.inf)))
    return Map("select", (inside, Const(0.0), Const(1.0)))


def _part(weight: Expr, sign: int) -> Expr:
    """A weight where it is positive (negative), else 0."""
    return Map("max", (weight if sign > 0 else Map("neg", (weight,)), Const(0.0)))


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
    """A value with filters by as much of some rules as it can know. left: the ranks along which data decides what it
    does not know."""

    layout: Layout
    left: set[Rank] = field(default_factory=set)

    def __call__(self, x: Expr, rank: Rank, rules: Iterable[Rule]) -> Expr:
        ranks = free(x)
        for p in rules:
            if rank not in ranks:
                continue
            if not isinstance(p, Predicate):
                if free(p) <= ranks:
                    x = Map("select", (p, x, Const(0.0)))
                elif tensors([p]):
                    self._leave(x, rank)
            elif (weaker := _weaker(p, ranks, self.layout)) is not None and not self.layout.is_tail(weaker):
                x = Where(weaker, x, 0.0)
            elif not _looked_up(p) <= ranks:
                self._leave(x, rank)
        return x

    def _leave(self, x: Expr, rank: Rank) -> None:
        if any(tensor.kind == "float" for tensor in tensors([x]).values()):  # what else there is, is finite
            self.left.add(rank)


def _looked_up(p: Predicate) -> frozenset[Rank]:
    """The ranks that index the numbers which a filter reads."""
    return frozenset[Rank]().union(*(indexing_ranks(x) for x, _ in p.numbers))


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
    if not terms or not _looked_up(p) <= ranks:
        return None
    found = Predicate(tuple(terms), tuple((r, c) for r, c in weaker.sizes.items() if c), weaker.const, p.numbers)
    # It holds everywhere then, and would be no filter.
    return None if Affine.of(found).least(layout.sizes) >= 0 and not p.numbers else found
