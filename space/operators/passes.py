"""Pass analysis: how often a computation must traverse its streamed rank, from the graph alone.

What a pass and a barrier are is in `space/cascade/timing.py`, which counts them. An operation's *sync level* is the
largest number of barriers on a way to it.

Operations over the outer part alone (one value a tile) are statistics: they traverse no element, so they run in
a pass of their level if there is one, else between the passes. Whatever is needed again is computed again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, assert_never

from eintune.space.cascade.cascade import Cascade, from_roots
from eintune.space.cascade.iterative import IterativeCascade
from eintune.space.cascade.one_pass import written_out
from eintune.space.cascade.timing import Family, Step, Timing, copied, families, timed
from eintune.space.ir.einsum import CascadeError
from eintune.space.ir.expr import Access, Expr, Gather, Iota, Predicate, Rank, free, indexing_ranks, reads, rewrite
from eintune.space.ir.folds import ACTIONS

from .cascades import operations_of, to_cascade
from .executions import kept
from .graph import OperatorGraph, check_computation
from .one_iteration import one_iteration
from .operators import Operation, in_order

_PER_LINE = 4


@dataclass(frozen=True)
class PassStage:
    """A group of operations that run together.

    place: "before" the loops (nothing streamed), "pass", "between" two passes, or "after" the loops.
    number: of the pass, from 1; of the pass that follows for "between". level: the sync level.
    operations: in program order, the barriers last. barriers: which of them are. loads: the streamed inputs
    that a pass reads, or None where some input's ranks are not written. recomputed: operations of earlier
    passes that this one computes again.
    """

    place: str
    number: int
    level: int
    operations: tuple[Operation, ...]
    barriers: frozenset[str]
    loads: tuple[str, ...] | None = ()
    recomputed: tuple[Operation, ...] = ()

    def __str__(self) -> str:
        heading = {
            "before": "PRE-LOOP",
            "pass": f"MEMORY PASS {self.number}",
            "between": "BETWEEN LOOPS",
            "after": "POST-LOOP",
        }[self.place]
        lines = [f"{heading} (sync level {self.level}):"]
        labels = [self._label(o) for o in self.operations]
        rows = [", ".join(labels[i : i + _PER_LINE]) for i in range(0, len(labels), _PER_LINE)]
        lines += [f"  {row}{',' if row is not rows[-1] else ''}" for row in rows]
        if self.loads:
            lines.append(f"  loads: {', '.join(self.loads)}")
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON data."""
        return {
            "place": self.place,
            "number": self.number,
            "level": self.level,
            "operations": [
                {"output": o.output, "operator": str(o.operator), "barrier": o.output in self.barriers}
                for o in self.operations
            ],
            "loads": None if self.loads is None else list(self.loads),
            "recomputed": [o.output for o in self.recomputed],
        }

    def _label(self, o: Operation) -> str:
        tags = [" [GLOBAL_RED]"] if o.output in self.barriers else []
        tags += [" [POST_LOOP]"] if self.place == "after" else []
        return f"{o.operator}{''.join(tags)}"


