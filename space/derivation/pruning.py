"""What is left out of a graph before forms are looked for: nodes that no form is the better for.

The integer program grows with every way to write one product, so each filter keeps one spelling of what differs
in nothing that tells forms apart (passes, traits, the classes that are read). Each leaves every class that could
be built buildable.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from eintune.space.cascade.traits import Stream, Trait, traits
from eintune.space.egraph.graph import ClassId, EGraph, Node
from eintune.space.ir.expr import Fold, Map, Rank, Reduce, Split, Unsplit
from eintune.space.ir.pointwise import POINTWISE

from .nominal_cost import WORK_LIMIT, NominalCost

MOST_PRODUCTS = 32
"""The sets of factors that are told apart in one class; where there are more, all its nodes stay."""


def pruned(graph: EGraph, streams: Sequence[Stream]) -> EGraph:
    """The part of a safe graph that forms are looked for in. A filter that leaves no form is left out: a definition
    may be what no form is the better for."""
    filters: tuple[Callable[[EGraph], EGraph], ...] = (
        _without_mirrors,
        lambda g: _plain_tiles(g, streams),
        lambda g: _without_views(g, streams),
        lambda g: _affordable(g, streams),
        lambda g: _Products(g, streams).arranged(),
        _one_order,
        lambda g: _settled(g, streams),
    )
    for keep in filters:
        # A filter may leave circles only, from which nothing can be built; `restrict` then drops the roots, and the
        # filter is passed over.
        lean = keep(graph)
        graph = lean if all(r in lean.classes for r in graph.roots) else graph
    return graph


def _without_mirrors(graph: EGraph) -> EGraph:
    """Of `a * b` and `b * a` keep one, the definition's if it is there."""

    def keep(c: ClassId) -> tuple[Node, ...]:
        kept: dict[object, Node] = {}
        # The definition's nodes first, so that of two mirrors the one that stays is the one that was written.
        for n in sorted(graph.classes[c], key=lambda n: (c, n) not in graph.original):
            commutes = isinstance(n.head, Map) and n.head.op in COMMUTING
            kept.setdefault((n.head, frozenset(n.children) if commutes else n.children), n)
        return tuple(kept.values())

    return graph.restrict({c: keep(c) for c in graph.classes})


COMMUTING = frozenset({"add", "mul", "max", "min"}) & POINTWISE.keys()


def _plain_tiles(graph: EGraph, streams: Sequence[Stream]) -> EGraph:
    """Within a tile all is at hand: it is reduced first, and plainly, since a fold there saves no pass."""
    # A reduction over tiles of something that still varies within a tile would keep a whole tile of running values.
    outer, inner = ({s.outer: s.inner for s in streams}, {s.inner for s in streams} - {None})

    def early(n: Node) -> bool:
        if not isinstance(n.head, (Reduce, Fold)) or outer.get(n.head.rank) is None:
            return False
        return any(outer[n.head.rank] in graph.free[k] for k in n.children)

    def keep(nodes: tuple[Node, ...]) -> tuple[Node, ...]:
        in_order = tuple(n for n in nodes if not early(n))
        plain = tuple(n for n in in_order if not (isinstance(n.head, Fold) and n.head.rank in inner))
        return plain or in_order

    return graph.restrict({c: keep(ns) for c, ns in graph.classes.items()})


def _without_views(graph: EGraph, streams: Sequence[Stream]) -> EGraph:
    """A view of what shows a trait is not kept where the same is computed from views."""
    tell = telling(graph, streams)

    def late(n: Node) -> bool:
        return isinstance(n.head, Split) and n.children[0] in tell

    # split(a * b) and split(a) * split(b) are one computation: views sink to the inputs, where they cost nothing.
    kept = {c: tuple(n for n in ns if not late(n)) or ns for c, ns in graph.classes.items()}
    lean = graph.restrict(kept)
    # where a class is built from a view only, in a circle, all stays
    return graph.restrict({c: kept[c] if c in lean.classes else ns for c, ns in graph.classes.items()})


