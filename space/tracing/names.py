"""The functions that a traced function may call, by PyTorch's names, and the operators that they are."""

from __future__ import annotations

UNARY = {
    name: name
    for name in ("exp", "exp2", "log", "log2", "sqrt", "tanh", "sigmoid", "silu", "erf", "abs", "floor", "sin", "cos")
} | {"absolute": "abs", "neg": "neg", "negative": "neg", "reciprocal": "recip"}
BINARY = {"minimum": "min", "maximum": "max", "add": "add", "sub": "sub", "mul": "mul", "div": "div"} | {
    "true_divide": "div",
    "multiply": "mul",
    "subtract": "sub",
}
COMPARISONS = {"lt": "lt", "le": "le", "gt": "gt", "ge": "ge", "eq": "eq", "ne": "ne"}
CLAMPS = {"clamp": ("min", "max"), "clip": ("min", "max"), "clamp_min": ("min",), "clamp_max": ("max",)}
"""By name, the bounds that follow what is bounded; any may be None."""
MOST_FACTORS = 16
"""The greatest power that is written as products."""
LOGIC = ("logical_and", "logical_or", "logical_not", "bitwise_and", "bitwise_or", "bitwise_not")
FILLED = {"new_zeros": 0, "new_ones": 1, "new_full": 0}
"""Methods that make a number or a condition like another, as combined masks begin with."""
