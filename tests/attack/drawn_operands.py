"""The operands of drawn cascades: inputs, tables, numbers, conditions and filters, all from one random stream."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from eintune.space.ir.einsum import CascadeError, Einsum
from eintune.space.ir.expr import (
    Access,
    Computed,
    Const,
    Expr,
    Gather,
    Index,
    Integer,
    Iota,
    Map,
    Param,
    Part,
    Predicate,
    Rank,
    Size,
    Tensor,
    Term,
    access,
    free,
    topological,
)

RANKS = ("p", "m", "e", "b", "f")
MOST_RANKS = 4
NUMBERS = (0.5, -0.7, 2.0, 1.3, 0.0, 1.0, -1.0, 3.0, 0.1, 1e-12)
FINITE, EMPTY, TRUTH = "finite", "may be -inf", "boolean"


@dataclass
class Operands:
    """What steps are made of: an operand is something made before, or a third of the time drawn anew."""

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
