"""Saturation: sound (random terms equal the definition), bounded, reported, and killed when it runs away."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence

import numpy as np
import pytest
from algebra_cases import data_for, random_choice, value

from eintune.space.egraph import HOLE, EGraph, Limits, SaturationError, saturate
from eintune.space.expr import Access, Expr, Map, Param, Reduce, Tensor, Where, topological
from eintune.space.laws import Law, SplitOf, laws, variable
from eintune.space.safety import safe_part
from eintune.space.workloads import WORKLOADS, attention

SPLIT = SplitOf("m", "m1", "m0")
DRAWN_ELSEWHERE = {"attention", "gemm", "linear", "same_operand", "six_operators"}
"""Attention has a test of its own; in the others the laws find one term here, or their sizes are not ours."""


def graph_of(roots: Sequence[Expr], *, reference: bool = False, without: frozenset[str] = frozenset()) -> EGraph:
    filters = {(x.predicate, x.fill): None for x in topological(roots) if isinstance(x, Where)}
    return saturate(roots, laws([SPLIT], filters, reference=reference, without=without), [SPLIT])


def sampled(roots: Sequence[Expr], graph: EGraph, draws: int) -> int:
    """Draws terms and compares each with the definition; returns how many different ones there were."""
    data, scalars = data_for(roots)
    wanted = [value(r, data, scalars) for r in roots]
    seen: set[Expr] = set()
    for seed in range(draws):
        made = graph.decode(random_choice(graph, seed))
        for root, want in zip(graph.roots, wanted, strict=True):
            term = made[root]
            if term not in seen:
                seen.add(term)
                got = value(term, data, scalars)
                np.testing.assert_allclose(got, want, rtol=1e-7, atol=1e-10)
    return len(seen)


def test_random_terms_equal_the_definition() -> None:
    roots = list(attention().roots().values())
    assert sampled(roots, graph_of(roots), 800) > 300


def test_random_safe_terms_equal_a_filtered_definition() -> None:
    # whole tiles are filtered: an unsafe term divides by their factor, exp(-inf)
    roots = list(attention(causal="top_left").roots().values())
    safe, unstable = safe_part(graph_of(roots))
    assert not unstable
    assert sampled(roots, safe, 200) > 60


@pytest.mark.parametrize("name", sorted(set(WORKLOADS) - DRAWN_ELSEWHERE))
def test_random_terms_of_each_workload(name: str) -> None:
    roots = list(WORKLOADS[name]().roots().values())
    assert sampled(roots, graph_of(roots), 20) > 1


def test_random_terms_with_the_law_that_adds_a_reference() -> None:
    roots = list(WORKLOADS["softmax"]().roots().values())
    assert sampled(roots, graph_of(roots, reference=True), 40) > 5


@pytest.mark.soak
@pytest.mark.parametrize("causal", [None, "top_left", "lower_right"])
def test_many_random_terms(causal: str | None) -> None:
    roots = list(attention(causal=causal, grouped=True).roots().values())
    graph = graph_of(roots)
    sampled(roots, graph if causal is None else safe_part(graph)[0], 2000)


def test_saturates_quickly_and_says_what_it_did() -> None:
    roots = list(attention(causal="lower_right", grouped=True).roots().values())
    start = time.monotonic()
    graph = graph_of(roots)
    assert graph.statistics.seconds < 3
    assert graph.statistics.stopped in ("saturated", "steps")
    assert graph.statistics.matches["composite-fold"] > 0
    assert graph.statistics.matches["split"] > 0
    assert 100 < graph.statistics.nodes < 2000
    assert time.monotonic() - start < 20  # with the start of the process, on a busy machine


def test_the_definition_is_in_its_graph() -> None:
    roots = list(attention(causal="top_left").roots().values())
    graph = graph_of(roots)
    assert graph.familiar <= set(graph.nodes())
    assert graph.roots == tuple(graph.defined[r] for r in roots)
    # what is free in a class is free in each of its members
    assert all(graph.free[c] <= {"b", "h", "p", "m", "m1", "m0", "e", "f"} for c in graph.classes)


def test_json_is_plain_data() -> None:
    roots = list(WORKLOADS["softmax"]().roots().values())
    data = json.loads(json.dumps(graph_of(roots).to_json()))
    assert set(data) == {"roots", "classes", "statistics"}
    nodes = [n for c in data["classes"].values() for n in c["nodes"]]
    assert {"op": "X[p,m]", "children": []} in nodes
    assert any(n["op"] == "F_scale_m" for n in nodes)
    assert all(k in data["classes"] for n in nodes for k in n["children"])


def test_stops_at_its_bounds() -> None:
    roots = list(attention().roots().values())
    table = laws([SPLIT])
    assert saturate(roots, table, [SPLIT], Limits(steps=3)).statistics.steps == 3
    few = saturate(roots, table, [SPLIT], Limits(rows=60)).statistics
    assert few.stopped == "rows"
    assert few.steps < 6
    with pytest.raises(ValueError, match="`rows` must be greater than 0, but got 0"):
        Limits(rows=0)


def test_a_step_that_runs_away_is_killed() -> None:
    a, b = variable("a"), variable("b")
    growing = [Law("growing", a * b, (a * Map("exp", (b,))) * (b * Map("exp", (a,))))]
    limits = Limits(steps=10_000, rows=10**12, seconds=10**6, timeout=2.5)
    roots = list(attention().roots().values())
    start = time.monotonic()
    with pytest.raises(SaturationError, match=r"saturation must end within 2.5 s, but was killed .*`steps` \(10000\)"):
        saturate(roots, growing, [], limits)
    assert time.monotonic() - start < 15


def test_a_program_that_the_engine_refuses_is_one_line() -> None:
    unbound = Law("unbound", variable("a") * variable("b"), variable("z"))
    with pytest.raises(SaturationError, match="the saturating process ended with code") as error:
        saturate(list(attention().roots().values()), [unbound])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("factor", "moves"), [(0.125, True), (-0.125, False), (Param("scale"), False)])
def test_a_factor_leaves_a_maximum_only_if_it_is_positive(factor: float | Param, moves: bool) -> None:
    x = Access(Tensor("X", ("p", "m")), ("p", "m"))
    root = Reduce("max", "m", x * factor)
    graph = saturate([root], laws())
    outside = [n for n in graph.classes[graph.roots[0]] if n.head == Map("mul", (HOLE, HOLE))]
    assert bool(outside) == moves
