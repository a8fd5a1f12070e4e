"""What a split of a rank into tiles is called, and where its indices are valid."""

from __future__ import annotations

from dataclasses import dataclass

from .expr import Expr, Predicate, Rank, Split, Term


@dataclass(frozen=True)
class SplitOf:
    """A rank and the two that split it: index(rank) = index(outer) * |inner| + index(inner)."""

    rank: Rank
    outer: Rank
    inner: Rank

    def view(self, x: Expr) -> Expr:
        return Split(x, self.rank, self.outer, self.inner)


def split_predicate(p: Predicate, s: SplitOf) -> Predicate | None:
    """The same filter on the split rank; None where the rank already has a stride (a split of a split)."""
    terms: list[Term] = []
    for t in p.terms:
        if t.rank != s.rank:
            terms.append(t)
        elif t.stride is not None:
            return None
        else:
            terms += [Term(s.outer, t.coef, s.inner), Term(s.inner, t.coef)]
    return Predicate(tuple(terms), p.sizes, p.const)
