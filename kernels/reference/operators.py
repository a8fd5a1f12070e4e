"""What each operator and reduction means in PyTorch; a number stays a Python number, as in `x * 0.5`."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def _subtract(a: Any, b: Any) -> Any:
    # (-inf) - (-inf) = -inf: nothing relative to the maximum of nothing
    if bool(torch.isneginf(torch.as_tensor(b)).any()):
        return torch.where(_equal(b, -math.inf) & _equal(a, -math.inf), -math.inf, a - b)
    return a - b


def _divide(a: Any, b: Any) -> Any:
    if isinstance(a, Tensor) and not isinstance(b, Tensor):
        # on a GPU PyTorch multiplies by the reciprocal of a number, which below a floor is an error of one whole
        b = torch.full((), b, dtype=a.dtype if a.is_floating_point() else None, device=a.device)
    if isinstance(b, Tensor) and bool((b == 0).any()):
        return torch.where((b == 0) & _equal(a, b), 0.0, a / b)
    return a / b


SUMS = frozenset({"add", "sub", "eq", "ne", "lt", "le", "gt", "ge"})
"""Operators that stay exact between whole numbers, as they do not where PyTorch makes a float of one."""
EXACT = SUMS | {"mul", "max", "min", "pow", "neg", "abs", "floor", "nonzero", "reference", "select"}
"""Operators that PyTorch has of whole numbers too. Of the others it has some, in its default dtype, which is the user's
to set."""
WHOLE = 2.0**53
"""What a whole number is below that is written as a float."""


def _equal(a: Any, b: Any) -> Any:
    return torch.as_tensor(a == b)


def _tensor_form(f: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """For functions that take no Python numbers beside tensors."""

    def call(*args: Any) -> Tensor:
        like = next(a for a in args if isinstance(a, Tensor))
        return f(*(a if isinstance(a, Tensor) else torch.full_like(like, a, dtype=_common(like, a)) for a in args))

    return call


def _common(like: Tensor, number: float) -> torch.dtype:
    return torch.result_type(like, number)


TORCH: dict[str, Callable[..., Any]] = {
    "add": operator.add,
    "sub": _subtract,
    "mul": operator.mul,
    "div": _divide,
    "max": _tensor_form(torch.maximum),
    "min": _tensor_form(torch.minimum),
    "pow": operator.pow,
    "neg": operator.neg,
    "reference": lambda x: x,
    "abs": torch.abs,
    "exp": torch.exp,
    "log": torch.log,
    "exp2": torch.exp2,
    "log2": torch.log2,
    "sqrt": torch.sqrt,
    "recip": torch.reciprocal,
    "sin": torch.sin,
    "cos": torch.cos,
    "tanh": torch.tanh,
    "erf": torch.erf,
    "sigmoid": torch.sigmoid,
    "silu": torch.nn.functional.silu,
    "floor": torch.floor,
    "nonzero": lambda x: torch.where(x == 0, torch.inf, x),
    "eq": operator.eq,
    "ne": operator.ne,
    "lt": operator.lt,
    "le": operator.le,
    "gt": operator.gt,
    "ge": operator.ge,
    "and": operator.and_,
    "or": operator.or_,
    "not": torch.logical_not,
    "select": torch.where,
}
REDUCE: dict[str, Callable[[Tensor, int], Tensor]] = {
    "add": lambda t, axis: t.sum(axis),
    "max": lambda t, axis: t.amax(axis),
    "min": lambda t, axis: t.amin(axis),
    "mul": lambda t, axis: t.prod(axis),
}
