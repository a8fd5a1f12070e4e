"""Bounds of a loop that follow from values: documents whose numbers must agree, and the like.

A `select` between something and a number whose condition says that an integer read along the loop's rank equals one
of the program's tile can hold only where the first lies within the range that the tile's spans, and holds for the
whole tile where that range is one number. One look at the whole row of integers, before the loop, finds the first and
the last index that agrees, and whether all between them do. Where the condition is false every reduction of the loop
must see its identity (`Masks.is_identity`), as for filters on ranks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from eintune.space.analysis.filters import conditions, equalities
from eintune.space.analysis.intervals import Range
from eintune.space.ir.dtypes import INTEGERS
from eintune.space.ir.expr import Access, Expr, Map, Rank, indexing_ranks
from eintune.space.ir.pointwise import POINTWISE
from eintune.space.plan.bounds import Bound, First, Lit, Number, ceil_to, floor_to, greatest, least, plus, total
from eintune.space.plan.sizes import Derived
from eintune.space.plan.values import Cast, Constant, Index, Value

from .plan_builder import PlanBuilder
from .scope import PlanScope

LONGEST = 2**13
"""Elements of a rank that a program looks at as one tile before a loop over it: 64 a thread of four warps."""
STRETCHES = 4
"""How many different numbers (documents) a sequence is assumed to have when a loop that they bound is priced."""

Computed: TypeAlias = list[tuple[Range, Value | None]]
"""For each condition the range that it bounds a loop to, and, where it is asked on which whole tiles it holds, its
value in the loop's body."""


def value_bounds(
    builder: PlanBuilder, rank: Rank, wanted: list[Expr], skips: Callable[[Expr], bool], body: PlanScope, split: bool
) -> Computed:
    """The ranges in which equalities of a loop's body can hold, one for each equality that bounds the loop over `rank`.

    wanted: the expressions that the loop computes; body: its scope, already filled. skips: whether tiles where an
    equality is false may be left out. split: whether the loop gets a range in which filters are known to hold, so that
    it is asked where an equality holds on whole tiles (of a `select` whose conditions are all such equalities).
    """
    around = body.parent
    assert around is not None
    # For each equality that allows skipping: its side that runs along the loop, and the side that stands still.
    sides = {c: s for c in equalities(wanted) if skips(c) and (s := _sides(builder, rank, c, around))}
    # A `select` is known to hold on whole tiles only if all that it asks for is known there.
    asked = {c for every in conditions(wanted) if split and all(c in sides for c in every) for c in every}
    made: Computed = []
    for c, (row, still) in sides.items():
        # The very value that the body's `select` reads: that it is known in a segment is what removes the `select`
        # there.
        value = next((s.values[c] for s in body.chain() if c in s.values), None) if c in asked else None
        look = _Look(builder, rank, around)
        made.append((look.range(row, still, builder.value(still, around), clear=value is not None), value))
    return made


def _sides(builder: PlanBuilder, rank: Rank, condition: Expr, around: PlanScope) -> tuple[Access, Expr] | None:
    """The two sides of an equality: the access that runs along the rank, and what it is compared with, which does not
    vary with the loop. None for other equalities."""
    assert isinstance(condition, Map)
    for row, still in (condition.args, condition.args[::-1]):
        if isinstance(row, Access) and _is_row(builder, row, rank, around) and _is_still(builder, still, rank, around):
            return row, still
    return None


def _is_row(builder: PlanBuilder, x: Access, rank: Rank, around: PlanScope) -> bool:
    """Whether it is integers along the rank, few enough for one look, that vary with nothing else in the loop."""
    if x.index.count(rank) != 1 or not _is_integer(builder, x):
        return False
    shape = builder.layout.shape(x)
    return shape.loops - {rank} <= around.ranks and builder.layout.sizes.within(rank, LONGEST)


def _is_still(builder: PlanBuilder, x: Expr, rank: Rank, around: PlanScope) -> bool:
    """Whether it is integers that do not vary with the loop."""
    shape = builder.layout.shape(x)
    return _is_integer(builder, x) and not shape.meets(builder.layout.of_rank(rank)) and shape.loops <= around.ranks


def _is_integer(builder: PlanBuilder, x: Expr) -> bool:
    return isinstance(x, Access) and builder.dtypes[x.tensor.name] in INTEGERS


