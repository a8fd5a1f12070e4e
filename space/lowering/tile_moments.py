"""How a fold around two weighed means runs over tiles: `comoment`, and `softcomoment`, whose weights are relative to a
maximum.

The reference is (sum of weights W, means a and b). A tile adds its weights and means to those; the accumulator moves to
the new means by W * (a - a') * (b - b'), W and it scaled first where weights are relative; and the tile's items take
their distances from the new means, whose products are summed as a matrix product where x and y have axes of their own.

Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm for computing sample variances" (1979), with
weights for counts as in West, "Updating mean and variance estimates: an improved method" (1979).
"""

from __future__ import annotations

from collections.abc import Sequence

from eintune.space.analysis.layout import Shape
from eintune.space.ir.expr import Expr, Fold, Rank
from eintune.space.ir.products import product
from eintune.space.plan.plan import Carry
from eintune.space.plan.values import Mask, Value

from .contraction import Product
from .loop_pass import Pass, Running, Weights
from .tile_folds import elements_of


def weights_of(this: Pass, score: Expr | None, running: Running | None, inside: Sequence[Expr], rank: Rank) -> Weights:
    """Add the running sum of weights to a loop. inside: the factors of a weight that vary with `rank`. score: what
    weights are relative to the maximum of, and running: the state of that score's fold in this loop; both None for
    weights that are relative to nothing."""
    builder, apply = this.builder, this.builder.apply
    layout = builder.layout
    axis, taken = layout.axis_of(rank), layout.of_rank(rank)
    # Weights relative to the running maximum of this loop: shared with every fold of the same score
    # (`Pass.references`).
    relative = () if running is None else (running.weight,)
    total = this.carry("weight", (_shape(this, [*inside, *([score] if score else [])]) - taken).axes, 0.0)
    # Without weights the number of the tile's items is their sum, and no reduction is needed.
    if inside or relative:
        tile = builder.contract(Product(list(inside), relative), axis, this.body)
    else:
        tile = elements_of(this, axis)
    # Sum and accumulators scale together when the maximum moves, or their quotients would be wrong in between.
    old = total.value if running is None else apply("mul", total.value, running.transport[0])
    total.next = apply("add", old, tile)
    share = apply("quotient", tile, total.next)  # 0 while there are no weights
    return Weights(tuple(inside), relative, axis, old, share, tile)


def mean_of(this: Pass, x: Expr, weights: Weights, rank: Rank) -> Carry:
    """Add the running mean of x, weighed by `weights`, to a loop; `next` is the mean after the tile at hand."""
    builder, apply = this.builder, this.builder.apply
    taken = builder.layout.of_rank(rank)
    axes = frozenset(weights.share.axes) | (_shape(this, [x]) - taken).axes
    mean = this.carry("mean", axes, 0.0)
    total = builder.contract(Product([*weights.inside, x], weights.relative), weights.axis, this.body)
    # A tile whose weights are all 0 (filtered, or no score so far) has no mean: 0 / 0 = 0, and its share is 0 as
    # well.
    step = apply("sub", apply("quotient", total, weights.per_tile), mean.value)
    mean.next = apply("add", mean.value, apply("mul", step, weights.share))
    return mean


def comoment(
    this: Pass, work: Fold, weights: Weights, means: Sequence[Carry], running: Running | None, axes: frozenset[Rank]
) -> Value:
    """Add the running sum of weighed products of distances from two means to a loop, and return its carry's value.

    work: the fold. means: of its last two scores. running: as in `weights_of`. axes: of the result."""
    builder, apply = this.builder, this.builder.apply
    carry = this.carry("acc", axes, 0.0)
    shifts = [apply("sub", m.value, m.next) for m in means]
    apart = apply("mul", shifts[0], shifts[1])
    before = carry.value if running is None else apply("mul", carry.value, running.transport[0])
    # Before the tile is added: this corrects what was summed around the old means for the new ones.
    moved = apply("add", before, apply("mul", weights.old, apart))
    distances = []
    for x, mean in zip(work.scores[-2:], means, strict=True):
        distance = apply("sub", builder.number(x, this.body), mean.next)
        if weights.axis and (tail := builder.layout.tail(weights.axis)):
            axes_of_tail = builder.layout.ordered({*distance.axes, weights.axis})
            # One factor of 0 is enough for each product, but either distance may be the operand of a matrix product:
            # both are masked.
            distance = builder.emit(Mask(predicate=tail, fill=0.0, args=(distance,)), axes=axes_of_tail)
        distances.append(distance)
    items = Product(list(weights.inside), (*distances, *weights.relative))
    carry.next = builder.contract(items, weights.axis, this.body, accumulator=moved)
    return carry.value


def _shape(this: Pass, parts: Sequence[Expr]) -> Shape:
    return this.builder.layout.shape(product(parts))
