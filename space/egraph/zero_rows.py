"""What is 0 wherever some divisor is 0 because its row is empty.

A row that a filter leaves without elements, or whose weights are all 0, has the sum 0, and `0 / 0 = 0` makes its
quotient 0. That holds only where the dividend is 0 there as well: of two forms that are equal elsewhere, `(w * v) / d`
is 0 in an empty row and `w * (v / d)` is `0 * inf`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache

from eintune.space.ir.expr import NEG_INF, Access, Const, Expr, Fold, Gather, Map, Rank, Reduce, Split, Unsplit, Where

from .graph import ClassId, EGraph, Node

_ODD = frozenset({"neg", "abs", "sqrt", "tanh", "erf", "silu", "floor", "sin"})
"""Operators that keep 0."""


def may_be_empty(graph: EGraph, divisor: ClassId) -> bool:
    """Whether -inf stands below a class that is divided by: what a filter leaves, or an element of an input in an
    exponent, unless it is a factor of a sum of products."""
    seen: set[tuple[ClassId, bool]] = set()
    stack = [(divisor, False)]
    while stack:
        c, exponent = stack.pop()
        if (c, exponent) in seen:
            continue
        seen.add((c, exponent))
        for n in graph.classes.get(c, ()):
            if _filters(n.head) or (exponent and _is_score(n.head)):
                return True
            stack += [(k, _is_exponent(graph, n, place, exponent)) for place, k in enumerate(n.children)]
    return False


def _is_score(head: Expr) -> bool:
    return isinstance(head, (Access, Gather)) and head.tensor.kind == "float"


def _is_exponent(graph: EGraph, n: Node, place: int, around: bool) -> bool:
    """Whether an operand of a node stands in an exponent, where -inf has a meaning. around: whether the node does."""
    match n.head:
        case Map(op="exp" | "exp2") | Fold(action="scale") if place == 0:
            return True
        case Reduce(op="add"):
            return around and not any(_is_product(m) for m in graph.classes.get(n.children[place], ()))
        case _:
            return around


def _is_product(n: Node) -> bool:
    return isinstance(n.head, Map) and n.head.op == "mul"


def _filters(head: Expr) -> bool:
    return (isinstance(head, Where) and head.fill == NEG_INF) or (isinstance(head, Const) and head.value == NEG_INF)


class ZeroRows:
    """The classes that are proven to be 0 where a divisor is, as its row is empty.

    low: a bound that a class is never below. at_least(a, b): whether a >= b is proven. A sum of what is never negative
    is 0 only where all of it is; a sum of exponentials relative to a reference g only where g is -inf, and there the
    exponential of all that is at most g, relative to g, is 0 too.
    """

    def __init__(
        self,
        graph: EGraph,
        low: Callable[[ClassId], float],
        at_least: Callable[[ClassId, ClassId], bool],
    ) -> None:
        self.graph, self.low, self.at_least = graph, low, at_least
        self.may_be_empty = cache(lambda c: may_be_empty(graph, c))
        self.nothing = {c for c, n in graph.nodes() if isinstance(n.head, Const) and n.head.value == 0}
        self.users: dict[ClassId, list[tuple[ClassId, Node]]] = {}
        self.relative: dict[ClassId, list[tuple[ClassId, ClassId]]] = {}  # g -> the (exp(x - g), x) of it
        for c, n in graph.nodes():
            for k in dict.fromkeys(n.children):
                self.users.setdefault(k, []).append((c, n))
            for x, g in _exponents(graph, n):
                self.relative.setdefault(g, []).append((c, x))

    def with_divisor(self, divisor: ClassId, *, empty: bool = False) -> set[ClassId]:
        """Those of one divisor. empty: where its row is empty, not where items of both signs cancel in it."""
        graph = self.graph
        found = self._made_of(divisor, empty) | self.nothing
        # The references of the divisor's own exponentials: where their row is empty they are -inf.
        references = {g for c in found for n in graph.classes.get(c, ()) for _, g in _exponents(graph, n)}
        found |= {c for g in references for c, x in self.relative[g] if self.at_least(g, x)}
        ranks, todo = graph.free.get(divisor, frozenset()), list(found)
        while todo:
            for c, n in self.users.get(todo.pop(), ()):
                if c not in found and _keeps(n, found, ranks):
                    found.add(c)
                    todo.append(c)
        return found

    def _made_of(self, divisor: ClassId, empty: bool) -> set[ClassId]:
        """The class, and what must be 0 for it to be 0."""
        found: set[ClassId] = set()
        stack = [divisor]
        while stack:
            c = stack.pop()
            if c not in found:
                found.add(c)
                stack += (k for n in self.graph.classes.get(c, ()) for k in self._zero_below(n, empty))
        return found

    def _zero_below(self, n: Node, empty: bool) -> tuple[ClassId, ...]:
        """The operands of a node that are 0 where it is."""
        match n.head:
            # Items of both signs could cancel to 0 without any of them being 0.
            case Reduce(op="add") | Map(op="add"):
                row = empty and isinstance(n.head, Reduce)
                return n.children if row or all(self.low(k) >= 0 for k in n.children) else ()
            case Map(op="mul"):
                a, b = n.children
                return (a,) if a == b or self._is_positive(b) else (b,) if self._is_positive(a) else ()
            case Map(op="div" | "sqrt" | "neg" | "abs"):
                return n.children[:1]
            case _:
                return ()

    def _is_positive(self, c: ClassId) -> bool:
        """Whether a class is never 0, in an empty row either: bounds are those of rows that have elements."""
        return self.low(c) > 0 and not self.may_be_empty(c)


def _exponents(graph: EGraph, n: Node) -> Iterator[tuple[ClassId, ClassId]]:
    """(x, g) for a node exp(x - g)."""
    if isinstance(n.head, Map) and n.head.op == "exp":
        for d in graph.classes.get(n.children[0], ()):
            if isinstance(d.head, Map) and d.head.op == "sub":
                yield d.children[0], d.children[1]


def _keeps(n: Node, zero: set[ClassId], ranks: frozenset[Rank]) -> bool:
    """Whether a node over operands of which some are 0 is 0. ranks: those that the divisor varies with: what is 0 where
    the divisor of one tile is, is not 0 in the others."""
    below = [k in zero for k in n.children]
    match n.head:
        case Map(op="mul"):
            # 0 times whatever the other is; infinities are kept out elsewhere, as hazards of their own.
            return any(below)
        case Map(op="div"):
            return below[0]
        case Map(op="add" | "sub" | "max" | "min"):
            return all(below)
        case Map():
            return n.head.op in _ODD and below[0]
        case Where():
            return below[0] and n.head.fill == 0.0
        case Reduce():
            return below[0] and n.head.rank not in ranks
        case Split() | Unsplit():
            return below[0] and ranks.isdisjoint((n.head.rank, n.head.outer, n.head.inner))
        case Fold():
            return below[1] and n.head.rank not in ranks
        case _:
            return False
