"""A seeded generator of cascades over every construct of the language, with sizes, data and parameters to run them.

A seed draws the same program for ever. Most programs stay in the domain of their operators (a logarithm of what is
positive, -inf only where something takes it for an empty element); some leave it.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from drawn_operands import EMPTY, FINITE, NUMBERS, RANKS, TRUTH, Operands

from eintune.space.cascade.cascade import Cascade
from eintune.space.ir.einsum import CascadeError
from eintune.space.ir.expr import (
    NEG_INF,
    Access,
    Const,
    Expr,
    Fold,
    Gather,
    Iota,
    Map,
    Param,
    Rank,
    Reduce,
    Size,
    Split,
    Unsplit,
    Where,
    free,
    topological,
)
from eintune.space.ir.expr import params as parameters
from eintune.space.ir.gathers import check_splits, completed, limits, shapes, trusted
from eintune.space.ir.pointwise import Array

LENGTHS = (1, 1, 2, 3, 4, 4, 5, 6, 7, 8, 9, 12, 17)
MOST_ELEMENTS = 6000
ROWS = 5
"""Length of an axis that an index tensor addresses."""


@dataclass(frozen=True)
class Case:
    """A program and what it runs on. sizes: of every rank; given: of those that no input gives."""

    seed: int
    cascade: Cascade
    sizes: dict[Rank, int]
    data: dict[str, Array]
    params: dict[str, float]

    @property
    def given(self) -> dict[Rank, int]:
        own = {r for t in self.cascade.inputs.values() for r in t.ranks}
        return {r: n for r, n in self.sizes.items() if r not in own}


class Drawing(Operands):
    """Two to seven steps, each an einsum over what is there, a third of it drawn anew."""

    def step(self) -> None:
        kinds = {
            self.unary: 3,
            self.binary: 4,
            self.domain: 2,
            self.comparison: 2,
            self.selection: 2,
            self.filtered: 3,
            self.reduction: 4,
            self.contraction: 4,
            self.normalisation: 3,
            self.moments: 2,
            self.fold: 3,
            self.comoments: 4,
            self.differences: 1,
            self.tiles: 2,
            self.one_hot: 1,
            self.chain: 1,
        }
        self.rng.choices(list(kinds), list(kinds.values()))[0]()

    def unary(self) -> None:
        op = self.rng.choice(["neg", "abs", "sin", "cos", "tanh", "erf", "sigmoid", "silu", "floor"])
        self.let(Map(op, (self.number(),)))

    def binary(self) -> None:
        x, y = self.number(), self.number()
        if self.chance(0.15):
            y = x
        self.let(Map(self.rng.choice(["add", "sub", "mul", "max", "min"]), (x, y)))

    def domain(self) -> None:
        """Operators that not every number has a value of."""
        x = self.number()
        positive = Map("abs", (x,)) + self.rng.choice([0.5, 1.0])
        y = self.number()
        options: list[Callable[[], Expr]] = [
            lambda: Map("log", (positive,)),
            lambda: Map("log2", (positive,)),
            lambda: Map("sqrt", (positive,)),
            lambda: Map("recip", (positive,)),
            lambda: Map("exp", (Map("neg", (positive,)),)),
            lambda: Map("exp", (Map("tanh", (x,)) * 3.0,)),
            lambda: Map("exp2", (Map("min", (x, Const(4.0))),)),
            lambda: y / positive,
            lambda: Map("exp", (Map("min", (x, Const(6.0))),)),
        ]
        unguarded: list[Callable[[], Expr]] = [
            lambda: y / x,
            lambda: Map("log", (x,)),
            lambda: Map("exp", (x,)),
            lambda: Map("sqrt", (x,)),
            lambda: Map("recip", (x,)),
        ]
        self.let(self.rng.choice(unguarded if self.wild and self.chance(0.6) else options)())

    def comparison(self) -> None:
        x = self.condition()
        if self.chance(0.3):
            self.let(x * self.number() if self.chance(0.5) else Map("add", (x, self.condition())))
        elif self.chance(0.2):
            x = Map(self.rng.choice(["and", "or"]), (x, self.number()))  # a number that is not 0 holds
            self.let(x, TRUTH)
        else:
            self.let(x, TRUTH)

    def selection(self) -> None:
        condition = self.condition() if self.chance(0.9) else self.number()
        if self.chance(0.25):
            self.let(Map("select", (condition, self.number(), Const(NEG_INF))), EMPTY)
            return
        other = self.number() if self.chance(0.6) else Const(self.rng.choice(NUMBERS))
        self.let(Map("select", (condition, self.number(), other)))

    def filtered(self) -> None:
        x, tag = self.take(FINITE, EMPTY)
        fill = self.rng.choice([0.0, 0.0, NEG_INF, NEG_INF, 0.25, 1.0])
        for _ in range(self.rng.choice([1, 1, 1, 2])):
            x = Where(self.predicate(x), x, fill)
        self.let(x, EMPTY if fill == NEG_INF else tag)

    def reduction(self) -> None:
        x, tag = self.take(FINITE, EMPTY)
        op = self.rng.choice(["add", "max", "min", "mul"]) if tag == FINITE else "max"
        if op == "mul":
            x = Map("tanh", (x,)) if self.chance(0.5) else Map("sin", (x,)) + 1.0
        for _ in range(self.rng.choice([1, 1, 2, 3])):
            x = Reduce(op, self.rank(x), x)
        self.let(x, tag)

    def contraction(self) -> None:
        x = self.number() * self.number()
        if self.chance(0.25):
            x = x * self.number()
        r = self.rank(x)
        total: Expr = Reduce("add", r, x)
        if self.chance(0.3):
            total = Reduce("add", self.rank(total), total)
        self.let(total / Size(r) if self.chance(0.4) else total)

    def normalisation(self) -> None:
        """A softmax, its parts, or a log-sum-exp, written out over one or two ranks."""
        x, _ = self.take(FINITE, EMPTY)
        if self.chance(0.3):
            x = x * self.rng.choice([0.5, 2.0, -1.0 if not self.wild else 3.0])
        r = self.rank(x)
        top: Expr = Reduce("max", r, x)
        if self.chance(0.15):
            top = Reduce("max", self.rank(top), top)
        top = self.let(top, EMPTY) if self.chance(0.5) else top
        weight = Map("exp", (x - top,))
        weight = self.let(weight) if self.chance(0.5) else weight
        total = Reduce("add", r, weight)
        total = self.let(total) if self.chance(0.5) else total
        match self.rng.choice(["weights", "average", "late", "log"]):
            case "weights":
                self.let(weight / total)
            case "average":
                self.let(Reduce("add", r, weight / total * self.number()))
            case "late":
                self.let(Reduce("add", r, weight * self.number()) / total)
            case _:
                self.let(Map("log", (total,)) + top, EMPTY)

    def moments(self) -> None:
        x = self.number()
        r = self.rank(x)
        n, total = Size(r), Reduce("add", r, x)
        mean = self.let(total / n) if self.chance(0.5) else total / n
        centred = x - mean
        variance = Reduce("add", r, centred * centred) / n
        if self.chance(0.4):
            variance = Reduce("add", r, x * x) / n - mean * mean
        match self.rng.choice(["variance", "normalised", "root"]):
            case "variance":
                self.let(variance)
            case "normalised":
                spread = Reduce("add", r, centred * centred) / n + Param("eps")
                self.let(centred / Map("sqrt", (Map("abs", (spread,)) + 0.01,)))
            case _:
                self.let(x / Map("sqrt", (Reduce("add", r, x * x) / n + 1e-5,)))

    def fold(self) -> None:
        action = self.rng.choice(["scale", "scale", "translate"])
        x, _ = self.take(FINITE, EMPTY) if action == "scale" else self.take()
        r = self.rank(x)
        match self.rng.choice(["one", "number", "value", "product"]):
            case "one":
                arg: Expr = Const(1.0)
            case "number":
                arg = Const(self.rng.choice(NUMBERS))
            case "value":
                arg = self.number()
            case _:
                arg = self.number() * self.number()
        made: Expr = Fold(action, r, x, arg)
        if action == "scale" and self.chance(0.4):
            made = made / Fold(action, r, x, Const(1.0))
        elif self.chance(0.2):
            made = made / Size(r)
        self.let(made)

    def tiles(self) -> None:
        """A rank gone over in tiles; joined again, mostly."""
        x, tag = self.take(FINITE, EMPTY)
        own = sorted(r for r in free(x) if r in RANKS)
        if not own:
            return
        r = self.rng.choice(own)
        outer, inner = self.splits.setdefault(r, (f"{r}1", f"{r}0"))
        view: Expr = Split(x, r, outer, inner)
        view = self.let(view, tag) if self.chance(0.5) else view
        op = self.rng.choice(["add", "max", "min"]) if tag == FINITE else "max"
        match self.rng.choice(["nested", "nested", "joined", "scaled", "per tile"] if tag == FINITE else ["nested"]):
            case "nested":
                local: Expr = Reduce(op, inner, view)
                local = self.let(local, tag) if self.chance(0.5) else local
                self.let(Reduce(op, outer, local), tag)
            case "joined":
                self.let(Unsplit(Map("tanh", (view,)), outer, inner, r))
            case "scaled":
                top = Reduce("max", inner, view)
                local = Reduce("add", inner, Map("exp", (view - top,)))
                self.let(Reduce("add", outer, local * Map("exp", (top - Reduce("max", outer, top),))))
            case _:
                if self.chance(0.15):
                    self.let(Reduce("add", outer, Reduce("max", inner, view)))

    def one_hot(self) -> None:
        r, q = self.rng.sample(RANKS, 2)
        t = Access(self.tensor((q,), "int"), (q,))
        sides = (Iota(r), t) if self.chance(0.5) else (t, Iota(r))
        self.let(Reduce("add", r, Map("select", (Map("eq", sides), self.number(), Const(0.0)))))

    def chain(self) -> None:
        """One value used over and over."""
        x = self.number()
        for _ in range(self.rng.randint(2, 4)):
            x = self.let(Map(self.rng.choice(["add", "max", "sub", "mul"]), (x, x)) * 0.5)

    # ---- weighed means

    def comoments(self) -> None:
        """A sum of products of distances from weighed means: written out over one or two ranks, or as its fold."""
        x, y = self.number(), self.number()
        r = self.rank(x if self.chance(0.7) else y)
        if self.chance(0.3):
            y = x
        if self.chance(0.3):
            self.let(self.as_fold(r, x, y))
            return
        ranks = [r]
        if self.chance(0.3) and (q := self.rank(x)) != r:
            ranks.append(q)
        w = self.weights(r, x) if self.chance(0.7) else None
        total = self.over(ranks, w) if w is not None else self.count(ranks)
        total = self.let(total) if self.chance(0.3) else total
        means = [self.over(ranks, z if w is None else w * z) / total for z in (x, y)]
        means = [self.let(a) if self.chance(0.3) else a for a in means]
        apart = (x - means[0]) * (y - means[1])
        spread = self.over(self.shuffled(ranks), apart if w is None else w * apart)
        if w is not None and self.chance(0.2):  # the form that cancels
            spread = self.over(ranks, w * (x * y)) - means[0] * means[1] * total
        spread = self.let(spread) if self.chance(0.4) else spread
        match self.rng.choice(["sum", "mean", "root", "normalised"]):
            case "sum":
                self.let(spread * 0.5)
            case "mean":
                self.let(spread / total)
            case "root":
                self.let(Map("sqrt", (Map("abs", (spread / total,)) + 0.01,)))
            case _:
                self.let((x - means[0]) / Map("sqrt", (Map("abs", (spread / total,)) + Param("eps") * Param("eps"),)))

    def as_fold(self, r: Rank, x: Expr, y: Expr) -> Expr:
        """A fold around weighed means, by name; its weights may have any sign, or none."""
        arg = self.rng.choice([Const(1.0), Const(self.rng.choice(NUMBERS)), self.number()])
        arg = self.weights(r, x) if self.chance(0.5) else arg
        if self.chance(0.5):
            return Fold("comoment", r, x, arg, (y,))
        c, _ = self.take(FINITE, EMPTY)
        made: Expr = Fold("softcomoment", r, c, arg, (x, y))
        return made / Fold("scale", r, c, arg) if self.chance(0.4) else made

    def weights(self, r: Rank, x: Expr) -> Expr:
        """What means are weighed by: numbers of one sign or both, a softmax's, booleans, a window of ones."""
        z, tag = self.take(FINITE, EMPTY)
        if tag == EMPTY or self.chance(0.4):
            weight: Expr = Map("exp", (z - Reduce("max", r, z),))
            weight = weight * self.weights(r, x) if self.chance(0.2) else weight
            return self.let(weight) if self.chance(0.4) else weight
        options: list[Callable[[], Expr]] = [
            lambda: Map("abs", (z,)) + self.rng.choice([0.0, 0.5]),
            lambda: Map("sigmoid", (z,)),
            lambda: Map("max", (z, Const(0.0))) + self.rng.choice([0.0, 0.25]),
            lambda: z * z,
            lambda: z,
            lambda: z + 3.0,
            lambda: Map("select", (self.condition(), Const(1.0), Const(self.rng.choice([0.0, 0.5])))),
            lambda: Where(self.predicate(x), Map("abs", (z,)) + 0.5, 0.0),
            lambda: Where(self.predicate(x), Const(1.0), 0.0),
        ]
        return self.rng.choice(options)()

    def differences(self) -> None:
        """Two exponentials relative to one reference, of which one is taken from the other."""
        (x, _), (y, _) = self.take(FINITE, EMPTY), self.take(FINITE, EMPTY)
        r = self.rank(x)
        top = Map("max", (Reduce("max", r, x), Reduce("max", r, y)))
        apart = Map("exp", (x - top,)) - Map("exp", (y - top,))
        apart = Map("abs", (apart,)) if self.chance(0.5) else Map("max", (apart, Const(0.0)))
        total = Reduce("add", r, apart)
        self.let(self.rng.choice([apart, total, Reduce("add", r, apart * self.number()) / (total + 0.5)]))

    def over(self, ranks: list[Rank], x: Expr) -> Expr:
        for r in ranks:
            x = Reduce("add", r, x)
        return x

    def count(self, ranks: list[Rank]) -> Expr:
        n: Expr = Size(ranks[0])
        for r in ranks[1:]:
            n = n * Size(r)
        return n

    def shuffled(self, ranks: list[Rank]) -> list[Rank]:
        return self.rng.sample(ranks, len(ranks))

    # ---- the program

    def cascade(self) -> Cascade:
        for _ in range(self.rng.randint(1, 6)):
            before = len(self.einsums), len(self.made)
            try:
                self.step()
            except CascadeError:
                del self.einsums[before[0] :], self.made[before[1] :]
        names = [e.output.name for e in self.einsums]
        results: tuple[str, ...] = ()
        if names and self.chance(0.5):
            results = tuple(self.rng.sample(names, min(len(names), self.rng.randint(1, 3))))
        return Cascade(tuple(self.einsums), results)


