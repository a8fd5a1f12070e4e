"""The e-graph: every equivalent form of a cascade that the laws reach, within stated bounds."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, assert_never

from eintune.host.forks import cached_property
from eintune.host.parts import require
from eintune.space.ir.expr import (
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
    Tensor,
    Unsplit,
    Where,
    children,
    free,
    topological,
    with_children,
)
from eintune.space.ir.folds import ACTIONS
from eintune.space.ir.pointwise import POINTWISE
from eintune.space.ir.splits import SplitOf
from eintune.space.laws.law import BACK, Law
from eintune.space.notation.printer import write_expression

from .encoding import Symbols, program

ClassId = str
HOLE: Expr = Access(Tensor("?", ()), ())
"""Stands for each operand in a node's head."""


class SaturationError(RuntimeError):
    """Saturation ended without a graph: out of time or of memory, or the engine refused the program."""


@dataclass(frozen=True)
class Limits:
    """Limits of one saturation; all must be greater than 0, else ValueError.

    steps: rounds of all laws. rows: nodes at which it stops after a step. arranged: laws that only rearrange rest
    where the next step, at the last one's growth, would exceed so many nodes. seconds: processor time after which
    it stops after a step. timeout: processor time after which the process is killed (a step that runs away).
    solving: seconds of processor time after which no further form is looked for.
    """

    steps: int = 16
    rows: int = 20_000
    arranged: int = 4_000
    seconds: float = 2.5
    timeout: float = 20.0
    solving: float = 20.0

    def __post_init__(self) -> None:
        for name in ("steps", "rows", "arranged", "seconds", "timeout", "solving"):
            if not getattr(self, name) > 0:
                raise ValueError(f"`{name}` must be greater than 0, but got {getattr(self, name)!r}")


@dataclass(frozen=True)
class Node:
    """One way to compute a class: `head` with a HOLE for each operand, and the operands' classes."""

    head: Expr
    children: tuple[ClassId, ...]

    def build(self, operands: Sequence[Expr]) -> Expr:
        """The expression over these operands."""
        return with_children(self.head, tuple(operands))


@dataclass(frozen=True)
class Statistics:
    """What saturation did: classes, nodes, matches by law, steps, seconds, and why it stopped."""

    classes: int
    nodes: int
    matches: Mapping[str, int]
    steps: int
    seconds: float
    stopped: str

    def to_json(self) -> dict[str, Any]:
        return {
            "classes": self.classes,
            "nodes": self.nodes,
            "matches": dict(self.matches),
            "steps": self.steps,
            "seconds": round(self.seconds, 4),
            "stopped": self.stopped,
        }


