"""What a computation holds and moves, in elements and in symbols: its live footprint and its traffic.

After FuseMax (arXiv 2406.10491): what lives from one pass to a later one is held, or computed again. Everything
of one pass is taken to be fused, so an input is read once in each pass that loads it (in each combination of passes
where several ranks are gone over more than once) and an output is written once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod

from eintune.space.cascade.cascade import Cascade
from eintune.space.cascade.iterative import IterativeCascade
from eintune.space.ir.expr import Access, Gather, Rank, free, tensors

from .executions import executions, times_read
from .graph import OperatorGraph
from .operators import in_order
from .passes import Analysis, PassReport, PassStage


@dataclass(frozen=True)
class Elements:
    """A sum of products of ranks' sizes: each product's ranks and how often it stands in the sum."""

    terms: tuple[tuple[frozenset[Rank], int], ...] = ()

    @classmethod
    def of(cls, tensors: Iterable[Iterable[Rank]]) -> Elements:
        """The elements of all these tensors together; the largest products first."""
        counted = Counter(frozenset(t) for t in tensors)
        return cls(tuple(sorted(counted.items(), key=lambda t: (-len(t[0]), in_order(t[0])))))

    def __add__(self, other: Elements) -> Elements:
        every = [ranks for ranks, n in (*self.terms, *other.terms) for _ in range(n)]
        return Elements.of(every)

    def count(self, sizes: Mapping[Rank, int]) -> int:
        """The number of elements. Raises KeyError for a rank without a size."""
        return sum(n * prod(sizes[r] for r in ranks) for ranks, n in self.terms)

    @property
    def ranks(self) -> frozenset[Rank]:
        return frozenset[Rank]().union(*(ranks for ranks, _ in self.terms))

    def __str__(self) -> str:
        """`b·h·(e·m + 2·p)`: ranks that every product has stand before the bracket."""
        if not self.terms:
            return "0"
        common = frozenset.intersection(*(ranks for ranks, _ in self.terms))
        inside = [_product(n, ranks - common) for ranks, n in self.terms]
        if not common:
            return " + ".join(inside)
        if inside == ["1"]:
            return _product(1, common)
        return (
            f"{_product(1, common)}·({' + '.join(inside)})" if len(inside) > 1 else _product(self.terms[0][1], common)
        )


def _product(n: int, ranks: frozenset[Rank]) -> str:
    return "·".join([*([str(n)] if n > 1 or not ranks else []), *in_order(ranks)])


@dataclass(frozen=True)
class Footprint:
    """passes, stream: of the rank that is gone over most often. over: the passes over each that is gone over more than
    once, that one first. held: the most that lives at once besides the elements that are streamed: results of earlier
    passes, and what the pass accumulates. again: operations that a later pass computes again, by output; `instead`:
    what holding them would take. reads: how often each input is read, writes: the outputs; traffic: both, in elements,
    or None where the ranks of an input are not written.
    """

    passes: int
    stream: Rank
    over: Mapping[Rank, int]
    held: Elements
    again: tuple[str, ...]
    instead: Elements
    reads: Mapping[str, int]
    writes: tuple[str, ...]
    traffic: Elements | None


def footprint(computation: Cascade | OperatorGraph | IterativeCascade, stream: Rank | None = None) -> Footprint:
    """The footprint over `stream`; by default over every rank that is gone over more than once, or the one that is gone
    over most. Raises CascadeError as `analyse`."""
    whole = Analysis(computation)
    main = whole.timing(stream)
    often = [main, *(t for t in whole.timings if stream is None and t.passes > 1 and t is not main)]
    reports = [whole.report(t.family.whole or None) for t in often]
    report = reports[0]
    inputs, outputs = _tensors(computation, report)
    known = all(s.loads is not None for s in report.stages)
    runs = executions(whole.graph, often) if known else None
    read = (
        Counter(x for s in report.stages for x in s.loads or ())
        if runs is None
        else times_read(whole.graph, often, runs)
    )
    moved = [inputs[name] for name in inputs for _ in range(read.get(name, 1))]
    again = [x for r in reports for s in r.stages for x in s.recomputed]
    return Footprint(
        main.passes,
        main.family.whole,
        {t.family.whole: t.passes for t in often if t.passes},
        max((_held(r) for r in reports), key=_size),
        tuple(dict.fromkeys(o.output for o in again)),
        max((_instead(r) for r in reports), key=_size),
        {name: read.get(name, 1) for name in inputs},
        tuple(outputs),
        Elements.of([*moved, *outputs.values()]) if known else None,
    )


def _tensors(
    computation: Cascade | OperatorGraph | IterativeCascade, report: PassReport
) -> tuple[dict[str, frozenset[Rank]], dict[str, frozenset[Rank]]]:
    """The ranks of each input and output."""
    match computation:
        case Cascade():
            outputs = {n: frozenset(t.ranks) for n, t in computation.outputs.items()}
            return {n: frozenset(t.ranks) for n, t in computation.inputs.items()}, outputs
        case IterativeCascade():
            outputs = {u.output.name: frozenset(u.output.ranks) for u in computation.after}
            return {n: frozenset(t.ranks) for n, t in computation.inputs.items()}, outputs
        case OperatorGraph():
            read = (x for o in computation.operations for x in o.operands if isinstance(x, (Access, Gather)))
            inputs = {name: frozenset(tensor.ranks) for name, tensor in tensors(read).items()}
            return inputs, {name: report.ranks[name] for name in computation.outputs}


def _needs(stage: PassStage) -> dict[str, None]:
    """What a stage reads of earlier ones and does not compute again."""
    own = {o.output for o in (*stage.operations, *stage.recomputed)}
    read = (x for o in (*stage.operations, *stage.recomputed) for x in o.operands if isinstance(x, str))
    return {x: None for x in read if x not in own}


def _held(report: PassReport) -> Elements:
    most = Elements()
    last = {x: i for i, stage in enumerate(report.stages) for x in _needs(stage)}
    before: set[str] = set()
    for i, stage in enumerate(report.stages):
        before = {x for x in before if last.get(x, -1) >= i}
        living = set(before)
        before |= {o.output for o in stage.operations}
        if stage.place != "pass":
            continue
        held = Elements.of([report.ranks[x] for x in living | stage.barriers]) + _references(stage, report)
        most = max(most, held, key=_size)
    return most


def _references(stage: PassStage, report: PassReport) -> Elements:
    """The running references of a pass's folds; folds over the same rank with the same reference share it."""
    found = {}
    for o in stage.operations:
        if o.operator.kind == "F" and o.output in stage.barriers and isinstance(o.operands[0], (str, Access, Gather)):
            ref = o.operands[0]
            ranks = report.ranks.get(ref, frozenset()) if isinstance(ref, str) else free(ref)
            found[o.operator.ranks[0], ref] = ranks - {o.operator.ranks[0]}
    return Elements.of(found.values())


def _instead(report: PassReport) -> Elements:
    """What would be held if nothing were computed again: the recomputed values that later passes read themselves."""
    most = Elements()
    for stage in report.stages:
        again = {o.output for o in stage.recomputed}
        read = {x for o in stage.operations for x in o.operands if isinstance(x, str) and x in again}
        most = max(most, Elements.of(report.ranks[x] for x in read), key=_size)
    return most


def _size(elements: Elements) -> tuple[int, ...]:
    """Compares sums: more ranks are more."""
    return tuple(len(ranks) for ranks, n in elements.terms for _ in range(n))
