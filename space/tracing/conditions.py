"""What is seen, as a conjunction of clauses: filters on positions where they are affine, booleans where not.

A clause holds where one of its alternatives does. A clause of filters alone becomes a `Where`, whose tiles are
skipped or left unmasked by interval reasoning; one with a boolean becomes a `select`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TypeAlias

from eintune.space.ir.expr import NEG_INF, Const, Expr, Iota, Map, Predicate, Size, Term, Where, free

Alternative: TypeAlias = Predicate | Expr
Clause: TypeAlias = tuple[Alternative, ...]
MOST_CLAUSES = 64


@dataclass(frozen=True)
class Condition:
    """clauses: all must hold; none is always true, an empty one never."""

    clauses: tuple[Clause, ...] = ()

    def __and__(self, other: Condition) -> Condition:
        return _simplified((*self.clauses, *other.clauses))

    def __or__(self, other: Condition) -> Condition:
        return _simplified(tuple((*a, *b) for a in self.clauses for b in other.clauses))

    def __invert__(self) -> Condition:
        never = Condition(((),))
        negated = (Condition(tuple((_not(x),) for x in clause)) for clause in self.clauses)
        result = never
        for part in negated:
            result = result | part
        return result

    def keep(self, x: Expr, fill: float) -> Expr:
        """`x` where the condition holds, else `fill`."""
        for clause in self.clauses:
            match clause:
                case () if ranks := sorted(free(x)):  # a filter that nothing passes: its tiles are skipped as any's
                    x = Where(Predicate((Term(ranks[0], -1),), (), -1), x, fill)
                case ():
                    x = Const(fill)
                case _ if fill == NEG_INF and all(isinstance(a, Predicate) for a in clause):
                    # -inf where no alternative holds, so that tiles are skipped where none does
                    x = _joined("max", [Where(a, x, fill) for a in clause if isinstance(a, Predicate)])
                case (Predicate() as alone,):
                    x = Where(alone, x, fill)
                case _:
                    x = Map("select", (_boolean(clause), x, Const(fill)))
        return x

    def boolean(self) -> Expr:
        """The condition as a value."""
        parts = [_boolean(c) for c in self.clauses]
        return _joined("and", parts) if parts else Map("ge", (Const(0.0), Const(0.0)))


def holds(p: Predicate) -> Condition:
    return Condition(((p,),))


def boolean(x: Expr) -> Condition:
    return Condition(((x,),))


def _simplified(clauses: tuple[Clause, ...]) -> Condition:
    """Without repetitions. Raises ValueError where there are too many to be worth a kernel."""
    distinct = tuple(dict.fromkeys(tuple(dict.fromkeys(c)) for c in clauses))
    if len(distinct) > MOST_CLAUSES:
        raise ValueError(f"a condition has at most {MOST_CLAUSES} clauses, but this one has {len(distinct)}")
    return Condition(distinct)


def _not(x: Alternative) -> Alternative:
    if isinstance(x, Predicate):
        terms = tuple(sorted((replace(t, coef=-t.coef) for t in x.terms), key=lambda t: t.coef))
        return Predicate(terms, tuple((r, -c) for r, c in x.sizes), -x.const - 1)
    return Map("not", (x,))


def _boolean(clause: Clause) -> Expr:
    return _joined("or", [_value(a) if isinstance(a, Predicate) else a for a in clause])


def _value(p: Predicate) -> Expr:
    """The condition `sum >= 0` of an affine filter, as a boolean expression."""
    parts = [_times(_index(t), t.coef) for t in p.terms] + [_times(Size(r), c) for r, c in p.sizes]
    total = _joined("add", parts) if parts else Const(0.0)
    return Map("ge", (total, Const(float(-p.const))))


def _index(t: Term) -> Expr:
    return Iota(t.rank) * Size(t.stride) if t.stride else Iota(t.rank)


def _times(x: Expr, coef: int) -> Expr:
    return x if coef == 1 else x * float(coef)


def _joined(op: str, parts: Iterable[Expr]) -> Expr:
    first, *rest = parts
    for part in rest:
        first = Map(op, (first, part))
    return first


def ranks_of(condition: Condition) -> frozenset[str]:
    """The ranks that the condition varies with."""
    parts = [a for c in condition.clauses for a in c]
    return frozenset().union(*(a.ranks if isinstance(a, Predicate) else free(a) for a in parts))
