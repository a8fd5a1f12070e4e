"""The laws: general algebra over named ranks, as a table of equations between patterns.

A pattern is an ordinary expression in which a tensor called `?a` stands for any subexpression and a rank
called `?r` for any rank. No law knows a workload; the laws of composite folds are made from `folds.ACTIONS`.
Each law is an equation of real arithmetic under its conditions (a test evaluates both sides on random data).
What an equation does to rounding and overflow is the business of `safety`, not of the laws.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
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
from .folds import ACTIONS
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
class Differ:
    """Two ranks, or two subexpressions, are not the same."""

    a: Rank | Expr
    b: Rank | Expr


@dataclass(frozen=True)
class Positive:
    """The subexpression is proven to be greater than 0."""

    term: Expr


@dataclass(frozen=True)
class Exists:
    """Somewhere in the graph this pattern occurs (it only bounds where a law is tried)."""

    pattern: Expr


Condition: TypeAlias = Absent | Present | Differ | Positive | Exists


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
LINEAR = tuple(a.name for a in ACTIONS.values() if a.linear)


def _exp(x: Expr) -> Expr:
    return Map("exp", (x,))


def _log(x: Expr) -> Expr:
    return Map("log", (x,))


def _sum(r: Rank, x: Expr) -> Expr:
    return Reduce("add", r, x)


def _max(r: Rank, x: Expr) -> Expr:
    return Reduce("max", r, x)


GENERAL: tuple[Law, ...] = (
    Law("commute", A * B, B * A, arranges=True),
    Law("commute", A + B, B + A, arranges=True),
    Law("commute", Map("max", (A, B)), Map("max", (B, A)), arranges=True),
    Law("identity", A * 1.0, A),
    Law("identity", A / 1.0, A),
    Law("identity", A + 0.0, A),
    Law("identity", A - 0.0, A),
    Law("associate", (A * B) * C, A * (B * C), both_ways=True, arranges=True),
    Law("division", (A / D) * V, (A * V) / D, both_ways=True),
    Law("division", (A / C) / D, A / (C * D)),
    Law("division", _sum(R, Y / U), _sum(R, Y) / U, (Absent((R,), (U,)),), both_ways=True),
    Law("distribute", _sum(R, Y * U), _sum(R, Y) * U, (Absent((R,), (U,)),), both_ways=True, arranges=True),
    Law("linearity", _sum(R, A + B), _sum(R, A) + _sum(R, B)),
    Law("linearity", _sum(R, A - B), _sum(R, A) - _sum(R, B)),
    Law("linearity", _sum(R, U), U * Size(R), (Absent((R,), (U,)),)),
    Law("exchange", _sum(R, _sum(Q, X)), _sum(Q, _sum(R, X)), (Differ(R, Q),), arranges=True),
    Law("exchange", _max(R, _max(Q, X)), _max(Q, _max(R, X)), (Differ(R, Q),), arranges=True),
    Law("binomial", (A - B) * (A - B), (A * A - 2.0 * (A * B)) + B * B),
    Law("exponential", _exp(A - B) * _exp(B - C), _exp(A - C)),
    Law("logarithm", _log(A * _exp(B)), _log(A) + B),
    Law("logarithm", _log(A / _exp(B)), _log(A) - B),
    Law("cancel", (A - B) + B, A),
    Law("cancel", (A / _exp(C)) / (B / _exp(C)), A / B),
    Law("cancel", (A * _exp(C)) / (B * _exp(C)), A / B),
    Law("max-scale", _max(R, U * C), U * _max(R, C), (Absent((R,), (U,)), Positive(U)), both_ways=True),
)

REFERENCE: tuple[Law, ...] = (
    Law("exponential", _exp(A - B), _exp(A) / _exp(B), steps=1),
    Law("exponential", _exp(A + B), _exp(A) * _exp(B), steps=1),
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


def _composite() -> Iterator[Law]:
    """A sum of items weighted relative to a reference over the whole rank is one fold over a pair monoid."""
    for action in ACTIONS.values():
        weight = action.weight_of(C, action.reference_of(R, C))
        present = (Present(R, C),)
        yield Law("composite-fold", _sum(R, weight), Fold(action.name, R, C, Const(1.0)), present)
        if action.linear:
            yield Law("composite-fold", _sum(R, Y * weight), Fold(action.name, R, C, Y), present)
            yield Law("composite-fold", Fold(action.name, R, C, Y), _sum(R, Y * weight), present, steps=1)
        else:
            yield Law("composite-fold", Fold(action.name, R, C, Const(1.0)), _sum(R, weight), present, steps=1)


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


def _transport() -> Iterator[Law]:
    """What is relative to a reference that is more than its own goes through its own."""
    for name in LINEAR:
        weight, own = ACTIONS[name].weight_of, ACTIONS[name].reference_of(R, C)
        g = Map("max", (own, D))
        yield Law("transport", weight(C, g), weight(C, own) * weight(own, g), (Absent((R,), (D,)),))


def _linear_folds() -> Iterator[Law]:
    """A composite fold whose transport is linear is linear in what it accumulates."""
    for name in LINEAR:
        once = Absent((R,), (U,))
        yield Law("fold-linear", Fold(name, R, C, Y * U), Fold(name, R, C, Y) * U, (once,))
        yield Law("fold-linear", Fold(name, R, C, Y / U), Fold(name, R, C, Y) / U, (once,), both_ways=True)
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
        through = Fold(name, R, s.view(C), s.view(Y))
        yield Law("split", s.view(Fold(name, R, C, Y)), through, (*others, Absent(parts, (C, Y))))
    yield Law("split", s.view(X), X, (Absent((s.rank,), (X,)),))


def _transport_tiles(s: SplitOf) -> Iterator[Law]:
    """What is relative to a reference over all tiles goes through the tile's own reference."""
    for name in LINEAR:
        weight = ACTIONS[name].weight_of
        g = ACTIONS[name].reference_of(s.outer, C)
        yield Law("transport", weight(A, g), weight(A, C) * weight(C, g), (Differ(A, C),))


