"""Which schedules a cascade may have at one size: the roles its ranks may take, and the knobs.

Roles follow from what the graph does with each rank (`rank_uses`), the rest from the `knobs`; nothing here knows a
workload or a machine.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass

from .approximations import is_approximable
from .cascade import Cascade
from .descriptors import Read, reads_of
from .expr import Rank
from .knobs import KNOBS, WHOLE, Choice, Knob, Point, Setting
from .plan import Role
from .rank_uses import RankUses, rank_uses
from .roots import roots_of
from .schedule import Problem, Schedule
from .value_bounds import equalities


@dataclass(frozen=True)
class Target:
    """What an emitter can lay out. Tile sizes in elements.

    rows, streams: tile sizes to try for a row and for a streamed rank. longest_axis: a rank of at most so many
    elements may be one whole axis. padded: tiles are powers of two of at least 16. batched: batch ranks may be axes
    too. temporary: least and most elements of the largest tile between two products. parts: of a streamed rank, to
    be run by programs of their own where there are fewer than `few` without; merged: most elements of a tile that
    merges them. descriptors: whether tiles can be loaded by tensor descriptor. approximate: whether there is code
    for functions that the hardware approximates. late: whether there is code for products that run late. specialised:
    whether there is code for warps that do different things. plain: what holds instead where nothing is multiplied as
    a matrix. side: tiles are made of squares of so many elements a side.
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
    approximate: bool = False
    late: bool = False
    looks: bool = False
    specialised: bool = False
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
    approximate=True,
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
            approximate=True,
            late=True,
            looks=True,
            specialised=True,
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


class _Unset(Exception):
    """A coordinate is read that is not set yet."""


class _Partial(Mapping[str, Setting]):
    """A point of which some coordinates are not set yet."""

    def __init__(self, known: dict[str, Setting], unset: Set[str]) -> None:
        self._known, self._unset = known, unset

    def __getitem__(self, name: str) -> Setting:
        if name in self._unset:
            raise _Unset(name)
        return self._known[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._known)

    def __len__(self) -> int:
        return len(self._known)

    def having(self, name: str, setting: Setting) -> _Partial:
        """The same with one more coordinate."""
        return _Partial({**self._known, name: setting}, self._unset - {name})


@dataclass(frozen=True)
class Space:
    """The schedules of one cascade at one size for one emitter."""

    uses: RankUses
    sizes: Mapping[Rank, int]
    target: Target
    reads: tuple[Read, ...] = ()
    approximable: bool = False
    """Whether a function of the cascade may be approximated."""
    looks: bool = False
    """Whether loops may have bounds that follow from data."""

    def choices(self) -> list[Choice]:
        return [c for knob in KNOBS for c in knob.choices(self)]

    def is_legal(self, point: Point) -> bool:
        return all(knob.is_legal(self, point) for knob in KNOBS)

    def points(self) -> Iterator[dict[str, Setting]]:
        """Every legal combination of the settings worth trying."""
        choices = self.choices()
        yield from self._completed(_Partial({}, {c.name for c in choices}), choices, KNOBS)

    def _completed(
        self, point: _Partial, left: Sequence[Choice], undecided: Sequence[Knob]
    ) -> Iterator[dict[str, Setting]]:
        """Every legal way to set the coordinates that are left. A knob decides as soon as all that it reads is set, so
        that few of all combinations are looked at."""
        still = []
        for knob in undecided:
            try:
                if not knob.is_legal(self, point):
                    return
            except _Unset:
                still.append(knob)
        if not left:
            yield dict(point)
            return
        choice, *rest = left
        for setting in choice.values:
            yield from self._completed(point.having(choice.name, setting), rest, still)

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
            functions=str(point["functions"]),
            late=str(point["late"]),
            bounds=str(point["bounds"]),
            workers=str(point["workers"]),
            reference=str(point["reference"]),
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
    sizes = {r: problem.sizes[r] for r in ranks}
    looks = bool(equalities(roots.expressions))
    return Space(uses, sizes, target, reads, is_approximable(roots.expressions, problem.dtypes), looks)


def schedules(cascade: Cascade, problem: Problem, emitter: str) -> list[Schedule]:
    """The legal schedules of a cascade at one size, the same one once."""
    space = space_of(cascade, problem, emitter)
    return list(dict.fromkeys(space.schedule(p) for p in space.points()))


def default_schedule(cascade: Cascade, problem: Problem, emitter: str) -> Schedule:
    """One legal schedule, for when nothing is known."""
    space = space_of(cascade, problem, emitter)
    return space.schedule(space.default())
