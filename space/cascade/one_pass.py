"""Which folds one pass does, and what the others stand for.

A transport that is not linear moves sums of weights that do not vary, so that an argument that does needs the finished
reference first. An argument that weighs the reference must not be negative: a running sum of weights of both signs may
vanish, where the whole sum does not.
"""

from __future__ import annotations

from eintune.space.ir.expr import Expr, Fold, Reduce, children, free, topological
from eintune.space.ir.folds import ACTIONS, WEIGHTS


def written_out(x: Expr) -> Expr | None:
    """A fold that one pass cannot do, as the reductions that it stands for; None for any other expression."""
    if not isinstance(x, Fold) or is_one_pass(x):
        return None
    row = WEIGHTS.get(x.action)
    if row is None:
        return ACTIONS[x.action].written(x.rank, x.scores, x.arg)
    return Reduce("add", x.rank, x.arg * row.weight_of(x.ref, row.reference_of(x.rank, x.ref)))


def passes_of(x: Fold) -> int:
    """How many passes over its rank a fold takes."""
    written = written_out(x)
    if written is None:
        return 1
    level: dict[Expr, int] = {}
    for node in topological([written], stop=dict.fromkeys(children(x))):
        below = max((level.get(a, 0) for a in children(node)), default=0)
        level[node] = below + (isinstance(node, Reduce) and node.rank == x.rank)
    return level[written]


def is_one_pass(x: Fold) -> bool:
    """Whether one pass over its rank does a fold."""
    action = ACTIONS[x.action]
    if action.weighed:
        return is_never_negative(x.arg)
    return action.linear or x.rank not in free(x.arg)


def is_never_negative(x: Expr) -> bool:
    """Whether an expression is proven to be nowhere negative, by intervals."""
    from eintune.space.egraph.graph import EGraph
    from eintune.space.egraph.safety import ValueBounds

    graph = EGraph.of([x])
    return ValueBounds(graph).of[graph.roots[0]][0] >= 0
