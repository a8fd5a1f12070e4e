"""Symbolic work: what a node costs relative to others, before any machine or size is known."""

from __future__ import annotations

from collections.abc import Sequence

from eintune.space.cascade.traits import COSTLY, Stream
from eintune.space.egraph.graph import ClassId, EGraph, Node
from eintune.space.ir.exact import is_stand_in
from eintune.space.ir.expr import (
    Access,
    Const,
    Expr,
    Fold,
    Gather,
    Iota,
    Map,
    Param,
    Rank,
    Reduce,
    Size,
    Split,
    Unsplit,
)

WORK_LIMIT = 3.0
"""A form that does more than this many times the definition's work is not handed on."""
NOMINAL = 4.0
"""The size of every rank when work is compared; a rank split in two counts as the product of its parts."""
ORIGINAL = 0.75
"""A node as the definition wrote it is preferred to another spelling of the same."""


def operation_cost(head: Expr) -> float:
    """Relative cost of one element of a node; views and scalars are free."""
    match head:
        case Map():
            # Orders of magnitude of the special-function unit and of a division beside a multiply-add. Only ratios
            # between forms matter here; machines come in when schedules are priced.
            return 4.0 if head.op in COSTLY else 2.0 if head.op == "div" else 1.0
        case Reduce():
            return 1.0
        case Fold():
            return 2.0
        case Access() | Gather() | Const() | Param() | Size() | Iota() | Split() | Unsplit():
            return 0.0
        case _:
            return 0.5


class NominalCost:
    """Symbolic work of a node: cost of an element times the nominal sizes of the ranks it goes over."""

    def __init__(self, graph: EGraph, streams: Sequence[Stream]) -> None:
        self.graph = graph
        # Parts multiply to the rank, so that going over a stream in tiles costs what going over it whole does.
        self.parts = {r for s in streams for r in (s.outer, s.inner) if r is not None}
        # A rank that all inputs have is one that every node goes over: it would multiply every cost by the same.
        inputs = (c for c, n in graph.nodes() if isinstance(n.head, (Access, Gather)) and not is_stand_in(n.head))
        leaves = [graph.free[c] for c in inputs]
        self.batch = frozenset[Rank]().union(*leaves).intersection(*leaves) if leaves else frozenset()

    def below(self, n: Node) -> list[frozenset[Rank]]:
        return [self.graph.free[k] for k in n.children]

    def space(self, c: ClassId, n: Node) -> float:
        """The points that a node goes over: the product of its ranks' nominal sizes."""
        size = 1.0
        for r in self.graph.free[c].union(*self.below(n)) - self.batch:
            size *= NOMINAL**0.5 if r in self.parts else NOMINAL
        return size

    def __call__(self, c: ClassId, n: Node) -> float:
        size = self.space(c, n)
        # A nudge, smaller than any operation: among spellings of equal work the definition's own stays, which keeps
        # derived text recognisable.
        original = ORIGINAL if (c, n) in self.graph.original else 1.0
        return operation_cost(n.head) * size * original

    def definition(self) -> float:
        return max(sum(self(c, n) for c, n in self.graph.original), 1e-9)
