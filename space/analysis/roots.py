"""The expressions that a plan is built from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from eintune.space.cascade.canonical import lowered
from eintune.space.cascade.cascade import Cascade
from eintune.space.ir.expr import (
    Access,
    Expr,
    Fold,
    Gather,
    Iota,
    Rank,
    Reduce,
    Size,
    Where,
    indexing_ranks,
    indexing_sizes,
    reads,
    topological,
)
from eintune.space.ir.gathers import axes
from eintune.space.plan.roles import IllegalPlan

from .filters import as_filters
from .views import Halves, erase_views


@dataclass(frozen=True)
class Roots:
    """One expression an output, without views. outputs: the ranks of each; halves: the ranks that stay split."""

    expressions: tuple[Expr, ...]
    outputs: dict[str, tuple[Rank, ...]]
    halves: Halves

    def ranks(self) -> list[Rank]:
        """The ranks that index or reduce something, in order of appearance, outputs' first.

        A size that no rank iterates (a window's, say) is a number: it has no role.
        """
        found: dict[Rank, None] = {r: None for ranks in self.outputs.values() for r in ranks}
        halves = {half for pair in self.halves.values() for half in pair}
        for x in topological(self.expressions):
            found.update(dict.fromkeys(r for r in _indices(x) if r not in halves))
        return list(found)

    def numbers(self) -> list[Rank]:
        """The sizes that are read and that no rank has."""
        ranks = {*self.ranks(), *(half for pair in self.halves.values() for half in pair)}
        read = [r for x in topological(self.expressions) for r in _sizes(x)]
        return [r for r in dict.fromkeys([*read, *self.axes()]) if r not in ranks]

    def axes(self) -> list[Rank]:
        """The lengths of inputs' axes: ranks, and the inputs' own names for axes that no rank iterates."""
        return list(dict.fromkeys(r for x in reads(self.expressions) for r in axes(x)))


def _indices(x: Expr) -> Sequence[Rank]:
    match x:
        case Access() | Gather():
            return indexing_ranks(x)
        case Iota() | Reduce() | Fold():
            return (x.rank,)
        case Where():
            found = [t.rank for t in x.predicate.terms]
            return [*found, *(r for number, _ in x.predicate.numbers for r in indexing_ranks(number))]
        case _:
            return ()


def _sizes(x: Expr) -> Sequence[Rank]:
    match x:
        case Size():
            return (x.rank,)
        case Gather():
            return indexing_sizes(x)
        case Where():
            return [r for r, _ in x.predicate.sizes]
        case _:
            return ()


@lru_cache(maxsize=256)
def roots_of(cascade: Cascade) -> Roots:
    """The cascade's canonical roots. Raises IllegalPlan where a rank is split in two ways, and for an output over
    tiles."""
    lowered_roots = lowered(cascade)
    expressions, halves = erase_views(x for x, _ in lowered_roots.values())
    for name, (_, ranks) in lowered_roots.items():
        if tiled := [r for pair in halves.values() for r in pair if r in ranks]:
            raise IllegalPlan("an output is over whole ranks", f"{name} is over the halves {tiled} of a split one")
    return Roots(tuple(as_filters(expressions)), {name: ranks for name, (_, ranks) in lowered_roots.items()}, halves)
