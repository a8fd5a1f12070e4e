"""Global memory: what each load and store of a plan asks for, with padding told from what is there, at any sizes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple, TypeAlias

from eintune.space.ir.dtypes import DTYPES
from eintune.space.ir.expr import Part, Rank
from eintune.space.plan.plan import LoopPlan
from eintune.space.plan.values import Index, IndexPart, Load, Store, Value, Within
from eintune.space.tile_ir.tiles import Region

from .estimate import Traffic
from .resources import tile_bytes, tile_elements
from .transfers import PlacedTile, as_traffic, move

SECTOR_BYTES = 32
"""What one access moves at the least."""

Visit: TypeAlias = tuple[Rank, str, int]
"""A rank that an access varies with ("", 1), or a part of one: as `Part` has its operator and number."""


class TensorTraffic(NamedTuple):
    """Global memory that programs read or write: one tensor.

    ranks: grid ranks that its tile depends on. distinct_bytes: of one tile. requested_bytes: per program, repeats
    included. total_bytes: the whole tensor's.
    """

    tensor: str
    ranks: frozenset[Rank]
    distinct_bytes: float
    requested_bytes: float
    total_bytes: float


@dataclass(frozen=True)
class MemoryAccess:
    """One load or store.

    axes: of its tile. moved, requested: bytes of the whole tile, padding included, as they go between levels and as
    they are asked of global memory. levels: traffic of one byte that is moved. visits: what its address varies with.
    element: bytes that move for each element. stream: the number of its `TensorTraffic`.
    """

    axes: tuple[Rank, ...]
    moved: float
    requested: float
    levels: Traffic
    visits: tuple[Visit, ...]
    element: float
    stream: int


class AccessBytes(NamedTuple):
    """Every access of a plan at some sizes, in their order: bytes that an execution moves, those that it asks of global
    memory, and the different ones that a program touches at all."""

    moved: list[float]
    requested: list[float]
    span: list[float]


class _OpenAccesses(NamedTuple):
    """Accesses whose sizes are not all known, with what is known of them multiplied out. tiles: lengths of tiles of the
    ranks that are left. visited: the ranks whose visits are."""

    accesses: list[MemoryAccess]
    tiles: dict[Rank, int]
    visited: list[Rank]


class MemoryAccesses:
    """All loads and stores of a plan. place: where each value sits. accesses: each once. streams: the tensors and the
    grid ranks that their tiles depend on, one for each tensor and way of indexing it; several accesses may share one.
    """

    def __init__(self, plan: LoopPlan, place: Mapping[Value, Region]) -> None:
        self.plan, self.place = plan, place
        self.accesses: list[MemoryAccess] = []
        self.streams: list[tuple[str, frozenset[Rank]]] = []
        self._numbers: dict[Value, int] = {}

    def number(self, v: Load | Store) -> int:
        """An access's place in `accesses`."""
        if v not in self._numbers:
            self._numbers[v] = len(self.accesses)
            self.accesses.append(self._access(v))
        return self._numbers[v]

    def at(self, sizes: Mapping[Rank, int]) -> AccessBytes:
        """Every access at some sizes."""
        open_ = self._open
        shares = {r: size_share(sizes[r], tile) for r, tile in open_.tiles.items()}
        visited = {r: self._visited(r, sizes) for r in open_.visited}
        found = AccessBytes([], [], [])
        for a in open_.accesses:
            share, span = 1.0, a.element
            for r in a.axes:
                share *= shares[r]
            for r, op, by in a.visits:
                span *= visited[r] if not op else _visited_parts(visited[r], op, by)
            found.moved.append(a.moved * share)
            found.requested.append(a.requested * share)
            found.span.append(span)
        return found

    def streams_at(
        self, found: AccessBytes, executions: Sequence[float], counts: Mapping[Rank, int]
    ) -> tuple[TensorTraffic, ...]:
        """The traffic of each stream. executions: of each access, by a program. counts: tiles of the grid's ranks."""
        requested, distinct = [0.0] * len(self.streams), [0.0] * len(self.streams)
        for a, nbytes, span, times in zip(self.accesses, found.requested, found.span, executions, strict=True):
            requested[a.stream] += nbytes * times
            # What a program touches at all, repeats counted once: what a cache must hold for them to be hits.
            distinct[a.stream] = max(distinct[a.stream], span)
        made = []
        for (name, ranks), asked, span in zip(self.streams, requested, distinct, strict=True):
            once = min(span, asked) or 1.0
            total = once
            for r in ranks:
                total *= counts[r]
            made.append(TensorTraffic(name, ranks, once, asked, total))
        return tuple(made)

    @cached_property
    def _open(self) -> _OpenAccesses:
        """What is left to be found where sizes are given: the plan's own are taken into account once."""
        known = self.plan.sizes
        accesses = []
        for a in self.accesses:
            share, span = 1.0, a.element
            for r in a.axes:
                share *= size_share(known[r], self.plan.length(r)) if r in known else 1.0
            visits = [v for v in a.visits if not self._is_known(v[0])]
            for r, op, by in (v for v in a.visits if v not in visits):
                span *= _visited_parts(self._visited(r, known), op, by)
            axes = tuple(r for r in a.axes if r not in known)
            accesses.append(
                replace(
                    a,
                    axes=axes,
                    moved=a.moved * share,
                    requested=a.requested * share,
                    visits=tuple(visits),
                    element=span,
                )
            )
        tiles = {r: self.plan.length(r) for a in accesses for r in a.axes}
        return _OpenAccesses(accesses, tiles, list(dict.fromkeys(r for a in accesses for r, *_ in a.visits)))

    def _is_known(self, rank: Rank) -> bool:
        """Whether it is known how many indices a program visits."""
        length = self.plan.splits[rank].length if rank in self.plan.splits else 0
        return rank in self.plan.sizes and (isinstance(length, int) or length in self.plan.sizes)

    def _visited(self, rank: Rank, sizes: Mapping[Rank, int]) -> float:
        """How many indices of a rank a program visits, on average."""
        if rank in self.plan.splits:
            length = self.plan.splits[rank].length
            return min(length if isinstance(length, int) else sizes[length], sizes[rank])
        if rank not in self.plan.grid:
            return sizes[rank]
        tile = self.plan.roles[rank].tile
        return tile * size_share(sizes[rank], tile) if tile else 1

    def _access(self, v: Load | Store) -> MemoryAccess:
        tile = v.args[0] if isinstance(v, Store) else v
        visits = tuple(self._visits(v))
        # A rank in parts varies with the program's part.
        varies = (self.plan.splits[r].rank if r in self.plan.splits else r for r, *_ in visits)
        stream = v.tensor, frozenset(r for r in varies if r in self.plan.grid)
        if stream not in self.streams:
            self.streams.append(stream)
        width = DTYPES[self.plan.dtypes.get(v.tensor, v.dtype)].bytes
        # Bytes that move for each that is read: a sector's for one element where the last axis is looked up, so that
        # elements do not lie side by side.
        scattered = max(1.0, SECTOR_BYTES / width) if v.index and v.index[-1] is None else 1.0
        asked = tile_elements(self.plan, tile) * width
        if isinstance(v, Load):
            moved = tile_bytes(self.plan, v) * scattered
            levels = as_traffic(move(PlacedTile(Region.GLOBAL, 1.0), self.place[v]))
        else:
            # A result is spread over threads as products leave it. It goes through shared memory so that neighbours
            # store neighbouring addresses.
            moved = float(asked)
            there, back = PlacedTile(Region.REGISTERS, 1.0), PlacedTile(Region.SHARED, 1.0)
            levels = as_traffic([*move(there, Region.SHARED), *move(back, Region.GLOBAL)])
        return MemoryAccess(
            axes=tile.axes,
            moved=moved,
            requested=asked * scattered,
            levels=levels,
            visits=visits,
            element=width * scattered,
            stream=self.streams.index(stream),
        )

    def _visits(self, v: Load | Store) -> Iterator[Visit]:
        """What is looked up in a table is as different as the table's index."""
        numbers = iter(v.args)
        for i in v.index:
            match i:
                case None:
                    yield from self._looked_up(next(numbers))
                case Within():
                    next(numbers)
                case Part():
                    yield i.rank, i.op, i.by
                case str():
                    yield i, "", 1

    def _looked_up(self, number: Value) -> Iterator[Visit]:
        """As `_visits`, for an axis that is addressed by a value: what the value varies with."""
        if isinstance(number, Load):
            yield from self._visits(number)
            return
        match number:
            case Index():
                yield number.rank, "", 1
            case IndexPart():
                yield number.part.rank, "", 1
        for a in number.args:
            yield from self._looked_up(a)


def size_share(size: int, tile: int) -> float:
    """The share of the elements of a rank's tiles (0 to 1) that lies inside the tensor."""
    return size / (-(-size // tile) * tile)


def _visited_parts(count: float, op: str, by: int) -> float:
    """How many different values a rank, or a part of it, has where so many of its indices are visited."""
    return count if not op else max(count / by, 1.0) if op == "//" else min(count, by)