@dataclass(frozen=True)
class EGraph:
    """Classes of equal values.

    classes: the nodes of each class. roots: the classes of the outputs, in order. free: the ranks that a class
    varies with. defined: the class of each node that was there from the start (`original` are those very nodes): the
    definition's, and those of what it is without views. written: the definition's alone (`own`).
    """

    classes: Mapping[ClassId, tuple[Node, ...]]
    roots: tuple[ClassId, ...]
    free: Mapping[ClassId, frozenset[Rank]]
    defined: Mapping[Expr, ClassId]
    written: frozenset[Expr]
    splits: tuple[SplitOf, ...]
    statistics: Statistics = field(compare=False)

    @classmethod
    def of(cls, roots: Sequence[Expr]) -> EGraph:
        """The definition alone: one node a class, no law applied."""
        where = {x: f"D-{i}" for i, x in enumerate(topological(roots))}
        classes = {c: (_node_of(x, where),) for x, c in where.items()}
        ranks = {c: free(x) for x, c in where.items()}
        statistics = Statistics(len(classes), len(classes), {}, 0, 0.0, "definition")
        return cls(classes, tuple(where[r] for r in roots), ranks, where, frozenset(where), (), statistics)

    @cached_property
    def original(self) -> frozenset[tuple[ClassId, Node]]:
        """The nodes that were there from the start."""
        return frozenset((c, _node_of(x, self.defined)) for x, c in self.defined.items())

    @cached_property
    def own(self) -> frozenset[tuple[ClassId, Node]]:
        """The definition's own nodes, for which its author answers: not those of what is the same without views."""
        return frozenset((self.defined[x], _node_of(x, self.defined)) for x in self.written)

    def has(self, exprs: Sequence[Expr]) -> bool:
        """Whether expressions that were in the graph from the start are still in it, node by node."""
        return all(_node_of(x, self.defined) in self.classes.get(self.defined[x], ()) for x in topological(exprs))

    def nodes(self) -> Iterator[tuple[ClassId, Node]]:
        for c, nodes in self.classes.items():
            for n in nodes:
                yield c, n

    def restrict(self, keep: Mapping[ClassId, tuple[Node, ...]]) -> EGraph:
        """The same graph with fewer nodes: what can still be built and is still reached from the roots."""
        return EGraph(
            _reachable(_productive(keep), self.roots),
            self.roots,
            self.free,
            self.defined,
            self.written,
            self.splits,
            self.statistics,
        )

    def decode(self, choice: Mapping[ClassId, Node]) -> dict[ClassId, Expr]:
        """The expression of each class that the roots need, given one node a class (acyclic)."""
        made: dict[ClassId, Expr] = {}
        entered: set[ClassId] = set()
        stack = list(self.roots)
        while stack:
            c = stack[-1]
            missing = [k for k in choice[c].children if k not in made]
            if c in made or not missing:
                made.setdefault(c, choice[c].build([made[k] for k in choice[c].children]))
                stack.pop()
            elif c in entered:  # what is above it on the stack is done, or this is what it needs itself
                raise ValueError("the choice of nodes is cyclic")
            else:
                entered.add(c)
                stack += dict.fromkeys(missing)
        return made

    def to_json(self) -> dict[str, Any]:
        """Plain JSON data: classes with their nodes' labels, the roots and the statistics."""
        return {
            "roots": list(self.roots),
            "classes": {
                c: {
                    "ranks": sorted(self.free[c]),
                    "nodes": [{"op": label(n.head), "children": list(n.children)} for n in nodes],
                }
                for c, nodes in self.classes.items()
            },
            "statistics": self.statistics.to_json(),
        }


def label(head: Expr) -> str:
    """A node's short name in seed notation: `M_mul`, `R_add_m`, `T_split_m_m1m0`; a leaf as written."""
    match head:
        case Access():
            return f"{head.tensor.name}[{','.join(head.index)}]"
        case Gather():
            return write_expression(head)
        case Const():
            return f"{head.value:g}"
        case Size():
            return f"|{head.rank}|"
        case Map():
            return f"M_{head.op}"
        case Reduce():
            return f"R_{head.op}_{head.rank}"
        case Fold():
            return f"F_{head.action}_{head.rank}"
        case Where():
            return f"filter_{''.join(sorted(head.predicate.ranks))}"
        case Split():
            return f"T_split_{head.rank}_{head.outer}{head.inner}"
        case Unsplit():
            return f"T_unsplit_{head.outer}{head.inner}_{head.rank}"
        case Param():
            return head.name
        case Iota():
            return f"iota_{head.rank}"
    assert_never(head)


