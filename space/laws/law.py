"""What a law is: two patterns and the conditions under which they are equal.

A pattern is an ordinary expression in which a tensor called `?a` stands for any subexpression and a rank called `?r`
for any rank.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from eintune.space.ir.expr import Access, Expr, Map, Rank, Reduce, Tensor, topological
from eintune.space.ir.folds import ACTIONS


@dataclass(frozen=True)
class Absent:
    """None of `ranks` is free in any of `terms`."""

    ranks: tuple[Rank, ...]
    terms: tuple[Expr, ...]


@dataclass(frozen=True)
class Present:
    """`rank` is free in `term`."""

    rank: Rank
    term: Expr


@dataclass(frozen=True)
class Unreduced:
    """No reduction over `rank` is needed for `term`: what goes on along the rank need not wait for the term."""

    rank: Rank
    term: Expr


@dataclass(frozen=True)
class Wider:
    """`term` varies with a rank that none of `others` does."""

    term: Expr
    others: tuple[Expr, ...]


@dataclass(frozen=True)
class Differ:
    """Two ranks, or two subexpressions, are not the same."""

    a: Rank | Expr
    b: Rank | Expr


@dataclass(frozen=True)
class Positive:
    """The subexpression is proven to be greater than 0."""

    term: Expr


@dataclass(frozen=True)
class Negative:
    """The subexpression is proven to be less than 0."""

    term: Expr


@dataclass(frozen=True)
class Finite:
    """The subexpression is proven to be finite, overflow apart. An input that is added to a score is not: where it is
    -inf nothing of a row is left, whatever stands beside it."""

    term: Expr


@dataclass(frozen=True)
class Vanishes:
    """The dividend is proven to be 0 wherever the exponent of a factor that it is multiplied by is -inf, if it can be
    (`egraph.vanishing`): weights are 0 where their reference is -inf."""

    term: Expr
    exponent: Expr


@dataclass(frozen=True)
class Plain:
    """No factor of the subexpression is a sum or a difference, as far as is known when the law is tried.

    Of two differences that are multiplied only one may be written out: what is left of one has the error of its
    operands' last digits, what is left of two has lost as many digits again.
    """

    term: Expr


@dataclass(frozen=True)
class Exists:
    """Somewhere in the graph this pattern occurs (it only bounds where a law is tried)."""

    pattern: Expr


Condition: TypeAlias = (
    Absent | Present | Unreduced | Wider | Differ | Positive | Negative | Finite | Vanishes | Plain | Exists
)


@dataclass(frozen=True)
class Law:
    """`left = right` under `conditions`, applied left to right, and back if `both_ways`.

    steps: apply it in the first so many steps only (a law that could feed itself for ever); None means always.
    arranges: it puts operands of one operator, or sums, into another order, of which there are exponentially many:
    it rests where the graph is large (`Limits.arranged`).
    """

    name: str
    left: Expr
    right: Expr
    conditions: tuple[Condition, ...] = ()
    both_ways: bool = False
    steps: int | None = None
    arranges: bool = False

    @property
    def is_ground(self) -> bool:
        """Whether it is about nodes of one definition, not a pattern."""
        return not any(is_variable(x) for x in topological([self.left]))


@dataclass(frozen=True)
class Needs:
    """Which laws a definition may have a use for (`law_needs.needs_of`).

    signed: something is divided by a sum over a rank of what may be of either sign. distances: two differences are
    multiplied. nested: there is a sum of sums. differences: there is the size, or the positive part, of a difference.
    """

    signed: bool = True
    distances: bool = True
    nested: bool = True
    differences: bool = True


def variable(name: str) -> Expr:
    """A pattern variable for subexpressions."""
    return Access(Tensor("?" + name, ()), ())


def is_variable(x: Expr) -> bool:
    return isinstance(x, Access) and x.tensor.name.startswith("?")


A, B, C, D, U, V, X, Y = (variable(n) for n in "abcduvxy")
R, Q = "?r", "?q"
BACK = 2
"""Steps in which a division that the definition puts off goes back: what waits for a sum only adds a pass inside it."""
LINEAR = tuple(a.name for a in ACTIONS.values() if a.linear)


def exp_of(x: Expr) -> Expr:
    return Map("exp", (x,))


def log_of(x: Expr) -> Expr:
    return Map("log", (x,))


def sum_of(r: Rank, x: Expr) -> Expr:
    return Reduce("add", r, x)


def max_of(r: Rank, x: Expr) -> Expr:
    return Reduce("max", r, x)


def min_of(r: Rank, x: Expr) -> Expr:
    return Reduce("min", r, x)
