"""The operator graph of an iterative cascade, for pass analysis: one iteration, and the last values.

A state at m1+1 is an operation of the iteration like any other; at m1 it is what the iteration before left, an
operand that is there already; taking its last value needs the whole rank, so that is a reduction, `R_last_m1`.
"""

from __future__ import annotations

from dataclasses import replace

from eintune.space.cascade.cascade import rename
from eintune.space.cascade.iterative import IterativeCascade
from eintune.space.ir.einsum import CascadeError, Einsum, Update
from eintune.space.ir.expr import Access, Expr, Reduce, rewrite
from eintune.space.ir.extents import Extents

from .cascades import from_expressions
from .graph import OperatorGraph
from .operators import Operator


def one_iteration(c: IterativeCascade) -> OperatorGraph:
    """The graph of the results; states at the index before are operands under their own names."""
    made: dict[tuple[str, str], Expr] = {}
    last: dict[Expr, str] = {}
    names: dict[Expr, str] = {}
    extents = Extents()
    statements: tuple[Einsum | Update, ...] = (*c.before, *c.step, *c.after)
    for s in statements:
        expr = rewrite([s.expr], lambda x: _inlined(x, c, made, last))[0]
        if fault := extents.fault(expr):
            raise CascadeError(fault)
        index = c.next if isinstance(s, Update) and c.next in s.index else c.here
        made[s.output.name, index] = expr
        names.setdefault(expr, s.output.name)
    for x, name in last.items():
        names.setdefault(x, f"{name}_last")
    kept = {name: x for (name, _), x in made.items() if not isinstance(x, Access)}
    graph = from_expressions(kept, names, {})
    taken = {names[x] for x in last}
    operations = tuple(
        replace(o, operator=Operator("R", "last", (c.rank,))) if o.output in taken else o for o in graph.operations
    )
    return OperatorGraph(operations, tuple(u.output.name for u in c.after if u.output.name in kept))


def _inlined(x: Expr, c: IterativeCascade, made: dict[tuple[str, str], Expr], last: dict[Expr, str]) -> Expr | None:
    if not isinstance(x, Access):
        return None
    name = x.tensor.name
    if c.last in x.index:
        found: Expr = Reduce("max", c.rank, made[name, c.next])  # stands for R_last until it has its name
        last[found] = name
        return _renamed(found, x, c)
    index = c.next if c.next in x.index else c.here
    source = made.get((name, index))
    return None if source is None else _renamed(source, x, c)


def _renamed(source: Expr, x: Access, c: IterativeCascade) -> Expr:
    """The tensor's expression under the ranks by which it is read; the iterated rank keeps its name."""
    special = (c.next, c.last)
    pairs = zip(x.tensor.ranks, x.index, strict=True)
    return rename(source, {a: b for a, b in pairs if a != b and b not in special})
