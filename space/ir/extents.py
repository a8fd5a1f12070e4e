"""How large a computation may be. Text comes from anywhere, so its size is checked before anything is done with it.

The limits are far above what anybody writes and low enough that everything which is done with a computation ends:
analyses within seconds, plans of one kernel too. What nests in brackets, characters and statements are limits of text
(`notation.lexer`); these are limits of what it says, in whatever notation.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from .expr import Expr, Fold, Reduce, children, topological

MAX_OPERATIONS = 5_000
"""Operations and operands, each once."""
MAX_DEPTH = 2_500
"""Operations one after the other, from an input to a result."""
MAX_REDUCTIONS = 1_000
"""Reductions and folds, each once."""
MAX_WRITTEN_OUT = 8_000
"""Operations and operands between two reductions with shared ones written wherever they are used: laws and plans
look at products and sums as a whole."""
MAX_RENAMED = 20 * MAX_OPERATIONS
"""Operations and operands that are written again under other ranks, when tensors are written in place."""


@dataclass
class Extents:
    """Counts expressions over inputs as they are given."""

    depth: dict[Expr, int] = field(default_factory=dict)
    written: dict[Expr, int] = field(default_factory=dict)
    reductions: int = 0
    renamed: int = 0

    def fault(self, x: Expr) -> str | None:
        """Which limit all that was given, and now `x`, is beyond, in words; None if none."""
        deepest = longest = 0
        for node in topological([x], stop=self.depth):
            below = children(node)
            self.depth[node] = 1 + max((self.depth[a] for a in below), default=0)
            self.written[node] = 1 + sum(1 if isinstance(a, (Reduce, Fold)) else self.written[a] for a in below)
            self.reductions += isinstance(node, (Reduce, Fold))
            deepest, longest = max(deepest, self.depth[node]), max(longest, self.written[node])
        for number, most, what in (
            (len(self.depth), MAX_OPERATIONS, "operations and operands"),
            (deepest, MAX_DEPTH, "operations one after the other"),
            (self.reductions, MAX_REDUCTIONS, "reductions and folds"),
            (longest, MAX_WRITTEN_OUT, "operations between two reductions, shared ones counted at each use"),
        ):
            if number > most:
                return f"a computation has at most {most} {what}, but this has {min(number, 10**9)} or more"
        return None

    def renaming(self, x: Expr) -> str | None:
        """The same before an expression is written again under other ranks."""
        self.renamed += len(topological([x]))
        if self.renamed <= MAX_RENAMED:
            return None
        return (
            f"a computation with its tensors written in place has at most {MAX_RENAMED} operations, but this has more"
        )
