"""Adjoints of pointwise operators: a row says what a change of each operand is worth, given what one of the result is.

A row takes the operands, the result and the result's adjoint g, and gives each operand's share, None where that is 0
for all numbers (a comparison does not move). The corner cases follow the language's: a quotient that is 0 because both
its sides are is no function of them there, and neither is the logarithm of 0. Where two operands of a maximum are
equal each has half, as PyTorch has it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeAlias

from eintune.space.ir.expr import Const, Expr, Map, Param, Reduce, Size, as_expr
from eintune.space.ir.folds import LN_2
from eintune.space.ir.pointwise import POINTWISE

Shares: TypeAlias = "tuple[Expr | None, ...]"
Rule: TypeAlias = Callable[[Sequence[Expr], Expr, Expr], Shares]


def op(name: str, *args: Expr | float) -> Expr:
    """A pointwise operator, in the plainest spelling: without a product by 1 or a sum with 0, signs and common factors
    in front, and a quotient of exponentials as one exponential."""
    operands = tuple(map(as_expr, args))
    match name, operands:
        case ("mul", (Const(value=1.0), x)) | ("mul" | "div", (x, Const(value=1.0))):
            return x
        case ("add", (Const(value=0.0), x)) | ("add" | "sub", (x, Const(value=0.0))):
            return x
        case "neg", (Const() as x,):
            return Const(-x.value)
        case "neg", (Map("neg", (x,)),):
            return x
        case "mul", (Const() as a, Const() as b):
            return Const(a.value * b.value)
        case "mul", (x, Map("neg", (y,))) | (Map("neg", (x,)), y):
            return op("neg", op("mul", x, y))
        case "mul", (Map("exp", (x,)), Map("exp", (Map("neg", (Map("log", (d,)),)),))):
            return share(x, d)
        case "mul", (Map("mul", (x, Map("exp", (Map("neg", (Map("log"),)),)) as inverse)), Map("exp") as weight):
            return op("mul", x, op("mul", weight, inverse))
        case "add" | "sub", (x, y) if (together := _factored(name, x, y)) is not None:
            return together
        case ("add", (x, Map("neg", (y,)))) | ("add", (Map("neg", (y,)), x)):
            return op("sub", x, y)
        case _:
            return Map(name, operands)


def _factored(name: str, x: Expr, y: Expr) -> Expr | None:
    """a b + c b as (a + c) b, and with minus signs."""
    match x, y:
        case Map("neg", (a,)), Map("neg", (b,)) if name == "add":
            return op("neg", op("add", a, b))
        case _, Map("neg", (b,)) if name == "add":
            return _factored("sub", x, b)
        case Map("neg", (a,)), _ if name == "add":
            return _factored("sub", y, a)
        case Map("mul", ab), Map("mul", cd):
            for i, j in ((1, 1), (0, 0), (0, 1), (1, 0)):
                if ab[i] is cd[j]:
                    return op("mul", op(name, ab[1 - i], cd[1 - j]), ab[i])
    return None


def share(x: Expr, d: Expr) -> Expr:
    """e^x / d as e^(x - log d), for a sum d of exponentials. Where e^x is among those that d sums, no exponent is above
    0.

    What is less its maximum already stays less both, one after the other: beside a maximum of 1e10 the logarithm would
    be lost in their sum. What is less any other number is less the sum of both.
    """
    weight: Expr = Map("exp", (x,))
    reference: Expr = Map("log", (d,))
    match x:
        case Map("sub", (a, g)) if covers(g, a):
            x = Map("sub", (a, Map("reference", (g,))))
        case Map("sub", (a, g)):
            x, reference = a, Map("add", (reference, g))
    if weight in (summands(d) or ()):
        reference = Map("reference", (reference,))
    return Map("exp", (Map("sub", (x, reference)),))


def covers(g: Expr, x: Expr) -> bool:
    """Whether g is a maximum of numbers of which x is one."""
    match g:
        case Reduce("max", _, a):
            return covers(a, x)
        case Map("max", (a, b)):
            return covers(a, x) or covers(b, x)
        case _:
            return g is x


def summands(x: Expr) -> frozenset[Expr] | None:
    """The exponentials that a number is the sum of; None if it is no such sum."""
    match x:
        case Map("exp"):
            return frozenset({x})
        case Reduce("add"):
            return summands(x.arg)
        case Map("add", (a, b)):
            first, second = summands(a), summands(b)
            return None if first is None or second is None else first | second
        case _:
            return None


def where(condition: Expr, then: Expr | float, otherwise: Expr | float = 0.0) -> Expr:
    return op("select", condition, then, otherwise)


def over(g: Expr, divisor: Expr) -> Expr:
    """g / divisor, 0 where the divisor is 0."""
    if isinstance(divisor, (Const, Param, Size)):
        return op("div", g, divisor)
    return op("div", g, op("nonzero", divisor))


def _product(args: Sequence[Expr], y: Expr, g: Expr) -> Shares:
    a, b = args
    return op("mul", g, b), op("mul", g, a)


def _quotient(args: Sequence[Expr], y: Expr, g: Expr) -> Shares:
    _, b = args
    return over(g, b), op("neg", over(op("mul", g, y), b))


def _extreme(greater: str) -> Rule:
    def rule(args: Sequence[Expr], y: Expr, g: Expr) -> Shares:
        a, b = args
        shared = op("mul", g, 0.5)
        equal = op("eq", a, b)
        return (
            where(equal, shared, where(op(greater, a, b), g)),
            where(equal, shared, where(op(greater, b, a), g)),
        )

    return rule


def _sigmoid_slope(y: Expr) -> Expr:
    return op("mul", y, op("sub", 1.0, y))


def _silu(args: Sequence[Expr], y: Expr, g: Expr) -> Shares:
    (x,) = args
    s = op("sigmoid", x)
    return (op("mul", g, op("add", s, op("mul", x, _sigmoid_slope(s)))),)


def _log(args: Sequence[Expr], y: Expr, g: Expr) -> Shares:
    """g / x; e^-y in place of 1 / x where that makes a softmax of what x sums: e^u / x = e^(u - y)."""
    (x,) = args
    return (op("mul", g, op("exp", op("neg", y))) if summands(x) else over(g, x),)


def _unary(slope: Callable[[Expr, Expr], Expr]) -> Rule:
    """slope: the derivative, of the operand and the result."""
    return lambda args, y, g: (op("mul", g, slope(args[0], y)),)


def _still(args: Sequence[Expr], y: Expr, g: Expr) -> Shares:
    return (None,) * len(args)


_GAUSS = 2 / math.sqrt(math.pi)

RULES: dict[str, Rule] = {
    "add": lambda args, y, g: (g, g),
    "sub": lambda args, y, g: (g, op("neg", g)),
    "mul": _product,
    "div": _quotient,
    "max": _extreme("gt"),
    "min": _extreme("lt"),
    "neg": lambda args, y, g: (op("neg", g),),
    "abs": lambda args, y, g: (where(op("gt", args[0], 0.0), g, where(op("lt", args[0], 0.0), op("neg", g))),),
    "exp": _unary(lambda x, y: y),
    "log": _log,
    "exp2": _unary(lambda x, y: op("mul", y, LN_2)),
    "log2": lambda args, y, g: (over(g, op("mul", args[0], LN_2)),),
    "sqrt": lambda args, y, g: (op("div", g, op("mul", y, 2.0)),),
    "recip": _unary(lambda x, y: op("neg", op("mul", y, y))),
    "sin": _unary(lambda x, y: op("cos", x)),
    "cos": _unary(lambda x, y: op("neg", op("sin", x))),
    "tanh": _unary(lambda x, y: op("sub", 1.0, op("mul", y, y))),
    "erf": _unary(lambda x, y: op("mul", op("exp", op("neg", op("mul", x, x))), _GAUSS)),
    "sigmoid": _unary(lambda x, y: _sigmoid_slope(y)),
    "silu": _silu,
    "nonzero": lambda args, y, g: (g,),  # x wherever it is finite
    "reference": lambda args, y, g: (g,),
    "select": lambda args, y, g: (None, where(args[0], g), where(args[0], 0.0, g)),
    "floor": _still,
    **{name: _still for name, p in POINTWISE.items() if p.boolean},
}
"""By name of the operator; a test compares each with finite differences."""
