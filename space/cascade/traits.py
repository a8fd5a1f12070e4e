"""What tells one way of computing from another: passes, folds, tiling, and where divisions stand.

A *stream* is a rank that is reduced, with the two ranks that split it if any. A reduction over the rank (or over its
tiles) is a barrier, since what reads its result and still varies with the rank must go over the rank again (FuseMax,
arXiv 2406.10491); `timing.py` counts passes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from eintune.space.ir.expr import Expr, Fold, Map, Rank, Reduce, Split, children, free, topological

from .one_pass import passes_of

COSTLY = frozenset({"exp", "log", "exp2", "log2", "tanh", "erf", "sigmoid", "silu", "sqrt", "recip", "sin", "cos"})


@dataclass(frozen=True)
class Stream:
    """A reduced rank and, where it is split, the ranks over tiles and within a tile."""

    rank: Rank
    outer: Rank | None = None
    inner: Rank | None = None

    def role(self, rank: Rank) -> str | None:
        """ "whole", "outer" or "inner"; None for a rank of no concern to this stream."""
        return {self.rank: "whole", self.outer: "outer", self.inner: "inner"}.get(rank)

    def barrier(self, rank: Rank) -> bool:
        return rank in (self.rank, self.outer)

    def element(self, ranks: Iterable[Rank]) -> bool:
        """Whether something that varies with these ranks varies within the stream."""
        return bool({self.rank, self.outer, self.inner} & set(ranks))


@dataclass(frozen=True, order=True)
class Trait:
    """One feature of a form.

    kind: "reduce" or "fold" (what: operator or action, where: role), "tiled", "division" (where: "inside" the
    stream or "after" it), "correction" (a factor per tile), "sum" (where there is no stream: the ranks that a
    reduction goes over, which is the order of the products). stream: the rank.
    """

    kind: str
    what: str
    where: str
    stream: Rank

    @property
    def work(self) -> bool:
        """Whether more of these means more to do; the others say how a form is laid out."""
        return self.kind in ("reduce", "fold")


def traits(
    head: Expr, ranks: frozenset[Rank], below: Sequence[frozenset[Rank]], streams: Sequence[Stream]
) -> Iterator[Trait]:
    """The features of one node that varies with `ranks`, over operands that vary with `below` each.

    A division by what varies with no rank is a multiplication by a number and no feature.
    """
    for s in streams:
        match head:
            case Reduce() | Fold() if (role := s.role(head.rank)) is not None:
                kind, what = ("fold", head.action) if isinstance(head, Fold) else ("reduce", head.op)
                yield Trait(kind, what, role, s.rank)
                if role != "whole":
                    yield Trait("tiled", "", "", s.rank)
            case Map(op="div") if below[1]:
                yield Trait("division", "", "inside" if s.element(ranks) else "after", s.rank)
            case Map() if head.op in COSTLY and s.outer in ranks and s.inner not in ranks:
                yield Trait("correction", "", "", s.rank)
    if not streams and isinstance(head, (Reduce, Fold)):
        over = ",".join(sorted({r for b in below for r in b}))
        yield Trait("sum", head.action if isinstance(head, Fold) else head.op, over, head.rank)


def traits_of(roots: Sequence[Expr], streams: Sequence[Stream]) -> frozenset[Trait]:
    """All features of a graph."""
    found: set[Trait] = set()
    for x in topological(roots):
        found.update(traits(x, free(x), [free(a) for a in children(x)], streams))
    return frozenset(found)


def streams_of(roots: Sequence[Expr]) -> tuple[Stream, ...]:
    """Every reduced rank of a graph, tiles and insides of a split under the rank that they split."""
    nodes = topological(roots)
    split = {x.rank: Stream(x.rank, x.outer, x.inner) for x in nodes if isinstance(x, Split)}
    parts = {r for s in split.values() for r in (s.outer, s.inner)}
    found: dict[Rank, Stream] = dict(split)
    for x in nodes:
        if isinstance(x, (Reduce, Fold)) and x.rank not in parts:
            found.setdefault(x.rank, Stream(x.rank))
    return tuple(found.values())


def levels(roots: Sequence[Expr], stream: Stream) -> int:
    """The barriers one after the other, and one more where an output varies with the stream: at least its passes
    (`timing.passes`), which a barrier over tiles' own values alone is none of. Forms are extracted in this order."""
    level: dict[Expr, int] = {}
    for x in topological(roots):
        below = max((level[a] for a in children(x)), default=0)
        barrier = isinstance(x, (Reduce, Fold)) and stream.barrier(x.rank)
        level[x] = below + barrier * (passes_of(x) if isinstance(x, Fold) else 1)
    return max(level[r] + stream.element(free(r)) for r in roots)
