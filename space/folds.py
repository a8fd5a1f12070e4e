"""Composite folds: one mechanism, instantiated from a table of (reference monoid, group action).

A group G acts on an accumulator monoid (A, +) by automorphisms; a reference is a monoid of its own (a running
maximum, a running mean). The pairs (reference, accumulator) form a monoid with

    A12 = act(r12 <- r1) A1 + act(r12 <- r2) A2,        r12 = r1 . r2

so a sum of items that are taken relative to a reference over the *whole* rank needs only one pass over it.
`scale`: the reference is a maximum and the group scales by exp(-reference) (softmax, log-sum-exp, attention).
`translate`: the reference is (count, mean) and the group translates (Chan, Golub and LeVeque's variance).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .expr import Expr, Map, Reduce, Size
from .pointwise import POINTWISE, Array

Reference = tuple[Array, ...]

LOG2_E = math.log2(math.e)
LN_2 = math.log(2.0)


@dataclass(frozen=True)
class Action:
    """One row of the table.

    name: what `Fold.action` says.
    identities: the reference monoid's identity, one number per component.
    item: the reference of a single item with score c.
    combine: the reference monoid.
    weight: what one item with score c contributes per unit of `arg`, relative to a reference.
    transport: an accumulator `a` that was relative to `old`, taken relative to `new`.
    reference_of: the finished reference over a rank, as an expression of the score (for the law's left side).
    weight_of: the weight of a score relative to a finished reference, as an expression (for the law).
    kept: what one part of a divided rank keeps of its reference, as an expression of the rank and the score.
    merged: the fold over all parts, as an expression: of the rank over parts, the number of a part's elements, what
    it kept, and its accumulator. That is sum(act(r <- r_part) A_part), the references combined to r.
    linear: whether transport is linear in the accumulator, so that a fold may carry any argument; else the
    argument is 1. Then weights compose too: weight(a, c) * weight(c, g) = weight(a, g).
    """

    name: str
    identities: tuple[float, ...]
    item: Callable[[Array], Reference]
    combine: Callable[[Reference, Reference], Reference]
    weight: Callable[[Array, Reference], Array]
    transport: Callable[[Array, Reference, Reference], Array]
    reference_of: Callable[[str, Expr], Expr]
    weight_of: Callable[[Expr, Expr], Expr]
    kept: Callable[[str, Expr], Expr]
    merged: Callable[[str, Expr, Expr, Expr], Expr]
    linear: bool


def _finite(m: Array) -> Array:
    return np.where(np.isneginf(m), 0.0, m)


def _mean(a: Reference, b: Reference) -> Reference:
    n = a[0] + b[0]
    return n, (a[0] * a[1] + b[0] * b[1]) / np.where(n == 0, 1.0, n)


def _scaled(rank: str, count: Expr, kept: Expr, a: Expr) -> Expr:
    return Reduce("add", rank, a * Map("exp", (kept - Reduce("max", rank, kept),)))


def _translated(rank: str, count: Expr, kept: Expr, a: Expr) -> Expr:
    mean = Reduce("add", rank, kept) / Reduce("add", rank, count)
    return Reduce("add", rank, a + count * ((kept / count - mean) * (kept / count - mean)))


ACTIONS: dict[str, Action] = {
    a.name: a
    for a in (
        Action(
            name="scale",
            identities=(-math.inf,),
            item=lambda c: (c,),
            combine=lambda a, b: (np.maximum(a[0], b[0]),),
            weight=lambda c, r: np.exp(c - _finite(r[0])),
            transport=lambda a, old, new: a * np.exp(old[0] - _finite(new[0])),
            reference_of=lambda rank, c: Reduce("max", rank, c),
            weight_of=lambda c, g: Map("exp", (c - g,)),
            kept=lambda rank, c: Reduce("max", rank, c),
            merged=_scaled,
            linear=True,
        ),
        Action(
            name="translate",
            identities=(0.0, 0.0),
            item=lambda c: (np.ones_like(c), c),
            combine=_mean,
            weight=lambda c, r: POINTWISE["sub"](c, r[1]) ** 2,
            transport=lambda a, old, new: a + old[0] * (old[1] - new[1]) ** 2,
            reference_of=lambda rank, c: Reduce("add", rank, c) / Size(rank),
            weight_of=lambda c, g: (c - g) * (c - g),
            kept=lambda rank, c: Reduce("add", rank, c),
            merged=_translated,
            linear=False,
        ),
    )
}


def fold(action: Action, scores: Array, args: Array, axis: int) -> Array:
    """The meaning of a `Fold` in float64: left to right over `axis`, which is kept with length 1.

    Where the transport is not linear it moves an accumulator of weights alone: an argument that varies along the axis
    weighs each item relative to the finished reference, as the law has it, and any other is a factor.
    """
    shape = np.broadcast_shapes(scores.shape, args.shape)
    scores = np.broadcast_to(scores, shape)
    if action.linear:
        return _items_folded(action, scores, np.broadcast_to(args, shape), axis)[0]
    total, reference = _items_folded(action, scores, np.ones(shape), axis)
    if args.shape[axis] == 1 and np.isfinite(scores).all():
        return total * args
    weight = action.weight(scores, reference)
    weighed: Array = np.add.reduce(weight * np.where(weight == 0, 0.0, args), axis, keepdims=True)
    return weighed


def _items_folded(action: Action, scores: Array, args: Array, axis: int) -> tuple[Array, Reference]:
    """The accumulator and the reference of a fold over items one by one; both arrays have the whole shape."""
    shape = scores.shape
    one = [slice(None)] * len(shape)
    reference: Reference = tuple(np.array(i) for i in action.identities)
    total: Array = np.zeros([1 if i == axis else n for i, n in enumerate(shape)])
    for i in range(shape[axis]):
        one[axis] = slice(i, i + 1)
        c, y = scores[tuple(one)], args[tuple(one)]
        new = action.combine(reference, action.item(c))
        weight = action.weight(c, new)
        # a weight of 0 takes no part, whatever its argument (a filtered element)
        total = action.transport(total, reference, new) + weight * np.where(weight == 0, 0.0, y)
        reference = new
    return total, reference
