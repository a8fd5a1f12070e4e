"""Views undone: what a definition that is written in tiles computes, without tiles.

    max_m1 max_m0 split(x) = max_m x          a reduction over tiles of one within a tile is one over the rank
    split(a) * u = split(a * u)               a view moves out of all that is pointwise, and past other reductions
    sum_m0(y) * u = sum_m0(y * u)             a correction of a tile goes back into its sum
    e^(x - L) * e^(L - G) = e^(x - G)         and what is relative to a tile's reference becomes relative to the whole's

They are the laws of `laws` that split a rank, read from right to left. A definition in two passes with local
references, or a fold over tiles, becomes what it is in tiles of, and from that all else follows (`derive`). They run in
a graph of their own, before it: beside the others they would undo what those have just split. What was put off until
after the loop goes back too, so that all start from one form, the plainest: no views, no folds, divisions where their
operands vary.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import product

from eintune.space.analysis.views import whole_ranks
from eintune.space.egraph.graph import ClassId, EGraph, Limits, Node, saturate
from eintune.space.egraph.safety import poles
from eintune.space.ir.expr import (
    Access,
    Expr,
    Fold,
    Gather,
    Iota,
    Map,
    Predicate,
    Rank,
    Reduce,
    Size,
    Split,
    Unsplit,
    Where,
    children,
    free,
    indexing_ranks,
    rewrite,
    topological,
    with_children,
)
from eintune.space.ir.folds import ACTIONS, WEIGHTS
from eintune.space.ir.pointwise import POINTWISE, REDUCTIONS
from eintune.space.ir.splits import SplitOf
from eintune.space.laws.law import LINEAR, Absent, Condition, Differ, Law, Positive, Present, Vanishes, variable
from eintune.space.laws.laws import GENERAL, UNSPLIT
from eintune.space.plan.roles import IllegalPlan

_A, _B, _C, _X, _Y, _U = (variable(n) for n in "abcxyu")
_R = "?r"
AFTER = 1_000
"""Nodes that a division after the loop is worth: it goes into the loop where it can."""
_FOLLOWS = ("associate", "commute", "exponential", "identity")
"""Laws that bring a correction to the weight that it corrects."""


def undone(roots: Sequence[Expr], limits: Limits) -> dict[Expr, Expr]:
    """The nodes of a definition that have views, folds or a division that was put off, each with what it is without.

    Raises SaturationError as `saturate` does.
    """
    nodes = topological(roots)
    splits = tuple(dict.fromkeys(SplitOf(x.rank, x.outer, x.inner) for x in nodes if isinstance(x, (Split, Unsplit))))
    ranks = frozenset(s.rank for s in splits) | {r for x in nodes for r in _late(x)}
    if not ranks:
        return {}
    parts = frozenset(r for s in splits for r in (s.outer, s.inner))
    # A graph of its own and before the other: these laws read from right to left what others there read from left to
    # right, and both together would never rest.
    graph = saturate([*roots, *_whole(nodes, splits)], tuple(unsplit_laws(splits, nodes)), splits, limits)
    plainest = _plainest(graph, parts, ranks)
    written: set[Expr] = set()
    made: dict[ClassId, Expr] = {}
    found: dict[Expr, Expr] = {}
    for x in nodes:
        if _is_of(x, parts) or _late(x) or any(a in written for a in children(x)):
            written.add(x)
            c = graph.defined[x]
            # What varies with a part of a rank is inside a tile and has no name without tiles.
            if c in plainest and not free(x) & parts:
                found[x] = _built(c, plainest, made)
    return found


def _whole(nodes: Sequence[Expr], splits: Sequence[SplitOf]) -> Iterator[Expr]:
    """The references over a whole rank of what is relative to tiles' own: a merge may be relative to another one (the
    largest log-sum-exp of a tile), and the laws change to a reference that is there."""
    for s in splits:
        for x in nodes:
            if isinstance(x, Reduce) and (x.op, x.rank) == ("max", s.inner) and s.outer in free(x):
                yield Reduce("max", s.outer, x)


def _late(x: Expr) -> frozenset[Rank]:
    """The rank of a fold, or of a sum that is divided by what another reduction over it gives."""
    match x:
        case Fold():
            return frozenset({x.rank})
        case Map("div", (Reduce("add") as total, divisor)):
            below = topological([divisor])  # which the sum itself is no part of: that division waits for it
            # sum(w v) / sum(w): the division waits for a second sum over the rank, as FlashAttention's does.
            again = any(isinstance(y, (Reduce, Fold)) and y.rank == total.rank for y in below)
            put_off = again and total not in below and total.rank not in free(divisor)
            return frozenset({total.rank}) if put_off else frozenset()
        case _:
            return frozenset()


# ---- the laws


def unsplit_laws(splits: Sequence[SplitOf], nodes: Sequence[Expr]) -> Iterator[Law]:
    """For the operators and filters that the definition has."""
    operators = {x.op for x in nodes if isinstance(x, Map)} | {"mul", "sub", "exp"}
    filters = dict.fromkeys((x.predicate, x.fill) for x in nodes if isinstance(x, Where))
    for s in splits:
        yield from _pointwise(s, operators)
        yield from _reductions(s)
        yield from _indices(s, filters)
    yield from (law for law in GENERAL if law.name in _FOLLOWS)
    yield from _references()
    yield Law(UNSPLIT, Reduce("add", _R, _Y) / _U, Reduce("add", _R, _Y / _U), (Absent((_R,), (_U,)),))
    yield Law(UNSPLIT, (_A * _B) / _C, (_A / _C) * _B)
    for name in LINEAR:
        weight = WEIGHTS[name].weight_of(_C, WEIGHTS[name].reference_of(_R, _C))
        yield Law(UNSPLIT, Fold(name, _R, _C, _Y), Reduce("add", _R, _Y * weight))


def _references() -> Iterator[Law]:
    """What was divided by a tile's sum and multiplied again, and what is relative to another reference on both sides of
    a quotient."""
    positive = (Positive(_B),)
    yield Law(UNSPLIT, _U / _exp(_A - _B), _U * _exp(_B - _A))
    yield Law(UNSPLIT, (_A / _B) * _B, _A, positive)
    yield Law(UNSPLIT, _exp((Map("log", (_B,)) + _C) - _A), _B * _exp(_C - _A), positive)
    own = Reduce("max", _R, _C)
    other = (Absent((_R,), (_U,)), Present(_R, _C), Differ(_U, own))
    for weighed in (_exp(_C - _U), _Y * _exp(_C - _U)):
        relative = rewrite([weighed], {_U: own}.get)[0]
        yield Law(UNSPLIT, Reduce("add", _R, weighed), Reduce("add", _R, relative) * _exp(own - _U), other)
    yield Law(UNSPLIT, (_A * _exp(_C)) / (_B * _exp(_C)), _A / _B, (Vanishes(_A, _C),))
    yield from _means()


def _means() -> Iterator[Law]:
    """Products of distances from means, and of these from another reference, are distances from it (parallel axes)."""
    size = Size(_R)
    own = [Reduce("add", _R, x) / size for x in (_A, _B)]
    absent = (Absent((_R,), (_C, _U)),)
    for (x, y), (m, n), (c, u) in (((_A, _B), own, (_C, _U)), ((_A, _A), (own[0], own[0]), (_C, _C))):
        spread = Reduce("add", _R, (x - m) * (y - n))
        for other in ((m - c) * (n - u), (c - m) * (u - n)):
            yield Law(UNSPLIT, spread + other * size, Reduce("add", _R, (x - c) * (y - u)), absent)
            yield Law(UNSPLIT, spread + size * other, Reduce("add", _R, (x - c) * (y - u)), absent)
    yield Law(UNSPLIT, (_A / _B) / _C, _A / (_B * _C))


def _exp(x: Expr) -> Expr:
    return Map("exp", (x,))


def _pointwise(s: SplitOf, operators: Iterable[str]) -> Iterator[Law]:
    """What is pointwise of views is a view of what is pointwise."""
    parts = (s.outer, s.inner)
    for op in sorted(operators):
        yield from _out_of(s, Map(op, (_A, _B, _C)[: POINTWISE[op].arity]))
    yield Law(UNSPLIT, Unsplit(s.view(_X), s.outer, s.inner, s.rank), _X, (Absent(parts, (_X,)),))
    yield Law(UNSPLIT, s.view(Unsplit(_X, s.outer, s.inner, s.rank)), _X, (Absent((s.rank,), (_X,)),))
    yield Law(UNSPLIT, Unsplit(_X, s.outer, s.inner, s.rank), _X, (Absent(parts, (_X,)),))
    yield Law(UNSPLIT, s.view(_X), _X, (Absent((s.rank,), (_X,)),))


def _out_of(s: SplitOf, node: Expr, conditions: tuple[Condition, ...] = ()) -> Iterator[Law]:
    """`node` of views and of what does not vary with the rank is a view of `node`."""
    operands = children(node)
    for which in product((True, False), repeat=len(operands)):
        if any(which):
            split = tuple(s.view(a) if views else a for a, views in zip(operands, which, strict=True))
            whole = tuple(a for a, views in zip(operands, which, strict=True) if views)
            others = tuple(a for a, views in zip(operands, which, strict=True) if not views)
            absent = (Absent((s.outer, s.inner), whole), Absent((s.rank, s.outer, s.inner), others))
            needed = (*conditions, *(c for c in absent if c.terms))
            yield Law(UNSPLIT, with_children(node, split), s.view(node), needed)


def _reductions(s: SplitOf) -> Iterator[Law]:
    """Those over both parts are one over the rank; a view passes one over any other rank; factors go into a sum
    within a tile."""
    parts = (s.outer, s.inner)
    others = tuple(Differ(_R, r) for r in (s.rank, *parts))
    for op in REDUCTIONS:
        whole, absent = Reduce(op, s.rank, _X), (Absent(parts, (_X,)),)
        yield Law(UNSPLIT, Reduce(op, s.outer, Reduce(op, s.inner, s.view(_X))), whole, absent)
        yield Law(UNSPLIT, Reduce(op, s.inner, Reduce(op, s.outer, s.view(_X))), whole, absent)
        yield from _out_of(s, Reduce(op, _R, _X), others)
    for action in ACTIONS.values():
        scores = (_C, _A, _B)[: action.references]
        yield from _out_of(s, Fold(action.name, _R, _C, _Y, scores[1:]), others)
    tiles = [Reduce("add", s.outer, x) for x in (_A, _B, _A + _B)]
    yield Law(UNSPLIT, tiles[0] + tiles[1], tiles[2])
    for part in (s.inner, s.outer):
        yield Law(UNSPLIT, Reduce("add", part, _Y) * _U, Reduce("add", part, _Y * _U), (Absent((part,), (_U,)),))


def _indices(s: SplitOf, filters: Iterable[tuple[Predicate, float]]) -> Iterator[Law]:
    """The index of a rank of those of its parts, its size, and filters that compare it."""
    yield Law(UNSPLIT, Iota(s.outer) * Size(s.inner) + Iota(s.inner), s.view(Iota(s.rank)))
    yield Law(UNSPLIT, Size(s.outer) * Size(s.inner), Size(s.rank))
    for predicate, fill in filters:
        try:
            joined = whole_ranks(predicate, {s.rank: (s.outer, s.inner)})
        except IllegalPlan:
            continue
        if joined != predicate:
            moved = s.view(Where(joined, _X, fill))
            yield Law(UNSPLIT, Where(predicate, s.view(_X), fill), moved, (Absent((s.outer, s.inner), (_X,)),))
        elif not predicate.ranks & {s.rank, s.outer, s.inner}:
            yield from _out_of(s, Where(predicate, _X, fill))


# ---- what is left


def _is_of(x: Expr, parts: frozenset[Rank]) -> bool:
    """Whether a node's own head is a view, or goes over or reads a part of a rank."""
    match x:
        case Split() | Unsplit():
            return True
        case Access() | Gather():
            return bool(parts & set(indexing_ranks(x)))
        case Reduce() | Fold() | Iota() | Size():
            return x.rank in parts
        case Where():
            return bool(parts & (x.predicate.ranks | {r for r, _ in x.predicate.sizes}))
        case _:
            return False


