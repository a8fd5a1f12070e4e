"""What functions of scores and positions may call: functions of traced values."""

from __future__ import annotations

from typing import Any

from .proxies import apply


def exp(x: Any) -> Any:
    """e to the x."""
    return apply("exp", x)


def tanh(x: Any) -> Any:
    return apply("tanh", x)


def sigmoid(x: Any) -> Any:
    return apply("sigmoid", x)


def log(x: Any) -> Any:
    return apply("log", x)


def sqrt(x: Any) -> Any:
    return apply("sqrt", x)


def floor(x: Any) -> Any:
    return apply("floor", x)


def sin(x: Any) -> Any:
    return apply("sin", x)


def cos(x: Any) -> Any:
    return apply("cos", x)


def clamp(x: Any, min: Any = None, max: Any = None) -> Any:
    """`x`, at least `min` and at most `max`."""
    return apply("clamp", x, min, max)


def minimum(x: Any, y: Any) -> Any:
    return apply("minimum", x, y)


def maximum(x: Any, y: Any) -> Any:
    return apply("maximum", x, y)


def where(condition: Any, x: Any, y: Any) -> Any:
    """`x` where the condition holds, else `y`."""
    return apply("where", condition, x, y)
