"""Keys and values in pages that a table names."""

from __future__ import annotations

from collections.abc import Sequence

from eintune.space.ir.expr import Expr, Part, Rank, Tensor, access


def in_pages(cache: str, ranks: Sequence[Rank], page: int) -> Expr:
    """`cache[BT[b,m//page],m%page,h,…]`: key m of sequence b lies in the page that the table names. ranks: of the
    cache, a page and a place on it first."""
    table = access(Tensor("BT", ("b", "j"), "int"), ("b", Part("//", "m", page)))
    return access(Tensor(cache, tuple(ranks)), (table, Part("%", "m", page), *ranks[2:]))
