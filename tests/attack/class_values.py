"""Whether the classes of a saturated e-graph are sound: every node of every class, evaluated in float64.

A union that does not hold is found where it is made, whether or not a form that is taken from the graph uses it; and so
is a node that is held safe though it divides by 0 where its class has a value.

`python tests/attack/class_values.py [FIRST [LAST]]` goes over drawn programs and prints what it finds.
"""

from __future__ import annotations

import random
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
from drawn_cascades import Case, draw, with_data
from four_ways import LIMITS, REFUSALS, forked_saturation, is_defined

from eintune.space.derivation.derive import Derivation, derive
from eintune.space.egraph.graph import ClassId, EGraph, Node, label
from eintune.space.ir.evaluate import evaluate
from eintune.space.ir.exact import Hidden
from eintune.space.ir.expr import Access, Map, Rank, Tensor
from eintune.space.ir.pointwise import Array, as_numbers

TOLERANCE = 1e-6
"""Relative to the largest value of a class."""
CANCELLED = 1e-12
"""Relative to the largest value of all: what cancels leaves so much of what it was."""
ROUNDS = 12
"""Most rounds in which elements that no node had given yet are filled in."""
ZEROS = (0.0, 0.0, 0.4, 1.0)
"""For each draw of sizes and data, the share of the inputs' numbers that are exactly 0: sums of them may be, too."""


@dataclass(frozen=True)
class Finding:
    """A node that has another value than its class. kind: "unequal", or "undefined" for a safe node that has none."""

    kind: str
    node: str
    class_value: float
    node_value: float

    def __str__(self) -> str:
        return f"{self.kind}: {self.node} is {self.node_value}, its class {self.class_value}"


class ClassValues:
    """The value of each class on some data, over its free ranks sorted by name; NaN where no node has one.

    Nodes of the definition say it first. A quotient of finite numbers that is infinite is no value.
    """

    def __init__(
        self,
        graph: EGraph,
        data: Mapping[str, Array],
        sizes: Mapping[Rank, int],
        params: Mapping[str, float],
    ) -> None:
        self.graph, self.data, self.sizes, self.params = graph, data, sizes, params
        self.of: dict[ClassId, Array] = {}
        nodes = sorted(graph.nodes(), key=lambda cn: cn not in graph.own)
        for _ in range(ROUNDS):
            grew = False
            for c, n in nodes:
                if all(k in self.of for k in n.children):
                    grew = self._filled(c, self.node(c, n)) or grew
            if not grew:
                break

    def _filled(self, c: ClassId, made: Array) -> bool:
        """Whether a node's value adds something to its class's."""
        before = self.of.get(c)
        self.of[c] = made if before is None else np.where(np.isnan(before), made, before)
        return before is None or bool((np.isnan(before) & ~np.isnan(made)).any())

    def node(self, c: ClassId, n: Node) -> Array:
        """The value of a node over its operands' classes."""
        ranks = [tuple(sorted(self.graph.free[k])) for k in n.children]
        operands = [Access(Tensor(f"@{k}", r), r) for k, r in zip(n.children, ranks, strict=True)]
        data = {**self.data, **{f"@{k}": self.of[k] for k in n.children}}
        ((found, have),) = evaluate([n.build(operands)], data, self.sizes, self.params)
        want = sorted(self.graph.free[c])
        shape = [self.sizes[r] if r in have else 1 for r in want]
        made = np.broadcast_to(as_numbers(found).astype(np.float64).reshape(shape), [self.sizes[r] for r in want])
        pole = isinstance(n.head, Map) and n.head.op in ("div", "recip")
        return np.where(np.isposinf(np.abs(made)), np.nan, made) if pole else made

    def unequal(self) -> Iterator[Finding]:
        """Nodes whose value is not their class's."""
        least = CANCELLED * max((_largest(a) for a in self.of.values()), default=0.0)
        for c, n in self._known(self.graph):
            made, of = self.node(c, n), self.of[c]
            with np.errstate(all="ignore"):
                off = np.abs(made - of) > TOLERANCE * max(_largest(made), _largest(of)) + least
                infinite = (made != of) & (np.isinf(made) | np.isinf(of))
            bad = (off | infinite) & ~np.isnan(made) & ~np.isnan(of)
            yield from self._finding("unequal", c, n, made, bad)

    def undefined(self, safe: EGraph) -> Iterator[Finding]:
        """Safe nodes, none of the definition's, that have no value where their class has one."""
        for c, n in self._known(safe):
            if (c, n) not in self.graph.own:
                made = self.node(c, n)
                yield from self._finding("undefined", c, n, made, np.isnan(made) & ~np.isnan(self.of[c]))

    def _known(self, graph: EGraph) -> Iterator[tuple[ClassId, Node]]:
        return ((c, n) for c, n in graph.nodes() if c in self.of and all(k in self.of for k in n.children))

    def _finding(self, kind: str, c: ClassId, n: Node, made: Array, bad: Array) -> Iterator[Finding]:
        if bad.any():
            at = tuple(np.argwhere(bad)[0])
            yield Finding(kind, f"{c} {self.spelt(n)}", float(self.of[c][at]), float(made[at]))

    def spelt(self, n: Node, depth: int = 3) -> str:
        """A node with some of what stands below it."""
        below = [self.graph.classes[k][0] for k in n.children] if depth else []
        operands = [f"{k}={self.spelt(m, depth - 1)}" for k, m in zip(n.children, below, strict=False)]
        return f"{label(n.head)}({', '.join(operands)})" if operands else label(n.head)


