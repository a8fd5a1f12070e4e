"""Bytes moved at each level and operations by unit, for a plan.

`traffic` needs no machine: its HBM bytes are the least possible, each tensor once. `hbm_bytes` says what a cache
of a given size leaves of that when programs start in grid order.
"""

from __future__ import annotations

from collections.abc import Sequence

from eintune.space.ir.expr import Rank
from eintune.space.plan.plan import LoopPlan
from eintune.space.schedule.schedule import Schedule

from .estimate import Traffic
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
    once = sum([s.total_bytes for s in counted.streams])
    if once <= cache_bytes:
        return once
    groups = _groups(counted)
    if _window_bytes(groups, smallest) > cache_bytes:
        # Not even what runs at one time fits: programs side by side still read the same tile at about the same time,
        # but nothing is left of a pass for the next pass.
        requested = [(asked, asked, ranks) for _, asked, ranks in groups]
        return _window_bytes(requested, smallest) * programs / smallest
    low, high = smallest, programs
    # In between: the largest window that fits, by bisection, as bytes only grow with the window. To a sixteenth,
    # which is well within the model's error.
    while high - low > max(1, low // 16):
        middle = (low + high) // 2
        if _window_bytes(groups, middle) <= cache_bytes:
            low = middle
        else:
            high = middle
    return _window_bytes(groups, low) * programs / low


_Group = tuple[float, float, list[tuple[int, int]]]
"""Tensors whose tiles depend on the same grid ranks: distinct and requested bytes of a program, and for each of the
ranks the programs that go by before it moves on, and its tiles."""


def _groups(counted: Work) -> list[_Group]:
    found: dict[frozenset[Rank], tuple[float, float]] = {}
    for s in counted.streams:
        distinct, requested = found.get(s.ranks, (0.0, 0.0))
        found[s.ranks] = distinct + s.distinct_bytes, requested + s.requested_bytes
    steps, before = [], 1
    for rank, count in counted.grid:
        # Consecutive programs run through the faster ranks first; a slower one has moved on as often as those were
        # gone through.
        steps.append((rank, (before, count)))
        before *= count
    return [(*nbytes, [step for rank, step in steps if rank in ranks]) for ranks, nbytes in found.items()]


def _window_bytes(groups: Sequence[_Group], window: int) -> float:
    """Distinct bytes that `window` consecutive programs touch."""
    total = 0.0
    for distinct, _, ranks in groups:
        tiles = 1
        for before, count in ranks:
            moves = -(-window // before)
            tiles *= moves if moves < count else count
        total += distinct * (tiles if tiles < window else window)
    return total