def draw(seed: int) -> Case:
    """The program of a seed."""
    rng = random.Random(seed)
    while True:
        drawing = Drawing(rng, wild=rng.random() < 0.06)
        try:
            cascade = drawing.cascade()
            cascade.roots()
        except CascadeError:
            continue
        if not cascade.inputs:
            continue
        case = with_data(seed, rng, cascade)
        if case is not None:
            return case


def with_data(seed: int, rng: random.Random, cascade: Cascade) -> Case | None:
    """Sizes that fit, and random data."""
    bodies = [*(e.expr for e in cascade.einsums), *cascade.roots().values()]
    sizes = {r: rng.choice(LENGTHS) for r in sorted({*cascade.ranks(), *RANKS})}
    if rng.random() < 0.02:
        sizes[rng.choice(RANKS)] = 0
    same = cascade.same_sizes()
    for x in topological(bodies):
        if isinstance(x, (Split, Unsplit)):
            tiles, inner = rng.choice([(2, 3), (3, 2), (1, 4), (4, 1), (2, 2), (4, 3)])
            first = same.get(x.rank, x.rank)
            sizes |= {x.outer: tiles, x.inner: inner, x.rank: tiles * inner, first: tiles * inner}
    sizes = cascade.equalised(sizes)
    try:
        check_splits(bodies, sizes)
    except ValueError:
        return None
    if 0 in sizes.values() and any(isinstance(x, Gather) for x in topological(bodies)):
        return None
    sizes = completed(bodies, sizes, ROWS)
    used = {*cascade.ranks(), *(r for t in cascade.inputs.values() for r in t.ranks)}
    sizes = {r: n for r, n in sizes.items() if r in used}
    if any(_elements(x, sizes) > MOST_ELEMENTS for x in topological(bodies)):
        return None
    numpy = np.random.default_rng(seed)
    below, within, shape_of = limits(bodies, sizes), trusted(bodies), shapes(bodies, sizes)
    data: dict[str, Array] = {}
    for name, t in cascade.inputs.items():
        match t.kind:
            case "int":
                beyond = int(name not in within)
                data[name] = numpy.integers(-beyond, max(below.get(name, 4), 1) + beyond, shape_of[name])
            case "bool":
                data[name] = numpy.random(shape_of[name]) < 0.6
            case _:
                data[name] = numpy.normal(size=shape_of[name])
    values = {n: rng.choice([0.5, 1.5, 0.01, -0.8, 2.0]) for n in parameters(bodies)}
    return Case(seed, cascade, sizes, data, values)


def _elements(x: Expr, sizes: dict[Rank, int]) -> int:
    total = 1
    for r in free(x) | ({x.rank} if isinstance(x, (Reduce, Fold)) else set()):
        total *= max(sizes.get(r, 1), 1)
    return total
