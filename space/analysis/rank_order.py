"""The one global order of ranks that every tile's axes follow."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from eintune.space.ir.expr import Access, Expr, Gather, Rank, indexing_ranks, topological


def rank_order(
    roots: Sequence[Expr], outputs: Mapping[str, tuple[Rank, ...]], ranks: Iterable[Rank], batch: frozenset[Rank]
) -> tuple[Rank, ...]:
    """Batch ranks first, then as the tensors have their axes, outputs' ranks before others where that is open.

    Tensors that disagree are served in order of appearance, outputs first.
    """
    tensors = [*outputs.values(), *(indexing_ranks(x) for x in topological(roots) if isinstance(x, (Access, Gather)))]
    after: dict[Rank, set[Rank]] = {r: set() for r in ranks}
    for index in tensors:
        for i, r in enumerate(index):
            after[r] |= {q for q in index[:i] if q not in batch or r in batch}
    base = sorted(after, key=lambda r: r not in batch)
    order: list[Rank] = []
    while base:
        ready = (r for r in base if not after[r] & set(base))
        order.append(next(ready, base[0]))
        base.remove(order[-1])
    return tuple(order)