def _plainest(graph: EGraph, parts: frozenset[Rank], ranks: frozenset[Rank]) -> dict[ClassId, Node]:
    """Of each class that has a form without views and folds that of fewest divisions after the loop, then of nodes."""
    plain = [(c, n) for c, n in graph.nodes() if not (_is_of(n.head, parts) or isinstance(n.head, Fold))]
    # All forms start from what is found here: it must have a value wherever the definition has one.
    out = poles(graph, [(c, n) for c, n in plain if not graph.free[c] & parts])
    allowed = [x for x in plain if x not in out]

    def own_cost(c: ClassId, n: Node) -> int:
        late = n.head.op == "div" if isinstance(n.head, Map) else False
        # A whole division an element is dearer in fact; here the plainest spelling is wanted, from which both are
        # derived again.
        return AFTER if late and graph.free[n.children[1]] and not graph.free[c] & ranks else 1

    cost: dict[ClassId, int] = {}
    least: dict[ClassId, Node] = {}
    changed = True
    while changed:
        changed = False
        for c, n in allowed:
            if all(k in cost for k in n.children):
                own = own_cost(c, n) + sum(cost[k] for k in n.children)
                if own < cost.get(c, own + 1):
                    cost[c], least[c], changed = own, n, True
    return least


def _built(c: ClassId, least: Mapping[ClassId, Node], made: dict[ClassId, Expr]) -> Expr:
    todo = [c]
    while todo:
        now = todo[-1]
        missing = [k for k in least[now].children if k not in made]
        if missing and now not in made:
            todo += missing
            continue
        todo.pop()
        if now not in made:
            made[now] = least[now].build([made[k] for k in least[now].children])
    return made[c]
