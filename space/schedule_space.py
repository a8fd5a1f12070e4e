"""Which schedules a cascade may have at one size: the roles its ranks may take, and the knobs.

Roles follow from what the graph does with each rank (`rank_uses`); nothing here knows a workload or a machine.
A knob is a small object with one protocol, and the table `KNOBS` is the whole list.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from .cascade import Cascade
from .descriptors import Read, block_of, reads_of
from .expr import Rank
from .part_roles import part_length
from .plan import Role
from .rank_uses import RankUses, rank_uses
from .roots import roots_of
from .schedule import FILTERS, Problem, Schedule

Setting: TypeAlias = int | bool | str
"""A value of a knob."""

Point: TypeAlias = Mapping[str, Setting]
"""A setting of every coordinate, by name."""

WHOLE = 0
"""The tile size that says: all of the rank at once."""


@dataclass(frozen=True)
class Target:
    """What an emitter can lay out. Tile sizes in elements.

    rows, streams: tile sizes to try for a row and for a streamed rank. longest_axis: a rank of at most so many
    elements may be one whole axis. padded: tiles are powers of two of at least 16. batched: batch ranks may be
    axes too. temporary: least and most elements of the largest tile between two products. parts: of a streamed rank,
    to be run by programs of their own where there are fewer than `few` without; merged: most elements of a tile that
    merges them. descriptors: whether tiles can be loaded by tensor descriptor. plain: what holds instead where nothing
    is multiplied as a matrix. side: tiles are made of squares of so many elements a side.
    """

    name: str
    rows: tuple[int, ...]
    streams: tuple[int, ...]
    warps: tuple[int, ...]
    stages: tuple[int, ...]
    longest_axis: int
    padded: bool
    batched: bool
    temporary: tuple[int, int]
    descriptors: bool = False
    plain: Target | None = None
    side: int = 0
    parts: tuple[int, ...] = (1,)
    few: int = 0
    merged: int = 2**13

    def axis(self, size: int) -> int:
        """The tile length of a whole axis."""
        if self.side:
            return -(-size // self.side) * self.side
        return max(16, 1 << (size - 1).bit_length()) if self.padded else size


PLAIN_TRITON = Target(
    name="triton",
    rows=(1, 4, 16),
    streams=(512, 1024, 2048, 4096),
    warps=(4, 8, 16),
    stages=(1, 2, 3),
    longest_axis=2**14,
    padded=True,
    batched=False,
    temporary=(512, 2**14),
    parts=(1, 2, 4, 8, 16, 32, 64),
    few=512,
    merged=2**13,
)
"""Without products nothing asks for square tiles: few rows, and of each as much as fits into the registers."""

TARGETS: dict[str, Target] = {
    t.name: t
    for t in (
        Target(
            name="triton",
            rows=(16, 32, 64, 128),
            streams=(16, 32, 64, 128),
            warps=(4, 8),
            stages=(1, 2, 3, 4),
            longest_axis=512,
            padded=True,
            batched=False,
            temporary=(256, 2**15),
            parts=(1, 2, 4, 8, 16, 32, 64),
            few=512,
            merged=2**13,
            descriptors=True,
            plain=PLAIN_TRITON,
        ),
        Target(
            name="tensix",
            rows=(32, 64, 128, 256),
            streams=(32, 64, 128, 256),
            warps=(1,),
            stages=(1, 2),
            longest_axis=512,
            padded=True,
            batched=False,
            temporary=(32, 2**16),
            side=32,
        ),
        Target(
            name="torch",
            rows=(64, 128, 256, 512),
            streams=(128, 256, 512, 1024),
            warps=(1,),
            stages=(1,),
            longest_axis=4096,
            padded=False,
            batched=True,
            temporary=(2**13, 2**23),
            parts=(1, 2),
            few=2,
            merged=2**21,
        ),
    )
}


def merged_elements(emitter: str) -> int:
    """Most elements of a tile that merges parts."""
    return TARGETS[emitter].merged if emitter in TARGETS else min(t.merged for t in TARGETS.values())


@dataclass(frozen=True)
class Space:
    """The schedules of one cascade at one size for one emitter."""

    uses: RankUses
    sizes: Mapping[Rank, int]
    target: Target
    reads: tuple[Read, ...] = ()

    def choices(self) -> list[Choice]:
        return [c for knob in KNOBS for c in knob.choices(self)]

    def is_legal(self, point: Point) -> bool:
        return all(knob.is_legal(self, point) for knob in KNOBS)

    def points(self) -> Iterator[dict[str, Setting]]:
        """Every legal combination of the settings worth trying."""
        choices = self.choices()
        for settings in itertools.product(*(c.values for c in choices)):
            point = {c.name: s for c, s in zip(choices, settings, strict=True)}
            if self.is_legal(point):
                yield point

    def default(self) -> dict[str, Setting]:
        """The legal point that is nearest to every knob's own default."""
        choices = self.choices()
        wanted = {c.name: c.default for c in choices}
        if self.is_legal(wanted):
            return wanted
        legal = list(self.points())
        if not legal:
            raise ValueError(f"no schedule for the sizes {dict(self.sizes)} (emitter {self.target.name})")
        return min(legal, key=lambda p: sum(c.distance(p[c.name]) for c in choices))

    def neighbours(self, point: Point) -> Iterator[dict[str, Setting]]:
        """The legal points one step of one knob away."""
        for c in self.choices():
            for setting in c.steps(point[c.name]):
                if self.is_legal(moved := {**point, c.name: setting}):
                    yield moved

    def schedule(self, point: Point) -> Schedule:
        return Schedule(
            emitter=self.target.name,
            roles=tuple((r, self._role(r, point)) for r in self.uses.kinds),
            warps=int(point["warps"]),
            stages=int(point["stages"]),
            filters=str(point["filters"]),
            order=str(point["order"]),
            loads=str(point["loads"]),
        )

    def _role(self, rank: Rank, point: Point) -> Role:
        axis = Role(None, self.target.axis(self.sizes[rank]))
        match self.uses.kinds[rank]:
            case "batch":
                return axis if point.get("batched") == rank else Role("grid", None)
            case "lane":
                if point.get("packed") and self.uses.beside.get(rank) and self.sizes[rank] > 1:
                    return Role(None, None, pack=self.uses.beside[rank])
                return axis if point.get("batched") else Role("grid", None)
            case "row" | "resident":
                tile = int(point.get(f"tile {rank}", WHOLE))
                return axis if tile == WHOLE else Role("grid", tile if tile > 1 else None)
            case "streamed" | "contracted":
                tile = int(point.get(f"tile {rank}", WHOLE))
                return axis if tile == WHOLE else Role("loop", tile, int(point.get(f"parts {rank}", 1)))

    def length(self, rank: Rank, point: Point) -> int:
        """Elements of the rank in one tile."""
        return self._role(rank, point).tile or 1


