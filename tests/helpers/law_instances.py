"""A law's two sides with tensors for its variables, evaluated."""

from __future__ import annotations

import numpy as np

from eintune.space.ir.evaluate import evaluate
from eintune.space.ir.expr import Access, Expr, Fold, Map, Reduce, Size, Tensor, rewrite, tensors, topological
from eintune.space.laws.law import Absent, Law, Negative, Positive, Present, is_variable
from eintune.space.laws.laws import UNSPLIT

SIZES = {"r": 4, "q": 3, "p": 2, "m": 6, "m1": 2, "m0": 3}
POSITIVE_ONLY = {"log", "log2", "sqrt", "recip"}


def rank(name: str) -> str:
    return name.removeprefix("?")


def instance(law: Law, rng: np.random.Generator) -> tuple[Expr, Expr, dict[str, np.ndarray]]:
    """Both sides with tensors for the variables: each varies with ranks that the conditions allow."""
    patterns = [law.left, law.right]
    absent: dict[Expr, set[str]] = {}
    present: dict[Expr, set[str]] = {}
    for c in law.conditions:
        if isinstance(c, Absent):
            for x in c.terms:
                absent.setdefault(x, set()).update(map(rank, c.ranks))
        elif isinstance(c, Present):
            present.setdefault(c.term, set()).add(rank(c.rank))
    # the parts of a split rank are no ranks of an input
    around = {"p", "m"} if law.name in ("split", UNSPLIT) else {"p", "m1"}
    around |= {"r", "q"}
    chosen_for: dict[Expr, Expr] = {}
    data: dict[str, np.ndarray] = {}
    negative = {c.term for c in law.conditions if isinstance(c, Negative)}
    positive = any(isinstance(c, Positive) for c in law.conditions) or law.name == "logarithm"
    positive |= any(isinstance(x, Map) and x.op in POSITIVE_ONLY for x in topological(patterns))
    for x in topological(patterns):
        if is_variable(x):
            assert isinstance(x, Access)
            chosen = {r for r in around if rng.random() < 0.5} | present.get(x, set())
            index = tuple(sorted(chosen - absent.get(x, set())))
            name = x.tensor.name[1:].upper()
            chosen_for[x] = Access(Tensor(name, index), index)
            values = rng.uniform(0.5, 1.5, [SIZES[r] for r in index])
            signs = -np.ones(()) if x in negative else rng.choice([-1.0, 1.0], values.shape)
            data[name] = values if positive else values * signs

    def concrete(x: Expr) -> Expr | None:
        match x:
            case Access() if x in chosen_for:
                return chosen_for[x]
            case Reduce():
                return Reduce(x.op, rank(x.rank), x.arg)
            case Fold():
                return Fold(x.action, rank(x.rank), x.ref, x.arg, x.others)
            case Size():
                return Size(rank(x.rank))
            case _:
                return None

    left, right = rewrite(patterns, concrete)
    if law.is_ground:
        for name, t in tensors([left]).items():
            shape = [SIZES[r] for r in t.ranks]
            data[name] = rng.integers(-1, 8, shape) if t.kind == "int" else rng.normal(size=shape)
    return left, right, data


def both_sides(law: Law, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Their values over all ranks of either."""
    left, right, data = instance(law, np.random.default_rng(seed))
    (a, ranks_a), (b, ranks_b) = evaluate([left, right], data, SIZES)
    every = sorted(set(ranks_a) | set(ranks_b))
    wide = [
        np.broadcast_to(x.reshape([SIZES[r] if r in have else 1 for r in every]), [SIZES[r] for r in every])
        for x, have in ((a, ranks_a), (b, ranks_b))
    ]
    return wide[0], wide[1]
