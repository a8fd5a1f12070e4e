"""Pass analysis: how often a computation must traverse its streamed rank, from the graph alone.

After FuseMax (arXiv 2406.10491): a pass is a traversal of every element of a fiber of a rank; what must be
visited again after all others of its fiber were visited costs one more pass. A *barrier* is a reduction that
must see all of the streamed rank (over m, or over m1 where m1 and m0 are its parts; over m0 it is local to a
tile). An operation's *sync level* is the largest number of barriers on a way to it.

Operations over the outer part alone (one value a tile) are statistics: they traverse no element, so they run in
a pass of their level if there is one, else between the passes. Whatever is needed again is computed again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, assert_never

from eintune.space.cascade.cascade import Cascade, from_roots
from eintune.space.cascade.iterative import IterativeCascade
from eintune.space.cascade.one_pass import written_out
from eintune.space.ir.einsum import CascadeError
from eintune.space.ir.expr import Access, Expr, Gather, Iota, Predicate, Rank, indexing_ranks, reads, rewrite
from eintune.space.ir.folds import ACTIONS

from .cascades import from_expressions, operations_of, to_cascade
from .graph import OperatorGraph
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
    graph, inputs = _graph(computation)
    ranks = _ranks(graph)
    known = frozenset[Rank]().union(*(r.domain for r in ranks.values()))
    if stream is not None and stream not in known:
        raise CascadeError(f"`stream` must be a rank of the computation ({list(in_order(known))}), but got {stream!r}")
    return _report(graph, inputs, _timing(graph, ranks, stream), ranks)


def _graph(computation: Cascade | OperatorGraph | IterativeCascade) -> tuple[OperatorGraph, list[str]]:
    """The operations, and the inputs in first-use order."""
    match computation:
        case Cascade():
            return OperatorGraph(operations_of(_in_passes(computation))), list(computation.inputs)
        case IterativeCascade():
            return one_iteration(computation), list(computation.inputs)
        case OperatorGraph():
            leaves = [x for o in computation.operations for x in o.operands if isinstance(x, (Access, Gather))]
            inputs = list(dict.fromkeys(x.tensor.name for x in reads(leaves)))
            return _in_passes_of(computation), inputs
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


def passes(roots: Iterable[Expr], stream: Rank | None = None) -> int:
    """The number of passes that expressions over inputs need, all together."""
    graph = from_expressions({str(i): x for i, x in enumerate(rewrite(roots, written_out))})
    return _timing(graph, _ranks(graph), stream).passes


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


@dataclass(frozen=True)
class _Family:
    """A streamed rank and the parts that it is split into: whole -> (outer, inner) pairs."""

    whole: Rank
    splits: frozenset[tuple[Rank, Rank, Rank]]

    def below(self, rank: Rank) -> frozenset[Rank]:
        """The rank and all of its parts."""
        members, todo = set[Rank](), [rank]
        while todo:
            r = todo.pop()
            if r not in members:
                members.add(r)
                todo += [part for whole, *parts in self.splits if whole == r for part in parts]
        return frozenset(members)

    def covered(self, ranks: frozenset[Rank], rank: Rank | None = None, seen: frozenset[Rank] = frozenset()) -> bool:
        """`ranks` reach every element of the family."""
        r = rank or self.whole
        return r in ranks or any(
            self.covered(ranks, outer, seen | {r}) and self.covered(ranks, inner, seen | {r})
            for whole, outer, inner in self.splits
            if whole == r and r not in seen
        )

    def is_barrier(self, o: Operation, domain: frozenset[Rank]) -> bool:
        """A reduction in the family that is not local to one tile."""
        if o.operator.kind not in ("R", "F") or o.operator.ranks[0] not in self.below(self.whole):
            return False
        rank = o.operator.ranks[0]
        return not any(rank in self.below(inner) and domain & self.below(outer) for _, outer, inner in self.splits)


def _families(graph: OperatorGraph, ranks: dict[str, _Ranks]) -> Iterator[_Family]:
    splits = set()
    for o in graph.operations:
        if o.operator.kind == "T":
            a, b, c = o.operator.ranks
            splits.add((a, b, c) if o.operator.op == "split" else (c, a, b))
    parts = {r for _, *rest in splits for r in rest}
    reduced = [o.operator.ranks[0] for o in graph.operations if o.operator.kind in ("R", "F")]
    wholes = dict.fromkeys([whole for whole, *_ in sorted(splits)] + reduced)
    wholes.update(dict.fromkeys(r for x in ranks.values() for r in in_order(x.domain)))
    for whole in wholes:
        if whole not in parts:
            yield _Family(whole, frozenset(splits))


# ---- when each operation can run


@dataclass
class _Timing:
    """Of each operation, by output: passes that must be over before it starts and when it is complete.

    full: iterates every element of the family. wide: has a value for every element. streamed: depends on one.
    number: the pass of a full operation, as early as it can run; but a wide value does not live across passes,
    so it is made in the first pass that reads it.
    """

    family: _Family
    start: dict[str, int] = field(default_factory=dict)
    done: dict[str, int] = field(default_factory=dict)
    level: dict[str, int] = field(default_factory=dict)
    full: set[str] = field(default_factory=set)
    barriers: set[str] = field(default_factory=set)
    streamed: set[str] = field(default_factory=set)
    wide: set[str] = field(default_factory=set)
    number: dict[str, int] = field(default_factory=dict)

    @property
    def passes(self) -> int:
        return max((self.start[x] + 1 for x in self.full), default=0)


def _timing(graph: OperatorGraph, ranks: dict[str, _Ranks], stream: Rank | None) -> _Timing:
    families = list(_families(graph, ranks))
    if stream is not None:
        families = [f for f in families if stream in f.below(f.whole)]
    last = {r: i for i, o in enumerate(graph.operations) if o.operator.kind in "RF" for r in o.operator.ranks}
    timings = [_timed(graph, ranks, f) for f in families or [_Family("", frozenset())]]

    more = {o.output for o in graph.operations if o.operator.kind == "F" or o.operator.op != "add"}

    def key(t: _Timing) -> tuple[int, bool, int, int]:
        reduced = max((last.get(r, -1) for r in t.family.below(t.family.whole)), default=-1)
        return t.passes, bool(t.barriers & more), len(t.barriers), reduced

    return max(timings, key=key)


def _timed(graph: OperatorGraph, ranks: dict[str, _Ranks], family: _Family) -> _Timing:
    t, members = _Timing(family), family.below(family.whole)
    for o in graph.operations:
        x, domain = o.output, ranks[o.output].domain
        below = [a for a in o.operands if isinstance(a, str) and a in t.start]
        t.start[x] = max((t.done[a] if a in t.barriers else t.start[a] for a in below), default=0)
        t.level[x] = max((t.level[a] + (a in t.barriers) for a in below), default=0)
        if family.covered(domain):
            t.full.add(x)
        if family.covered(ranks[x].free):
            t.wide.add(x)
        if family.is_barrier(o, domain):
            t.barriers.add(x)
        if domain & members or any(a in t.streamed for a in below):
            t.streamed.add(x)
        t.done[x] = t.start[x] + 1 if x in t.full else max([t.start[x], *(t.done[a] for a in below)])
    _place(graph, t)
    return t


def _place(graph: OperatorGraph, t: _Timing) -> None:
    first: dict[str, int] = {}
    for o in reversed(graph.operations):
        x = o.output
        if x not in t.full:
            continue
        moves = x in t.wide and x not in t.barriers
        t.number[x] = first.get(x, t.start[x] + 1) if moves else t.start[x] + 1
        for a in o.operands:
            if isinstance(a, str):
                first[a] = min(first.get(a, t.number[x]), t.number[x])


# ---- the report


def _report(graph: OperatorGraph, inputs: list[str], t: _Timing, ranks: dict[str, _Ranks]) -> PassReport:
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


def _slot(x: str, t: _Timing, pass_level: dict[int, int]) -> tuple[int, int, int]:
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
    t: _Timing,
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
    number: int, graph: OperatorGraph, inputs: list[str], t: _Timing, at: Mapping[str, int]
) -> tuple[tuple[str, ...] | None, tuple[Operation, ...]]:
    """The streamed inputs that a pass reads, and the operations of earlier passes that it computes again. at: the
    place of each operation."""
    members = t.family.below(t.family.whole)
    todo = [graph.operations[at[x]] for x, n in t.number.items() if n == number]
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
            elif isinstance(x, str) and x in t.streamed and not _kept(x, number, t):
                todo.append(graph.operations[at[x]])
    again = tuple(visited[x] for x in sorted(visited, key=at.__getitem__) if t.number.get(x, number) < number)
    return None if unknown else tuple(n for n in inputs if n in loads), again


def _kept(x: str, number: int, t: _Timing) -> bool:
    """The value was complete before this pass and is small: a barrier's result, or one value a tile."""
    return t.done[x] < number and (x in t.barriers or x not in t.wide)
