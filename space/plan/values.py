"""The values of a plan."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from eintune.space.ir.expr import Part, Rank

# ---- the tree


@dataclass(frozen=True)
class Within:
    """What addresses an axis: a number that is computed of indices (the next of a load's `args`), and what it lies
    within wherever the tile is valid."""

    low: int
    high: int

    def inside(self, length: int) -> bool:
        """Whether it never lies beyond an axis of this length."""
        return self.low >= 0 and self.high < length


Addressed: TypeAlias = "Rank | Part | Within | None"
"""What addresses an axis of a tensor in a load or store."""


@dataclass(eq=False)
class Value:
    """One SSA value: a tile with `axes` (ordered by the plan's rank order; none for a scalar).

    op and attr:
      load    attr (tensor name, index)                a tile of an input, invalid lanes 0; for each axis the index
                                                       has a rank, a Part of one, or None or Within: the next of
                                                       `args`; one beyond the axis reads no other memory, and nothing
                                                       relies on what it gives
      store   attr (output name, ranks); args (value,)
      const   attr float; iota attr rank, the index; lane attr rank, the index less the tile's first; first attr rank,
              the tile's first index; part attr Part, of the index, a whole number; carry (a loop's running value,
              set by its Carry)
      cast    to `dtype`
      a name of pointwise.POINTWISE (arithmetic in fp32)
      scale   attr float: args[0] * attr
      where   attr (Predicate, fill): the filter on this tile's indices; after what is filtered, args has the numbers
              that the filter reads
      guard   -inf becomes 0 (the reference of a fold whose rows may be empty)
      row_factor  attr RowFactor: what a row's scores are multiplied by, given their maximum
      rounded  a product that is rounded before it is subtracted
      div_rn  div, correctly rounded in any dialect: what a floor or a comparison depends on
      quotient  div with 0/0 = 0 (where a divisor may be 0; plain div elsewhere)
      reduce  attr (op, axis): over one tile axis
      dot     attr (contracted axis, batch axes); args (a, b) or (a, b, accumulator)
    """

    name: str
    op: str
    args: tuple[Value, ...]
    attr: object
    axes: tuple[Rank, ...]
    dtype: str
