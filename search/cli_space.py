"""`eintune space`: what may be computed, without a machine in sight."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from .cli_files import read_text
from .cli_options import Command, Usage, add_cache, as_usage, cache_of, path
from .cli_problem import add_workload_options, definition_text, flag_of, given_of
from .cli_sizes import add_sizes

if TYPE_CHECKING:
    from ..space.cascade import Cascade
    from ..space.iterative import IterativeCascade
    from ..space.operators import OperatorGraph

    Computation: TypeAlias = Cascade | IterativeCascade | OperatorGraph

SPACE_HELP = """\
Saturates the naive definition of a workload with general laws and prints the distinct stable cascades that were
extracted, each checked in float64 against the definition.
"""
SPACE_EXAMPLES = """\
examples:
  eintune space attention
  eintune space attention --causal --window 256 --softcap 30
  eintune space softmax --svg pictures/
  eintune space attention --seq 2048 --heads 32                  numbers beside the formulas
  eintune space variance --allow cancellation
  eintune space attention --laws        which laws each cascade needs
  eintune space my.edge                 a cascade of your own, in any notation (docs/notation.md)
"""


def computation_of(name: str, chosen: argparse.Namespace) -> tuple[str, Computation, dict[str, int]]:
    """A workload's naive cascade under the options, or what a file holds; what it is called; and the sizes that the
    options state."""
    from ..host.printable import printable
    from ..space.cascade import Cascade
    from ..space.formats import read_computation
    from ..space.workloads import WORKLOADS

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


# ---- space


def _space_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("workload", metavar="WORKLOAD", help="a built-in definition's name, or a file")
    parser.add_argument("--json", action="store_true", help="an object: `cascades`, each with all that is said of it")
    parser.add_argument("--svg", type=path, metavar="DIR", help="also draw the cascades and the e-graph")
    parser.add_argument("--laws", action="store_true", help="say which laws each cascade needs (derives once a law)")
    parser.add_argument("--stored", action="store_true", help="take the shipped or kept forms where there are any")
    parser.add_argument(
        "--allow",
        metavar="HAZARD",
        action="append",
        default=[],
        help="forms that are refused as unsafe too: overflow, zero, empty, logarithm or cancellation (raw moments)",
    )
    add_sizes(parser, "sizes of ranks, for numbers beside the formulas")
    add_cache(parser)
    add_workload_options(parser, sizes=True)


def _space(chosen: argparse.Namespace) -> int:
    from .derivations import derivations
    from .space_text import space_json, space_text

    if chosen.allow and chosen.laws:
        raise Usage("--laws is said of safe forms: leave --allow or --laws out")
    cache = cache_of(chosen)
    from ..space.formats import as_cascade

    name, computation, sizes = computation_of(chosen.workload, chosen)
    with as_usage():
        definition = as_cascade(computation)
        allowed = frozenset(chosen.allow)
        derived = derivations(definition, cache / "derived", fresh=not chosen.stored, allowed=allowed)
    laws = (
        _needed(definition, [(v.digest.partition("-")[0], v.signature) for v in derived.variants])
        if chosen.laws
        else None
    )
    if chosen.svg:
        _draw(name, definition, chosen.svg)
    if chosen.json:
        print(json.dumps(space_json(name, definition, derived, sizes, laws), indent=1, default=str))
    else:
        print(space_text(name, definition, derived, sizes, laws))
    return 0


def _needed(definition: Cascade, variants: Sequence[tuple[str, str]]) -> list[tuple[str, ...]]:
    """The laws that each variant (its digest and signature) needs."""
    from ..space.causes import needed_laws
    from ..space.derive import derive

    derivation = derive(definition)
    laws = needed_laws(derivation, lambda law: print(f"without {law} …", file=sys.stderr))
    found = {(d.digest, d.signature): needed for d, needed in zip(derivation.cascades, laws, strict=True)}
    return [found[v] for v in variants]


def _draw(name: str, definition: Cascade, folder: Path) -> None:
    from ..space.derive import derive
    from ..space.pictures import draw_derivation

    folder.mkdir(parents=True, exist_ok=True)
    for line in draw_derivation(name, derive(definition), folder):
        print(line, file=sys.stderr)


SPACE = Command("space", "the cascades that general laws derive", _space_options, _space, SPACE_HELP, SPACE_EXAMPLES)
