"""Sums over one-hot selections, which are indexed accesses: `sum_m select(T[p] == m, X[p,m], 0) = X[p,T[p]]`.

A factor [T[p] = m] (Kronecker's delta) leaves one element of the sum: that with T[p] for m, or none where T[p] is no
index of m; the sum is 0 there. What is selected need not be an input: T[p] stands for m wherever m is, so a product
over another rank stays one (`sum_e H[p,e] * E[T[p],e]`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TypeAlias

from eintune.space.ir.expr import (
    Access,
    Computed,
    Const,
    Expr,
    Fold,
    Gather,
    Index,
    Iota,
    Leaf,
    Map,
    Part,
    Rank,
    Reduce,
    Size,
    Where,
    access,
    children,
    free,
    leaves,
    topological,
    with_children,
)

Number: TypeAlias = Access | Gather
"""An element of an integer tensor."""

Selection: TypeAlias = "tuple[Rank, Number, Expr]"
"""(m, T, y) of an expression that is [T = m] * y."""

MOST = 4
"""Ways to read one product as a selection that are looked at."""
ALWAYS = Const(1.0)


@dataclass(frozen=True)
class OneHot:
    """The sum of `body` over `rank` is `selected`."""

    rank: Rank
    body: Expr
    selected: Expr


def one_hots(roots: Sequence[Expr]) -> list[OneHot]:
    """Those of some expressions, once each, whose selected element can be written."""
    nodes = topological(roots)
    summed = _summed(nodes)
    sized = {r for x in nodes for r in free(x)}
    selections: dict[Expr, list[Selection]] = {}
    found: dict[OneHot, None] = {}
    for x in nodes:
        selections[x] = list(islice(dict.fromkeys(_selections(x, selections)), MOST))
        for rank, number, kept in selections[x]:
            if (rank, x) in summed and (selected := _selected(kept, rank, number, sized)) is not None:
                found[OneHot(rank, x, selected)] = None
    return list(found)


def _summed(nodes: Iterable[Expr]) -> set[tuple[Rank, Expr]]:
    """What may come to be summed over a rank: parts of sums and products below sums over it."""
    stack = [(x.rank, x.arg) for x in nodes if isinstance(x, Reduce) and x.op == "add"]
    found: set[tuple[Rank, Expr]] = set()
    while stack:
        rank, x = stack.pop()
        if (rank, x) in found:
            continue
        found.add((rank, x))
        match x:
            case Map("add" | "sub" | "mul" | "neg", parts) | Map("div", (*parts, _)):
                stack += [(rank, part) for part in parts]
            case Reduce("add"):
                stack.append((rank, x.arg))
    return found


def _selections(x: Expr, below: Mapping[Expr, Sequence[Selection]]) -> Iterator[Selection]:
    """The ways in which an expression is a selection, given those of its operands."""
    match x:
        case Map("eq", sides):
            yield from _equality(sides)
        case Map("select", (Map("ne", sides), Const(0.0), kept)):
            yield from ((m, t, kept) for m, t, _ in _equality(sides))
        case Map("select", (condition, kept, Const(0.0))):
            for m, t, rest in below[condition]:
                yield m, t, kept if rest is ALWAYS else Map("select", (rest, kept, Const(0.0)))
        case Map("and" | "mul", (a, b)):
            for one, other in ((a, b), (b, a)):
                for m, t, rest in below[one]:
                    yield m, t, other if rest is ALWAYS else Map(x.op, (rest, other))
        case Map("div" | "neg", (a, *divisor)):
            yield from ((m, t, Map(x.op, (rest, *divisor))) for m, t, rest in below[a])


def _equality(sides: Sequence[Expr]) -> Iterator[Selection]:
    match sides:
        case (Iota(m), (Access() | Gather()) as t) | ((Access() | Gather()) as t, Iota(m)):
            if t.tensor.kind == "int" and m not in free(t):
                yield m, t, ALWAYS


def _selected(kept: Expr, rank: Rank, number: Number, sized: set[Rank]) -> Expr | None:
    """`kept` with the number for the index along a rank, 0 where it is none; None where that cannot be written."""
    found = _at(kept, rank, number, sized)
    if found is None or (isinstance(kept, (Access, Gather)) and rank in free(kept)):
        return found
    inside = Map("and", (Map("ge", (number, Const(0.0))), Map("lt", (number, Size(rank)))))
    return Map("select", (inside, found, Const(0.0)))


def _at(x: Expr, rank: Rank, number: Number, sized: set[Rank]) -> Expr | None:
    """An expression with a number for the index along a rank."""
    done: dict[Expr, Expr] = {}
    for node in topological([x]):
        found: Expr | None = None
        match node:
            case _ if rank not in free(node):
                found = node
            case Iota():
                found = number
            case Access() | Gather():
                found = _read(node, rank, number, sized)
            case Reduce() | Fold() if node.rank in free(number):
                return None  # it would capture the number's rank
            case Map() | Reduce() | Fold():
                found = with_children(node, tuple(done[a] for a in children(node)))
            case Where() if rank not in node.predicate.ranks:
                found = with_children(node, (done[node.arg],))
        if found is None:
            return None
        done[node] = found
    return done[x]


def _read(x: Number, rank: Rank, number: Number, sized: set[Rank]) -> Number | None:
    """An access with a number for the index along a rank, 0 beyond the axis. The axis' length goes by the tensor's own
    name for it then, which must have a size."""
    index: list[Index] = []
    for i, own in zip(x.index, x.tensor.ranks, strict=True):
        match i:
            case str() if i == rank:
                if own not in sized:
                    return None
                index.append(number)
            case Part() if i.rank == rank:
                return None
            case Access() | Gather() if rank in free(i):
                return None
            case Computed() if any(rank in _ranks(a) for a in leaves(i)):
                return None
            case _:
                index.append(i)
    return access(x.tensor, tuple(index), padded=True)


def _ranks(x: Leaf) -> frozenset[Rank]:
    """What a leaf of a computed number varies with."""
    match x:
        case str():
            return frozenset((x,))
        case Part():
            return frozenset((x.rank,))
        case Access() | Gather():
            return free(x)
        case _:
            return frozenset()
