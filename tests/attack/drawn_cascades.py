"""A seeded generator of cascades over every construct of the language, with sizes, data and parameters to run them.

A seed draws the same program for ever. Most programs stay in the domain of their operators (a logarithm of what is
positive, -inf only where something takes it for an empty element); some leave it.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from eintune.space.cascade.cascade import Cascade
from eintune.space.ir.einsum import CascadeError, Einsum
from eintune.space.ir.expr import (
    NEG_INF,
    Access,
    Computed,
    Const,
    Expr,
    Fold,
    Gather,
    Index,
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
    Tensor,
    Term,
    Unsplit,
    Where,
    access,
    free,
    topological,
)
from eintune.space.ir.expr import params as parameters
from eintune.space.ir.gathers import check_splits, completed, limits, shapes, trusted
from eintune.space.ir.pointwise import Array

RANKS = ("p", "m", "e", "b", "f")
LENGTHS = (1, 1, 2, 3, 4, 4, 5, 6, 7, 8, 9, 12, 17)
WHOLE = (4, 6, 8, 12)
"""Lengths of ranks that are split."""
MOST_RANKS = 4
MOST_ELEMENTS = 6000
ROWS = 5
"""Length of an axis that an index tensor addresses."""
NUMBERS = (0.5, -0.7, 2.0, 1.3, 0.0, 1.0, -1.0, 3.0, 0.1, 1e-12)
FINITE, EMPTY, TRUTH = "finite", "may be -inf", "boolean"


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


@dataclass
class Drawing:
    """Two to seven steps, each an einsum over what is there, a third of it drawn anew."""

    rng: random.Random
    einsums: list[Einsum] = field(default_factory=list)
    made: list[tuple[Expr, str]] = field(default_factory=list)
    tensors: list[Tensor] = field(default_factory=list)
    splits: dict[Rank, tuple[Rank, Rank]] = field(default_factory=dict)
    wild: bool = False

    # ---- operands

    def chance(self, p: float) -> bool:
        return self.rng.random() < p

    def ranks(self, least: int = 0, most: int = 3) -> tuple[Rank, ...]:
        return tuple(self.rng.sample(RANKS, self.rng.randint(least, most)))

    def tensor(self, ranks: tuple[Rank, ...], kind: str = "float") -> Tensor:
        name = f"{'ABCDEFGHIJKLMNOPQRSTUVWXYZ'[len(self.tensors) % 26]}{'I' * (len(self.tensors) // 26)}"
        self.tensors.append(Tensor(name, ranks, kind))
        return self.tensors[-1]

    def leaf(self) -> Expr:
        """An input, a number, a parameter, a size or an index."""
        match self.rng.choices(["new", "again", "table", "number", "param", "size", "index"], [6, 3, 2, 1, 1, 1, 1])[0]:
            case "again" if old := [t for t in self.tensors if t.kind == "float" and not t.name.startswith("T")]:
                t = self.rng.choice(old)
                others = self.rng.sample(RANKS, len(t.ranks))
                return Access(t, tuple(others) if self.chance(0.3) and self.plain(t) else t.ranks)
            case "table":
                return self.table()
            case "number":
                return Const(self.rng.choice(NUMBERS))
            case "param":
                return Param(self.rng.choice(["scale", "eps", "S"]))
            case "size":
                return Size(self.rng.choice(RANKS))
            case "index":
                return Iota(self.rng.choice(RANKS))
            case _:
                ranks = self.ranks(0 if self.chance(0.1) else 1)
                return Access(self.tensor(ranks), ranks)

    def plain(self, t: Tensor) -> bool:
        return all(r in RANKS for r in t.ranks)

    def table(self) -> Expr:
        """A tensor that is addressed by parts, elements and computed numbers."""
        name = len(self.tensors)
        index: list[Index] = []
        own: list[Rank] = []
        padded = False
        for n, r in enumerate(self.ranks(1, 2)):
            by = self.rng.choice([1, 2, 3, 4])
            match self.rng.choice(["rank", "parts", "quotient", "element", "computed", "clamped", "looked up"]):
                case "parts":
                    index += [Part("//", r, by), Part("%", r, by)]
                case "quotient":
                    index.append(Part(self.rng.choice(["//", "%"]), r, by))
                case "element":
                    index.append(Access(self.tensor((r,), "int"), (r,)))
                case "computed":
                    index.append(self.computed(r))
                case "clamped":
                    low = Computed("max", (self.computed(r), 0))
                    index.append(Computed("min", (low, self.rng.randint(0, 4))))
                case "looked up":
                    index.append(Computed("add", (Access(self.tensor((r,), "int"), (r,)), self.rng.randint(-1, 1))))
                    padded = True
                case _:
                    index.append(r)
            own += [i if isinstance(i, str) else f"n{name}{n}{k}" for k, i in enumerate(index[len(own) :])]
        can = any(isinstance(i, (Access, Gather, Computed)) for i in index)
        padded = padded or (can and self.chance(0.4))
        x = access(self.tensor(tuple(own)), tuple(index), padded)
        return x

    def computed(self, r: Rank) -> Computed:
        """A number that is never negative, unless what reads it is 0 there."""
        other = self.rng.choice(RANKS)
        options: list[Callable[[], Integer]] = [
            lambda: Computed("add", (r, self.rng.randint(0, 3))),
            lambda: Computed("abs", (Computed("sub", (r, other)),)),
            lambda: Computed("add", (Computed("sub", (r, other)), Computed("sub", (Size(other), 1)))),
            lambda: Computed("add", (Computed("mul", (r, 2)), other)),
            lambda: Computed("min", (r, Computed("sub", (Size(r), 1)))),
        ]
        found = self.rng.choice(options)()
        assert isinstance(found, Computed)
        return found

    def take(self, *tags: str) -> tuple[Expr, str]:
        """An operand: something made before, or a leaf. tags: what it may be; by default finite."""
        wanted = tags or (FINITE,)
        known = [k for k in self.made if k[1] in wanted]
        if known and self.chance(0.7):
            return self.rng.choice(known[-4:] if self.chance(0.6) else known)
        if self.wild and self.made and self.chance(0.5):
            return self.rng.choice(self.made)
        return self.leaf(), FINITE

    def number(self) -> Expr:
        return self.take()[0]

    def rank(self, x: Expr) -> Rank:
        """A rank of an expression; rarely one that it does not vary with."""
        own = sorted(r for r in free(x) if r in RANKS)
        return self.rng.choice(own) if own and not self.chance(0.06) else self.rng.choice(RANKS)

    # ---- steps

    def let(self, x: Expr, tag: str = FINITE) -> Expr:
        """An einsum of its own."""
        if not self.affordable(x):
            raise CascadeError("too large")
        ranks = list(free(x))
        if self.chance(0.05) and len(ranks) < MOST_RANKS:
            ranks.append(self.rng.choice([r for r in RANKS if r not in ranks]))
        ranks.sort()
        self.rng.shuffle(ranks)
        t = Tensor(f"T{chr(65 + len(self.einsums) // 26)}{chr(65 + len(self.einsums) % 26)}", tuple(ranks))
        self.einsums.append(Einsum(t, x))
        self.made.append((Access(t, t.ranks), tag))
        return self.made[-1][0]

    def affordable(self, x: Expr) -> bool:
        return all(len(free(n)) <= MOST_RANKS for n in topological([x]))

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

    def condition(self, depth: int = 2) -> Expr:
        """A boolean: a comparison of values, of indices and sizes, a tensor of booleans, or several of these."""
        match self.rng.choices(["values", "index", "sizes", "tensor", "made", "both", "not"], [3, 3, 1, 1, 2, 2, 1])[0]:
            case "index":
                r, s = self.rng.choice(RANKS), self.rng.choice(RANKS)
                right: Expr = self.rng.choice([Iota(s), Const(float(self.rng.randint(0, 5))), Size(s) - Iota(s)])
                left = Map("floor", (Iota(r) / 2.0,)) if self.chance(0.2) else Iota(r)
                return Map(self.rng.choice(["lt", "le", "gt", "ge", "eq", "ne"]), (left, right))
            case "sizes":
                r = self.rng.choice(RANKS)
                return Map(self.rng.choice(["gt", "le"]), (Size(r), Const(float(self.rng.randint(1, 6)))))
            case "tensor":
                ranks = self.ranks(1, 2)
                return Access(self.tensor(ranks, "bool"), ranks)
            case "made" if known := [x for x, tag in self.made if tag == TRUTH]:
                return self.rng.choice(known)
            case "both" if depth:
                return Map(self.rng.choice(["and", "or"]), (self.condition(depth - 1), self.condition(depth - 1)))
            case "not" if depth:
                return Map("not", (self.condition(depth - 1),))
            case _:
                return Map(self.rng.choice(["lt", "le", "gt", "ge"]), (self.number(), self.number()))

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

    def predicate(self, x: Expr) -> Predicate:
        """A filter on one to three ranks of an expression or others, or on sizes alone; a window side or a causal one
        among them."""
        own = sorted(r for r in free(x) if r in RANKS)
        pool = own if own and not self.chance(0.1) else list(RANKS)
        chosen = self.rng.sample(pool, self.rng.randint(0 if self.chance(0.2) else 1, min(len(pool), 3)))
        coefs = [1, -1, -1, 1, 2, -3] if self.chance(0.3) else [1, -1]
        sizes = tuple((r, self.rng.choice([1, -1])) for r in (*chosen, self.rng.choice(RANKS)) if self.chance(0.25))
        terms = tuple(Term(r, self.rng.choice(coefs)) for r in chosen)
        return Predicate(terms, sizes, self.rng.randint(-3, 5))

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
        case = _with_data(seed, rng, cascade)
        if case is not None:
            return case


def _with_data(seed: int, rng: random.Random, cascade: Cascade) -> Case | None:
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
