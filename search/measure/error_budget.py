"""Error budgets: derived from what the definition itself does in the same dtype, not picked.

A kernel may be off from float64 by at most twice what the naive cascade is off when PyTorch runs it operator by
operator in the kernel's dtype on the same inputs, plus one unit in the last place of the output. Both the root
mean square and the maximum are held to that.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

FACTOR = 2.0


@dataclass(frozen=True)
class Error:
    """A result against float64, in the output's own unit. `rms` and `max` are infinite where it holds a NaN."""

    rms: float
    max: float

    def __le__(self, budget: Error) -> bool:
        return self.rms <= budget.rms and self.max <= budget.max

    def times(self, factor: float) -> Error:
        """Both parts times a factor."""
        return Error(factor * self.rms, factor * self.max)


def error(value: Tensor, exact: Tensor) -> Error:
    """The root mean square and the maximum of |value - exact|; equal infinities differ by 0."""
    if exact.numel() == 0:
        return Error(0.0, 0.0)
    wide = value.to(torch.float64)
    # inf - inf would be NaN where both are right.
    difference = torch.where(wide == exact, 0.0, wide - exact).abs()
    difference = torch.nan_to_num(difference, nan=math.inf, posinf=math.inf)
    return Error(float(difference.square().mean().sqrt()), float(difference.max()))


def ulp(exact: Tensor, dtype: torch.dtype) -> Tensor:
    """One unit in the last place of `dtype` at each value: eps * 2**floor(log2 |x|), subnormals included."""
    info = torch.finfo(dtype)
    magnitude = exact.abs().clamp(info.tiny, info.max)
    # frexp gives a mantissa in [0.5, 1), hence half of eps.
    _, exponent = torch.frexp(magnitude)
    return torch.ldexp(torch.full_like(magnitude, info.eps / 2), exponent)


def budget(eager: Error, exact: Tensor, dtype: torch.dtype) -> Error:
    """The largest error that a kernel may make, given the naive cascade's own (`eager`) in `dtype`.

    Integer and boolean outputs have no budget: they must be exact.
    """
    if not dtype.is_floating_point or exact.numel() == 0:
        return Error(0.0, 0.0)
    unit = torch.where(torch.isfinite(exact), ulp(exact, dtype), 0.0)
    return Error(
        FACTOR * eager.rms + float(unit.square().mean().sqrt()),
        FACTOR * eager.max + float(unit.max()),
    )
