"""Which values of a plan do not depend on what number a fold's reference is.

A value moves with a reference c (to c + d, in powers of two) in one of two ways: it is multiplied by 2**(k d), as a sum
of weights 2**(score - c) is, with k = -1; or it grows by a d, as the reference itself does, with a = 1. Operators add,
scale or exchange the two: a logarithm of what is multiplied grows. A maximum of values that move differently moves by
an amount of its own. So whether a quotient of two sums, or a logarithm of one plus the reference, stays as it is, is
linear algebra on k and a.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from eintune.space.ir.expr import Rank
from eintune.space.ir.folds import LOG2_E

from .plan import Carry, LoopPlan, all_values
from .values import Cast, Dot, Elementwise, Mask, RowReference, RowScale, Scale, Store, TileReduce, Value

NEGLIGIBLE = 1e-9
"""Coefficients that differ by less are the same number, rounded differently."""

Coefficients: TypeAlias = "tuple[tuple[int, float], ...]"


class Dependent(Exception):
    """A value depends on a reference in a way that is neither a factor nor an addend."""


@dataclass(frozen=True)
class Move:
    """How a value moves if references move. factor: (reference, k) for a value that is multiplied by 2**(k d) when that
    reference grows by d. addend: (reference, a) for one that grows by a d. At most one of the two is not empty;
    references are numbered."""

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
        match v, args:
            # A factor changes only where a row's scores pass a limit, and then for all that stands relative to them.
            case Elementwise(operator="ne"), _ if v.args[0] is v.args[1]:
                return STAYS  # whether it is no number (`repair`)
            case RowScale(), _:
                return STAYS  # a number for each row, nearly always the same: whoever multiplies by it asks for it
            case Cast(), [a]:
                return a
            # A filter's fill must move with the rest, or filtered elements would stand still among others that move.
            case Mask(), [a, *rest] if all(x.stays for x in rest) and _fits(v, a):
                return a
            case Elementwise(operator="guard"), [a] if not a.factor:
                return a
            case Elementwise(operator="rounded"), [a]:
                return a
            # A tile's own maximum serves only where it is the reference, so it is the same number.
            case Elementwise(operator="tile_reference"), [a, *_] if not a.factor:
                return a
            case RowReference(), [a, b, _] if same(a, b):
                return a
            case Scale(), [a]:
                return Move(a.factor, _times(a.addend, v.factor))
            case Elementwise(operator="neg"), [a]:
                return Move(a.factor, _times(a.addend, -1.0))
            # A reference in the scores' terms becomes one in powers of two: where it grows by d, its product grows by
            # k d.
            case Elementwise(operator="mul", args=(_, RowScale(factors=factors))), [a, b] if not a.factor:
                return Move(addend=_times(a.addend, factors.factor))
            case Elementwise(operator="mul"), [a, b] if not a.addend and not b.addend:
                return Move(_combined((*a.factor, *b.factor)))
            case Elementwise(operator="div" | "quotient"), [a, b] if not a.addend and not b.addend:
                return Move(_combined((*a.factor, *_times(b.factor, -1.0))))
            case Dot(), [a, b, *rest] if not a.addend and not b.addend:
                # A sum over what differs from row to row of the reference would mix factors; any other sum keeps the
                # common one. What it is added to must have the same.
                made = Move(_combined((*a.factor, *b.factor)))
                if v.contracted not in self.along and all(same(made, x) for x in rest):
                    return made
            case Elementwise(operator="add" | "sub"), [a, b] if not a.factor and not b.factor:
                return Move(addend=_combined((*a.addend, *_times(b.addend, 1.0 if v.op == "add" else -1.0))))
            case Elementwise(operator="add" | "sub" | "max"), [a, b] if same(a, b):
                return a
            # max(a + d, b) is neither a + d nor b + d. It moves by some amount of its own, a new unknown; harmless as
            # long as that cancels again before anything is stored.
            case Elementwise(operator="max"), [a, b] if not a.factor and not b.factor:
                self.fresh += 1
                return addend(self.fresh, 1.0)
            # Here an addend becomes a factor, and at the logarithm below a factor an addend again: log(sum) +
            # reference does not move.
            case Elementwise(operator="exp2" | "exp"), [a] if not a.factor:
                return Move(factor=_times(a.addend, 1.0 if v.op == "exp2" else LOG2_E))
            case Elementwise(operator="log2" | "log"), [a] if not a.addend:
                return Move(addend=_times(a.factor, 1.0 if v.op == "log2" else 1 / LOG2_E))
            # Along an axis of the reference each element moves by its own amount; along any other all move alike.
            case TileReduce(reduction="max"), [a] if v.axis not in self.along:
                return a
            case TileReduce(reduction="add"), [a] if v.axis not in self.along and not a.addend:
                return a
        raise Dependent(f"{v.name} ({v.op})")


def _fits(v: Mask, a: Move) -> bool:
    """Whether what a filter puts in place moves with the rest: 0 with a factor, an infinity with an addend."""
    return math.isinf(v.fill) or (v.fill == 0.0 and not a.addend)


def linear(v: Value) -> dict[Value, float]:
    """A value as a sum of others times numbers, read through additions and scalings."""
    match v:
        case Scale():
            return {base: c * v.factor for base, c in linear(v.args[0]).items()}
        case Elementwise(operator="add", args=(a, b)):
            total = linear(a)
            for base, c in linear(b).items():
                total[base] = total.get(base, 0.0) + c
            return total
    return {v: 1.0}


def ratio(c: Carry, reference: Carry) -> float | None:
    """The positive number r for which c = r * reference in every iteration, as both take in the same values, one of
    them times r; None where there is none."""
    # Both are linear in what they take in, so they are a number times one maximum if their coefficients are in one
    # proportion. A negative one would make a minimum of it.
    if c.init != reference.init or c.next.op != "max":
        return None
    old, taken = (linear(next((a for a in x.next.args if a is not x.value), x.value)) for x in (reference, c))
    if old.keys() != taken.keys() or any(x.value not in x.next.args for x in (reference, c)):
        return None
    ratios = [taken[base] / old[base] if old[base] else 0.0 for base in old]
    return ratios[0] if ratios[0] > 0 and all(abs(r / ratios[0] - 1) < 1e-9 for r in ratios) else None


def references(reference: Carry, carries: Iterable[Carry], k: float) -> dict[Carry, float]:
    """The carries that are a number times the reference (`ratio`), each with how far it moves if k times the reference,
    which is in powers of two, moves by 1."""
    others = {c: r for c in carries if c is not reference and (r := ratio(c, reference)) is not None}
    return {c: r / k for c, r in ({reference: 1.0} | others).items()}


def is_invariant(plan: LoopPlan, moving: Mapping[Carry, float]) -> bool:
    """Whether nothing that a plan stores depends on what number a reference is; moving: see `stored_moves`."""
    moves = stored_moves(plan, moving)
    return moves is not None and all(move.stays for move in moves)


def stored_moves(plan: LoopPlan, moving: Mapping[Carry, float]) -> list[Move] | None:
    """The moves of all that a plan stores; None where some value depends on a reference in another way, or where a
    carry would not move in each iteration as it moved in the one before.

    moving: carries of one loop with how far they move (`references`). Other carries of that loop which depend on them
    are taken for sums of weights, with a factor of 2**-d; those of other loops must stay.
    """
    # Induction over iterations: assume how the carries move, follow the body once, and look whether each next value
    # moves as its carry was assumed to. Before the first iteration nothing has been added, so anything may be
    # assumed.
    first = next(iter(moving))
    shifts = Shifts(first.value.axes)
    for c, coefficient in moving.items():
        shifts.moves[c.value] = shifts.moves[c.next] = addend(0, coefficient)
    loop = next(x for x in plan.loops() if first in x.carries)
    own = {c.value for c in moving} | {c.next for c in moving}
    # What depends on the reference and is carried is a sum of weights: those shrink by 2^d where the reference grows
    # by d. Anything else shows when next values are compared.
    scaled = _dependents(all_values(loop.body), own)
    for c in loop.carries:
        if c.next in scaled and c not in moving:
            shifts.moves[c.value] = factor(0, -1.0)
    values = all_values(plan.root)
    try:
        shifts.follow(v for v in values if not isinstance(v, Store))
        kept = all(same(shifts.of(c.next), shifts.of(c.value)) for x in plan.loops() for c in x.carries)
    except Dependent:
        return None
    return [shifts.of(a) for v in values if isinstance(v, Store) for a in v.args] if kept else None


def _dependents(values: Iterable[Value], sources: Iterable[Value]) -> set[Value]:
    found = set(sources)
    for v in values:
        if not found.isdisjoint(v.args):
            found.add(v)
    return found
