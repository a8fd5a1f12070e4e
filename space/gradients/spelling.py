"""How a definition is spelled before it is differentiated, so that its gradient needs few numbers of it.

A quotient by a sum of exponentials is one exponential relative to their logarithm: e^(s - g) / d = e^(s - (log d + g)).
So a softmax and its gradient depend on one number a row, the log-sum-exp, which an attention may return anyway.
"""

from __future__ import annotations

from collections.abc import Sequence

from eintune.space.ir.expr import Expr, Map, free, rewrite

from .rules import is_sum_of_exponentials, less


def relative_to_logarithms(roots: Sequence[Expr]) -> list[Expr]:
    """The expressions, each quotient of an exponential by such a sum written as one exponential."""
    return rewrite(roots, _step)


def _step(x: Expr) -> Expr | None:
    match x:
        case Map("div", (Map("exp", (s,)), d)) if is_sum_of_exponentials(d) and free(d) < free(s):
            return Map("exp", (less(s, Map("log", (d,))),))
        case _:
            return None
