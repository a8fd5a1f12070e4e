"""A reduction over a rank that programs share: cut there by the split law, into stages with workspaces between.

    R_m(x) = R_m1(R_m0(split x))

The inner half runs in one program for each part of m and leaves its results in a workspace; a later stage goes on
from the outer half. For a plain reduction that is the same reduction again; for a composite fold it is the monoid of
(reference, accumulator) pairs, so a part leaves both (`folds.Action.kept`, `merged`). A reduction that needs the
result of another over m is cut in a later stage, so that a cascade of n passes has n stages and one that merges.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from eintune.space.analysis.roots import Roots
from eintune.space.ir.expr import (
    Access,
    Const,
    Expr,
    Fold,
    Iota,
    Map,
    Rank,
    Reduce,
    Size,
    Split,
    Tensor,
    children,
    free,
    tensors,
    topological,
    with_children,
)
from eintune.space.ir.folds import ACTIONS
from eintune.space.plan.roles import IllegalPlan

Outputs = dict[str, tuple[Rank, ...]]


@dataclass(frozen=True)
class KernelStage:
    """What one kernel computes. halves: of the rank that its programs share, which they have parts of (outer) and
    go over (inner); None for the last stage, which only merges. over: ranks over parts that it merges."""

    expressions: tuple[Expr, ...]
    outputs: Outputs
    halves: tuple[Rank, Rank] | None
    over: tuple[Rank, ...]


def stages(source: Roots, rank: Rank, *, uneven: bool = False) -> list[KernelStage]:
    """The stages of a computation whose reductions over `rank` run in parts, in order. uneven: some parts may be empty.

    Raises IllegalPlan where nothing is reduced over the rank, or where another split stands in the way.
    """
    if source.halves:
        raise IllegalPlan("a rank is divided once", f"{sorted(source.halves)} are tiled by the cascade already")
    names = _Names(source, rank)
    left, found = list(source.expressions), list[KernelStage]()
    # From the leaves up, a stage for each level of reductions over the rank: those of one level are independent, and
    # one kernel makes all of them in one go over its part.
    while nodes := _lowest(left, rank):
        cut = _Cut(names.fresh_rank(), names.fresh_rank(), names, rank, uneven)
        merged = {x: cut.merged(x) for x in nodes}
        found.append(KernelStage(tuple(cut.partials), cut.outputs, (cut.outer, cut.inner), _over(cut.partials, found)))
        left = _replaced(left, merged)
    if not found:
        raise IllegalPlan("a rank in parts is reduced", f"nothing reduces {rank}")
    return [*found, KernelStage(tuple(left), source.outputs, None, _over(left, found))]


def _over(expressions: Iterable[Expr], before: Sequence[KernelStage]) -> tuple[Rank, ...]:
    """The ranks over parts that these expressions merge."""
    reduced = {x.rank for x in topological(expressions) if isinstance(x, Reduce)}
    return tuple(s.halves[0] for s in before if s.halves and s.halves[0] in reduced)


def _lowest(roots: Iterable[Expr], rank: Rank) -> list[Reduce | Fold]:
    """The reductions over the rank that need the result of no other."""
    above: set[Expr] = set()
    found: list[Reduce | Fold] = []
    for x in topological(roots):
        below = any(a in above for a in children(x))
        # A reduction of what does not vary with the rank goes over nothing.
        if isinstance(x, (Reduce, Fold)) and x.rank == rank and any(rank in free(a) for a in children(x)):
            if not below:
                found.append(x)
            below = True
        if below:
            above.add(x)
    return found


def _replaced(roots: Sequence[Expr], merged: Mapping[Reduce | Fold, Expr]) -> list[Expr]:
    new: dict[Expr, Expr] = {}
    for x in topological(roots):
        given = merged.get(x) if isinstance(x, (Reduce, Fold)) else None
        new[x] = given or with_children(x, tuple(new[a] for a in children(x)))
    return [new[r] for r in roots]


@dataclass
class _Cut:
    """One stage being made: the partial results that it writes, each once."""

    inner: Rank
    outer: Rank
    names: _Names
    rank: Rank
    uneven: bool
    outputs: Outputs = field(default_factory=dict)
    partials: dict[Expr, Tensor] = field(default_factory=dict)

    def merged(self, x: Reduce | Fold) -> Expr:
        """What a reduction is over the parts that this stage leaves."""
        if isinstance(x, Reduce):
            return Reduce(x.op, self.outer, self._left(x.op, Reduce(x.op, self.inner, self._split(x.arg))))
        action, arg = ACTIONS[x.action], self._split(x.arg)
        # A part's accumulator is relative to the part's own reference, so both are written: parts know nothing of
        # each other while they run.
        scores = [self._split(c) for c in x.scores]
        partial = action.kept(self.inner, scores, arg)
        kept = [p if p is None else self._left("reference", p) for p in partial]
        total = self._left("sum", Fold(x.action, self.inner, scores[0], arg, tuple(scores[1:])))
        size = Size(self.inner)
        # The last part may be shorter than the others.
        count = Map("min", (size, Size(self.rank) - Iota(self.outer) * size))
        count = Map("max", (count, Const(0.0))) if self.uneven else count
        return action.merged(self.outer, count, kept, x.arg, total)

    def _split(self, x: Expr) -> Expr:
        return Split(x, self.rank, self.outer, self.inner) if self.rank in free(x) else x

    def _left(self, stem: str, partial: Expr) -> Expr:
        """The workspace that a partial result is left in, as later stages read it."""
        # Folds of one score keep the same reference: it is written once.
        if partial not in self.partials:
            ranks = (self.outer, *self.names.ordered(free(partial) - {self.outer}))
            self.partials[partial] = Tensor(self.names.fresh_tensor(stem), ranks)
            self.outputs[self.partials[partial].name] = ranks
        tensor = self.partials[partial]
        return Access(tensor, tensor.ranks)


class _Names:
    """Names of ranks and of workspaces that a cascade does not use."""

    def __init__(self, source: Roots, rank: Rank) -> None:
        self._ranks = source.ranks()
        self._tensors = {*source.outputs, *tensors(source.expressions)}
        taken = {*self._ranks, *source.numbers(), *source.axes()}
        numbered = (f"{rank[0]}{n}" for n in itertools.count())
        self._unused = (name for name in numbered if name not in taken)

    def fresh_rank(self) -> Rank:
        return next(self._unused)

    def fresh_tensor(self, stem: str) -> str:
        """ "SUM", "SUMB", "SUMC", …: names of tensors are capital letters."""
        name = next(n for n in _lettered(stem.upper()) if n not in self._tensors)
        self._tensors.add(name)
        return name

    def ordered(self, ranks: Iterable[Rank]) -> list[Rank]:
        chosen = set(ranks)
        return [r for r in self._ranks if r in chosen]


def _lettered(stem: str) -> Iterator[str]:
    yield stem
    for first in ("", *"ABCDEFGHIJKLMNOPQRSTUVWXYZ"):
        for letter in "BCDEFGHIJKLMNOPQRSTUVWXYZ":
            yield f"{stem}{first}{letter}"