@dataclass(frozen=True)
class PassReport:
    """The stages in order. stream: the streamed rank; str(report) prints it all.

    ranks: those that each operation's output varies with.
    """

    stream: Rank
    sync_levels: int
    passes: int
    stages: tuple[PassStage, ...]
    ranks: Mapping[str, frozenset[Rank]] = field(default_factory=dict, compare=False, repr=False)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON data; each stage has its operations, which of them are barriers, and what it loads."""
        return {
            "stream": self.stream,
            "sync_levels": self.sync_levels,
            "passes": self.passes,
            "stages": [s.to_json() for s in self.stages],
        }

    def __str__(self) -> str:
        levels = f"{self.sync_levels} sync level{'s'[: self.sync_levels != 1]}"
        passes = f"{self.passes} memory pass{'es'[: 2 * (self.passes != 1)]}"
        return "\n\n".join([f"Pass Analysis: {levels}, {passes}", *map(str, self.stages)])


def analyse(computation: Cascade | OperatorGraph | IterativeCascade, stream: Rank | None = None) -> PassReport:
    """The passes over `stream`; by default over the rank that needs most of them.

    Of an iterative cascade, the passes of one iteration after another: its states stay where they are.
    Equal ranks are told apart by whether more than sums run over them, by the number of barriers, then by which is
    reduced last. Raises CascadeError
    for a rank that does not occur.
    """
    return Analysis(computation).report(stream)


class Analysis:
    """What all analyses of one computation share.

    graph: its operations. inputs: in first-use order. timings: over each rank that is no part of another.
    """

    def __init__(self, computation: Cascade | OperatorGraph | IterativeCascade) -> None:
        check_computation(computation)
        self.graph, self.inputs, copies = _graph(computation)
        self._ranks = _ranks(self.graph)
        self._steps = _steps(self.graph, self._ranks, copies)
        self.timings = [timed(self._steps, f) for f in families(self._steps)]

    def report(self, stream: Rank | None = None) -> PassReport:
        """As `analyse`."""
        return _report(self.graph, self.inputs, self.timing(stream), self._ranks)

    def timing(self, stream: Rank | None = None) -> Timing[str]:
        """Over the rank that needs most passes of those that `stream` is a part of, or of all."""
        known = frozenset(t.family.whole for t in self.timings).union(*(s.domain for s in self._steps))
        if stream is not None and not (isinstance(stream, str) and stream in known):
            raise CascadeError(
                f"`stream` must be a rank of the computation ({list(in_order(known))}), but got {str(stream)[:80]!r}"
            )
        operations = self.graph.operations
        last = {r: i for i, o in enumerate(operations) if o.operator.kind in "RF" for r in o.operator.ranks}
        found = [t for t in self.timings if stream is None or stream in t.family.below(t.family.whole)]
        more = {o.output for o in operations if o.operator.kind == "F" or o.operator.op != "add"}

        def key(t: Timing[str]) -> tuple[int, bool, int, int]:
            reduced = max((last.get(r, -1) for r in t.family.below(t.family.whole)), default=-1)
            return t.passes, bool(t.barriers & more), len(t.barriers), reduced

        return max(found or [timed(self._steps, Family("", frozenset()))], key=key)


def _graph(
    computation: Cascade | OperatorGraph | IterativeCascade,
) -> tuple[OperatorGraph, list[str], dict[str, frozenset[Rank]]]:
    """The operations, the inputs in first-use order, and the ranks of results that are copies of them."""
    match computation:
        case Cascade():
            roots = computation.roots().items()
            copies = {name: free(x) for name, x in roots if isinstance(x, (Access, Gather))}
            return OperatorGraph(operations_of(_in_passes(computation))), list(computation.inputs), copies
        case IterativeCascade():
            return one_iteration(computation), list(computation.inputs), {}
        case OperatorGraph():
            leaves = [x for o in computation.operations for x in o.operands if isinstance(x, (Access, Gather))]
            inputs = list(dict.fromkeys(x.tensor.name for x in reads(leaves)))
            return _in_passes_of(computation), inputs, {}
        case _:
            assert_never(computation)


def _in_passes(cascade: Cascade) -> Cascade:
    """With folds that one pass cannot do written out, as a plan has them."""
    every = Cascade(cascade.einsums, tuple(e.output.name for e in cascade.einsums)).roots()
    written = dict(zip(every, rewrite(every.values(), written_out), strict=True))
    if written == every:
        return cascade
    called: dict[Expr, str] = {}
    for name, x in written.items():
        called.setdefault(x, name)
    return from_roots({n: (written[n], t.ranks) for n, t in cascade.outputs.items()}, called)


def _in_passes_of(graph: OperatorGraph) -> OperatorGraph:
    """The same of operations; where some input's ranks are not written, folds stay."""
    if all(o.operator.kind != "F" or ACTIONS[o.operator.op].linear for o in graph.operations):
        return graph
    try:
        cascade = to_cascade(graph)
    except CascadeError:
        return graph
    written = _in_passes(cascade)
    return graph if written is cascade else OperatorGraph(operations_of(written))


# ---- what each operation ranges over


@dataclass(frozen=True)
class _Ranks:
    """domain: the ranks that an operation iterates, those that it reduces too. free: those of its output."""

    domain: frozenset[Rank]
    free: frozenset[Rank]


def _ranks(graph: OperatorGraph) -> dict[str, _Ranks]:
    found: dict[str, _Ranks] = {}
    for o in graph.operations:
        below = frozenset[Rank]().union(*(_free(x, found) for x in o.operands))
        ranks = frozenset(o.operator.ranks)
        match o.operator.kind, o.operator.op:
            case "R" | "F", _:
                found[o.output] = _Ranks(below | ranks, below - ranks)
            case "T", "split":
                free = below - {o.operator.ranks[0]} | set(o.operator.ranks[1:])
                found[o.output] = _Ranks(free, free)
            case "T", _:
                free = below - set(o.operator.ranks[:2]) | {o.operator.ranks[2]}
                found[o.output] = _Ranks(free, free)
            case _:
                found[o.output] = _Ranks(below | ranks, below | ranks)
    return found


