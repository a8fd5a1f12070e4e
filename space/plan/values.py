"""The values of a plan: typed nodes, a closed union as the expressions are.

A node computes one tile in SSA form. What is elementwise follows the names of `pointwise.POINTWISE`, with a few
operators that only a plan has (`PLAN_OPERATORS`); each other kind of work is a class of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import ClassVar, TypeAlias

from eintune.space.ir.expr import Part, Predicate, Rank
from eintune.space.ir.row_factor import RowFactor

PLAN_OPERATORS = {
    "guard": "-inf becomes 0: the reference of a fold whose rows may be empty",
    "rounded": "a product that is rounded before it is subtracted, so never fused with the difference",
    "div_rn": "division, correctly rounded in any dialect: what a floor or a comparison depends on",
    "tile_reference": "a reference less a row part; but the tile's own maximum where the reference is the tile's",
    "quotient": "division with 0/0 = 0, where a divisor may be 0; plain division elsewhere",
}
"""Elementwise operators that no definition writes, with what they mean."""


@dataclass(frozen=True)
class Within:
    """An axis that is addressed by a number computed of indices, the next of a load's `args`. low, high: the least and
    the greatest that it can be in the valid lanes of the tile."""

    low: int
    high: int

    def inside(self, length: int) -> bool:
        """Whether it never lies beyond an axis of this length."""
        return self.low >= 0 and self.high < length


Addressed: TypeAlias = "Rank | Part | Within | None"
"""What addresses an axis of a tensor in a load or store."""


@dataclass(eq=False, kw_only=True)
class _Node:
    """One SSA value: a tile with `axes` (ordered by the plan's rank order; none for a scalar), made of `args`."""

    mnemonic: ClassVar[str] = ""

    args: tuple[Value, ...] = ()
    axes: tuple[Rank, ...] = ()
    dtype: str = ""
    name: str = ""

    @property
    def op(self) -> str:
        """What it does, as a plan's text and the tables of costs call it."""
        return self.mnemonic

    @property
    def own(self) -> tuple[object, ...]:
        """The fields of this class of node, those of every node left out."""
        return tuple(getattr(self, f.name) for f in fields(self) if f.name not in COMMON)


COMMON = frozenset(f.name for f in fields(_Node))


@dataclass(eq=False, kw_only=True)
class Load(_Node):
    """A tile of an input, 0 in invalid lanes. index: what addresses each axis: a rank, a Part of one, or None or
    `Within`: the next of `args`; one beyond the axis reads no other memory, and nothing relies on what it gives."""

    mnemonic = "load"
    tensor: str
    index: tuple[Addressed, ...]


@dataclass(eq=False, kw_only=True)
class Store(_Node):
    """Writes its only argument, broadcast over `axes`, to an output."""

    mnemonic = "store"
    tensor: str
    index: tuple[Addressed, ...]


@dataclass(eq=False, kw_only=True)
class Constant(_Node):
    """One number; a whole one where the dtype is an integer."""

    mnemonic = "const"
    number: float


@dataclass(eq=False, kw_only=True)
class Index(_Node):
    """The indices of a rank along its tile."""

    mnemonic = "iota"
    rank: Rank


@dataclass(eq=False, kw_only=True)
class Lane(_Node):
    """The indices of a rank along its tile, less the tile's first."""

    mnemonic = "lane"
    rank: Rank


@dataclass(eq=False, kw_only=True)
class TileStart(_Node):
    """The first index of a rank's tile."""

    mnemonic = "first"
    rank: Rank


@dataclass(eq=False, kw_only=True)
class SizeOf(_Node):
    """The number of elements of a rank, where that is known only when the kernel runs."""

    mnemonic = "size"
    rank: Rank


@dataclass(eq=False, kw_only=True)
class IndexPart(_Node):
    """A quotient or remainder of a rank's indices, whole numbers."""

    mnemonic = "part"
    part: Part


@dataclass(eq=False, kw_only=True)
class Carried(_Node):
    """A loop's running value, set by its `Carry`."""

    mnemonic = "carry"


@dataclass(eq=False, kw_only=True)
class Cast(_Node):
    """Its argument in another dtype."""

    mnemonic = "cast"


@dataclass(eq=False, kw_only=True)
class Elementwise(_Node):
    """An operator of `pointwise.POINTWISE`, an approximation of one or one of PLAN_OPERATORS, on operands that are
    broadcast to its axes; arithmetic is in the compute dtype."""

    operator: str

    @property
    def op(self) -> str:
        return self.operator


@dataclass(eq=False, kw_only=True)
class Scale(_Node):
    """Its argument times a number."""

    mnemonic = "scale"
    factor: float


@dataclass(eq=False, kw_only=True)
class RowScale(_Node):
    """What a row's scores are multiplied by, given their maximum (`row_factor`)."""

    mnemonic = "row_factor"
    factors: RowFactor


@dataclass(eq=False, kw_only=True)
class RowReference(_Node):
    """What the weights of a tile are relative to, where a row part was taken off its scores (`tile_folds.ScaleFold`).

    args: the reference of the scores less the row part, all times a row's factor; the reference of what is left of the
    scores, found by itself; and the reference of the scores. The first where the other two are below `limit`, else the
    second: beyond, the two parts of the first are rounded by more than is between them.
    """

    mnemonic = "row_reference"
    limit: float


@dataclass(eq=False, kw_only=True)
class Mask(_Node):
    """Its first argument where a filter on the tile's indices holds, else `fill`. The other arguments are the numbers
    that the filter reads."""

    mnemonic = "where"
    predicate: Predicate
    fill: float


@dataclass(eq=False, kw_only=True)
class TileReduce(_Node):
    """A reduction (`pointwise.REDUCTIONS`) of one tile over one of its axes."""

    mnemonic = "reduce"
    reduction: str
    axis: Rank


@dataclass(eq=False, kw_only=True)
class Dot(_Node):
    """A product of two tiles summed over the axis `contracted`, plus a third where there is one. batch: the other axes
    that both have."""

    mnemonic = "dot"
    contracted: Rank
    batch: tuple[Rank, ...] = ()


Value: TypeAlias = (
    Load
    | Store
    | Constant
    | Index
    | Lane
    | TileStart
    | SizeOf
    | IndexPart
    | Carried
    | Cast
    | Elementwise
    | Scale
    | RowScale
    | RowReference
    | Mask
    | TileReduce
    | Dot
)


def is_product(v: Value) -> bool:
    """Whether it is an elementwise product, of two values or with a number."""
    return isinstance(v, Scale) or (isinstance(v, Elementwise) and v.operator == "mul")
