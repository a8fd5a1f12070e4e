"""Writing definitions: einsums one after the other, and short names for what they are made of."""

from __future__ import annotations

from collections.abc import Iterable

from eintune.space.ir.einsum import Einsum
from eintune.space.ir.expr import Access, Expr, Map, Predicate, Rank, Reduce, Tensor, Term, as_expr

from .cascade import Cascade


class Writer:
    """Writes a cascade einsum by einsum; each call returns the new tensor, ready to be read."""

    def __init__(self) -> None:
        self.einsums: list[Einsum] = []

    def __call__(self, name: str, ranks: Iterable[Rank], expr: Expr) -> Expr:
        """`name[ranks] = expr`; ranks of one letter may be one string."""
        tensor = Tensor(name, tuple(ranks))
        self.einsums.append(Einsum(tensor, expr))
        return Access(tensor, tensor.ranks)

    def done(self, *results: str) -> Cascade:
        """The cascade; its results are those named, or the last tensor."""
        return Cascade(tuple(self.einsums), results or (self.einsums[-1].output.name,))


def given(name: str, ranks: Iterable[Rank], kind: str = "float") -> Expr:
    """An input, read whole."""
    tensor = Tensor(name, tuple(ranks), kind)
    return Access(tensor, tensor.ranks)


def total(rank: Rank, x: Expr) -> Expr:
    return Reduce("add", rank, x)


def top(rank: Rank, x: Expr) -> Expr:
    return Reduce("max", rank, x)


def apply(op: str, *args: Expr | float) -> Expr:
    """A pointwise operator of `pointwise.POINTWISE`."""
    return Map(op, tuple(as_expr(a) for a in args))


def exp(x: Expr) -> Expr:
    return apply("exp", x)


def at_least_zero(const: int = 0, sizes: dict[Rank, int] | None = None, **coefs: int) -> Predicate:
    """The filter sum(coef * rank) + sum(c * |r|) + const >= 0, negative terms first as they are written."""
    terms = tuple(Term(r, c) for r, c in sorted(coefs.items(), key=lambda item: item[1]))
    return Predicate(terms, tuple((sizes or {}).items()), const)
