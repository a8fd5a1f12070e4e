"""Composite folds: one mechanism, instantiated from a table of (reference monoid, group action).

A group G acts on an accumulator monoid (A, +) by automorphisms; a reference is a monoid of its own (a running
maximum, a running mean). The pairs (reference, accumulator) form a monoid with

    A12 = act(r12 <- r1) A1 + act(r12 <- r2) A2,        r12 = r1 . r2

so a sum of items that are taken relative to a reference over the *whole* rank needs only one pass over it.
`scale`: the reference is a maximum and the group scales by exp(-reference) (softmax, log-sum-exp, attention).
`translate`: the reference is (count, mean) and the group translates (Chan, Golub and LeVeque's variance).
`comoment`: the reference is (sum of weights, two means), and what moves is a product of two distances.
`softcomoment`: both at once, weights that are relative to a maximum, and means that they weigh.

Where weights are part of the reference they must not be negative: a running sum of weights of both signs may vanish,
and its means with it. `one_pass` says where that is proven.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from .expr import Expr, Fold, Map, Reduce, Size, free
from .pointwise import POINTWISE, Array

Reference = tuple[Array, ...]
Scores = tuple[Array, ...]

LOG2_E = math.log2(math.e)
LN_2 = math.log(2.0)


@dataclass(frozen=True)
class Action:
    """One row of the table.

    name: what `Fold.action` says.
    identities: the reference monoid's identity, one number per component.
    item: the reference of a single item with scores c and argument y.
    combine: the reference monoid.
    weight: what one item with scores c contributes per unit of `arg`, relative to a reference.
    transport: an accumulator `a` that was relative to `old`, taken relative to `new`.
    kept: what one part of a divided rank keeps of its reference, as expressions of the rank, the scores and the
    argument; None for what the number of elements says.
    merged: the fold over all parts, as an expression: of the rank over parts, the number of a part's elements, what
    it kept, the argument where it is the same for all elements, and its accumulator. That is sum(act(r <- r_part)
    A_part), the references combined to r.
    written: the fold as the reductions that it stands for, of the rank, the scores and the argument.
    linear: whether transport is linear in the accumulator, so that a fold may carry any argument; else the
    argument is 1. Then weights compose too: weight(a, c) * weight(c, g) = weight(a, g).
    references: how many scores it has. weighed: the argument weighs the reference too.
    """

    name: str
    identities: tuple[float, ...]
    item: Callable[[Scores, Array], Reference]
    combine: Callable[[Reference, Reference], Reference]
    weight: Callable[[Scores, Reference], Array]
    transport: Callable[[Array, Reference, Reference], Array]
    kept: Callable[[str, Sequence[Expr], Expr], tuple[Expr | None, ...]]
    merged: Callable[[str, Expr, Sequence[Expr | None], Expr, Expr], Expr]
    written: Callable[[str, Sequence[Expr], Expr], Expr]
    linear: bool = False
    references: int = 1
    weighed: bool = False


@dataclass(frozen=True)
class Weight:
    """What a fold with one score is written as without folds. reference_of: (rank, score) -> the finished reference
    over the whole rank. weight_of: (score, reference) -> the weight of one item relative to it."""

    reference_of: Callable[[str, Expr], Expr]
    weight_of: Callable[[Expr, Expr], Expr]

    def written(self, rank: str, scores: Sequence[Expr], arg: Expr) -> Expr:
        (c,) = scores
        return Reduce("add", rank, self.weight_of(c, self.reference_of(rank, c)) * arg)


def _finite(m: Array) -> Array:
    # No item so far, or filtered items only: -inf - (-inf) would be NaN. Relative to 0 the weight of -inf is
    # exp(-inf) = 0, which is what it should be, and so is what an accumulator of nothing is scaled by.
    return np.where(np.isneginf(m), 0.0, m)


def _mean(a: Reference, b: Reference) -> Reference:
    # Two empty parts have no mean: their sums are 0, and 0 / 1 keeps 0 as the identity.
    n = a[0] + b[0]
    return n, (a[0] * a[1] + b[0] * b[1]) / np.where(n == 0, 1.0, n)


def _sum(rank: str, x: Expr) -> Expr:
    return Reduce("add", rank, x)


def _max(rank: str, x: Expr) -> Expr:
    return Reduce("max", rank, x)


def _exp(x: Expr) -> Expr:
    return Map("exp", (x,))


def _scaled(rank: str, count: Expr, kept: Sequence[Expr | None], arg: Expr, a: Expr) -> Expr:
    top = _known(kept[0])
    return _sum(rank, a * _exp(top - _max(rank, top)))


def _translated(rank: str, count: Expr, kept: Sequence[Expr | None], arg: Expr, a: Expr) -> Expr:
    total = _known(kept[0])
    mean = _sum(rank, total) / _sum(rank, count)
    return _sum(rank, a + count * ((total / count - mean) * (total / count - mean)))


def _known(x: Expr | None) -> Expr:
    assert x is not None
    return x


# ---- two means, weighed


def _means(a: Reference, b: Reference) -> Reference:
    """(sum of weights, means) of both: Chan, Golub and LeVeque's, with weights for counts."""
    n = a[0] + b[0]
    # A step towards the other mean and not a quotient of sums: where the means are large and close (the case that
    # matters) the difference is exact and the step small, while a sum of products would lose the digits that both
    # share.
    share = b[0] / np.where(n == 0, 1.0, n)
    return n, *(x + (y - x) * share for x, y in zip(a[1:], b[1:], strict=True))


