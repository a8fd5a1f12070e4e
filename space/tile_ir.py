"""Tiles and where they sit: the data movement of one program as terms of an e-graph.

    (Input name rows cols bytes iterations)   a tile of global memory, loaded `iterations` times
    (LDS x) global -> shared      (LDR x) shared -> registers      (STS x) registers -> shared
    (STG x) shared -> global      (WGMMA a b) a product, in fp32, of operands in shared memory or registers
    (Elementwise op x)            pointwise, in registers          (Cast bytes x) the same in another width
    (Final x)                     the value that a loop leaves: what uses it runs once

Analyses give every class its rows, columns, bytes of an element, region and loop iterations. One law moves a
linear operation from a product to its left operand, which is then held in registers. Data only: what a transfer
costs is said by `costmodel.tile_cost`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import Any, TypeAlias, assert_never

LINEAR = ("scale", "neg")
"""Pointwise operations f with f(a b) = f(a) b."""
ACCUMULATOR_BYTES = 4
"""A product accumulates in fp32."""


class TileError(ValueError):
    """A tile where it cannot be, or shapes that do not fit; the message names the operation and the values."""


class Region(StrEnum):
    """Where a tile sits."""

    GLOBAL = "global"
    SHARED = "shared"
    REGISTERS = "registers"


REGIONS = tuple(Region)


@dataclass(frozen=True)
class Input:
    """A tile of a tensor in global memory."""

    name: str
    rows: int
    cols: int
    element_bytes: int
    iterations: int


@dataclass(frozen=True)
class Lds:
    arg: TileExpr


@dataclass(frozen=True)
class Ldr:
    arg: TileExpr


@dataclass(frozen=True)
class Sts:
    arg: TileExpr


@dataclass(frozen=True)
class Stg:
    arg: TileExpr


@dataclass(frozen=True)
class Wgmma:
    left: TileExpr
    right: TileExpr


@dataclass(frozen=True)
class Elementwise:
    op: str
    arg: TileExpr


@dataclass(frozen=True)
class Cast:
    element_bytes: int
    arg: TileExpr


@dataclass(frozen=True)
class Final:
    arg: TileExpr


TileExpr: TypeAlias = Input | Lds | Ldr | Sts | Stg | Wgmma | Elementwise | Cast | Final


@dataclass(frozen=True)
class Facts:
    """What the analyses say of a tile."""

    rows: int
    cols: int
    element_bytes: int
    region: Region
    iterations: int

    @property
    def nbytes(self) -> int:
        """Bytes of the tile."""
        return self.rows * self.cols * self.element_bytes


def operands(x: TileExpr) -> tuple[TileExpr, ...]:
    """The direct operands."""
    match x:
        case Input():
            return ()
        case Wgmma():
            return (x.left, x.right)
        case Lds() | Ldr() | Sts() | Stg() | Elementwise() | Cast() | Final():
            return (x.arg,)
        case _:
            assert_never(x)


def facts(x: TileExpr) -> Facts:
    """The facts of a term, by the same rules as the e-graph's analyses. Raises TileError for one without meaning."""
    below = [facts(a) for a in operands(x)]
    match x:
        case Input():
            return Facts(x.rows, x.cols, x.element_bytes, Region.GLOBAL, x.iterations)
        case Lds():
            return _moved("LDS", below[0], Region.GLOBAL, Region.SHARED)
        case Ldr():
            return _moved("LDR", below[0], Region.SHARED, Region.REGISTERS)
        case Sts():
            return _moved("STS", below[0], Region.REGISTERS, Region.SHARED)
        case Stg():
            return _moved("STG", below[0], Region.SHARED, Region.GLOBAL)
        case Wgmma():
            return _multiplied(*below)
        case Elementwise():
            return _moved(f"Elementwise {x.op}", below[0], Region.REGISTERS, Region.REGISTERS)
        case Cast():
            f = _moved("Cast", below[0], Region.REGISTERS, Region.REGISTERS)
            return Facts(f.rows, f.cols, x.element_bytes, f.region, f.iterations)
        case Final():
            return Facts(below[0].rows, below[0].cols, below[0].element_bytes, below[0].region, 1)
        case _:
            assert_never(x)


def _moved(what: str, f: Facts, source: Region, target: Region) -> Facts:
    if f.region != source:
        raise TileError(f"{what}: its operand must be in {source}, but is in {f.region}")
    return Facts(f.rows, f.cols, f.element_bytes, target, f.iterations)


def _multiplied(a: Facts, b: Facts) -> Facts:
    if a.cols != b.rows:
        raise TileError(f"WGMMA: columns of the left operand must be rows of the right, but got {a.cols} and {b.rows}")
    if Region.GLOBAL in (a.region, b.region) or b.region != Region.SHARED:
        raise TileError(
            "WGMMA: the left operand must be in shared memory or registers and the right in shared memory, "
            f"but they are in {a.region} and {b.region}"
        )
    return Facts(a.rows, b.cols, ACCUMULATOR_BYTES, Region.REGISTERS, max(a.iterations, b.iterations))


# ---- the e-graph


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
    facts: Mapping[str, Facts]
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
  (WGMMA Tile Tile) (Elementwise String Tile) (Cast i64 Tile) (Final Tile))
{"".join(f"(function {name} (Tile) i64 :no-merge)" for name in ANALYSES)}
(datatype Mark (Result Tile))
(relation linear (String))
(ruleset analysis)
(ruleset laws)
(rule ((= t (Input n r c b i)))
      ((set (rows t) r) (set (cols t) c) (set (element_bytes t) b) (set (region t) 0) (set (iterations t) i))
      :ruleset analysis)
(rule ((= t (WGMMA x y)) (= r (rows x)) (= c (cols y)) (= i (iterations x)) (= j (iterations y)))
      ((set (rows t) r) (set (cols t) c) (set (element_bytes t) {ACCUMULATOR_BYTES}) (set (region t) 2)
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

HOIST = """
; a linear operation on a product is the product of the operation on its left operand, held in registers
(rule ((= t (Elementwise o (WGMMA x y))) (linear o) (= 1 (region x)))
      ((union t (WGMMA (Elementwise o (LDR x)) y))) :ruleset laws)
(rule ((= t (Elementwise o (WGMMA x y))) (linear o) (= 2 (region x)))
      ((union t (WGMMA (Elementwise o x) y))) :ruleset laws)
"""


def saturate_tiles(root: TileExpr, *, laws: str = HOIST) -> TileGraph:
    """Every way of moving the tiles that the laws reach. `laws`: egglog rules of the ruleset `laws` ("" for none).

    Raises TileError for a term without meaning. Terms are finite and a hoist only moves towards the inputs, so
    saturation ends.
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
            return f"(Input {json.dumps(x.name)} {x.rows} {x.cols} {x.element_bytes} {x.iterations})"
        case Elementwise():
            return f"(Elementwise {json.dumps(x.op)} {below})"
        case Cast():
            return f"(Cast {x.element_bytes} {below})"
        case Lds() | Ldr() | Sts() | Stg() | Wgmma():
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
            texts = [json.loads(value[c]) for c in below if c in value]
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


def _facts(row: Mapping[str, int]) -> Facts:
    return Facts(row["rows"], row["cols"], row["element_bytes"], REGIONS[row["region"]], row["iterations"])
