"""Products as their factors, and back."""

from __future__ import annotations

from collections.abc import Iterable

from .expr import Const, Expr, Map


def factors(x: Expr, *, ones: bool = False) -> list[Expr]:
    """The factors of a product, left to right. ones: the number 1 is a factor too; else it is the empty product."""
    found: list[Expr] = []
    todo = [x]
    while todo:
        match todo.pop():
            case Map("mul", (a, b)):
                todo += (b, a)
            case Const(1.0) if not ones:
                pass
            case factor:
                found.append(factor)
    return found


def product(parts: Iterable[Expr]) -> Expr:
    """The product of some factors, from the left; 1 for none."""
    result: Expr | None = None
    for part in parts:
        result = part if result is None else Map("mul", (result, part))
    return Const(1.0) if result is None else result
