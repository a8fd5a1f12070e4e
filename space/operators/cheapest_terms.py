"""Of a serialised e-graph the cheapest terms whose operators fit their operands.

A class may hold nodes over a rank and nodes over its parts (rules that put `M_exp_m1m0p` beside `M_exp_mp`), which do
not go together: of each class the cheapest term is kept for each set of ranks that its value can have, as far as the
operators' names tell, and an operator takes only those that fit it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice, product
from typing import TypeAlias

from eintune.space.ir.einsum import CascadeError
from eintune.space.ir.expr import Rank

from .fused import steps
from .operators import Operator, fits, space_after

SPACES = 16
"""Sets of ranks that are told apart in one class, and the nodes' operands are combined in at most the square of it."""


@dataclass(frozen=True)
class TermNode:
    op: str
    children: tuple[str, ...]
    """The classes of its operands."""
    eclass: str
    cost: float


@dataclass(frozen=True)
class TermKind:
    """A class, read as values over these ranks; None where they are not known."""

    eclass: str
    ranks: frozenset[Rank] | None


@dataclass(frozen=True)
class CheapTerm:
    cost: float
    node: TermNode
    operands: tuple[TermKind, ...]


Terms: TypeAlias = dict[TermKind, CheapTerm]


def cheapest(nodes: Iterable[TermNode]) -> tuple[Terms, dict[str, TermKind]]:
    """The cheapest term of each kind of value, by tree cost, and the kind of each class that has the cheapest of all.

    By bottom-up relaxation; nodes of infinite cost are not taken.
    """
    every = [n for n in nodes if n.cost < float("inf")]
    readers: dict[str, list[TermNode]] = {}
    for n in every:
        for c in dict.fromkeys(n.children):
            readers.setdefault(c, []).append(n)
    terms: Terms = {}
    kinds: dict[str, list[TermKind]] = {}
    todo = [n for n in every if not n.children]
    while todo:
        n = todo.pop()
        better = False
        for operands in islice(product(*(kinds.get(c, ()) for c in n.children)), SPACES**2):
            for ranks in _ranks(n, operands):
                kind, cost = TermKind(n.eclass, ranks), n.cost + sum(terms[k].cost for k in operands)
                known = kinds.setdefault(n.eclass, [])
                if kind in terms:
                    if terms[kind].cost <= cost:
                        continue
                elif len(known) == SPACES:
                    continue
                else:
                    known.append(kind)
                terms[kind], better = CheapTerm(cost, n, operands), True
        if better:
            todo += readers.get(n.eclass, [])
    return terms, {c: min(known, key=lambda k: terms[k].cost) for c, known in kinds.items() if known}


def _ranks(n: TermNode, operands: tuple[TermKind, ...]) -> Iterator[frozenset[Rank] | None]:
    """Those of a node's value, if its operands fit it."""
    below = [k.ranks for k in operands]
    ranks = frozenset[Rank]().union(*(r for r in below if r is not None))
    is_whole = None not in below
    found: frozenset[Rank] | None = frozenset() if _is_number(n.op) else None
    for operator in _steps(n.op):
        if not fits(operator, ranks, is_whole):
            return
        found = space_after(operator, ranks if is_whole else None)
        ranks, is_whole = found or frozenset(), found is not None
    yield found


def _is_number(op: str) -> bool:
    return op.lstrip("-")[:1].isdigit()


@lru_cache(4096)
def _steps(op: str) -> tuple[Operator, ...]:
    """No steps for a leaf, and for a name that is no operator, which is an error once it is read."""
    if op[:2] not in ("M_", "R_", "T_", "F_"):
        return ()
    try:
        return steps(op).operators
    except CascadeError:
        return ()


def unfit(terms: Mapping[TermKind, CheapTerm], nodes: Iterable[TermNode]) -> Iterator[TermNode]:
    """Nodes whose operands all have terms, and none that fits: why their class has none."""
    classes = {k.eclass for k in terms}
    taken = {t.node for t in terms.values()}
    for n in nodes:
        if n not in taken and n.cost < float("inf") and all(c in classes for c in n.children):
            yield n
