"""`eintune space`: what may be computed, without a machine in sight."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from eintune.search.options.command import Command, Usage, add_cache, as_usage, cache_of, path
from eintune.search.options.documents import add_json, write_json
from eintune.search.options.files import check_writable
from eintune.search.options.graphs import computation_of
from eintune.search.options.problem import add_workload_options
from eintune.search.options.sizes import add_sizes

if TYPE_CHECKING:
    from eintune.space.cascade.cascade import Cascade
    from eintune.space.cascade.iterative import IterativeCascade
    from eintune.space.cascade.signature import Signature
    from eintune.space.operators.graph import OperatorGraph

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
  eintune space attention --causal --backward                    its gradient: residuals and stages
  eintune space attention --laws        which laws each cascade needs
  eintune space my.edge                 a cascade of your own, in any notation (docs/notation.md)
"""


# ---- space


def _space_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("workload", metavar="WORKLOAD", help="a built-in definition's name, or a file")
    add_json(parser)
    parser.add_argument("--svg", type=path, metavar="DIR", help="also draw the cascades and the e-graph")
    parser.add_argument(
        "--backward",
        action="store_true",
        help="also what the forward hands over to its gradient, and the cascades of each stage of that",
    )
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
    from eintune.search.report.space_text import space_json, space_text
    from eintune.search.tune.derivations import derivations

    if chosen.allow and chosen.laws:
        raise Usage("--laws is said of safe forms: leave --allow or --laws out")
    check_writable(chosen, "svg", "json")
    cache = cache_of(chosen)
    from eintune.space.operators.formats import as_cascade

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
    print(space_text(name, definition, derived, sizes, laws))
    found = space_json(name, definition, derived, sizes, laws)
    if chosen.backward:
        found["backward"] = _backward(name, definition, sizes, chosen)
    write_json(chosen, found)
    return 0


def _backward(name: str, definition: Cascade, sizes: dict[str, int], chosen: argparse.Namespace) -> dict[str, object]:
    """Print what a gradient takes: residuals and stages, each with its cascades. Raises Usage for a definition without
    one."""
    from eintune.search.report.space_text import space_json, space_text
    from eintune.search.tune.derivations import derivations
    from eintune.space.gradients.training import training

    with as_usage():
        step = training(definition)
    handed = {n: step.forward.outputs[n].ranks for n in step.residuals}
    says = ", ".join(f"{n}[{','.join(ranks)}]" for n, ranks in handed.items()) or "nothing but its results"
    print(f"\nto its gradient the forward hands over {says}\n\n{step.forward}")
    found = []
    for n, stage in enumerate(step.stages, 1):
        title = f"{name}, gradient {n} of {len(step.stages)}: {', '.join(stage.outputs)}"
        derived = derivations(stage, cache_of(chosen) / "derived", fresh=not chosen.stored)
        known = {r: sizes[r] for r in stage.ranks() if r in sizes}
        print(f"\n{space_text(title, stage, derived, known, None)}")
        found.append(space_json(title, stage, derived, known, None))
    return {"residuals": {n: list(ranks) for n, ranks in handed.items()}, "stages": found}


def _needed(definition: Cascade, variants: Sequence[tuple[str, Signature]]) -> list[tuple[str, ...]]:
    """The laws that each variant (its digest and signature) needs."""
    from eintune.space.derivation.derive import derive
    from eintune.space.derivation.needed_laws import needed_laws

    derivation = derive(definition)
    laws = needed_laws(derivation, lambda law: print(f"without {law} …", file=sys.stderr))
    found = {(d.digest, d.signature): needed for d, needed in zip(derivation.cascades, laws, strict=True)}
    return [found[v] for v in variants]


def _draw(name: str, definition: Cascade, folder: Path) -> None:
    from eintune.space.derivation.derive import derive
    from eintune.space.pictures.derivations import draw_derivation

    folder.mkdir(parents=True, exist_ok=True)
    for line in draw_derivation(name, derive(definition), folder):
        print(line, file=sys.stderr)


SPACE = Command("space", "the cascades that general laws derive", _space_options, _space, SPACE_HELP, SPACE_EXAMPLES)
