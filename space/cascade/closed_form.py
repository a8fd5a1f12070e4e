"""An iteration as a cascade: recurrences solved as reductions and composite folds.

    RMm1+1,p = max(RMm1,p, LMm1,p)                       RM at |m1| is the maximum of LM over m1
    RDm1+1,p = SDm1,p + RDm1,p * e^(RMm1,p - RMm1+1,p)   RD at |m1| is fold_scale[m1](LM, SD relative to LM)

The second holds where every term of SD carries one factor e^(z - RMm1+1,p): times e^(RM) both sides telescope, and
the sum of SD e^(RMm1+1) over m1, divided by e^(max LM), is the composite fold. The answer is run in float64 beside
the iteration before it is given.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from eintune.space.ir.einsum import CascadeError, Update
from eintune.space.ir.expr import (
    Access,
    Const,
    Expr,
    Fold,
    Map,
    Predicate,
    Rank,
    Reduce,
    Split,
    Term,
    Unsplit,
    Where,
    children,
    free,
    params,
    rewrite,
    topological,
)
from eintune.space.ir.extents import Extents
from eintune.space.ir.pointwise import REDUCTIONS, Array

from .cascade import Cascade, from_roots, rename
from .iterative import IterativeCascade
from .run import run_cascade

TOLERANCE = 1e-9
_SIZES = (2, 3, 4, 5)
_PARTS = (3, 2)
"""Tiles, and elements of a tile, of a split rank on which the answer is tried."""
_FORMS = (
    "a step is S+1 = op(S, x) with op one of +, *, max, min, or S+1 = x + S * e^(R - R+1) with a running maximum R and "
    "one factor e^(z - R+1) in every term of x, or S+1 = x + S * (T+1 ÷ T) with one factor T+1 in every term of x, or "
    "reads no value before it; nothing else may read a state"
)


def closed(c: IterativeCascade) -> Cascade:
    """The cascade that computes an iteration's results. Raises CascadeError naming the state that is none of the
    recurrences above, and for a stopping condition other than `until m1 >= |m1|`."""
    if c.until != Predicate((Term(c.rank, 1),), ((c.stop, -1),)):
        raise CascadeError(f"an iteration is solved where it stops at `until {c.rank} >= |{c.rank}|` only")
    solver = _Solver(c)
    roots = {u.output.name: (solver.at_the_end(u), u.output.ranks) for u in c.after}
    named = {e.output.name: solver.before[e.output.name] for e in c.before} | solver.locals | solver.solved
    cascade = from_roots(roots, {x: n for n, x in named.items() if n not in roots and children(x)})
    _check(c, cascade)
    return cascade


class _Solver:
    """Solves the states in the order of their steps; what lives within a step is written in place."""

    def __init__(self, c: IterativeCascade) -> None:
        self.c = c
        self.extents = Extents()
        self.before: dict[str, Expr] = {}
        self.locals: dict[str, Expr] = {}
        self.solved: dict[str, Expr] = {}
        self.items: dict[str, Expr] = {}
        """Of a running maximum, what it is the maximum of."""
        self.states = {u.output.name: u for u in c.initial}
        for e in c.before:
            self.before[e.output.name] = self._inlined(e.expr)
        for u in c.step:
            expr = self._inlined(u.expr)
            if u.output.name in self.states:
                self.solved[u.output.name] = self._state(u, expr)
            else:
                self.locals[u.output.name] = expr

    def _inlined(self, x: Expr) -> Expr:
        """With what was defined above written in place; states stay, at m1 and at m1+1."""
        found = rewrite([x], self._source)[0]
        if fault := self.extents.fault(found):
            raise CascadeError(fault)
        return found

    def _source(self, x: Expr) -> Expr | None:
        if not isinstance(x, Access) or x.tensor.name in self.states:
            return None
        source = self.before.get(x.tensor.name, self.locals.get(x.tensor.name))
        return None if source is None else _renamed(source, x)

    def at_the_end(self, u: Update) -> Expr:
        """A result, its states solved."""

        def last(x: Expr) -> Expr | None:
            if isinstance(x, Access) and x.tensor.name in self.solved:
                return _renamed(self.solved[x.tensor.name], x, self.c.rank)
            return None

        return rewrite([self._inlined(u.expr)], last)[0]

    # ---- one state

    def _state(self, u: Update, step: Expr) -> Expr:
        initial = self.states[u.output.name].expr
        own = [x for x in topological([step]) if self._reads(x, u.output.name)]
        if len(own) == 1 and isinstance(step, Map) and step.op in REDUCTIONS and own[0] in step.args:
            (item,) = (a for a in step.args if a != own[0]) if step.args[0] != step.args[1] else (None,)
            if item is not None and not self._read(item):
                self.items[u.output.name] = item
                total = Reduce(step.op, self.c.rank, item)
                identity = isinstance(initial, Const) and initial.value == REDUCTIONS[step.op].identity
                return total if identity else Map(step.op, (initial, total))
        if len(own) == 1 and initial == Const(0.0) and (fold := self._rescaled(own[0], step)):
            return fold
        if len(own) == 1 and initial == Const(0.0) and (product := self._in_proportion(own[0], step)):
            return product
        if not own and (found := self._last(step)):
            return found
        raise CascadeError(f"{u.output.name}: cannot be solved; {_FORMS}")

    def _rescaled(self, own: Expr, step: Expr) -> Expr | None:
        """`x + S * e^(R - R+1)` as a composite fold, or None."""
        terms = list(_flat("add", step))
        kept = [t for t in terms if own in topological([t])]
        if len(kept) != 1:
            return None
        factors = list(_flat("mul", kept[0]))
        match [f for f in factors if f != own]:
            case [Map("exp", (Map("sub", (Access() as old, Access() as new)),))] if factors.count(own) == 1:
                item = self.items.get(new.tensor.name)
                if item is None or not self._steps(old, new):
                    return None
            case _:
                return None
        rest = [t for t in terms if t is not kept[0]]
        if not rest or any(_degree(t, new) != 1 or self._read(t) - {new} for t in rest):
            return None
        reference = _renamed(item, new, self.c.next)
        alone = Map("exp", (Map("sub", (reference, reference)),))
        instead: dict[Expr, Expr] = {new: reference, alone: Const(1.0)}
        relative = [rewrite([t], instead.get)[0] for t in rest]
        total = relative[0]
        for t in relative[1:]:
            total = Map("add", (total, t))
        return Fold("scale", self.c.rank, reference, total)

    def _in_proportion(self, own: Expr, step: Expr) -> Expr | None:
        """`x + S * (T+1 ÷ T)` with a factor T+1 in every term of x: S is T times the sum of x / T+1, or None.

        Where T is 0 on the way, which random data are not, the iteration forgets what was before.
        """
        terms = list(_flat("add", step))
        kept = [t for t in terms if own in topological([t])]
        rest = [t for t in terms if t not in kept]
        if len(kept) != 1 or not rest or list(_flat("mul", kept[0])).count(own) != 1:
            return None
        match [f for f in _flat("mul", kept[0]) if f != own]:
            case [Map("div", (Access() as new, Map("nonzero", (Access() as old,))))] if self._before(old, new):
                solved = self.solved.get(new.tensor.name)
            case _:
                return None
        shares = [_without(t, new) for t in rest]
        if solved is None or any(x is None or self._read(x) for x in shares):
            return None
        total = next(x for x in shares if x is not None)
        for x in shares[1:]:
            total = Map("add", (total, x)) if x is not None else total
        return Map("mul", (_renamed(solved, new, self.c.next), Reduce("add", self.c.rank, total)))

    def _last(self, step: Expr) -> Expr | None:
        """A step that reads no value before it, as it is in the last iteration: its filters at |i| - 1; or None."""

        def last(x: Expr) -> Expr | None:
            match x:
                case Where() if self.c.rank in x.predicate.ranks:
                    return Where(_at_the_last(x.predicate, self.c.rank, self.c.stop), x.arg, x.fill)
                case Access() if x.tensor.name in self.solved and self.c.next in x.index:
                    return _renamed(self.solved[x.tensor.name], x, self.c.rank)
                case _:
                    return None

        (found,) = rewrite([step], last)
        return None if self._read(found) or self.c.rank in free(found) else found

    def _before(self, old: Access, new: Access) -> bool:
        """Whether two reads are of one state, before and after the step."""
        index = tuple(self.c.next if r == self.c.here else r for r in old.index)
        return old.tensor == new.tensor and index == new.index

    def _steps(self, old: Access, new: Access) -> bool:
        """Whether two reads are of one running maximum, before and after the step."""
        solved = self.solved.get(new.tensor.name)
        return self._before(old, new) and isinstance(solved, Reduce) and solved.op == "max"

    def _reads(self, x: Expr, name: str) -> bool:
        return isinstance(x, Access) and x.tensor.name == name

    def _read(self, x: Expr) -> set[Expr]:
        return {a for a in topological([x]) if isinstance(a, Access) and a.tensor.name in self.states}


def _renamed(source: Expr, x: Access, iterated: Rank | None = None) -> Expr:
    """A tensor's expression under the ranks by which it is read; `iterated` and its indices are no ranks here."""
    pairs = zip(x.tensor.ranks, x.index, strict=True)
    return rename(source, {a: b for a, b in pairs if a != b and not ("+" in b or "|" in b or b == iterated)})


