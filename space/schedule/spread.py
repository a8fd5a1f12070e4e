"""A few schedules of a space, spread evenly over all of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import groupby

from .choices import Point
from .schedule import Schedule
from .space import Space


def spread(space: Space, at_most: int, has: Callable[[Schedule], bool]) -> dict[Schedule, Point]:
    """At most so many schedules, each with a point that it is of, of those that a machine has: as many of each way to
    load and to divide warps, evenly spread within it. Of hundreds by pointer a few dozen specialised ones would hardly
    get a place."""
    every: dict[Schedule, Point] = {space.schedule(p): p for p in space.points()}
    return {s: every[s] for s in _chosen([s for s in every if has(s)], at_most)}


def _chosen(every: list[Schedule], at_most: int) -> Iterator[Schedule]:
    def way(s: Schedule) -> tuple[str, bool]:
        return s.loads, s.is_specialised

    groups = [list(group) for _, group in groupby(sorted(every, key=way), way)]
    for group in groups:
        most = max(1, at_most // len(groups))
        yield from group if len(group) <= most else (group[i * len(group) // most] for i in range(most))
