"""The number that a row's scores and their reference are multiplied by, so that the largest weight is as it should be.

A weight is `2**(c*k - m*k)`, where m is the maximum of the scores c. A compiler makes one fused operation of
`c*k - M` with `M = m*k`: c*k is exact there and M is rounded, so that the largest weight is not 1 but `2**e` with
|e| at most half an ulp of M. That is one factor for a whole row and cancels; but where |M| passes 2^31 in fp32 it is
infinite or 0, and where M overflows (an additive mask of `finfo.min`) there is no weight at all.

So a row whose maximum is that large is multiplied by a power of two in place of k: its products are exact, and the
largest weight is 1. No other weight changes by anything that counts: scores of that size are so far apart that any
which is not the maximum weighs less than `2**-SPACING`, in the definition too.

Which number it is depends on the maximum alone, one comparison a row.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from .dtypes import DTYPES

SPACING = 64
"""A row is multiplied by a power of two once its scores, in powers of two, are this far apart: weights are then off by
`2**32` at most, which fp32 and bf16 hold with room."""

SPACING_FP16 = 16
"""As SPACING where weights are rounded to fp16, which holds `2**8` with room only."""


@dataclass(frozen=True)
class RowFactor:
    """The number by the magnitude of a row's maximum: `factor` below `limit`, then the power of two `beyond`, and from
    `far_limit` on the power of two `far`. far_limit is None where `beyond` serves every finite maximum."""

    factor: float
    limit: float
    beyond: float
    far_limit: float | None = None
    far: float = 0.5

    @classmethod
    def of(cls, factor: float, compute: str, *, fp16: bool = False) -> RowFactor:
        """The numbers for scores of dtype `compute` that are multiplied by a positive `factor`. fp16: whether weights
        are rounded to fp16, which overflows sooner."""
        spacing = SPACING_FP16 if fp16 else SPACING
        exponent = math.log2(factor)
        last = math.floor(math.log2(spacing) + DTYPES[compute].mantissa - exponent)
        limit = 2.0**last if last < DTYPES[compute].exponent else math.inf
        if exponent <= 0:
            return cls(factor, limit, 2.0 ** math.ceil(exponent))
        beyond = 2.0 ** math.floor(exponent)
        far = 2.0 ** (DTYPES[compute].exponent - 2) / beyond if beyond > 1 else None
        return cls(factor, limit, beyond, far)

    def __str__(self) -> str:
        steps = [f"{self.factor!r} below {self.limit:g}"]
        steps += [] if self.far_limit is None else [f"{self.beyond:g} below {self.far_limit:g}"]
        return f"row_factor[{', '.join(steps)}, else {self.beyond if self.far_limit is None else self.far:g}]"

    @property
    def grows(self) -> bool:
        """Whether the factor does not get smaller at `limit`, so that a larger maximum has a larger product. Else the
        difference of an old and a new reference may be positive there, and whoever takes it must bound it (by half of
        what it is with one factor: `tile_folds.ScaleFold`)."""
        return self.beyond >= self.factor

    def __call__(self, maximum: float) -> float:
        """The number for a row with this maximum."""
        if abs(maximum) < self.limit:
            return self.factor
        return self.beyond if self.far_limit is None or abs(maximum) < self.far_limit else self.far
