"""The laws: general algebra over named ranks, as a table of equations between patterns.

A pattern is an ordinary expression in which a tensor called `?a` stands for any subexpression and a rank
called `?r` for any rank. No law knows a workload; the laws of composite folds are made from `folds.ACTIONS`.
Each law is an equation of real arithmetic under its conditions (a test evaluates both sides on random data).
What an equation does to rounding and overflow is the business of `safety`, not of the laws.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from .expr import (
    Access,
    Const,
    Expr,
    Fold,
    Map,
    Predicate,
    Rank,
    Reduce,
    Size,
    Split,
    Tensor,
    Term,
    Where,
    topological,
)
from .folds import ACTIONS, LN_2, LOG2_E, SCALE, WEIGHTS, comoment_of, mean_of
from .one_hot import OneHot
from .pointwise import POINTWISE, REDUCTIONS


@dataclass(frozen=True)
class Absent:
    """None of `ranks` is free in any of `terms`."""

    ranks: tuple[Rank, ...]
    terms: tuple[Expr, ...]


@dataclass(frozen=True)
class Present:
    """`rank` is free in `term`."""

    rank: Rank
    term: Expr


@dataclass(frozen=True)
class Unreduced:
    """No reduction over `rank` is needed for `term`: what goes on along the rank need not wait for the term."""

    rank: Rank
    term: Expr


@dataclass(frozen=True)
class Wider:
    """`term` varies with a rank that none of `others` does."""

    term: Expr
    others: tuple[Expr, ...]


@dataclass(frozen=True)
class Differ:
    """Two ranks, or two subexpressions, are not the same."""

    a: Rank | Expr
    b: Rank | Expr


@dataclass(frozen=True)
class Positive:
    """The subexpression is proven to be greater than 0."""

    term: Expr


@dataclass(frozen=True)
class Negative:
    """The subexpression is proven to be less than 0."""

    term: Expr


@dataclass(frozen=True)
class Finite:
    """The subexpression is proven to be finite, overflow apart. An input that is added to a score is not: where it is
    -inf nothing of a row is left, whatever stands beside it."""

    term: Expr


@dataclass(frozen=True)
class Plain:
    """No factor of the subexpression is a sum or a difference, as far as is known when the law is tried.

    Of two differences that are multiplied only one may be written out: what is left of one has the error of its
    operands' last digits, what is left of two has lost as many digits again.
    """

    term: Expr


@dataclass(frozen=True)
class Exists:
    """Somewhere in the graph this pattern occurs (it only bounds where a law is tried)."""

    pattern: Expr


Condition: TypeAlias = Absent | Present | Unreduced | Wider | Differ | Positive | Negative | Finite | Plain | Exists


@dataclass(frozen=True)
class Law:
    """`left = right` under `conditions`, applied left to right, and back if `both_ways`.

    steps: apply it in the first so many steps only (a law that could feed itself for ever); None means always.
    arranges: it puts operands of one operator, or sums, into another order, of which there are exponentially many:
    it rests where the graph is large (`Limits.arranged`).
    """

    name: str
    left: Expr
    right: Expr
    conditions: tuple[Condition, ...] = ()
    both_ways: bool = False
    steps: int | None = None
    arranges: bool = False

    @property
    def is_ground(self) -> bool:
        """Whether it is about nodes of one definition, not a pattern."""
        return not any(is_variable(x) for x in topological([self.left]))


def variable(name: str) -> Expr:
    """A pattern variable for subexpressions."""
    return Access(Tensor("?" + name, ()), ())


def is_variable(x: Expr) -> bool:
    return isinstance(x, Access) and x.tensor.name.startswith("?")


A, B, C, D, U, V, X, Y = (variable(n) for n in "abcduvxy")
R, Q = "?r", "?q"
BACK = 2
"""Steps in which a division that the definition puts off goes back: what waits for a sum only adds a pass inside it."""
UNSPLIT = "unsplit"
"""The name of the laws that undo views (`unsplit`), which run before the others."""
LINEAR = tuple(a.name for a in ACTIONS.values() if a.linear)


def _exp(x: Expr) -> Expr:
    return Map("exp", (x,))


def _log(x: Expr) -> Expr:
    return Map("log", (x,))


def _sum(r: Rank, x: Expr) -> Expr:
    return Reduce("add", r, x)


def _max(r: Rank, x: Expr) -> Expr:
    return Reduce("max", r, x)


def _min(r: Rank, x: Expr) -> Expr:
    return Reduce("min", r, x)


def _plus(a: Expr, b: Expr) -> Expr:
    return a + b


def _minus(a: Expr, b: Expr) -> Expr:
    return a - b


GENERAL: tuple[Law, ...] = (
    Law("commute", A * B, B * A, arranges=True),
    Law("commute", A + B, B + A, arranges=True),
    Law("commute", Map("max", (A, B)), Map("max", (B, A)), arranges=True),
    Law("identity", A * 1.0, A),
    Law("identity", A / 1.0, A),
    Law("identity", A + 0.0, A),
    Law("identity", A - 0.0, A),
    Law("associate", (A * B) * C, A * (B * C), both_ways=True, arranges=True),
    Law("division", (A / D) * V, (A * V) / D),
    Law("division", (A * V) / D, (A / D) * V, (Wider(V, (A, D)),), arranges=True),
    Law("division", (A / C) / D, A / (C * D)),
    Law("division", _sum(R, Y / U), _sum(R, Y) / U, (Absent((R,), (U,)),)),
    Law("division", _sum(R, Y) / U, _sum(R, Y / U), (Absent((R,), (U,)),), steps=BACK),
    Law("distribute", _sum(R, Y * U), _sum(R, Y) * U, (Absent((R,), (U,)),), arranges=True),
    # back into a product only: there are more orders to multiply in, where else there is one more factor to sum
    Law(
        "distribute",
        _sum(R, A * B) * U,
        _sum(R, (A * B) * U),
        (Absent((R,), (U,)), Unreduced(R, U)),
        arranges=True,
    ),
    Law("linearity", _sum(R, A + B), _sum(R, A) + _sum(R, B)),
    Law("linearity", _sum(R, A - B), _sum(R, A) - _sum(R, B)),
    Law("linearity", _sum(R, U), U * Size(R), (Absent((R,), (U,)),)),
    Law("exchange", _sum(R, _sum(Q, X)), _sum(Q, _sum(R, X)), (Differ(R, Q),), arranges=True),
    Law(
        "binomial",
        _sum(R, (A - B) * (A - B)),
        (_sum(R, A * A) - 2.0 * (_sum(R, A) * B)) + B * B * Size(R),
        (Absent((R,), (B,)),),
    ),
    Law("linearity", _sum(R, -A), -_sum(R, A)),
    *(
        Law("linearity", _sum(R, left), combined(_sum(R, A * V), _sum(R, B * V)), (Plain(V),))
        for combined in (_plus, _minus)
        for left in (combined(A, B) * V, V * combined(A, B))
    ),
    Law("exponential", _exp(A - B) * _exp(B - C), _exp(A - C)),
    Law("exponential", _exp(A) / _exp(C), _exp(A - C)),
    *(
        Law("exponential", left, right, (Exists(_exp(left)),))
        for left, right in (((A - B) * U, A * U - B * U), (U * (A - B), A * U - B * U), ((A - B) / U, A / U - B / U))
    ),
    Law("exponential", _exp(A - (_log(B) + C)), _exp(A - C) / B, (Positive(B),)),
    Law("exponential", _exp((A - C) - _log(B)), _exp(A - C) / B, (Positive(B),)),
    Law("base", Map("exp2", (A,)), _exp(A * LN_2)),
    Law("base", Map("log2", (A,)), _log(A) * LOG2_E),
    Law("logarithm", _log(A * _exp(B)), _log(A) + B),
    Law("logarithm", _log(A / _exp(B)), _log(A) - B),
    Law("logarithm", _log(_exp(B) / A), B - _log(A), (Positive(A),)),
    Law("logarithm", _log(_exp(A)), A),
    Law("negation", -(A - B), B - A),
    Law("negation", -(A / B), -A / B),
    Law("negation", -(A * B), -A * B),
    Law("negation", _min(R, C) - A, -A - _max(R, -C)),
    Law("cancel", (A - B) + B, A),
    Law("cancel", (A - B) - (C - B), A - C),
    Law("cancel", (A + B) - (C + B), A - C, (Finite(B),)),
    Law("cancel", (A / _exp(C)) / (B / _exp(C)), A / B),
    Law("cancel", (A * _exp(C)) / (B * _exp(C)), A / B),
    Law("max-scale", _max(R, U * C), U * _max(R, C), (Absent((R,), (U,)), Positive(U))),
    Law("max-scale", _max(R, C / U), _max(R, C) / U, (Absent((R,), (U,)), Positive(U))),
    Law("max-scale", A - U * _max(R, C), A - _max(R, U * C), (Absent((R,), (U,)), Positive(U))),
    Law("max-scale", A - _max(R, C) / U, A - _max(R, C / U), (Absent((R,), (U,)), Positive(U))),
    Law("max-scale", U * _min(R, C), _max(R, U * C), (Absent((R,), (U,)), Negative(U))),
    Law("max-shift", _max(R, C - U), _max(R, C) - U, (Absent((R,), (U,)),)),
    Law("max-shift", _max(R, C + U), _max(R, C) + U, (Absent((R,), (U,)),)),
)

REFERENCE: tuple[Law, ...] = (
    *(
        # an exponential below a sum is taken relative to its maximum
        Law(
            "reference",
            _exp(C),
            _exp(C - _max(R, C)) * _exp(_max(R, C)),
            (Exists(_sum(R, context)), Present(R, C)),
            steps=1,
        )
        for context in (_exp(C), Y * _exp(C), _exp(C) * Y)
    ),
)
"""Wanted only where an exponential is not already relative to a maximum: they multiply the forms."""


def _gap(t: Expr) -> Expr:
    """1 - e^-t without a difference, which is as exact where t is small: 2 tanh(t/2) / (1 + tanh(t/2))."""
    half = Map("tanh", (t * 0.5,))
    return half * 2.0 / (1.0 + half)


def _differences() -> Iterator[Law]:
    """A difference of two exponentials relative to one reference, without its sign or where it is positive, is one
    exponential of the larger and a factor between 0 and 1; and a maximum that such a reference is goes over both."""
    larger, difference = Map("max", (A, B)), _exp(A - D) - _exp(B - D)
    scale = _exp(larger - D)
    yield Law("differences", Map("abs", (difference,)), scale * _gap(Map("abs", (A - B,))))
    yield Law("differences", Map("max", (difference, Const(0.0))), scale * _gap(Map("max", (A - B, Const(0.0)))))
    both = Map("max", (C, U))
    yield Law("differences", Map("max", (_max(R, C), U)), _max(R, both), (Absent((R,), (U,)), Exists(_exp(both - D))))


def _composite() -> Iterator[Law]:
    """A sum of items weighted relative to a reference over the whole rank is one fold over a pair monoid."""
    for name, row in WEIGHTS.items():
        action, weight = ACTIONS[name], row.weight_of(C, row.reference_of(R, C))
        present = (Present(R, C),)
        yield Law("composite-fold", _sum(R, weight), Fold(action.name, R, C, Const(1.0)), present)
        if action.linear:
            yield Law("composite-fold", _sum(R, Y * weight), Fold(action.name, R, C, Y), present)
        else:
            yield Law("composite-fold", Fold(action.name, R, C, Const(1.0)), _sum(R, weight), present, steps=1)
        yield Law("composite-fold", Fold(action.name, R, C, Y), _sum(R, Y * weight), present, steps=1)


def _moments() -> Iterator[Law]:
    """Squares less the square of a mean, which cancels, are a fold of squares around the mean, which does not."""
    n, total, squares = Size(R), _sum(R, C), _sum(R, C * C)
    mean, centred = total / n, Fold("translate", R, C, Const(1.0))
    for left, right in (
        (squares / n - mean * mean, centred / n),
        ((squares / n + D) - mean * mean, centred / n + D),
        (squares - (total * total) / n, centred),
        (squares - (mean * mean) * n, centred),
    ):
        yield Law("moments", left, right, (Present(R, C),))


def _comoments() -> Iterator[Law]:
    """A sum of products of distances from two means over the whole rank is one fold, weighed as the means are; weights
    that are relative to a maximum over the rank move with that too."""
    one = Const(1.0)
    mean_c, mean_d = (_sum(R, x) / Size(R) for x in (C, D))
    both = (Present(R, C), Present(R, D))
    yield Law(
        "comoments", _sum(R, (C - mean_c) * (D - mean_d)), Fold("comoment", R, C, one, (D,)), (*both, Differ(C, D))
    )
    weighed = comoment_of(R, (C, D), V)
    yield Law("comoments", weighed, Fold("comoment", R, C, V, (D,)), (Present(R, V),))
    relative = SCALE.weight_of(A, SCALE.reference_of(R, A))
    for weight, rest in ((relative, one), (Y * relative, Y)):
        whole = Fold("softcomoment", R, A, rest, (C, D))
        yield Law("comoments", Fold("comoment", R, C, weight, (D,)), whole, (Present(R, A),))


def _signed() -> Iterator[Law]:
    """Weights of both signs are two sets of weights of one: what the sums around their means lack for one around the
    mean of all is the distance between the two."""
    above, below = Map("max", (V, Const(0.0))), Map("max", (-V, Const(0.0)))
    total = Map("mul", (_sum(R, above), _sum(R, below))) / _sum(R, V)
    apart = [mean_of(R, x, above) - mean_of(R, x, below) for x in (C, D)]
    folds = [Fold("comoment", R, C, w, (D,)) for w in (above, below)]
    merged = (folds[0] - folds[1]) - total * (apart[0] * apart[1])
    yield Law("comoments", comoment_of(R, (C, D), V), merged, (Present(R, V),))


def _two_ranks(parts: Sequence[Rank]) -> Iterator[Law]:
    """What is relative to a reference over two ranks is, for each index of one, relative to that over the other.

    parts: ranks that split another, of which `_transport_tiles` and `_nested` say the same.
    """
    differ = (Differ(R, Q), *(Differ(x, part) for part in parts for x in (R, Q)))
    for name in LINEAR:
        weight, reference = WEIGHTS[name].weight_of, WEIGHTS[name].reference_of
        own, both = reference(Q, C), reference(R, reference(Q, C))
        present = Present(R, C), Present(Q, C)
        yield Law("two-ranks", weight(C, both), weight(C, own) * weight(own, both), (*differ, *present))
    n, q, one = Size(R) * Size(Q), Size(Q), Const(1.0)
    for x, fold in ((C, _spread), (D, _comoment)):
        within, apart = fold(Q, C, x, one), fold(R, _sum(Q, C) / q, _sum(Q, x) / q, one)
        for order in ((R, Q), (Q, R)):
            for count in (n, q * Size(R)):
                centred = (C - _over(order, C) / count) * (x - _over(order, x) / count)
                for left in (_over((R, Q), centred), _over((Q, R), centred)):
                    yield Law("two-ranks", left, _sum(R, within) + apart * q, (*differ, Differ(C, D)) if x is D else differ)
    weight = _sum(Q, V)
    within = _comoment(Q, C, D, V)
    apart = _comoment(R, mean_of(Q, C, V), mean_of(Q, D, V), weight)
    for order in ((R, Q), (Q, R)):
        total = _over(order, V)
        centred = (C - _over(order, V * C) / total) * (D - _over(order, V * D) / total)
        for left in (_over((R, Q), V * centred), _over((Q, R), V * centred)):
            yield Law("two-ranks", left, _sum(R, within) + apart, (*differ, Present(R, V), Present(Q, V)))


def _over(ranks: tuple[Rank, Rank], x: Expr) -> Expr:
    return _sum(ranks[0], _sum(ranks[1], x))


def _spread(rank: Rank, x: Expr, y: Expr, weight: Expr) -> Expr:
    return Fold("translate", rank, x, weight)


def _comoment(rank: Rank, x: Expr, y: Expr, weight: Expr) -> Expr:
    return Fold("comoment", rank, x, weight, (y,))


def _transport() -> Iterator[Law]:
    """What is relative to a reference that is more than its own goes through its own."""
    for name in LINEAR:
        weight, own = WEIGHTS[name].weight_of, WEIGHTS[name].reference_of(R, C)
        g = Map("max", (own, D))
        yield Law("transport", weight(C, g), weight(C, own) * weight(own, g), (Absent((R,), (D,)),))


def _linear_folds() -> Iterator[Law]:
    """A composite fold whose transport is linear is linear in what it accumulates."""
    for name in LINEAR:
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


@dataclass(frozen=True)
class SplitOf:
    """A rank and the two that split it: index(rank) = index(outer) * |inner| + index(inner)."""

    rank: Rank
    outer: Rank
    inner: Rank

    def view(self, x: Expr) -> Expr:
        return Split(x, self.rank, self.outer, self.inner)


def split_predicate(p: Predicate, s: SplitOf) -> Predicate | None:
    """The same filter on the split rank; None where the rank already has a stride (a split of a split)."""
    terms: list[Term] = []
    for t in p.terms:
        if t.rank != s.rank:
            terms.append(t)
        elif t.stride is not None:
            return None
        else:
            terms += [Term(s.outer, t.coef, s.inner), Term(s.inner, t.coef)]
    return Predicate(tuple(terms), p.sizes, p.const)


def _pattern_arguments(count: int) -> tuple[Expr, ...]:
    return (A, B, C)[:count]


def _split(s: SplitOf, filters: Iterable[tuple[Predicate, float]], actions: Iterable[str]) -> Iterator[Law]:
    """A reduction over a rank is one over tiles and within a tile; the view moves through all else."""
    parts = (s.outer, s.inner)
    for op in REDUCTIONS:
        whole, nested = Reduce(op, s.rank, X), Reduce(op, s.outer, Reduce(op, s.inner, s.view(X)))
        yield Law("split", whole, nested, (Present(s.rank, X), Absent(parts, (X,))))
        # the view passes a reduction over any other rank
        others = tuple(Differ(R, r) for r in (s.rank, *parts))
        yield Law("split", s.view(Reduce(op, R, X)), Reduce(op, R, s.view(X)), (*others, Absent(parts, (X,))))
    for p in POINTWISE.values():
        arguments = _pattern_arguments(p.arity)
        views = tuple(s.view(a) for a in arguments)
        yield Law("split", s.view(Map(p.name, arguments)), Map(p.name, views), (Absent(parts, arguments),))
    for predicate, fill in filters:
        divided = split_predicate(predicate, s)
        if divided is not None:
            moved = Where(divided, s.view(X), fill)
            yield Law("split", s.view(Where(predicate, X, fill)), moved, (Absent(parts, (X,)),))
    for name in actions:
        others = tuple(Differ(R, r) for r in (s.rank, *parts))
        scores = (C, A, B)[: ACTIONS[name].references]
        c, *more = map(s.view, scores)
        through = Fold(name, R, c, s.view(Y), tuple(more))
        whole = Fold(name, R, C, Y, scores[1:])
        yield Law("split", s.view(whole), through, (*others, Absent(parts, (*scores, Y))))
    yield Law("split", s.view(X), X, (Absent((s.rank,), (X,)),))


def _transport_tiles(s: SplitOf) -> Iterator[Law]:
    """What is relative to a reference over all tiles goes through the tile's own reference."""
    for name in LINEAR:
        weight = WEIGHTS[name].weight_of
        g = WEIGHTS[name].reference_of(s.outer, C)
        yield Law("transport", weight(A, g), weight(A, C) * weight(C, g), (Differ(A, C),))


