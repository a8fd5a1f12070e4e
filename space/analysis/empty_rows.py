"""Rows that may be empty: where -inf meets -inf and 0 meets 0, and the guards that keep NaN out there.

A filter may leave a row without elements: its maximum is -inf and its sum 0. The language says that such
differences are -inf and such quotients 0 (see `pointwise`); plain subtraction and division say NaN. A guard is
inserted exactly where these cases can be reached.

An input may hold -inf too: a logit that was filtered out, an additive mask, a sink that is off. Not where it is a
factor of a sum of products, as the operands of a matrix product are, or of what an index is made of: -inf times a
number that may be 0 or negative has no meaning, and there an input is finite.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Literal

from eintune.space.ir.expr import (
    Access,
    Const,
    Expr,
    Fold,
    Gather,
    Iota,
    Map,
    Predicate,
    Rank,
    Reduce,
    Size,
    Where,
    rewrite,
    topological,
)
from eintune.space.ir.products import factors

from .intervals import leaves_an_element
from .layout import Layout
from .normal_form import oriented, scaled, times

Sign = Literal["positive", "nonnegative", "any"]
NEG_INF = -math.inf


class Empties:
    """Facts about expressions, remembered: whether -inf is reachable, and what sign is proven."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._reaches: dict[bool, dict[Expr, bool]] = {True: {}, False: {}}
        self._above: dict[bool, dict[Expr, bool]] = {True: {}, False: {}}
        self._sign: dict[Expr, Sign] = {}

    # ---- -inf

    def reaches_neg_inf(self, x: Expr, inputs: bool = True) -> bool:
        """Whether an element of `x` may be -inf. inputs: whether elements of input tensors are taken to be able to."""
        known = self._reaches[inputs]
        for node in topological([x], stop=known):  # operands first, without recursion
            known[node] = self._reach(node, inputs)
            self._above[inputs][node] = self._turned(node, inputs)
        return known[x]

    def _turned(self, x: Expr, inputs: bool) -> bool:
        """Whether an element may be +inf that an -inf was turned into, by a sign or a magnitude."""

        def go(a: Expr) -> bool:
            return self.reaches_neg_inf(a, inputs)

        def above(a: Expr) -> bool:
            return self._is_above(a, inputs)

        match x:
            case Const():
                return x.value == math.inf
            case Where():
                return (x.fill == math.inf and not self._layout.is_tail(x.predicate)) or above(x.arg)
            case Map("neg" | "abs", (a,)):
                return go(a) or above(a)
            case Map("sub", (a, b)):
                return above(a) or go(b)
            case Map("mul", args):
                core, k = scaled(x)
                return (k < 0 and core is not x and go(core)) or any(map(above, args))
            case Map("min", args):
                return all(map(above, args))
            case Map("max" | "add" | "div" | "floor" | "sqrt" | "rounded" | "reference" | "select", args):
                return any(map(above, args))
            case Reduce():
                return above(x.arg)
            case _:
                return False

    def _is_above(self, x: Expr, inputs: bool) -> bool:
        self.reaches_neg_inf(x, inputs)
        return self._above[inputs][x]

    def _reach(self, x: Expr, inputs: bool) -> bool:
        def go(a: Expr) -> bool:
            return self.reaches_neg_inf(a, inputs)

        def above(a: Expr) -> bool:
            return self._is_above(a, inputs)

        match x:
            case Const():
                return x.value == NEG_INF
            case Access() | Gather():
                return (inputs and x.tensor.kind == "float") or x.tensor.name in self._layout.infinite
            case Where():
                # A tile that is visited has a valid element, so a tail makes no row empty.
                return (x.fill == NEG_INF and not self._layout.is_tail(x.predicate)) or go(x.arg)
            case Map("max", args):
                return all(map(go, args))
            case Map("select", (_, a, b)):
                return go(a) or go(b)
            case Map("log2" | "log", (a,)):
                return self.sign(a) != "positive"
            case Map("mul"):
                return self._product_reaches(factors(x), inputs) or any(map(above, factors(x)))
            case Map("div" | "div_rn" | "quotient", (a, b)):
                return go(a) or self.reaches_neg_inf(b, False)
            case Map("sub", (_, Const(math.inf))):
                return True
            case Map("add" | "sub" | "min" | "floor" | "neg" | "abs" | "rounded" | "reference", args):
                return any(map(go, args)) or (x.op in ("neg", "sub") and above(args[-1]))
            case Reduce("max", rank, arg):
                # If filters leave an element of every row (as a causal one does), and that cannot be -inf itself, the
                # maximum is a number and needs no guard.
                return go(arg) and go(self._unfiltered(arg, rank) or arg)
            case Reduce("add", _, arg):
                # An element of an input that is multiplied and summed is taken for finite (see above); one that is
                # summed as it is may be -inf.
                return self.reaches_neg_inf(arg, inputs and len(_varying(arg)) < 2)
            case Reduce():
                return go(x.arg)
            case Fold():
                return self.reaches_neg_inf(x.arg, False)
            case _:
                return False

    def _product_reaches(self, parts: Sequence[Expr], inputs: bool) -> bool:
        if any(self.reaches_neg_inf(f, False) for f in parts):
            return True
        reaching = [f for f in parts if self.reaches_neg_inf(f, inputs)]
        others = [f for f in parts if f not in reaching]
        return bool(reaching) and all(isinstance(f, Const) or self.sign(f) == "positive" for f in others)

    def starts_empty(self, score: Expr, rank: Rank) -> bool:
        """Whether a running maximum of the score may be -inf after the first tile of a pass over `rank`."""
        reaches = self.reaches_neg_inf
        bare = self._unfiltered(score, rank, at_start=True)
        return reaches(score) and (bare is None or reaches(bare))

    def _unfiltered(self, x: Expr, rank: Rank, *, at_start: bool = False) -> Expr | None:
        """`x` without the filters over `rank`, if those leave an element (or the first one) of every row."""
        filters: list[Predicate] = []

        def step(node: Expr) -> Expr | None:
            if isinstance(node, Where) and rank in node.predicate.ranks:
                filters.append(node.predicate)
                return node.arg
            return None

        (bare,) = rewrite([x], step)
        # "After the first tile" is proven with the first element of the rank alone: a tile has that at least.
        sizes = self._layout.sizes
        return bare if sizes.has(rank) and leaves_an_element(rank, filters, sizes, first=at_start) else None

    # ---- sign

    def sign(self, x: Expr) -> Sign:
        """What is proven of every element's sign, whatever finite numbers the inputs hold."""
        for node in topological([x], stop=self._sign):
            self._sign[node] = self._signed(node)
        return self._sign[x]

    def _signed(self, x: Expr) -> Sign:
        go = self.sign
        match x:
            case Const() | Size():
                value = x.value if isinstance(x, Const) else 1.0
                return "positive" if value > 0 else "nonnegative" if value == 0 else "any"
            case Iota():
                return "nonnegative"
            case Where():
                return _weakest(go(x.arg), go(Const(x.fill)))
            case Map("exp" | "exp2" | "sigmoid", (a,)):
                return "nonnegative" if self.reaches_neg_inf(a) else "positive"
            case Map("mul", (a, b)) if a is b:
                return "positive" if go(a) == "positive" else "nonnegative"
            case Map("mul" | "min", (a, b)):
                return _weakest(go(a), go(b))
            case Map("add", (a, b)):
                return _sum(go(a), go(b))
            case Map("max", (a, b)):
                return _strongest(go(a), go(b))
            case Map("div" | "div_rn" | "quotient", (a, b)):
                return "any" if go(b) == "any" else go(a)
            case Map("sqrt" | "recip" | "rounded", (a,)):
                return go(a)
            case Map("abs", _):
                return "nonnegative"
            case Map("nonzero", (a,)):
                return "any" if go(a) == "any" else "positive"
            case Map("select", (_, a, b)):
                return _weakest(go(a), go(b))
            case Reduce("add", rank, arg) if go(arg) == "nonnegative":
                # A sum of weights is positive if one of them is: that takes a row with an element that the filters
                # leave.
                bare = self._unfiltered(arg, rank)
                return "positive" if bare and go(bare) == "positive" else "nonnegative"
            case Reduce():
                return go(x.arg)
            case Fold("scale"):
                # The largest weight is exp(0) = 1 unless all scores are -inf.
                reference = Reduce("max", x.rank, x.ref)
                weight: Sign = "nonnegative" if self.reaches_neg_inf(reference) else "positive"
                return _weakest(weight, go(x.arg))
            case Fold() if not x.others or x.others[-1] is x.scores[-2]:
                return _weakest("nonnegative", go(x.arg))
            case _:
                return "any"

    def is_never_positive(self, x: Expr) -> bool:
        """Whether it is proven to be a negative number times what is not negative."""
        core, k = scaled(x)
        return k < 0 and self.sign(core) != "any"

    # ---- guards

    def guarded(self, roots: Iterable[Expr]) -> list[Expr]:
        """The roots with differences and quotients that keep the language's meaning."""
        return rewrite(rewrite(roots, self._guard), self._reference)

    def _reference(self, x: Expr) -> Expr | None:
        """What is known of a reference has been used. Beyond the end of a rank it does not hold: loads give 0 there,
        for the reference and for what a score is made of, and a score may be any number (a position times a slope).
        With +inf in its place all that is relative to it weighs 0 there."""
        if not isinstance(x, Map) or x.op != "reference":
            return None
        made = x.args[0]
        for axis in self._layout.ordered(self._layout.shape(made).axes):
            # elements that are divided among programs are beyond the end of results, too
            if self._layout.roles[axis].outer != "grid" and (tail := self._layout.tail(axis)):
                made = Where(tail, made, math.inf)
        return made

    def _guard(self, x: Expr) -> Expr | None:
        match x:
            case Map("sub", (a, b)) if self.reaches_neg_inf(a) and self.reaches_neg_inf(b) and not _is_mean_of(b, a):
                reference, k = scaled(b)
                # Relative to its own maximum, or to what is known to be as large, a row of -inf is guarded once: with 0
                # in place of the maximum, -inf less 0 is -inf as the language has it. Otherwise each element must be
                # asked.
                if _is_maximum_of(b, a) or (isinstance(reference, Map) and reference.op == "reference"):
                    return Map("sub", (a, times(Map("guard", (reference,)), k)))
                empty = Map("eq", (a, Const(NEG_INF)))
                return Map("select", (empty, Const(NEG_INF), Map("sub", (a, b))))
            case Map("nonzero", (a,)):
                return Map("select", (Map("eq", (a, Const(0.0))), Const(math.inf), a))
            case Map("div", (a, b)) if self.sign(b) != "positive":
                return Map("quotient", (a, b))
            case Map("div_rn", (a, b)) if self.sign(b) != "positive":
                zero = Const(0.0)
                both = Map("and", (Map("eq", (a, zero)), Map("eq", (b, zero))))
                return Map("select", (both, zero, x))
            case _:
                return None


