"""The words of the EDGE notation that both its reader and its printer use: one table for both directions."""

from __future__ import annotations

import re

import numpy as np

from eintune.space.ir.expr import Expr, Rank, Reduce, free
from eintune.space.ir.folds import ACTIONS
from eintune.space.ir.pointwise import POINTWISE, REDUCTIONS

LEVELS: tuple[tuple[str, ...], ...] = (
    ("or",),
    ("and",),
    ("eq", "ne", "lt", "le", "gt", "ge"),
    ("add", "sub"),
    ("mul", "div"),
)
"""The infix operators, loosest first. Comparisons do not chain; all others associate to the left."""
COMPARISON = 2
PREFIX = len(LEVELS)
ATOM = PREFIX + 1

INFIX = {str(POINTWISE[op].symbol): op for ops in LEVELS for op in ops}
LEVEL_OF = {op: level for level, ops in enumerate(LEVELS) for op in ops}

REDUCERS = {"sum": "add", "max": "max", "min": "min", "prod": "mul"}
"""Inline reductions, `sum[m](…)`, and the reductions they stand for."""
FOLDS = {f"fold_{name}": name for name in ACTIONS}
VIEWS = ("split", "unsplit")
KINDS = ("float", "int", "bool")
RESERVED = frozenset(
    {*REDUCERS, *FOLDS, *VIEWS, *POINTWISE, "where", "index", "param", "inf", "nan", "input", "results", "until"}
)
"""Words that are no parameter's and no tensor's name (a parameter can still be written `param(name)`)."""

PARAMETER = re.compile(rf"(?!(?:{'|'.join(sorted(RESERVED))})\b)[a-z][a-z_][a-z0-9_]*")
"""A parameter's name that needs no `param(…)`."""

MERGES = {"∩": "&", "∪": "|", "←": "<-", "1": "1"}
"""Merge operators and their ASCII spelling: which points are visited, by where the operands have elements."""
THEN = "-then-"
COMPUTE = {**INFIX, "×": "mul", "÷": "div", "max": "max", "min": "min", "sub-then-exp": f"sub{THEN}exp"}
"""Compute operators of a map action `∧`; FuseMax's `sub-then-exp` is two, one after the other."""
UNARY = {p.name: p.name for p in POINTWISE.values() if p.arity == 1}
"""Operators of one operand, which an action may apply, `σ()`."""
CULLED = {"div": ("∩", "←")}
"""Merge operators under which an operator is another than on dense tensors: what is culled is 0 (`nonzero`)."""
REDUCE = {**{r.symbol: r.name for r in REDUCTIONS.values()}, "*": "mul"}
"""Compute operators of a reduce action `∨`."""
REDUCE_MERGES = ("∪", "1")
"""A reduction takes every element that is there, so it merges by union (or visits all points)."""
_SKIPPED = {
    "∩": ((0.0, 0.0), (0.0, 2.0), (2.0, 0.0), (0.0, -2.0), (-2.0, 0.0)),
    "∪": ((0.0, 0.0),),
    "←": ((0.0, 0.0), (2.0, 0.0), (-2.0, 0.0)),
    "1": (),
}
"""Operands at points that a merge operator skips, 0 standing for an absent element."""


def fitting_merges(op: str) -> tuple[str, ...]:
    """The merge operators under which a map by `op`, of one operand or two, means the same as on dense tensors, or is
    known otherwise.

    A skipped point is 0 in the result, so the operator must give 0 there: `∩` skips (a, 0), (0, b) and (0, 0),
    `←` (a, 0) and (0, 0), `∪` only (0, 0), and `1` nothing. (`←` "only touches points where there is a non-zero
    value in the B operand": FuseMax, arXiv 2406.10491, II-C, after EDGE, arXiv 2404.11591.)
    """
    first, *rest = (POINTWISE[name] for name in op.split(THEN))

    def compute(a: float, b: float) -> float:
        value = first.numpy(*(a, b)[: first.arity])
        for unary in rest:
            value = unary.numpy(value)
        return float(value)

    with np.errstate(all="ignore"):
        same = [m for m, points in _SKIPPED.items() if all(compute(a, b) == 0 for a, b in points)]
    return tuple(m for m in MERGES if m in (*same, *CULLED.get(op, ())))


def implicit_sum(body: Expr, kept: frozenset[Rank]) -> Expr:
    """Sum `body` over its ranks that are not `kept`; the ranks' names in order, outermost first."""
    for rank in sorted(free(body) - kept, reverse=True):
        body = Reduce("add", rank, body)
    return body