def _largest(a: Array) -> float:
    return float(np.max(np.abs(a[np.isfinite(a)]), initial=0.0))


def findings(found: Derivation, case: Case) -> Iterator[Finding]:
    """Of a derived program on a case's sizes and data."""
    sizes, data = _with_parts(found, case), dict(case.data)
    for x, stand_in in Hidden.of(list(found.definition.roots().values())).inputs.items():
        ((data[stand_in.tensor.name], _),) = evaluate([x], case.data, sizes, case.params)
    values = ClassValues(found.graph, data, sizes, case.params)
    yield from values.unequal()
    yield from values.undefined(found.safe)


def _with_parts(found: Derivation, case: Case) -> dict[Rank, int]:
    """The sizes, and those of the parts of ranks that the graph splits."""
    sizes, same = dict(case.sizes), case.cascade.same_sizes()
    for s in found.graph.splits:
        whole = sizes.get(s.rank) or sizes[same[s.rank]]
        divisors = [d for d in range(1, whole + 1) if whole % d == 0]
        outer = divisors[len(divisors) // 2]
        sizes = {s.outer: outer, s.inner: whole // outer, **sizes}
    return sizes


def draws(case: Case) -> Iterator[Case]:
    """A program at other sizes, with zeros among its numbers, wherever its definition is defined."""
    for n, share in enumerate(ZEROS):
        other = with_data(case.seed + n, random.Random(n), case.cascade)
        if other is not None and 0 not in other.sizes.values():
            rng = np.random.default_rng(n)
            data = {k: _thinned(a, share, rng) for k, a in other.data.items()}
            other = replace(other, data=data)
            try:
                if is_defined(other):
                    yield other
            except REFUSALS:  # an index beyond its axis
                continue


def _thinned(a: Array, share: float, rng: np.random.Generator) -> Array:
    return np.where(rng.random(a.shape) < share, 0.0, a) if a.dtype == np.float64 else a


def check(seed: int) -> tuple[int, list[Finding]]:
    """How many draws of a program's sizes and data were gone over, and what was found in them."""
    case = draw(seed)
    if 0 in case.sizes.values():
        return 0, []
    try:
        found = derive(case.cascade, limits=LIMITS, keep=1)
    except REFUSALS:
        return 0, []
    every = list(draws(case))
    return len(every), [f for d in every for f in findings(found, d)]


def main() -> None:
    first, last = (int(a) for a in [*sys.argv[1:], *["0", "300"][len(sys.argv) - 1 :]])
    total = Counter[str]()
    with forked_saturation():
        for seed in range(first, last):
            drawn, found = check(seed)
            total += Counter(f.kind for f in found) + Counter({"draws": drawn, "programs": drawn > 0})
            for finding in dict.fromkeys(map(str, found[:3])):
                print(seed, finding[:600], flush=True)
    print(dict(total))


if __name__ == "__main__":
    main()
