"""Canonical graphs: one spelling for each form, and the roots that a plan is built from.

Views stand on the inputs; a split whose tiles and insides do the same is joined again (a tiled fold is one
fold: how long its tile is is the schedule's affair); products are sorted, constants folded.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache

import numpy as np

from eintune.space.ir.exact import exact_operands, rewrite_around
from eintune.space.ir.expr import (
    Access,
    Computed,
    Const,
    Expr,
    Fold,
    Gather,
    Integer,
    Iota,
    Map,
    Param,
    Part,
    Predicate,
    Rank,
    Reduce,
    Size,
    Split,
    Term,
    Unsplit,
    Where,
    as_expr,
    children,
    free,
    rewrite,
    topological,
    with_children,
)
from eintune.space.ir.folds import WEIGHTS
from eintune.space.ir.pointwise import POINTWISE
from eintune.space.ir.products import factors, product
from eintune.space.ir.splits import SplitOf, split_predicate
from eintune.space.laws.law import LINEAR

from .cascade import Cascade
from .one_pass import written_out


@lru_cache(maxsize=256)
def lowered(cascade: Cascade) -> Mapping[str, tuple[Expr, tuple[Rank, ...]]]:
    """Each output's canonical expression, and its ranks in order, once a cascade: a form's digest and its plans are
    made of the same. A split is left only where it matters."""
    roots = cascade.roots()
    exprs = canonical(rewrite(roots.values(), written_out), output_ranks(cascade))
    return {name: (x, cascade.outputs[name].ranks) for name, x in zip(roots, exprs, strict=True)}


def output_ranks(cascade: Cascade) -> tuple[Rank, ...]:
    """The ranks of the outputs in order: what names cannot change."""
    return tuple(dict.fromkeys(r for t in cascade.outputs.values() for r in t.ranks))


def canonical(roots: Sequence[Expr], outputs: Sequence[Rank] = ()) -> list[Expr]:
    """The canonical form of some expressions together; `outputs` orders what has the same structure."""
    exprs = spelled(roots, outputs)
    for s in dict.fromkeys((*splits_of(exprs), *splits_of(roots))):  # an index that is split is no view any more
        if any(free(x) & {s.outer, s.inner} for x in exprs):
            continue
        joined = [_Join(s)(x) for x in exprs]
        if all(x is not None for x in joined):
            exprs = spelled([x for x in joined if x is not None], outputs)
    return exprs


@lru_cache(maxsize=256)
def spelling(cascade: Cascade) -> tuple[Expr, ...]:
    """Each output's expression as `spelled`: what a form is read off, once a cascade."""
    return tuple(spelled(list(cascade.roots().values())))


def spelled(roots: Sequence[Expr], outputs: Sequence[Rank] = ()) -> list[Expr]:
    """Views on the inputs, factors sorted, constants folded; splits stay."""
    arithmetic = _Arithmetic(outputs)
    return [arithmetic.settled(x) for x in rewrite_around(rewrite(roots, _push), arithmetic, arithmetic.exact)]


def splits_of(roots: Sequence[Expr]) -> tuple[SplitOf, ...]:
    """The splits that a graph uses, in order of appearance."""
    found = (SplitOf(x.rank, x.outer, x.inner) for x in topological(roots) if isinstance(x, Split))
    return tuple(dict.fromkeys(found))


def mixed(roots: Sequence[Expr]) -> bool:
    """Whether some rank is gone over both whole and split: no plan has one loop for both."""
    split = {s.rank for s in splits_of(roots)}
    viewed = {x.arg for x in topological(roots) if isinstance(x, Split)}
    return any(free(x) & split for x in topological(roots) if x not in viewed)


# ---- views move down to the inputs


def _push(x: Expr) -> Expr | None:
    return _pushed(SplitOf(x.rank, x.outer, x.inner), x.arg) if isinstance(x, Split) else None


def _pushed(s: SplitOf, x: Expr) -> Expr:
    if s.rank not in free(x):
        return x
    match x:
        case Iota():
            return Iota(s.outer) * Size(s.inner) + Iota(s.inner)
        case Where():
            divided = split_predicate(x.predicate, s)
            return s.view(x) if divided is None else Where(divided, _pushed(s, x.arg), x.fill)
        case Map() | Reduce() | Fold():
            return with_children(x, tuple(_pushed(s, a) for a in children(x)))
        case Unsplit() if (x.rank, x.outer, x.inner) == (s.rank, s.outer, s.inner):
            return x.arg
        case _:
            return s.view(x)


# ---- a split that brings nothing is joined