def _moved(a: Array, old: Reference, new: Reference) -> Array:
    moved: Array = a + old[0] * (old[1] - new[1]) * (old[2] - new[2])
    return moved


def _relative(r: Reference, top: Array) -> Reference:
    """A reference whose weights are relative to another maximum."""
    # Only the sum of weights is relative to the maximum. Means are quotients of two such sums, from which the factor
    # cancels.
    return r[1] * np.exp(r[0] - _finite(top)), *r[2:]


def _soft_means(a: Reference, b: Reference) -> Reference:
    top = np.maximum(a[0], b[0])
    return top, *_means(_relative(a, top), _relative(b, top))


def _soft_moved(a: Array, old: Reference, new: Reference) -> Array:
    # First to the new maximum (all weights scale), then to the new means with weights that have scaled: in the other
    # order the old weights would be too large by that factor.
    return _moved(a * np.exp(old[0] - _finite(new[0])), _relative(old, new[0]), new[1:])


def mean_of(rank: str, x: Expr, w: Expr) -> Expr:
    """The mean of x over a rank, weighed by w."""
    return _sum(rank, w * x) / _sum(rank, w)


def comoment_of(rank: str, scores: Sequence[Expr], w: Expr) -> Expr:
    """The sum of products of two distances from means, weighed by w as those are."""
    x, y = (c - mean_of(rank, c, w) for c in scores)
    return _sum(rank, w * (x * y))


def _soft_weight(rank: str, c: Expr, w: Expr) -> Expr:
    return w * _exp(c - _max(rank, c))


def _kept_moments(rank: str, scores: Sequence[Expr], w: Expr) -> tuple[Expr | None, ...]:
    # Weights that are the same for all items need not be summed in each part: the number of items says the sum.
    weight = _sum(rank, w) if rank in free(w) else None
    return weight, *(_sum(rank, w * c) for c in scores)


def _kept_soft_moments(rank: str, scores: Sequence[Expr], w: Expr) -> tuple[Expr | None, ...]:
    c, *moving = scores
    return _max(rank, c), Fold("scale", rank, c, w), *(Fold("scale", rank, c, w * x) for x in moving)


def _merged_moments(rank: str, count: Expr, kept: Sequence[Expr | None], arg: Expr, a: Expr) -> Expr:
    weight = count * arg if kept[0] is None else kept[0]
    # A part keeps sums and not means: sums of parts add up to the whole's mean without weighing them again.
    shifts = [_known(s) / weight - _sum(rank, _known(s)) / _sum(rank, weight) for s in kept[1:]]
    return _sum(rank, a + weight * (shifts[0] * shifts[1]))


def _merged_soft_moments(rank: str, count: Expr, kept: Sequence[Expr | None], arg: Expr, a: Expr) -> Expr:
    top, *sums = map(_known, kept)
    factor = _exp(top - _max(rank, top))
    return _merged_moments(rank, count, [s * factor for s in sums], arg, a * factor)


SCALE = Weight(lambda rank, c: _max(rank, c), lambda c, g: _exp(c - g))
TRANSLATE = Weight(lambda rank, c: _sum(rank, c) / Size(rank), lambda c, g: (c - g) * (c - g))
WEIGHTS = {"scale": SCALE, "translate": TRANSLATE}
"""By name of the action, for those with one score."""

