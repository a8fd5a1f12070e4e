"""Bytes moved at each level and operations by unit, for a plan.

`traffic` needs no machine: its HBM bytes are the least possible, each tensor once. `hbm_bytes` says what a cache
of a given size leaves of that when programs start in grid order.
"""

from __future__ import annotations

import functools
from math import prod
from typing import TypeAlias

from eintune.space.ir.expr import Rank
from eintune.space.plan.plan import LoopPlan
from eintune.space.schedule.schedule import Schedule

from .estimate import Traffic
from .work import TensorTraffic, Work, work

Grid: TypeAlias = tuple[tuple[Rank, int], ...]
"""As `Work.grid`."""


def traffic(plan: LoopPlan, schedule: Schedule) -> Traffic:
    """All of a kernel launch's work; HBM bytes count each tensor once."""
    return work(plan, schedule).traffic


def hbm_bytes(counted: Work, cache_bytes: int, running: int) -> float:
    """Bytes that reach HBM with a cache of `cache_bytes` while `running` programs run at a time.

    Programs start in grid order. The largest window of consecutive programs whose distinct tiles fit the cache
    loads each tile once; the windows load again. Where not even the running programs' tiles fit, they still share
    what they read at the same time, but each pass over a tensor is a load.
    """
    return _hbm_bytes(
        counted.programs, counted.grid, counted.streams, cache_bytes, max(1, min(running, counted.programs))
    )


@functools.lru_cache(maxsize=4096)
def _hbm_bytes(programs: int, grid: Grid, streams: tuple[TensorTraffic, ...], cache_bytes: int, smallest: int) -> float:
    """As `hbm_bytes`, by what it depends on alone, so that schedules of one plan share an answer. smallest: the
    programs that run at a time."""
    # All tiles together fit: each tensor is read once.
    if _window_bytes(grid, streams, programs) <= cache_bytes:
        return sum(s.total_bytes for s in streams)
    if _window_bytes(grid, streams, smallest) > cache_bytes:
        # Not even what runs at one time fits: programs side by side still read the same tile at about the same time,
        # but nothing is left of a pass for the next pass.
        again = sum(_touched(grid, s, smallest) * s.requested_bytes / s.distinct_bytes for s in streams)
        return again * programs / smallest
    low, high = smallest, programs
    # In between: the largest window that fits, by bisection, as bytes only grow with the window. To a sixteenth,
    # which is well within the model's error.
    while high - low > max(1, low // 16):
        middle = (low + high) // 2
        low, high = (middle, high) if _window_bytes(grid, streams, middle) <= cache_bytes else (low, middle)
    return _window_bytes(grid, streams, low) * programs / low


def _window_bytes(grid: Grid, streams: tuple[TensorTraffic, ...], window: int) -> float:
    return sum(_touched(grid, s, window) for s in streams)


def _touched(grid: Grid, stream: TensorTraffic, window: int) -> float:
    """Distinct bytes of one tensor that `window` consecutive programs touch."""
    before, indices = 1, []
    for rank, count in grid:
        if rank in stream.ranks:
            # Consecutive programs run through the faster ranks first; a slower one has moved on as often as those
            # were gone through.
            indices.append(min(count, -(-window // before)))
        before *= count
    return stream.distinct_bytes * min(prod(indices), window)
