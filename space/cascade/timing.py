"""When each step of a computation can run as a rank is gone over: the one count of passes that all others are read off.

After FuseMax (arXiv 2406.10491): a pass is a traversal of every element of a fiber of a rank; what must be visited
again after all others of its fiber were visited costs one more pass. A *barrier* is a reduction that must see all of
the rank (over m, or over m1 where m1 and m0 are its parts; over m0 it is local to a tile). What goes over the outer
part alone, one value a tile, traverses no element: it takes no pass of its own.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from eintune.space.ir.expr import (
    Access,
    Const,
    Expr,
    Fold,
    Gather,
    Iota,
    Param,
    Rank,
    Reduce,
    Size,
    Split,
    Unsplit,
    children,
    free,
    rewrite,
    topological,
)

from .one_pass import written_out

K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True)
class Step(Generic[K]):
    """One operation. operands: the steps that it reads. domain: the ranks that it iterates, those that it reduces too.
    free: those of its result. reduced: the rank that it reduces. view: whole, outer and inner of a split or unsplit."""

    output: K
    operands: tuple[K, ...]
    domain: frozenset[Rank]
    free: frozenset[Rank]
    reduced: Rank | None = None
    view: tuple[Rank, Rank, Rank] | None = None


@dataclass(frozen=True)
class Family:
    """A streamed rank and the parts that it is split into: whole -> (outer, inner) pairs."""

    whole: Rank
    splits: frozenset[tuple[Rank, Rank, Rank]]

    def below(self, rank: Rank) -> frozenset[Rank]:
        """The rank and all of its parts."""
        members, todo = set[Rank](), [rank]
        while todo:
            r = todo.pop()
            if r not in members:
                members.add(r)
                todo += [part for whole, *parts in self.splits if whole == r for part in parts]
        return frozenset(members)

    def covered(self, ranks: frozenset[Rank], rank: Rank | None = None, seen: frozenset[Rank] = frozenset()) -> bool:
        """`ranks` reach every element of the family."""
        r = rank or self.whole
        return r in ranks or any(
            self.covered(ranks, outer, seen | {r}) and self.covered(ranks, inner, seen | {r})
            for whole, outer, inner in self.splits
            if whole == r and r not in seen
        )

    def is_barrier(self, step: Step[K], members: frozenset[Rank]) -> bool:
        """A reduction in the family (whose ranks are `members`) that is not local to one tile."""
        rank = step.reduced
        if rank is None or rank not in members:
            return False
        return not any(rank in self.below(inner) and step.domain & self.below(outer) for _, outer, inner in self.splits)


def families(steps: Sequence[Step[K]]) -> list[Family]:
    """Every rank that is no part of another, with its parts: those that are split or reduced first."""
    splits = frozenset(s.view for s in steps if s.view is not None)
    parts = {r for _, *rest in splits for r in rest}
    wholes = dict.fromkeys([whole for whole, *_ in sorted(splits)] + [s.reduced for s in steps if s.reduced])
    wholes.update(dict.fromkeys(r for s in steps for r in sorted(s.domain)))
    return [Family(whole, splits) for whole in wholes if whole not in parts]


@dataclass
class Timing(Generic[K]):
    """Of each step, by output: passes that must be over before it starts and when it is complete.

    full: iterates every element of the family. wide: has a value for every element. streamed: depends on one.
    number: the pass of a full step, as early as it can run; but a wide value does not live across passes,
    so it is made in the first pass that reads it.
    """

    family: Family
    start: dict[K, int] = field(default_factory=dict)
    done: dict[K, int] = field(default_factory=dict)
    level: dict[K, int] = field(default_factory=dict)
    full: set[K] = field(default_factory=set)
    barriers: set[K] = field(default_factory=set)
    streamed: set[K] = field(default_factory=set)
    wide: set[K] = field(default_factory=set)
    number: dict[K, int] = field(default_factory=dict)

    @property
    def passes(self) -> int:
        return max((self.start[x] + 1 for x in self.full), default=0)


def timed(steps: Sequence[Step[K]], family: Family) -> Timing[K]:
    """The timing of steps in an order in which they can run. An operand that is none of them is there already."""
    t, members = Timing[K](family), family.below(family.whole)
    for s in steps:
        x = s.output
        below = [a for a in s.operands if a in t.start]
        t.start[x] = max((t.done[a] if a in t.barriers else t.start[a] for a in below), default=0)
        t.level[x] = max((t.level[a] + (a in t.barriers) for a in below), default=0)
        if family.covered(s.domain):
            t.full.add(x)
        if family.covered(s.free):
            t.wide.add(x)
        if family.is_barrier(s, members):
            t.barriers.add(x)
        if s.domain & members or any(a in t.streamed for a in below):
            t.streamed.add(x)
        t.done[x] = t.start[x] + 1 if x in t.full else max([t.start[x], *(t.done[a] for a in below)])
    _place(steps, t)
    return t


def _place(steps: Sequence[Step[K]], t: Timing[K]) -> None:
    first: dict[K, int] = {}
    for s in reversed(steps):
        x = s.output
        if x not in t.full:
            continue
        moves = x in t.wide and x not in t.barriers
        t.number[x] = first.get(x, t.start[x] + 1) if moves else t.start[x] + 1
        for a in s.operands:
            first[a] = min(first.get(a, t.number[x]), t.number[x])


def copied(output: K, ranks: frozenset[Rank]) -> Step[K]:
    """A result that is an input as it is: all of it is gone over once."""
    return Step(output, (), ranks, ranks)


# ---- of expressions

_LEAVES = (Access, Gather, Const, Param, Size, Iota)


def steps_of(roots: Iterable[Expr]) -> list[Step[Expr]]:
    """One step a node of expressions over inputs; folds that one pass cannot do are what they stand for."""
    return list(_steps(rewrite(roots, written_out)))


def _steps(roots: Sequence[Expr]) -> Iterator[Step[Expr]]:
    copies = {x for x in roots if isinstance(x, _LEAVES)}
    for x in topological(roots):
        if isinstance(x, _LEAVES):
            if x in copies:
                yield copied(x, free(x))
            continue
        below = tuple(a for a in children(x) if not isinstance(a, _LEAVES))
        match x:
            case Reduce() | Fold():
                domain = frozenset({x.rank}).union(*map(free, children(x)))
                yield Step(x, below, domain, free(x), reduced=x.rank)
            case Split() | Unsplit():
                yield Step(x, below, free(x), free(x), view=(x.rank, x.outer, x.inner))
            case _:
                yield Step(x, below, free(x), free(x))


def passes(roots: Iterable[Expr], stream: Rank | None = None) -> int:
    """The passes over the rank that is gone over most often, or over `stream` (or what it is a part of)."""
    steps = steps_of(roots)
    found = (f for f in families(steps) if stream is None or stream in f.below(f.whole))
    return max((timed(steps, f).passes for f in found), default=0)
