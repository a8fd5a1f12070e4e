"""Pictures of a tile graph: plain, or with costs, the chosen nodes green and the others grey."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from eintune.host.quoting import dot
from eintune.space.tile_ir.graph import TileGraph, TileNode

from .svg import CHOSEN, CHOSEN_EDGE, FONT, INPUT, LEFT, LEFT_EDGE, cell, table, title_line

Cost = Mapping[tuple[str, TileNode], float]


def tile_dot(
    graph: TileGraph, cost: Cost | None = None, choice: Mapping[str, TileNode] | None = None, title: str = ""
) -> str:
    """The graph in the DOT language: a box a class, with its facts, and a row for each way to make it.

    cost: bytes of each node, at the right of its row. choice: the node taken for each class that the result needs.
    """
    lines = [f"digraph tiles {{ rankdir=TB; ranksep=0.3; nodesep=0.4; {title_line(title)}"]
    lines.append(f"  node [shape=plain, {FONT}, fontsize=11]; edge [arrowsize=0.6];")
    lines += [f"  {dot(c)} [label={_box(graph, c, cost, choice)}];" for c in graph.classes]
    lines += _edges(graph, choice)
    return "\n".join([*lines, "}", ""])


def _box(graph: TileGraph, owner: str, cost: Cost | None, choice: Mapping[str, TileNode] | None) -> str:
    f = graph.facts[owner]
    times = f", {f.iterations} times" if f.iterations > 1 else ""
    head = INPUT if choice is None else CHOSEN if owner in choice else LEFT
    rows = [cell(owner, head, bold=True, small=f"{f.rows}x{f.cols}, {f.element_bytes} B, in {f.region}{times}")]
    for node in graph.classes[owner]:
        colour = "white" if choice is None else CHOSEN if choice.get(owner) == node else LEFT
        moved = None if cost is None else f"{cost[owner, node]:,.0f} B"
        rows.append(cell(" ".join([node.label, *node.children]), colour, right=moved))
    return table(rows)


def _edges(graph: TileGraph, choice: Mapping[str, TileNode] | None) -> Iterator[str]:
    for owner, nodes in graph.classes.items():
        read: dict[str, bool] = {}
        for node in nodes:
            for child in node.children:
                read[child] = read.get(child, False) or (choice is not None and choice.get(owner) == node)
        for child, taken in read.items():
            style = f'color="{CHOSEN_EDGE}", penwidth=1.8' if taken else f'color="{LEFT_EDGE if choice else "#757575"}"'
            yield f"  {dot(child)} -> {dot(owner)} [{style}];"
