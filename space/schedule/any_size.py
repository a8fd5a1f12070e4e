"""A schedule as it is for any size: without what a setting says of one size alone."""

from __future__ import annotations

from dataclasses import replace

from eintune.space.plan.roles import Role
from eintune.space.plan.sizes import MOST

from .schedule import Schedule
from .targets import TARGETS, Target


def for_any_size(schedule: Schedule) -> Schedule:
    """A schedule that was made for some sizes, for any others.

    Where all tiles were full no loop had a filter, and so nothing said where one is evaluated: it has a tail now. Where
    tiles are not padded one that holds all of a rank is of any length.
    """
    if schedule.is_specialised and schedule.filters == "every":
        schedule = replace(schedule, filters="branch")
    target = TARGETS.get(schedule.emitter)
    if target is None or target.padded:
        return schedule
    return replace(schedule, roles=tuple((r, _open(role, target)) for r, role in schedule.roles))


def _open(role: Role, target: Target) -> Role:
    if role.tile is None or (role.outer and role.tile in (*target.rows, *target.streams)):
        return role
    if role.outer is None:
        return replace(role, tile=MOST)
    # Programs or a loop of one tile, as long as the rank was: of the next length that others have.
    return replace(role, tile=next((n for n in target.rows if n >= role.tile), 1 << (role.tile - 1).bit_length()))
