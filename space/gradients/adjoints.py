"""Reverse mode on the expression graph: for each node what a change of it is worth, from the results back.

A node's adjoint varies with the node's ranks and no others. What a user of a node makes of it stands in the user's
iteration space, the ranks that it varies with and the one that it reduces, and is summed over those that the node has
not: so the adjoint of a broadcast is a sum and that of a sum a broadcast, and grouped heads, biases, slopes and tables
need no rule of their own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from eintune.space.ir.expr import (
    Access,
    Expr,
    Fold,
    Gather,
    Map,
    Rank,
    Reduce,
    Size,
    Split,
    Unsplit,
    Where,
    children,
    free,
    rewrite,
    topological,
)
from eintune.space.ir.folds import ACTIONS

from .references import references
from .rules import RULES, op, over, where

Share = tuple[Expr, Expr, frozenset[Rank]]
"""An operand, what its user makes of it, and the iteration space in which that stands."""


def unfolded(roots: Iterable[Expr]) -> list[Expr]:
    """The expressions with folds written out as the reductions that they stand for."""

    def step(x: Expr) -> Expr | None:
        return ACTIONS[x.action].written(x.rank, x.scores, x.arg) if isinstance(x, Fold) else None

    return rewrite(roots, step)


def adjoints(cotangents: Mapping[Expr, Expr], wanted: Iterable[Expr]) -> dict[Expr, Expr]:
    """The adjoint of each node of `wanted` that the results depend on, and of all between.

    cotangents: what a change of each root is worth; the roots have no folds (`unfolded`). wanted: leaves, mostly.
    """
    roots = list(cotangents)
    nodes = topological(roots)
    still = references(roots)
    active = _above(nodes, set(wanted) - still) - still
    found: dict[Expr, Expr] = {}

    def add(x: Expr, share: Expr) -> None:
        found[x] = op("add", found[x], share) if x in found else share

    for root, g in cotangents.items():
        if root in active:
            add(root, g)
    for y in reversed(nodes):
        if y not in found:
            continue
        for x, share, space in _shares(y, found[y]):
            if x in active:
                add(x, summed(share, sorted(space - free(x))))
    return found


def _above(nodes: Iterable[Expr], wanted: set[Expr]) -> set[Expr]:
    """The nodes that are wanted, or depend on one that is."""
    above: set[Expr] = set()
    for x in nodes:
        if x in wanted or any(a in above for a in children(x)):
            above.add(x)
    return above


def summed(x: Expr, ranks: Iterable[Rank]) -> Expr:
    """The sum over ranks. One that x does not vary with counts it so many times."""
    if isinstance(x, Map) and x.op == "neg":
        return op("neg", summed(x.args[0], ranks))
    for r in ranks:
        x = Reduce("add", r, x) if r in free(x) else op("mul", x, Size(r))
    return x


def _shares(y: Expr, g: Expr) -> Iterator[Share]:
    """What each operand of y is worth, given what y is."""
    match y:
        case Map():
            shares = RULES[y.op](y.args, y, g)
            yield from ((x, share, free(y)) for x, share in zip(y.args, shares, strict=True) if share is not None)
        case Reduce():
            yield y.arg, _REDUCTIONS[y.op](y, g), free(y) | {y.rank}
        case Where():
            yield y.arg, Where(y.predicate, g, 0.0), free(y)
        case Split():
            yield _of_split(y, g)
        case Unsplit():
            yield _of_unsplit(y, g)
        case _:  # leaves
            return


def _of_split(y: Split, g: Expr) -> Share:
    if y.rank not in free(y.arg):
        return y.arg, g, free(y)
    back = Unsplit(g, y.outer, y.inner, y.rank)
    return y.arg, back, free(y) - {y.outer, y.inner} | {y.rank}


def _of_unsplit(y: Unsplit, g: Expr) -> Share:
    """An operand that varies with one of the parts only is read once for each of the other."""
    if not {y.outer, y.inner} & free(y.arg):
        return y.arg, g, free(y)
    return y.arg, Split(g, y.rank, y.outer, y.inner), free(y) - {y.rank} | {y.outer, y.inner}


# ---- reductions


def _extreme(y: Reduce, g: Expr) -> Expr:
    """To where it is attained, in equal parts where that is more than once (as PyTorch's amax has it)."""
    attained = op("eq", y.arg, y)
    count = summed(where(attained, 1.0), [y.rank])
    return where(attained, op("div", g, count))


def _product(y: Reduce, g: Expr) -> Expr:
    """The product of all other elements: with one 0 among them that of the rest, with two 0."""
    zero = op("eq", y.arg, 0.0)
    zeros = summed(where(zero, 1.0), [y.rank])
    rest = Reduce("mul", y.rank, where(zero, 1.0, y.arg))
    alone = op("and", zero, op("eq", zeros, 1.0))
    return where(op("eq", zeros, 0.0), over(op("mul", g, y), y.arg), where(alone, op("mul", g, rest)))


_REDUCTIONS = {"add": lambda y, g: g, "max": _extreme, "min": _extreme, "mul": _product}


def leaves_of(roots: Iterable[Expr], names: Iterable[str]) -> dict[str, list[Access | Gather]]:
    """The accesses of each tensor, in the order in which they are met."""
    found: dict[str, list[Access | Gather]] = {n: [] for n in names}
    for x in topological(roots):
        if isinstance(x, (Access, Gather)) and x.tensor.name in found:
            found[x.tensor.name].append(x)
    return found
