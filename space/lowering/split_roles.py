"""The roles of the kernels that a loop in parts makes: the given ones where parts run, small tiles where they merge."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from eintune.space.analysis.normal_form import bind_sizes
from eintune.space.analysis.roots import Roots
from eintune.space.analysis.views import erase_views
from eintune.space.ir.expr import Fold, Rank, Reduce, topological
from eintune.space.plan.roles import IllegalPlan, LoopSplit, Role, split_length
from eintune.space.plan.sizes import Derived, Sizes

from .packing import Stored
from .split_reduction import KernelStage


@dataclass(frozen=True)
class Placed:
    """One stage with everything that a plan takes. splits: of the ranks that it runs a part of, what says which part.
    stored: what addresses the axes of outputs, where that is more than a rank each."""

    roots: Roots
    roles: Mapping[Rank, Role]
    sizes: Sizes
    splits: Mapping[Rank, LoopSplit]
    stored: Stored = field(default_factory=dict)


def placed(
    found: Sequence[KernelStage],
    rank: Rank,
    roles: Mapping[Rank, Role],
    sizes: Sizes,
    merged: int,
    stored: Stored,
) -> Iterator[Placed]:
    """The stages laid out. merged: most elements of a tile of the last stage, whose outputs `stored` is about.

    Raises IllegalPlan where the divided rank is no loop.
    """
    role = roles[rank]
    if role.outer != "loop":
        raise IllegalPlan("a rank in parts is a loop", f"{rank} is {role}")
    # In whole tiles, so the last part may be shorter and there may be fewer parts than asked for. Where the size is not
    # known there are as many as asked for, of which the last ones may be empty.
    tile, unknown = role.tile or 1, rank in sizes.ranges
    length = 0 if unknown else split_length(sizes[rank], tile, role.num_splits)
    count = role.num_splits if unknown else -(-sizes[rank] // length)
    # The merging kernel has all parts of a row at hand: a whole axis, rounded up to a power of two.
    axis = Role(None, 1 << (count - 1).bit_length())
    given = {**roles, rank: replace(role, num_splits=1)}
    known = sizes
    for stage in found:
        here = given | dict.fromkeys(stage.over, axis)
        if stage.halves is None:
            source = Roots(tuple(bind_sizes(stage.expressions, known)), stage.outputs, {})
            yield Placed(source, here | _merging(source, here, sizes, merged // (axis.tile or 1)), known, {}, stored)
            continue
        outer, inner = stage.halves
        known = known.plus({outer: count})
        if unknown:
            known = known.deriving(inner, Derived(rank, by=tile * role.num_splits, step=tile))
        else:
            known = known.plus({inner: length})
        expressions, halves = erase_views(stage.expressions)
        source = Roots(tuple(bind_sizes(expressions, known)), stage.outputs, halves)
        yield Placed(source, here | {outer: Role("grid", None)}, known, {rank: LoopSplit(outer, length or inner)})


def _merging(source: Roots, roles: Mapping[Rank, Role], sizes: Sizes, most: int) -> dict[Rank, Role]:
    """Roles of the last stage: as many of the largest output's inner ranks are axes as `most` elements allow, the
    others are iterated by programs."""
    reduced = {x.rank for x in topological(source.expressions) if isinstance(x, (Reduce, Fold))}
    largest = max(source.outputs.values(), key=len)
    others = [r for r in source.ranks() if r not in largest]
    found: dict[Rank, Role] = {}
    for r in reversed([*others, *largest]):
        if r in reduced:
            continue
        tile = roles[r].tile
        # Rows from the innermost outwards, as long as a program's tile has room: merging only streams, so what counts
        # is that loads lie side by side.
        fits = tile is not None and tile <= most and tile <= sizes.most(r)
        if tile is not None and (fits or r == largest[-1]):
            tile = min(tile, max(most, 1))
            found[r] = Role("grid" if tile < sizes.most(r) else None, tile)
            most //= tile
        else:
            found[r] = Role("grid", None)
    return found