def _without(x: Expr, factor: Expr) -> Expr | None:
    """A product without one factor; None where it is no factor, or stands twice."""
    factors = list(_flat("mul", x))
    if factors.count(factor) != 1:
        return None
    factors.remove(factor)
    found: Expr = factors[0] if factors else Const(1.0)
    for f in factors[1:]:
        found = Map("mul", (found, f))
    return None if factor in topological([found]) else found


def _at_the_last(p: Predicate, rank: Rank, stop: Rank) -> Predicate:
    """The filter where `rank` is |stop| - 1."""
    coef = sum(t.coef for t in p.terms if t.rank == rank and t.stride is None)
    terms = tuple(t for t in p.terms if t.rank != rank or t.stride)
    return replace(p, terms=terms, sizes=(*p.sizes, (stop, coef)), const=p.const - coef)


def _flat(op: str, x: Expr) -> Iterator[Expr]:
    """The operands of nested `op`s."""
    if isinstance(x, Map) and x.op == op:
        for a in x.args:
            yield from _flat(op, a)
    else:
        yield x


def _degree(x: Expr, reference: Expr) -> int | None:
    """How many factors e^(z - reference) every term has; None where terms differ or it is read in another way."""
    if reference not in topological([x]):
        return 0
    match x:
        case Map("exp", (Map("sub", (z, y)),)) if y == reference and reference not in topological([z]):
            return 1
        case Map("mul", (a, b)):
            found = _degree(a, reference), _degree(b, reference)
            return None if None in found else sum(d for d in found if d is not None)
        case Map("div", (a, b)) if reference not in topological([b]):
            return _degree(a, reference)
        case Map("add" | "sub", (a, b)):
            left, right = _degree(a, reference), _degree(b, reference)
            return left if left == right else None
        case Map("neg", (a,)):
            return _degree(a, reference)
        case Reduce("add") | Split() | Unsplit():
            return _degree(x.arg, reference)
        case Where() if x.fill == 0:
            return _degree(x.arg, reference)
        case _:
            return None


