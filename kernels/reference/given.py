"""What callers give by name: numbers for a cascade's scalars, lengths for its ranks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import NoneType

from eintune.space.workloads.modifiers import FARTHEST


def numbers_given(params: object) -> dict[str, float]:
    """Raises ValueError for anything but finite numbers by name."""
    if not isinstance(params, (Mapping, NoneType)):
        raise ValueError(f"`params` must be a mapping of names to numbers, but got {type(params).__name__}")
    found = {}
    for n, value in (params or {}).items():
        try:
            found[str(n)] = float(value)
        except (TypeError, ValueError, OverflowError, RuntimeError):
            found[str(n)] = math.nan
        if not math.isfinite(found[str(n)]):
            raise ValueError(f"`params` must be finite numbers, but {n} is {type(value).__name__}")
    return found


def lengths_given(sizes: object, least: int = 0) -> dict[str, int]:
    """Raises ValueError for anything but whole numbers from `least` on by name."""
    if not isinstance(sizes, (Mapping, NoneType)):
        raise ValueError(f"`sizes` must be a mapping of ranks to numbers, but got {type(sizes).__name__}")
    for r, n in (sizes or {}).items():
        if not isinstance(r, str) or type(n) is not int or not least <= n <= FARTHEST:
            raise ValueError(f"`sizes` must be whole numbers from {least} to {FARTHEST}, but that of {r!s} is not")
    return dict(sizes or {})
