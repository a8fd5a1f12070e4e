"""Renaming free ranks where a reduction would capture one: the reduction's own rank gets another name first."""

from __future__ import annotations

from collections.abc import Mapping

from eintune.space.cascade.cascade import rename
from eintune.space.ir.expr import Expr, Rank, Reduce, free, rewrite, topological


def renamed(x: Expr, names: Mapping[Rank, Rank], taken: set[Rank]) -> Expr:
    """`x` with other names for free ranks, all at once. taken: names in use, to which those of reductions that had to
    give way are added.

    Raises CascadeError where a view of a rank stands in the way.
    """
    active = {a: b for a, b in names.items() if a in free(x)}
    if not active:
        return x
    captured = {y.rank for y in topological([x]) if isinstance(y, Reduce)} & set(active.values())
    own = {r: fresh(r, taken) for r in sorted(captured)}
    return rename(_bound(x, own) if own else x, active)


def fresh(rank: Rank, taken: set[Rank]) -> Rank:
    """A new rank of the same letter."""
    n = 1
    while f"{rank[0]}{n}" in taken:
        n += 1
    made = f"{rank[0]}{n}"
    taken.add(made)
    return made


def _bound(x: Expr, names: Mapping[Rank, Rank]) -> Expr:
    """Reductions over other names for their ranks; what is free keeps its own."""

    def step(y: Expr) -> Expr | None:
        if isinstance(y, Reduce) and y.rank in names:
            return Reduce(y.op, names[y.rank], rename(y.arg, {y.rank: names[y.rank]}))
        return None

    return rewrite([x], step)[0]
