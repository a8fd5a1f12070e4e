"""Pruning before the integer program: smaller graphs with the same forms, and bounded growth before that."""

from __future__ import annotations

import itertools
import time

import pytest
from algebra_cases import TEXTS, data_for, every_choice, graph_of, random_choice, value

from eintune.space.cascade.cascade import Cascade
from eintune.space.cascade.traits import Stream, levels, traits, traits_of
from eintune.space.derivation import extraction as extract
from eintune.space.derivation.derive import derive
from eintune.space.derivation.extraction import ExtractionProblem, OutOfTime, forms
from eintune.space.derivation.nominal_cost import WORK_LIMIT, NominalCost
from eintune.space.derivation.pruning import MOST_PRODUCTS, pruned
from eintune.space.egraph.graph import EGraph, Limits, saturate
from eintune.space.ir.expr import Access, Expr, Reduce, Tensor
from eintune.space.laws.laws import laws


def layouts(graph: EGraph, whole: EGraph, streams: list[Stream]) -> dict[object, float]:
    """The least work of each layout (traits and passes) that some choice of nodes has."""
    work, found = NominalCost(whole, streams), {}
    for choice in every_choice(graph):
        total = sum(work(c, n) for c, n in choice.items()) / work.definition()
        made = graph.decode(choice)
        roots = [made[r] for r in graph.roots]
        if total <= WORK_LIMIT:
            key = traits_of(roots, streams), tuple(levels(roots, s) for s in streams)
            found[key] = min(total, found.get(key, total))
    return found


@pytest.mark.parametrize("name", [n for n in TEXTS if n != "products"])
def test_no_layout_is_lost_or_dearer(name: str) -> None:
    text, ranks = TEXTS[name]
    graph, streams = graph_of(text, 2), [Stream(r) for r in ranks]
    assert len(list(itertools.islice(every_choice(graph), 300_000))) < 300_000
    lean = pruned(graph, streams)
    assert set(lean.nodes()) <= set(graph.nodes())
    before, after = layouts(graph, graph, streams), layouts(lean, graph, streams)
    assert after.keys() == before.keys()
    assert all(after[k] <= before[k] + 1e-9 for k in before)


def factors(count: int, ranks: str = "pm") -> list[Expr]:
    names = [f"X{chr(65 + i // 26)}{chr(65 + i % 26)}" for i in range(count)]
    return [Access(Tensor(n, tuple(ranks)), tuple(ranks)) for n in names]


def product(count: int) -> Expr:
    first, *rest = factors(count)
    for x in rest:
        first = first * x
    return first


def test_one_order_of_many_factors_is_left() -> None:
    graph = saturate([product(6)], laws())
    lean = pruned(graph, [])
    assert graph.statistics.nodes > 500
    assert all(len(nodes) == 1 for nodes in lean.classes.values())
    assert len(lean.classes) == 11  # six factors, five products


def test_a_division_keeps_both_its_places() -> None:
    x, y, z = factors(3)
    d = Access(Tensor("D", ("p",)), ("p",))
    streams = [Stream("m")]
    lean = pruned(saturate([Reduce("add", "m", (x / d) * (y * z))], laws()), streams)
    work = NominalCost(lean, streams)
    shown = {t.where for c, n in lean.nodes() for t in traits(n.head, lean.free[c], work.below(n), streams)}
    assert {"inside", "after"} <= shown


def test_a_class_with_too_many_products_keeps_its_nodes() -> None:
    # sums of pairs, each of which may be written in several ways, multiply the sets of factors
    text = "Yp,f = Am,e * Be,p * Cp,m * Dm,f * Gf,e * e^(Hp,m)\n"
    graph = saturate(list(Cascade.parse(text).roots().values()), laws(), (), Limits(steps=6))
    lean = pruned(graph, [Stream("m"), Stream("e")])
    data, scalars = data_for(list(Cascade.parse(text).roots().values()))
    (want,) = (value(r, data, scalars) for r in Cascade.parse(text).roots().values())
    for seed in range(20):
        got = value(lean.decode(random_choice(lean, seed))[lean.roots[0]], data, scalars)
        assert abs(got - want).max() < 1e-9
    assert MOST_PRODUCTS >= 16


@pytest.mark.parametrize("count", [8, 12, 24, 48])
def test_growth_by_order_is_bounded(count: int) -> None:
    start = time.process_time()
    d = derive(Cascade.parse(str(derive_text(count))))
    assert d.statistics.nodes < 10_000
    assert d.statistics.stopped == "arranged"
    assert d.complete
    assert time.process_time() - start < 5  # measured: below 1 s


def derive_text(count: int) -> str:
    return "Yp = " + " * ".join(f"{x.tensor.name}p,m" for x in factors(count) if isinstance(x, Access)) + "\n"


def test_a_search_that_is_cut_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    text, ranks = TEXTS["statistics"]
    graph, streams = graph_of(text, 5), [Stream(r) for r in ranks]
    solve, clock = ExtractionProblem.solve, itertools.count()
    monkeypatch.setattr(extract.time, "process_time", lambda: float(next(clock)))
    found = []
    with pytest.raises(OutOfTime, match="all forms must be found within 2 s"):
        for form in forms(graph, streams, 2.0):
            found.append(form)
    assert len(found) == 1
    monkeypatch.undo()
    assert solve is ExtractionProblem.solve
    assert len(list(forms(graph, streams))) > 1


@pytest.mark.parametrize("reduced", ["Z = Aa,b,c,d,e,f,g,h", "Z = max[a](max[b](max[c](max[d](max[e](Aa,b,c,d,e)))))"])
def test_reductions_over_many_ranks_have_one_order(reduced: str) -> None:
    """Eight ranks can be summed in 40,320 orders, none of them a form of its own; to tell twelve of them apart took
    17 s."""
    assert len(derive(Cascade.parse(reduced)).cascades) == 1
