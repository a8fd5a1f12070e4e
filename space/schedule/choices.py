"""The coordinates of a space of schedules, and the facts about a cascade that decide which of them it has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from eintune.space.analysis.rank_uses import RankUses
from eintune.space.ir.expr import Rank
from eintune.space.plan.descriptor_blocks import Read
from eintune.space.plan.roles import Role

from .targets import Target

Setting: TypeAlias = int | bool | str
"""A value of a knob."""

Point: TypeAlias = Mapping[str, Setting]
"""A setting of every coordinate, by name."""

WHOLE = 0
"""The tile size that says: all of the rank at once."""

ELEMENT = 1
"""The tile size of a streamed rank that says: one element after the other, without an axis."""


@dataclass(frozen=True)
class Choice:
    """One coordinate of a space: its settings in order, smallest first, and the one to start from."""

    name: str
    values: tuple[Setting, ...]
    default: Setting

    def steps(self, value: Setting) -> list[Setting]:
        """The settings beside one."""
        i = self.values.index(value)
        return [self.values[j] for j in (i - 1, i + 1) if 0 <= j < len(self.values)]

    def distance(self, value: Setting) -> int:
        return abs(self.values.index(value) - self.values.index(self.default))


@dataclass(frozen=True)
class SpaceFacts:
    """All that the knobs know of one cascade at one size for one emitter. uses: what it does with its ranks. sizes: of
    all ranks, in elements. reads: tensors as they are indexed, each once."""

    uses: RankUses
    sizes: Mapping[Rank, int]
    target: Target
    reads: tuple[Read, ...] = ()
    approximable: bool = False
    """Whether a function of the cascade may be approximated."""
    data_dependent_bounds: bool = False
    """Whether loops may have bounds that follow from data."""

    def role(self, rank: Rank, point: Point) -> Role:
        axis = Role(None, self.target.axis(self.sizes[rank]))
        match self.uses.kinds[rank]:
            case "batch":
                return axis if point.get("batched") == rank else Role("grid", None)
            case "grouped":
                if point.get("packed") and self.uses.packs_with.get(rank) and self.sizes[rank] > 1:
                    return Role(None, None, pack=self.uses.packs_with[rank])
                return axis if point.get("batched") else Role("grid", None)
            case "row" | "resident":
                tile = int(point.get(f"tile {rank}", WHOLE))
                return axis if tile == WHOLE else Role("grid", tile if tile > 1 else None)
            case "streamed" | "contracted":
                tile = int(point.get(f"tile {rank}", WHOLE))
                if tile in (WHOLE, ELEMENT):
                    return axis if tile == WHOLE else Role("loop", None)
                return Role("loop", tile, int(point.get(f"num_splits {rank}", 1)))

    def length(self, rank: Rank, point: Point) -> int:
        """Elements of the rank in one tile."""
        return self.role(rank, point).tile or 1
