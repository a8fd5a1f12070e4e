"""Schedules from files: every field is one that a space could hold, or one clear error."""

from __future__ import annotations

import re

from .approximations import FUNCTIONS
from .early_bounds import BOUNDS
from .expr import Rank
from .late_product import LATE
from .plan import Role
from .schedule import FILTERS, LOADS, Schedule
from .schedule_space import TARGETS
from .specialised import WORKERS
from .stale_reference import REFERENCES

LONGEST_TILE = 2**20
MOST_PARTS = 2**10
RANK = re.compile(r"[a-z][0-9]*")


def check_schedule(schedule: Schedule) -> None:
    """Raises ValueError, naming the field, the value and the rule, for a schedule that no space could hold."""
    _one_of("emitter", schedule.emitter, tuple(TARGETS))
    _one_of("warps", schedule.warps, (1, 2, 4, 8, 16))
    _one_of("stages", schedule.stages, tuple(range(1, 9)))
    _one_of("filters", schedule.filters, FILTERS)
    _one_of("order", schedule.order, ("forward", "reverse"))
    _one_of("precision", schedule.precision, ("ieee", "tf32"))
    _one_of("loads", schedule.loads, LOADS)
    _one_of("functions", schedule.functions, FUNCTIONS)
    _one_of("late", schedule.late, LATE)
    _one_of("bounds", schedule.bounds, BOUNDS)
    _one_of("workers", schedule.workers, WORKERS)
    _one_of("reference", schedule.reference, REFERENCES)
    names = [r for r, _ in schedule.roles]
    if len(set(names)) != len(names):
        raise ValueError(f"a schedule gives a rank one role, but got {names}")
    for rank, role in schedule.roles:
        if not isinstance(rank, str) or not RANK.fullmatch(rank):
            raise ValueError(f"a rank is a lower-case letter and digits, but got {rank!r}")
        _check_role(rank, role)


def _check_role(rank: Rank, role: Role) -> None:
    _one_of(f"outer of rank {rank}", role.outer, ("grid", "loop", None))
    whole = type(role.tile) is int and 1 <= role.tile <= LONGEST_TILE
    if not whole and role.tile is not None:
        raise ValueError(f"tile of rank {rank} must be None or 1 to {LONGEST_TILE}, but got {role.tile!r}")
    if type(role.parts) is not int or not 1 <= role.parts <= MOST_PARTS or (role.parts > 1 and role.outer != "loop"):
        raise ValueError(f"a loop has 1 to {MOST_PARTS} parts and no other rank has any, but {rank} is {role}")
    if role.pack is not None:
        if (role.outer, role.tile) != (None, None) or not isinstance(role.pack, str) or not RANK.fullmatch(role.pack):
            raise ValueError(f"a packed rank has a rank beside it and nothing of its own, but {rank} is {role}")
    elif role.outer is None and role.tile is None:
        raise ValueError(f"rank {rank} must have an outer iteration or a tile, but has neither")


def _one_of(name: str, value: object, options: tuple[object, ...]) -> None:
    if not any(type(value) is type(o) and value == o for o in options):
        raise ValueError(f"`{name}` must be one of {list(options)}, but got {value!r}")
