"""A schedule for other sizes, other machines, and tensors of any kind."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import fields, replace

from eintune.host.recent import Recent
from eintune.space.cascade.cascade import Cascade
from eintune.space.cascade.problem import Problem
from eintune.space.schedule.schedule import Schedule


def plain_schedule(schedule: Schedule) -> Schedule:
    """The schedule for tensors and machines of any kind: without descriptors, and without what takes them."""
    # Without warp specialisation there is nothing to keep a reference for (`Rescaling`), and a pipeline needs its two
    # buffers.
    if schedule.is_specialised:  # whose tiles fit in two buffers at least
        schedule = replace(schedule, warp_specialisation="none", rescaling="eager", stages=2)
    return replace(schedule, loads="pointer", pipelined="none")


def nearest_schedule(
    wanted: Schedule, cascade: Cascade, problem: Problem, options: Sequence[Schedule] | None = None
) -> Schedule:
    """The legal schedule at this problem's sizes that is most like one of another size. options: all that are legal,
    where the caller has them.

    Raises ValueError where the cascade has no schedule at these sizes.
    """
    if options is None:
        options = _legal(cascade, problem, wanted.emitter)
    if wanted == plain_schedule(wanted):
        options = [s for s in options if s == plain_schedule(s)]
    if not options:
        raise ValueError(f"no schedule of the cascade is legal at the sizes {problem.sizes}")
    return min(options, key=lambda option: unlikeness(wanted, option))


def _legal(cascade: Cascade, problem: Problem, emitter: str) -> list[Schedule]:
    """All legal schedules; of the last few spaces they are kept, as several winners are adapted to one."""
    from eintune.space.schedule.space import schedules, space_of

    key = space_of(cascade, problem, emitter).key
    found = _listed.get(key)
    if found is None:
        found = _listed[key] = schedules(cascade, problem, emitter)
    return found


_listed: Recent[Hashable, list[Schedule]] = Recent(4)


def unlikeness(a: Schedule, b: Schedule) -> float:
    """Doublings between the tile sizes, warps and stages of two schedules; each other difference counts four."""
    # Sizes by ratio: from 64 to 128 is as far as from 32 to 64. Any other difference counts as four doublings.
    total = abs(math.log2(a.warps / b.warps)) + abs(math.log2(a.stages / b.stages))
    apart = {"emitter", "roles", "warps", "stages"}
    total += 4.0 * sum(bool(getattr(a, f.name) != getattr(b, f.name)) for f in fields(a) if f.name not in apart)
    roles = dict(a.roles)
    for rank, role in b.roles:
        other = roles.get(rank)
        if other is None or other.outer != role.outer or (other.tile is None) != (role.tile is None):
            total += 4.0
        elif role.outer is not None and role.tile and other.tile:
            total += abs(math.log2(role.tile / other.tile)) + abs(math.log2(role.num_splits / other.num_splits))
        if other is not None and other.pack != role.pack:
            total += 4.0
    return total
