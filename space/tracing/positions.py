"""Positions of a score as sums over ranks, and such sums as numbers that may address an axis."""

from __future__ import annotations

from collections.abc import Mapping

from eintune.space.ir.expr import Computed, Integer, Rank, Size

from .site import Site


def position_terms(site: Site, axis: str) -> dict[tuple[Rank, Rank | None], int]:
    """A position in terms of its ranks: a query head of a group is h * |g| + g."""
    ranks = site.ranks(axis)
    return {(r, ranks[i + 1] if i + 1 < len(ranks) else None): 1 for i, r in enumerate(ranks)}


def integer_of(terms: Mapping[tuple[Rank, Rank | None], int], const: int) -> Integer:
    """A combination of positions as a number that may address an axis."""
    found: Integer | None = None
    for (rank, stride), coef in sorted(terms.items(), key=lambda item: -item[1]):
        term: Integer = Computed("mul", (rank, Size(stride))) if stride else rank
        term = term if abs(coef) == 1 else Computed("mul", (term, abs(coef)))
        if found is None:
            found = term if coef > 0 else Computed("neg", (term,))
        else:
            found = Computed("add" if coef > 0 else "sub", (found, term))
    if found is None:
        return const
    return found if const == 0 else Computed("add" if const > 0 else "sub", (found, abs(const)))
