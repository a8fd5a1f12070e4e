"""Bounds of a loop that follow from values: documents whose numbers must agree, and the like.

A `select` between something and a number whose condition says that an integer read along the loop's rank equals one
of the program's tile can hold only where the first lies within the range that the tile's spans. One look at the whole
row of integers, before the loop, finds the first and the last such index. Where the condition is false every reduction
of the loop must see its identity (`Masks.is_identity`), as for filters on ranks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, TypeAlias

from .expr import Access, Const, Expr, Iota, Map, Rank, topological
from .intervals import floor_to, plus
from .plan import Bound, Number, Value

if TYPE_CHECKING:
    from .builder import Builder, Scope

LONGEST = 2**13
"""Elements of a rank that a program looks at as one tile before a loop over it: 64 a thread of four warps."""
INTEGERS = ("int32", "int64", "int8")

Bounds: TypeAlias = tuple[list[Bound], list[Bound]]
"""Where a loop may start (the greatest of these) and stop (the least of these)."""


def conditions(wanted: Iterable[Expr]) -> Iterator[Expr]:
    """The equalities without which some `select` takes its number, each once."""
    found: dict[Expr, None] = {}
    for x in topological(list(wanted)):
        match x:
            case Map("select", (condition, _, Const())):
                found.update(dict.fromkeys(_equalities(condition)))
    yield from found


def _equalities(x: Expr) -> Iterator[Expr]:
    match x:
        case Map("and", (a, b)):
            yield from _equalities(a)
            yield from _equalities(b)
        case Map("eq", (Access(), Access())):
            yield x


def value_bounds(builder: Builder, rank: Rank, skipped: Iterable[Expr], around: Scope) -> Bounds:
    """What the equalities whose false tiles may be left out say of a loop over `rank` inside `around`."""
    low: list[Bound] = []
    high: list[Bound] = []
    tile = builder.layout.roles[rank].tile or 1
    for condition in skipped:
        for row, still in (condition.args, condition.args[::-1]) if isinstance(condition, Map) else ():
            if _is_row(builder, row, rank, around) and _is_still(builder, still, rank, around):
                assert isinstance(row, Access)
                first, last = _found(builder, rank, row, builder.value(still, around), around)
                size = builder.layout.sizes[rank]
                low.append(floor_to(Number(first, 0, 0, size), tile))
                high.append(plus(Number(last, size - 1, -1, size - 1), 1))
    return low, high


def _is_row(builder: Builder, x: Expr, rank: Rank, around: Scope) -> bool:
    """Whether it is integers along the rank, few enough for one look, that vary with nothing else in the loop."""
    if not isinstance(x, Access) or x.index.count(rank) != 1 or not _is_integer(builder, x):
        return False
    shape = builder.layout.shape(x)
    return shape.loops - {rank} <= around.ranks and builder.layout.sizes[rank] <= LONGEST


def _is_still(builder: Builder, x: Expr, rank: Rank, around: Scope) -> bool:
    """Whether it is integers that do not vary with the loop."""
    shape = builder.layout.shape(x)
    return _is_integer(builder, x) and not shape.meets(builder.layout.of_rank(rank)) and shape.loops <= around.ranks


def _is_integer(builder: Builder, x: Expr) -> bool:
    return isinstance(x, Access) and builder.dtypes[x.tensor.name] in INTEGERS


def _found(builder: Builder, rank: Rank, x: Access, still: Value, around: Scope) -> tuple[Value, Value]:
    """The first and the last index whose element lies in the range of a tile; |rank| and -1 where none does."""
    size, whole = builder.layout.sizes[rank], f"{rank}_all"
    builder.layout.add_axis(whole, size, 1 << (size - 1).bit_length(), beside=rank)
    row = builder.value(Access(x.tensor, tuple(whole if r == rank else r for r in x.index)), around)
    index = builder.value(Iota(whole), around)
    tests = [("ge", row, _extreme(builder, "min", still)), ("le", row, _extreme(builder, "max", still))]
    if builder.layout.tail(whole):
        tests.append(("lt", index, builder.value(Const(float(size)), around)))
    inside, *more = (builder.emit(op, (a, b), dtype="bool") for op, a, b in tests)
    for other in more:
        inside = builder.emit("and", (inside, other), dtype="bool")
    ends: list[Value] = []
    for reduction, default in (("min", float(size)), ("max", -1.0)):
        chosen = builder.emit("select", (inside, index, builder.value(Const(default), around)))
        ends.append(builder.emit("cast", (_extreme(builder, reduction, chosen),), dtype="int32"))
    first, last = ends
    return first, last


def _extreme(builder: Builder, op: str, v: Value) -> Value:
    """Of all elements of a tile; lanes beyond the tile's end hold 0 and can only widen a range."""
    while v.axes:
        v = builder.emit("reduce", (v,), (op, v.axes[-1]), axes=v.axes[:-1], dtype=v.dtype)
    return v
