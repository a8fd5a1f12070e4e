"""What of a safe graph is most like the definition: the form that stands for it where it is unsafe as it is written.

Forms are told apart by what they save; one that saves nothing is the definition itself. Where that may overflow
(`e^((S - max S) / T)` for a T below 0), its place is that of the form that keeps most of its nodes.
"""

from __future__ import annotations

from collections.abc import Mapping

from eintune.space.egraph.graph import ClassId, EGraph, Node
from eintune.space.ir.expr import Fold, Reduce, Split, Unsplit

OWN, OTHER = 1.0, 1_000.0
"""Of a node of the definition, and of another: few others first, then few at all."""
BARRIER = 10.0
"""Others that a new reduction is worth, for each reduction that stands one after another below and with it."""


def nearest(graph: EGraph) -> Mapping[ClassId, Node] | None:
    """A node for each class that has a form without new folds and tiles; None if an output has none."""
    parts = {r for s in graph.splits for r in (s.outer, s.inner)} - {
        x.rank for x in graph.defined if isinstance(x, (Reduce, Fold))
    }

    def is_plain(c: ClassId, n: Node) -> bool:
        if (c, n) in graph.original:
            return True
        tiles = isinstance(n.head, (Split, Unsplit)) or bool(graph.free[c] & parts)
        return not tiles and not isinstance(n.head, Fold) and not (isinstance(n.head, Reduce) and n.head.rank in parts)

    below = _levels(graph)

    def own_cost(c: ClassId, n: Node) -> float:
        if (c, n) in graph.original:
            return OWN
        return OTHER * (1.0 + BARRIER * (1 + below[n.children[0]]) if isinstance(n.head, Reduce) else 1.0)

    allowed = [(c, n, own_cost(c, n)) for c, n in graph.nodes() if is_plain(c, n)]
    cost: dict[ClassId, float] = {}
    chosen: dict[ClassId, Node] = {}
    changed = True
    while changed:
        changed = False
        for c, n, own in allowed:
            if all(k in cost for k in n.children):
                total = own + sum(cost[k] for k in n.children)
                if total < cost.get(c, float("inf")):
                    cost[c], chosen[c], changed = total, n, True
    return chosen if all(r in chosen for r in graph.roots) else None


def _levels(graph: EGraph) -> Mapping[ClassId, int]:
    """How many reductions stand one after another below each class, in the form that has the fewest."""
    found = dict.fromkeys(graph.classes, len(graph.classes))
    changed = True
    while changed:
        changed = False
        for c, n in graph.nodes():
            level = max((found[k] for k in n.children), default=0) + int(isinstance(n.head, (Reduce, Fold)))
            if level < found[c]:
                found[c], changed = level, True
    return found