@dataclass(frozen=True)
class _Look:
    """One look at all integers along a rank, before a loop over it."""

    builder: PlanBuilder
    rank: Rank
    around: PlanScope

    def range(self, row: Access, rows: Expr, still: Value, clear: bool) -> Range:
        """The range of indices at which `row` lies between the least and the greatest number of the program's tile.

        still: the value of that tile, and rows: its expression. clear: whether to find also the indices at which `row`
        equals every number of the tile (the range's `all_lo` and `all_hi`): from the first to the last that agree, if
        all between them do; else an empty range.

        For the cost model a sequence that is compared with itself has `STRETCHES` documents of equal length; any other
        two agree everywhere, which is the longest loop.
        """
        rank, sizes = self.rank, self.builder.layout.sizes
        size, most = self.size(), sizes.most(rank)
        tile = self.builder.layout.roles[rank].tile or 1
        least, greatest = self.builder.least(still), self.builder.greatest(still)
        # A superset of what agrees with some row of the tile: within the range of the tile's numbers. Exact for
        # sorted sequences, as documents packed one after another are; for others merely fewer tiles are skipped.
        index, agrees = self.agreement(row, least, greatest)
        # An index where there is agreement, else beyond the end (or before the start): a minimum and a maximum then
        # give the first and the last. With none the range is empty.
        after = self.apply(f"{rank}_agree", "select", agrees, index, size)
        before = self.apply(f"{rank}_agree", "select", agrees, index, self.integer(-1))
        first = self.builder.of_tile("min", after, f"{rank}_agree_first")
        last = self.builder.of_tile("max", before, f"{rank}_agree_last")
        low, high = self.stretch(rows)
        start, end = Number(first, low, 0, most), plus(Number(last, plus(high, -1), -1, most - 1), 1)
        if not clear:
            return Range(floor_to(start, tile), end, sizes.bound(rank), Lit(0))
        # If the tile's rows have several numbers no element equals all of them.
        is_one = () if least is greatest else (self.apply(f"{still.name}_is_one", "eq", least, greatest),)
        # Unless all between first and last agree there is no mask-free range: a stop of 0 makes it empty.
        stop = self.unbroken(agrees, index, first, last, is_one)
        return Range(floor_to(start, tile), end, ceil_to(start, tile), floor_to(Number(stop, high, 0, most), tile))

    def stretch(self, rows: Expr) -> tuple[Bound, Bound]:
        """The first index of what is assumed to agree with a tile, and the one after its last."""
        layout, end = self.builder.layout, self.builder.layout.sizes.bound(self.rank)
        ranks = indexing_ranks(rows) if isinstance(rows, Access) else ()
        along = [r for r in ranks if r != self.rank and layout.roles[r].outer == "grid" and self.is_as_long(r)]
        if not along:
            return Lit(0), end
        size, at = layout.sizes, First(along[-1])
        if self.rank in size:
            length = -(-size[self.rank] // STRETCHES)
            start = floor_to(at, length)
            return start, least([plus(start, length), end])
        # No bound is a multiple of a size: as if each tile stood in the middle of its document.
        half = f"{self.rank}_stretch"
        layout.sizes = size.deriving(half, Derived(self.rank, by=2 * STRETCHES))
        around = layout.sizes.bound(half)
        return greatest([total([(1, at), (-1, around)], 0), Lit(0)]), least([total([(1, at), (1, around)], 0), end])

    def is_as_long(self, rank: Rank) -> bool:
        """Whether a rank may be the one that is looked along: of unknown sizes nothing says that they differ."""
        sizes = self.builder.layout.sizes
        return sizes[rank] == sizes[self.rank] if {rank, self.rank} <= sizes.keys() else rank in sizes.ranges

    def agreement(self, row: Access, least: Value, greatest: Value) -> tuple[Value, Value]:
        """The rank's indices, and where the row lies within a range; never beyond its end."""
        layout, whole = self.builder.layout, f"{self.rank}_all"
        layout.add_axis(
            whole, Derived(self.rank), 1 << (layout.sizes.most(self.rank) - 1).bit_length(), beside=self.rank
        )
        numbers = self.builder.value(
            Access(row.tensor, tuple(whole if r == self.rank else r for r in row.index)), self.around
        )
        index = self.builder.emit(
            Index(rank=whole, dtype="int32"), self.around, axes=(whole,), name=f"{self.rank}_index"
        )
        agrees = self.apply(
            "agrees", "and", self.apply("ge", "ge", numbers, least), self.apply("le", "le", numbers, greatest)
        )
        if layout.tail(whole):
            agrees = self.apply("agrees", "and", agrees, self.apply("lt", "lt", index, self.size()))
        return index, agrees

    def unbroken(self, agrees: Value, index: Value, first: Value, last: Value, is_one: tuple[Value, ...]) -> Value:
        """The end of the indices that agree with the one number of a tile: as many from the first one on as there
        are, if the last one is among them, else 0."""
        (whole,) = index.axes
        each = self.builder.emit(Cast(args=(agrees,), dtype="int32"))
        each = self.builder.of_tile("min", each, "agrees", keep=(whole,))  # an index agrees where every row does
        count = self.builder.of_tile("add", each, f"{self.rank}_agree_count")
        end = self.apply(f"{self.rank}_agree_end", "add", first, count)
        clear = self.apply("unbroken", "lt", last, end)
        for condition in is_one:
            clear = self.apply("clear", "and", condition, clear)
        return self.apply(f"{self.rank}_agree_to", "select", clear, end, self.integer(0))

    def size(self) -> Value:
        """The number of elements of the rank."""
        return self.builder.size_of(self.rank, self.around)

    def integer(self, n: int) -> Value:
        return self.builder.emit(Constant(number=float(n), dtype="int32"), self.around)

    def apply(self, name: str, op: str, *args: Value) -> Value:
        dtype = "bool" if POINTWISE[op].boolean else "int32"
        return self.builder.apply(op, *args, dtype=dtype, name=name)