def _nested(s: SplitOf) -> Iterator[Law]:
    """A fold is a reduction too: over a split rank it is one over tiles of folds within a tile."""
    for name in LINEAR:
        c, y = s.view(C), s.view(Y)
        nested = Fold(name, s.outer, ACTIONS[name].reference_of(s.inner, c), Fold(name, s.inner, c, y))
        conditions = (Present(s.rank, C), Absent((s.outer, s.inner), (C, Y)))
        yield Law("split", Fold(name, s.rank, C, Y), nested, conditions)


NAMES = (
    *dict.fromkeys(law.name for law in GENERAL),
    *("reference", "composite-fold", "moments", "fold-linear", "split", "transport", "one-hot"),
)
"""The names that `without` may switch off."""


def laws(
    splits: Iterable[SplitOf] = (),
    filters: Iterable[tuple[Predicate, float]] = (),
    one_hots: Iterable[OneHot] = (),
    *,
    reference: bool = False,
    without: frozenset[str] = frozenset(),
) -> tuple[Law, ...]:
    """The table for one graph: its splits and its filters instantiate the laws of views, its one-hot selections
    theirs (no pattern says `x with T[p] for m`).

    reference: include the law that gives an exponential a reference. Raises ValueError for an unknown name.
    """
    unknown = sorted(without - set(NAMES))
    if unknown:
        raise ValueError(f"`without` must name laws of {list(NAMES)}, but got {unknown}")
    table = [*GENERAL, *_composite(), *_moments(), *_transport(), *_linear_folds(), *(REFERENCE if reference else ())]
    known = tuple(filters)
    for s in splits:
        table += [*_split(s, known, ACTIONS), *_transport_tiles(s), *_nested(s)]
    table += [Law("one-hot", _sum(h.rank, h.body), h.selected) for h in one_hots]
    return tuple(law for law in table if law.name not in without)
