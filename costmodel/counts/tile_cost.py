"""What a tile graph's nodes move, by the accounting that plans are priced with, and the cheapest way through it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from eintune.space.tile_ir.graph import TileGraph, TileNode
from eintune.space.tile_ir.tiles import Region, TileFacts

from .transfers import Path, PlacedTile, Transfer, by_path, move, product

TARGETS = {"LDS": Region.SHARED, "LDR": Region.REGISTERS, "STS": Region.SHARED, "STG": Region.GLOBAL}


def node_transfers(graph: TileGraph, owner: str, node: TileNode) -> tuple[Transfer, ...]:
    """The transfers of one node over all its loop iterations (`owner` is its class)."""
    times = graph.facts[owner].iterations
    below = [_tile(graph.facts[c]) for c in node.children]
    match node.op:
        case "LDS" | "LDR" | "STS" | "STG":
            once = move(below[0], TARGETS[node.op])
        case "WGMMA":
            once = product(below)
        case _:  # an input lies where it is; computing works on registers; a loop's result is only named
            once = ()
    return tuple(t * times for t in once)


def _tile(f: TileFacts) -> PlacedTile:
    return PlacedTile(f.region, f.nbytes)


def node_bytes(graph: TileGraph) -> dict[tuple[str, TileNode], float]:
    """Bytes that each node moves: the costs of an extraction."""
    return {(c, n): sum(t.nbytes for t in node_transfers(graph, c, n)) for c, n in graph.nodes}


@dataclass(frozen=True)
class TileChoice:
    """One node for each class that the result needs, and what they move."""

    nodes: Mapping[str, TileNode]
    paths: Mapping[Path, float]

    @property
    def nbytes(self) -> float:
        """All bytes moved."""
        return sum(self.paths.values())


def priced(graph: TileGraph, nodes: Mapping[str, TileNode]) -> TileChoice:
    """A choice of nodes with what it moves; each class counts once."""
    return TileChoice(nodes, by_path(t for c, n in nodes.items() for t in node_transfers(graph, c, n)))


def transaction_table(graph: TileGraph, choice: TileChoice) -> str:
    """A readable table: class, operation, tile, iterations and bytes of every chosen node, the total last."""
    rows = [("class", "operation", "tile", "times", "bytes")]
    for c, node in choice.nodes.items():
        f = graph.facts[c]
        moved = sum(t.nbytes for t in node_transfers(graph, c, node))
        tile = f"{f.rows}x{f.cols} {f.element_bytes} B in {f.region}"
        rows.append((c, " ".join([node.label, *node.children]), tile, str(f.iterations), f"{moved:,.0f}"))
    rows.append(("total", "", "", "", f"{choice.nbytes:,.0f}"))
    widths = [max(len(r[i]) for r in rows) for i in range(4)]
    return "\n".join("  ".join(v.ljust(w) for v, w in zip(r, widths, strict=False)) + f"  {r[4]:>12}" for r in rows)
