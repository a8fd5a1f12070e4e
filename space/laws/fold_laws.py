"""The laws of composite folds, made from `folds.ACTIONS`: what is one, how two nest, what leaves them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

from eintune.space.ir.expr import Const, Expr, Fold, Map, Rank, Size
from eintune.space.ir.folds import ACTIONS, SCALE, WEIGHTS, comoment_of, mean_of

from .law import BACK, LINEAR, A, Absent, B, C, Condition, D, Differ, Exists, Law, Needs, Present, Q, R, U, V, Y
from .law import exp_of as _exp
from .law import max_of as _max
from .law import sum_of as _sum


def _gap(t: Expr) -> Expr:
    """1 - e^-t without a difference, which is as exact where t is small: 2 tanh(t/2) / (1 + tanh(t/2))."""
    # tanh is computed without a difference; 1 - exp(-t) itself would lose all digits for small t.
    half = Map("tanh", (t * 0.5,))
    return half * 2.0 / (1.0 + half)


def differences() -> Iterator[Law]:
    """A difference of two exponentials relative to one reference, without its sign or where it is positive, is one
    exponential of the larger and a factor between 0 and 1; and a maximum that such a reference is goes over both."""
    # e^(a-d) - e^(b-d) = e^(max - d) (1 - e^-|a-b|) up to its sign: no difference of two near exponentials is left,
    # and the exponent is bounded once d is at least both.
    larger, difference = Map("max", (A, B)), _exp(A - D) - _exp(B - D)
    scale = _exp(larger - D)
    yield Law("differences", Map("abs", (difference,)), scale * _gap(Map("abs", (A - B,))))
    yield Law("differences", Map("max", (difference, Const(0.0))), scale * _gap(Map("max", (A - B, Const(0.0)))))
    both = Map("max", (C, U))
    # The reference must cover what stands in the new exponent, or that would not be bounded above.
    yield Law("differences", Map("max", (_max(R, C), U)), _max(R, both), (Absent((R,), (U,)), Exists(_exp(both - D))))


def composite() -> Iterator[Law]:
    """A sum of items weighted relative to a reference over the whole rank is one fold over a pair monoid."""
    for name, row in WEIGHTS.items():
        action, weight = ACTIONS[name], row.weight_of(C, row.reference_of(R, C))
        present = (Present(R, C),)
        yield Law("composite-fold", _sum(R, weight), Fold(action.name, R, C, Const(1.0)), present)
        if action.linear:
            # Only a linear transport moves an accumulator of weighted arguments: a factor does, a shift of means does
            # not.
            yield Law("composite-fold", _sum(R, Y * weight), Fold(action.name, R, C, Y), present)
        else:
            yield Law("composite-fold", Fold(action.name, R, C, Const(1.0)), _sum(R, weight), present, steps=1)
        # Back too: a definition may be written with folds, and the laws of sums then apply to what those stand for. In
        # the first step only, or the two laws would answer each other for ever.
        yield Law("composite-fold", Fold(action.name, R, C, Y), _sum(R, Y * weight), present, steps=1)


def moments() -> Iterator[Law]:
    """Squares less the square of a mean, which cancels, are a fold of squares around the mean, which does not."""
    n, total, squares = Size(R), _sum(R, C), _sum(R, C * C)
    mean, centred = total / n, Fold("translate", R, C, Const(1.0))
    # Textbook variances in the ways in which they are written: E[x^2] - E[x]^2, with an epsilon between, or
    # unnormalised. As written they cancel where the mean is large beside the deviation (`safety` refuses them), so
    # this law is what makes such definitions computable in one pass.
    for left, right in (
        (squares / n - mean * mean, centred / n),
        ((squares / n + D) - mean * mean, centred / n + D),
        (squares - (total * total) / n, centred),
        (squares - (mean * mean) * n, centred),
    ):
        yield Law("moments", left, right, (Present(R, C),))


def comoments() -> Iterator[Law]:
    """A sum of products of distances from two means over the whole rank is one fold, weighed as the means are; weights
    that are relative to a maximum over the rank move with that too."""
    one = Const(1.0)
    mean_c, mean_d = (_sum(R, x) / Size(R) for x in (C, D))
    both = (Present(R, C), Present(R, D))
    # Of two different scores: of one score it is the variance of `moments`, and would be there twice.
    yield Law(
        "comoments", _sum(R, (C - mean_c) * (D - mean_d)), Fold("comoment", R, C, one, (D,)), (*both, Differ(C, D))
    )
    weighed = comoment_of(R, (C, D), V)
    yield Law("comoments", weighed, Fold("comoment", R, C, V, (D,)), (*both, Present(R, V)))
    # Weights of a softmax: moments under attention's distribution, in one pass over the rank.
    relative = SCALE.weight_of(A, SCALE.reference_of(R, A))
    for weight, rest in ((relative, one), (Y * relative, Y)):
        whole = Fold("softcomoment", R, A, rest, (C, D))
        yield Law("comoments", Fold("comoment", R, C, weight, (D,)), whole, (Present(R, A),))


def signed_moments() -> Iterator[Law]:
    """Weights of both signs are two sets of weights of one: what the sums around their means lack for one around the
    mean of all is the distance between the two."""
    above, below = Map("max", (V, Const(0.0))), Map("max", (-V, Const(0.0)))
    # Chan, Golub and LeVeque's merge of two parts, one of which counts negatively: S = S+ - S- - (W+ W- / W) (m+ -
    # m-)(n+ - n-).
    total = Map("mul", (_sum(R, above), _sum(R, below))) / _sum(R, V)
    apart = [mean_of(R, x, above) - mean_of(R, x, below) for x in (C, D)]
    folds = [Fold("comoment", R, C, w, (D,)) for w in (above, below)]
    merged = (folds[0] - folds[1]) - total * (apart[0] * apart[1])
    yield Law("comoments", comoment_of(R, (C, D), V), merged, tuple(Present(R, x) for x in (C, D, V)))


def two_ranks(parts: Sequence[Rank], needs: Needs) -> Iterator[Law]:
    """What is relative to a reference over two ranks is, for each index of one, relative to that over the other.

    parts: ranks that split another, of which `laws` of splits say the same.
    """
    differ = (Differ(R, Q), *(Differ(x, part) for part in parts for x in (R, Q)))
    for name in LINEAR:
        weight, reference = WEIGHTS[name].weight_of, WEIGHTS[name].reference_of
        # exp(c - max over all) = exp(c - max over q) * exp(max over q - max over all): what lets a fold over one rank
        # stand inside one over another.
        own, whole = reference(Q, C), reference(R, reference(Q, C))
        present = Present(R, C), Present(Q, C)
        yield Law("two-ranks", weight(C, whole), weight(C, own) * weight(own, whole), (*differ, *present))
    co = needs.nested and needs.distances
    yield from _moments_over_two(differ, co)
    if co:
        yield from _weighed_over_two(differ)


def _moments_over_two(differ: tuple[Condition, ...], co: bool) -> Iterator[Law]:
    n, q, one = Size(R) * Size(Q), Size(Q), Const(1.0)
    cases: tuple[tuple[Expr, _Spread, tuple[Condition, ...]], ...] = (
        (C, _spread, differ),
        (D, _comoment, (*differ, *_BOTH, Differ(C, D))),
    )
    # Sums and counts in each order in which they may be written: laws match terms as they stand, and those that
    # reorder rest where the graph is large (`Limits.arranged`).
    for x, fold, conditions in cases[: 1 + co]:
        within, apart = fold(Q, C, x, one), fold(R, _sum(Q, C) / q, _sum(Q, x) / q, one)
        for order in ((R, Q), (Q, R)):
            for count in (n, q * Size(R)):
                centred = (C - _over(order, C) / count) * (x - _over(order, x) / count)
                for left in (_over((R, Q), centred), _over((Q, R), centred)):
                    yield Law("two-ranks", left, _sum(R, within) + apart * q, conditions)


def _weighed_over_two(differ: tuple[Condition, ...]) -> Iterator[Law]:
    weight = _sum(Q, V)
    within = _comoment(Q, C, D, V)
    apart = _comoment(R, mean_of(Q, C, V), mean_of(Q, D, V), weight)
    for order in ((R, Q), (Q, R)):
        total = _over(order, V)
        centred = (C - _over(order, V * C) / total) * (D - _over(order, V * D) / total)
        for left in (_over((R, Q), V * centred), _over((Q, R), V * centred)):
            yield Law("two-ranks", left, _sum(R, within) + apart, (*differ, *_BOTH, Present(R, V), Present(Q, V)))


_BOTH = tuple(Present(r, x) for r in (R, Q) for x in (C, D))
_Spread: TypeAlias = Callable[[Rank, Expr, Expr, Expr], Expr]


def _over(ranks: tuple[Rank, Rank], x: Expr) -> Expr:
    return _sum(ranks[0], _sum(ranks[1], x))


def _spread(rank: Rank, x: Expr, y: Expr, weight: Expr) -> Expr:
    return Fold("translate", rank, x, weight)


def _comoment(rank: Rank, x: Expr, y: Expr, weight: Expr) -> Expr:
    return Fold("comoment", rank, x, weight, (y,))


def transport() -> Iterator[Law]:
    """What is relative to a reference that is more than its own goes through its own."""
    for name in LINEAR:
        weight, own = WEIGHTS[name].weight_of, WEIGHTS[name].reference_of(R, C)
        # A maximum over more than the rank, such as a softmax with a sink: own weights relative to the own maximum,
        # and one factor for the row.
        g = Map("max", (own, D))
        yield Law("transport", weight(C, g), weight(C, own) * weight(own, g), (Absent((R,), (D,)),))


def linear_folds() -> Iterator[Law]:
    """A composite fold whose transport is linear is linear in what it accumulates."""
    for name in LINEAR:
        # The factor must not vary with the rank that is folded. A division that was put off until after the fold goes
        # back in the first steps only (`BACK`).
        once = Absent((R,), (U,))
        yield Law("fold-linear", Fold(name, R, C, Y * U), Fold(name, R, C, Y) * U, (once,))
        yield Law("fold-linear", Fold(name, R, C, Y / U), Fold(name, R, C, Y) / U, (once,))
        yield Law("fold-linear", Fold(name, R, C, Y) / U, Fold(name, R, C, Y / U), (once,), steps=BACK)
        yield Law(
            "fold-linear",
            _sum(Q, Fold(name, R, C, Y)),
            Fold(name, R, C, _sum(Q, Y)),
            (Differ(R, Q), Absent((Q,), (C,))),
            both_ways=True,
        )
