"""Pictures through Graphviz: a cascade, an e-graph, and an e-graph with costs and what was chosen.

Each `..._dot` gives text in the DOT language; `draw` makes an SVG of it, or keeps the text where the program
`dot` is missing.
"""

from __future__ import annotations

import html
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from .cascade import Cascade
from .derive import Derivation, derive
from .egraph import ClassId, EGraph, Node, label
from .expr import Access, Expr, Fold, Map, Reduce, topological
from .extract import Work

CHOSEN, LEFT, INPUT, BARRIER = "#a5d6a7", "#eeeeee", "#e3f2fd", "#ffe0b2"
MAX_NODES = 600
"""A graph with more nodes is drawn without those that are unsafe; more than this nobody can read."""
DRAW_SECONDS = 60.0
_SHAPE = "shape=box, style=filled, fontname=Helvetica, fontsize=11"


def cascade_dot(cascade: Cascade, title: str = "") -> str:
    """Tensors as boxes with their einsum, an edge for each that one reads; what reduces a rank is orange."""
    lines = [f"digraph cascade {{ rankdir=TB; node [{_SHAPE}]; {_title(title)}"]
    for name, tensor in cascade.inputs.items():
        lines.append(f'  "{name}" [label="{name}[{",".join(tensor.ranks)}]", fillcolor="{INPUT}"];')
    for line, einsum in zip(_body(str(cascade)), cascade.einsums, strict=True):
        name = einsum.output.name
        nodes = topological([einsum.expr])
        reduces = any(isinstance(x, (Reduce, Fold)) for x in nodes)
        lines.append(f'  "{name}" [label="{_escape(line)}", fillcolor="{BARRIER if reduces else "white"}"];')
        reads = dict.fromkeys(x.tensor.name for x in nodes if isinstance(x, Access))
        lines += [f'  "{read}" -> "{name}";' for read in reads]
    return "\n".join([*lines, "}", ""])


def _body(text: str) -> list[str]:
    """The lines of a cascade's text that are einsums."""
    return [line for line in text.splitlines() if line.strip() and not re.match(r"(results:|input )", line)]


def egraph_dot(
    graph: EGraph,
    *,
    title: str = "",
    cost: Callable[[ClassId, Node], float] | None = None,
    chosen: Mapping[ClassId, Node] | None = None,
) -> str:
    """A dashed box a class, holding its nodes; an edge from each node to the classes that it reads.

    cost: written under each node. chosen: the node taken for each class; those are green, all others grey.
    """
    lines = [
        f"digraph egraph {{ rankdir=TB; compound=true; ranksep=0.35; nodesep=0.15; {_title(title)}",
        f"  node [{_SHAPE}]; edge [arrowsize=0.6];",
    ]
    for c, nodes in graph.classes.items():
        ranks = ",".join(sorted(graph.free[c]))
        lines.append(f'  subgraph "cluster_{c}" {{ label="{ranks}"; style=dashed; fontname=Helvetica; fontsize=9;')
        for i, n in enumerate(nodes):
            text = _symbol(n.head) + ("" if cost is None else f"\\n{cost(c, n):.3g}")
            colour = "white" if chosen is None else CHOSEN if chosen.get(c) == n else LEFT
            lines.append(f'    "{c}_{i}" [label="{text}", fillcolor="{colour}"];')
        lines.append("  }")
    lines += _edges(graph, chosen)
    return "\n".join([*lines, "}", ""])


def _edges(graph: EGraph, chosen: Mapping[ClassId, Node] | None) -> Iterator[str]:
    for c, nodes in graph.classes.items():
        for i, n in enumerate(nodes):
            taken = chosen is None or chosen.get(c) == n
            style = 'color="#2e7d32", penwidth=1.6' if taken and chosen is not None else 'color="#9e9e9e"'
            for k in n.children:
                yield f'  "{c}_{i}" -> "{k}_0" [lhead="cluster_{k}", {style}];'


def _symbol(head: Expr) -> str:
    return _escape(head.op) if isinstance(head, Map) else _escape(label(head))


def _title(title: str) -> str:
    return f'label="{_escape(title)}"; labelloc=t; fontname=Helvetica; fontsize=13;' if title else ""


def _escape(text: str) -> str:
    return html.unescape(text).replace("\\", "\\\\").replace('"', '\\"')


def draw(dot: str, path: Path) -> tuple[Path, str | None]:
    """Write an SVG of DOT text to `path`. Returns the file written, and a line for the user if it is not one.

    Without Graphviz, or if it does not end in time, the file is the DOT text with the suffix `.dot`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    program = shutil.which("dot")
    if program is None:
        why = "Graphviz's `dot` is not installed (apt-get install graphviz)"
    else:
        try:
            command = [program, "-Tsvg"]
            done = subprocess.run(command, input=dot.encode(), capture_output=True, timeout=DRAW_SECONDS, check=False)
            if done.returncode == 0:
                path.write_bytes(done.stdout)
                return path, None
            why = f"`dot` failed: {done.stderr.decode(errors='replace').strip()[:200]}"
        except subprocess.TimeoutExpired:
            why = f"`dot` did not end within {DRAW_SECONDS:g} s"
    kept = path.with_suffix(".dot")
    kept.write_text(dot, encoding="utf-8")
    return kept, f"no picture, as {why}: wrote {kept.name}"


def pictures(name: str, derivation: Derivation) -> Mapping[str, str]:
    """File names without suffix, and DOT text: the definition, each form, the e-graph, the e-graph with costs."""
    found = {f"{name}-definition": cascade_dot(derivation.definition, f"{name}: the definition")}
    for i, d in enumerate(derivation.cascades, 1):
        found[f"{name}-{i}-{d.passes}-pass"] = cascade_dot(d.cascade, f"{name}: {d.description}")
    whole = derivation.graph if derivation.statistics.nodes <= MAX_NODES else derivation.safe
    size = f"{len(whole.classes)} classes, {sum(map(len, whole.classes.values()))} nodes"
    found[f"{name}-egraph"] = egraph_dot(whole, title=f"{name}: {size}")
    if derivation.best is not None:
        work = Work(derivation.safe, derivation.streams)
        scale = 100 / work.definition()
        title = f"{name}: the safe nodes with their work (percent of the definition's); chosen in green"
        found[f"{name}-egraph-costs"] = egraph_dot(
            derivation.safe, title=title, cost=lambda c, n: work(c, n) * scale, chosen=derivation.best.choice
        )
    return found


def draw_derivation(name: str, definition: Cascade, folder: Path) -> Sequence[str]:
    """Derive, draw everything into `folder`; returns what to tell the user: each file, or why there is none."""
    told = []
    for stem, dot in pictures(name, derive(definition)).items():
        path, problem = draw(dot, folder / f"{stem}.svg")
        told.append(problem or str(path))
    return told
