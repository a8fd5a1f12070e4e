"""Every way of moving the tiles of a term: an e-graph of tile terms.

Analyses give every class what `tiles.facts` says of a term. Two laws: a left operand in shared memory may be loaded
into registers once (a product that reads it from shared memory does so in each iteration), and a linear operation on a
product may move to its left operand, which is then held in registers.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, assert_never

from eintune.host.forks import cached_property
from eintune.host.quoting import egglog

from .tiles import (
    REGIONS,
    Cast,
    Elementwise,
    Final,
    Input,
    Ldr,
    Lds,
    Stg,
    Sts,
    TileExpr,
    TileFacts,
    Wgmma,
    facts,
    operands,
)

LINEAR = ("scale", "neg")
"""Pointwise operations f with f(a b) = f(a) b."""


@dataclass(frozen=True)
class TileNode:
    """One way to make a class: an operation, what it is written with (a name, a width), and operands' classes."""

    op: str
    label: str
    children: tuple[str, ...]


@dataclass(frozen=True)
class TileGraph:
    """Classes of equal tiles: their nodes, their facts, and the class of the result."""

    classes: Mapping[str, tuple[TileNode, ...]]
    facts: Mapping[str, TileFacts]
    root: str

    @cached_property
    def nodes(self) -> tuple[tuple[str, TileNode], ...]:
        """Every node with its class."""
        return tuple((c, n) for c, nodes in self.classes.items() for n in nodes)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON data."""
        return {
            "root": self.root,
            "classes": {
                c: {
                    "rows": self.facts[c].rows,
                    "cols": self.facts[c].cols,
                    "element_bytes": self.facts[c].element_bytes,
                    "region": str(self.facts[c].region),
                    "iterations": self.facts[c].iterations,
                    "nodes": [{"op": n.op, "label": n.label, "children": list(n.children)} for n in nodes],
                }
                for c, nodes in self.classes.items()
            },
        }


ANALYSES = ("rows", "cols", "element_bytes", "region", "iterations")
_MOVES = {"LDS": (0, 1), "LDR": (1, 2), "STS": (2, 1), "STG": (1, 0)}

_PROGRAM = f"""
(datatype Tile
  (Input String i64 i64 i64 i64) (LDS Tile) (LDR Tile) (STS Tile) (STG Tile)
  (WGMMA i64 Tile Tile) (Elementwise String Tile) (Cast i64 Tile) (Final Tile))
{"".join(f"(function {name} (Tile) i64 :no-merge)" for name in ANALYSES)}
(datatype Mark (Result Tile))
(relation linear (String))
(ruleset analysis)
(ruleset laws)
(rule ((= t (Input n r c b i)))
      ((set (rows t) r) (set (cols t) c) (set (element_bytes t) b) (set (region t) 0) (set (iterations t) i))
      :ruleset analysis)
(rule ((= t (WGMMA b x y)) (= r (rows x)) (= c (cols y)) (= i (iterations x)) (= j (iterations y)))
      ((set (rows t) r) (set (cols t) c) (set (element_bytes t) b) (set (region t) 2)
       (set (iterations t) (max i j)))
      :ruleset analysis)
(rule ((= t (Cast b x)) (= r (rows x)) (= c (cols x)) (= i (iterations x)))
      ((set (rows t) r) (set (cols t) c) (set (element_bytes t) b) (set (region t) 2) (set (iterations t) i))
      :ruleset analysis)
(rule ((= t (Elementwise o x)) (= r (rows x)) (= c (cols x)) (= b (element_bytes x)) (= i (iterations x)))
      ((set (rows t) r) (set (cols t) c) (set (element_bytes t) b) (set (region t) 2) (set (iterations t) i))
      :ruleset analysis)
(rule ((= t (Final x)) (= r (rows x)) (= c (cols x)) (= b (element_bytes x)) (= g (region x)))
      ((set (rows t) r) (set (cols t) c) (set (element_bytes t) b) (set (region t) g) (set (iterations t) 1))
      :ruleset analysis)
""" + "".join(
    f"""(rule ((= t ({op} x)) (= r (rows x)) (= c (cols x)) (= b (element_bytes x)) (= i (iterations x)))
      ((set (rows t) r) (set (cols t) c) (set (element_bytes t) b) (set (region t) {target}) (set (iterations t) i))
      :ruleset analysis)
"""
    for op, (_, target) in _MOVES.items()
)

LOAD = """
; a product of a left operand in shared memory is the product of the operand held in registers
(rule ((= t (WGMMA b x y)) (= 1 (region x)))
      ((union t (WGMMA b (LDR x) y))) :ruleset laws)
