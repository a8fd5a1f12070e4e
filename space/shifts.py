"""What becomes of values of a plan when a reference is another number: which of them do not depend on it.

A value moves with a reference c (to c + d, in powers of two) in one of two ways: it is multiplied by 2**(k d), as a sum
of weights 2**(score - c) is, with k = -1; or it grows by a d, as the reference itself does, with a = 1. Operators add,
scale or exchange the two: a logarithm of what is multiplied grows. A maximum of values that move differently moves by
an amount of its own. So whether a quotient of two sums, or a logarithm of one plus the reference, stays as it is, is
linear algebra on k and a.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TypeAlias

from .expr import Rank
from .folds import LOG2_E
from .plan import Value

NEGLIGIBLE = 1e-9
"""Coefficients that differ by less are the same number, rounded differently."""

Coefficients: TypeAlias = "tuple[tuple[int, float], ...]"


class Dependent(Exception):
    """A value depends on a reference in a way that is neither a factor nor an addend."""


@dataclass(frozen=True)
class Move:
    """How a value moves with references, each known by a number: exponents of its factor, and coefficients of what is
    added to it. At most one of the two is not empty."""

    factor: Coefficients = ()
    addend: Coefficients = ()

    @property
    def stays(self) -> bool:
        return not self.factor and not self.addend


STAYS = Move()


def factor(reference: int, exponent: float) -> Move:
    return Move(factor=_combined(((reference, exponent),)))


def addend(reference: int, coefficient: float) -> Move:
    return Move(addend=_combined(((reference, coefficient),)))


def _combined(terms: Iterable[tuple[int, float]]) -> Coefficients:
    """Like terms together, without those that cancel."""
    total: dict[int, float] = {}
    for reference, x in terms:
        total[reference] = total.get(reference, 0.0) + x
    return tuple(sorted((r, x) for r, x in total.items() if abs(x) > NEGLIGIBLE))


def _times(terms: Coefficients, x: float) -> Coefficients:
    return _combined((r, c * x) for r, c in terms)


def same(a: Move, b: Move) -> bool:
    """Whether two values move alike."""
    factors = _combined((*a.factor, *_times(b.factor, -1.0)))
    return not factors and not _combined((*a.addend, *_times(b.addend, -1.0)))


@dataclass
class Shifts:
    """The moves of a plan's values. along: the axes of the references, which differ from element to element."""

    along: tuple[Rank, ...]
    moves: dict[Value, Move] = field(default_factory=dict)
    fresh: int = 1

    def of(self, v: Value) -> Move:
        return self.moves.get(v, STAYS)

    def follow(self, values: Iterable[Value]) -> None:
        """Find how values move, each from its arguments. Raises Dependent."""
        for v in values:
            if v not in self.moves:
                self.moves[v] = self._move(v, [self.of(a) for a in v.args])

    def _move(self, v: Value, args: list[Move]) -> Move:
        if all(a.stays for a in args):
            return STAYS
        match v.op, args:
            case "cast" | "where", [a, *rest] if all(x.stays for x in rest) and (v.op == "cast" or _fits(v, a)):
                return a
            case "guard", [a] if not a.factor:
                return a
            case "scale", [a]:
                assert isinstance(v.attr, float)
                return Move(a.factor, _times(a.addend, v.attr))
            case "neg", [a]:
                return Move(a.factor, _times(a.addend, -1.0))
            case "mul", [a, b] if not a.addend and not b.addend:
                return Move(_combined((*a.factor, *b.factor)))
            case "div" | "quotient", [a, b] if not a.addend and not b.addend:
                return Move(_combined((*a.factor, *_times(b.factor, -1.0))))
            case "dot", [a, b, *rest] if not a.addend and not b.addend:
                made = Move(_combined((*a.factor, *b.factor)))
                if self._within(v) and all(same(made, x) for x in rest):
                    return made
            case "add" | "sub", [a, b] if not a.factor and not b.factor:
                return Move(addend=_combined((*a.addend, *_times(b.addend, 1.0 if v.op == "add" else -1.0))))
            case "add" | "sub" | "max", [a, b] if same(a, b):
                return a
            case "max", [a, b] if not a.factor and not b.factor:
                self.fresh += 1
                return addend(self.fresh, 1.0)
            case "exp2" | "exp", [a] if not a.factor:
                return Move(factor=_times(a.addend, 1.0 if v.op == "exp2" else LOG2_E))
            case "log2" | "log", [a] if not a.addend:
                return Move(addend=_times(a.factor, 1.0 if v.op == "log2" else 1 / LOG2_E))
            case "reduce", [a] if self._within(v) and (_op(v) == "max" or (_op(v) == "add" and not a.addend)):
                return a
        raise Dependent(f"{v.name} ({v.op})")

    def _within(self, v: Value) -> bool:
        """Whether what a sum or a product takes together moves alike."""
        assert isinstance(v.attr, tuple)
        axis = v.attr[1] if v.op == "reduce" else v.attr[0]
        return axis not in self.along


def _op(v: Value) -> str:
    assert isinstance(v.attr, tuple)
    return str(v.attr[0])


def _fits(v: Value, a: Move) -> bool:
    """Whether what a filter puts in place moves with the rest: 0 with a factor, an infinity with an addend."""
    assert isinstance(v.attr, tuple)
    fill = float(v.attr[1])
    return math.isinf(fill) or (fill == 0.0 and not a.addend)


def linear(v: Value) -> dict[Value, float]:
    """A value as a sum of others times numbers, read through additions and scalings."""
    match v.op:
        case "scale":
            assert isinstance(v.attr, float)
            return {base: c * v.attr for base, c in linear(v.args[0]).items()}
        case "add":
            total = linear(v.args[0])
            for base, c in linear(v.args[1]).items():
                total[base] = total.get(base, 0.0) + c
            return total
    return {v: 1.0}
