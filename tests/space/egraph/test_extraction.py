"""The integer program against brute force over every choice of nodes, on graphs small enough for it."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import pulp
import pytest
from algebra_cases import TEXTS, every_choice, graph_of

from eintune.space.cascade.cascade import Cascade
from eintune.space.cascade.traits import Stream, levels, traits_of
from eintune.space.derivation.extraction import PASS_WEIGHT, ExtractionProblem, Form, components, forms
from eintune.space.derivation.nominal_cost import WORK_LIMIT, NominalCost
from eintune.space.derivation.pruning import pruned
from eintune.space.derivation.solver import ExtractionError, solver
from eintune.space.egraph.graph import ClassId, EGraph, Node


def price(graph: EGraph, streams: Sequence[Stream], choice: Mapping[ClassId, Node]) -> tuple[float, float]:
    work = NominalCost(graph, streams)
    total = sum(work(c, n) for c, n in choice.items()) / work.definition()
    made = graph.decode(choice)
    roots = [made[r] for r in graph.roots]
    return PASS_WEIGHT * sum(levels(roots, s) for s in streams) + total, total


@pytest.mark.parametrize("name", TEXTS)
def test_the_best_form_is_the_best_of_all(name: str) -> None:
    text, ranks = TEXTS[name]
    graph = graph_of(text, 2)
    streams = [Stream(r) for r in ranks]
    problem = ExtractionProblem(pruned(graph, streams), streams)
    assert 1 <= len(list(itertools.islice(every_choice(problem.graph), 200_000))) < 200_000
    prices = [price(problem.graph, streams, c) for c in every_choice(problem.graph)]
    best = min(total for total, work in prices if work <= WORK_LIMIT)
    form = problem.solve(20.0)
    assert form is not None
    assert price(problem.graph, streams, form.choice)[0] == pytest.approx(best, rel=1e-6)


def dominated(a: Form, b: Form) -> bool:
    """Whether `a`, which came earlier, forbids `b`."""
    work_a, work_b = ({t for t in f.traits if t.work} for f in (a, b))
    return work_a <= work_b and a.traits - work_a == b.traits - work_b


@pytest.mark.parametrize("name", TEXTS)
def test_answers_come_in_order_and_none_is_dominated(name: str) -> None:
    text, ranks = TEXTS[name]
    graph = graph_of(text, 5)
    streams = [Stream(r) for r in ranks]
    found = list(forms(graph, streams))
    assert found
    counts = [sum(f.passes.values()) for f in found]
    assert counts == sorted(counts)
    for i, b in enumerate(found):
        made = graph.decode(b.choice)
        roots = [made[r] for r in graph.roots]
        assert traits_of(roots, streams) == b.traits
        assert {s.rank: levels(roots, s) for s in streams} == dict(b.passes)
        assert not any(dominated(a, b) for a in found[:i])


def test_every_layout_that_brute_force_finds_is_found_or_dominated() -> None:
    text, ranks = TEXTS["quotient"]
    graph = graph_of(text, 2)
    streams = [Stream(r) for r in ranks]
    problem = ExtractionProblem(pruned(graph, streams), streams)
    found = list(forms(graph, streams))
    for choice in every_choice(problem.graph):
        if price(problem.graph, streams, choice)[1] > WORK_LIMIT:
            continue
        made = problem.graph.decode(choice)
        roots = [made[r] for r in problem.graph.roots]
        here = Form(choice, {}, traits_of(roots, streams), 0.0)
        inside = {t for t in here.traits if t.kind == "division"}
        rest = here.traits - inside
        assert any(dominated(f, here) or {t for t in f.traits if t.kind != "division"} == rest for f in found)


def test_components_are_those_of_the_graph() -> None:
    roots = list(Cascade.parse(TEXTS["products"][0]).roots().values())
    graph = EGraph.of(roots)
    assert len(set(components(graph).values())) == len(graph.classes)  # a definition has no cycle
    cyclic = graph_of(TEXTS["quotient"][0], 5)
    found = components(cyclic)

    def reach(c: ClassId) -> set[ClassId]:
        seen, stack = set(), [c]
        while stack:
            for k in (k for n in cyclic.classes[stack.pop()] for k in n.children):
                if k not in seen:
                    seen.add(k)
                    stack.append(k)
        return seen

    below = {c: reach(c) for c in cyclic.classes}
    for a, b in itertools.combinations(cyclic.classes, 2):
        assert (found[a] == found[b]) == (b in below[a] and a in below[b])


@pytest.mark.filterwarnings("ignore:PULP_CBC_CMD is deprecated")
def test_without_highs_cbc_finds_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = graph_of(TEXTS["statistics"][0], 5)
    streams = [Stream("m")]
    found = list(forms(graph, streams))
    monkeypatch.setattr(pulp.HiGHS, "available", lambda self: False)
    try:
        assert "HiGHS" not in type(solver(1.0)).__name__
    except ExtractionError:
        pytest.skip("there is no CBC on this machine")
    other = list(forms(graph, streams))
    assert [(f.passes, f.traits, round(f.work, 6)) for f in other] == [
        (f.passes, f.traits, round(f.work, 6)) for f in found
    ]
