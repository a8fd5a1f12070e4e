"""What the builder of a plan fills: blocks, and the work that loops are run for."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TypeAlias

from eintune.space.analysis.layout import Layout
from eintune.space.ir.expr import (
    Expr,
    Fold,
    Rank,
    Reduce,
)
from eintune.space.plan.plan import Block
from eintune.space.plan.values import Value


@dataclass(frozen=True, eq=False)
class Sink:
    """An output that still varies with loops: the loop over `rank` holds it and, further in, the store itself."""

    name: str
    ranks: tuple[Rank, ...]
    value: Expr
    rank: Rank
    inner: Sink | None


Work: TypeAlias = Reduce | Fold | Sink
"""What a loop is run for."""


@dataclass(eq=False)
class PlanScope:
    """A block being filled: what it holds by expression and by operation, and the loops wanted in it."""

    block: Block
    parent: PlanScope | None
    work: list[Work] = field(default_factory=list)
    values: dict[Expr, Value] = field(default_factory=dict)
    made: dict[tuple[object, ...], Value] = field(default_factory=dict)

    @property
    def ranks(self) -> frozenset[Rank]:
        return self.block.ranks

    def chain(self) -> Iterable[PlanScope]:
        scope: PlanScope | None = self
        while scope:
            yield scope
            scope = scope.parent

    def outermost(self, loops: frozenset[Rank]) -> PlanScope:
        """The outermost scope around this one that is inside all of `loops`."""
        scope = self
        while scope.parent and loops <= scope.parent.ranks:
            scope = scope.parent
        return scope


def loop_rank(work: Work, layout: Layout) -> Rank | None:
    return work.rank if isinstance(work, Sink) else layout.loop_of(work.rank)
