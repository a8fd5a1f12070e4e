"""Which maxima are only references: what is computed does not depend on what number they are.

A softmax is relative to the greatest score so that no weight overflows, and would be the same relative to any other
number. Such a maximum has no adjoint. It is shown operator by operator, for any definition: if a reference grows by d,
a value grows by a d (as a score relative to it does, a = -1), or is multiplied by e^(k d) (as its exponential is,
k = -1), or does neither. Sums of what is multiplied alike are multiplied alike; quotients and logarithms undo one
another; where no result moves, none depends on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from eintune.space.ir.expr import (
    NEG_INF,
    Const,
    Expr,
    Fold,
    Map,
    Reduce,
    Split,
    Unsplit,
    Where,
    children,
    free,
    topological,
)
from eintune.space.ir.folds import LN_2

NEGLIGIBLE = 1e-12


@dataclass(frozen=True)
class Move:
    """What a value does if the reference grows by d: it grows by `addend` times d, or is multiplied by e^(factor d)."""

    addend: float = 0.0
    factor: float = 0.0


STILL = Move()


class _Depends(Exception):
    """A value depends on the reference in another way."""


def references(roots: Sequence[Expr]) -> frozenset[Expr]:
    """The maxima and minima below `roots` of which no root depends.

    Each is taken for an input of any number: so all of them together may be, one after the other.
    """
    nodes = topological(roots)
    found: set[Expr] = set()
    for x in nodes:
        if _is_extreme(x) and _is_still(x, roots, nodes):
            found.add(x)
    return frozenset(found)


def _is_extreme(x: Expr) -> bool:
    return (isinstance(x, Reduce) and x.op in ("max", "min")) or (isinstance(x, Map) and x.op in ("max", "min"))


def _is_still(reference: Expr, roots: Sequence[Expr], nodes: Sequence[Expr]) -> bool:
    moves: dict[Expr, Move] = {}
    try:
        for x in nodes:
            moves[x] = Move(1.0) if x is reference else _move(x, [moves[a] for a in children(x)], reference)
    except _Depends:
        return False
    return all(moves[r] == STILL for r in roots)


def _move(x: Expr, below: Sequence[Move], reference: Expr) -> Move:
    if all(m == STILL for m in below):
        return STILL
    match x:
        case Map():
            return _pointwise(x, below)
        case Reduce(op="add"):
            # A reference that varies along the rank moves each item by an amount of its own.
            return _kept(below[0], x, reference, addends=False)
        case Reduce(op="max" | "min"):
            return _kept(below[0], x, reference, addends=True)
        case Where():
            return _filled(x, below[0])
        case Split() | Unsplit():
            if free(reference) & {x.rank, x.outer, x.inner}:
                raise _Depends
            return below[0]
        case Fold():
            raise _Depends
        case _:
            raise _Depends


def _kept(m: Move, x: Reduce, reference: Expr, *, addends: bool) -> Move:
    if x.rank in free(reference) or (m.factor if addends else m.addend):
        raise _Depends
    return m


def _filled(x: Where, m: Move) -> Move:
    """A fill moves along only if it is what stays as it is: 0 multiplied, -inf with an addend."""
    if (m.factor and x.fill != 0.0) or (m.addend and x.fill != NEG_INF):
        raise _Depends
    return m


def _pointwise(x: Map, below: Sequence[Move]) -> Move:
    first, *rest = below
    match x.op:
        case "neg" if not first.factor:
            return _moved(-first.addend, 0.0)
        case "neg" | "abs" if not first.addend:
            return first
        case "add" | "sub":
            return _sum(x, below)
        case "mul":
            return _product(x, below)
        case "div" if not rest[0].addend and not first.addend:
            return _moved(0.0, first.factor - rest[0].factor)
        case "div" if rest[0] == STILL and isinstance(x.args[1], Const) and x.args[1].value:
            return _moved(first.addend / x.args[1].value, 0.0)
        case "exp" if not first.factor:
            return _moved(0.0, first.addend)
        case "exp2" if not first.factor:
            return _moved(0.0, first.addend * LN_2)
        case "log" if not first.addend:
            return _moved(first.factor, 0.0)
        case "log2" if not first.addend:
            return _moved(first.factor / LN_2, 0.0)
        case "sqrt" if not first.addend:
            return _moved(0.0, first.factor / 2)
        case "recip" if not first.addend:
            return _moved(0.0, -first.factor)
        case "nonzero" if not first.addend:
            return first
        case "reference":
            return first
        case "max" | "min" if below[0] == below[1]:
            return first
        case "select" if first == STILL and rest[0] == rest[1]:
            return rest[0]
        case "select" if first == STILL:
            return _chosen(x, rest)
        case "eq" | "ne" | "lt" | "le" | "gt" | "ge" if below[0] == below[1]:
            return STILL  # both grow, or are multiplied by one positive number
        case _:
            raise _Depends


def _chosen(x: Map, rest: Sequence[Move]) -> Move:
    """Of two values one of which is what stays as it is."""
    for (m, _), (_, other) in (((rest[0], 0), (0, x.args[2])), ((rest[1], 0), (0, x.args[1]))):
        still = NEG_INF if m.addend else 0.0
        if isinstance(other, Const) and other.value == still and m != STILL:
            return m
    raise _Depends


def _sum(x: Map, below: Sequence[Move]) -> Move:
    a, b = below
    if not a.factor and not b.factor:
        return _moved(a.addend + (b.addend if x.op == "add" else -b.addend), 0.0)
    if a == b:
        return a
    for m, other in ((a, x.args[1]), (b, x.args[0])):
        if isinstance(other, Const) and other.value == 0.0:
            return m
    raise _Depends


def _product(x: Map, below: Sequence[Move]) -> Move:
    a, b = below
    if not a.addend and not b.addend:
        return _moved(0.0, a.factor + b.factor)
    for m, n, other in ((a, b, x.args[1]), (b, a, x.args[0])):
        if not m.factor and n == STILL and isinstance(other, Const):
            return _moved(m.addend * other.value, 0.0)
    raise _Depends


def _moved(addend: float, factor: float) -> Move:
    return Move(addend if abs(addend) > NEGLIGIBLE else 0.0, factor if abs(factor) > NEGLIGIBLE else 0.0)
