"""How composite folds with one score run over tiles (those with several: `tile_moments`).

A tile is folded at once: the running reference is combined with the tile's own, the accumulator is transported
to the new reference, and the tile's items are weighted relative to it. All folds of one score share this.
"""

from __future__ import annotations

from eintune.space.analysis.normal_form import oriented
from eintune.space.ir.expr import Const, Expr, Fold, Rank, Reduce, Where, topological
from eintune.space.ir.folds import ACTIONS, LOG2_E
from eintune.space.ir.row_factor import RowFactor
from eintune.space.plan.values import Mask, RowReference, RowScale, Value

from .contraction import Product
from .loop_pass import Pass, Running, ScoreTile, TileFold, scaled
from .plan_builder import PlanBuilder


class ScaleFold:
    """The reference is a running maximum m; an accumulator is scaled by exp(m_old - m_new).

    A number that multiplies the score stays out of the tile's maximum and meets log2(e) in one factor k, so that a
    weight is 2**(c*k - m*k): one fused operation an element, and errors in proportion to c - m but for a factor of the
    whole row, from the rounding of m*k. The factor between two references is exactly the one between the weights that
    were taken relative to them. Where that would not be harmless k is another number (`row_factor`), and where what a
    plan stores depends on the reference (`PlanBuilder.precise`) a weight is 2**((c - m)*k), one operation more. What
    does not vary along the tile's axis is added to the tile's maximum and taken off the reference, once a row
    (`addends`).
    """

    constant_argument = False

    def start(self, this: Pass, ref: Expr, rank: Rank) -> Running:
        builder, layout = this.builder, this.builder.layout
        axis, apply = layout.axis_of(rank), builder.apply
        # k > 0: a maximum of k * core is k times that of core. Once for a row then, and not once for an element.
        core, k = oriented(ref)
        core, k = (core, k) if k > 0 else (ref, 1.0)
        k *= LOG2_E
        carry = this.carry("running_max", (layout.shape(core) - layout.of_rank(rank)).axes, -float("inf"))
        tile = ScoreTile.of(this, "max", core, axis, whole=builder.precise)
        # The reference of old and tile together before anything is weighed: all weights of the tile, and the factor
        # of what is there, are at most 1.
        carry.next = new = apply("max", carry.value, tile.top if tile.row is None else tile.reduced(builder))
        # A first tile without any score leaves the maximum at -inf, and -inf - (-inf) is NaN. Guarded to 0 the
        # weights are exp2(-inf) = 0. The guard is a compare and a select a row, so only where it can happen.
        if builder.masks.starts_empty(core, rank):
            new = apply("guard", new)
        # Subtract, then multiply: exact where it matters, but the multiply-add that would do both is lost.
        if builder.precise:
            rescale = apply("exp2", scaled(builder, apply("sub", carry.value, new), k))
            relative = apply("sub", builder.rounded(tile.inside), new)
            return Running(tile, apply("exp2", scaled(builder, relative, k)), (rescale,))
        # Without a row part the whole score has the factor, the reference too.
        k *= tile.factor if tile.row is None else 1.0
        # To be judged when the plan is complete: if anything stored depends on the reference, this way of rounding is
        # not allowed, and the plan is built again as a precise one (`lower._Lowering.plan`).
        builder.references[carry] = k, not any(isinstance(x, (Reduce, Fold)) for x in topological([ref]))
        return self._fused(builder, tile, carry.value, new, k)

    def _fused(self, builder: PlanBuilder, tile: ScoreTile, old: Value, new: Value, k: float) -> Running:
        """Weights and transport by products with a row's factor, the same on both sides of each difference."""
        apply = builder.apply
        factors = self._factors(builder, k)
        # Of the new maximum for the weights, of the old for what it was: each reference is the very product that its
        # weights were taken relative to, so that the factor between the two matches them to the last bit.
        factor = builder.emit(RowScale(factors=factors, args=(new,)))
        reference = builder.rounded(apply("mul", new, factor), name="reference")
        old_factor = builder.emit(RowScale(factors=factors, args=(old,)))
        before = builder.rounded(apply("mul", old, old_factor), name="reference")
        step = apply("sub", before, reference)
        # Where a row passes from one factor to a smaller one, its reference may shrink though its maximum grew, and
        # the accumulator would grow without bound. The bound is harmless elsewhere, as a true step is below half of
        # itself (both are at most 0).
        if not factors.grows:
            step = apply("min", step, scaled(builder, apply("sub", old, new), k / 2))
        # score = inside * tile.factor + row, of which the latter is taken off the reference, once a row.
        if tile.row is not None:
            reference, factor = self._without_row(builder, tile, new, reference, factor)
        # One multiply-add an element, then one exp2: the inner loop of attention.
        relative = apply("sub", apply("mul", tile.inside, factor, name="scaled"), reference)
        return Running(tile, apply("exp2", relative), (apply("exp2", step),))

    def _without_row(
        self, builder: PlanBuilder, tile: ScoreTile, new: Value, reference: Value, factor: Value
    ) -> tuple[Value, Value]:
        """The reference without the row part of a tile's scores, and the factor of what is left of them.

        Both parts may be far larger than their sum (a position times a steep slope). So the factor is that of what is
        left, and where that is large what it is relative to is found without a difference of two rounded products: it
        is the tile's own maximum where that is the row's, so that the largest weight is exactly 1.
        """
        assert tile.row is not None and isinstance(factor, RowScale)
        apply, k = builder.apply, factor.factors.factor
        near = apply("sub", reference, apply("mul", tile.row, factor))
        rest = scaled(builder, apply("sub", new, tile.row), 1 / tile.factor)
        own = apply("tile_reference", rest, tile.top, new, tile.reduced(builder))
        factors = self._factors(builder, k * tile.factor)
        own_factor = builder.emit(RowScale(factors=factors, args=(own,)))
        far = builder.rounded(apply("mul", own, own_factor), name="reference")
        limit = factors.limit * min(factors.factor, factors.beyond)
        return builder.emit(RowReference(limit=limit, args=(near, far, reference))), own_factor

    @staticmethod
    def _factors(builder: PlanBuilder, k: float) -> RowFactor:
        return RowFactor.of(k, builder.compute, fp16="fp16" in builder.dtypes.values())

    def transport(self, builder: PlanBuilder, accumulator: Value, running: Running) -> Value:
        return builder.apply("mul", accumulator, running.transport[0])

    def is_reference(self, x: Reduce) -> bool:
        return x.op == "max"


