"""Which element of its tensor an indexed access reads, as a condition on that element's own index."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from eintune.space.ir.expr import Access, Const, Expr, Gather, Integer, Iota, Part, Rank, Size

from .rules import op


def selections(x: Gather, ranks: Sequence[Rank], kept: Collection[Rank] = ()) -> Expr:
    """1 where the element at `ranks` is the one that `x` reads; those of `kept` are ranks that iterate x too."""
    made: Expr | None = None
    for rank, i in zip(ranks, x.index, strict=True):
        if rank not in kept:
            same = op("eq", Iota(rank), number(i))
            made = same if made is None else op("and", made, same)
    assert made is not None, "an indexed access has an axis that no rank iterates"
    return made


def number(i: Integer) -> Expr:
    """What addresses an axis, as an expression."""
    match i:
        case str():
            return Iota(i)
        case Part("//", rank, by):
            return op("floor", op("div", Iota(rank), float(by)))
        case Part(_, rank, by):
            whole = op("floor", op("div", Iota(rank), float(by)))
            return op("sub", Iota(rank), op("mul", whole, float(by)))
        case Access() | Gather() | Size():
            return i
        case int():
            return Const(float(i))
        case _:
            return op(i.op, *map(number, i.args))