def _affordable(graph: EGraph, streams: Sequence[Stream]) -> EGraph:
    """The nodes whose work, with the least work below them, does not already exceed the limit.

    And that go over no more ranks at once than the definition does somewhere: that would be a rank's size more.
    """
    work = NominalCost(graph, streams)
    # A lower bound: the node's own work, and the dearest of its operands at the least. Taking only one operand keeps
    # it valid where operands share what is below them.
    limit, widest = WORK_LIMIT * work.definition(), max(work.space(c, n) for c, n in graph.original) + 1e-9
    least = dict.fromkeys(graph.classes, math.inf)

    def total(c: ClassId, n: Node) -> float:
        return work(c, n) + max((least[k] for k in n.children), default=0.0)

    changed = True
    while changed:
        changed = False
        for c, n in graph.nodes():
            if (found := total(c, n)) < least[c] - 1e-9:
                least[c], changed = found, True

    def keep(c: ClassId, n: Node) -> bool:
        # Outer products that are summed later (p x m x e x f at once) are in the graph, and never worth a form.
        within = isinstance(n.head, (Split, Unsplit)) or work.space(c, n) <= widest  # a view goes over nothing
        return total(c, n) <= limit and within

    return graph.restrict({c: tuple(n for n in ns if keep(c, n)) for c, ns in graph.classes.items()})


# ---- products

Atom: TypeAlias = tuple[ClassId, Node | None]
"""A node that is no product, or a whole class (None) that has too many to tell apart."""


@dataclass(frozen=True)
class _Key:
    """What tells two ways of writing a product apart: what is read, and where divisions stand."""

    atoms: frozenset[Atom]
    divisions: frozenset[Trait]


class _Products:
    """Keeps, of all orders in which the same factors can be multiplied and divided, the one of least work."""

    def __init__(self, graph: EGraph, streams: Sequence[Stream]) -> None:
        self.graph, self.streams, self.work = graph, streams, NominalCost(graph, streams)
        # By what is multiplied and where divisions stand: n factors can be multiplied in (2n-3)!! ways, which differ
        # in nothing that tells forms apart.
        self.least: dict[ClassId, dict[_Key, tuple[float, Node]]] = {c: {} for c in graph.classes}
        self.wide: set[ClassId] = set()

    def arranged(self) -> EGraph:
        changed = True
        while changed:
            changed = False
            for c, n in self.graph.nodes():
                changed = self._offer(c, n) or changed
        return self.graph.restrict({c: self._kept(c) for c in self.graph.classes})

    def _kept(self, c: ClassId) -> tuple[Node, ...]:
        nodes = self.graph.classes[c]
        if c in self.wide:
            return nodes
        best = {n for _, n in self.least[c].values()}
        return tuple(n for n in nodes if n in best or not _is_product(n))

    def _offer(self, c: ClassId, n: Node) -> bool:
        """Enter the ways to write the class by this node; whether one is new or takes less work."""
        found, better = self.least[c], False
        for key, total in self._ways(c, n):
            if total < found.get(key, (math.inf, n))[0] - 1e-9:
                found[key], better = (total, n), True
        # Too many sets of factors to tell apart: the class counts as one factor for its users, and keeps all of its
        # nodes.
        if len(found) > MOST_PRODUCTS and c not in self.wide:
            self.wide.add(c)
        return better and c not in self.wide

    def _ways(self, c: ClassId, n: Node) -> Iterator[tuple[_Key, float]]:
        if c in self.wide:
            return
        if not _is_product(n):
            yield _Key(frozenset([(c, n)]), frozenset()), 0.0
            return
        own = frozenset(
            t for t in traits(n.head, self.graph.free[c], self.work.below(n), self.streams) if t.kind == "division"
        )
        a, b = n.children
        cost = self.work(c, n)
        for left, spent in self._below(a):
            # A square has its factor once in the set; the two sides are one class, and must be computed in one way.
            if a == b:
                yield _Key(left.atoms, left.divisions | own), cost + spent
                continue
            for right, more in self._below(b):
                atoms, divisions = left.atoms | right.atoms, left.divisions | right.divisions | own
                yield _Key(atoms, divisions), cost + spent + more

    def _below(self, c: ClassId) -> list[tuple[_Key, float]]:
        if c in self.wide:
            return [(_Key(frozenset([(c, None)]), frozenset()), 0.0)]
        return [(key, total) for key, (total, _) in self.least[c].items()]


