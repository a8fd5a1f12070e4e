"""A pass over a rank, and what a fold keeps of a tile and from tile to tile."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from eintune.space.analysis.row_offsets import Addends, addends
from eintune.space.ir.expr import Expr, Rank, Reduce
from eintune.space.ir.pointwise import REDUCTIONS
from eintune.space.plan.plan import Carry
from eintune.space.plan.roles import IllegalPlan
from eintune.space.plan.values import Scale, Value

from .plan_builder import PlanBuilder
from .scope import PlanScope


@dataclass(eq=False)
class Pass:
    """The state of one loop while it is filled."""

    builder: PlanBuilder
    rank: Rank
    body: PlanScope
    around: PlanScope
    carries: list[Carry] = field(default_factory=list)
    results: dict[Expr, tuple[Value, list[Expr]]] = field(default_factory=dict)
    """For each reduction or fold of the loop: its carry, and the factors that do not vary with the loop, by which it is
    multiplied after it."""
    references: dict[tuple[str, Rank, Expr], tuple[TileFold, Running]] = field(default_factory=dict)
    weights: dict[tuple[object, ...], Weights] = field(default_factory=dict)
    means: dict[tuple[object, ...], Carry] = field(default_factory=dict)
    """By rank, score and factors: running sums of weights; and with one more score, the running means that they
    weigh."""

    def carry(self, name: str, axes: frozenset[Rank], init: float) -> Carry:
        """A new running value of the loop, `init` before it; whoever asks sets its `next`. Raises IllegalPlan for a
        value with the loop's own axis where the last tile is not full: its lanes would keep what earlier tiles left."""
        layout = self.builder.layout
        # A running value for each lane (a maximum over tiles, say): in the last tile some lanes are no elements, and
        # would keep what earlier tiles left as if it were theirs.
        if self.rank in axes and layout.tail(self.rank):
            raise IllegalPlan(
                f"what is kept for each lane of a tile of {self.rank} needs tiles that are full",
                f"|{self.rank}| = {layout.sizes[self.rank]} is no multiple of {layout.roles[self.rank].tile}",
            )
        value = self.builder.carry(name, axes, self.body)
        # Its next value is not known yet: whoever asked for the carry sets `next` once the body is there.
        self.carries.append(Carry(value, init, value))
        return self.carries[-1]


@dataclass(frozen=True, eq=False)
class ScoreTile:
    """A tile of a score and its maximum (or minimum): score = inside * factor + row, and so is the maximum."""

    inside: Value
    top: Value
    factor: float
    row: Value | None

    @classmethod
    def of(cls, this: Pass, op: str, score: Expr, axis: Rank | None, *, whole: bool = False) -> ScoreTile:
        """Reduce one tile along its axis; op is "max" or "min". whole: take nothing out of the score."""
        builder, identity = this.builder, REDUCTIONS[op].identity
        # Masked first, taken apart then: the parts keep the mask, and the row part is free of it.
        masked = builder.masks.masked(score, axis, identity)
        parts = Addends(masked, 1.0, None)
        if not whole:
            parts = addends(masked, axis, identity, builder.layout, builder.masks, low_precision=builder.low_precision)
        inside = builder.number(parts.inside, this.body)
        # It is added to a maximum and taken off it again: the same number in both, so no compiler fuses its product
        # with one of the two.
        row = None if parts.row is None else builder.rounded(builder.number(parts.row, this.body))
        # Reduced without factor and row: both are monotone (the factor is positive), so they wait for the one number
        # that is left of a row.
        return cls(inside, builder.reduce(op, inside, axis) if axis else inside, parts.factor, row)

    def reduced(self, builder: PlanBuilder) -> Value:
        """The maximum in the score's terms."""
        top = scaled(builder, self.top, self.factor)
        return top if self.row is None else builder.apply("add", top, self.row)


def scaled(builder: PlanBuilder, v: Value, k: float) -> Value:
    return v if k == 1.0 else builder.emit(Scale(factor=k, args=(v,)))


@dataclass(frozen=True, eq=False)
class Running:
    """The reference of one score in one loop, and what every fold of that score needs in an iteration.

    tile: with its own reference, where that is a maximum. weight: of the tile's items relative to the new reference,
    0 in invalid lanes. transport: the values that move an accumulator to the new reference.
    """

    tile: ScoreTile | None
    weight: Value
    transport: tuple[Value, ...]


class TileFold(Protocol):
    """One action over tiles. constant_argument: the transport holds only for an argument free of the rank."""

    constant_argument: bool

    def start(self, this: Pass, ref: Expr, rank: Rank) -> Running:
        """Add the reference's carries and one tile's update to a loop."""

    def transport(self, builder: PlanBuilder, accumulator: Value, running: Running) -> Value:
        """The accumulator relative to the new reference."""

    def is_reference(self, x: Reduce) -> bool:
        """Whether a plain reduction of the score combines what the tiles' references are."""


@dataclass(frozen=True, eq=False)
class Weights:
    """The weights of one loop's items. inside: their factors as expressions; relative: those that are values already,
    the weights of a `scale` fold. axis: the tile axis. old: the sum of weights before this tile, relative to the
    reference after it. share: the tile's sum over that after it. per_tile: the tile's sum."""

    inside: tuple[Expr, ...]
    relative: tuple[Value, ...]
    axis: Rank | None
    old: Value
    share: Value
    per_tile: Value
