"""Which bytes move between the levels of a machine: one accounting for plans and for the tile IR.

Three rules. A *move* (a load, a store, a copy between levels) carries its tile. A *product* reads each operand
that sits in shared memory implicitly, every time it runs, and operands in registers not at all. *Computing*
works on registers and moves nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from eintune.space.tile_ir.tiles import Region

from .estimate import Traffic


@dataclass(frozen=True)
class PlacedTile:
    """A tile's place and size."""

    region: Region
    nbytes: float


@dataclass(frozen=True)
class Transfer:
    """Bytes from one level to another."""

    source: Region
    target: Region
    nbytes: float

    def __mul__(self, times: float) -> Transfer:
        return Transfer(self.source, self.target, self.nbytes * times)


Path: TypeAlias = tuple[Region, Region]


def move(tile: PlacedTile, target: Region) -> tuple[Transfer, ...]:
    """The transfers of moving a tile; nothing if it is there already."""
    return () if tile.region == target else (Transfer(tile.region, target, tile.nbytes),)


def product(operands: Sequence[PlacedTile]) -> tuple[Transfer, ...]:
    """The implicit transfers of one matrix product: its operands in shared memory. Raises ValueError for global."""
    for tile in operands:
        if tile.region == Region.GLOBAL:
            raise ValueError("a product's operands must be in shared memory or registers, but one is in global memory")
    return tuple(t for tile in operands if tile.region == Region.SHARED for t in move(tile, Region.REGISTERS))


def by_path(transfers: Iterable[Transfer]) -> dict[Path, float]:
    """Total bytes by (source, target)."""
    total: dict[Path, float] = {}
    for t in transfers:
        total[t.source, t.target] = total.get((t.source, t.target), 0.0) + t.nbytes
    return total


def as_traffic(transfers: Iterable[Transfer]) -> Traffic:
    """Bytes by level: a transfer counts at both of its ends. Global memory is seen through the L2 cache;
    what of it reaches HBM depends on reuse between programs (`traffic.hbm_bytes`)."""
    # Both levels are busy with a transfer, and either may be the slower one.
    level = dict.fromkeys(Region, 0.0)
    for t in transfers:
        level[t.source] += t.nbytes
        level[t.target] += t.nbytes
    return Traffic(
        l2_bytes=level[Region.GLOBAL], shared_bytes=level[Region.SHARED], register_bytes=level[Region.REGISTERS]
    )
