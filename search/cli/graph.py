"""Graphs that a user names: read in any notation, written in another, drawn, and posed as a problem."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from eintune.search.options.command import Command, as_usage, path
from eintune.search.options.documents import add_json, write_json
from eintune.search.options.files import check_writable
from eintune.search.options.graphs import add_graph_options, completed
from eintune.search.options.problem import add_workload_options
from eintune.search.options.sizes import add_sizes

if TYPE_CHECKING:
    from eintune.space.operators.formats import Computation


GRAPH_HELP = """\
Reads a computation in any notation (docs/graphs.md) and writes it in another: EDGE einsums, operators (M_…, R_…,
T_…), a program for egglog, or Graphviz text; --svg draws it, with a frame a pass.
"""
GRAPH_EXAMPLES = """\
examples:
  eintune graph attention --as operators           a built-in definition
  eintune graph attention_2pass.egg --as edge
  eintune graph attention.json --ranks Q=e,p --ranks K=e,m --ranks V=f,m --svg pictures/
"""
FORMS = ("edge", "unicode", "solved", "operators", "egg", "dot")


# ---- the command


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE|WORKLOAD", help="a file in any notation, or a built-in definition's name")
    parser.add_argument(
        "--as",
        choices=FORMS,
        dest="form",
        help="the notation to print; default: edge, or operators where inputs' ranks are open. solved: edge, an "
        "iteration as a cascade",
    )
    parser.add_argument("--svg", type=path, metavar="DIR", help="draw it, a frame a pass")
    add_graph_options(parser)
    add_workload_options(parser, sizes=False)


def _graph(chosen: argparse.Namespace) -> int:
    check_writable(chosen, "svg")
    title, computation, _ = completed(chosen.file, chosen)
    with as_usage():
        if chosen.form or not chosen.svg:
            print(_written(computation, chosen.form or _usual_form(computation), title))
        if chosen.svg:
            from eintune.space.pictures.svg import draw

            place, problem = draw(_dot(computation, title), chosen.svg / f"{title}.svg")
            print(problem or place, file=sys.stderr)
    return 0


def _usual_form(computation: Computation) -> str:
    from eintune.space.operators.graph import OperatorGraph

    return "operators" if isinstance(computation, OperatorGraph) and computation.unranked() else "edge"


def _written(computation: Computation, form: str, title: str) -> str:
    from eintune.space.cascade.iterative import IterativeCascade
    from eintune.space.operators.assignments import write_operators
    from eintune.space.operators.cascades import from_cascade
    from eintune.space.operators.egglog_programs import write_egg
    from eintune.space.operators.formats import as_cascade
    from eintune.space.operators.graph import OperatorGraph

    if form == "dot":
        return _dot(computation, title).rstrip("\n")
    if isinstance(computation, IterativeCascade) and form == "edge":
        return str(computation)
    if form in ("edge", "unicode", "solved"):
        return as_cascade(computation).text(unicode=form == "unicode")
    graph = computation if isinstance(computation, OperatorGraph) else from_cascade(as_cascade(computation))
    return write_operators(graph) if form == "operators" else write_egg(graph)


def _dot(computation: Computation, title: str) -> str:
    from eintune.space.cascade.cascade import Cascade
    from eintune.space.cascade.iterative import IterativeCascade
    from eintune.space.operators.one_iteration import one_iteration
    from eintune.space.pictures.cascades import cascade_dot, operators_dot
    from eintune.space.pictures.derivations import LEGEND

    title = f"{title}\n{LEGEND}"
    if isinstance(computation, Cascade):
        return cascade_dot(computation, title)
    return operators_dot(
        one_iteration(computation) if isinstance(computation, IterativeCascade) else computation, title
    )


GRAPH = Command("graph", "a graph in another notation, or as a picture", _options, _graph, GRAPH_HELP, GRAPH_EXAMPLES)

# ---- passes

PASSES_HELP = """\
Analyses a graph: barriers, dependency levels, memory passes over the streamed rank, what runs after the loop; and
what it moves and holds.
"""
PASSES_EXAMPLES = """\
examples:
  eintune passes attention --causal --seq 2048 --heads 32
  eintune passes cascade.edge           EDGE notation
  eintune passes graph.egg              operator notation (M_…, R_…, T_…), or an egglog JSON
  eintune passes graph.json --json -    the same for programs
"""


def _passes_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "graph", metavar="FILE|WORKLOAD", help="a file (.edge, .egg, .json) or a built-in definition's name"
    )
    parser.add_argument("--rank", metavar="R", help="the streamed rank; default: found from the graph")
    add_json(parser)
    add_sizes(parser, "sizes of ranks, for numbers beside the formulas")
    add_graph_options(parser)
    add_workload_options(parser, sizes=True)


def _passes(chosen: argparse.Namespace) -> int:
    from eintune.search.report.space_text import footprint_json, footprint_lines
    from eintune.space.operators.footprint import footprint
    from eintune.space.operators.passes import analyse

    check_writable(chosen, "json")
    _, computation, sizes = completed(chosen.graph, chosen)
    with as_usage():
        report, moved = analyse(computation, chosen.rank), footprint(computation, chosen.rank)
    print(report)
    print("\n" + "\n".join(footprint_lines(moved, sizes)))
    write_json(chosen, {**report.to_json(), **footprint_json(moved, sizes)})
    return 0


PASSES = Command(
    "passes", "barriers, levels and memory passes of a graph", _passes_options, _passes, PASSES_HELP, PASSES_EXAMPLES
)
