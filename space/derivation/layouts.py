"""The layouts that a graph's forms can have, by dynamic programming: which sets of traits come together.

From the leaves to the roots each class gets the sets that the trees below it show, with the passes that they take; of
two with one layout, where one does all that the other does, in no fewer passes and with no less work, the other is
enough. Trees may compute one class in two ways, which a form does not: so some layout may have no form, but each form's
layout, or one that dominates it, is here. There are some dozens, where the forms are astronomically many.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from eintune.space.cascade.traits import Stream, Trait, traits
from eintune.space.egraph.graph import ClassId, EGraph, Node
from eintune.space.ir.expr import Fold, Reduce

from .nominal_cost import NominalCost
from .pruning import telling

MOST_LAYOUTS = 2_000
"""The sets that are told apart in one class; where there are more, there is no list."""
MOST_PAIRS = 50_000
"""The pairs of sets that one node may put together; where there are more, most of which come to nothing, they take
longer than the forms do without a list."""
MOST_IN_ALL = 500_000
"""The pairs that all nodes may put together, each time that one is looked at: seconds. Definitions from papers take
thousands; where classes are operands of each other, they would be looked at over and over."""

Levels: TypeAlias = tuple[int, ...]


@dataclass(frozen=True)
class Shown:
    """Traits as bits: those that say how a form is laid out, and those of work.

    levels: barriers passed, by stream. nodes: of the cheapest way to show them, as bits. cost: their work, where what
    shows no trait, which every form has, is free.
    """

    layout: int
    work: int
    levels: Levels
    nodes: int
    cost: float

    def after(self, levels: Levels, nodes: int = 0, cost: float = 0.0) -> Shown:
        """With so many more barriers, and one node more."""
        through = tuple(map(sum, zip(self.levels, levels, strict=True)))
        return Shown(self.layout, self.work, through, self.nodes | nodes, self.cost + cost)

    def does_no_more(self, other: Shown) -> bool:
        """Whether the other, of the same layout, does all that this does, in no fewer passes and with no less work."""
        contained = self.work | other.work == other.work and self.cost <= other.cost + 1e-9
        return contained and all(a <= b for a, b in zip(self.levels, other.levels, strict=True))


@dataclass(frozen=True)
class Layout:
    """A set of traits that forms may show.

    passes: what they take at least, over all streams. work: of the cheapest tree, about.
    """

    traits: frozenset[Trait]
    passes: int
    work: float


def layouts(graph: EGraph, streams: Sequence[Stream]) -> list[Layout] | None:
    """The layouts of the graph's forms, fewest passes first, then least work; None where there are too many, or
    too many pairs of them on the way."""
    search = _Search(graph, streams)
    roots = [Shown(0, 0, (0,) * len(streams), 0, 0.0)]
    try:
        search.run()
        for r in graph.roots:
            last = tuple(int(s.element(graph.free[r])) for s in streams)
            # Outputs share what they have in common, like operands of one node.
            roots = search.together(roots, [x.after(last) for x in search.found[r]])
    except _TooMany:
        return None
    best: dict[frozenset[Trait], tuple[int, float]] = {}
    for x in roots:
        shown, price = search.named(x.layout | x.work), (sum(x.levels), x.cost)
        # Several cheapest ways to one layout may be left, of different passes: the fewest count.
        best[shown] = min(price, best.get(shown, price))
    found = [Layout(shown, *price) for shown, price in best.items()]
    return sorted(found, key=lambda x: (x.passes, x.work, sorted(x.traits)))


class _TooMany(Exception):
    """There is no list."""


class _Search:
    def __init__(self, graph: EGraph, streams: Sequence[Stream]) -> None:
        self.graph, self.streams, self.work = graph, streams, NominalCost(graph, streams)
        self.bits: dict[Trait, int] = {}
        self.costs: list[float] = []
        self.sums: dict[int, float] = {}
        self.telling = telling(graph, streams)
        self.own = {(c, n): self._shown(c, n) for c, n in graph.nodes()}
        self.tilings = [self._tiling(s) for s in streams]
        self.found: dict[ClassId, list[Shown]] = {c: [] for c in graph.classes}
        self.left = MOST_IN_ALL

    def named(self, bits: int) -> frozenset[Trait]:
        return frozenset(t for t, bit in self.bits.items() if bit & bits)

    def run(self) -> None:
        """Until nothing new comes. Raises _TooMany."""
        # A worklist in the order of operands before users: without circles each class is looked at once. A dictionary
        # serves as an ordered set, so that answers do not depend on how strings hash.
        waiting = dict.fromkeys(_upwards(self.graph))
        users: dict[ClassId, dict[ClassId, None]] = {c: {} for c in self.graph.classes}
        for c, n in self.graph.nodes():
            for k in n.children:
                users[k][c] = None
        while waiting:
            c = next(iter(waiting))
            del waiting[c]
            now = self.least(x for n in self.graph.classes[c] for x in self._ways(c, n))
            if len(now) > MOST_LAYOUTS:
                raise _TooMany
            # Sets only improve, and what is needless is dropped, so this ends; with circles after a few rounds.
            if now != self.found[c]:
                self.found[c] = now
                waiting.update(users[c])

    def _ways(self, c: ClassId, n: Node) -> Iterator[Shown]:
        own = self.own[c, n]
        # The node's own levels come last (`after`), since a barrier adds to the highest of its operands.
        ways = [Shown(own.layout, own.work, (0,) * len(self.streams), 0, 0.0)]
        for k in dict.fromkeys(n.children):
            ways = self.together(ways, self.found[k])
        yield from (x.after(own.levels, own.nodes, own.cost) for x in ways)

    def together(self, ways: Sequence[Shown], others: Sequence[Shown]) -> list[Shown]:
        """Each with each, but for the needless. Raises _TooMany."""
        pairs = len(ways) * len(others)
        # Counted before they are made: what is given up must not have cost its time already.
        self.left -= pairs
        if pairs > MOST_PAIRS or self.left < 0:
            raise _TooMany
        found = self.least(self.joined(a, b) for a in ways for b in others)
        if len(found) > MOST_LAYOUTS:
            raise _TooMany
        return found

    def _shown(self, c: ClassId, n: Node) -> Shown:
        layout = work = 0
        for t in traits(n.head, self.graph.free[c], [self.graph.free[k] for k in n.children], self.streams):
            bit = self.bits.setdefault(t, 1 << len(self.bits))
            layout, work = (layout, work | bit) if t.work else (layout | bit, work)
        barrier = isinstance(n.head, (Reduce, Fold))
        rank = n.head.rank if isinstance(n.head, (Reduce, Fold)) else ""
        levels = tuple(int(barrier and s.barrier(rank)) for s in self.streams)
        # Classes below which no trait shows are in every form alike and cancel from comparisons.
        cost = self.work(c, n) if c in self.telling else 0.0
        if not cost:
            return Shown(layout, work, levels, 0, 0.0)
        bit = 1 << len(self.costs)
        self.costs.append(cost)
        return Shown(layout, work, levels, bit, cost)

    def _tiling(self, s: Stream) -> tuple[int, int]:
        """What says that a stream is gone over in tiles, and what says that it is whole: no form shows both."""
        tiled = self.bits.get(Trait("tiled", "", "", s.rank), 0)
        whole = [bit for t, bit in self.bits.items() if t.stream == s.rank and t.work and t.where == "whole"]
        return tiled, sum(whole)

    def least(self, shown: Iterable[Shown]) -> list[Shown]:
        """Those that may be and that no other of the same layout makes needless."""
        return _least(x for x in shown if not any(x.layout & tiled and x.work & whole for tiled, whole in self.tilings))

    def joined(self, a: Shown, b: Shown) -> Shown:
        """Both together; a node of both costs once."""
        levels = tuple(map(max, a.levels, b.levels))
        # As bits, so that a subexpression which both read is paid for once: with trees each of whose occurrences
        # pays, forms that share would look worse than they are.
        more = self._cost(b.nodes & ~a.nodes) if a.nodes & b.nodes else b.cost
        return Shown(a.layout | b.layout, a.work | b.work, levels, a.nodes | b.nodes, a.cost + more)

    def _cost(self, nodes: int) -> float:
        if nodes not in self.sums:
            total, left = 0.0, nodes
            while left:
                bit = left & -left
                total, left = total + self.costs[bit.bit_length() - 1], left ^ bit
            self.sums[nodes] = total
        return self.sums[nodes]


def _least(shown: Iterable[Shown]) -> list[Shown]:
    """Those that no other of the same layout makes needless."""
    groups: dict[int, dict[Shown, None]] = {}
    for x in shown:
        groups.setdefault(x.layout, {})[x] = None
    kept: list[Shown] = []
    for group in groups.values():
        least: list[Shown] = []
        # In this order nothing that comes later can make an earlier one needless, so one sweep finds the Pareto
        # front.
        for x in sorted(group, key=lambda x: (x.work.bit_count(), sum(x.levels), x.cost)):
            if not any(y.does_no_more(x) for y in least):
                least.append(x)
        kept += least
    return kept


def _upwards(graph: EGraph) -> list[ClassId]:
    """The classes, operands before users as far as there are no cycles."""
    order: list[ClassId] = []
    seen: set[ClassId] = set()
    for root in graph.roots:
        stack: list[tuple[ClassId, bool]] = [(root, False)]
        while stack:
            c, done = stack.pop()
            if done:
                order.append(c)
            elif c not in seen:
                seen.add(c)
                stack.append((c, True))
                stack += ((k, False) for n in graph.classes[c] for k in n.children if k not in seen)
    return order
