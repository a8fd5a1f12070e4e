"""Hypothesis draws computations that a plan can lay out: 1 to 3 products, 0 to 2 folds, random pointwise
operators, filters, shapes and roles. Values stay of order one, so that float64 errors stay tiny."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import strategies as st

from eintune.space.cascade.cascade import Cascade, from_roots
from eintune.space.ir.expr import (
    NEG_INF,
    Access,
    Const,
    Expr,
    Fold,
    Index,
    Iota,
    Map,
    Part,
    Predicate,
    Rank,
    Reduce,
    Size,
    Tensor,
    Term,
    Where,
    access,
    free,
    topological,
)
from eintune.space.ir.gathers import completed
from eintune.space.plan.roles import Role
from eintune.space.schedule.schedule import FILTERS, Schedule

RANKS = ("a", "b", "c", "d")
LENGTHS = (1, 3, 16, 17, 32, 40)
MOST_AXES = 3
ROWS = 7
"""Length of an axis that an index tensor addresses."""
TILES = (16, 32)

UNARY = ("tanh", "sigmoid", "neg", "abs", "silu", "erf")
BINARY = ("add", "sub", "mul", "max", "min")


@dataclass(frozen=True)
class Drawn:
    """A cascade at one size under one schedule of the Triton emitter's kind (padded tiles)."""

    cascade: Cascade
    sizes: dict[Rank, int]
    schedule: Schedule


@st.composite
def inputs(draw: st.DrawFn) -> list[Expr]:
    """Two to four tensors over one to three ranks each, some of them addressed by more than a rank."""
    ranks = st.lists(st.sampled_from(RANKS), min_size=1, max_size=3, unique=True).map(tuple)
    every = draw(st.lists(ranks, min_size=2, max_size=4))
    return [
        draw(reads(f"T{i}", r)) if draw(st.booleans()) else Access(Tensor(f"T{i}", r), r) for i, r in enumerate(every)
    ]


@st.composite
def reads(draw: st.DrawFn, name: str, ranks: tuple[Rank, ...]) -> Expr:
    """A tensor addressed along each rank by its index, a part of it, its page and place, or a number looked up."""
    index: list[Index] = []
    for r in ranks:
        by = draw(st.sampled_from([1, 4, 5, 16, 32, 48]))
        whole = Access(Tensor(f"{name}I{r}", (r,), "int"), (r,))
        page = access(Tensor(f"{name}I{r}", ("n9",), "int"), (Part("//", r, by),))
        match draw(st.sampled_from(["rank", "quotient", "remainder", "both", "number", "page"])):
            case "rank":
                index.append(r)
            case "quotient":
                index.append(Part("//", r, by))
            case "remainder":
                index.append(Part("%", r, by))
            case "both":
                index += [Part("//", r, by), Part("%", r, by)]
            case "number":
                index.append(whole)
            case _:
                index += [page, Part("%", r, by)]
    own = tuple(i if isinstance(i, str) else f"n{name[1:]}{k}" for k, i in enumerate(index))
    return access(Tensor(name, own), tuple(index))


@st.composite
def pointwise(draw: st.DrawFn, known: list[Expr]) -> Expr:
    """A random elementwise step on something known."""
    x = draw(st.sampled_from(known))
    match draw(st.sampled_from(["unary", "binary", "scale", "filter", "select", "ratio", "none"])):
        case "unary":
            return Map(draw(st.sampled_from(UNARY)), (x,))
        case "binary":
            y = draw(st.sampled_from(known))
            return Map(draw(st.sampled_from(BINARY)), (Map("tanh", (x,)), Map("tanh", (y,))))
        case "scale":
            return x * draw(st.sampled_from([0.5, -0.7, 0.0, 1.3]))
        case "filter" if free(x):
            return Where(draw(predicates(sorted(free(x)))), x, draw(st.sampled_from([0.0, 0.25])))
        case "select" if free(x):
            y = draw(st.sampled_from(known))
            index = Iota(draw(st.sampled_from(sorted(free(x)))))
            return Map("select", (Map("lt", (index, Const(5.0))), x, y))
        case "ratio":
            return x / (Map("abs", (draw(st.sampled_from(known)),)) + 1.0)
        case _:
            return x