def saturate(
    roots: Sequence[Expr],
    table: Sequence[Law],
    splits: Sequence[SplitOf] = (),
    limits: Limits | None = None,
    same: Mapping[Expr, Expr] | None = None,
) -> EGraph:
    """Apply the laws to all outputs together until nothing new comes or a bound is met.

    same: what some nodes of the definition are known to equal (`undone_views`), which is in the graph from the start.
    Raises SaturationError with the bound, its value and what to change.
    """
    require("deriving", "egglog")
    limits = limits or Limits()
    symbols = Symbols()
    for s in splits:
        # Sets of ranks are bit masks in the engine, so every rank needs its bit before the program is written.
        symbols.mask((s.rank, s.outer, s.inner))
        symbols.view(Split(HOLE, s.rank, s.outer, s.inner))
    for x in topological(roots):
        if isinstance(x, (Split, Unsplit)):
            symbols.view(x)
    commands, nodes = program(symbols, roots, table, same)
    bounds = {name: getattr(limits, name) for name in ("steps", "rows", "arranged", "seconds", "timeout")}
    answer = _run({"program": commands, "opening": BACK, **bounds}, limits)
    return _read(answer, symbols, nodes, roots, tuple(splits))


PATIENCE = 10.0
"""Seconds by the clock that the saturating process gets for a second of its own: a machine may be busy."""


def _run(request: dict[str, Any], limits: Limits) -> dict[str, Any]:
    command = [sys.executable, "-P", "-m", f"{__package__}.engine"]
    try:
        done = subprocess.run(
            command,
            input=json.dumps(request),
            capture_output=True,
            text=True,
            timeout=limits.timeout * PATIENCE,
            check=False,
        )
    except subprocess.TimeoutExpired as stopped:
        so_far = stopped.stdout.decode() if isinstance(stopped.stdout, bytes) else (stopped.stdout or "")
        raise _late(limits, so_far) from None
    if done.returncode == _OUT_OF_TIME:
        raise _late(limits, done.stdout)
    lines = done.stdout.splitlines()
    if done.returncode or not lines:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise SaturationError(f"the saturating process ended with code {done.returncode}: {last}")
    answer: dict[str, Any] = json.loads(lines[-1])
    return answer


_OUT_OF_TIME = -getattr(signal, "SIGXCPU", 24)
"""How a process ends that has used up its processor time."""


def _late(limits: Limits, output: str) -> SaturationError:
    return SaturationError(
        f"saturation must end within {limits.timeout:g} s, but was killed {_progress(output)}; "
        f"lower `steps` ({limits.steps}) or `rows` ({limits.rows}), or switch a law off with `without`"
    )


def _progress(lines: str) -> str:
    steps = [json.loads(line) for line in lines.splitlines() if line.startswith('{"step"') and line.endswith("}")]
    return f"after step {steps[-1]['step']} with {steps[-1]['rows']} rows" if steps else "before its first step ended"


def _read(
    answer: dict[str, Any],
    symbols: Symbols,
    defined: Sequence[Expr],
    roots: Sequence[Expr],
    splits: tuple[SplitOf, ...],
) -> EGraph:
    raw: dict[str, dict[str, Any]] = answer["nodes"]
    owner = {name: node["eclass"] for name, node in raw.items()}
    value = {node["eclass"]: node["op"] for name, node in raw.items() if name.startswith("primitive")}
    classes: dict[ClassId, list[Node]] = {}
    ranks: dict[ClassId, frozenset[Rank]] = {}
    tags: dict[int, ClassId] = {}
    for node in raw.values():
        op, own, below = node["op"], node["eclass"], [owner[b] for b in node["children"]]
        numbers = [value[b] for b in below if b in value]
        operands = tuple(b for b in below if b not in value)
        if op == "free":
            ranks[operands[0]] = symbols.names(int(value[own]))
        elif op == "tag":
            tags[int(numbers[0])] = own
        # A node that reads its own class (x = x * 1) is of no use to any form, which must be finite.
        elif own not in operands and (head := _head(op, numbers, symbols)) is not None:
            classes.setdefault(own, []).append(Node(head, operands))
    where = {x: tags[i] for i, x in enumerate(defined)}
    # Sorted, so that the order of nodes is no matter of the engine's, and neither is what a solver finds first.
    ordered = {c: tuple(sorted(nodes, key=lambda n: (label(n.head), n.children))) for c, nodes in classes.items()}
    found = answer["statistics"]
    statistics = Statistics(
        classes=len(ordered),
        nodes=sum(map(len, ordered.values())),
        matches=found["matches"],
        steps=found["steps"],
        seconds=found["seconds"],
        stopped=found["stopped"],
    )
    outputs = tuple(where[r] for r in roots)
    varies = {c: ranks.get(c, frozenset()) for c in ordered}
    # A class's free ranks are those of its value. A node written with more would capture or leak a rank when it is
    # printed.
    lean = _productive({c: tuple(n for n in ns if _ranks_of(n, varies) <= varies[c]) for c, ns in ordered.items()})
    written = frozenset(topological(roots))
    return EGraph(_reachable(lean, outputs), outputs, varies, where, written, splits, statistics)


