"""Values where a filter is false: an abstract interpretation, which says which masks a plan needs.

The tail of a tile is the filter `rank <= size - 1`: loads give 0 beyond it, and a reduction must see its own
identity there. A mask is inserted only where the interpretation does not already give that identity.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Literal, TypeAlias

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
    children,
    topological,
    with_children,
)
from eintune.space.ir.pointwise import REDUCTIONS
from eintune.space.ir.products import factors, product
from eintune.space.plan.sizes import Affine

from .empty_rows import Empties
from .layout import Layout, Shape
from .normal_form import oriented

Outcome: TypeAlias = float | Literal["finite", "bounded", "raised", "any"]
"""A number, some finite number, some finite number or -inf, or +inf, or anything (NaN too)."""

NEG_INF = -math.inf

EXACT: dict[str, Callable[[float], float]] = {
    "tanh": math.tanh,
    "erf": math.erf,
    "abs": abs,
    "neg": lambda a: -a,
    "exp2": lambda a: 2.0**a if a < 1000 else math.inf,
    "sigmoid": lambda a: 1 / (1 + math.exp(-a)) if a > -700 else 0.0,
    "guard": lambda a: 0.0 if a == NEG_INF else a,
}
"""Unary operators whose value at a number is a number."""

SATURATING = frozenset({"tanh", "erf", "sigmoid", "guard"})
"""Unary operators that give a finite number for any number below +inf."""

FINITE_MAPS = frozenset({"neg", "abs", "floor", "sin", "cos", "lane", "first", "tile_greatest"})
"""Operators that give a finite number for finite numbers (overflow apart)."""


class Interpretation:
    """What expressions are where all of some rules are false. rules: predicates of filters, or conditions of a
    `select`. Where the only rule is the tail of a rank, loads along that rank give 0."""

    def __init__(self, layout: Layout, empties: Empties, rules: tuple[Predicate | Expr, ...]) -> None:
        self._layout = layout
        self._empties = empties
        self._rules = rules
        # Only what varies with a rule's ranks is another number where the rule is false.
        self._varying = Shape()
        for rule in rules:
            self._varying |= layout.of_ranks(rule.ranks) if isinstance(rule, Predicate) else layout.shape(rule)
        self._tail = len(rules) == 1 and isinstance(rules[0], Predicate) and layout.is_tail(rules[0])
        self._memo: dict[Expr, Outcome] = {}

    def of(self, x: Expr) -> Outcome:
        for node in topological([x], stop=self._memo):
            self._memo[node] = self._of(node)
        return self._memo[x]

    def of_product(self, parts: Iterable[Expr]) -> Outcome:
        outcome: Outcome = 1.0
        for part in parts:
            outcome = _product(outcome, self.of(part))
        return outcome

    def _of(self, x: Expr) -> Outcome:
        inside = self._layout.shape(x).meets(self._varying)
        match x:
            case Const():
                return x.value
            case Where() if x.predicate in self._rules or self._fails_beyond(x.predicate):
                return x.fill
            case Access() | Gather():
                # Loads beyond the end of a rank are masked and give 0, in every target. Behind any other filter a
                # load is in range and gives what is there.
                beyond = self._tail and inside
                return 0.0 if beyond else "bounded" if self._empties.reaches_neg_inf(x, False) else "finite"
            case Iota() | Size():
                return "finite"
            case Where():
                return _either(self._memo[x.arg], x.fill)
            case Map():
                return self._map(x)
            case Reduce() | Fold():
                return self._reduced(x)
            case _:
                return "any"

    def _fails_beyond(self, p: Predicate) -> bool:
        """Whether a filter is false beyond the tail at hand, at whatever valid indices of other ranks: `m <= p` where m
        is no index any more, and there are no more p than m. Rows that are none are never stored."""
        if not self._tail or p.numbers:
            return False
        (tail,) = self._rules
        assert isinstance(tail, Predicate)
        ((rank, sizes),) = ((t.rank, self._layout.sizes) for t in tail.terms)
        rest = Affine.of(p)
        coef = rest.indices.get(rank, 0)
        if rank not in sizes.ranges or coef >= 0:
            return False
        # It falls with the index, so that the first one beyond the end is where it could hold.
        others = {r: c for r, c in rest.indices.items() if r != rank}
        first = Affine(others, {**rest.sizes, rank: rest.sizes.get(rank, 0) + coef}, rest.const)
        return (Affine({}, {}, -1) - first).least(sizes) >= 0

    def _reduced(self, x: Reduce | Fold) -> Outcome:
        # A row sum over the very rank that is filtered mixes filtered and other elements, so that nothing follows
        # from what it is on one side.
        if self._layout.of_rank(x.rank).meets(self._varying):
            return self._across(x)
        arg = self._memo[x.arg]
        match x:
            case Fold():
                # A sum of nothing is 0, weighted by anything that is a number. With scores that are not, weights may
                # be NaN, and 0 * NaN is.
                return 0.0 if arg == 0.0 and all(_finite(self._memo[c]) for c in x.scores) else "any"
            case Reduce("max" | "min"):
                return arg
            case _:
                return 0.0 if arg == 0.0 and x.op == "add" else ("finite" if _finite(arg) else "any")

    def _across(self, x: Reduce | Fold) -> Outcome:
        """A reduction over the filter's own rank: its elements are made of elements on both sides."""
        arg = self._memo[x.arg]
        match x:
            case Fold():
                known = all(self._memo[c] != "any" for c in x.scores)
                return "finite" if _finite(arg) and known else "any"
            case Reduce("max") if arg != "any":
                return "bounded" if self._empties.reaches_neg_inf(x, False) else "finite"
            case _:
                return "finite" if _finite(arg) else "any"

    def _map(self, x: Map) -> Outcome:
        args = [self._memo[a] for a in x.args]
        match x.op, args:
            case "rounded", [a]:
                return a
            case "mul", [a, b]:
                return _product(a, b)
            case "add", [a, b]:
                return _sum(a, b)
            case "sub", [a, b]:
                return _sum(a, _negated(b))
            # 0 / 0 is where a mask would be needed after all.
            case (("div" | "div_rn" | "quotient"), [a, b]) if a == 0.0:
                return 0.0 if self._divides(x, b) else "any"
            case (("div" | "div_rn"), [float() as a, float() as b]) if b != 0.0:
                return a / b
            # The rules say that a condition fails; then the other branch is it, whatever stands in the first.
            case "select", [_, a, b]:
                return b if self._fails(x.args[0]) else a if self._holds(x.args[0]) else _either(a, b)
            case op, [float() as a] if op in EXACT:
                return EXACT[op](a)
            case "guard", ["raised"]:
                return "raised"
            case op, [a] if op in SATURATING:
                return "any" if a == "any" else "finite"
            case "exp2", ["finite" | "bounded"] if self._empties.is_never_positive(x.args[0]):
                return "finite"
            case "max", [float() as a, float() as b] if not (math.isnan(a) or math.isnan(b)):
                return max(a, b)
            case (("max" | "min"), _) if {"any", "raised", math.inf}.isdisjoint(args):
                return "finite" if all(map(_finite, args)) else "bounded"
            case op, _ if op in FINITE_MAPS and all(map(_finite, args)):
                return "finite"
            case _:
                return "any"

    def _fails(self, condition: Expr) -> bool:
        """Whether a condition is false wherever the one at hand is."""
        if isinstance(condition, Map) and condition.op == "and":
            return any(map(self._fails, condition.args))
        return condition in self._rules

    def _holds(self, condition: Expr) -> bool:
        """Whether a condition is that something equals a number, and it does."""
        match condition:
            case Map("eq", (a, Const(number))):
                return self._memo[a] == number
        return False

    def _divides(self, x: Map, divisor: Outcome) -> bool:
        """Whether 0 over the divisor of `x` is 0, which it is not for NaN, nor in plain division for 0.

        Plain division has a divisor that is proven positive, at every index that is valid.
        """
        # Beyond a tail the divisor is made of zeros that loads gave, so what was proven of its sign does not hold
        # there.
        valid = not (self._tail and self._layout.shape(x.args[1]).meets(self._varying))
        nonzero = x.op == "quotient" or valid or (isinstance(divisor, float) and divisor != 0.0)
        return nonzero and _finite(divisor)


