"""What a computation does with each rank, which decides what roles a schedule may give it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from eintune.space.ir.expr import Access, Expr, Fold, Rank, Reduce, Where, free, topological
from eintune.space.ir.products import factors

from .filters import equalities
from .views import Halves

Kind = Literal["batch", "row", "grouped", "resident", "streamed", "contracted"]


@dataclass(frozen=True)
class Contraction:
    """A sum of products over `rank`: the free ranks of its operands, each with ranks that another lacks."""

    rank: Rank
    operands: tuple[frozenset[Rank], ...]


@dataclass(frozen=True)
class RankUses:
    """kinds, by rank:

    batch       an output rank that every operand of every contraction has, or that runs together with a streamed one:
                one index of it is a problem of its own
    row         an output rank that no contraction lacks, the longest of those that run together (where there are no
                products the innermost, if elements lie side by side along it): tiled freely
    grouped     another of those that run together with a row (the query heads of one key head, say)
    resident    an output rank that some contraction lacks: a tile of it repeats that contraction
    streamed    a reduced rank that a pass runs over
    contracted  a reduced rank of a sum only

    halves: ranks that stay split. filtered: whether any filter is there, or an equality that selects; coupled: whether
    a filter ties a streamed rank to another, so that programs differ in length. packs_with: the row that each grouped
    rank runs together with."""

    kinds: Mapping[Rank, Kind]
    halves: Halves
    filtered: bool
    coupled: bool
    products: bool
    packs_with: Mapping[Rank, Rank] = field(default_factory=dict)

    def of(self, kind: Kind) -> list[Rank]:
        return [r for r, k in self.kinds.items() if k == kind]


def contractions(roots: Sequence[Expr], halves: Halves) -> list[Contraction]:
    """Every sum of products whose factors have ranks of their own, the weight of a fold being a factor."""
    found = []
    whole = {half: rank for rank, pair in halves.items() for half in pair}
    for x in topological(roots):
        match x:
            case Reduce("add"):
                parts = factors(x.arg)
            case Fold():
                parts = [*x.scores, *factors(x.arg)]
            case _:
                continue
        rank = whole.get(x.rank, x.rank)
        operands = _operands([free(f) for f in parts if rank in free(f)])
        if len(operands) > 1:
            found.append(Contraction(rank, tuple(operands)))
    return found


def _operands(parts: list[frozenset[Rank]]) -> list[frozenset[Rank]]:
    operands: list[frozenset[Rank]] = []
    for ranks in sorted(parts, key=len, reverse=True):
        if not any(ranks <= o for o in operands):
            operands.append(ranks)
    return operands


def reduced_ranks(roots: Sequence[Expr], halves: Halves) -> dict[Rank, bool]:
    """Every reduced rank, and whether a maximum or a fold runs over it (a plain sum does not count)."""
    whole = {half: rank for rank, pair in halves.items() for half in pair}
    reduced: dict[Rank, bool] = {}
    for x in topological(roots):
        if isinstance(x, (Reduce, Fold)):
            rank = whole.get(x.rank, x.rank)
            reduced[rank] = reduced.get(rank, False) or isinstance(x, Fold) or x.op != "add"
    return reduced


def batch_ranks(roots: Sequence[Expr], halves: Halves) -> frozenset[Rank]:
    """Ranks that every operand of every contraction has, and that nothing reduces."""
    products = contractions(roots, halves)
    if not products:
        return frozenset()
    shared = frozenset.intersection(*(o for c in products for o in c.operands))
    return shared - set(reduced_ranks(roots, halves))


def rank_uses(
    roots: Sequence[Expr], halves: Halves, ranks: Sequence[Rank], sizes: Mapping[Rank, int], long: int
) -> RankUses:
    """Classify every rank. long: a reduced rank of more elements is streamed even if it is only summed."""
    products = contractions(roots, halves)
    reduced = reduced_ranks(roots, halves)
    batch = batch_ranks(roots, halves)
    statistics = {r for r, is_statistic in reduced.items() if is_statistic} | set(halves)
    if not statistics and reduced:
        statistics = {max(reduced, key=lambda r: sizes[r])}
    kinds: dict[Rank, Kind] = {}
    rows: dict[object, list[Rank]] = {}
    packs_with: dict[Rank, Rank] = {}
    for r in ranks:
        if r in reduced:
            kinds[r] = "streamed" if r in statistics or sizes[r] > long else "contracted"
        elif r in batch:
            kinds[r] = "batch"
        elif all(r in frozenset.union(*c.operands) for c in products):
            rows.setdefault(_membership(r, products), []).append(r)
        else:
            kinds[r] = "resident"
    # What lies along one axis with a rank that is gone over would be another loop around that.
    innermost = {x.index[-1] for x in topological(roots) if isinstance(x, Access) and x.index}
    beside = {_membership(r, products) for r, kind in kinds.items() if kind == "streamed"} if products else set()
    kinds |= {r: "batch" for membership in beside for r in rows.pop(membership, [])}
    for together in rows.values():
        row = max(reversed(together), key=lambda r: sizes[r]) if reduced else together[-1]
        # Sums of elements only read and write: along the innermost axis lie those that one access fetches together.
        row = together[-1] if not products and together[-1] in innermost else row
        kinds |= {r: "row" if r == row else "grouped" for r in together}
        packs_with |= {r: row for r in together if r != row}
    compared = bool(equalities(list(roots)))
    filters = [x.predicate for x in topological(roots) if isinstance(x, Where)]
    tied = [{t.rank for t in p.terms} for p in filters]
    coupled = any(len(ranks) > 1 and any(kinds[r] == "streamed" for r in ranks) for ranks in tied)
    return RankUses(
        {r: kinds[r] for r in ranks}, halves, bool(filters) or compared, coupled, bool(products), packs_with
    )


def _membership(rank: Rank, products: list[Contraction]) -> object:
    """Which operands have the rank: ranks with the same answer lie along one axis of every product."""
    return tuple(tuple(rank in o for o in c.operands) for c in products)
