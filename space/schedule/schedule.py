"""Schedules: how a cascade is laid out over programs, loops and tiles. Values only; legality is a table.

One from a file is checked: every field is one that a space could hold, or there is one clear error.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import Any

from eintune.space.ir.approximations import FUNCTIONS
from eintune.space.ir.expr import Rank
from eintune.space.plan.bounds_prepass import BOUNDS
from eintune.space.plan.lazy_rescaling import RESCALING
from eintune.space.plan.pipelined_product import PIPELINED
from eintune.space.plan.roles import Role
from eintune.space.plan.warp_specialisation import WARP_SPECIALISATION

from .targets import TARGETS

LOADS = ("pointer", "descriptor", "loops")
"""The settings of `Schedule.loads`."""
FILTERS = ("every", "segments", "branch")
"""The settings of `Schedule.filters`."""


class _Hashed:
    """What keeps its hash, and not among its fields."""

    __slots__ = ("_hash",)

    _hash: int


@dataclass(frozen=True)
class Schedule(_Hashed):
    """One point of the schedule space.

    emitter: a key of the emitters' registry ("torch", "triton").
    roles: one per rank of the cascade. warps, stages: Triton's options (ignored by the torch emitter).
    filters: where a loop's filters are evaluated, of which intervals say on what range they all hold: on "every"
    tile; in "segments", one loop for each range (doubles the loop's code); or in a "branch" that one loop takes
    outside that range (keeps one software pipeline).
    order: "forward" or "reverse" program order of the slowest tiled grid rank (reverse starts the longest
    programs of a causal grid first).
    precision: of products of fp32 operands on matrix units: "ieee", or "tf32" (only where the user allows it).
    loads: of tiles that a tensor descriptor can load: by "pointer", by "descriptor" (fewer registers and instructions
    where the hardware has them; the tensors must be aligned), or by descriptor in the "loops" only: what is loaded once
    then arrives with all else that is loaded by pointer, where a descriptor's block is waited for by itself.
    bounds: of loops that follow from data (documents): found by each "program", or by a "kernel" before, once for all
    programs that share them (`bounds_prepass`).
    pipelined: "none", or the last "product" of a loop, software-pipelined: it runs one iteration later, beside the next
    tile's elementwise work (`pipelined_product`).
    warp_specialisation: "none", or "producer_consumer": one group of warps loads tiles, `warps` others compute on them
    (`warp_specialisation`; NVIDIA GPUs of compute capability 9.0).
    rescaling: of the running sums of a fold in specialised warps: "eager", at each new maximum; or "lazy": the
    reference is kept from tile to tile for as long as it serves (`lazy_rescaling`).
    functions: "exact" to the compute dtype, or "approximate" where the hardware has an instruction whose error is below
    the rounding of the tensors that its argument comes from (`approximations`).
    """

    emitter: str
    roles: tuple[tuple[Rank, Role], ...]
    warps: int = 4
    stages: int = 2
    filters: str = "segments"
    order: str = "forward"
    precision: str = "ieee"
    loads: str = "pointer"
    functions: str = "exact"
    pipelined: str = "none"
    bounds: str = "program"
    warp_specialisation: str = "none"
    rescaling: str = "eager"

    def __hash__(self) -> int:
        """Found out once: schedules are keys of what is remembered, and have many parts."""
        try:
            return self._hash
        except AttributeError:
            found = hash(tuple([getattr(self, name) for name in self.__dataclass_fields__]))
            object.__setattr__(self, "_hash", found)
            return found

    def __getstate__(self) -> dict[str, Any]:
        """Without the hash, which is another in another process."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

    @property
    def is_specialised(self) -> bool:
        """Whether a group of a program's warps loads for the others."""
        return self.warp_specialisation != "none"

    def role(self, rank: Rank) -> Role:
        return dict(self.roles)[rank]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON data; `from_json` gives the same schedule back."""
        data = asdict(self)
        data["roles"] = {r: role.to_json() for r, role in self.roles}
        return data

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Schedule:
        """Fields may have their former names (`FORMER`). Raises ValueError for fields that a schedule does not have or
        values of another type."""
        try:
            data = _renamed(data)
            roles = tuple((str(r), Role(*role)) for r, role in data["roles"].items())
            schedule = cls(**{**data, "roles": roles})
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"not a schedule: {error}") from None
        check_schedule(schedule)
        return schedule


# ---- from files

FORMER: dict[str, tuple[str, dict[str, str]]] = {
    "late": ("pipelined", {"nothing": "none"}),
    "workers": ("warp_specialisation", {"alike": "none", "specialised": "producer_consumer"}),
    "reference": ("rescaling", {"running": "eager", "stale": "lazy"}),
}
"""What records of before November 2026 call fields and their settings."""


def _renamed(data: dict[str, Any]) -> dict[str, Any]:
    """The fields and settings by their present names; what is none of the former ones stays, for `check_schedule`."""
    found = dict(data)
    for name, (present, settings) in FORMER.items():
        if name in found:
            if present in found:
                raise ValueError(f"`{present}` has its former name `{name}` beside it")
            value = found.pop(name)
            found[present] = settings.get(value, value) if isinstance(value, str) else value
    return found


LONGEST_TILE = 2**20
MOST_SPLITS = 2**10
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
    _one_of("pipelined", schedule.pipelined, PIPELINED)
    _one_of("bounds", schedule.bounds, BOUNDS)
    _one_of("warp_specialisation", schedule.warp_specialisation, WARP_SPECIALISATION)
    _one_of("rescaling", schedule.rescaling, RESCALING)
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
    some = type(role.num_splits) is int and 1 <= role.num_splits <= MOST_SPLITS
    if not some or (role.num_splits > 1 and role.outer != "loop"):
        raise ValueError(f"a loop has 1 to {MOST_SPLITS} splits and no other rank has any, but {rank} is {role}")
    if role.pack is not None:
        if (role.outer, role.tile) != (None, None) or not isinstance(role.pack, str) or not RANK.fullmatch(role.pack):
            raise ValueError(f"a packed rank has a rank beside it and nothing of its own, but {rank} is {role}")
    elif role.outer is None and role.tile is None:
        raise ValueError(f"rank {rank} must have an outer iteration or a tile, but has neither")


def _one_of(name: str, value: object, options: tuple[object, ...]) -> None:
    if not any(type(value) is type(o) and value == o for o in options):
        raise ValueError(f"`{name}` must be one of {list(options)}, but got {value!r}")
