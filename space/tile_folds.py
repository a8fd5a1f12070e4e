"""How a composite fold runs over tiles: the plan's side of every row of `folds.ACTIONS`.

A tile is folded at once: the running reference is combined with the tile's own, the accumulator is transported
to the new reference, and the tile's items are weighted relative to it. All folds of one score share this.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from .addends import addends
from .contraction import Product
from .expr import Const, Expr, Rank, Reduce, Where
from .folds import ACTIONS, LOG2_E
from .normal_form import oriented
from .plan import Value
from .pointwise import REDUCTIONS

if TYPE_CHECKING:
    from .builder import Builder
    from .loops import Pass


@dataclass(frozen=True, eq=False)
class Tile:
    """A tile of a score and its maximum (or minimum): score = inside * factor + row, and so is the maximum."""

    inside: Value
    top: Value
    factor: float
    row: Value | None

    @classmethod
    def of(cls, this: Pass, op: str, score: Expr, axis: Rank | None) -> Tile:
        """Reduce one tile along its axis; op is "max" or "min"."""
        builder, identity = this.builder, REDUCTIONS[op].identity
        masked = builder.masks.masked(score, axis, identity)
        parts = addends(masked, axis, identity, builder.layout, builder.masks, coarse=builder.coarse)
        inside = builder.number(parts.inside, this.body)
        row = None if parts.row is None else builder.number(parts.row, this.body)
        return cls(inside, builder.reduce(op, inside, axis) if axis else inside, parts.factor, row)

    def reduced(self, builder: Builder, k: float = 1.0) -> Value:
        """The maximum in the score's terms, times k."""
        top = _scaled(builder, self.top, self.factor * k)
        return top if self.row is None else builder.emit("add", (top, _scaled(builder, self.row, k)))

    def relative(self, builder: Builder, reference: Value, k: float) -> Value:
        """The score times k, less a reference that has been multiplied already."""
        if self.row is not None:
            reference = builder.emit("sub", (reference, _scaled(builder, self.row, k)))
        return builder.emit("sub", (_scaled(builder, self.inside, self.factor * k), reference))


def _scaled(builder: Builder, v: Value, k: float) -> Value:
    return v if k == 1.0 else builder.emit("scale", (v,), k)


@dataclass(frozen=True, eq=False)
class Running:
    """The reference of one score in one loop, and what every fold of that score needs in an iteration.

    tile: with its own reference, where that is a maximum. weight: of the tile's items relative to the new reference,
    0 in invalid lanes. transport: the values that move an accumulator to the new reference.
    """

    tile: Tile | None
    weight: Value
    transport: tuple[Value, ...]


class TileFold(Protocol):
    """One action over tiles. constant_argument: the transport holds only for an argument free of the rank."""

    constant_argument: bool

    def start(self, this: Pass, ref: Expr, rank: Rank) -> Running:
        """Add the reference's carries and one tile's update to a loop."""

    def transport(self, builder: Builder, accumulator: Value, running: Running) -> Value:
        """The accumulator relative to the new reference."""

    def is_reference(self, x: Reduce) -> bool:
        """Whether a plain reduction of the score combines what the tiles' references are."""


class Scale:
    """The reference is a running maximum m; an accumulator is scaled by exp(m_old - m_new).

    A number that multiplies the score stays out of the tile's maximum and meets log2(e). What is carried is the
    product k*m, rounded once: the factor between two references is then exactly the one between the weights
    that were taken relative to them, and 2**(k*c - k*m) errs in proportion to c - m only. What does not vary along
    the tile's axis is added to the tile's maximum and taken off the reference, once a row (`addends`).
    """

    constant_argument = False

    def start(self, this: Pass, ref: Expr, rank: Rank) -> Running:
        builder, layout = this.builder, this.builder.layout
        axis = layout.axis_of(rank)
        core, k = oriented(ref)
        core, k = (core, k) if k > 0 else (ref, 1.0)
        carry = this.carry("running_max", (layout.shape(core) - layout.of_rank(rank)).axes, -float("inf"))
        tile = Tile.of(this, "max", core, axis)
        carry.next = builder.emit("max", (carry.value, tile.reduced(builder, k * LOG2_E)))
        new = carry.next
        if builder.masks.starts_empty(core, rank):
            new = builder.emit("guard", (new,))
        rescale = builder.emit("exp2", (builder.emit("sub", (carry.value, new)),))
        relative = tile.relative(builder, new, k * LOG2_E)
        return Running(tile, builder.emit("exp2", (relative,)), (rescale,))

    def transport(self, builder: Builder, accumulator: Value, running: Running) -> Value:
        return builder.emit("mul", (accumulator, running.transport[0]))

    def is_reference(self, x: Reduce) -> bool:
        return x.op == "max"


class Translate:
    """The reference is (count, mean); moving a sum of squares from mean to mean' adds count * (mean - mean')**2.

    Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm for computing sample variances" (1979).
    """

    constant_argument = True

    def start(self, this: Pass, ref: Expr, rank: Rank) -> Running:
        builder, layout = this.builder, this.builder.layout
        axis, emit = layout.axis_of(rank), this.builder.emit
        axes = (layout.shape(ref) - layout.of_rank(rank)).axes
        count, mean = this.carry("count", frozenset(), 0.0), this.carry("mean", axes, 0.0)
        elements = self._elements(this, axis)
        tile_mean = emit("div", (builder.contract(Product([ref]), axis, this.body), elements))
        count.next = emit("add", (count.value, elements))
        share = emit("div", (elements, count.next))
        step = emit("mul", (emit("sub", (tile_mean, mean.value)), share))
        mean.next = emit("add", (mean.value, step))
        distance = emit("sub", (builder.number(ref, this.body), mean.next))
        weight = emit("mul", (distance, distance))
        if tail := layout.tail(axis):
            weight = emit("where", (weight,), (tail, 0.0), axes=weight.axes)
        moved = emit("sub", (mean.value, mean.next))
        added = emit("mul", (count.value, emit("mul", (moved, moved))))
        return Running(None, weight, (added,))

    def _elements(self, this: Pass, axis: Rank | None) -> Value:
        """The number of valid lanes of the tile."""
        builder = this.builder
        tail = builder.layout.tail(axis)
        if axis is None or tail is None:
            length = 1 if axis is None else builder.layout.roles[axis].tile or 1
            return builder.value(Const(float(length)), this.body)
        return builder.reduce("add", builder.value(Where(tail, Const(1.0), 0.0), this.body), axis)

    def transport(self, builder: Builder, accumulator: Value, running: Running) -> Value:
        return builder.emit("add", (accumulator, running.transport[0]))

    def is_reference(self, x: Reduce) -> bool:
        return False


TILE_FOLDS: dict[str, TileFold] = {"scale": Scale(), "translate": Translate()}
"""By action: one row for every row of `folds.ACTIONS`."""


def expand(action: str, rank: Rank, ref: Expr, arg: Expr) -> Expr:
    """A fold over a rank that is a whole tile, at once: the sum of weighted arguments, by the law itself."""
    row = ACTIONS[action]
    return Reduce("add", rank, row.weight_of(ref, row.reference_of(rank, ref)) * arg)