def _free(x: object, found: dict[str, _Ranks]) -> frozenset[Rank]:
    match x:
        case Access() | Gather():
            return frozenset(indexing_ranks(x))
        case Iota():
            return frozenset((x.rank,))
        case Predicate():
            return x.ranks
        case str() if x in found:
            return found[x].free
        case _:
            return frozenset()


# ---- when each operation can run


def _steps(graph: OperatorGraph, ranks: dict[str, _Ranks], copies: Mapping[str, frozenset[Rank]]) -> list[Step[str]]:
    found = [copied(name, free) for name, free in copies.items()]
    for o in graph.operations:
        operands = tuple(a for a in o.operands if isinstance(a, str) and a in ranks)
        reduced = o.operator.ranks[0] if o.operator.kind in ("R", "F") else None
        view = None
        if o.operator.kind == "T":
            a, b, c = o.operator.ranks
            view = (a, b, c) if o.operator.op == "split" else (c, a, b)
        found.append(Step(o.output, operands, ranks[o.output].domain, ranks[o.output].free, reduced, view))
    return found


# ---- the report


def _report(graph: OperatorGraph, inputs: list[str], t: Timing[str], ranks: dict[str, _Ranks]) -> PassReport:
    pass_level = dict.fromkeys(range(1, t.passes + 1), 0)
    for x, n in t.number.items():
        pass_level[n] = max(pass_level[n], t.level[x])
    stages: dict[tuple[int, int, int], list[Operation]] = {}
    for o in graph.operations:
        stages.setdefault(_slot(o.output, t, pass_level), []).append(o)
    place = {o.output: i for i, o in enumerate(graph.operations)}
    made = [_stage(slot, found, graph, inputs, t, place) for slot, found in sorted(stages.items())]
    levels = max(t.level.values(), default=-1) + 1
    return PassReport(t.family.whole, levels, t.passes, tuple(made), {x: r.free for x, r in ranks.items()})


_BEFORE, _BETWEEN, _IN = 0, 1, 2


def _slot(x: str, t: Timing[str], pass_level: dict[int, int]) -> tuple[int, int, int]:
    """(pass, place, level), which sorts into program order."""
    if x not in t.streamed:
        return 0, _BEFORE, 0
    if x in t.full:
        return t.number[x], _IN, pass_level[t.number[x]]
    for number, level in pass_level.items():
        if number > t.start[x] and level >= t.level[x]:
            return number, _IN if level == t.level[x] else _BETWEEN, t.level[x]
    return len(pass_level) + 1, _BETWEEN, t.level[x]


def _stage(
    slot: tuple[int, int, int],
    found: list[Operation],
    graph: OperatorGraph,
    inputs: list[str],
    t: Timing[str],
    at: Mapping[str, int],
) -> PassStage:
    number, where, level = slot
    barriers = sorted((o for o in found if o.output in t.barriers), key=lambda o: str(o.operator))
    ordered = (*(o for o in found if o.output not in t.barriers), *barriers)
    place = "before" if where == _BEFORE else "pass" if where == _IN else "between" if number <= t.passes else "after"
    loads: tuple[str, ...] | None = ()
    recomputed: tuple[Operation, ...] = ()
    if place == "pass":
        loads, recomputed = _needed(number, graph, inputs, t, at)
    return PassStage(place, number, level, ordered, frozenset(o.output for o in barriers), loads, recomputed)


def _needed(
    number: int, graph: OperatorGraph, inputs: list[str], t: Timing[str], at: Mapping[str, int]
) -> tuple[tuple[str, ...] | None, tuple[Operation, ...]]:
    """The streamed inputs that a pass reads, and the operations of earlier passes that it computes again. at: the
    place of each operation."""
    members = t.family.below(t.family.whole)
    todo = [graph.operations[at[x]] for x, n in t.number.items() if n == number and x in at]
    visited: dict[str, Operation] = {}
    loads: dict[str, None] = {}
    unknown = False
    while todo:
        o = todo.pop()
        if o.output in visited:
            continue
        visited[o.output] = o
        for x in o.operands:
            if isinstance(x, (Access, Gather)):
                loads.update({a.tensor.name: None for a in reads([x]) if members & set(indexing_ranks(a))})
            elif isinstance(x, str) and x not in at:
                unknown = True
            elif isinstance(x, str) and x in t.streamed and not kept(x, number, t):
                todo.append(graph.operations[at[x]])
    again = tuple(visited[x] for x in sorted(visited, key=at.__getitem__) if t.number.get(x, number) < number)
    return None if unknown else tuple(n for n in inputs if n in loads), again
