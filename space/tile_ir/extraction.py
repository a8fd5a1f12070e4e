"""The cheapest ways through a tile graph, by integer programming: one node a class, each class paid for once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TypeAlias

import pulp

from eintune.space.derivation.solver import solve, solver

from .graph import TileGraph, TileNode

Choice: TypeAlias = dict[str, TileNode]
"""The node chosen for each class that the result needs, the result's class first."""

SECONDS = 10.0
"""Time for one answer; tile graphs have tens of nodes."""
TOLERANCE = 1e-6
"""Relative difference below which two totals are equal."""


def cheapest(graph: TileGraph, cost: Mapping[tuple[str, TileNode], float], limit: int = 16) -> list[Choice]:
    """Every optimal choice, each once, at most `limit` of them; raises ValueError if there is none.

    cost: what each node costs if it is chosen (not negative).
    """
    found: list[Choice] = []
    best = None
    for choice in _in_order(graph, cost):
        total = sum(cost[c, n] for c, n in choice.items())
        best = total if best is None else best
        if total > best * (1 + TOLERANCE) or len(found) == limit:
            break
        found.append(choice)
    if not found:
        raise ValueError(f"tile graph: no node can be chosen for class {graph.root}")
    return found


def _in_order(graph: TileGraph, cost: Mapping[tuple[str, TileNode], float]) -> Iterator[Choice]:
    """Choices by rising cost; each answer is cut before the next."""
    model = pulp.LpProblem("tiles", pulp.LpMinimize)
    node = {key: model.add_variable(f"x{i}", cat="Binary") for i, key in enumerate(graph.nodes)}
    place = {c: model.add_variable(f"o{i}", 0, len(graph.classes)) for i, c in enumerate(graph.classes)}
    model += pulp.lpSum(cost[key] * x for key, x in node.items())
    model += pulp.lpSum(node[graph.root, n] for n in graph.classes[graph.root]) == 1
    for (c, n), x in node.items():
        for child in dict.fromkeys(n.children):
            model += x <= pulp.lpSum(node[child, k] for k in graph.classes.get(child, ()))
            # a class comes after what it is made of, so that no choice is a cycle
            model += place[c] - place[child] >= 1 - (len(graph.classes) + 1) * (1 - x)
    for nodes in graph.classes.values():
        model += pulp.lpSum(x for (c, n), x in node.items() if graph.classes[c] is nodes) <= 1
    engine = solver(SECONDS)
    while True:
        if solve(model, engine) != "optimal":
            return
        picked = {c: n for (c, n), x in node.items() if (x.value() or 0) > 0.5}
        choice = _needed(picked, graph.root)
        yield choice
        model += pulp.lpSum(1 - node[c, n] for c, n in choice.items()) >= 1


def _needed(picked: Mapping[str, TileNode], root: str) -> Choice:
    needed, queue = {root: picked[root]}, [root]
    for c in queue:
        for child in picked[c].children:
            if child not in needed:
                needed[child] = picked[child]
                queue.append(child)
    return needed
