"""Which forms may be computed in floating point: those that neither overflow nor cancel where the definition,
as real mathematics, does neither.

The analysis is over classes: every node of a class denotes the same number, so the tightest bound that any
of them gives holds for all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from eintune.space.ir.expr import Access, Const, Expr, Fold, Gather, Iota, Map, Reduce, Size, Split, Unsplit, Where
from eintune.space.ir.folds import ACTIONS

from .graph import ClassId, EGraph, Node, label
from .zero_rows import ZeroRows

EXP_LIMIT = 64.0
"""An exponent up to this cannot overflow in fp32, nor can a sum of 2**30 such (e^64 is about 6e27)."""

HAZARDS = {
    "overflow": "the exponent is not bounded above",
    "zero": "the divisor can be 0",
    "empty": "the divisor is 0 in an empty row, and the dividend is not",
    "logarithm": "the argument of the logarithm can be 0",
    "cancellation": "a difference that cancels",
    "weights": "weights that may be negative, whose running sum can be 0",
}
"""What makes a node unsafe, by the names under which it may be allowed."""

Interval = tuple[float, float]
ANY: Interval = (-math.inf, math.inf)


@dataclass(frozen=True)
class Unsafe:
    """A node that must not be chosen, and why."""

    owner: ClassId
    node: Node
    reason: str


class ValueBounds:
    """Bounds of each class, and which class is at least another."""

    def __init__(self, graph: EGraph) -> None:
        self.graph = graph
        # Abstract interpretation over the e-graph: a class's interval is the intersection of what its nodes give,
        # since all of them denote one number. x - max x is at most 0 in one spelling, and that then holds for all.
        self.of: dict[ClassId, Interval] = dict.fromkeys(graph.classes, ANY)
        for _ in range(8):  # bounds only get tighter; a few rounds carry them from the leaves to the roots
            before = dict(self.of)
            for c, n in graph.nodes():
                low, high = self._node(n)
                self.of[c] = (max(self.of[c][0], low), min(self.of[c][1], high))
            if before == self.of:
                break

    def at_least(self, big: ClassId, small: ClassId, seen: frozenset[ClassId] = frozenset()) -> bool:
        """Whether `big` is `small`, or a maximum over it or of it and something else, by steps; or `small` a minimum
        over what `big` is at least."""
        if big == small:
            return True
        # Classes may contain themselves, by way of x = max(x, x): each is asked once on a path.
        if big in seen or small in seen:
            return False
        below = [k for n in self.graph.classes.get(big, ()) for k in self._no_more(n)]
        if any(self.at_least(c, small, seen | {big}) for c in below):
            return True
        least = [k for n in self.graph.classes.get(small, ()) if _extreme(n) == "min" for k in n.children]
        return any(self.at_least(big, c, seen | {small}) for c in least if c not in seen)

    def _is_extreme(self, big: ClassId, small: ClassId) -> bool:
        """Whether one of the two is the maximum, or the minimum, of what the other is."""
        above = [n for n in self.graph.classes.get(big, ()) if _extreme(n) == "max" and small in n.children]
        return bool(above) or any(_extreme(n) == "min" and big in n.children for n in self.graph.classes.get(small, ()))

    def _no_more(self, n: Node) -> tuple[ClassId, ...]:
        """The operands that a node is at least."""
        if _op(n) == "add":
            a, b = n.children
            return tuple(k for k, other in ((a, b), (b, a)) if self.of[other][0] >= 0)
        return n.children if _extreme(n) == "max" else ()

    def attained(self, c: ClassId, rank: str | None) -> bool:
        """Whether the class is exp(x - max_rank x): at most 1, and 1 somewhere along the rank."""
        # max over a sum's items of exp(x - max x) is exp(0): the row's divisor is at least 1, which rules out the
        # division by 0.
        for n in self.graph.classes.get(c, ()):
            if _op(n) == "exp":
                for d in self.graph.classes.get(n.children[0], ()):
                    if _op(d) == "sub" and any(
                        _extreme(g) == "max" and _rank(g) == rank and g.children[0] == d.children[0]
                        for g in self.graph.classes.get(d.children[1], ())
                    ):
                        return True
        return False

    def _node(self, n: Node) -> Interval:
        args = [self.of[c] for c in n.children]
        match n.head:
            case Const():
                return n.head.value, n.head.value
            case Size():
                return 1.0, math.inf
            case Iota():
                return 0.0, math.inf
            case Access() | Gather():
                # Nothing is known of an input: a bound must hold for all data.
                return (0.0, 1.0) if n.head.tensor.kind == "bool" else ANY
            case Where():
                return min(args[0][0], n.head.fill), max(args[0][1], n.head.fill)
            case Split() | Unsplit():
                # A view rearranges elements; a maximum or a minimum is one of them.
                return args[0]
            case Reduce(op="max" | "min"):
                return args[0]
            case Reduce(op="add"):
                return self._sum(n, args[0])
            case Fold():
                low = args[1][0]
                scores = (n.children[0], *n.children[2:])
                # A co-moment of two different things may have either sign; of one with itself it is a sum of squares.
                square = len(scores) == 1 or scores[-1] == scores[-2]
                return (low if n.head.action == "scale" else 0.0, math.inf) if low >= 0 and square else ANY
            # By the class, not by the bounds: an interval times itself would forget that both factors are one number.
            case Map(op="mul") if n.children[0] == n.children[1]:
                return 0.0, math.inf
            # Differences relative to something that is at least as large, whatever that is: bounds of the two alone
            # would never say so.
            case Map(op="sub") if self.at_least(n.children[1], n.children[0]):
                return -math.inf, 0.0
            case Map(op="sub") if any(_op(m) == "reference" for m in self.graph.classes.get(n.children[1], ())):
                return -math.inf, 0.0
            case Map(op="sub") if self._is_extreme(n.children[0], n.children[1]):
                return 0.0, math.inf
            case Map():
                rule = _MAPS.get(n.head.op)
                return rule(*args) if rule else ANY
            case _:
                return ANY

    def _sum(self, n: Node, arg: Interval) -> Interval:
        # a sum of at least one item that is nowhere negative is at least the item that is known to be reached
        # Items of either sign: their number is unknown, so no end of the sum is.
        if arg[0] < 0:
            return ANY if arg[1] > 0 else (-math.inf, arg[1])
        low, rank = arg[0], _rank(n)
        for factor in self.graph.classes.get(n.children[0], ()):
            if _op(factor) == "mul":
                a, b = factor.children
                for y, w in ((a, b), (b, a)):
                    if self.attained(w, rank) and self.of[y][0] > 0:
                        low = max(low, self.of[y][0])
        return (1.0 if self.attained(n.children[0], rank) else low), math.inf


def _op(n: Node) -> str | None:
    return n.head.op if isinstance(n.head, Map) else None


def _extreme(n: Node) -> str | None:
    """ "max" or "min", where the node is the one or the other of its operands, or over a rank."""
    return n.head.op if isinstance(n.head, (Reduce, Map)) and n.head.op in ("max", "min") else None


def _rank(n: Node) -> str | None:
    return n.head.rank if isinstance(n.head, (Reduce, Fold)) else None


def _product(a: Interval, b: Interval) -> Interval:
    # 0 * inf is 0 for the ends of intervals: the infinite end is never reached.
    corners = [0.0 if 0 in (x, y) else x * y for x in a for y in b]
    return min(corners), max(corners)


def _exponential(a: Interval) -> Interval:
    return (math.exp(a[0]) if a[0] < 700 else math.inf), (math.exp(a[1]) if a[1] < 700 else math.inf)


def _logarithm(x: float) -> float:
    return -math.inf if x <= 0 else math.log(x) if x < math.inf else math.inf


def _quotient(a: Interval, b: Interval) -> Interval:
    # A divisor that may be 0 makes a quotient of any size.
    if b[0] <= 0 <= b[1]:
        return ANY
    inverse = tuple(sorted(0.0 if math.isinf(x) else 1 / x for x in b))
    return _product(a, (inverse[0], inverse[1]))


LEAST = 5e-324
"""The least positive number."""
_MAPS: Mapping[str, Callable[..., Interval]] = {
    "add": lambda a, b: (a[0] + b[0], a[1] + b[1]),
    "sub": lambda a, b: (a[0] - b[1], a[1] - b[0]),
    "mul": _product,
    "div": _quotient,
    "neg": lambda a: (-a[1], -a[0]),
    "reference": lambda a: a,
    "abs": lambda a: (max(a[0], -a[1], 0.0), max(-a[0], a[1])),
    "max": lambda a, b: (max(a[0], b[0]), max(a[1], b[1])),
    "min": lambda a, b: (min(a[0], b[0]), min(a[1], b[1])),
    "exp": _exponential,
    "nonzero": lambda a: (max(a[0], LEAST), math.inf) if a[0] >= 0 else ANY,
    "sqrt": lambda a: (math.sqrt(max(a[0], 0.0)), math.inf if math.isinf(a[1]) else math.sqrt(max(a[1], 0.0))),
    "log": lambda a: (_logarithm(a[0]), _logarithm(a[1])),
    "tanh": lambda a: (math.tanh(a[0]), math.tanh(a[1])),
    "erf": lambda a: (-1.0, 1.0),
    "sigmoid": lambda a: (0.0, 1.0),
    "silu": lambda a: (-0.28, math.inf),
    "select": lambda c, a, b: (min(a[0], b[0]), max(a[1], b[1])),
    **dict.fromkeys(("eq", "ne", "lt", "le", "gt", "ge", "and", "or"), lambda a, b: (0.0, 1.0)),
    "not": lambda a: (0.0, 1.0),
}


class _Quotients:
    """What of a graph divides by what may be 0, where the definition has a value."""

    def __init__(self, graph: EGraph, bounds: ValueBounds) -> None:
        self.graph, self.bounds = graph, bounds
        rows = ZeroRows(graph, lambda k: bounds.of[k][0], bounds.at_least)
        self.zero_with = cache(rows.with_divisor)
        self.left_with = cache(lambda d: rows.with_divisor(d, empty=True))
        # What the definition divides by is its author's to answer for. A form may divide by the same class, but by no
        # other that might be 0.
        self.over: dict[ClassId, set[ClassId]] = {}
        for _, n in graph.own:
            if _op(n) == "div":
                self.over.setdefault(n.children[1], set()).add(n.children[0])
        self.is_left_empty = cache(lambda d: rows.may_be_empty(d) or self._is_guarded(d))

    def _is_guarded(self, d: ClassId) -> bool:
        """Whether the definition divides by what may be 0, but nothing that is not 0 then: its quotients are 0 there,
        and so must be those of its forms. Where it divides something else, it is no number itself."""
        return d in self.over and self._may_be_0(d) and self.over[d] <= self.left_with(d)

    def _may_be_0(self, d: ClassId) -> bool:
        return self.bounds.of[d][0] <= 0 <= self.bounds.of[d][1]

    def reason(self, c: ClassId, n: Node) -> str | None:
        """Why a quotient is unsafe, or None."""
        if (c, n) in self.graph.own:
            return None
        over, d = n.children
        if self._may_be_0(d) and d not in self.over:
            # a mean of weights that are all 0 is 0 / 0
            return None if self.bounds.of[d][0] >= 0 and over in self.zero_with(d) else HAZARDS["zero"]
        # The language's 0 / 0 = 0 holds only where both are 0. A form that divides something else by an empty row's
        # sum says inf where the definition says 0.
        return HAZARDS["empty"] if self.is_left_empty(d) and over not in self.left_with(d) else None


def poles(graph: EGraph, nodes: Iterable[tuple[ClassId, Node]]) -> frozenset[tuple[ClassId, Node]]:
    """Those of the nodes that divide by 0 where the definition may have a value."""
    quotients = _Quotients(graph, ValueBounds(graph))
    return frozenset((c, n) for c, n in nodes if _op(n) == "div" and quotients.reason(c, n))


def unsafe(graph: EGraph) -> Iterator[Unsafe]:
    """Every node that can overflow, divide by 0 or cancel."""
    bounds = ValueBounds(graph)
    quotients = _Quotients(graph, bounds)
    for c, n in graph.nodes():
        reason = quotients.reason(c, n) if _op(n) == "div" else _reason(c, n, bounds, (c, n) in graph.own)
        # A definition's own spelling is excused from most hazards (else it would have no form at all), not from this
        # one: a form without it exists, by the law of moments.
        if reason is None and (c, n) in graph.original and _is_raw_moment(graph, n):
            reason = HAZARDS["cancellation"]
        if reason:
            yield Unsafe(c, n, reason)


def _is_raw_moment(graph: EGraph, n: Node) -> bool:
    """Whether a difference is one of a sum of squares and of a product of sums of the same: where the mean is large its
    digits are gone."""
    if _op(n) != "sub":
        return False
    # Looked for through sums, factors and divisors, since a variance is written in many ways: with n, with an
    # epsilon, with n - 1.
    squares, products = _summed(graph, n.children[0]), _within(graph, n.children[1], ("mul", "div"))
    squared = {(r, m.children[0]) for r, k in squares for m in graph.classes.get(k, ()) if _is_square(m)}
    return any(
        _op(m) == "mul" and squared & _summed(graph, m.children[0]) & _summed(graph, m.children[1])
        for k in products
        for m in graph.classes.get(k, ())
    )


def _is_square(n: Node) -> bool:
    return _op(n) == "mul" and n.children[0] == n.children[1]


def _within(graph: EGraph, c: ClassId, through: tuple[str, ...]) -> set[ClassId]:
    """A class and all that stands below it under these operators only."""
    found: set[ClassId] = set()
    stack = [c]
    while stack:
        k = stack.pop()
        if k not in found:
            found.add(k)
            stack += (b for n in graph.classes.get(k, ()) if _op(n) in through for b in n.children)
    return found


def _summed(graph: EGraph, c: ClassId) -> set[tuple[str, ClassId]]:
    """(rank, x) for each x that is a factor in a sum over the rank, of which the class is made."""
    return {
        (n.head.rank, k)
        for b in _within(graph, c, ("add", "sub", "mul", "div"))
        for n in graph.classes.get(b, ())
        if isinstance(n.head, Reduce) and n.head.op == "add"
        for k in _within(graph, n.children[0], ("mul", "div"))
    }


def _reason(c: ClassId, n: Node, bounds: ValueBounds, original: bool) -> str | None:
    of = bounds.of
    match n.head:
        # Also if the definition has it: an exponential without a maximum overflows for scores beyond 88 in fp32.
        # Where no other form exists it stays, and `safe_part` says so.
        case Map(op="exp") if of[n.children[0]][1] > EXP_LIMIT:
            return HAZARDS["overflow"]
        case Map(op="log") if of[n.children[0]][0] <= 0 and not original:
            return HAZARDS["logarithm"]
        # Running weights that pass 0 divide by it on the way, though all partial and finished sums are harmless
        # (`folds`).
        case Fold() if ACTIONS[n.head.action].weighed and of[n.children[1]][0] < 0:
            return HAZARDS["weights"]
        case Map(op="add" | "sub") if of[c][0] >= 0 and not original:
            # what is never negative, computed as a difference, loses its digits when it is small
            plain = n.head.op == "add" and all(of[k][0] >= 0 for k in n.children)
            return None if plain else HAZARDS["cancellation"]
        case _:
            return None


def hazards(exprs: Sequence[Expr]) -> tuple[str, ...]:
    """What of expressions can overflow or cancel as they are written, each with the reason, once."""
    found = (f"{label(u.node.head)}: {u.reason}" for u in unsafe(EGraph.of(list(exprs))))
    return tuple(dict.fromkeys(found))


def safe_part(graph: EGraph, allowed: frozenset[str] = frozenset()) -> tuple[EGraph, tuple[str, ...]]:
    """The graph without unsafe nodes, and what had to stay because the definition has no safe form.

    allowed: names of HAZARDS that are taken into account by whoever asks. Raises ValueError for another name.
    """
    if unknown := sorted(allowed - HAZARDS.keys()):
        raise ValueError(f"`allowed` must name hazards of {list(HAZARDS)}, but got {unknown}")
    # A reason's text is its identity: what is allowed is looked up by name and compared by text.
    accepted = {HAZARDS[name] for name in allowed}
    bad = {(u.owner, u.node): u.reason for u in unsafe(graph) if u.reason not in accepted}

    # `restrict` also drops what can no longer be built, so a class without safe nodes takes all that needs it along.
    def without(keep_original: bool) -> EGraph:
        def stays(c: ClassId, n: Node) -> bool:
            return (c, n) not in bad or (keep_original and (c, n) in graph.own)

        return graph.restrict({c: tuple(n for n in ns if stays(c, n)) for c, ns in graph.classes.items()})

    safe = without(False)
    # Some output has lost all its forms. Then nodes of the definition come back, and what is reported as unstable is
    # exactly those.
    if all(safe.classes.get(r) for r in graph.roots):
        return safe, ()
    kept = without(True)
    stayed = {n: reason for (c, n), reason in bad.items() if (c, n) in graph.own}
    return kept, tuple(f"{label(n.head)} stays, as no safe form exists: {why}" for n, why in stayed.items())
