"""Pictures of an e-graph: every class that an extracted form uses, with the ways to compute it.

A whole e-graph is a thicket. What decides is drawn: a box a value, named as the definition names it, one row for
each way to compute it that some extracted form takes, and how many more there are. A value that is written in one
way only and read once stands inside its reader's row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import assert_never

from eintune.host.quoting import dot
from eintune.space.egraph.graph import ClassId, EGraph, Node, label
from eintune.space.ir.expr import (
    Access,
    Const,
    Fold,
    Gather,
    Iota,
    Map,
    Param,
    Rank,
    Reduce,
    Size,
    Split,
    Unsplit,
    Where,
)
from eintune.space.ir.pointwise import POINTWISE
from eintune.space.notation.filters import write_predicate
from eintune.space.operators.operators import in_order

from .svg import CHOSEN, CHOSEN_EDGE, FONT, INPUT, LEFT, LEFT_EDGE, cell, table, title_line

MOST_ROWS = 6
"""Ways to compute a value that are drawn; what the forms use always is."""
SMALL = 60
"""A graph with no more nodes than this is drawn whole."""
Cost = Callable[[ClassId, Node], float]


def egraph_dot(
    graph: EGraph,
    choices: Sequence[Mapping[ClassId, Node]] = (),
    *,
    names: Mapping[ClassId, str] | None = None,
    title: str = "",
    cost: Cost | None = None,
    green: bool = False,
) -> str:
    """The graph in the DOT language, results at the top and inputs at the bottom.

    choices: the extracted forms, best first; what they use is drawn. names: of values; others are x1, x2, ….
    cost: of a node, written at the right of its row. green: the first form's nodes are green and all others grey.
    """
    shown = _shown(graph, choices)
    writer = _Writer(graph, shown, dict(names or {}))
    best = dict(choices[0]) if choices and green else {}
    lines = [f"digraph egraph {{ rankdir=TB; ranksep=0.45; nodesep=0.3; {title_line(title)}"]
    lines.append(f"  node [shape=plain, {FONT}, fontsize=11]; edge [arrowsize=0.6];")
    for c in writer.boxes:
        lines.append(f"  {dot(c)} [label={_box(c, writer, best, cost, green)}];")
    bottom = " ".join(f"{dot(c)};" for c in writer.boxes if _is_input(shown[c][0]))
    lines.append(f"  {{ rank=max; {bottom} }}")
    lines += _edges(writer, best, green)
    return "\n".join([*lines, "}", ""])


def _shown(graph: EGraph, choices: Sequence[Mapping[ClassId, Node]]) -> dict[ClassId, list[Node]]:
    """The nodes that are drawn, results first: what the forms take, in their order, or all of a small graph."""
    if not choices or sum(map(len, graph.classes.values())) <= SMALL:
        whole = {c: _plain(c, graph) for c in graph.classes}
        return {c: whole[c] for c in _from_roots(graph, whole)}
    taken: dict[ClassId, list[Node]] = {}
    for choice in choices:
        for c, n in choice.items():
            nodes = taken.setdefault(c, [])
            nodes += [n] if n not in nodes else []
    return {c: taken[c] for c in _from_roots(graph, taken)}


def _plain(c: ClassId, graph: EGraph) -> list[Node]:
    """The first nodes of a class; of `a * b` and `b * a` one, the definition's if it is there."""
    kept: dict[object, Node] = {}
    for n in sorted(graph.classes[c], key=lambda n: (c, n) not in graph.original):
        commutes = isinstance(n.head, Map) and n.head.op in ("add", "mul")
        kept.setdefault((n.head, frozenset(n.children) if commutes else n.children), n)
    return list(kept.values())[:MOST_ROWS]


def _from_roots(graph: EGraph, nodes: Mapping[ClassId, Sequence[Node]]) -> list[ClassId]:
    seen = dict.fromkeys(graph.roots)
    queue = list(seen)
    for c in queue:
        for k in (k for n in nodes[c][:MOST_ROWS] for k in n.children):
            if k not in seen:
                seen[k] = None
                queue.append(k)
    return queue


def _is_input(n: Node) -> bool:
    return isinstance(n.head, (Access, Gather))


