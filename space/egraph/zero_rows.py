"""What is 0 wherever some divisor is 0 because its row is empty.

A row that a filter leaves without elements has the sum 0, and `0 / 0 = 0` makes its quotient 0. That holds only
where the dividend is 0 there as well: of two forms that are equal elsewhere, `(w * v) / d` is 0 in an empty row and
`w * (v / d)` is `0 * inf`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from eintune.space.ir.expr import NEG_INF, Access, Const, Expr, Fold, Gather, Map, Reduce, Split, Unsplit, Where

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

    at_least(a, b): whether a >= b is proven. A sum of what is never negative is 0 only where all of it is; a sum
    of exponentials relative to a reference g only where g is -inf, and there the exponential of all that is at most
    g, relative to g, is 0 too.
    """

    def __init__(
        self,
        graph: EGraph,
        never_negative: Callable[[ClassId], bool],
        at_least: Callable[[ClassId, ClassId], bool],
    ) -> None:
        self.graph, self.never_negative, self.at_least = graph, never_negative, at_least
        self.users: dict[ClassId, list[tuple[ClassId, Node]]] = {}
        self.relative: dict[ClassId, list[tuple[ClassId, ClassId]]] = {}  # g -> the (exp(x - g), x) of it
        for c, n in graph.nodes():
            for k in dict.fromkeys(n.children):
                self.users.setdefault(k, []).append((c, n))
            for x, g in _exponents(graph, n):
                self.relative.setdefault(g, []).append((c, x))

    def with_divisor(self, divisor: ClassId) -> set[ClassId]:
        """Those of one divisor."""
        graph = self.graph
        found = _addends(graph, divisor, self.never_negative)
        # The references of the divisor's own exponentials: where their row is empty they are -inf.
        references = {g for c in found for n in graph.classes.get(c, ()) for _, g in _exponents(graph, n)}
        found |= {c for g in references for c, x in self.relative[g] if self.at_least(g, x)}
        todo = list(found)
        while todo:
            for c, n in self.users.get(todo.pop(), ()):
                if c not in found and _keeps(n, found):
                    found.add(c)
                    todo.append(c)
        return found


def _addends(graph: EGraph, total: ClassId, never_negative: Callable[[ClassId], bool]) -> set[ClassId]:
    """The class, and what it is a sum of if none of that is ever negative."""
    found: set[ClassId] = set()
    stack = [total]
    while stack:
        c = stack.pop()
        if c not in found:
            found.add(c)
            for n in graph.classes.get(c, ()):
                # Items of both signs could cancel to 0 without any of them being 0.
                if isinstance(n.head, (Reduce, Map)) and n.head.op == "add" and all(map(never_negative, n.children)):
                    stack += n.children
    return found


def _exponents(graph: EGraph, n: Node) -> Iterator[tuple[ClassId, ClassId]]:
    """(x, g) for a node exp(x - g)."""
    if isinstance(n.head, Map) and n.head.op == "exp":
        for d in graph.classes.get(n.children[0], ()):
            if isinstance(d.head, Map) and d.head.op == "sub":
                yield d.children[0], d.children[1]


def _keeps(n: Node, zero: set[ClassId]) -> bool:
    """Whether a node over operands of which some are 0 is 0."""
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
        case Reduce() | Split() | Unsplit():
            return below[0]
        case Fold():
            return below[1]
        case _:
            return False
