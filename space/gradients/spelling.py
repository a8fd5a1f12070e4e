"""How a definition is spelled before it is differentiated, so that its gradient needs few numbers of it.

A quotient by a sum of exponentials is one exponential relative to their logarithm: e^(s - g) / d = e^(s - (log d + g)).
So a softmax and its gradient depend on one number a row, the log-sum-exp, which an attention may return anyway.
"""

from __future__ import annotations

from collections.abc import Sequence

from eintune.space.ir.expr import Expr, Map, free, rewrite

from .rules import share, summands


def relative_to_logarithms(roots: Sequence[Expr]) -> list[Expr]:
    """The expressions, each quotient of an exponential by such a sum written as one exponential."""
    return rewrite(roots, _step)


def _step(x: Expr) -> Expr | None:
    match x:
        case Map("div", (Map("exp", (s,)), d)) if summands(d) and free(d) < free(s):
            return share(s, d)
        case _:
            return None


def without_references(roots: Sequence[Expr]) -> list[Expr]:
    """The expressions without what is known of references, which says itself where they are computed."""
    return rewrite(roots, lambda x: x.args[0] if isinstance(x, Map) and x.op == "reference" else None)
