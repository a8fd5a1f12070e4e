"""Where a value lives: which tile axes it has and which loops it varies with, from the roles of its ranks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from eintune.space.ir.expr import (
    Access,
    Computed,
    Const,
    Expr,
    Fold,
    Gather,
    Integer,
    Iota,
    Map,
    Part,
    Predicate,
    Rank,
    Reduce,
    Size,
    Where,
    children,
    indexing_ranks,
    topological,
)
from eintune.space.plan.roles import IllegalPlan, LoopSplit, Role
from eintune.space.plan.sizes import Derived, Sizes, tail_predicate

from .views import Halves


@dataclass(frozen=True)
class Shape:
    """Tile axes and loops of a value. A tile reduction drops the axis and keeps the loop, so these are two sets."""

    axes: frozenset[Rank] = frozenset()
    loops: frozenset[Rank] = frozenset()

    def __or__(self, other: Shape) -> Shape:
        return Shape(self.axes | other.axes, self.loops | other.loops)

    def __sub__(self, other: Shape) -> Shape:
        return Shape(self.axes - other.axes, self.loops - other.loops)

    def meets(self, other: Shape) -> bool:
        return bool(self.axes & other.axes or self.loops & other.loops)


class Layout:
    """Roles, sizes and splits of one plan, and the shape of every expression under them.

    halves: ranks that stay split, with their outer and inner rank. order: the axes of every tile follow it. splits: of
    the ranks of which each program runs a part, what says which part. infinite: names of inputs that may hold -inf.
    """

    def __init__(
        self,
        roles: Mapping[Rank, Role],
        sizes: Mapping[Rank, int],
        halves: Halves,
        order: tuple[Rank, ...],
        splits: Mapping[Rank, LoopSplit] | None = None,
        infinite: frozenset[str] = frozenset(),
    ) -> None:
        self.roles, self.sizes, self.order = dict(roles), Sizes.of(sizes), order
        self.splits, self.infinite = dict(splits or {}), infinite
        self._reduced = {r: _shape_of_role(r, role) for r, role in roles.items()}
        for rank, (outer, inner) in halves.items():
            whole = self._reduced[rank]
            self._reduced[outer] = Shape() if rank in self.splits else Shape(loops=whole.loops)
            self._reduced[inner] = whole if rank in self.splits else Shape(axes=whole.axes)
        self.halves = halves
        self._shapes: dict[Expr, Shape] = {}

    def add_axis(self, name: Rank, size: Derived, tile: int, *, beside: Rank) -> None:
        """A whole axis that no rank of the cascade is: it stands beside one of them in the order."""
        if name not in self.roles:
            self.roles[name] = Role(None, tile)
            self.sizes = self.sizes.deriving(name, size)
            self._reduced[name] = Shape(frozenset((name,)))
            at = self.order.index(beside) + 1
            self.order = (*self.order[:at], name, *self.order[at:])

    def knows(self, rank: Rank) -> bool:
        """Whether some rank or axis of the plan has this name."""
        return self.sizes.has(rank) or rank in self.roles or rank in self._reduced or rank in self.order

    def tiles(self, rank: Rank) -> int:
        """The most tiles that a rank may have."""
        return -(-self.sizes.most(rank) // (self.roles[rank].tile or 1))

    def of_rank(self, rank: Rank) -> Shape:
        """What a value that is indexed by `rank` varies with, and what a reduction over `rank` takes away."""
        return self._reduced[rank]

    def of_ranks(self, ranks: Iterable[Rank]) -> Shape:
        shape = Shape()
        for r in ranks:
            shape |= self.of_rank(r)
        return shape

    def shape(self, x: Expr) -> Shape:
        for node in topological([x], stop=self._shapes):
            self._shapes[node] = self._shape(node)
        return self._shapes[x]

    def _shape(self, x: Expr) -> Shape:
        below = Shape()
        for a in children(x):
            below |= self._shapes[a]
        match x:
            case Access():
                return self.of_ranks(x.index)
            case Gather():
                return self.of_ranks(indexing_ranks(x))
            case Iota():
                return self.of_rank(x.rank)
            case Where():
                return below | self.of_ranks(x.predicate.ranks)
            case Map("lane"):
                return Shape(axes=below.axes)
            case Map("first"):
                return Shape(loops=below.loops)
            case Map("tile_greatest", (of, beside)):
                shape, other = self._shapes[of], self._shapes[beside]
                return Shape(loops=shape.loops, axes=shape.axes & other.axes)
            case Reduce() | Fold():
                return below - self.of_rank(x.rank)
            case _:
                return below

    def of_index(self, i: Integer) -> Shape:
        """What the number that addresses an axis varies with: a quotient that a tile lies within has no axis."""
        match i:
            case str():
                return self.of_rank(i)
            case Part():
                shape = self.of_rank(i.rank)
                return Shape(loops=shape.loops) if i.op == "//" and self.within(i) else shape
            case Access() | Gather():
                shape = Shape()
                for part in i.index:
                    shape |= self.of_index(part)
                return shape
            case Computed():
                shape = Shape()
                for a in i.args:
                    shape |= self.of_index(a)
                return shape
            case Size() | int():
                return Shape()

    def within(self, part: Part) -> bool:
        """Whether each tile of the rank lies within one stretch of `part.by` elements."""
        return within_part(part, self.roles[part.rank].tile or 1, self.sizes.most(part.rank))

    def varies(self, x: Expr, rank: Rank) -> bool:
        """Whether a reduction of `x` over `rank` reduces anything."""
        return self.shape(x).meets(self.of_rank(rank))

    def count(self, rank: Rank) -> int:
        """The number of elements of a rank; that of half a split rank where every tile is full."""
        for whole, (outer, inner) in self.halves.items():
            if rank in (outer, inner):
                part, size = self.splits.get(whole), self.sizes[whole]
                tile = part.length if part and isinstance(part.length, int) else self.roles[whole].tile or 1
                if size % tile:
                    raise IllegalPlan(f"elements of {rank} are counted, so {tile} must divide |{whole}| = {size}")
                return tile if rank == inner else size // tile
        return self.sizes[rank]

    def number_of(self, rank: Rank) -> Const | Size:
        """`count` as an expression, also of a size that is not known."""
        is_half = any(rank in pair for pair in self.halves.values())
        return Size(rank) if rank in self.sizes.ranges and not is_half else Const(float(self.count(rank)))

    def loop_of(self, rank: Rank) -> Rank | None:
        """The loop that a reduction over `rank` runs in, if it needs one."""
        return next(iter(self.of_rank(rank).loops), None)

    def axis_of(self, rank: Rank) -> Rank | None:
        """The tile axis that a reduction over `rank` reduces, if there is one."""
        return next(iter(self.of_rank(rank).axes), None)

    def ordered(self, ranks: Iterable[Rank]) -> tuple[Rank, ...]:
        chosen = set(ranks)
        return tuple(r for r in self.order if r in chosen)

    def tail(self, axis: Rank | None) -> Predicate | None:
        """The filter that keeps the valid lanes of a tile, or None where every tile is full."""
        if axis is None:
            return None
        tile = self.roles[axis].tile
        assert tile is not None
        return None if self.sizes.is_multiple(axis, tile) else tail_predicate(axis, self.sizes)

    def is_tail(self, p: Predicate) -> bool:
        return any(p == tail_predicate(t.rank, self.sizes) for t in p.terms if self.sizes.has(t.rank))


def within_part(part: Part, tile: int, size: int) -> bool:
    """Whether tiles, which start at multiples of their length, lie within a stretch of `part.by` elements each. size:
    the most elements that the rank may have."""
    return part.by % tile == 0 or size <= part.by


def _shape_of_role(rank: Rank, role: Role) -> Shape:
    if role.outer is None and role.tile is None:
        raise IllegalPlan(f"rank {rank}: a role is an outer iteration, a tile or both", "got neither")
    one = frozenset((rank,))
    return Shape(one if role.tile else frozenset(), one if role.outer == "loop" else frozenset())
