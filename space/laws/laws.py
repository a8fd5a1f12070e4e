"""The laws: general algebra over named ranks, as a table of equations between patterns.

The patterns are those of `law`. No law knows a workload; those of composite folds are in `fold_laws`.
Each law is an equation of real arithmetic under its conditions (a test evaluates both sides on random data).
What an equation does to rounding and overflow is the business of `safety`, not of the laws.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from eintune.space.ir.expr import Expr, Fold, Map, Predicate, Reduce, Size, Where
from eintune.space.ir.folds import ACTIONS, LN_2, LOG2_E, WEIGHTS
from eintune.space.ir.pointwise import POINTWISE, REDUCTIONS
from eintune.space.ir.splits import SplitOf, split_predicate

from .fold_laws import comoments, composite, differences, linear_folds, moments, signed_moments, transport, two_ranks
from .law import (
    BACK,
    LINEAR,
    A,
    Absent,
    B,
    C,
    D,
    Differ,
    Exists,
    Finite,
    Law,
    Needs,
    Negative,
    Plain,
    Positive,
    Present,
    Q,
    R,
    U,
    Unreduced,
    V,
    Vanishes,
    Wider,
    X,
    Y,
)
from .law import exp_of as _exp
from .law import log_of as _log
from .law import max_of as _max
from .law import min_of as _min
from .law import sum_of as _sum
from .one_hot import OneHot


def _plus(a: Expr, b: Expr) -> Expr:
    return a + b


def _minus(a: Expr, b: Expr) -> Expr:
    return a - b


UNSPLIT = "unsplit"
"""The name of the laws that undo views (`undone_views`), which run before the others."""

GENERAL: tuple[Law, ...] = (
    Law("commute", A * B, B * A, arranges=True),
    Law("commute", A + B, B + A, arranges=True),
    Law("commute", Map("max", (A, B)), Map("max", (B, A)), arranges=True),
    Law("identity", A * 1.0, A),
    Law("identity", A / 1.0, A),
    Law("identity", A + 0.0, A),
    Law("identity", A - 0.0, A),
    Law("associate", (A * B) * C, A * (B * C), both_ways=True, arranges=True),
    # Divisions move outwards always (fewer of them, later), and inwards only where the other factor has ranks that
    # this one lacks: a form that divides first is another way of computing only then.
    Law("division", (A / D) * V, (A * V) / D),
    Law("division", (A * V) / D, (A / D) * V, (Wider(V, (A, D)),), arranges=True),
    Law("division", (A / D) * (A / D), (A * A) / (D * D), steps=1),
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
    # Sums of sums apart, never together again: what is one pass over a rank need not be one sum.
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
    # Products of exponentials as one exponential of a sum, whose exponent can be bounded; the other way round only
    # where a fold asks for it (`transport`).
    Law("exponential", _exp(A - B) * _exp(B - C), _exp(A - C)),
    Law("exponential", _exp(A) / _exp(C), _exp(A - C)),
    Law("exponential", _exp(A - B) * _exp(A - B), _exp(A * 2.0 - B * 2.0), steps=BACK),
    *(
        Law("exponential", left, right, (Exists(_exp(left)),))
        for left, right in (((A - B) * U, A * U - B * U), (U * (A - B), A * U - B * U), ((A - B) / U, A / U - B / U))
    ),
    Law("exponential", _exp(A - (_log(B) + C)), _exp(A - C) / B, (Positive(B),)),
    Law("exponential", _exp((A - C) - _log(B)), _exp(A - C) / B, (Positive(B),)),
    Law("base", Map("exp2", (A,)), _exp(A * LN_2)),
    Law("base", Map("log2", (A,)), _log(A) * LOG2_E),
    # A log-sum-exp of parts: what was scaled by a reference gets it added to its logarithm.
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
    # Where C is -inf the left side is 0 / 0 = 0.
    Law("cancel", (A * _exp(C)) / (B * _exp(C)), A / B, (Vanishes(A, C),)),
    # A maximum commutes with what is monotone: positive factors and addends, a negative one by way of a minimum.
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
        folded = Fold(name, R, C, Y, scores[1:])
        yield Law("split", s.view(folded), through, (*others, Absent(parts, (*scores, Y))))
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
    *(
        "reference",
        "composite-fold",
        "moments",
        "comoments",
        "differences",
        "two-ranks",
        "fold-linear",
        "split",
        "transport",
        "one-hot",
    ),
    UNSPLIT,
)
"""The names that `without` may switch off."""


def laws(
    splits: Iterable[SplitOf] = (),
    filters: Iterable[tuple[Predicate, float]] = (),
    one_hots: Iterable[OneHot] = (),
    needs: Needs | None = None,
    *,
    reference: bool = False,
    without: frozenset[str] = frozenset(),
) -> tuple[Law, ...]:
    """The table for one graph: its splits and its filters instantiate the laws of views, its one-hot selections
    theirs (no pattern says `x with T[p] for m`).

    reference: include the law that gives an exponential a reference. needs: which others to include; all by default.
    Raises ValueError for an unknown name.
    """
    unknown = sorted(without - set(NAMES))
    if unknown:
        raise ValueError(f"`without` must name laws of {list(NAMES)}, but got {unknown}")
    needs = needs or Needs()
    table = [*GENERAL, *composite(), *moments(), *transport(), *linear_folds(), *(REFERENCE if reference else ())]
    if needs.distances:
        table += [*comoments(), *(signed_moments() if needs.signed else ())]
    if needs.differences:
        table += differences()
    known, splits = tuple(filters), tuple(splits)
    table += two_ranks([part for s in splits for part in (s.outer, s.inner)], needs)
    actions = [a.name for a in ACTIONS.values() if a.references == 1 or needs.distances]
    for s in splits:
        table += [*_split(s, known, actions), *_transport_tiles(s), *_nested(s)]
    table += [Law("one-hot", _sum(h.rank, h.body), h.selected) for h in one_hots]
    return tuple(law for law in table if law.name not in without)
