"""Where a function of the user's stands: its axes and its arguments."""

from __future__ import annotations

from dataclasses import dataclass

from eintune.space.cascade.builder import given
from eintune.space.ir.expr import Expr, Rank

AXES = "bhpm"
"""Batch, head, query and key: what a modifier's tensor may vary with."""


@dataclass(frozen=True)
class Site:
    """Where scores stand. heads: the ranks of a query head (two where key heads are shared)."""

    heads: tuple[Rank, ...] = ("h",)

    def ranks(self, axes: str) -> tuple[Rank, ...]:
        """The ranks of some of AXES; "h" stands for all head ranks."""
        return tuple(r for a in axes for r in (self.heads if a == "h" else a))

    def tensor(self, name: str, axes: str, kind: str = "float") -> Expr:
        return given(name, self.ranks(axes), kind)