@st.composite
def predicates(draw: st.DrawFn, ranks: list[Rank]) -> Predicate:
    """An affine filter on one or two ranks."""
    chosen = draw(st.lists(st.sampled_from(ranks), min_size=1, max_size=2, unique=True))
    signs = st.sampled_from([1, -1, -1, 1, 2])
    sizes = tuple((r, draw(st.sampled_from([1, -1]))) for r in chosen if draw(st.booleans()))
    return Predicate(tuple(Term(r, draw(signs)) for r in chosen), sizes, draw(st.integers(-6, 12)))


@st.composite
def product(draw: st.DrawFn, known: list[Expr]) -> Expr:
    """A mean of products over a rank of one of them."""
    x, y = draw(st.sampled_from(known)), draw(st.sampled_from(known))
    ranks = sorted(free(x) | free(y))
    if not ranks:
        return x
    r = draw(st.sampled_from(ranks))
    return Reduce("add", r, x * y) / Size(r)


@st.composite
def fold(draw: st.DrawFn, known: list[Expr]) -> Expr:
    """A composite fold, normalised or not, or a plain maximum, over a score that may be filtered."""
    scores = [x for x in known if free(x)]
    if not scores:
        return known[0]
    score = draw(st.sampled_from(scores))
    r = draw(st.sampled_from(sorted(free(score))))
    score = score * draw(st.sampled_from([1.0, 3.0, -2.0, 0.5]))
    kind = draw(st.sampled_from(["ratio", "max", "log", "spread", "written out"]))
    if kind == "spread":
        return Fold("translate", r, score, Const(1.0)) / Size(r)
    if draw(st.booleans()):
        score = Where(draw(predicates(sorted({r, *list(free(score))[:1]}))), score, NEG_INF)
    total = Fold("scale", r, score, Const(1.0))
    weighted = draw(st.sampled_from(known))
    match kind:
        case "max":
            return Map("max", (Reduce("max", r, score), Const(-4.0)))
        case "log":
            return Map("max", (Map("log", (total,)), Const(-4.0)))
        case "ratio":
            return Fold("scale", r, score, weighted) / total
        case _:
            weight = Map("exp", (score - Reduce("max", r, score),))
            return Reduce("add", r, weight / Reduce("add", r, weight) * weighted)


def _narrow(x: Expr) -> bool:
    """Whether nothing in an expression has more axes than tests can afford."""
    return all(len(free(n)) <= MOST_AXES for n in topological([x]))


@st.composite
def computations(draw: st.DrawFn) -> Drawn:
    """A cascade of one or two outputs, its sizes, and a role for every rank."""
    known: list[Expr] = draw(inputs())
    steps = draw(st.permutations(["product"] * draw(st.integers(1, 3)) + ["fold"] * draw(st.integers(0, 2))))
    made: list[Expr] = []
    for step in steps:
        known = [*known, draw(pointwise(known))]
        x = draw(product(known)) if step == "product" else draw(fold(known))
        made += [x] if _narrow(x) else []
        known = [x for x in [*known, *made[-1:]] if _narrow(x)]
    last = [draw(pointwise(known[-2:]))]
    outputs = [x for x in dict.fromkeys([*last, *made[-draw(st.integers(0, 1)) :]]) if _narrow(x)] or known[:1]
    roots = {f"Y{i}": (x, tuple(draw(st.permutations(sorted(free(x)))))) for i, x in enumerate(outputs[:2])}
    cascade = from_roots(roots)
    sizes = {r: draw(st.sampled_from(LENGTHS)) for r in RANKS}
    sizes = completed((e.expr for e in cascade.einsums), sizes, ROWS)
    return Drawn(cascade, sizes, draw(schedules(cascade, sizes)))


@st.composite
def schedules(draw: st.DrawFn, cascade: Cascade, sizes: dict[Rank, int]) -> Schedule:
    """Any role for a rank that allows it; padded tiles."""
    reduced = {x.rank for x in topological(cascade.roots().values()) if isinstance(x, (Reduce, Fold))}
    roles = []
    for r in RANKS:
        whole = Role(None, max(16, 1 << (sizes[r] - 1).bit_length()))
        tile = st.sampled_from(TILES)
        options = [st.just(whole), st.builds(Role, st.just("loop"), tile)]
        if r not in reduced:
            options += [st.just(Role("grid", None)), st.builds(Role, st.just("grid"), tile)]
        roles.append((r, draw(st.one_of(options))))
    return Schedule("triton", tuple(roles), filters=draw(st.sampled_from(FILTERS)))
