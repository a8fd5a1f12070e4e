"""The one global order of ranks that every tile's axes follow."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from .expr import Access, Expr, Rank, Reduce, free, topological
from .normal_form import factors


def rank_order(roots: Sequence[Expr], outputs: Mapping[str, tuple[Rank, ...]], ranks: Iterable[Rank]) -> tuple[Rank, ...]:
    """Batch ranks first, then as the tensors have their axes, outputs' ranks before others where that is open.

    Tensors that disagree are served in order of appearance, outputs first.
    """
    batch = batch_ranks(roots)
    tensors = [*outputs.values(), *(x.index for x in topological(roots) if isinstance(x, Access))]
    after: dict[Rank, set[Rank]] = {r: set() for r in ranks}
    for index in tensors:
        for i, r in enumerate(index):
            after[r] |= {q for q in index[:i] if q not in batch or r in batch}
    base = sorted(after, key=lambda r: r not in batch)
    order: list[Rank] = []
    while base:
        ready = (r for r in base if not (after[r] - set(order)) & set(base))
        order.append(next(ready, base[0]))
        base.remove(order[-1])
    return tuple(order)


def batch_ranks(roots: Sequence[Expr]) -> frozenset[Rank]:
    """Ranks that every factor of every contraction has: a batch of products, one for each index."""
    shared: frozenset[Rank] | None = None
    for operands, rank in contractions(roots):
        common = frozenset.intersection(*operands) - {rank}
        shared = common if shared is None else shared & common
    reduced = {x.rank for x in topological(roots) if isinstance(x, Reduce)}
    return (shared or frozenset()) - reduced


def contractions(roots: Sequence[Expr]) -> list[tuple[list[frozenset[Rank]], Rank]]:
    """The free ranks of the operands of each sum of products whose factors have ranks of their own."""
    found = []
    for x in topological(roots):
        for arg, rank in summed(x):
            operands = operand_ranks([f for f in factors(arg) if rank in free(f)])
            if len(operands) > 1:
                found.append((operands, rank))
    return found


def summed(x: Expr) -> list[tuple[Expr, Rank]]:
    """The product and rank of a sum."""
    return [(x.arg, x.rank)] if isinstance(x, Reduce) and x.op == "add" else []


def operand_ranks(parts: Sequence[Expr]) -> list[frozenset[Rank]]:
    """Factors joined into operands: one whose ranks another has joins it."""
    operands: list[frozenset[Rank]] = []
    for f in sorted(parts, key=lambda f: -len(free(f))):
        if not any(free(f) <= o for o in operands):
            operands.append(free(f))
    return operands
