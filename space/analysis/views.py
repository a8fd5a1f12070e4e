"""Views of a split rank, taken away: what is left says `m` where data is indexed, `m1` and `m0` where it is reduced.

`Split` and `Unsplit` move no data. A plan runs the outer half of a split rank as the loop over tiles and the
inner half as the tile's axis, so a value that is indexed by both halves is simply indexed by the rank itself; a
reduction over the inner half reduces the tile, one over the outer half reduces the loop.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from eintune.space.ir.expr import (
    Access,
    Expr,
    Gather,
    Iota,
    Map,
    Predicate,
    Rank,
    Size,
    Split,
    Term,
    Unsplit,
    Where,
    indexing_ranks,
    rewrite,
    topological,
)
from eintune.space.plan.roles import IllegalPlan

Halves = dict[Rank, tuple[Rank, Rank]]
"""rank -> (outer, inner)."""


def erase_views(roots: Iterable[Expr]) -> tuple[list[Expr], Halves]:
    """The same roots without views, and the splits. Raises IllegalPlan where a rank is split in two ways."""
    wanted = list(roots)
    halves = _halves(wanted)
    erased = rewrite(wanted, lambda x: _erase(x, halves))
    _refuse_half_indices(erased, halves)
    return erased, halves


def _halves(roots: Iterable[Expr]) -> Halves:
    halves: Halves = {}
    for x in topological(roots):
        if isinstance(x, (Split, Unsplit)):
            pair = x.outer, x.inner
            if halves.setdefault(x.rank, pair) != pair:
                raise IllegalPlan("a rank is split in one way", f"{x.rank} is split as {halves[x.rank]} and {pair}")
    parts = [half for pair in halves.values() for half in pair]
    if len(set(parts)) != len(parts) or set(parts) & set(halves):
        raise IllegalPlan(f"the halves of split ranks are ranks of their own, not split again: {halves}")
    return halves


def _erase(x: Expr, halves: Halves) -> Expr | None:
    match x:
        case Split() | Unsplit():
            return x.arg
        case Where():
            predicate = whole_ranks(x.predicate, halves)
            return None if predicate == x.predicate else Where(predicate, x.arg, x.fill)
        case Map("add", (a, b)):
            return _whole_index(a, b, halves) or _whole_index(b, a, halves)
        case _:
            return None


def _whole_index(large: Expr, small: Expr, halves: Halves) -> Expr | None:
    """`m1 * |m0| + m0` is m."""
    for rank, (outer, inner) in halves.items():
        match large, small:
            case Map("mul", (a, b)), Iota(r) if r == inner and {a, b} == {Iota(outer), Size(inner)}:
                return Iota(rank)
    return None


def whole_ranks(p: Predicate, halves: Mapping[Rank, tuple[Rank, Rank]]) -> Predicate:
    """A predicate on halves as one on whole ranks: `c * m1 * |m0| + c * m0` becomes `c * m`."""
    terms = list(p.terms)
    for rank, (outer, inner) in halves.items():
        for t in [t for t in terms if t.rank == outer]:
            partner = Term(inner, t.coef)
            if t.stride != inner or partner not in terms:
                raise IllegalPlan("a filter uses both halves of a split rank as one index", f"{p.terms} does not")
            terms.remove(partner)
            terms[terms.index(t)] = Term(rank, t.coef)
    return Predicate(tuple(terms), p.sizes, p.const, p.numbers)


def _refuse_half_indices(roots: Iterable[Expr], halves: Halves) -> None:
    parts = {half for pair in halves.values() for half in pair}
    for x in topological(roots):
        used: set[Rank] = set()
        match x:
            case Access() | Gather():
                used = parts & set(indexing_ranks(x))
            case Iota():
                used = parts & {x.rank}
            case Where():
                used = parts & x.predicate.ranks
        if used:
            raise IllegalPlan("half a split rank indexes nothing by itself", f"{sorted(used)} does")
