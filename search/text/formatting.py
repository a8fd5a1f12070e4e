"""A time, a count and a comparison in words."""

from __future__ import annotations

import math


def milliseconds(seconds: float | None) -> str:
    """ "0.2056 ms", or "-" where there is none."""
    if seconds is None or not math.isfinite(seconds):
        return "-"
    ms = seconds * 1e3
    return f"{ms:.0f} ms" if ms >= 1000 else f"{ms:.4g} ms"


def plural(count: int, noun: str, many: str = "") -> str:
    """ "1 candidate", "2 candidates", "3 passes"."""
    return f"{count:,} {noun if count == 1 else many or noun + 's'}"


def against(seconds: float, name: str, peer: float) -> str:
    """Who is faster, plainly."""
    ratio = peer / seconds
    if 0.98 < ratio < 1.02:
        return f"as fast as {name} (within 2%)"
    return f"{ratio:.2f}x as fast as {name}" if ratio > 1 else f"slower than {name}, which is {1 / ratio:.2f}x as fast"
