"""More axes for a whole computation: the same for every index of new ranks, such as a batch and heads."""

from __future__ import annotations

from collections.abc import Sequence

from eintune.space.ir.einsum import CascadeError, Einsum
from eintune.space.ir.expr import Access, Expr, Rank, Tensor, rewrite
from eintune.space.ir.names import RANK

from .cascade import Cascade


def over(cascade: Cascade, ranks: Sequence[Rank]) -> Cascade:
    """The cascade with `ranks` as the first axes of every tensor. Raises CascadeError for a rank that it has already
    or that is none."""
    new = tuple(ranks)
    taken = set(cascade.ranks()) | {r for t in cascade.inputs.values() for r in t.ranks}
    wrong = [r for r in new if r in taken or not RANK.fullmatch(r) or new.count(r) > 1]
    if wrong:
        raise CascadeError(
            f"new ranks are [a-z][0-9]* and different from all others ({sorted(taken)}), but got {wrong}"
        )

    def step(x: Expr) -> Expr | None:
        return Access(_more(x.tensor, new), (*new, *x.index)) if isinstance(x, Access) else None

    exprs = rewrite([e.expr for e in cascade.einsums], step)
    einsums = (Einsum(_more(e.output, new), x) for e, x in zip(cascade.einsums, exprs, strict=True))
    return Cascade(tuple(einsums), cascade.results)


def _more(tensor: Tensor, new: tuple[Rank, ...]) -> Tensor:
    return Tensor(tensor.name, (*new, *tensor.ranks), tensor.kind)
