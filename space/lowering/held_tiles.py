"""Statistics of tiles that are held in registers between two loops, where that saves a pass over the rank.

    LM_{m1,p}, SLD_{m1,p} of each tile; GM = max over m1 of LM; GD = sum over m1 of SLD * exp(LM - GM)

GD needs GM, so it comes after the first loop, but it needs no element of a tile: one number a row of each tile is
enough. These are held in an axis of their own, of as many elements as the loop has tiles: the loop adds what a tile
gives to its place, `sum over tiles of select(place = tile, x, 0)`, and the reduction over tiles becomes one over that
axis. That is what the analysis counts (`passes`): values over the outer half alone take no pass of their own (FuseMax,
arXiv 2406.10491).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count

from eintune.space.analysis.layout import Layout, Shape
from eintune.space.ir.expr import Const, Expr, Fold, Iota, Map, Rank, Reduce, children, topological, with_children
from eintune.space.plan.sizes import Derived

MOST_TILES = 256
"""Beyond these, what a tile gives is computed again: one number a row of each tile no longer fits a program."""


def hold_tiles(roots: Sequence[Expr], layout: Layout) -> list[Expr]:
    """The roots with reductions over tiles that read what the loop held, where fewer passes go over the rank then."""
    found = list(roots)
    for rank, (outer, _) in layout.halves.items():
        # A program that runs a part of the loop has the tiles of that part only.
        if rank not in layout.splits and layout.tiles(rank) <= MOST_TILES:
            found = _held(found, rank, outer, layout)
    return found


def _held(roots: list[Expr], rank: Rank, outer: Rank, layout: Layout) -> list[Expr]:
    levels = _levels(roots, rank, layout)
    # Reductions over tiles that wait for another loop: they are what costs a pass.
    over = [x for x in levels if isinstance(x, Reduce) and x.rank == outer and levels[x] > 1]
    late: dict[Expr, _Late] = {x: found for x in over if (found := _late(x, rank, levels, layout))}
    fewer = _levels(roots, rank, layout, late)
    # Holding takes registers; it has to save a whole pass over the rank, and its loads.
    if _passes(roots, rank, layout, fewer) == _passes(roots, rank, layout, levels):
        return roots
    place = _new_rank(outer, layout)
    tiles = layout.tiles(rank)
    # Tiles of a Triton kernel are powers of two; the lanes beyond are masked as any tail.
    tile = layout.roles[rank].tile or 1
    layout.add_axis(place, Derived(rank, by=tile), 1 << (tiles - 1).bit_length(), beside=rank)
    # Registers cannot be indexed by a loop variable: each iteration adds to all places, a number to its own and 0 to
    # the others.
    at = Map("eq", (Map("mul", (Iota(place), Const(float(tile)))), Map("first", (Iota(rank),))))
    parts = [p for found in late.values() for p in found.parts]
    kept: dict[Expr, Expr] = {p: Reduce("add", outer, Map("select", (at, p, Const(0.0)))) for p in parts}
    return _rebuilt(roots, late, kept, place)


def _passes(roots: Iterable[Expr], rank: Rank, layout: Layout, levels: Mapping[Expr, int]) -> int:
    """The loops over `rank`: an output that varies with it needs one of its own."""
    return max(levels[x] + (rank in layout.shape(x).loops) for x in roots)


def _levels(
    roots: Iterable[Expr], rank: Rank, layout: Layout, late: Mapping[Expr, _Late] | None = None
) -> dict[Expr, int]:
    """How many loops over `rank` must have ended before each node is known; `late` reductions run in none, and what
    they read of tiles is held when its own loop ends."""
    level: dict[Expr, int] = {}
    for x in topological(roots):
        below = max((level[a] for a in children(x)), default=0)
        if late and x in late:
            level[x] = max(below, *(level[p] + 1 for p in late[x].parts))
        else:
            level[x] = below + (isinstance(x, (Reduce, Fold)) and layout.loop_of(x.rank) == rank)
    return level


@dataclass(frozen=True)
class _Late:
    """A reduction over tiles: `parts` of its argument are given for each tile by earlier loops, `between` are the
    operations that join them to its argument."""

    parts: tuple[Expr, ...]
    between: frozenset[Expr]


def _late(x: Reduce, rank: Rank, levels: Mapping[Expr, int], layout: Layout) -> _Late | None:
    """How the argument of a reduction over tiles is made of parts that are known by the end of an earlier loop, each as
    large as possible. None where it needs the elements of a tile."""
    axis, parts, between, todo = layout.axis_of(rank), dict[Expr, None](), set[Expr](), [x.arg]
    one = Shape(frozenset((rank,)), frozenset((rank,)))
    while todo:
        part = todo.pop()
        if part in parts or part in between or not layout.shape(part).meets(one):
            continue
        # It needs elements of a tile, which are gone after the loop.
        if axis in layout.shape(part).axes:
            return None
        # Known by the end of an earlier loop: nothing further down has to be looked at.
        if levels[part] < levels[x] - 1:
            parts[part] = None
        elif isinstance(part, Map):
            between.add(part)
            todo += part.args
        else:
            return None
    return _Late(tuple(parts), frozenset(between)) if parts else None


def _new_rank(like: Rank, layout: Layout) -> Rank:
    return next(r for n in count(2) if not layout.knows(r := f"{like[0]}{n}"))


def _rebuilt(roots: Sequence[Expr], late: Mapping[Expr, _Late], kept: Mapping[Expr, Expr], place: Rank) -> list[Expr]:
    """The roots with `late` reductions over the axis `place`. kept: for each of their parts, the held tile."""
    new: dict[Expr, Expr] = {}

    def again(x: Expr) -> Expr:
        for node in topological([x], stop=new):
            new[node] = with_children(node, tuple(new[a] for a in children(node)))
        return new[x]

    for x in topological(roots):
        if isinstance(x, Reduce) and x in late:
            made = {p: again(kept[p]) for p in late[x].parts}
            for node in topological([x.arg], stop=made):
                if node in late[x].between:
                    made[node] = with_children(node, tuple(made.get(a, new[a]) for a in children(node)))
            new[x] = Reduce(x.op, place, made[x.arg])
        else:
            new[x] = with_children(x, tuple(new[a] for a in children(x)))
    return [new[r] for r in roots]
