"""The layouts of a graph: what dynamic programming finds, against the integer program over the whole graph."""

from __future__ import annotations

import itertools

import pytest
from algebra_cases import TEXTS, graph_of

from eintune.space.cascade.cascade import Cascade
from eintune.space.cascade.traits import Stream
from eintune.space.derivation import extraction as extract
from eintune.space.derivation import layouts
from eintune.space.derivation.derive import derive
from eintune.space.derivation.extraction import ExtractionProblem, forms
from eintune.space.derivation.pruning import pruned
from eintune.space.egraph.graph import EGraph
from eintune.space.workloads.builtin import softmax


@pytest.mark.parametrize("name", TEXTS)
def test_each_form_has_its_layout_or_one_that_dominates_it(name: str) -> None:
    text, ranks = TEXTS[name]
    streams = [Stream(r) for r in ranks]
    graph = pruned(graph_of(text, 5), streams)
    known = layouts.layouts(graph, streams)
    assert known is not None
    assert [x.passes for x in known] == sorted(x.passes for x in known)
    problem = ExtractionProblem(graph, streams)
    while form := problem.solve(20.0):
        shown = {t for t in form.traits if not t.work}
        assert any(
            x.traits <= form.traits
            and {t for t in x.traits if not t.work} == shown
            and x.passes <= sum(form.passes.values())
            for x in known
        )
        problem.forbid(form)


@pytest.mark.parametrize("name", TEXTS)
def test_layout_by_layout_the_best_is_the_best(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text, ranks = TEXTS[name]
    streams = [Stream(r) for r in ranks]
    graph = graph_of(text, 5)
    whole = list(forms(graph, streams))
    monkeypatch.setattr(extract, "LARGE", 0)
    found = list(forms(graph, streams))
    assert sum(found[0].passes.values()) == sum(whole[0].passes.values())
    assert min(f.work for f in found) == pytest.approx(min(f.work for f in whole))
    for a, b in itertools.combinations(found, 2):
        assert a.traits != b.traits


def test_a_definition_alone_has_one_layout() -> None:
    roots = list(softmax().roots().values())
    (only,) = layouts.layouts(EGraph.of(roots), [Stream("m")]) or ()
    assert only.passes == 3


def test_where_there_are_too_many_the_whole_graph_is_one_program(monkeypatch: pytest.MonkeyPatch) -> None:
    text, ranks = TEXTS["statistics"]
    streams = [Stream(r) for r in ranks]
    monkeypatch.setattr(extract, "LARGE", 0)
    with monkeypatch.context() as few:
        few.setattr(layouts, "MOST_PAIRS", 0)
        assert layouts.layouts(pruned(graph_of(text, 5), streams), streams) is None
    monkeypatch.setattr(layouts, "MOST_LAYOUTS", 0)
    assert layouts.layouts(pruned(graph_of(text, 5), streams), streams) is None
    assert len(list(forms(graph_of(text, 5), streams))) > 1


def test_a_form_goes_over_no_more_ranks_at_once_than_its_definition() -> None:
    # W and V could be multiplied first: a product over m, f and g for each p, where no sum is that wide
    text = "Sp,m = Qp,e * Km,e\nOp,f = Sp,m * Vm,f\nRp = sqrt(sum[f](Op,f * Op,f) + 1)\nYp,g = sum[f](Op,f / Rp * Wf,g)"
    for d in derive(Cascade.parse(text)).cascades:
        assert all(len({*e.output.ranks}) <= 3 for e in d.cascade.einsums)
