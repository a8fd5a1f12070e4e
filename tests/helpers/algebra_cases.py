"""What the tests of the algebra share: data for a definition, random choices from an e-graph, renaming."""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from eintune.space.cascade.cascade import Cascade
from eintune.space.egraph.graph import ClassId, EGraph, Limits, Node, saturate
from eintune.space.ir.einsum import Einsum
from eintune.space.ir.evaluate import evaluate
from eintune.space.ir.expr import (
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
from eintune.space.ir.gathers import trusted
from eintune.space.laws.laws import laws

SIZES = {"b": 2, "h": 1, "g": 2, "p": 4, "m": 6, "m1": 2, "m0": 3, "e": 3, "f": 5, "k": 4, "n": 3}


def data_for(
    roots: Sequence[Expr], seed: int = 0, sizes: Mapping[Rank, int] = SIZES
) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """Random inputs: floats from a normal, fair booleans, integers from 0 to 3, and beyond where they may be."""
    rng, within = np.random.default_rng(seed), trusted(roots)

    def drawn(t: Tensor) -> np.ndarray:
        shape = [sizes[r] for r in t.ranks]
        low, high = (0, 4) if t.name in within else (-1, 8)
        whole = {"int": rng.integers(low, high, shape), "bool": rng.random(shape) < 0.5}
        return whole.get(t.kind, rng.normal(size=shape))

    found = {n: drawn(t) for n, t in tensors(roots).items()}
    return found, {p: float(rng.uniform(0.3, 1.2)) for p in params(roots)}


def value(root: Expr, data: Mapping[str, np.ndarray], scalars: Mapping[str, float]) -> np.ndarray:
    return evaluate([root], data, SIZES, scalars)[0][0]


class RandomTerms:
    """Terms drawn from a graph: the cheapest under random weights of nodes, which is acyclic (Knuth, by a heap)."""

    def __init__(self, graph: EGraph) -> None:
        self.graph = graph
        self.nodes = list(graph.nodes())
        self.users: dict[ClassId, list[int]] = {}
        for i, (_, n) in enumerate(self.nodes):
            for k in dict.fromkeys(n.children):
                self.users.setdefault(k, []).append(i)

    def choice(self, seed: int) -> dict[ClassId, Node]:
        """One node a class."""
        rng = random.Random(seed)
        total = [rng.random() ** -6 for _ in self.nodes]
        missing = [len(set(n.children)) for _, n in self.nodes]
        heap = [(total[i], i) for i, count in enumerate(missing) if not count]
        heapq.heapify(heap)
        chosen: dict[ClassId, Node] = {}
        while heap:
            cost, i = heapq.heappop(heap)
            c, n = self.nodes[i]
            if c in chosen:
                continue
            chosen[c] = n
            for j in self.users.get(c, ()):
                total[j] += cost
                missing[j] -= 1
                if not missing[j]:
                    heapq.heappush(heap, (total[j], j))
        return chosen

    def draw(self, seed: int) -> tuple[Expr, ...]:
        """A term for each root."""
        made = self.graph.decode(self.choice(seed))
        return tuple(made[r] for r in self.graph.roots)


def random_choice(graph: EGraph, seed: int) -> dict[ClassId, Node]:
    """One node a class, acyclic."""
    return RandomTerms(graph).choice(seed)


def different_terms(
    roots: Sequence[Expr], graph: EGraph, wanted: int, most: int, sizes: Mapping[Rank, int] | None = None
) -> int:
    """Draws until there are `wanted` different terms, at most `most` times; compares each with the definition on
    random data; returns how many there were."""
    terms, seen = RandomTerms(graph), dict[tuple[Expr, ...], None]()
    for seed in range(most):
        seen.setdefault(terms.draw(seed))
        if len(seen) >= wanted:
            break
    every = SIZES | dict(sizes or {})
    data, scalars = data_for(roots, sizes=every)
    exact = evaluate(roots, data, every, scalars)
    drawn = list(seen)
    for start in range(0, len(drawn), 50):  # terms share most of their parts: many together cost little more than one
        batch = drawn[start : start + 50]
        made = evaluate([x for term in batch for x in term], data, every, scalars)
        for i, (got, ranks) in enumerate(made):
            want, have = exact[i % len(roots)]
            assert set(ranks) <= set(have)
            shape = [every[r] if r in ranks else 1 for r in have]
            np.testing.assert_allclose(np.broadcast_to(got.reshape(shape), want.shape), want, rtol=1e-7, atol=1e-10)
    return len(seen)


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
                return Fold(x.action, ranks[x.rank], x.ref, x.arg, x.others)
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