# ---- knobs


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


class Knob(Protocol):
    """A way in which schedules differ."""

    def choices(self, space: Space) -> list[Choice]:
        """Its coordinates in a space: none, one, or one for each rank that it applies to."""

    def is_legal(self, space: Space, point: Point) -> bool:
        """Whether a point makes sense as far as this knob is concerned."""


class Tiles:
    """Tile sizes of rows, of streamed ranks, and of other ranks that are too long to be one axis."""

    def choices(self, space: Space) -> list[Choice]:
        return [c for r in space.uses.kinds if (c := self._choice(space, r))]

    def _choice(self, space: Space, rank: Rank) -> Choice | None:
        kind, size, target = space.uses.kinds[rank], space.sizes[rank], space.target
        match kind:
            case "row":
                streamed = space.uses.products or space.uses.of("streamed")
                rows = size * max(Packed.lengths(space))
                values = _fitting(target.rows if streamed else target.streams, rows, target)
            case "streamed":
                values = _fitting(target.streams, size, target)
                if rank not in space.uses.halves and size <= target.longest_axis:
                    values = [v for v in values if v < size] + [WHOLE]
            case "resident" | "contracted":
                if size <= target.longest_axis:
                    return None
                values = [v for v in _fitting(target.rows, size, target) if v >= 64]
            case _:
                return None
        return Choice(f"tile {rank}", tuple(values), values[len(values) // 2])

    def is_legal(self, space: Space, point: Point) -> bool:
        """The tile between two products (or of a row, where there is none) is neither tiny nor huge."""
        least, most = space.target.temporary
        return min(least, self._largest(space)) <= self._elements(space, point) <= most

    def _elements(self, space: Space, point: Point) -> int:
        return math.prod(space.length(r, point) for k in ("batch", "lane", "row", "streamed") for r in space.uses.of(k))

    def _largest(self, space: Space) -> int:
        """Elements at the longest settings: a small problem has no tile as large as the least."""
        longest: dict[str, Setting] = {c.name: c.default for c in Batched().choices(space)}
        for c in self.choices(space):
            longest[c.name] = WHOLE if WHOLE in c.values else c.values[-1]
        return self._elements(space, longest)


class Batched:
    """Whether a batch rank is an axis of every product (the longest one), or programs iterate all of them."""

    def choices(self, space: Space) -> list[Choice]:
        ranks = [r for r in space.uses.of("batch") if space.sizes[r] > 1]
        if not space.target.batched:
            return []
        if not ranks:
            return [Choice("batched", ("rows",), "rows")] if space.uses.of("lane") else []
        longest = max(ranks, key=lambda r: space.sizes[r])
        return [Choice("batched", ("", longest), longest)]

    def is_legal(self, space: Space, point: Point) -> bool:
        return True


class Parts:
    """Whether programs share the longest streamed rank, each running a part of it, where there are few programs.

    What the parts leave is merged by another kernel, so they must be few enough to leave little.
    """

    MOST = 4096
    """Programs beyond which more of them serve nobody."""

    def choices(self, space: Space) -> list[Choice]:
        streamed = [] if space.uses.halves else space.uses.of("streamed")
        if not streamed:
            return []
        longest = max(streamed, key=lambda r: space.sizes[r])
        tiles = -(-space.sizes[longest] // space.target.streams[0])
        values = tuple(n for n in space.target.parts if n == 1 or 2 * n <= tiles)
        return [Choice(f"parts {longest}", values, 1)] if len(values) > 1 else []

    def is_legal(self, space: Space, point: Point) -> bool:
        for rank in space.uses.of("streamed"):
            parts, tile = int(point.get(f"parts {rank}", 1)), int(point.get(f"tile {rank}", WHOLE))
            if parts > 1 and not (tile and self._divides(space, point, -(-space.sizes[rank] // tile), parts)):
                return False
        return True

    def _divides(self, space: Space, point: Point, tiles: int, parts: int) -> bool:
        """Whether every part has two tiles of its own, and the grid is short without them."""
        roles = [(space.sizes[r], space._role(r, point)) for r in space.uses.kinds]
        programs = math.prod(-(-n // (role.tile or 1)) for n, role in roles if role.outer == "grid")
        return 2 * parts <= tiles and programs < space.target.few and programs * parts <= self.MOST


class Packed:
    """Whether a short row's tiles run over a rank beside it too, so that what lacks that rank is loaded once for all
    of it."""

    def choices(self, space: Space) -> list[Choice]:
        return [Choice("packed", (False, True), False)] if max(self.lengths(space)) > 1 else []

    @staticmethod
    def lengths(space: Space) -> list[int]:
        """The lengths of the ranks that a row's tiles may run over: at most one, where the row leaves room."""
        beside = [(r, row) for r, row in space.uses.beside.items() if space.sizes[r] > 1]
        if space.target.batched or len(beside) != 1 or not space.uses.products:
            return [1]
        ((lane, row),) = beside
        return [1, space.sizes[lane]] if 1 < space.sizes[row] < space.target.rows[-1] else [1]

    def is_legal(self, space: Space, point: Point) -> bool:
        """A tile is no longer than what it runs over."""
        length = self.lengths(space)[-1] if point.get("packed") else 1
        tiles = ((space.sizes[r] * length, int(point.get(f"tile {r}", WHOLE))) for r in space.uses.of("row"))
        return all(tile <= space.target.axis(size) for size, tile in tiles)


class Warps:
    """Warps of a program."""

    def choices(self, space: Space) -> list[Choice]:
        return [Choice("warps", space.target.warps, space.target.warps[0])]

    def is_legal(self, space: Space, point: Point) -> bool:
        """A warp has at least 512 elements of the largest tile, so that the matrix unit's rows are filled."""
        if point["warps"] == space.target.warps[0]:
            return True
        elements = 1
        for k in ("row", "streamed"):
            for r in space.uses.of(k):
                elements *= space.length(r, point)
        return elements >= 512 * int(point["warps"])


class Stages:
    """Software pipeline stages of the loops."""

    def choices(self, space: Space) -> list[Choice]:
        values = space.target.stages
        return [Choice("stages", values, values[min(1, len(values) - 1)])]

    def is_legal(self, space: Space, point: Point) -> bool:
        """No more stages than the longest loop has iterations."""
        counts = [1]
        for r in (*space.uses.of("streamed"), *space.uses.of("contracted")):
            tile, parts = int(point.get(f"tile {r}", WHOLE)), int(point.get(f"parts {r}", 1))
            counts.append(part_length(space.sizes[r], tile, parts) // tile if tile else 1)
        return int(point["stages"]) <= max(counts)


class Filters:
    """Where filters are evaluated, if there are any.

    Segments cost a second loop, with a software pipeline of its own to fill (and the compiler waits for each matrix
    instruction where one loop hands its accumulators on to another): with a pipeline a branch is better. Where
    operators run one by one there is no pipeline, and nothing to weigh.
    """

    def choices(self, space: Space) -> list[Choice]:
        uneven = any(space.sizes[r] % space.target.streams[-1] for r in space.uses.of("streamed"))
        if not (space.uses.filtered or uneven):
            return [Choice("filters", ("every",), "every")]
        if space.target.batched:
            return [Choice("filters", ("segments",), "segments")]
        return [Choice("filters", ("every", "branch"), "branch")]

    def is_legal(self, space: Space, point: Point) -> bool:
        return True


class Order:
    """Program order: where programs differ in length, the longest may start first."""

    def choices(self, space: Space) -> list[Choice]:
        if space.uses.coupled and not space.target.batched:
            return [Choice("order", ("forward", "reverse"), "reverse")]
        return [Choice("order", ("forward",), "forward")]

    def is_legal(self, space: Space, point: Point) -> bool:
        return True


class Loads:
    """Tiles loaded by pointer or by tensor descriptor: where every tile of two axes can be loaded by one, and a
    pipelined loop streams some of them."""

    def choices(self, space: Space) -> list[Choice]:
        possible = space.target.descriptors and self._serves(space, lambda r: None if _is_index(space, r) else 16)
        return [Choice("loads", ("pointer", "descriptor") if possible else ("pointer",), "pointer")]

    def is_legal(self, space: Space, point: Point) -> bool:
        if point["loads"] == "pointer":
            return True
        streams = any(point.get(f"tile {r}", WHOLE) != WHOLE for r in space.uses.of("streamed"))
        return streams and int(point["stages"]) > 1 and self._serves(space, lambda r: space._role(r, point).tile)

    @staticmethod
    def _serves(space: Space, tile: Callable[[Rank], int | None]) -> bool:
        tiled = [r for r in space.reads if sum(tile(rank) is not None for rank in r.index) > 1]
        return bool(tiled) and all(block_of(r, space.sizes, tile) for r in tiled)


def _is_index(space: Space, rank: Rank) -> bool:
    """Whether programs take one element of the rank at a time."""
    return space.uses.kinds[rank] in ("batch", "lane")


KNOBS: tuple[Knob, ...] = (Tiles(), Batched(), Packed(), Parts(), Warps(), Stages(), Filters(), Order(), Loads())
"""Every knob. A new one is one row here (and a field of `Schedule` if an emitter reads it)."""


def _fitting(tiles: Sequence[int], size: int, target: Target) -> list[int]:
    """The tile sizes that are not longer than the rank needs."""
    needed = target.axis(size)
    if needed <= tiles[0] and target.padded:
        return [needed]
    return [t for t in tiles if t < needed] + ([needed] if needed <= tiles[-1] else [])


# ---- entry points


def space_of(cascade: Cascade, problem: Problem, emitter: str) -> Space:
    """Raises ValueError for an emitter that has no target, IllegalPlan for a cascade that cannot be laid out."""
    if emitter not in TARGETS:
        raise ValueError(f"`emitter` must be one of {sorted(TARGETS)}, but got {emitter!r}")
    target = TARGETS[emitter]
    roots = roots_of(cascade)
    ranks = roots.ranks()
    missing = [r for r in ranks if problem.sizes.get(r, 0) < 1]
    if missing:
        raise ValueError(f"every rank has a size of at least 1, but {missing} have none ({problem.sizes})")
    uses = rank_uses(roots.expressions, roots.halves, ranks, problem.sizes, target.longest_axis)
    if not uses.products and target.plain:
        target = target.plain
    reads = () if roots.halves else reads_of(roots.expressions, problem.dtypes)
    return Space(uses, {r: problem.sizes[r] for r in ranks}, target, reads)


def schedules(cascade: Cascade, problem: Problem, emitter: str) -> list[Schedule]:
    """The legal schedules of a cascade at one size, the same one once."""
    space = space_of(cascade, problem, emitter)
    return list(dict.fromkeys(space.schedule(p) for p in space.points()))


def default_schedule(cascade: Cascade, problem: Problem, emitter: str) -> Schedule:
    """One legal schedule, for when nothing is known."""
    space = space_of(cascade, problem, emitter)
    return space.schedule(space.default())


# ---- untrusted data

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
    _one_of("loads", schedule.loads, ("pointer", "descriptor"))
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