@dataclass
class _Writer:
    """Names of values, and their nodes as formulas over them."""

    graph: EGraph
    shown: Mapping[ClassId, list[Node]]
    names: dict[ClassId, str]

    def __post_init__(self) -> None:
        leaves = [self.graph.free[c] for c, nodes in self.shown.items() if _is_input(nodes[0])]
        over = {n.head.rank for _, n in self.graph.nodes() if isinstance(n.head, (Reduce, Fold, Split))}
        common = frozenset.intersection(*leaves) if len(leaves) > 1 else frozenset[Rank]()
        self.batch = common.intersection(*(self.graph.free[r] for r in self.graph.roots)) - over
        readers: dict[ClassId, int] = {}
        for nodes in self.shown.values():
            for n in nodes:
                for k in n.children:
                    readers[k] = readers.get(k, 0) + 1
        named = set(self.names)
        self.boxes = [c for c in self.shown if not self._inside(c, readers, named)]
        number = 0
        for c in self.boxes:
            head = self.shown[c][0].head
            if isinstance(head, (Access, Gather)):
                self.names[c] = head.tensor.name
            elif c not in self.names:
                number += 1
                self.names[c] = f"x{number}"

    def _inside(self, c: ClassId, readers: Mapping[ClassId, int], named: set[ClassId]) -> bool:
        """Whether a value is written where it is read: numbers, parameters, and what one row alone reads."""
        nodes = self.shown[c]
        if c in self.graph.roots or len(nodes) > 1 or _is_input(nodes[0]):
            return False
        if not nodes[0].children:
            return True
        return readers.get(c, 0) == 1 and c not in named and isinstance(nodes[0].head, Map)

    def ranks(self, c: ClassId) -> str:
        """A value's ranks, without those that every input has."""
        return ",".join(in_order(self.graph.free[c] - self.batch))

    def operand(self, c: ClassId, bare: bool = True) -> str:
        """A value as a row reads it; in brackets, unless `bare`, if it is an infix formula."""
        if c in self.boxes:
            return self.names[c]
        n = self.shown[c][0]
        infix = isinstance(n.head, Map) and n.head.op in _SYMBOLS
        return f"({self.formula(n)})" if infix and not bare else self.formula(n)

    def formula(self, n: Node) -> str:
        """A node over its operands' names."""
        infix = isinstance(n.head, Map) and n.head.op in _SYMBOLS
        args = [self.operand(k, bare=not infix) for k in n.children]
        match n.head:
            case Map():
                return f" {_SYMBOLS[n.head.op]} ".join(args) if infix else _call(n.head.op, args)
            case Reduce():
                return f"{_REDUCERS.get(n.head.op, n.head.op)} over {n.head.rank} of {args[0]}"
            case Fold("scale"):
                return f"sum over {n.head.rank} of {args[1]}, scaled to max {args[0]}"
            case Fold():
                return f"fold_{n.head.action} over {n.head.rank} of {args[1]} by {args[0]}"
            case Where():
                return f"{args[0]} where {write_predicate(n.head.predicate)}, else {n.head.fill:g}"
            case Split():
                return f"{args[0]} in tiles ({n.head.rank} → {n.head.outer},{n.head.inner})"
            case Unsplit():
                return f"{args[0]} joined ({n.head.outer},{n.head.inner} → {n.head.rank})"
            case Iota():
                return f"index({n.head.rank})"
            case Access() | Gather() | Const() | Param() | Size():
                return label(n.head)
            case _:
                assert_never(n.head)


def _call(op: str, args: Sequence[str]) -> str:
    return f"{'e^' if op == 'exp' else op}({', '.join(args)})"


_SYMBOLS: dict[str, str] = {p.name: p.symbol for p in POINTWISE.values() if p.symbol} | {"mul": "×"}
_REDUCERS = {"add": "sum", "mul": "product"}


def _box(c: ClassId, writer: _Writer, best: Mapping[ClassId, Node], cost: Cost | None, green: bool) -> str:
    nodes = writer.shown[c]
    if _is_input(nodes[0]):
        colour = CHOSEN if c in best else LEFT if green else INPUT
        return table([cell(writer.names[c], colour, bold=True, small=writer.ranks(c))])
    head = CHOSEN if c in best else LEFT if green else "#cfd8dc"
    rows = [cell(writer.names[c], head, bold=True, small=writer.ranks(c))]
    for n in nodes[:MOST_ROWS]:
        colour = "white" if not green else CHOSEN if best.get(c) == n else LEFT
        rows.append(
            cell(writer.formula(n), colour, right=None if cost is None else f"{_inlined_cost(c, n, writer, cost):.3g}")
        )
    if more := len(writer.graph.classes[c]) - len(nodes[:MOST_ROWS]):
        rows.append(cell("", "white", small=f"and {more} more"))
    return table(rows)


def _inlined_cost(c: ClassId, n: Node, writer: _Writer, cost: Cost) -> float:
    """A node's cost with that of the values that are written into its row."""
    inside = [k for k in n.children if k not in writer.boxes]
    return cost(c, n) + sum(_inlined_cost(k, writer.shown[k][0], writer, cost) for k in inside)


def _edges(writer: _Writer, best: Mapping[ClassId, Node], green: bool) -> Iterator[str]:
    """An edge from each box to those that its rows read; green where the chosen row does."""
    for c in writer.boxes:
        read: dict[ClassId, bool] = {}
        for n in writer.shown[c][:MOST_ROWS]:
            for k in _read(n, writer):
                read[k] = read.get(k, False) or best.get(c) == n
        for k, taken in read.items():
            style = f'color="{CHOSEN_EDGE}", penwidth=1.8' if taken else f'color="{LEFT_EDGE if green else "#757575"}"'
            yield f"  {dot(c)} -> {dot(k)} [{style}];"


def _read(n: Node, writer: _Writer) -> Iterator[ClassId]:
    for k in n.children:
        if k in writer.boxes:
            yield k
        else:
            yield from _read(writer.shown[k][0], writer)
