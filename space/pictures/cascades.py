"""Pictures of a cascade and of an operator graph: a frame a pass, in which one sees what runs together."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from eintune.host.quoting import dot
from eintune.space.cascade.cascade import Cascade
from eintune.space.ir.expr import (
    Access,
    Expr,
    Gather,
    Iota,
    Rank,
    Size,
    Tensor,
    Where,
    indexing_ranks,
    rewrite,
    tensors,
    topological,
)
from eintune.space.notation.printer import write_expression
from eintune.space.operators.assignments import write_operand
from eintune.space.operators.graph import OperatorGraph
from eintune.space.operators.operators import PART, Operation
from eintune.space.operators.passes import PassReport, PassStage, analyse

from .svg import BARRIER, FONT, INPUT, cell, table, title_line

_FRAMES = {"before": "before the loops", "between": "between the loops", "after": "after the loops"}
Edges = Sequence[tuple[str, str]]


def cascade_dot(cascade: Cascade, title: str = "") -> str:
    """A box an einsum, in the frame of its pass; an edge for each tensor that it reads.

    Orange: it must see all of the streamed rank. A dashed edge: what it starts from is computed again, since it
    belongs to an earlier pass. Ranks that everything has are left out.
    """
    report = analyse(cascade)
    batch = _batch(cascade)
    homes = {e.output.name: _home(e.output.name, report) for e in cascade.einsums}
    boxes = {name: _box(name, _ranks(t, batch), None, INPUT) for name, t in cascade.inputs.items()}
    edges: list[tuple[str, str]] = []
    for e in cascade.einsums:
        name = e.output.name
        expr = rewrite([e.expr], lambda x: _without(x, batch))[0]
        boxes[name] = _box(name, _ranks(e.output, batch), write_expression(expr), _colour(homes[name]))
        edges += [(read, name) for read in tensors([e.expr])]
    return _picture(report, boxes, edges, homes, title)


def operators_dot(graph: OperatorGraph, title: str = "") -> str:
    """A box an operation, in the frame of its pass, as `cascade_dot` draws einsums."""
    report = analyse(graph)
    homes = {o.output: _home(o.output, report, parts=False) for o in graph.operations}
    boxes: dict[str, str] = {}
    edges: list[tuple[str, str]] = []
    for o in graph.operations:
        for x in dict.fromkeys(o.operands):
            if isinstance(x, (Access, Gather)):
                for name, tensor in tensors([x]).items():
                    boxes.setdefault(name, _box(name, ",".join(tensor.ranks), None, INPUT))
                    edges.append((name, o.output))
            elif isinstance(x, str):
                boxes.setdefault(x, _box(x, "?", None, INPUT))
                edges.append((x, o.output))
        boxes[o.output] = _box(o.output, "", _call(o, graph), _colour(homes[o.output]))
    return _picture(report, boxes, edges, homes, title)


def _call(o: Operation, graph: OperatorGraph) -> str:
    """An operation's name, and the numbers and filters that it reads."""
    rest = [write_operand(x) for x in o.operands if not isinstance(x, (str, Access, Gather))]
    rest += [str(tiles)] if (tiles := graph.tiles(o)) else []
    return f"{o.operator}({', '.join(rest)})" if rest else str(o.operator)


def _batch(cascade: Cascade) -> frozenset[Rank]:
    """The ranks that every input and einsum has, as an axis and nothing else."""
    every = [*cascade.inputs.values(), *(e.output for e in cascade.einsums)]
    nodes = topological(e.expr for e in cascade.einsums)
    common = frozenset.intersection(*(frozenset(t.ranks) for t in every))
    used = {r for x in nodes for r in _named(x)}
    return frozenset(r for r in common if r not in used) if len(cascade.inputs) > 1 else frozenset()


def _named(x: Expr) -> frozenset[Rank]:
    """Ranks that a node reads as numbers."""
    match x:
        case Iota() | Size():
            return frozenset((x.rank,))
        case Where():
            return x.predicate.ranks
        case Gather():
            return frozenset(indexing_ranks(x))
        case _:
            return frozenset()


def _without(x: Expr, batch: frozenset[Rank]) -> Expr | None:
    if not isinstance(x, Access):
        return None
    kept = tuple(r for r in x.tensor.ranks if r not in batch)
    return Access(Tensor(x.tensor.name, kept, x.tensor.kind), tuple(r for r in x.index if r not in batch))


def _ranks(tensor: Tensor, batch: frozenset[Rank]) -> str:
    return ",".join(r for r in tensor.ranks if r not in batch)


def _box(name: str, ranks: str, text: str | None, colour: str) -> str:
    rows = [cell(name, colour, bold=True, small=ranks)]
    return table(rows if text is None else [*rows, cell(text, colour)])


# ---- frames and edges

Home = tuple[PassStage | None, bool]
"""The stage of a box (None outside of all), and whether it must see all of the streamed rank."""


def _home(name: str, report: PassReport, *, parts: bool = True) -> Home:
    """Where the operation `name` runs or, of its einsum's parts (`NAME_temp…`), the first one that is a barrier."""
    own = re.compile(rf"{re.escape(name)}({PART.pattern})?" if parts else re.escape(name))
    home: Home = None, False
    for stage in report.stages:
        for o in stage.operations:
            if own.fullmatch(o.output) and not home[1]:
                if o.output in stage.barriers:
                    home = stage, True
                elif o.output == name:
                    home = stage, False
    return home


def _colour(home: Home) -> str:
    return BARRIER if home[1] else "white"


def _picture(report: PassReport, boxes: Mapping[str, str], edges: Edges, homes: Mapping[str, Home], title: str) -> str:
    lines = [f"digraph cascade {{ rankdir=TB; ranksep=0.35; nodesep=0.3; {title_line(title)}"]
    lines.append(f'  node [shape=plain, {FONT}, fontsize=11]; edge [arrowsize=0.7, color="#455a64"];')
    outside = [name for name in boxes if homes.get(name, (None, False))[0] is None]
    lines += [f"  {dot(name)} [label={boxes[name]}];" for name in outside]
    for i, stage in enumerate(report.stages):
        lines += _frame(i, stage, report.stream, {n: boxes[n] for n in boxes if n in homes and homes[n][0] is stage})
    for source, target in edges:
        there = homes[target][0]
        again = there is not None and any(o.output == source for o in there.recomputed)
        lines.append(f"  {dot(source)} -> {dot(target)}{' [style=dashed]' if again else ''};")
    return "\n".join([*lines, "}", ""])


def _frame(number: int, stage: PassStage, stream: Rank, boxes: Mapping[str, str]) -> Iterator[str]:
    """A rounded frame around the boxes of one stage."""
    if not boxes:
        return
    title = f"pass {stage.number} over {stream}" if stage.place == "pass" else _FRAMES[stage.place]
    yield f"  subgraph cluster_{number} {{ label={dot(title)}; labeljust=l; {FONT}; fontsize=11;"
    yield '    style="rounded,filled"; color="#90a4ae"; fillcolor="#fafafa"; fontcolor="#37474f";'
    yield from (f"    {dot(name)} [label={label}];" for name, label in boxes.items())
    yield "  }"
