"""Tiles and where they sit: the data movement of one program as terms of an e-graph.

    (Input name rows cols bytes iterations)   a tile of global memory, loaded `iterations` times
    (LDS x) global -> shared      (LDR x) shared -> registers      (STS x) registers -> shared
    (STG x) shared -> global      (WGMMA bytes a b) a product of operands in shared memory or registers
    (Elementwise op x)            pointwise, in registers          (Cast bytes x) the same in another width
    (Final x)                     the value that a loop leaves: what uses it runs once

`facts` gives a term its rows, columns, bytes of an element, region and loop iterations; `graph` enumerates equal
terms; `text` reads and writes them. What a transfer costs is said by `costmodel.counts.tile_cost`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias, assert_never

from eintune.host.quoting import MAX_MESSAGE, short
from eintune.space.ir.dtypes import DTYPES
from eintune.space.ir.pointwise import POINTWISE

ELEMENT_BYTES = {n: d.bytes for n, d in DTYPES.items() if d.kind != "bool"} | {"fp8": 1}
UNARY = (*(name for name, p in POINTWISE.items() if p.arity == 1), "scale")
"""What Elementwise can compute."""
ACCUMULATOR_BYTES = 4
"""A product accumulates in fp32 unless it says otherwise."""


class TileError(ValueError):
    """A tile where it cannot be, or shapes that do not fit; the message names the operation and the values, in
    a line."""

    def __init__(self, message: str) -> None:
        super().__init__(short(message, MAX_MESSAGE))


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
    """A product; `element_bytes` is the width that it accumulates in."""

    left: TileExpr
    right: TileExpr
    element_bytes: int = ACCUMULATOR_BYTES


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
class TileFacts:
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


def facts(x: TileExpr) -> TileFacts:
    """The facts of a term, by the same rules as the e-graph's analyses. Raises TileError for one without meaning."""
    below = [facts(a) for a in operands(x)]
    match x:
        case Input():
            return TileFacts(x.rows, x.cols, x.element_bytes, Region.GLOBAL, x.iterations)
        case Lds():
            return _moved("LDS", below[0], Region.GLOBAL, Region.SHARED)
        case Ldr():
            return _moved("LDR", below[0], Region.SHARED, Region.REGISTERS)
        case Sts():
            return _moved("STS", below[0], Region.REGISTERS, Region.SHARED)
        case Stg():
            return _moved("STG", below[0], Region.SHARED, Region.GLOBAL)
        case Wgmma():
            return _multiplied(below[0], below[1], x.element_bytes)
        case Elementwise():
            return _moved(f"Elementwise {x.op}", below[0], Region.REGISTERS, Region.REGISTERS)
        case Cast():
            f = _moved("Cast", below[0], Region.REGISTERS, Region.REGISTERS)
            return TileFacts(f.rows, f.cols, x.element_bytes, f.region, f.iterations)
        case Final():
            return TileFacts(below[0].rows, below[0].cols, below[0].element_bytes, below[0].region, 1)
        case _:
            assert_never(x)


def _moved(what: str, f: TileFacts, source: Region, target: Region) -> TileFacts:
    if f.region != source:
        raise TileError(f"{what}: its operand must be in {source}, but is in {f.region}")
    return TileFacts(f.rows, f.cols, f.element_bytes, target, f.iterations)


def _multiplied(a: TileFacts, b: TileFacts, element_bytes: int) -> TileFacts:
    if a.cols != b.rows:
        raise TileError(f"WGMMA: columns of the left operand must be rows of the right, but got {a.cols} and {b.rows}")
    if Region.GLOBAL in (a.region, b.region) or b.region != Region.SHARED:
        raise TileError(
            "WGMMA: the left operand must be in shared memory or registers and the right in shared memory, "
            f"but they are in {a.region} and {b.region}"
        )
    return TileFacts(a.rows, b.cols, element_bytes, Region.REGISTERS, max(a.iterations, b.iterations))