"""

HOIST = """
; a linear operation on a product is the product of the operation on its left operand, held in registers
(rule ((= t (Elementwise o (WGMMA b x y))) (linear o) (= 1 (region x)))
      ((union t (WGMMA b (Elementwise o (LDR x)) y))) :ruleset laws)
(rule ((= t (Elementwise o (WGMMA b x y))) (linear o) (= 2 (region x)))
      ((union t (WGMMA b (Elementwise o x) y))) :ruleset laws)
"""


LAWS = LOAD + HOIST


def saturate_tiles(root: TileExpr, *, laws: str = LAWS) -> TileGraph:
    """Every way of moving the tiles that the laws reach. `laws`: egglog rules of the ruleset `laws` ("" for none).

    Raises TileError for a term without meaning. Terms are finite, an operand is loaded once and a hoist only moves
    towards the inputs, so saturation ends.
    """
    facts(root)
    from egglog import bindings

    graph = bindings.EGraph()
    known = "".join(f'(linear "{op}")' for op in LINEAR)
    schedule = "(run-schedule (saturate (seq (saturate (run analysis)) (run laws))))"
    graph.run_program(*graph.parse_program(f"{_PROGRAM}{laws}{known}(Result {_text(root)}){schedule}"))
    data = json.loads(graph.serialize([], max_functions=None, max_calls_per_function=None).to_json())
    return _read(data["nodes"])


def _text(x: TileExpr) -> str:
    below = " ".join(_text(a) for a in operands(x))
    match x:
        case Input():
            return f"(Input {egglog(x.name)} {x.rows} {x.cols} {x.element_bytes} {x.iterations})"
        case Elementwise():
            return f"(Elementwise {egglog(x.op)} {below})"
        case Cast():
            return f"(Cast {x.element_bytes} {below})"
        case Wgmma():
            return f"(WGMMA {x.element_bytes} {below})"
        case Lds() | Ldr() | Sts() | Stg():
            return f"({type(x).__name__.upper()} {below})"
        case Final():
            return f"(Final {below})"
        case _:
            assert_never(x)


TILE_OPS = ("Input", "LDS", "LDR", "STS", "STG", "WGMMA", "Elementwise", "Cast", "Final")


def _read(raw: Mapping[str, Mapping[str, Any]]) -> TileGraph:
    """The classes of tiles out of a serialised e-graph; the analyses' rows become facts."""
    owner = {name: node["eclass"] for name, node in raw.items()}
    value = {node["eclass"]: node["op"] for name, node in raw.items() if name.startswith("primitive")}
    classes: dict[str, list[TileNode]] = {}
    found: dict[str, dict[str, int]] = {}
    root = ""
    for node in raw.values():
        op, own, below = node["op"], node["eclass"], [owner[c] for c in node["children"]]
        if op in ANALYSES:
            found.setdefault(below[0], {})[op] = int(value[own])
        elif op in TILE_OPS:
            texts = [json.loads(value[c]) for c in below if c in value] if op != "WGMMA" else []
            children = tuple(c for c in below if c not in value)
            classes.setdefault(own, []).append(TileNode(op, " ".join([op, *map(str, texts[:1])]), children))
        elif op == "Result":
            root = below[0]
    names = dict(_numbered(classes, root))
    return TileGraph(
        {names[c]: tuple(_renamed(nodes, names)) for c, nodes in classes.items() if c in names},
        {names[c]: _facts(found[c]) for c in classes if c in names},
        names[root],
    )


def _numbered(classes: Mapping[str, Sequence[TileNode]], root: str) -> Iterator[tuple[str, str]]:
    """Short names for the classes that the root needs, breadth first: t0 is the root."""
    seen, queue = {root: None}, [root]
    for c in queue:
        yield c, f"t{list(seen).index(c)}"
        for node in sorted(classes[c], key=lambda n: (n.op, n.label)):
            for child in node.children:
                if child not in seen:
                    seen[child] = None
                    queue.append(child)


def _renamed(nodes: Sequence[TileNode], names: Mapping[str, str]) -> list[TileNode]:
    new = [TileNode(n.op, n.label, tuple(names[c] for c in n.children)) for n in nodes]
    return sorted(new, key=lambda n: (n.op, n.label, n.children))


def _facts(row: Mapping[str, int]) -> TileFacts:
    return TileFacts(row["rows"], row["cols"], row["element_bytes"], REGIONS[row["region"]], row["iterations"])
