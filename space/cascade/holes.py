"""The numbers of an expression, apart from what it computes: one derivation, and one kernel, for all of them.

`opened` takes out every finite constant that is an operand, and the number that a filter on positions compares with;
`closed` puts each back as it was, or as what a kernel is given: an element of a tensor without axes, or a size.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from eintune.space.ir.expr import (
    Access,
    Const,
    Expr,
    Param,
    Predicate,
    Rank,
    Tensor,
    Where,
    children,
    rewrite,
    topological,
    with_children,
)

HOLE = "#"
"""What the names of holes begin with; nothing else is called so."""
LARGEST = 3e38
"""A greater number is no float32, so it stays where it is."""


@dataclass(frozen=True)
class Opened:
    """skeleton: the expression with holes. numbers: what was in them, in order; `whole`: those that filters compare
    with, of which a kernel takes no other than whole ones, above 0."""

    skeleton: Expr
    numbers: tuple[float | int, ...]
    whole: frozenset[int]


def opened(x: Expr) -> Opened:
    """The expression and its numbers, apart. Expressions that differ in these alone have one skeleton, unless two of
    the numbers are equal in one of them only."""
    numbers: list[float | int] = []
    whole: set[int] = set()

    def hole(number: float | int) -> str:
        numbers.append(number)
        return f"{HOLE}{len(numbers) - 1}"

    new: dict[Expr, Expr] = {}
    for node in topological([x]):
        operands = tuple(new[a] if (n := _number(a)) is None else Param(hole(n)) for a in children(node))
        made = with_children(node, operands)
        if isinstance(made, Where) and made.predicate.const:
            p = made.predicate
            whole.add(len(numbers))
            sizes = (*p.sizes, (hole(abs(p.const)), 1 if p.const > 0 else -1))
            made = Where(replace(p, sizes=sizes, const=0), made.arg, made.fill)
        new[node] = made
    alone = _number(x)
    root = new[x] if alone is None else Param(hole(alone))
    return Opened(root, tuple(numbers), frozenset(whole))


def _number(x: Expr) -> float | None:
    return x.value if isinstance(x, Const) and math.isfinite(x.value) and abs(x.value) < LARGEST else None


def closed(o: Opened, given: Collection[int], letter: str, rank: str) -> Expr:
    """The expression again. given: the holes that a kernel is given, by the names of `names` and `ranks`."""
    called, ranked = names(o, given, letter), ranks(o, given, rank)

    def filled(x: Expr) -> Expr | None:
        match x:
            case Param() if x.name.startswith(HOLE):
                n = int(x.name[1:])
                return Access(Tensor(called[n], ()), ()) if n in called else Const(o.numbers[n])
            case Where(predicate=Predicate(sizes=(*before, (str() as last, sign)))) if last.startswith(HOLE):
                n = int(last[1:])
                p = replace(x.predicate, sizes=tuple(before), const=sign * int(o.numbers[n]))
                if n in ranked:
                    p = replace(x.predicate, sizes=(*before, (ranked[n], sign)), const=0)
                return Where(p, x.arg, x.fill)
            case _:
                return None

    return rewrite([o.skeleton], filled)[0]


def names(o: Opened, given: Collection[int], letter: str) -> Mapping[int, str]:
    """hole -> the tensor without axes that holds its number."""
    return {n: f"UN{letter}{_letters(n)}" for n in sorted(given) if n not in o.whole}


def ranks(o: Opened, given: Collection[int], letter: str) -> Mapping[int, Rank]:
    """hole -> the rank whose size is its number."""
    return {n: f"{letter}{n + 1}" for n in sorted(given) if n in o.whole}


def _letters(n: int) -> str:
    """A, B, …, Z, BA, BB, …"""
    return (_letters(n // 26) if n >= 26 else "") + chr(65 + n % 26)
