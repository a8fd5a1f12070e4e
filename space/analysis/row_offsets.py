"""The addends of a score: which of them a tile's reduction need not see, and which number all of them may share.

Inside a tile a score is `u + r`, where r does not vary along the axis that is reduced. Then

    max(u + r) = max(u) + r        exp2(k * (u + r) - M) = exp2(k * u - (M - k * r))

so r is added once a row and not once an element. An index along the axis is such a sum by itself: the place in the
tile, which is the same in every tile, and the tile's first index.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from eintune.space.ir.expr import (
    Const,
    Expr,
    Fold,
    Iota,
    Map,
    Rank,
    Reduce,
    Where,
    children,
    topological,
    with_children,
)
from eintune.space.ir.products import product

from .layout import Layout
from .masks import Masks
from .normal_form import oriented, scaled, times

ORDINARY = 2.0**24
"""A factor is taken out of a sum if it and its inverse are at most this: then what is divided by it stays in range."""


@dataclass(frozen=True)
class Addends:
    """A score as `inside * factor + row`. row: free of the axis, None for none. factor: positive."""

    inside: Expr
    factor: float
    row: Expr | None


def addends(
    x: Expr, axis: Rank | None, identity: float, layout: Layout, masks: Masks, *, low_precision: bool = False
) -> Addends:
    """The parts of a score that a maximum or a minimum with this identity reduces along a tile axis.

    A row part is finite, overflow apart, so that an element which a filter left at the identity stays there. It is no
    input either, which may be as large as its dtype allows (an additive mask): the tile would be lost in their sum.

    low_precision: whether results are rounded to 16 bits, so that indices may be taken apart too: where two positions
    are near each other their difference is small and exact, and its parts are as large as a tile is long. That is a
    tile's length of units in the last place of fp32, and little beside one of a narrow number. Where positions are
    multiplied by large numbers it is much, which whoever takes weights relative to such a maximum has to bear in mind
    (`tile_folds.ScaleFold`).
    """
    if axis is None or axis not in layout.shape(x).axes:
        return Addends(x, 1.0, None)
    parting = _Parting(axis, identity, layout, masks, low_precision)
    inside, row = parting.parts(x)
    # An infinite row part would be subtracted from a maximum that it is part of: inf - inf.
    if inside is None or (row is not None and not masks.is_finite(row)):
        inside, row = x, None
    return Addends(*parting.shared(inside), row)


class _Parting:
    """Takes scores apart along one axis of one plan."""

    def __init__(self, axis: Rank, fill: float, layout: Layout, masks: Masks, low_precision: bool) -> None:
        self._axis, self._fill, self._layout, self._masks, self._low_precision = (
            axis,
            fill,
            layout,
            masks,
            low_precision,
        )

    def _along(self, x: Expr) -> bool:
        return self._axis in self._layout.shape(x).axes

    # ---- what does not vary along the axis

    def parts(self, x: Expr) -> tuple[Expr | None, Expr | None]:
        """`x` as (inside, row), x = inside + row; None for nothing."""
        if not self._along(x):
            # An input may be as large as its dtype allows: added once a row it would swallow the digits of the tile's
            # part that it was to be compared with.
            return (None, x) if self._masks.is_finite(x) else (x, None)
        inside, row = self._parts(x)
        return (x, None) if row is None else (inside, row)

    def _parts(self, x: Expr) -> tuple[Expr | None, Expr | None]:
        match x:
            # index = place in the tile + first index of the tile. The former is the same in every iteration, so what
            # is made of it leaves the loop; what is left is one number an iteration.
            case Iota(rank) if self._low_precision and self._layout.of_rank(rank).loops:
                return Map("lane", (x,)), Map("first", (x,))
            case Map("add" | "sub", (a, b)):
                (in_a, row_a), (in_b, row_b) = self.parts(a), self.parts(b)
                inside, row = _joined(x.op, in_a, in_b), _joined(x.op, row_a, row_b)
                # (u + r) - m loses digits where u and r are large and cancel: then the sum stays together.
                return (inside, row) if inside is not None and self._may_lose(inside) else (x, None)
            case Map("neg", (a,)):
                inside, row = self.parts(a)
                return _joined("sub", None, inside), _joined("sub", None, row)
            case Map("mul", (a, b)) if not (self._along(a) and self._along(b)):
                (inside, row), other = (self.parts(a), b) if self._along(a) else (self.parts(b), a)
                # Such a product is loop-invariant, hence hoisted, hence a whole tile of registers held through the
                # loop: dearer than computing it again.
                if inside is not None and self._is_kept_whole(inside, other):
                    return x, None
                return _multiplied(inside, other), _multiplied(row, other)
            # A filtered element is the reduction's identity, which stays that whatever is added to its row.
            case Where(p, a, fill) if fill == self._fill:
                inside, row = self.parts(a)
                return None if inside is None else Where(p, inside, fill), row
            case Map("select", (condition, a, Const(fill))) if fill == self._fill and self._along(a):
                inside, row = self.parts(a)
                return None if inside is None else Map("select", (condition, inside, Const(fill))), row
            case _:
                return x, None

    def _is_kept_whole(self, inside: Expr, other: Expr) -> bool:
        """Whether the product of the two does not vary with the loop and yet has an element for each of a tile: it
        would be hoisted, and a whole tile of registers held throughout the loop."""
        return not self._layout.shape(inside).loops and bool(self._layout.shape(other).axes)

    def _may_lose(self, inside: Expr) -> bool:
        """Whether a row part may be taken out of a sum, of which `inside` stays, without loss of digits.

        A difference of two large inputs may be small and exact, and is then left as it is. A computed sum was rounded
        before, and a place in a tile is small.
        """
        along = [n for n in topological([inside]) if self._along(n)]
        # A sum of products has an error of its own larger than what this can lose.
        rounded = any(isinstance(n, Fold) or (isinstance(n, Reduce) and n.op == "add") for n in along)
        return rounded or (all(isinstance(n, (Map, Iota)) for n in along) and self._is_linear(inside))

    def _is_linear(self, x: Expr) -> bool:
        """Whether it is a place in the tile, times what does not vary along the axis, plus more such."""
        todo = [x]
        while todo:
            match todo.pop():
                case Map("lane"):
                    pass
                case Map("add" | "sub" | "mul" | "neg", args):
                    todo += filter(self._along, args)
                case _:
                    return False
        return True

    # ---- a number that leaves a sum

    def shared(self, x: Expr) -> tuple[Expr, float]:
        """`x` as (core, k), x = core * k with k > 0.

        An addition is fused with one multiplication, so one is too many where both its operands are products over
        the whole tile. Then the number of one of them is taken out, and the other addends are divided by it where they
        have fewer elements.
        """
        match x:
            case Where(p, a, fill) if fill == self._fill:
                core, k = self.shared(a)
                return (x, 1.0) if k == 1.0 else (Where(p, core, fill), k)
            case Map("select", (condition, a, Const(fill))) if fill == self._fill:
                core, k = self.shared(a)
                return (x, 1.0) if k == 1.0 else (Map("select", (condition, core, Const(fill))), k)
            case Map("add" | "sub"):
                # Taken out once, the number meets log2(e) and the row's factor in one multiplication (`tile_folds`),
                # and each addition of the score is one fused multiply-add.
                k = next((abs(k) for k in (scaled(t)[1] for t in _terms(x)) if _is_ordinary(k)), 1.0)
                # Dividing the others by the number must not cost an operation an element: products have a smaller
                # factor to divide, rows are divided once.
                cheap = all(self._is_product(t) or not self._is_whole(t, x) for t in _terms(x))
                cheap = cheap and all(map(self._masks.is_finite, _terms(x)))  # an input may be as large as it can
                return (self._divided(x, k), k) if k != 1.0 and cheap and self._wastes(x, x) else (x, 1.0)
            case _:
                core, k = oriented(x)
                return (core, k) if k > 0.0 else (x, 1.0)

    def _wastes(self, x: Expr, whole: Expr) -> bool:
        """Whether both operands of some addition are products over the whole tile."""
        todo = [x]
        while todo:
            match todo.pop():
                case Map("add" | "sub", args):
                    if all(self._is_product(a) and self._is_whole(a, whole) for a in args):
                        return True
                    todo += args
        return False

    def _is_whole(self, x: Expr, whole: Expr) -> bool:
        return self._layout.shape(x).axes == self._layout.shape(whole).axes

    def _is_product(self, x: Expr) -> bool:
        return scaled(x)[1] != 1.0 or self._smaller(x) is not None

    def _smaller(self, x: Expr) -> tuple[Expr, Expr] | None:
        """A product as (factor, factor with fewer axes)."""
        match x:
            case Map("mul", (a, b)):
                a_axes, b_axes = self._layout.shape(a).axes, self._layout.shape(b).axes
                if a_axes == b_axes:
                    return None
                return (a, b) if len(b_axes) < len(a_axes) else (b, a)
            case _:
                return None

    def _divided(self, x: Expr, k: float) -> Expr:
        terms: dict[Expr, Expr] = {t: self._term_divided(t, k) for t in _terms(x)}
        new = dict(terms)
        for node in topological([x], stop=terms):
            new[node] = with_children(node, tuple(new[a] for a in children(node)))
        return new[x]

    def _term_divided(self, x: Expr, k: float) -> Expr:
        match x:
            case _ if scaled(x)[1] == k:
                return scaled(x)[0]
            case _ if scaled(x)[1] == 1.0 and (found := self._smaller(x)) is not None:
                return product([found[0], times(found[1], 1.0 / k)])
            case _:
                return times(x, 1.0 / k)


def _terms(x: Expr) -> Iterator[Expr]:
    todo = [x]
    while todo:
        match todo.pop():
            case Map("add" | "sub", (a, b)):
                todo += (b, a)
            case term:
                yield term


def _is_ordinary(k: float) -> bool:
    return k not in (0.0, 1.0) and 1.0 / ORDINARY <= abs(k) <= ORDINARY


def _joined(op: str, a: Expr | None, b: Expr | None) -> Expr | None:
    if b is None:
        return a
    if a is None:
        return b if op == "add" else Map("neg", (b,))
    return Map(op, (a, b))


def _multiplied(x: Expr | None, k: Expr) -> Expr | None:
    return None if x is None else Map("mul", (x, k))
