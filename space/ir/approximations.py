"""Functions that hardware approximates in one instruction, and which tensors' values may take the approximation.

An approximation with a relative error below the rounding that the tensors have already is as good as the function:
it changes a result by less than the next representable input would.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from .dtypes import DTYPES, SIXTEEN_BIT
from .expr import Access, Expr, Gather, Map, children, tensors, topological

FUNCTIONS = ("exact", "approximate")
"""The settings of `Schedule.functions`."""


@dataclass(frozen=True)
class Approximation:
    """An instruction for a function. op: what a plan calls it. error: relative, at most."""

    op: str
    error: float


APPROXIMATIONS = {"tanh": Approximation("tanh_approximate", 2**-11)}
"""By function. tanh.approx.f32: PTX ISA, "max relative error 2^-11"."""

APPROXIMATE_OPS = frozenset(a.op for a in APPROXIMATIONS.values())


def approximate(op: str, sources: Iterable[str]) -> str | None:
    """The operation that may stand for `op` on values that come from tensors of these dtypes; None where none may."""
    found, dtypes = APPROXIMATIONS.get(op), set(sources)
    if found is None or not dtypes or not all(found.error <= _rounding(d) for d in dtypes):
        return None
    return found.op


def _rounding(dtype: str) -> float:
    """The least bound of the relative error of storing a number in a dtype: half of the unit roundoff, since just below
    a power of two numbers are twice as dense, relative to their size, as just above. 0 for what is not rounded."""
    return DTYPES[dtype].roundoff / 2 if dtype in SIXTEEN_BIT else 0.0


def is_approximable(roots: Iterable[Expr], dtypes: Mapping[str, str]) -> bool:
    """Whether some function in some expressions may be approximated."""
    below: dict[Expr, frozenset[str]] = {}
    for x in topological(list(roots)):
        own = frozenset(dtypes.get(n, "") for n in tensors([x])) if isinstance(x, (Access, Gather)) else frozenset()
        below[x] = own.union(*(below[a] for a in children(x)))
        if isinstance(x, Map) and x.op in APPROXIMATIONS and approximate(x.op, below[x]):
            return True
    return False
