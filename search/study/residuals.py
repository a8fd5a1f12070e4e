"""What the model gets wrong, learnt from the points that were measured.

Candidates that share most knobs share what a model leaves out of account (a compiler's choice, a bank conflict), so
the ratio of a measured to a predicted time carries over to a point's neighbours. The correction is a Nadaraya-Watson
average of the logarithms of these ratios, weighted by how many knobs differ and held towards 1: with no sample
nearby a prediction stays what it was.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from .samplers import Knobs, Point

REACH = 1.0
"""Knobs that may differ until a sample weighs 1/e of what it weighs at its own place."""
PRIOR = 0.5
"""What the model itself weighs, in samples at the very place."""

P = TypeVar("P", bound=Point)


def corrected(predict: Callable[[P], float], samples: Sequence[tuple[P, float]]) -> Callable[[P], float]:
    """`predict`, in seconds, moved by what was measured (seconds too) of each point's neighbours."""
    errors = [(point.knobs, math.log(seconds / predict(point))) for point, seconds in samples if predict(point) > 0]

    def moved(point: P) -> float:
        # The prior is a sample of error 0 at the point itself: without neighbours the prediction stands.
        total, weight = 0.0, PRIOR
        for knobs, error in errors:
            near = math.exp(-difference(knobs, point.knobs) / REACH)
            total += near * error
            weight += near
        return predict(point) * math.exp(total / weight)

    return moved if errors else predict


def difference(a: Knobs, b: Mapping[str, str]) -> int:
    """The number of knobs in which two points differ."""
    return sum(a.get(name) != b.get(name) for name in {*a, *b})
