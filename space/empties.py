"""What may be empty: where -inf meets -inf and 0 meets 0, and the guards that keep NaN out there.

A filter may leave a row without elements: its maximum is -inf and its sum 0. The language says that such
differences are -inf and such quotients 0 (see `expr`); plain subtraction and division say NaN. A guard is
inserted exactly where these cases can be reached; inputs are taken to be finite.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Literal

from .expr import Const, Expr, Fold, Iota, Map, Predicate, Reduce, Size, Where, rewrite
from .normal_form import scaled, times

Sign = Literal["positive", "nonnegative", "any"]
NEG_INF = -math.inf


class Empties:
    """Facts about expressions, remembered: whether -inf is reachable, and what sign is proven."""

    def __init__(self, ignored: Callable[[Predicate], bool] = lambda p: False) -> None:
        """ignored: filters that are known to leave every row an element."""
        self._ignored = ignored
        self._reaches: dict[Expr, bool] = {}
        self._sign: dict[Expr, Sign] = {}

    # ---- -inf

    def reaches_neg_inf(self, x: Expr) -> bool:
        """Whether an element may be -inf."""
        if x not in self._reaches:
            self._reaches[x] = self._reach(x)
        return self._reaches[x]

    def _reach(self, x: Expr) -> bool:
        go = self.reaches_neg_inf
        match x:
            case Const():
                return x.value == NEG_INF
            case Where():
                return (x.fill == NEG_INF and not self._ignored(x.predicate)) or go(x.arg)
            case Map("max", args):
                return all(map(go, args))
            case Map("select", (_, a, b)):
                return go(a) or go(b)
            case Map("log2" | "log", (a,)):
                return self.sign(a) != "positive"
            case Map("add" | "sub" | "mul" | "div" | "quotient" | "min" | "floor" | "neg", args):
                return any(map(go, args))
            case Reduce() | Fold():
                return go(x.arg)
            case _:
                return False

    # ---- sign

    def sign(self, x: Expr) -> Sign:
        """What is proven of every element's sign, whatever finite numbers the inputs hold."""
        if x not in self._sign:
            self._sign[x] = self._signed(x)
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
            case Map("div" | "quotient", (a, b)):
                return "any" if go(b) == "any" else go(a)
            case Map("sqrt" | "recip", (a,)):
                return go(a)
            case Map("abs", _):
                return "nonnegative"
            case Map("select", (_, a, b)):
                return _weakest(go(a), go(b))
            case Reduce():
                return go(x.arg)
            case Fold():
                weight: Sign = "nonnegative"
                if x.action == "scale" and not self.reaches_neg_inf(x.ref):
                    weight = "positive"
                return _weakest(weight, go(x.arg))
            case _:
                return "any"

    # ---- guards

    def guarded(self, roots: Iterable[Expr]) -> list[Expr]:
        """The roots with differences and quotients that keep the language's meaning."""
        return rewrite(roots, self._guard)

    def _guard(self, x: Expr) -> Expr | None:
        match x:
            case Map("sub", (a, b)) if self.reaches_neg_inf(a) and self.reaches_neg_inf(b):
                reference, k = scaled(b)
                if _is_maximum_of(b, a):
                    return Map("sub", (a, times(Map("guard", (reference,)), k)))
                empty = Map("eq", (a, Const(NEG_INF)))
                return Map("select", (empty, Const(NEG_INF), Map("sub", (a, b))))
            case Map("div", (a, b)) if self.sign(b) != "positive":
                return Map("quotient", (a, b))
            case _:
                return None


def _is_maximum_of(b: Expr, a: Expr) -> bool:
    """Whether b is a maximum over elements that include a, both times the same positive number."""
    (maximum, kb), (element, ka) = scaled(b), scaled(a)
    if ka <= 0:
        return False
    match maximum:
        case Reduce("max", _, arg):
            core, inner = scaled(arg)
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
