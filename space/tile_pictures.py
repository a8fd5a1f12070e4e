"""Pictures of a tile graph as Graphviz text: plain, or with costs, the chosen nodes green and the others grey."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from .tile_ir import TileGraph, TileNode

CHOSEN, LEFT = "#c8e6c9", "#e0e0e0"


def tile_dot(
    graph: TileGraph,
    cost: Mapping[tuple[str, TileNode], float] | None = None,
    choice: Mapping[str, TileNode] | None = None,
) -> str:
    """The graph in the DOT language: a box a class, with its facts, holding its nodes; edges from operands.

    cost: bytes of each node, written under it. choice: the node taken for each class that the result needs.
    """
    lines = ["digraph tiles {", "  rankdir=BT; compound=true; node [shape=box, style=filled, fontname=Helvetica];"]
    for c in graph.classes:
        lines += _class_lines(graph, c, cost, choice)
    lines += _edge_lines(graph, choice)
    return "\n".join([*lines, "}", ""])


def _class_lines(
    graph: TileGraph,
    owner: str,
    cost: Mapping[tuple[str, TileNode], float] | None,
    choice: Mapping[str, TileNode] | None,
) -> Iterator[str]:
    f = graph.facts[owner]
    title = f"{owner}: {f.rows}x{f.cols}, {f.element_bytes} B, {f.region}, {f.iterations} times"
    yield f'  subgraph "cluster_{owner}" {{ label="{title}"; style=dashed; fontname=Helvetica; fontsize=10;'
    for i, node in enumerate(graph.classes[owner]):
        text = node.label if cost is None else f"{node.label}\\n{cost[owner, node]:,.0f} B"
        colour = "white" if choice is None else CHOSEN if choice.get(owner) == node else LEFT
        yield f'    "{owner}_{i}" [label="{text}", fillcolor="{colour}"];'
    yield "  }"


def _edge_lines(graph: TileGraph, choice: Mapping[str, TileNode] | None) -> Iterator[str]:
    for owner, nodes in graph.classes.items():
        for i, node in enumerate(nodes):
            taken = choice is None or choice.get(owner) == node
            for child in node.children:
                shade = "black" if taken else "#9e9e9e"
                # an edge starts at a class, not at one of its nodes: the box's border is where it is drawn from
                yield f'  "{child}_0" -> "{owner}_{i}" [ltail="cluster_{child}", color="{shade}"];'
