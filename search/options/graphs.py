"""A graph or a cascade in a file, as a command is given it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from .command import Options, Usage, as_usage
from .files import read_text
from .problem import definition_text, flag_of, given_of

if TYPE_CHECKING:
    from eintune.search.tune.derivations import Variant
    from eintune.space.cascade.problem import Problem
    from eintune.space.operators.formats import Computation


def computation_of(name: str, chosen: argparse.Namespace) -> tuple[str, Computation, dict[str, int]]:
    """A workload's naive cascade under the options, or what a file holds; what it is called; and the sizes that the
    options state."""
    from eintune.host.printable import printable
    from eintune.space.cascade.cascade import Cascade
    from eintune.space.operators.formats import read_computation
    from eintune.space.workloads.builtin import WORKLOADS

    stated = dict(getattr(chosen, "sizes", {}))
    if name in WORKLOADS:
        text, sizes = definition_text(name, chosen)
        return name, Cascade.parse(text), sizes | stated
    if not Path(name).is_file():
        raise Usage(f"WORKLOAD must be a file or one of {', '.join(WORKLOADS)}, but got {name!r}")
    if given := given_of(chosen):
        raise Usage(f"a file is the whole definition, but got {', '.join(map(flag_of, given))} too")
    with as_usage():
        return printable(Path(name).stem), read_computation(read_text(Path(name))), stated


def add_graph_options(parser: Options) -> None:
    """What completes a graph: ranks of inputs, and axes for the whole of it."""
    parser.add_argument(
        "--ranks", action="append", default=[], metavar="Q=e,p", help="of an input whose ranks the file does not say"
    )
    parser.add_argument(
        "--over", metavar="b,h", help="the same for every index of these new ranks, the first axes of all"
    )


def completed(name: str, chosen: argparse.Namespace) -> tuple[str, Computation, dict[str, int]]:
    """The computation that the options name, with what they add to it; what it is called; the sizes that they state."""
    from eintune.space.cascade.over import over
    from eintune.space.operators.formats import as_cascade, rank_list, stated_sizes, with_ranks

    title, given, sizes = computation_of(name, chosen)
    with as_usage():
        given = with_ranks(given, {n: rank_list(n, ranks) for n, ranks in map(_named, chosen.ranks)})
        sizes = stated_sizes(given, sizes)
        return title, over(as_cascade(given), rank_list("--over", chosen.over)) if chosen.over else given, sizes


def _named(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"--ranks must be a name with its ranks, such as Q=e,p, but got {text!r}")
    return name.strip(), value


# ---- posed as a problem


def add_problem_options(parser: Options) -> None:
    """What makes a problem of a graph, besides its --sizes and --params."""
    parser.add_argument(
        "--derive", action="store_true", help="all cascades that the laws derive of FILE, not itself alone"
    )
    add_graph_options(parser)


def graph_problem(chosen: argparse.Namespace, dtype: str, cache: Path) -> tuple[str, Problem, tuple[Variant, ...]]:
    """The problem that FILE and the options state, its title, and the cascades to choose from: FILE's own graph, or
    with --derive all that it derives."""
    from eintune.kernels.generate.generate import check_sizes, problem_of
    from eintune.search.tune.derivations import derivations, written
    from eintune.space.operators.formats import as_cascade

    title, computation, stated = completed(chosen.file, chosen)
    with as_usage():
        definition = as_cascade(computation)
        problem = problem_of(definition, stated, chosen.params, chosen.dtype or dtype, title)
        check_sizes(computation, definition, stated)
        variants = derivations(definition, cache / "derived").variants if chosen.derive else (written(definition),)
    sizes = ", ".join(f"{r}={n}" for r, n in problem.sizes.items())
    return f"{title}: {sizes}, {chosen.dtype or dtype}", problem, variants
