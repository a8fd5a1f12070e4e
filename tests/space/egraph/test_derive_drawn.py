"""Cascades drawn at random: whatever the laws reach from them computes the same, and nothing fails."""

from __future__ import annotations

import random

import numpy as np
import pytest

from eintune.space.cascade.canonical import lowered, mixed
from eintune.space.cascade.cascade import Cascade
from eintune.space.derivation.derive import derive
from eintune.space.egraph.graph import Limits
from eintune.space.ir.einsum import Einsum
from eintune.space.ir.evaluate import evaluate
from eintune.space.ir.expr import NEG_INF, Access, Expr, Map, Predicate, Reduce, Size, Tensor, Term, Where, free
from eintune.space.ir.pointwise import POINTWISE

OPERATORS = ("tanh", "exp", "add", "mul", "sub", "sigmoid", "abs", "max")
SIZES = dict.fromkeys("pmef", 6) | {f"{r}1": 2 for r in "pmef"} | {f"{r}0": 3 for r in "pmef"}


class Drawing:
    """Two to five random steps: products with a sum, normalisations, moments, pointwise operators."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.made: list[Expr] = []
        self.einsums: list[Einsum] = []
        self.inputs = 0

    def take(self) -> Expr:
        if self.made and self.rng.random() < 0.75:
            return self.rng.choice(self.made)
        self.inputs += 1
        ranks = tuple(self.rng.sample("pmef", self.rng.randint(1, 3)))
        return Access(Tensor(f"IN{chr(64 + self.inputs)}", ranks), ranks)

    def let(self, x: Expr) -> Expr:
        ranks = tuple(sorted(free(x)))
        tensor = Tensor(f"T{chr(65 + len(self.einsums))}", ranks)
        self.einsums.append(Einsum(tensor, x))
        self.made.append(Access(tensor, ranks))
        return self.made[-1]

    def rank(self, x: Expr) -> str | None:
        return self.rng.choice(sorted(free(x))) if free(x) else None

    def product(self) -> None:
        x = self.take() * self.take()
        r = self.rank(x)
        self.let(Reduce("add", r, x) if r else x)

    def normalisation(self) -> None:
        x = self.take()
        r = self.rank(x)
        if r is None:
            return
        if r != "p" and self.rng.random() < 0.3:
            x = self.let(Where(Predicate((Term(r, -1), Term("p", 1))), x, NEG_INF))
        n = self.let(Map("exp", (x - self.let(Reduce("max", r, x)),)))
        s = self.let(Reduce("add", r, n))
        if self.rng.random() < 0.7:
            self.let(n / s)

    def moments(self) -> None:
        x = self.take()
        r = self.rank(x)
        if r is not None:
            c = self.let(x - self.let(Reduce("add", r, x) / Size(r)))
            self.let(Reduce("add", r, c * c) / Size(r))

    def pointwise(self) -> None:
        op = self.rng.choice(OPERATORS)
        self.let(Map(op, tuple(self.take() for _ in range(POINTWISE[op].arity))))

    def cascade(self) -> Cascade:
        steps = (self.product, self.normalisation, self.moments, self.pointwise)
        for _ in range(self.rng.randint(2, 5)):
            self.rng.choices(steps, (3, 3, 1, 3))[0]()
        if not self.einsums:
            self.pointwise()
        return Cascade(tuple(self.einsums))


def check(seed: int) -> None:
    definition = Drawing(seed).cascade()
    # `derive` itself compares every form with the definition
    found = derive(definition, keep=6, limits=Limits(rows=4000, solving=4))
    assert found.cascades
    for d in found.cascades:
        assert Cascade.parse(str(d.cascade)) == d.cascade
        short = lowered(d.cascade)
        assert not mixed([x for x, _ in short.values()])
        # what plans are built from computes the same as well
        rng = np.random.default_rng(seed)
        data = {n: rng.normal(size=[SIZES[r] for r in t.ranks]) for n, t in definition.inputs.items()}
        want = evaluate(list(d.cascade.roots().values()), data, SIZES)
        got = evaluate([x for x, _ in short.values()], data, SIZES)
        for (a, ranks_a), (b, ranks_b) in zip(want, got, strict=True):
            assert ranks_a == ranks_b
            np.testing.assert_allclose(b, a, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("seed", range(12))
def test_drawn_cascades(seed: int) -> None:
    check(seed)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(100, 250))
def test_more_drawn_cascades(seed: int) -> None:
    check(seed)