def _finite(v: Outcome) -> bool:
    return v == "finite" or (isinstance(v, float) and math.isfinite(v))


def _below_inf(v: Outcome) -> bool:
    """Whether it is finite or -inf."""
    return v == "bounded" or v == NEG_INF or _finite(v)


def _above_neg_inf(v: Outcome) -> bool:
    """Whether it is finite or +inf."""
    return v == "raised" or v == math.inf or _finite(v)


def _either(a: Outcome, b: Outcome) -> Outcome:
    if a == b:
        return a
    if _finite(a) and _finite(b):
        return "finite"
    if _below_inf(a) and _below_inf(b):
        return "bounded"
    return "raised" if _above_neg_inf(a) and _above_neg_inf(b) else "any"


def _product(a: Outcome, b: Outcome) -> Outcome:
    if isinstance(a, float) and isinstance(b, float):
        return "any" if math.isnan(a * b) else a * b
    if _finite(a) and _finite(b):
        # 0 times a finite number is 0; times inf or NaN it is NaN, which is why most of this analysis is about
        # finiteness.
        return 0.0 if 0.0 in (a, b) else "finite"
    for x, y in ((a, b), (b, a)):
        if x in ("bounded", "raised") and isinstance(y, float) and 0.0 < y < math.inf:
            return x
    return "any"


def _sum(a: Outcome, b: Outcome) -> Outcome:
    if isinstance(a, float) and isinstance(b, float):
        return "any" if math.isnan(a + b) else a + b
    if _finite(a) and _finite(b):
        return "finite"
    if _below_inf(a) and _below_inf(b):
        # -inf + inf is the one case to keep out: neither is +inf here.
        return NEG_INF if NEG_INF in (a, b) else "bounded"
    return "any"


def _negated(a: Outcome) -> Outcome:
    if isinstance(a, float):
        return -a
    return "raised" if a == "bounded" else "bounded" if a == "raised" else a


