"""In which passes each operation runs, over every rank that is gone over: how often an input is read.

A value for each element of a rank does not live from one pass over it to the next (FuseMax, arXiv 2406.10491): it is
computed again. So an operation runs once for each combination of passes, one a rank, in which it is needed; an input is
read once for each combination over the ranks that index it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import ge
from typing import TypeAlias

from eintune.space.cascade.timing import Timing
from eintune.space.ir.expr import Access, Gather, indexing_ranks, reads

from .graph import OperatorGraph

MOST = 200_000
"""Operations in all combinations of passes that are looked at: text may come from anywhere."""
Passes: TypeAlias = tuple[int | None, ...]
"""The pass over each rank in which an operation runs; None where it goes over no element of that rank."""


def executions(graph: OperatorGraph, timings: Sequence[Timing[str]]) -> dict[str, set[Passes]] | None:
    """The combinations of passes in which each operation runs; None if there are too many, as only texts that are made
    for it have."""
    operations = {o.output: o for o in graph.operations}
    own = {x: tuple(t.number.get(x) for t in timings) for x in operations}
    found: dict[str, set[Passes]] = {x: {at} for x, at in own.items()}
    todo = list(own.items())
    left = MOST
    while todo:
        x, at = todo.pop()
        left -= 1
        if left < 0:
            return None
        for a in operations[x].operands:
            if not isinstance(a, str) or a not in own:
                continue
            again = tuple(
                n if n is not None and a in t.streamed and not kept(a, n, t) else first
                for t, n, first in zip(timings, at, own[a], strict=True)
            )
            if again not in found[a]:
                found[a].add(again)
                todo.append((a, again))
    return found


def kept(x: str, number: int, t: Timing[str]) -> bool:
    """The value was complete before this pass and is small: a barrier's result, or one value a tile."""
    return t.done[x] < number and (x in t.barriers or x not in t.wide)


def times_read(graph: OperatorGraph, timings: Sequence[Timing[str]], runs: Mapping[str, set[Passes]]) -> dict[str, int]:
    """How often each input is read that an operation reads: once for all that can read it in one combination of passes
    over the ranks that index it."""
    members = [t.family.below(t.family.whole) for t in timings]
    found: dict[str, set[Passes]] = {}
    for o in graph.operations:
        for a in reads(x for x in o.operands if isinstance(x, (Access, Gather))):
            indexed = [not m.isdisjoint(indexing_ranks(a)) for m in members]
            found.setdefault(a.tensor.name, set()).update(_only(at, indexed) for at in runs[o.output])
    return {name: _distinct(every) for name, every in found.items()}


def _only(at: Passes, indexed: Sequence[bool]) -> Passes:
    return tuple(n if i else None for n, i in zip(at, indexed, strict=True))


def _distinct(every: set[Passes]) -> int:
    """How many there are, but for those that another one says more of."""
    said: dict[tuple[bool, ...], set[Passes]] = {}
    for at in every:
        said.setdefault(tuple(n is not None for n in at), set()).add(at)
    count = 0
    for own, found in said.items():
        more = [p for other, ps in said.items() if other != own and all(map(ge, other, own)) for p in ps]
        count += len(found - {_only(p, own) for p in more})
    return count