class _Join:
    """Rewrites an expression over (outer, inner) into one over the rank; None where that changes the work."""

    def __init__(self, s: SplitOf) -> None:
        self.s = s
        self.memo: dict[Expr, Expr | None] = {}

    def __call__(self, x: Expr) -> Expr | None:
        if x not in self.memo:
            self.memo[x] = self._join(x)
        return self.memo[x]

    def _join(self, x: Expr) -> Expr | None:
        s = self.s
        match x:
            case Split() if (x.rank, x.outer, x.inner) == (s.rank, s.outer, s.inner):
                return x.arg
            case Map("add", (Map("mul", tiles), Iota(s.inner))) if set(tiles) == {Iota(s.outer), Size(s.inner)}:
                return Iota(s.rank)
            case Reduce(rank=rank) | Fold(rank=rank) if rank in (s.outer, s.inner):
                return self._reduction(x)
            case Where() if x.predicate.ranks & {s.outer, s.inner}:
                whole, arg = join_predicate(x.predicate, s), self(x.arg)
                return None if whole is None or arg is None else Where(whole, arg, x.fill)
            case Iota() if x.rank in (s.outer, s.inner):
                return None
            case _:
                below = [self(a) for a in children(x)]
                kept = [b for b in below if b is not None]
                return with_children(x, tuple(kept)) if len(kept) == len(below) else None

    def _reduction(self, x: Reduce | Fold) -> Expr | None:
        s = self.s
        if x.rank != s.outer:
            return None
        match x:
            case Reduce(arg=Reduce() as inner) if inner.rank == s.inner and inner.op == x.op:
                arg = self(inner.arg)
                return None if arg is None else Reduce(x.op, s.rank, arg)
            case Fold():
                inside = _tile_of_fold(x, s)
                if inside is None:
                    return None
                ref, arg = self(inside[0]), self(inside[1])
                return None if ref is None or arg is None else Fold(x.action, s.rank, ref, arg)
            case _:
                return None


def _tile_of_fold(x: Fold, s: SplitOf) -> tuple[Expr, Expr] | None:
    """The (score, item) of a fold over tiles whose items are sums relative to the tile's own reference."""
    if not isinstance(x.ref, Reduce) or x.ref.rank != s.inner:
        return None
    if x.action not in LINEAR:
        return None
    score, row = x.ref.arg, WEIGHTS[x.action]
    if row.reference_of(s.inner, score) is not x.ref:
        return None
    match x.arg:
        case Fold() as inner if (inner.action, inner.rank, inner.ref) == (x.action, s.inner, score):
            return score, inner.arg
        case Reduce(op="add") as inner if inner.rank == s.inner:
            rest = factors(inner.arg, ones=True)
            weight = row.weight_of(score, x.ref)
            if weight not in rest:
                return None
            rest.remove(weight)
            return score, product(rest)
        case _:
            return None


def join_predicate(p: Predicate, s: SplitOf) -> Predicate | None:
    """A filter on the split rank as one on the whole; None where it does not go over the whole index."""
    outer = Counter({t: 1 for t in p.terms if t.rank == s.outer})
    terms: list[Term] = []
    for t in p.terms:
        if t.rank == s.inner:
            partner = Term(s.outer, t.coef, s.inner)
            if t.stride is not None or not outer[partner]:
                return None
            outer[partner] -= 1
            terms.append(Term(s.rank, t.coef))
        elif t.rank != s.outer:
            terms.append(t)
    return None if +outer else Predicate(tuple(terms), p.sizes, p.const)


# ---- arithmetic


