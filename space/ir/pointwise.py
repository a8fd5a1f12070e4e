"""The tables of pointwise operators and reductions: what each means, in float64 and by name.

A new operator is one row here; the notation, the evaluator, the plan and the emitters read these tables.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]
_erf = np.vectorize(math.erf, otypes=[np.float64])


def as_numbers(a: Array) -> Array:
    """Booleans as 0 and 1: NumPy's own arithmetic on them is another."""
    return a.astype(np.float64) if np.asarray(a).dtype == np.bool_ else a


def _divide(a: Array, b: Array) -> Array:
    both = (np.asarray(a) == 0) & (np.asarray(b) == 0)
    return np.where(both, 0.0, np.divide(a, np.where(both, 1.0, b)))


def _subtract(a: Array, b: Array) -> Array:
    empty = np.isneginf(a) & np.isneginf(b)
    return np.where(empty, -np.inf, np.subtract(a, np.where(empty, 0.0, b)))


def _sigmoid(x: Array) -> Array:
    return np.where(x >= 0, 1 / (1 + np.exp(-np.abs(x))), np.exp(-np.abs(x)) / (1 + np.exp(-np.abs(x))))


def _select(condition: Array, then: Array, other: Array) -> Array:
    return np.where(condition != 0, then, other)


@dataclass(frozen=True)
class Pointwise:
    """A pointwise operator: its arity, its float64 meaning, its infix symbol if any, and if it yields a bool."""

    name: str
    arity: int
    numpy: Callable[..., Array]
    symbol: str | None = None
    boolean: bool = False

    def __call__(self, *args: Array) -> Array:
        """Its value: a boolean operand is 0 or 1, and what is not 0 holds as a condition."""
        return self.numpy(*map(as_numbers, args))


POINTWISE: dict[str, Pointwise] = {
    p.name: p
    for p in (
        Pointwise("add", 2, np.add, "+"),
        Pointwise("sub", 2, _subtract, "-"),
        Pointwise("mul", 2, np.multiply, "*"),
        Pointwise("div", 2, _divide, "/"),
        Pointwise("max", 2, np.maximum),
        Pointwise("min", 2, np.minimum),
        Pointwise("neg", 1, np.negative),
        Pointwise("abs", 1, np.abs),
        Pointwise("exp", 1, np.exp),
        Pointwise("log", 1, np.log),
        Pointwise("exp2", 1, np.exp2),
        Pointwise("log2", 1, np.log2),
        Pointwise("sqrt", 1, np.sqrt),
        Pointwise("recip", 1, np.reciprocal),
        Pointwise("sin", 1, np.sin),
        Pointwise("cos", 1, np.cos),
        Pointwise("tanh", 1, np.tanh),
        Pointwise("erf", 1, _erf),
        Pointwise("sigmoid", 1, _sigmoid),
        Pointwise("silu", 1, lambda x: x * _sigmoid(x)),
        Pointwise("floor", 1, np.floor),
        Pointwise("nonzero", 1, lambda x: np.where(np.asarray(x) == 0, np.inf, x)),  # a quotient by it is 0 at 0
        Pointwise("reference", 1, lambda x: x),  # what is exponentiated relative to it is known not to exceed it
        Pointwise("eq", 2, np.equal, "==", True),
        Pointwise("ne", 2, np.not_equal, "!=", True),
        Pointwise("lt", 2, np.less, "<", True),
        Pointwise("le", 2, np.less_equal, "<=", True),
        Pointwise("gt", 2, np.greater, ">", True),
        Pointwise("ge", 2, np.greater_equal, ">=", True),
        Pointwise("and", 2, np.logical_and, "&", True),
        Pointwise("or", 2, np.logical_or, "|", True),
        Pointwise("not", 1, np.logical_not, None, True),
        Pointwise("select", 3, _select),
    )
}


@dataclass(frozen=True)
class Reduction:
    """An associative, commutative reduction. identity: its value over no elements. copies: its value over `count >= 1`
    copies of an array's elements.
    """

    name: str
    identity: float
    numpy: Callable[..., Array]
    symbol: str
    copies: Callable[[Array, int], Array]

    def __call__(self, a: Array, axis: int) -> Array:
        """Over an axis, which is kept with length 1."""
        found: Array = self.numpy(a, axis=axis, keepdims=True, initial=self.identity)
        return found

    def repeated(self, a: Array, count: int) -> Array:
        """The reduction of `a` over a rank of `count` elements that `a` does not vary with."""
        return self.copies(a, count) if count else np.full_like(a, self.identity)


REDUCTIONS: dict[str, Reduction] = {
    r.name: r
    for r in (
        Reduction("add", 0.0, np.sum, "+", lambda a, count: a * float(count)),
        Reduction("max", -math.inf, np.max, "max", lambda a, count: a),
        Reduction("min", math.inf, np.min, "min", lambda a, count: a),
        Reduction("mul", 1.0, np.prod, "×", lambda a, count: a ** float(count)),
    )
}