def _varying(x: Expr) -> list[Expr]:
    return [f for f in factors(x) if not isinstance(f, (Const, Size))]


def _is_mean_of(b: Expr, a: Expr) -> bool:
    """Whether b is a number times the sum of the elements of a (a mean, say). One element of -inf makes such a row
    meaningless anyway, so no guard is needed."""
    match scaled(b)[0]:
        case Reduce("add", _, arg):
            return scaled(arg)[0] is scaled(a)[0]
        case _:
            return False


def _is_maximum_of(b: Expr, a: Expr) -> bool:
    """Whether b is a maximum over elements that include a, both times the same positive number."""
    a = a.args[0] if isinstance(a, Map) and a.op == "rounded" else a
    (maximum, kb), (element, ka) = scaled(b), oriented(a)
    if ka <= 0:
        return False
    match maximum:
        case Reduce("max", _, arg):
            core, inner = oriented(arg)
            same = core is element and kb * inner == ka
            return same or (arg is a and kb == 1.0) or _is_maximum_of(times(arg, kb), a)
        case _:
            return False


def _weakest(a: Sign, b: Sign) -> Sign:
    return max(a, b, key=_ORDER.index)


def _strongest(a: Sign, b: Sign) -> Sign:
    return min(a, b, key=_ORDER.index)


def _sum(a: Sign, b: Sign) -> Sign:
    return "any" if "any" in (a, b) else _strongest(a, b)


_ORDER: tuple[Sign, ...] = ("positive", "nonnegative", "any")
