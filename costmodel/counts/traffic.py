"""Bytes moved at each level and operations by unit, for a plan.

`traffic` needs no machine: its HBM bytes are the least possible, each tensor once. `hbm_bytes` says what a cache
of a given size leaves of that when programs start in grid order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from eintune.space.ir.expr import Rank
from eintune.space.plan.plan import LoopPlan
from eintune.space.schedule.schedule import Schedule

from .estimate import Traffic
from .memory_accesses import TensorTraffic
from .work import Work, work


def traffic(plan: LoopPlan, schedule: Schedule) -> Traffic:
    """All of a kernel launch's work; HBM bytes count each tensor once."""
    return work(plan, schedule).traffic


def hbm_bytes(counted: Work, cache_bytes: int, running: int) -> float:
    """Bytes that reach HBM with a cache of `cache_bytes` while `running` programs run at a time.

    Programs start in grid order. The largest window of consecutive programs whose distinct tiles fit the cache
    loads each tile once; the windows load again. Where not even the running programs' tiles fit, they still share
    what they read at the same time, but each pass over a tensor is a load.
    """
    smallest = max(1, min(running, counted.programs))
    # Schedules of one plan share the answer.
    key = cache_bytes, smallest
    if key not in counted.hbm_bytes:
        counted.hbm_bytes[key] = _hbm_bytes(counted, cache_bytes, smallest)
    return counted.hbm_bytes[key]


def _hbm_bytes(counted: Work, cache_bytes: int, smallest: int) -> float:
    """As `hbm_bytes`. smallest: the programs that run at a time."""
    programs = counted.programs
    # All tiles together fit: each tensor is read once.
    once = sum(s.total_bytes for s in counted.streams)
    if once <= cache_bytes:
        return once
    windows = _windows(counted)
    if _window_bytes(windows, smallest) > cache_bytes:
        # Not even what runs at one time fits: programs side by side still read the same tile at about the same time,
        # but nothing is left of a pass for the next pass.
        again = sum(w.requested * _tiles(w, smallest) for w in windows)
        return again * programs / smallest
    low, high = smallest, programs
    # In between: the largest window that fits, by bisection, as bytes only grow with the window. To a sixteenth,
    # which is well within the model's error.
    while high - low > max(1, low // 16):
        middle = (low + high) // 2
        low, high = (middle, high) if _window_bytes(windows, middle) <= cache_bytes else (low, middle)
    return _window_bytes(windows, low) * programs / low


class _Window(NamedTuple):
    """Tensors whose tiles depend on the same grid ranks: distinct and requested bytes of a program, and for each of the
    ranks the programs that go by before it moves on, and its tiles."""

    distinct: float
    requested: float
    ranks: Sequence[tuple[int, int]]


def _windows(counted: Work) -> list[_Window]:
    found: dict[frozenset[Rank], list[TensorTraffic]] = {}
    for stream in counted.streams:
        found.setdefault(stream.ranks, []).append(stream)
    steps, before = [], 1
    for rank, count in counted.grid:
        # Consecutive programs run through the faster ranks first; a slower one has moved on as often as those were
        # gone through.
        steps.append((rank, (before, count)))
        before *= count
    return [
        _Window(
            sum([s.distinct_bytes for s in streams]),
            sum([s.requested_bytes for s in streams]),
            [step for rank, step in steps if rank in ranks],
        )
        for ranks, streams in found.items()
    ]


def _tiles(group: _Window, window: int) -> int:
    """How many different tiles of a tensor `window` consecutive programs touch."""
    indices = 1
    for before, count in group.ranks:
        if window > before:
            indices *= min(count, -(-window // before))
    return min(indices, window)


def _window_bytes(windows: Sequence[_Window], window: int) -> float:
    """Distinct bytes that `window` consecutive programs touch."""
    return sum([w.distinct * _tiles(w, window) for w in windows])