ACTIONS: dict[str, Action] = {
    a.name: a
    for a in (
        Action(
            name="scale",
            identities=(-math.inf,),
            item=lambda c, y: (c[0],),
            # A maximum never decreases, so a factor between references is at most 1: an accumulator can lose weight
            # on the way, but never overflow.
            combine=lambda a, b: (np.maximum(a[0], b[0]),),
            weight=lambda c, r: np.exp(c[0] - _finite(r[0])),
            transport=lambda a, old, new: a * np.exp(old[0] - _finite(new[0])),
            kept=lambda rank, c, y: (_max(rank, c[0]),),
            merged=_scaled,
            written=SCALE.written,
            linear=True,
        ),
        Action(
            name="translate",
            identities=(0.0, 0.0),
            item=lambda c, y: (np.ones_like(c[0]), c[0]),
            combine=_mean,
            # The language's difference, in which -inf less -inf is -inf.
            weight=lambda c, r: POINTWISE["sub"](c[0], r[1]) ** 2,
            # sum (c - m')^2 = sum (c - m)^2 + n (m - m')^2, as sum (c - m) = 0 around one's own mean. That is why
            # this transport is not linear: it moves sums of weights around their own mean and nothing else.
            transport=lambda a, old, new: a + old[0] * (old[1] - new[1]) ** 2,
            kept=lambda rank, c, y: (_sum(rank, c[0]),),
            merged=_translated,
            written=TRANSLATE.written,
        ),
        Action(
            name="comoment",
            identities=(0.0, 0.0, 0.0),
            item=lambda c, y: (y, c[0], c[1]),
            combine=_means,
            weight=lambda c, r: POINTWISE["sub"](c[0], r[1]) * POINTWISE["sub"](c[1], r[2]),
            transport=_moved,
            kept=_kept_moments,
            merged=_merged_moments,
            written=comoment_of,
            references=2,
            weighed=True,
        ),
        Action(
            name="softcomoment",
            identities=(-math.inf, 0.0, 0.0, 0.0),
            # An item relative to its own score has the weight exp(0) * y, but a filtered one has none.
            item=lambda c, y: (c[0], np.where(np.isneginf(c[0]), 0.0, y), c[1], c[2]),
            combine=_soft_means,
            weight=lambda c, r: np.exp(c[0] - _finite(r[0])) * (c[1] - r[2]) * (c[2] - r[3]),
            transport=_soft_moved,
            kept=_kept_soft_moments,
            merged=_merged_soft_moments,
            written=lambda rank, c, w: comoment_of(rank, c[1:], _soft_weight(rank, c[0], w)),
            references=3,
            weighed=True,
        ),
    )
}


def fold(action: Action, scores: Scores, args: Array, axis: int) -> Array:
    """The meaning of a `Fold` in float64: left to right over `axis`, which is kept with length 1.

    Where the transport is not linear it moves an accumulator of weights alone: an argument that varies along the axis
    weighs each item relative to the finished reference, as the law has it, and any other is a factor. One that weighs
    the reference moves with it, where it is nowhere negative.
    """
    shape = np.broadcast_shapes(*(c.shape for c in scores), args.shape)
    scores = tuple(np.broadcast_to(c, shape) for c in scores)
    # A running sum of weights of both signs may pass 0, and the means with it infinity, though the finished sums are
    # harmless.
    if action.weighed and (args < 0).any():
        return _moments_at_once(scores, np.broadcast_to(args, shape), axis)
    if action.linear or action.weighed:
        return _items_folded(action, scores, np.broadcast_to(args, shape), axis)[0]
    total, reference = _items_folded(action, scores, np.ones(shape), axis)
    # A factor of the whole fold. Not with infinite scores: inf * 0 would be NaN where an item of no weight counts for
    # nothing.
    if args.shape[axis] == 1 and np.isfinite(scores[0]).all():
        return total * args
    weight = action.weight(scores, reference)
    weighed: Array = np.add.reduce(weight * np.where(weight == 0, 0.0, args), axis, keepdims=True)
    return weighed


def _moments_at_once(scores: Scores, weights: Array, axis: int) -> Array:
    """sum(w (x - mean x) (y - mean y)) along an axis, the means weighed by w and finished first: so weights of any sign
    are allowed. scores: (x, y), or (c, x, y) with weights relative to the maximum of c."""
    *relative, x, y = scores
    for c in relative:
        weights = weights * np.exp(c - _finite(np.max(c, axis, keepdims=True)))

    def total(a: Array) -> Array:
        found: Array = np.add.reduce(weights * np.where(weights == 0, 0.0, a), axis, keepdims=True)
        return found

    x, y = (c - POINTWISE["div"](total(c), total(np.ones_like(c))) for c in (x, y))
    return total(x * y)


def _items_folded(action: Action, scores: Scores, args: Array, axis: int) -> tuple[Array, Reference]:
    """The accumulator and the reference of a fold over items one by one; all arrays have the whole shape."""
    shape = args.shape
    one = [slice(None)] * len(shape)
    reference: Reference = tuple(np.array(i) for i in action.identities)
    total: Array = np.zeros([1 if i == axis else n for i, n in enumerate(shape)])
    for i in range(shape[axis]):
        one[axis] = slice(i, i + 1)
        c, y = tuple(s[tuple(one)] for s in scores), args[tuple(one)]
        # The reference first: the item is weighed relative to what it has just been part of, so that no weight of
        # `scale` exceeds 1.
        new = action.combine(reference, action.item(c, y))
        weight = action.weight(c, new)
        # a weight of 0 takes no part, whatever its argument (a filtered element)
        total = action.transport(total, reference, new) + weight * np.where(weight == 0, 0.0, y)
        reference = new
    return total, reference