# ---- the check


def _check(c: IterativeCascade, cascade: Cascade) -> None:
    """Raises CascadeError where the cascade differs from the iteration on random data."""
    sizes = _sizes(c)
    numbers = params(s.expr for s in c.statements())
    for seed in range(2):
        random = np.random.default_rng(seed)
        data = {n: _draw(random, t.kind, [sizes[r] for r in t.ranks]) for n, t in c.inputs.items()}
        scalars = {p: float(random.uniform(0.3, 1.5)) for p in numbers}
        wanted = c.run(data, sizes, scalars)
        found = run_cascade(cascade, data, sizes, scalars)
        for name, value in wanted.items():
            if not np.allclose(found[name], value, rtol=TOLERANCE, atol=TOLERANCE, equal_nan=True):
                raise CascadeError(f"{name}: the iteration was solved to something else; {_FORMS}")


def _draw(random: np.random.Generator, kind: str, shape: list[int]) -> Array:
    match kind:
        case "bool":
            return random.integers(0, 2, shape).astype(np.bool_)
        case "int":
            return random.integers(0, 3, shape)
        case _:
            return random.normal(size=shape)


def _sizes(c: IterativeCascade) -> dict[Rank, int]:
    ranks = dict.fromkeys(r for s in c.statements() for r in s.output.ranks)
    nodes = topological(s.expr for s in c.statements())
    ranks.update(dict.fromkeys(r for x in nodes if isinstance(x, Access) for r in x.tensor.ranks))
    ranks.update(dict.fromkeys(x.rank for x in nodes if isinstance(x, (Reduce, Fold))))
    sizes = {r: _SIZES[i % len(_SIZES)] for i, r in enumerate(ranks)}
    sizes[c.rank] = sizes.get(c.stop, sizes[c.rank])  # the iteration ends there
    return sizes | _split_sizes(nodes)


def _split_sizes(nodes: Sequence[Expr]) -> dict[Rank, int]:
    views = [x for x in nodes if isinstance(x, (Split, Unsplit))]
    outer, inner = _PARTS
    found = {x.outer: outer for x in views} | {x.inner: inner for x in views}
    return found | {x.rank: outer * inner for x in views}
