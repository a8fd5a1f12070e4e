"""The pictures of a derivation: the definition, every form, the e-graph, and the e-graph with costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from eintune.space.derivation.derive import Derivation, class_names
from eintune.space.derivation.nominal_cost import NominalCost

from .cascades import cascade_dot
from .egraphs import egraph_dot
from .svg import draw

LEGEND = "orange: must see all of the rank; a dashed arrow: computed again"


def pictures(name: str, derivation: Derivation) -> Mapping[str, str]:
    """File names without suffix, and DOT text."""
    found = {f"{name}-definition": cascade_dot(derivation.definition, f"{name}: the definition\n{LEGEND}")}
    for i, d in enumerate(derivation.cascades, 1):
        found[f"{name}-{i}-{d.passes}-pass"] = cascade_dot(d.cascade, f"{name}: {d.description}\n{LEGEND}")
    names = class_names(derivation.definition, derivation.graph)
    choices = [f.choice for f in derivation.forms]
    graph, safe = derivation.graph, derivation.safe
    title = (
        f"{name}: {len(graph.classes)} classes with {sum(map(len, graph.classes.values()))} nodes; "
        f"drawn is what the {len(choices)} forms use\na box is a value, a row is one way to compute it"
    )
    found[f"{name}-egraph"] = egraph_dot(graph, choices, names=names, title=title)
    work = NominalCost(safe, derivation.streams)
    scale = 100 / work.definition()
    title = (
        f"{name}: the best form in green, by passes, then work\n"
        "a box is a value, a row is one way to compute it, with its work in percent of the definition's"
    )
    found[f"{name}-egraph-costs"] = egraph_dot(
        safe, choices, names=names, title=title, cost=lambda c, n: work(c, n) * scale, green=True
    )
    return found


def draw_derivation(name: str, derivation: Derivation, folder: Path) -> Sequence[str]:
    """Draw everything into `folder`; returns what to tell the user: each file, or why there is none."""
    told = []
    for stem, dot in pictures(name, derivation).items():
        path, problem = draw(dot, folder / f"{stem}.svg")
        told.append(problem or str(path))
    return told