class _Arithmetic:
    """Folds constants and sorts factors, by structure and by where their ranks stand in the outputs.

    A product is left as it is until it is an operand of something else, so that one of n factors is sorted once, not n
    times.
    """

    def __init__(self, outputs: Sequence[Rank]) -> None:
        self.place = {r: str(i) for i, r in enumerate(outputs)}
        self.shapes: dict[Expr, str] = {}
        self.known: dict[Expr, float] = {}
        """Of a product that is left as it is: its numbers."""
        self.sorted: dict[Expr, Expr] = {}

    def __call__(self, x: Expr) -> Expr | None:
        if isinstance(x, Map) and (value := _constant(x)) is not None:
            return Const(value)
        if isinstance(x, Map) and x.op == "mul":
            self.known[x] = self._number(x.args[0]) * self._number(x.args[1])
            return None
        below = zip(children(x), exact_operands(x), strict=True)
        x = with_children(x, tuple(a if is_exact else self.settled(a) for a, is_exact in below))
        match x:
            case Map("div", (a, Const(value=1.0))):
                return a
            case Map(("add" | "sub"), (a, Const(value=0.0))):
                return a
            case _:
                return x

    def settled(self, x: Expr) -> Expr:
        """An operand as it is in the end: a product with its numbers multiplied and its other factors in order."""
        if x not in self.known:
            return x
        if x not in self.sorted:
            rest = [f for f in factors(x, ones=True) if not isinstance(f, Const)]
            ordered, known = sorted(rest, key=self.shape), self.known[x]
            self.sorted[x] = product(ordered if known == 1.0 and ordered else [*ordered, as_expr(known)])
        return self.sorted[x]

    def _number(self, x: Expr) -> float:
        """The product of the numbers among the factors of an operand."""
        if x in self.known:
            return self.known[x]
        return math.prod(f.value for f in factors(x) if isinstance(f, Const))

    def exact(self, x: Expr) -> Expr | None:
        """Of what must be computed as it is written: what is known now, and the order of two factors."""
        if not isinstance(x, Map):
            return None
        if (value := _constant(x)) is not None:
            return Const(value)
        if x.op == "mul" and not any(isinstance(f, Const) for f in x.args):
            return Map("mul", tuple(sorted(x.args, key=self.shape)))
        return None

    def shape(self, x: Expr) -> str:
        """A text that depends on structure only: no name of a tensor, a parameter or a rank is in it."""
        for node in topological([x], stop=self.shapes):
            below = " ".join(self.shapes[a] for a in children(node))
            text = f"{_head(node, self._name)}({below})"
            # inputs last, so that a product reads `weight * V`; long texts as a hash
            last = "~" if isinstance(node, (Access, Gather, Param)) else ""
            self.shapes[node] = last + (text if len(text) < 80 else _hash(text, 16))
        return self.shapes[x]

    def _name(self, kind: str, text: str) -> str:
        return self.place.get(text, "r") if kind == "r" else kind


def _constant(x: Map) -> float | None:
    """The value of an operator on numbers, if it is a finite number."""
    numbers = [a.value for a in x.args if isinstance(a, Const)]
    if not numbers or len(numbers) < len(x.args) or POINTWISE[x.op].boolean:
        return None
    with np.errstate(all="ignore"):
        value = float(POINTWISE[x.op].numpy(*map(np.float64, numbers)))
    return value if np.isfinite(value) else None


def _head(x: Expr, name: Callable[[str, str], str]) -> str:
    """A node without its operands; `name(kind, text)` spells ranks ("r"), tensors ("t") and parameters ("p")."""

    def r(rank: Rank) -> str:
        return name("r", rank)

    match x:
        case Access():
            return f"{name('t', x.tensor.name)}:{x.tensor.kind}[{','.join(map(r, x.index))}]"
        case Gather():
            items = (_item(i, name) for i in x.index)
            return f"{name('t', x.tensor.name)}:{x.tensor.kind}[{','.join(items)}]{' else 0' if x.padded else ''}"
        case Const():
            return repr(x.value)
        case Param():
            return name("p", x.name)
        case Size() | Iota():
            return f"{type(x).__name__} {r(x.rank)}"
        case Map():
            return x.op
        case Reduce():
            return f"{x.op} {r(x.rank)}"
        case Fold():
            return f"fold {x.action} {r(x.rank)}"
        case Where():
            p = x.predicate
            terms = ";".join(f"{t.coef} {r(t.rank)} {r(t.stride) if t.stride else ''}" for t in p.terms)
            return f"where {terms} {[(r(a), c) for a, c in p.sizes]} {p.const} {x.fill}"
        case Split() | Unsplit():
            return f"{type(x).__name__} {r(x.rank)} {r(x.outer)} {r(x.inner)}"


def _item(i: Integer, name: Callable[[str, str], str]) -> str:
    match i:
        case str():
            return name("r", i)
        case Part():
            return f"{name('r', i.rank)}{i.op}{i.by}"
        case Access() | Gather():
            return _head(i, name)
        case Size():
            return f"|{name('r', i.rank)}|"
        case Computed():
            return f"{i.op}({','.join(_item(a, name) for a in i.args)})"
        case int():
            return str(i)


def _hash(text: str, digits: int) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:digits]


def digest(cascade: Cascade) -> str:
    """A hash of the canonical graph up to the names of tensors and ranks: equal if the plans are equal."""
    roots = lowered(cascade)
    numbers: dict[tuple[str, str], str] = {}

    def name(kind: str, text: str) -> str:
        return numbers.setdefault((kind, text), f"{kind}{len(numbers)}")

    place: dict[Expr, int] = {}
    lines: list[str] = []
    for x, ranks in roots.values():
        lines.append(" ".join(name("r", r) for r in ranks))
        for node in topological([x], stop=place):
            place[node] = len(place)
            lines.append(f"{_head(node, name)} {[place[a] for a in children(node)]}")
        lines.append(f"= {place[x]}")
    return _hash("\n".join(lines), 16)
