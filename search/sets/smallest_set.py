"""The fewest kernels of which one is nearly the best at each point: a set cover, by integer programming."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import TypeVar

import pulp

from eintune.space.derivation.solver import solve, solver

K = TypeVar("K", bound=Hashable)

SLACK = 0.03
"""A kernel serves a point where it takes at most this share more than the best that was measured there."""
SECONDS = 10.0
"""Of solving, after which the best that was found is taken."""


def smallest_set(times: Sequence[Mapping[K, float]], slack: float = SLACK) -> list[K]:
    """The fewest kernels such that at each point one takes at most 1 + slack times the best's seconds; of as few, those
    that are nearest to the best all in all. times: of each point, the seconds of each kernel that was measured there.

    Raises ValueError for a point at which nothing was measured.
    """
    if not all(times):
        raise ValueError("at each point at least one kernel must have been measured")
    best = [min(at.values()) for at in times]
    serving = [[k for k, s in at.items() if s <= (1 + slack) * b] for at, b in zip(times, best, strict=True)]
    kernels = list(dict.fromkeys(k for at in times for k in at))
    problem = pulp.LpProblem("portfolio", pulp.LpMinimize)
    chosen = [problem.add_variable(f"x{n}", cat="Binary") for n in range(len(kernels))]
    number = {k: n for n, k in enumerate(kernels)}
    # One more kernel is dearer than any nearness to the best: all of that together counts as half a kernel.
    far = [_distance(k, times, best) for k in kernels]
    scale = 0.5 / max(sum(far), 1e-9)
    problem += pulp.lpSum(x * (1.0 + scale * d) for x, d in zip(chosen, far, strict=True))
    for group in serving:
        problem += pulp.lpSum(chosen[number[k]] for k in group) >= 1
    solve(problem, solver(SECONDS))
    found = [k for k, x in zip(kernels, chosen, strict=True) if (x.value() or 0.0) > 0.5]
    # A solver that ran out of time leaves no values: then every point's best, which serves all.
    covers = all(any(k in found for k in group) for group in serving)
    return found if covers else list(dict.fromkeys(min(at, key=lambda k: at[k]) for at in times))


def _distance(kernel: K, times: Sequence[Mapping[K, float]], best: Sequence[float]) -> float:
    """The mean of the logarithm of a kernel's time over the best's, of the points where it was measured."""
    logs = [math.log(at[kernel] / b) for at, b in zip(times, best, strict=True) if kernel in at]
    return sum(logs) / len(logs) if logs else 1.0
