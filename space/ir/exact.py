"""What a jump depends on: below a floor, a comparison or a condition, one rounding more is an error of one whole.

`floor(p / 41)` is wrong at p = 41 where the quotient is `p * (1 / 41)`, and `S == max(S)` is false everywhere if both
sides multiply in different orders. So no rule that holds for real numbers only is applied to the operands of such an
operator: what stands there is computed as it is written, and its quotients are rounded correctly (`div_rn`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from .expr import (
    Access,
    Const,
    Expr,
    Gather,
    Iota,
    Map,
    Param,
    Size,
    Tensor,
    children,
    free,
    rewrite,
    topological,
    with_children,
)
from .pointwise import POINTWISE

QUOTIENT = "div_rn"
"""A quotient in a plan that is the number next to the real one; a plain "div" may be off by more."""

JUMPS = frozenset({"floor", "eq", "ne", "lt", "le", "gt", "ge"})
"""Operators whose value may change by more than their operands do."""

Step = Callable[[Expr], "Expr | None"]


def exact_operands(x: Expr) -> tuple[bool, ...]:
    """For each operand of a node whether it must be computed as it is written."""
    below = children(x)
    match x:
        case Map(op) if op in JUMPS:
            return (True,) * len(below)
        case Map("and" | "or" | "not"):
            return tuple(not _is_boolean(a) for a in below)
        case Map("select", (condition, _, _)):
            return not _is_boolean(condition), False, False
        case _:
            return (False,) * len(below)


def _is_boolean(x: Expr) -> bool:
    match x:
        case Map():
            return x.op in POINTWISE and POINTWISE[x.op].boolean
        case Access() | Gather():
            return x.tensor.kind == "bool"
        case _:
            return False


def exact_parts(roots: Iterable[Expr]) -> Iterator[Expr]:
    """The operands of a node that must be computed as they are written."""
    for x in topological(roots):
        for a, is_exact in zip(children(x), exact_operands(x), strict=True):
            if is_exact:
                yield a


def rewrite_around(roots: Iterable[Expr], step: Step, exact: Step | None = None) -> list[Expr]:
    """As `expr.rewrite`, but what must be computed as it is written is rewritten by `exact` only, if at all.

    A node that stands both there and elsewhere becomes two.
    """
    wanted = list(roots)
    inside = set(topological(exact_parts(wanted)))
    new: dict[Expr, Expr] = {}
    kept: dict[Expr, Expr] = {}
    for node in topological(wanted):
        below = zip(children(node), exact_operands(node), strict=True)
        rebuilt = with_children(node, tuple((kept if is_exact else new)[a] for a, is_exact in below))
        new[node] = step(rebuilt) or rebuilt
        if node in inside:
            rebuilt = with_children(node, tuple(kept[a] for a in children(node)))
            kept[node] = (exact(rebuilt) if exact else None) or rebuilt
    return [new[r] for r in wanted]


@dataclass(frozen=True)
class Hidden:
    """What laws may not look into, each as an input of its own: `hide` puts the inputs in, `show` the values back."""

    inputs: Mapping[Expr, Access]

    @classmethod
    def of(cls, roots: Sequence[Expr]) -> Hidden:
        parts = dict.fromkeys(x for x in exact_parts(roots) if not _is_atom(x))
        return cls({x: _stand_in(i, x) for i, x in enumerate(parts)})

    def hide(self, roots: Sequence[Expr]) -> list[Expr]:
        """The expressions over the inputs that stand for what is hidden."""
        if not self.inputs:
            return list(roots)
        new: dict[Expr, Expr] = {}
        for node in topological(roots):
            below = zip(children(node), exact_operands(node), strict=True)
            new[node] = with_children(
                node, tuple(self.inputs[a] if is_exact and a in self.inputs else new[a] for a, is_exact in below)
            )
        return [new[r] for r in roots]

    def show(self, roots: Sequence[Expr]) -> list[Expr]:
        """The expressions over what the inputs stand for."""
        if not self.inputs:
            return list(roots)
        hidden: dict[Expr, Expr] = {stand_in: x for x, stand_in in self.inputs.items()}
        return rewrite(roots, hidden.get)


def _is_atom(x: Expr) -> bool:
    return isinstance(x, (Access, Gather, Const, Param, Size, Iota))


def _stand_in(i: int, x: Expr) -> Access:
    ranks = tuple(sorted(free(x)))
    return Access(Tensor(f"={i}", ranks), ranks)


def is_stand_in(x: Expr) -> bool:
    """Whether a leaf stands for something hidden."""
    return isinstance(x, Access) and x.tensor.name.startswith("=")
