"""Which laws a definition may have a use for: those with large patterns are tried only where there is something to
find, since each costs time in every graph.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from eintune.space.egraph.graph import EGraph
from eintune.space.egraph.safety import ValueBounds
from eintune.space.ir.expr import Expr, Fold, Map, Reduce, topological
from eintune.space.ir.folds import ACTIONS
from eintune.space.laws.law import Needs


def needs_of(roots: Sequence[Expr]) -> Needs:
    """What a definition needs, as it is written."""
    nodes = topological(roots)
    distances = any(_has_distances(x) for x in nodes)
    return Needs(
        signed=distances and _has_signed_weights(roots),
        distances=distances,
        nested=any(_is_sum(x) and _is_sum(x.arg) for x in nodes if isinstance(x, Reduce)),
        differences=any(isinstance(x, Map) and x.op in ("abs", "max") and any(map(_is_sub, x.args)) for x in nodes),
    )


def _has_distances(x: Expr) -> bool:
    if isinstance(x, Fold):
        return ACTIONS[x.action].references > 1
    return isinstance(x, Map) and x.op in ("mul", "div") and sum(map(_is_sub, _multiplied(x))) > 1


def _multiplied(x: Expr) -> Iterator[Expr]:
    """What a product is made of, divided or not."""
    stack = [x]
    while stack:
        match stack.pop():
            case Map("mul", (a, b)):
                stack += (a, b)
            case Map("div", (a, _)) | Map("neg", (a,)):
                stack.append(a)
            case other:
                yield other


def _is_sub(x: Expr) -> bool:
    return isinstance(x, Map) and x.op == "sub"


def _is_sum(x: Expr) -> bool:
    return isinstance(x, Reduce) and x.op == "add"


def _has_signed_weights(roots: Sequence[Expr]) -> bool:
    graph = EGraph.of(list(roots))
    bounds = ValueBounds(graph)
    sums = (x.args[1] for x in topological(roots) if isinstance(x, Map) and x.op == "div")
    return any(isinstance(x, Reduce) and x.op == "add" and bounds.of[graph.defined[x.arg]][0] < 0 for x in sums)
