"""What the tests of the algebra share: data for a definition, random choices from an e-graph, renaming."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from eintune.space.cascade import Cascade, Einsum
from eintune.space.egraph import ClassId, EGraph, Limits, Node, saturate
from eintune.space.evaluate import evaluate
from eintune.space.expr import (
    Access,
    Expr,
    Fold,
    Iota,
    Param,
    Predicate,
    Rank,
    Reduce,
    Size,
    Tensor,
    Term,
    Where,
    params,
    rewrite,
    tensors,
    topological,
)
from eintune.space.laws import laws

SIZES = {"b": 2, "h": 1, "g": 2, "p": 4, "m": 6, "m1": 2, "m0": 3, "e": 3, "f": 5, "k": 4, "n": 3}


def data_for(roots: Sequence[Expr], seed: int = 0) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    rng = np.random.default_rng(seed)
    found = {n: rng.normal(size=[SIZES[r] for r in t.ranks]) for n, t in tensors(roots).items()}
    return found, {p: float(rng.uniform(0.3, 1.2)) for p in params(roots)}


def value(root: Expr, data: Mapping[str, np.ndarray], scalars: Mapping[str, float]) -> np.ndarray:
    return evaluate([root], data, SIZES, scalars)[0][0]


def random_choice(graph: EGraph, seed: int) -> dict[ClassId, Node]:
    """One node a class, acyclic: the cheapest under random node weights (Knuth's algorithm by rounds)."""
    rng = random.Random(seed)
    weight = {key: rng.random() ** -6 for key in graph.nodes()}
    cost: dict[ClassId, float] = {}
    choice: dict[ClassId, Node] = {}
    changed = True
    while changed:
        changed = False
        for (c, n), w in weight.items():
            if all(k in cost for k in n.children):
                total = w + sum(cost[k] for k in n.children)
                if total < cost.get(c, float("inf")) * (1 - 1e-12):
                    cost[c], choice[c], changed = total, n, True
    return choice


def renamed(cascade: Cascade, ranks: Mapping[Rank, Rank], names: Mapping[str, str]) -> Cascade:
    """The same cascade under other names of ranks, tensors and parameters."""

    def tensor(t: Tensor) -> Tensor:
        return Tensor(names.get(t.name, t.name), tuple(ranks[r] for r in t.ranks), t.kind)

    def step(x: Expr) -> Expr | None:
        match x:
            case Access():
                return Access(tensor(x.tensor), tuple(ranks[r] for r in x.index))
            case Param():
                return Param(names.get(x.name, x.name))
            case Reduce():
                return Reduce(x.op, ranks[x.rank], x.arg)
            case Fold():
                return Fold(x.action, ranks[x.rank], x.ref, x.arg)
            case Size():
                return Size(ranks[x.rank])
            case Iota():
                return Iota(ranks[x.rank])
            case Where():
                p = x.predicate
                terms = tuple(Term(ranks[t.rank], t.coef, t.stride and ranks[t.stride]) for t in p.terms)
                return Where(Predicate(terms, tuple((ranks[r], c) for r, c in p.sizes), p.const), x.arg, x.fill)
            case _:
                return None

    einsums = tuple(Einsum(tensor(e.output), rewrite([e.expr], step)[0]) for e in cascade.einsums)
    return Cascade(einsums, tuple(names.get(r, r) for r in cascade.results))


def has(roots: Sequence[Expr], kind: type, **fields: object) -> bool:
    """Whether some node is a `kind` with these fields."""
    return any(isinstance(x, kind) and all(getattr(x, k) == v for k, v in fields.items()) for x in topological(roots))


# ---- graphs that are small enough for brute force

TEXTS = {
    "chain": ("Yp = Xp,m * Zp\n", ("m",)),
    "statistics": ("Gp = Xp,m :: \\/m max\nNp,m = e^(Xp,m - Gp)\nDp = Np,m\n", ("m",)),
    "products": ("Sp,m = Qp,e * Km,e\nYp,f = Sp,m * Vm,f\n", ("m", "e")),
    "quotient": ("Dp = Xp,m\nYp,f = Xp,m / Dp * Vm,f\n", ("m",)),
}


def graph_of(text: str, steps: int) -> EGraph:
    roots = list(Cascade.parse(text).roots().values())
    return saturate(roots, laws(), (), Limits(steps=steps))


def every_choice(graph: EGraph) -> Iterator[dict[ClassId, Node]]:
    """All acyclic choices of a node for each class that the roots need."""

    def needed(pick: Mapping[ClassId, Node]) -> dict[ClassId, Node] | None:
        order: dict[ClassId, Node] = {}

        def go(c: ClassId, path: frozenset[ClassId]) -> bool:
            if c in path:
                return False
            if c not in order:
                if not all(go(k, path | {c}) for k in pick[c].children):
                    return False
                order[c] = pick[c]
            return True

        return order if all(go(r, frozenset()) for r in graph.roots) else None

    seen = set()
    for nodes in itertools.product(*graph.classes.values()):
        choice = needed(dict(zip(graph.classes, nodes, strict=True)))
        if choice is not None and (key := frozenset(choice.items())) not in seen:
            seen.add(key)
            yield choice