def _nested(s: SplitOf) -> Iterator[Law]:
    """A fold is a reduction too: over a split rank it is one over tiles of folds within a tile."""
    for name in LINEAR:
        c, y = s.view(C), s.view(Y)
        nested = Fold(name, s.outer, WEIGHTS[name].reference_of(s.inner, c), Fold(name, s.inner, c, y))
        conditions = (Present(s.rank, C), Absent((s.outer, s.inner), (C, Y)))
        yield Law("split", Fold(name, s.rank, C, Y), nested, conditions)


NAMES = (
    *dict.fromkeys(law.name for law in GENERAL),
    UNSPLIT,
    *("reference", "composite-fold", "moments", "comoments", "differences", "two-ranks", "fold-linear", "split", "transport", "one-hot"),
)
"""The names that `without` may switch off."""


def laws(
    splits: Iterable[SplitOf] = (),
    filters: Iterable[tuple[Predicate, float]] = (),
    one_hots: Iterable[OneHot] = (),
    *,
    reference: bool = False,
    signed: bool = False,
    without: frozenset[str] = frozenset(),
) -> tuple[Law, ...]:
    """The table for one graph: its splits and its filters instantiate the laws of views, its one-hot selections
    theirs (no pattern says `x with T[p] for m`).

    reference: include the law that gives an exponential a reference. signed: include that of weights of both signs.
    Raises ValueError for an unknown name.
    """
    unknown = sorted(without - set(NAMES))
    if unknown:
        raise ValueError(f"`without` must name laws of {list(NAMES)}, but got {unknown}")
    table = [*GENERAL, *_composite(), *_moments(), *_comoments(), *_differences(), *(_signed() if signed else ()), *_transport(), *_linear_folds(), *(REFERENCE if reference else ())]
    known, splits = tuple(filters), tuple(splits)
    table += _two_ranks([part for s in splits for part in (s.outer, s.inner)])
    for s in splits:
        table += [*_split(s, known, ACTIONS), *_transport_tiles(s), *_nested(s)]
    table += [Law("one-hot", _sum(h.rank, h.body), h.selected) for h in one_hots]
    return tuple(law for law in table if law.name not in without)