def _ranks_of(n: Node, varies: Mapping[ClassId, frozenset[Rank]]) -> frozenset[Rank]:
    """The ranks that a node is written with. `x * y / y` has y's, though its value is x's: such a node is left
    out, since a view around it could capture the rank."""
    below = frozenset[Rank]().union(*(varies[k] for k in n.children))
    match n.head:
        case Reduce() | Fold():
            return below - {n.head.rank}
        case Split() if n.head.rank in below:
            return below - {n.head.rank} | {n.head.outer, n.head.inner}
        case Unsplit() if below & {n.head.outer, n.head.inner}:
            return below - {n.head.outer, n.head.inner} | {n.head.rank}
        case _:
            return below


def _head(op: str, numbers: Sequence[str], symbols: Symbols) -> Expr | None:
    """The node that a row stands for, over holes; None for the analyses' own rows."""
    kind, _, name = op.partition("_")
    match kind:
        case "leaf":
            return symbols.leaves[int(numbers[0])]
        case "num":
            return Const(float(numbers[0]))
        case "size":
            return Size(_rank(numbers[0], symbols))
        case "filter":
            predicate, fill = symbols.filters[int(numbers[0])]
            return Where(predicate, HOLE, fill)
        case "M":
            name = name.removesuffix("_")
            return Map(name, (HOLE,) * POINTWISE[name].arity)
        case "R":
            return Reduce(name, _rank(numbers[0], symbols), HOLE)
        case "F":
            more = ACTIONS[name].references - 1
            return Fold(name, _rank(numbers[0], symbols), HOLE, HOLE, (HOLE,) * more)
        case _ if op.startswith("V"):
            rank, outer, inner, joins = symbols.views[int(op[1:-1])]
            return Unsplit(HOLE, outer, inner, rank) if joins else Split(HOLE, rank, outer, inner)
        case _:
            return None


def _rank(mask: str, symbols: Symbols) -> Rank:
    (rank,) = symbols.names(int(mask))
    return rank


def _node_of(x: Expr, classes: Mapping[Expr, ClassId]) -> Node:
    below = children(x)
    return Node(with_children(x, (HOLE,) * len(below)), tuple(classes[a] for a in below))


def _reachable(
    classes: Mapping[ClassId, tuple[Node, ...]], roots: Sequence[ClassId]
) -> dict[ClassId, tuple[Node, ...]]:
    seen: set[ClassId] = set()
    stack = list(roots)
    while stack:
        c = stack.pop()
        if c not in seen and c in classes:
            seen.add(c)
            stack += (k for n in classes[c] for k in n.children)
    return {c: classes[c] for c in classes if c in seen}


def _productive(classes: Mapping[ClassId, tuple[Node, ...]]) -> dict[ClassId, tuple[Node, ...]]:
    """The nodes that can be built from leaves with what is there."""
    # A least fixed point from the leaves: what is only built from itself is never reached.
    built: set[ClassId] = set()
    grew = True
    while grew:
        grew = False
        for c, nodes in classes.items():
            if c not in built and any(all(k in built for k in n.children) for n in nodes):
                built.add(c)
                grew = True
    return {
        c: tuple(n for n in nodes if all(k in built for k in n.children)) for c, nodes in classes.items() if c in built
    }