class Translate:
    """The reference is (count, mean); moving a sum of squares from mean to mean' adds count * (mean - mean')**2.

    Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm for computing sample variances" (1979).
    """

    constant_argument = True

    def start(self, this: Pass, ref: Expr, rank: Rank) -> Running:
        builder, layout = this.builder, this.builder.layout
        axis, apply = layout.axis_of(rank), builder.apply
        axes = (layout.shape(ref) - layout.of_rank(rank)).axes
        # The count is one number for the whole program, the mean one for each row.
        count, mean = this.carry("count", frozenset(), 0.0), this.carry("mean", axes, 0.0)
        elements = elements_of(this, axis)
        tile_mean = apply("div", builder.contract(Product([ref]), axis, this.body), elements)
        count.next = apply("add", count.value, elements)
        # mean += (tile's mean - mean) * n_tile / n: what is rounded is the step, which gets smaller, not the mean.
        share = apply("div", elements, count.next)
        step = apply("mul", apply("sub", tile_mean, mean.value), share)
        mean.next = apply("add", mean.value, step)
        # From the mean over all so far, not from the tile's: so the tile's part needs no correction of its own, only
        # what was summed before does.
        distance = apply("sub", builder.number(ref, this.body), mean.next)
        weight = apply("mul", distance, distance)
        # Lanes beyond the end hold 0, which is no item: its distance from the mean would count.
        if tail := layout.tail(axis):
            weight = builder.emit(Mask(predicate=tail, fill=0.0, args=(weight,)), axes=weight.axes)
        moved = apply("sub", mean.value, mean.next)
        added = apply("mul", count.value, apply("mul", moved, moved))
        return Running(None, weight, (added,))

    def transport(self, builder: PlanBuilder, accumulator: Value, running: Running) -> Value:
        return builder.apply("add", accumulator, running.transport[0])

    def is_reference(self, x: Reduce) -> bool:
        return False


def elements_of(this: Pass, axis: Rank | None) -> Value:
    """The number of valid lanes of the tile."""
    builder = this.builder
    tail = builder.layout.tail(axis)
    if axis is None or tail is None:
        length = 1 if axis is None else builder.layout.roles[axis].tile or 1
        return builder.value(Const(float(length)), this.body)
    return builder.reduce("add", builder.value(Where(tail, Const(1.0), 0.0), this.body), axis)


TILE_FOLDS: dict[str, TileFold] = {"scale": ScaleFold(), "translate": Translate()}
"""By action: a row for each action of `folds.ACTIONS` that has one score."""


def expand(x: Fold) -> Expr:
    """A fold over a rank that is one tile as a whole, without running values: the reductions that it stands for."""
    return ACTIONS[x.action].written(x.rank, x.scores, x.arg)