class Masks:
    """Interpretations by predicate, and the masks of reductions over tiles that are not full."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._empties = Empties(layout)
        self._interpretations: dict[tuple[Predicate | Expr, ...], Interpretation] = {}

    def where_false(self, *rules: Predicate | Expr) -> Interpretation:
        """Values where all of the rules are false."""
        if rules not in self._interpretations:
            self._interpretations[rules] = Interpretation(self._layout, self._empties, rules)
        return self._interpretations[rules]

    def masked(self, x: Expr, axis: Rank | None, identity: float) -> Expr:
        """`x` with `identity` in the invalid lanes of the axis."""
        # No mask where the reduction sees its identity anyway, as most do: loads give 0 beyond the end, a sum needs
        # 0, and scores of a maximum have been masked at their source (`hoisted`).
        tail = self._layout.tail(axis)
        if tail is None or self.where_false(tail).of(x) == identity:
            return x
        return Where(tail, x, identity)

    def masked_product(self, parts: list[Expr], axis: Rank | None) -> list[Expr]:
        """A product's factors with 0 in the invalid lanes: the smallest factor that can be masked is."""
        tail = self._layout.tail(axis)
        if axis is None or tail is None or self.where_false(tail).of_product(parts) == 0.0:
            return parts
        outcome = self.where_false(tail).of
        along = [i for i, f in enumerate(parts) if self._layout.shape(f).meets(self._layout.of_rank(axis))]
        # One factor of 0 is enough if the others are finite; a vector costs less to mask than a tile. Of a matrix
        # product it also keeps the other operand a bare load, which the matrix unit can read from shared memory.
        for i in sorted(along, key=lambda i: len(self._layout.shape(parts[i]).axes)):
            rest = parts[:i] + parts[i + 1 :]
            if all(_finite(outcome(f)) for f in rest):
                return [*parts[:i], Where(tail, parts[i], 0.0), *parts[i + 1 :]]
        return [Where(tail, product(parts), 0.0)]

    def finite_parts(self, parts: list[Expr], axis: Rank | None) -> list[Expr]:
        """Factors of a product that is weighted by 0 in the invalid lanes: those that may be NaN there are masked."""
        tail = self._layout.tail(axis)
        if tail is None:
            return parts
        outcome = self.where_false(tail).of
        # The weights beside these factors are 0 already; but 0 * inf is not.
        return [f if _finite(outcome(f)) else Where(tail, f, 0.0) for f in parts]

    def reaches_neg_inf(self, x: Expr) -> bool:
        """Whether an element may be -inf."""
        return self._empties.reaches_neg_inf(x)

    def is_finite(self, x: Expr) -> bool:
        """Whether every element is finite, overflow apart."""
        # With no rule at all the interpretation says what holds of every element.
        return _finite(self.where_false().of(x)) and not self._empties.reaches_neg_inf(x)

    def starts_empty(self, score: Expr, rank: Rank) -> bool:
        """Whether a running maximum of the score over `rank` needs a guard."""
        return self._empties.starts_empty(score, rank)

    def hoisted(self, roots: Iterable[Expr]) -> list[Expr]:
        """Mask the argument of a maximum once, for every consumer: values beyond a tail matter to nobody."""
        wanted = list(roots)
        tails: dict[Expr, Predicate] = {}
        for x in topological(wanted):
            match x:
                case Reduce("max", rank, arg):
                    pass
                case Fold("scale" | "softcomoment", rank, ref):
                    arg = oriented(ref)[0] if oriented(ref)[1] > 0 else ref
                case _:
                    continue
            tail = self._layout.tail(self._layout.axis_of(rank))
            if tail and self.where_false(tail).of(arg) != NEG_INF:
                # At the score itself, not at each reduction of it: the weights are computed from the same masked
                # score, and exp(-inf) makes them 0 without another mask.
                tails[arg] = tail
        return _wrapped(wanted, tails)

    def is_identity(self, x: Reduce | Fold, *rules: Predicate | Expr) -> bool:
        """Whether the reduction sees its identity wherever the rules (filters, or conditions of a `select`) are all
        false, so that tiles may be skipped."""
        outcome = self.where_false(*rules)
        match x:
            case Fold("scale" | "softcomoment"):
                # A score of -inf weighs 0, and 0 times a finite argument adds nothing; and the maximum does not move.
                return outcome.of(x.ref) == NEG_INF and all(_finite(outcome.of(a)) for a in (x.arg, *x.others))
            case Fold():
                # A mean counts its items: an item that is skipped is another mean, whatever its value.
                return False
            case Reduce("add"):
                return outcome.of_product(factors(x.arg)) == 0.0
            case Reduce():
                return outcome.of(x.arg) == REDUCTIONS[x.op].identity


def _wrapped(roots: list[Expr], tails: dict[Expr, Predicate]) -> list[Expr]:
    """Rebuild with every node that `tails` names inside its filter."""
    new: dict[Expr, Expr] = {}
    for node in topological(roots):
        rebuilt = with_children(node, tuple(new[a] for a in children(node)))
        new[node] = Where(tails[node], rebuilt, NEG_INF) if node in tails else rebuilt
    return [new[r] for r in roots]