def _is_product(n: Node) -> bool:
    return isinstance(n.head, Map) and n.head.op in ("mul", "div")


# ---- sums of sums

Nest: TypeAlias = "frozenset[tuple[ClassId, frozenset[Rank]]]"
"""What a reduction comes to: the classes that are reduced, each over so many ranks."""


def _one_order(graph: EGraph) -> EGraph:
    """Of reductions of reductions that differ in their order alone, the one that was written.

    n ranks can be summed in n! orders. Where what stands between two sums is nothing but a sum, whatever way it is
    written, an order is no form of its own.
    """
    nests: dict[tuple[ClassId, str], Nest] = {}

    def between(c: ClassId, op: str) -> bool:
        return all(isinstance(n.head, Reduce) and n.head.op == op for n in graph.classes[c])

    def nest(c: ClassId, op: str) -> Nest:
        found = nests.get((c, op))
        if found is None:
            nests[c, op] = frozenset()  # a circle adds nothing
            found = frozenset().union(*(of(n) for n in graph.classes[c])) if between(c, op) else frozenset()
            nests[c, op] = found
        return found

    def of(n: Node) -> Nest:
        assert isinstance(n.head, Reduce)
        (below,), rank = n.children, n.head.rank
        if not between(below, n.head.op):
            return frozenset({(below, frozenset({rank}))})
        return frozenset((base, ranks | {rank}) for base, ranks in nest(below, n.head.op))

    def keep(c: ClassId) -> tuple[Node, ...]:
        kept: dict[object, Node] = {}
        for n in sorted(graph.classes[c], key=lambda n: (c, n) not in graph.original):
            nested = isinstance(n.head, Reduce) and between(n.children[0], n.head.op)
            kept.setdefault((n.head.op, of(n)) if isinstance(n.head, Reduce) and nested else n, n)
        return tuple(kept.values())

    return graph.restrict({c: keep(c) for c in graph.classes})


# ---- what no form differs in


def _settled(graph: EGraph, streams: Sequence[Stream]) -> EGraph:
    """One node, of the least work, for each class below which no form differs from another in anything else."""
    work, tell = NominalCost(graph, streams), telling(graph, streams)
    least: dict[ClassId, float] = {}
    choice: dict[ClassId, Node] = {}

    def settle(c: ClassId, n: Node) -> bool:
        # From the leaves up: what shows no trait, nor reads what does, is the same in all forms, so the cheapest is
        # taken now, and the integer program never sees the alternatives.
        if c in tell or not all(k in least for k in n.children):
            return False
        total = work(c, n) + sum(least[k] for k in dict.fromkeys(n.children))
        if total >= least.get(c, math.inf) - 1e-9:
            return False
        least[c], choice[c] = total, n
        return True

    changed = True
    while changed:
        changed = False
        for c, n in graph.nodes():
            changed = settle(c, n) or changed
    return graph.restrict({c: (choice[c],) if c in choice else ns for c, ns in graph.classes.items()})


def telling(graph: EGraph, streams: Sequence[Stream]) -> set[ClassId]:
    """The classes below which some node shows a trait."""
    work, users = NominalCost(graph, streams), _users(graph)
    found: set[ClassId] = set()
    stack = [c for c, n in graph.nodes() if any(True for _ in traits(n.head, graph.free[c], work.below(n), streams))]
    while stack:
        c = stack.pop()
        if c not in found:
            found.add(c)
            stack += users.get(c, ())
    return found


def _users(graph: EGraph) -> Mapping[ClassId, list[ClassId]]:
    users: dict[ClassId, list[ClassId]] = {}
    for c, n in graph.nodes():
        for k in n.children:
            users.setdefault(k, []).append(c)
    return users
